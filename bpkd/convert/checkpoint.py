"""Reads checkpoint files of several projects without executing anything in them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """A file's weights and what it says about them."""

    state: dict[str, Tensor]
    classes: tuple[str, ...] | None
    layout: str


def read_checkpoint(path: str, *, source: str = "weights") -> Checkpoint:
    """Reads a file in one of the known layouts.

    Known are ours and Detectron2's (``{"model": ..., "bpkd": ...}``), OpenMMLab's (``{"state_dict": ..., "meta":
    ...}``) and a bare state dict. The prefix ``module.`` of DistributedDataParallel is removed.

    Args:
        path: file.
        source: where the path comes from, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds more than tensors and plain values, or no weights.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{source}: expected a checkpoint file, got {path!r}: no such file.")
    data = load_safely(path, source=source)
    state, classes, layout = _split(data)
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if state else {}
    if not tensors or len(tensors) != len(state):
        keys = ", ".join(map(str, list(data)[:8])) if isinstance(data, Mapping) else type(data).__name__
        raise ValueError(
            f"{source}: expected a state dict under 'model' or 'state_dict', or alone, got {keys} in {path}."
        )
    return Checkpoint(_without_prefix(tensors, "module."), classes, layout)


def load_safely(path: str, *, source: str = "weights") -> Any:
    """Loads a file of tensors and plain values; nothing in it is executed.

    Raises:
        ValueError: the file is damaged or holds other Python objects.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on damaged files, KeyError and IndexError among them
        blocked = re.search(r"(?:GLOBAL|global) `?([\w.]+)`?", str(error))
        why = f"it holds the Python object {blocked[1]}, which is not loaded" if blocked else "the file is damaged"
        raise ValueError(
            f"{source}: {path} cannot be read as a checkpoint of tensors and plain values: {why}. Save its state dict "
            "alone with torch.save, or use another copy."
        ) from error


def _split(data: Any) -> tuple[Mapping[str, Any], tuple[str, ...] | None, str]:
    if not isinstance(data, Mapping):
        return {}, None, "unknown"
    if isinstance(data.get("model"), Mapping):
        meta = data.get("bpkd")
        return data["model"], _names(meta, "classes"), "bpkd" if meta else "Detectron2"
    if isinstance(data.get("state_dict"), Mapping):
        meta = data.get("meta")
        inner = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
        names = _names(meta, "CLASSES") or _names(inner, "classes") or _names(inner, "CLASSES")
        return data["state_dict"], names, "OpenMMLab"
    return data, None, "state dict"


def _names(meta: Any, key: str) -> tuple[str, ...] | None:
    value = meta.get(key) if isinstance(meta, Mapping) else None
    return tuple(str(v) for v in value) if isinstance(value, (list, tuple)) and value else None


def _without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if not all(key.startswith(prefix) for key in state):
        return state
    return {key[len(prefix) :]: value for key, value in state.items()}
