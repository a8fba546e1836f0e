"""Reads checkpoint files of several projects without executing anything in them."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .torchfile import is_tar, read_restricted
from .unpickle import Placeholder

logger = logging.getLogger(__name__)

# mmrazor's distillation checkpoints: the student, and what is there for the distillation alone.
STUDENT_PREFIX = "architecture."
DISTILLATION_PREFIXES = ("teacher.", "distiller.")
TAR = "it is in the tar format of PyTorch before 0.1.10"


@dataclass(frozen=True)
class Checkpoint:
    """A file's weights and metadata."""

    state: dict[str, Tensor]
    classes: tuple[str, ...] | None
    layout: str
    """Project that wrote the file."""

    palette: tuple[tuple[int, ...], ...] | None = None
    """Colour of each class, None if the file states none."""

    meta: Mapping[str, Any] = field(default_factory=dict)
    """What a file of ours says about itself (its entry ``bpkd``)."""

    left_out: tuple[str, ...] = ()
    """Weights of the teacher and the losses in a distillation checkpoint; ``state`` holds the student alone."""

    replaced: tuple[str, ...] = ()
    """Python classes in the file that were not loaded."""


def read_checkpoint(path: str, *, source: str = "weights") -> Checkpoint:
    """Reads a file in one of the known layouts.

    Known are ours and Detectron2's (``{"model": ..., "bpkd": ...}``), OpenMMLab's (``{"state_dict": ..., "meta":
    ...}``), mmrazor's distillation checkpoints, of which the student is taken, and a bare state dict. The prefix
    ``module.`` of DistributedDataParallel is removed. Training checkpoints of OpenMMLab 1.x, which hold objects of
    Python classes, are read by `read_restricted`, which replaces these by placeholders.

    Args:
        path: file.
        source: Option or key that the path comes from, for messages.

    Returns:
        The weights in the file's order, and what the file says about itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds no weights or such that are not finite.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{source}: expected a checkpoint file, got {path!r}: no such file.")
    data, replaced = _load(path, source)
    state, names, palette, layout = _split(data)
    blocked = next((v for v in (data, *state.values()) if isinstance(v, Placeholder)), None) or _blocked(data)
    if blocked is not None:
        raise ValueError(_unreadable(path, source, f"it holds the Python object {blocked.name}, which is not loaded"))
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors or len(tensors) != len(state):
        keys = ", ".join(map(str, list(data)[:8])) if isinstance(data, Mapping) else type(data).__name__
        raise ValueError(
            f"{source}: expected a state dict under 'model' or 'state_dict', or alone, got {keys} in {path}."
        )
    broken = [k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise ValueError(
            f"{source}: {path} holds {len(broken)} weights that are not finite, first {broken[0]}. The training that "
            "wrote it went wrong, or the file was changed: use an earlier checkpoint or another copy."
        )
    student, left_out = _student(_without_prefix(tensors, "module."))
    if left_out:
        logger.info("%s %s: took the student, left out %d weights of the distillation.", source, path, len(left_out))
    meta = data.get("bpkd") if layout == "bpkd" else {}
    return Checkpoint(student, names, layout, palette, meta if isinstance(meta, Mapping) else {}, left_out, replaced)


def load_safely(path: str, *, source: str = "weights") -> Any:
    """Loads a file of tensors and plain values; nothing in it is executed.

    Raises:
        ValueError: the file is damaged or holds other Python objects.
    """
    try:
        if is_tar(path):
            raise ValueError(TAR)
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on damaged files, KeyError and IndexError among them
        blocked = re.search(r"(?:GLOBAL|global) `?([\w.]+)`?", str(error))
        why = f"it holds the Python object {blocked[1]}, which is not loaded" if blocked else "the file is damaged"
        why = TAR if TAR in str(error) else why
        raise ValueError(_unreadable(path, source, why)) from error


def _check_sums(path: str) -> None:
    """Raises ValueError where a zip file's contents are not those that were written: torch.load does not look."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise ValueError("checksum")


def _load(path: str, source: str) -> tuple[Any, tuple[str, ...]]:
    try:
        return load_safely(path, source=source), ()
    except ValueError as refusal:
        try:
            data, replaced = read_restricted(path)
        except ValueError:
            raise refusal from None
    shown = ", ".join(replaced[:6]) + (", ..." if len(replaced) > 6 else "")
    logger.info("%s %s: read without the Python objects in it (%s).", source, path, shown)
    return data, replaced


def _unreadable(path: str, source: str, why: str) -> str:
    return (
        f"{source}: {path} cannot be read as a checkpoint of tensors and plain values: {why}. Save its state dict "
        "alone with torch.save, or use another copy."
    )


def _blocked(data: Any) -> Placeholder | None:
    """Returns a placeholder where the state dict should be."""
    found = [data.get(key) for key in ("model", "state_dict")] if isinstance(data, Mapping) else []
    return next((value for value in found if isinstance(value, Placeholder)), None)


def _split(
    data: Any,
) -> tuple[Mapping[Any, Any], tuple[str, ...] | None, tuple[tuple[int, ...], ...] | None, str]:
    if not isinstance(data, Mapping):
        return {}, None, None, "unknown"
    if isinstance(data.get("model"), Mapping):
        meta = data.get("bpkd")
        return data["model"], _names(meta, "classes"), _colors(meta, "palette"), "bpkd" if meta else "Detectron2"
    if isinstance(data.get("state_dict"), Mapping):
        meta = data.get("meta")
        inner = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
        names = _names(meta, "CLASSES") or _names(inner, "classes") or _names(inner, "CLASSES")
        colors = _colors(meta, "PALETTE") or _colors(inner, "palette") or _colors(inner, "PALETTE")
        return data["state_dict"], names, colors, "OpenMMLab"
    return data, None, None, "state dict"


def _names(meta: Any, key: str) -> tuple[str, ...] | None:
    value = meta.get(key) if isinstance(meta, Mapping) else None
    plain = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
    return tuple(value) or None if plain else None  # type: ignore[arg-type]


def _colors(meta: Any, key: str) -> tuple[tuple[int, ...], ...] | None:
    value = meta.get(key) if isinstance(meta, Mapping) else None
    if not isinstance(value, (list, tuple)) or not all(isinstance(c, (list, tuple)) and len(c) == 3 for c in value):
        return None
    if not all(isinstance(v, int) for color in value for v in color):
        return None
    return tuple(tuple(color) for color in value) or None


def _student(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Takes the student out of mmrazor's distillation checkpoints; other state dicts stay as they are."""
    if not any(key.startswith(STUDENT_PREFIX) for key in state):
        return state, ()
    left_out = tuple(key for key in state if key.startswith(DISTILLATION_PREFIXES))
    rest = {k.removeprefix(STUDENT_PREFIX): v for k, v in state.items() if k not in set(left_out)}
    return _without_prefix(rest, "model."), left_out


def _without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if not all(key.startswith(prefix) for key in state):
        return state
    return {key[len(prefix) :]: value for key, value in state.items()}
