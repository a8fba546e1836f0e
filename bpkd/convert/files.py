"""Files of converted checkpoints: the hash in their name, and where one may be written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch

from bpkd.files import replacing


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
    """Writes a file, whole or not at all.

    Args:
        content: Value for torch.save.
        path: File to write.
        source: File that it was made from; never overwritten.
        force: Replace a file that is there.

    Raises:
        FileExistsError: there is a file.
        FileNotFoundError: the folder does not exist.
    """
    check_target(path, source=source, force=force)
    with replacing(path) as part:
        torch.save(dict(content), part)


def check_target(path: str, *, source: str, force: bool = False) -> None:
    """Refuses a target before any work is done; see `write`."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"DST: expected a file in a folder that exists, got {path}. Make {folder} first.")
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise FileExistsError(f"DST: expected another file than SRC, got {path} twice. Choose another name.")
    if os.path.isdir(path):
        raise FileExistsError(f"DST: expected a file name, got the folder {path}. Add a name.")
    if os.path.exists(path) and not force:
        raise FileExistsError(f"DST: {path} exists. Pass --force to replace it, or choose another name.")
