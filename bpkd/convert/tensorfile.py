"""Files of tensors alone: safetensors, in and out, and numpy's .npz."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Ours in the metadata of a safetensors file: what a checkpoint says about itself, and the SHA-256 of its weights.
META, DIGEST = "bpkd", "bpkd_sha256"
# Headers have about 100 bytes per tensor.
MOST_HEADER = 1 << 25


def read_safetensors(path: str) -> dict[str, Any]:
    """Reads a file as ``{"model": tensors}``, with our metadata under ``bpkd`` and other texts under ``metadata``.

    Raises:
        ModuleNotFoundError: safetensors is not installed.
        ValueError: the file is truncated or changed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_missing(path), name="safetensors") from error
    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
    if length > min(MOST_HEADER, os.path.getsize(path) - 8):
        raise ValueError(f"its header says it has {length} bytes, and the file has {os.path.getsize(path)}")
    try:
        with safe_open(path, framework="pt", device="cpu") as f:
            notes = f.metadata() or {}
            state = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"its header and its data do not fit ({error})") from error
    if DIGEST in notes and notes[DIGEST] != digest_of(state):
        raise ValueError("its weights are not those that were written (another SHA-256)")
    out: dict[str, Any] = {"model": state, "metadata": notes}
    meta = parsed(notes.get(META, ""))
    return {**out, "bpkd": meta} if meta else out


def write_safetensors(state: Mapping[str, Tensor], meta: Mapping[str, Any], path: Path) -> None:
    """Writes weights, with ``meta`` as JSON in the metadata.

    Raises:
        ModuleNotFoundError: safetensors is not installed.
    """
    try:
        from safetensors.torch import save_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_missing(str(path.name)), name="safetensors") from error
    # Cloned: the format has no tensors that share data.
    own = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    notes = {"format": "pt", META: json.dumps(dict(meta), default=str), DIGEST: digest_of(own)}
    save_file(own, path, metadata=notes)


def read_npz(path: str) -> dict[str, Any]:
    """Reads the arrays of a .npz file.

    Raises:
        ValueError: it is damaged or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy raises a dozen types on damaged files
        raise ValueError(f"the file is damaged ({error})") from error


def parsed(text: str) -> dict[str, Any] | None:
    """Returns the mapping in a JSON text, None where there is none."""
    try:
        found = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of names, types, shapes and bits of weights, in the order of their names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.numel():
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _missing(path: str) -> str:
    return f"{path} is a safetensors file, which needs the package safetensors: pip install safetensors."
