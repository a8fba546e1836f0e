"""Pixels of image files: decoded, turned as viewers turn them, and brought to 8 bits."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from bpkd.images import open_image

Array = NDArray[Any]
# EXIF orientation -> transpose, then mirror rows, then mirror columns; 1 and whatever else a tag holds: nothing.
TURNS = {
    2: (False, False, True), 3: (False, True, True), 4: (False, True, False), 5: (True, False, False),
    6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip
# What a PNG holds somewhere if it is tagged. Pillow looks for tags behind the pixels too, and decodes them for it.
PNG_TAGS = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")
# Modes of TIFF that OpenCV reads not at all, or as other colours: it multiplies them with the alpha channel.
PILLOW_READS = ("I", "F", "RGBA", "RGBa")
KNOWN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I", "F")
COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
WHOLE_TYPE = (0.0, 0.0)
Span = Sequence[float]
"""(low, high): values of images above 8 bits that become 0 and 255; (0, 0): the type's whole range, integers alone."""


@dataclass(frozen=True)
class Picture:
    """An image file's pixels."""

    pixels: Array
    """BGR [H, W, 3] as decoded, turned: uint8, or another type of images above 8 bits."""

    orientation: int
    """1..8; `pixels` are turned by it already."""

    data: bytes
    """The file."""

    def opened(self) -> Image.Image:
        """Returns the file as Pillow opens it.

        Raises:
            OSError: Pillow does not know its format.
        """
        return open_image(io.BytesIO(self.data))

    def as_bytes(self, span: Span) -> Array:
        """Returns the pixels as uint8.

        Raises:
            ValueError: they are no unsigned integers and no span is given, or are not finite.
        """
        kind = self.pixels.dtype
        if kind == np.uint8:
            return self.pixels
        if not any(span):
            if kind == np.uint16:
                return turned(_decoded(self.data, COLOUR), 1 if _is_tiff(self.data) else self.orientation)
            raise ValueError(
                f"expected 8 or 16 bits a channel, got {kind.name}, {self.pixels.min():g}..{self.pixels.max():g}. "
                "Say which become black and white: INPUT.IMAGE_RANGE: [low, high]."
            )
        if kind == np.uint16:
            return np.asarray(_scaled(np.arange(2**16), span)[self.pixels])
        return _scaled(self.pixels, span)


def load_picture(name: str) -> Picture | None:
    """Reads an image file; None where it is missing, damaged, or of a format that cannot be read.

    Raises:
        ValueError: its colours are none that are read.
    """
    try:
        data = Path(name).read_bytes()
    except OSError:
        return None
    form, mode, turn = _header(data)
    if mode and mode not in KNOWN and not mode.startswith("I;16"):
        raise ValueError(f"expected grey or RGB, got {mode} colours. Save it as RGB.")
    if form == "TIFF":  # both decoders turn it
        pixels = _by_pillow(data) if mode in PILLOW_READS else _decoded(data, COLOUR | cv2.IMREAD_ANYDEPTH)
        return None if pixels is None else Picture(pixels, turn, data)
    pixels = _decoded(data, COLOUR | cv2.IMREAD_ANYDEPTH)
    return None if pixels is None else Picture(turned(pixels, turn), turn, data)


def damage(name: str) -> str:
    """Returns Pillow's error for a file that it knows and finds damaged, else ""."""
    try:
        with open_image(name) as picture:
            picture.load()
    except UnidentifiedImageError:
        return ""
    except (OSError, SyntaxError, ValueError) as error:
        return str(error) if Path(name).is_file() else ""
    return ""


def orientation(picture: Image.Image) -> int:
    """Returns the EXIF orientation 1..8 of an image that Pillow has opened; 1 without a tag, or with a broken one."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises many types for a broken block
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def turned(pixels: Array, orientation: int) -> Array:
    """Returns pixels [H, W] or [H, W, C] as viewers show them."""
    if orientation not in TURNS:
        return pixels
    transpose, rows, columns = TURNS[orientation]
    out = pixels.swapaxes(0, 1) if transpose else pixels
    return np.ascontiguousarray(out[:: -1 if rows else 1, :: -1 if columns else 1])


def whole_frames(picture: Image.Image) -> int:
    """Returns the number of frames of an image that Pillow has opened, without smaller copies and masks of a TIFF."""
    frames = getattr(picture, "n_frames", 1)
    if frames == 1 or picture.format != "TIFF":
        return 1 if picture.format == "MPO" else frames  # of a phone: the further ones are previews and depth
    count = 0
    for number in range(frames):
        picture.seek(number)
        count += not picture.tag_v2.get(254, 0) & 5  # type: ignore[attr-defined]
    picture.seek(0)
    return max(count, 1)


def _header(data: bytes) -> tuple[str, str, int]:
    """Returns format, mode and orientation; ("", "", 1) of a file that Pillow does not know, as OpenCV may."""
    try:
        with open_image(io.BytesIO(data)) as picture:
            tagged = picture.format != "PNG" or any(word in data for word in PNG_TAGS)
            return picture.format or "", picture.mode, orientation(picture) if tagged else 1
    except (OSError, SyntaxError, ValueError):
        return "", "", 1


def _is_tiff(data: bytes) -> bool:
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _decoded(data: bytes, flags: int) -> Array | Any:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        return None


def _by_pillow(data: bytes) -> Array | None:
    try:
        with open_image(io.BytesIO(data)) as picture:
            if ";16" in str(picture.tile):  # Pillow would drop the low byte
                return np.asarray(_decoded(data, COLOUR | cv2.IMREAD_ANYDEPTH))
            values = np.asarray(picture)
    except (OSError, SyntaxError, ValueError):
        return None
    return np.repeat(values[..., None], 3, 2) if values.ndim == 2 else np.ascontiguousarray(values[..., 2::-1])


def _scaled(values: Array, span: Span) -> Array:
    low, high = span
    if not np.isfinite(values).all():
        raise ValueError("expected finite values, got NaN or infinity.")
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
