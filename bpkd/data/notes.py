"""What a check says of files that are read, though not all of what they hold, or not as every program reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from .masks import GREY_PALETTE, GREY_RGB
from .pictures import Picture, Span, whole_frames

TURNED, FRAMES, TRANSPARENT, CMYK = "turned", "frames", "transparent", "cmyk"
UNLABELLED = "unlabelled"
TEXTS = {
    TURNED: "{n} images are turned by their EXIF orientation, as viewers turn them (first {first}): look at the "
    "contact sheet whether their labels are turned too",
    FRAMES: "{n} images hold several frames (first {first}): the first frame is read",
    TRANSPARENT: "{n} images have transparent pixels (first {first}): their colours are read as if opaque",
    CMYK: "{n} images are CMYK (first {first}): they are converted without their colour profile",
    UNLABELLED: "{n} images hold no labelled pixel (first {first}): all of it is ignored",
    GREY_RGB: "{n} masks are saved as colours or with an alpha channel (first {first}): their channels are equal and "
    "read as one",
    GREY_PALETTE: "{n} masks have a palette of greys other than its indices (first {first}): the indices are read",
}
# 16 bits: an image is dark if all but this share of its values are below BRIGHT, flat if they span less than FLAT, 32
# of 256 greys.
BRIGHT, FLAT, REST = 2**14, 2**13, 0.001
MOST = 2**16 - 1


class Depth(NamedTuple):
    """Values of an image of 16 bits."""

    low: int
    high: int
    """All but REST of the values are from ``low`` to ``high``."""

    largest: int

    @property
    def dark(self) -> bool:
        """Whether the image is almost black as 0..65535."""
        return self.high < BRIGHT

    @property
    def flat(self) -> bool:
        """Whether the image is almost one grey as 0..65535."""
        return self.high - self.low < FLAT


class Notes:
    """Counts of what is noted, with the first file of each kind."""

    def __init__(self) -> None:
        """Counts nothing yet."""
        self.seen: dict[str, tuple[int, str]] = {}
        self.deep: list[Depth] = []
        self.first = ""

    def add(self, noted: Iterable[tuple[str, str]], depth: Depth | None = None, name: str = "") -> None:
        """Counts what is noted of an image and its labels.

        Args:
            noted: kinds with the files.
            depth: values of an image of 16 bits.
            name: its file.
        """
        if depth:
            self.deep.append(depth)
            self.first = self.first or name
        for kind, one in noted:
            count, first = self.seen.get(kind, (0, one))
            self.seen[kind] = count + 1, first

    def texts(self) -> list[str]:
        """Returns the notes as sentences."""
        out = []
        for kind, text in TEXTS.items():
            if kind in self.seen:
                count, first = self.seen[kind]
                out.append(text.format(n=count, first=first) + ".")
        return out + self._depth()

    def _depth(self) -> list[str]:
        if not self.deep:
            return []
        largest = max(one.largest for one in self.deep)
        text = f"{len(self.deep)} images have 16 bits a channel (first {self.first}), the largest value is {largest}"
        dark, flat = ([one for one in self.deep if kind(one)] for kind in (lambda d: d.dark, lambda d: d.flat))
        if 2 * len(dark) > len(self.deep):
            top = _whole_bits(largest)
            top = top if top < MOST else _whole_bits(max(one.high for one in dark))  # a few hot pixels tell nothing
            return [
                f"{text}: read as 0..65535, {len(dark)} of them are almost black. If their values end at {top}, write "
                f"INPUT.IMAGE_RANGE: [0, {top}]."
            ]
        if 2 * len(flat) > len(self.deep):
            low, high = min(one.low for one in flat), max(one.high for one in flat)
            return [
                f"{text}: read as 0..65535, {len(flat)} of them are almost one grey, their values are {low} to {high}. "
                f"For contrast, write INPUT.IMAGE_RANGE: [low, high], such as [{low}, {max(high, low + 1)}]."
            ]
        return [f"{text}: 0..65535 are read as 0..255."]


def _whole_bits(value: int) -> int:
    """Returns the largest number of as many bits as a value has."""
    return int(2 ** max(value.bit_length(), 1) - 1)


def picture_notes(picture: Picture, span: Span) -> tuple[list[str], Depth | None]:
    """Returns what is noted of an image, and its values if it has 16 bits and no range is given.

    Args:
        picture: the image.
        span: INPUT.IMAGE_RANGE.

    Raises:
        OSError, SyntaxError, ValueError: Pillow finds the file damaged; OpenCV fills missing rows of a JPEG with grey.
    """
    kinds = [TURNED] if picture.orientation > 1 else []
    try:
        with picture.opened() as opened:
            opened.load()
            kinds += [FRAMES] if whole_frames(opened) > 1 else []
            kinds += [TRANSPARENT] if _transparent(opened) else []
            kinds += [CMYK] if opened.mode == "CMYK" else []
    except UnidentifiedImageError:
        pass  # a format that only OpenCV reads, which it did without error
    return kinds, None if any(span) else depth_of(picture)


def depth_of(picture: Picture) -> Depth | None:
    """Returns which values an image of 16 bits has; None for any other."""
    if picture.pixels.dtype != np.uint16:
        return None
    up_to = np.bincount(picture.pixels.ravel(), minlength=MOST + 1).cumsum()
    rest = REST * picture.pixels.size
    low, high = np.searchsorted(up_to, rest, side="right"), np.searchsorted(up_to, picture.pixels.size - rest)
    return Depth(int(low), int(high), int(picture.pixels.max()))


def _transparent(opened: Image.Image) -> bool:
    if opened.mode in ("LA", "PA", "RGBA"):
        low: Any = opened.getchannel("A").getextrema()[0]
        return bool(low < 255)
    if opened.mode != "P" or "transparency" not in opened.info:
        return False
    return bool(np.asarray(opened.convert("RGBA"))[..., 3].min(initial=255) < 255)
