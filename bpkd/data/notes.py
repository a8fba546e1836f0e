"""What a check says of files that are read, though not all of what they hold, or not as every program reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .masks import GREY_PALETTE, GREY_RGB
from .pictures import Picture, Span, whole_frames

TURNED, FRAMES, TRANSPARENT, CMYK, DEEP, DARK = "turned", "frames", "transparent", "cmyk", "deep", "dark"
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
# 16 bits: an image is dark if all but this share of its values are below this.
BRIGHT, REST = 2**14, 0.001


class Notes:
    """Counts of what is noted, with the first file of each kind."""

    def __init__(self) -> None:
        """Counts nothing yet."""
        self.seen: dict[str, tuple[int, str]] = {}
        self.largest = 0

    def add(self, noted: Iterable[tuple[str, str]], largest: int = 0) -> None:
        """Counts what is noted of an image and its labels.

        Args:
            noted: kinds with the files.
            largest: largest value of an image of 16 bits.
        """
        self.largest = max(self.largest, largest)
        for kind, name in noted:
            count, first = self.seen.get(kind, (0, name))
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
        count, first = self.seen.get(DEEP, (0, ""))
        dark = self.seen.get(DARK, (0, ""))[0]
        if not count:
            return []
        text = f"{count} images have 16 bits a channel (first {first}), the largest value is {self.largest}"
        if 2 * dark <= count:
            return [f"{text}: 0..65535 are read as 0..255."]
        top = 2 ** max(int(self.largest).bit_length(), 1) - 1
        return [
            f"{text}: read as 0..65535, {dark} of them are almost black. If their values end at {top}, write "
            f"INPUT.IMAGE_RANGE: [0, {top}]."
        ]


def picture_notes(picture: Picture, span: Span) -> tuple[list[str], int]:
    """Returns what is noted of an image, and its largest value if it has 16 bits and no range is given.

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
    if picture.pixels.dtype != np.uint16 or any(span):
        return kinds, 0
    return [*kinds, DEEP, *([DARK] if is_dark(picture) else [])], int(picture.pixels.max())


def is_dark(picture: Picture) -> bool:
    """Returns whether an image of 16 bits uses a small part of them, so that it is almost black as 0..65535."""
    pixels = picture.pixels
    return pixels.dtype == np.uint16 and bool(np.count_nonzero(pixels >= BRIGHT) <= REST * pixels.size)


def _transparent(opened: Image.Image) -> bool:
    if opened.mode in ("LA", "PA", "RGBA"):
        low: Any = opened.getchannel("A").getextrema()[0]
        return bool(low < 255)
    if opened.mode != "P" or "transparency" not in opened.info:
        return False
    return bool(np.asarray(opened.convert("RGBA"))[..., 3].min(initial=255) < 255)
