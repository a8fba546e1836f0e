"""Values of mask files: one channel of class ids, from any lossless format and mode that holds them exactly."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bpkd.images import open_image

from .palettes import Colour
from .pictures import orientation, turned, whole_frames

Array = NDArray[Any]
SINGLE = ("L", "P", "1", "I")
LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "AVIF": "AVIF"}
# Notes: what is said of masks that are read, though another reading is possible.
GREY_RGB, GREY_PALETTE = "grey_rgb", "grey_palette"


@dataclass(frozen=True)
class Mask:
    """A mask file's values."""

    values: Array
    """uint8 [H, W]; palette images give their indices."""

    notes: tuple[str, ...] = ()
    colours: Mapping[int, Colour] = field(default_factory=dict)
    """Colour of each index of a palette image's pixels; without colours that the palette holds several times."""


def load_mask(name: str) -> Mask:
    """Reads a mask, turned by its own EXIF orientation.

    Raises:
        ValueError: the file is missing or damaged, or does not hold exactly one id 0..255 a pixel.
    """
    try:
        data = Path(name).read_bytes()  # of an open file: from a name Pillow maps a TIFF into memory before it turns it
        with open_image(io.BytesIO(data)) as picture:
            _refuse(picture, data)
            wide = ";16" in str(picture.tile)  # before the pixels are read
            stored: Array = np.asarray(picture)
            values, notes = _one_channel(stored, picture, wide)
            colours = _used_colours(values, picture) if picture.mode == "P" else {}
            values = turned(values, orientation(picture))
    except _RefusedError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot be read as a mask ({error}).") from error
    if values.min(initial=0) < 0 or values.max(initial=0) > 255:
        raise ValueError(f"expected ids 0..255, got {values.min()}..{values.max()}.")
    return Mask(values.astype(np.uint8, copy=False), notes, colours)


class _RefusedError(ValueError):
    """The file was read, and is no mask."""


def _refuse(picture: Image.Image, data: bytes) -> None:
    kind = LOSSY.get(picture.format or "", "")
    if picture.format == "WEBP" and b"VP8 " in data[:4096]:
        kind = "lossy WebP"
    if kind:
        raise _RefusedError(
            f"expected a mask in a lossless format, got {kind}, whatever the file is called: it smears ids into their "
            "neighbours. Save it as PNG from what it was made of; of a JPEG itself the values can only be guessed."
        )
    if (frames := whole_frames(picture)) > 1:
        raise _RefusedError(
            f"expected a mask of one frame, got {frames} ({picture.format}): they may be classes, slices or moments. "
            "Save the one that belongs to the image as a PNG of ids."
        )


def _one_channel(values: Array, picture: Image.Image, wide: bool) -> tuple[Array, tuple[str, ...]]:
    """Returns [H, W] and notes."""
    mode = picture.mode
    if mode in SINGLE or mode.startswith("I;16"):
        return values, (GREY_PALETTE,) if mode == "P" and _grey_palette(values, picture) else ()
    if mode == "F":
        raise _RefusedError("expected whole class ids, got float values (mode F). Save them as a PNG of 8 bits.")
    if mode not in ("LA", "PA", "RGB", "RGBA") or wide:
        bits = " of 16 bits" if wide else ""
        raise _RefusedError(f"expected a single-channel mask of class ids, got mode {mode}{bits}.")
    if mode.endswith("A") and values[..., -1].min(initial=255) < 255:
        raise _RefusedError(
            f"expected a single-channel mask of class ids, got transparent pixels (mode {mode}): it is not clear which "
            "class they are. Save it without an alpha channel."
        )
    colours = values[..., : 1 if mode in ("LA", "PA") else 3]
    different = (colours != colours[..., :1]).any(-1)
    if different.any():
        first = tuple(colours[different][0].tolist())
        raise _RefusedError(
            f"expected a single-channel mask of class ids, got colours (mode {mode}, such as {first}). Save the id of "
            "each pixel's class, not its colour."
        )
    return colours[..., 0], () if mode == "PA" else (GREY_RGB,)


def _grey_palette(values: Array, picture: Image.Image) -> bool:
    """Whether the palette's colours read as other ids than the indices: greys 0, 1, 7 of the indices 0, 1, 2."""
    palette = picture.getpalette("RGB") or []
    colours = np.zeros((256, 3), int)
    known = np.asarray(palette[:768]).reshape(-1, 3)
    colours[: len(known)] = known
    used = np.unique(values)
    greys = colours[used]
    alike = (greys == greys[:, :1]).all()
    return bool(alike and greys.max() < 255 and (greys[:, 0] != used).any() and len(np.unique(greys[:, 0])) > 1)


def _used_colours(values: Array, picture: Image.Image) -> dict[int, Colour]:
    palette = picture.getpalette("RGB") or []
    known: list[Colour] = [(r, g, b) for r, g, b in zip(palette[::3], palette[1::3], palette[2::3], strict=False)]
    count = Counter(known)
    used = np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    return {index: known[index] for index in used if index < len(known) and count[known[index]] == 1}
