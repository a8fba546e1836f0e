"""Files of converted checkpoints: the hash in their name, where one may be written, and in which format."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bpkd.files import replacing

from .tensorfile import write_safetensors

# Suffixes of files that `bpkd export` writes, and of formats that hold no checkpoint of ours.
NOT_WRITTEN = {
    ".onnx": "bpkd export",
    ".ts": "bpkd export",
    ".pt2": "bpkd export",
    ".npz": "",
    ".h5": "",
    ".engine": "",
}


def hash_warning(path: str, sha256: str) -> str | None:
    """Compares the eight digits that OpenMMLab, torchvision and timm put into file names with the file's hash."""
    stated = re.search(r"-([0-9a-f]{8})\.\w+$", os.path.basename(path))
    if stated is None or sha256.startswith(stated[1]):
        return None
    return (
        f"the name of {os.path.basename(path)} says its SHA-256 begins with {stated[1]}, it begins with {sha256[:8]}: "
        "the file was changed or is damaged."
    )


def write(content: Mapping[str, Any], path: str, *, source: str, force: bool = False) -> None:
    """Writes a file, whole or not at all; the suffix chooses: .safetensors, .pkl (Detectron2's) or torch.save.

    Args:
        content: Value for torch.save; for the other two with the entry ``model``.
        path: File to write.
        source: File that it was made from; never overwritten.
        force: Replace a file that is there.

    Raises:
        FileExistsError: there is a file.
        FileNotFoundError: the folder does not exist.
    """
    check_target(path, source=source, force=force)
    kind = os.path.splitext(path)[1].lower()
    with replacing(path) as part:
        if kind == ".safetensors":
            write_safetensors(content["model"], content["bpkd"], part)
        elif kind == ".pkl":
            with open(part, "wb") as f:
                pickle.dump(_detectron2(content), f, protocol=4)
        else:
            torch.save(dict(content), part)


def _detectron2(content: Mapping[str, Any]) -> dict[str, Any]:
    """What Detectron2's DetectionCheckpointer reads from a .pkl: arrays, taken by their names."""
    state: Mapping[str, Tensor] = content["model"]
    # numpy has no bfloat16.
    arrays = {k: (v.float() if v.dtype == torch.bfloat16 else v).cpu().numpy() for k, v in state.items()}
    return {"model": arrays, "__author__": "bpkd", "matching_heuristics": False, "bpkd": content["bpkd"]}


def check_target(path: str, *, source: str, force: bool = False, to: str = "bpkd") -> None:
    """Refuses a target before any work is done; see `write`.

    Args:
        path: file to write.
        source: file that it is made from.
        force: replace a file that is there.
        to: layout, "bpkd" or "mmseg".
    """
    kind = os.path.splitext(path)[1].lower()
    if kind in NOT_WRITTEN:
        other = f" ({NOT_WRITTEN[kind]} writes {kind})" if NOT_WRITTEN[kind] else ""
        raise ValueError(f"DST: expected a name that ends in .pth, .safetensors or .pkl, got {path}{other}.")
    if to == "mmseg" and kind in (".safetensors", ".pkl"):
        raise ValueError(f"DST: expected a .pth file, which OpenMMLab reads, for --to mmseg, got {path}.")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"DST: expected a file in a folder that exists, got {path}. Make {folder} first.")
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise FileExistsError(f"DST: expected another file than SRC, got {path} twice. Choose another name.")
    if os.path.isdir(path):
        raise FileExistsError(f"DST: expected a file name, got the folder {path}. Add a name.")
    if os.path.exists(path) and not force:
        raise FileExistsError(f"DST: {path} exists. Pass --force to replace it, or choose another name.")
