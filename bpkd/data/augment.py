"""The paper's training augmentation, on numpy arrays with an explicit random generator.

Order, rules and constants are those of mmsegmentation 0.26's pipeline, which the paper's recipe uses: resize by a
random factor, crop under a class-share cap, mirror, photometric distortion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # uint8; OpenCV's stubs do not say so
CROP_REDRAWS = 10
LEVELS = np.arange(256, dtype=np.uint8)


def level_counts(values: Array) -> NDArray[np.int64]:
    """Returns the histogram [256] of uint8 [h, w], exact up to 2^24 pixels of a value: OpenCV counts in float32.

    It is faster than NumPy's bincount, which copies the array to int64.
    """
    counts = cv2.calcHist([values], [0], None, [256], [0, 256])  # [256, 1], of OpenCV 5 [256]
    return counts.ravel().astype(np.int64)


def fitted_size(height: int, width: int, box: tuple[float, float]) -> tuple[int, int]:
    """Returns (height, width) of an image fitted into ``box`` (width, height), aspect kept, rounded half up.

    The box has no orientation: its long side limits the image's long side.
    """
    long_side, short_side = max(box), min(box)
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def resize(image: Array, label: Array | None, size: tuple[int, int]) -> tuple[Array, Array | None]:
    """Resizes to (height, width): image linear, label nearest (OpenCV's rules)."""
    height, width = max(1, size[0]), max(1, size[1])
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if label is not None and label.shape != (height, width):
        label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    return image, label


def photometric(image: Array, rng: np.random.Generator) -> Array:
    """Distorts a BGR image: brightness, contrast, saturation, hue, each with probability one half.

    Brightness + U(-32, 32); contrast * U(0.5, 1.5), before or after the next two with equal probability;
    saturation * U(0.5, 1.5) and hue + an integer of [-18, 17] modulo 180 in OpenCV's HSV. All but the hue step clip to
    0..255 and truncate.
    """
    if rng.random() < 0.5:
        image = cv2.LUT(image, scaled(shift=rng.uniform(-32, 32)))
    contrast_first = rng.random() < 0.5
    if contrast_first and rng.random() < 0.5:
        image = cv2.LUT(image, scaled(rng.uniform(0.5, 1.5)))
    if rng.random() < 0.5:
        image = _in_hsv(image, channel=1, table=scaled(rng.uniform(0.5, 1.5)))
    if rng.random() < 0.5:
        hues = (LEVELS.astype(int) + int(rng.integers(-18, 18))) % 180
        image = _in_hsv(image, channel=0, table=hues.astype(np.uint8))
    if not contrast_first and rng.random() < 0.5:
        image = cv2.LUT(image, scaled(rng.uniform(0.5, 1.5)))
    return image


def scaled(factor: float = 1.0, shift: float = 0.0) -> Array:
    """Returns level * factor + shift for each level 0..255, in float32, clipped to 0..255 and truncated."""
    return np.clip(LEVELS.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)


def _in_hsv(image: Array, *, channel: int, table: Array) -> Array:
    """Maps the values of one channel of a BGR image's HSV by a table."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


@dataclass(frozen=True)
class TrainAugmentation:
    """Resizes, crops, mirrors and distorts an image with its labels; the model pads to the crop after normalisation.

    Args:
        crop_size: (height, width); smaller images are cropped to what exists.
        resize_box: (width, height) that the image is fitted into before the random factor; (0, 0): its own size.
        scale_range: Bounds of the uniform random factor.
        max_class_share: a crop is redrawn, ten times at most, while its largest class holds this share of its valid
            pixels or more; the last draw is taken unchecked.
        flip_prob: Probability of mirroring.
        distort: whether to apply photometric distortion.
        ignore_index: label that the share leaves out.
    """

    crop_size: tuple[int, int]
    resize_box: tuple[int, int] = (0, 0)
    scale_range: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    flip_prob: float = 0.5
    distort: bool = True
    ignore_index: int = 255

    def __call__(self, image: Array, label: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Returns the augmented pair: image [h, w, 3] BGR, label [h, w]; they may be views of the arguments."""
        height, width = image.shape[:2]
        factor = rng.uniform(*self.scale_range)
        box = self.resize_box if any(self.resize_box) else (width, height)
        size = fitted_size(height, width, (box[0] * factor, box[1] * factor))
        image, scaled = resize(image, label, size)
        assert scaled is not None
        rows, columns = self._crop(scaled, rng)
        image, label = image[rows, columns], scaled[rows, columns]
        if rng.random() < self.flip_prob:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        if self.distort:
            image = photometric(image, rng)
        return image, label

    def _crop(self, label: Array, rng: np.random.Generator) -> tuple[slice, slice]:
        for draw in range(CROP_REDRAWS + 1):
            y = int(rng.integers(0, max(label.shape[0] - self.crop_size[0], 0) + 1))
            x = int(rng.integers(0, max(label.shape[1] - self.crop_size[1], 0) + 1))
            window = slice(y, y + self.crop_size[0]), slice(x, x + self.crop_size[1])
            if self.max_class_share >= 1 or draw == CROP_REDRAWS:
                break
            counts = level_counts(label[window])
            counts[self.ignore_index] = 0
            counts = counts[counts > 0]
            if len(counts) > 1 and counts.max() / counts.sum() < self.max_class_share:
                break
        return window
