"""Finds the image files that a COCO file names, as tools of other systems write them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from PIL import Image, UnidentifiedImageError

TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


def located(folder: Path, name: str) -> tuple[str, str]:
    """Returns the name under which a file is there, and what was repaired; the name itself where none is there.

    Args:
        folder: folder of the images.
        name: ``file_name``. Plain names are not looked for.
    """
    plain = name.isascii() and not any(c in name for c in "\\/%")
    if plain or os.path.isfile(folder / name):
        return name, ""
    for other, repair in _others(name):
        if os.path.isfile(folder / other):
            return other, repair
    return name, ""


def _others(name: str) -> Iterator[tuple[str, str]]:
    slashes = name
    if "\\" in name:
        slashes = name.replace("\\", "/")
        yield slashes, "images have a file_name with backslashes, Windows' separators of folders: read as /"
    if "%" in name:
        yield unquote(name), "images have a file_name as in an address (%20 for a space): decoded"
    for form in ("NFC", "NFD"):
        yield (
            unicodedata.normalize(form, slashes),
            "images have a file_name whose accents are encoded otherwise than the file's: the file was found",
        )
    rest = [part for part in slashes.split("/") if part and part != "."]
    for i in range(1, len(rest)):
        yield (
            "/".join(rest[i:]),
            "images have a file_name that begins with folders that are not here: found below the folder of images "
            "without them",
        )


def shown_size(path: Path) -> tuple[int, int] | None:
    """Returns (height, width) of an image file as viewers show it, from its header; None where it cannot be read.

    Args:
        path: image file.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112) in TURNED
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return None
    return (width, height) if turned else (height, width)
