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
CROP_DRAWS = 10


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

    Brightness + U(-32, 32); contrast * U(0.5, 1.5), before or after the next two by a coin; saturation * U(0.5, 1.5)
    and hue + an integer of [-18, 17] modulo 180 in OpenCV's HSV. All but the hue step clip to 0..255 and truncate.
    """

    def linear(x: Array, factor: float = 1.0, shift: float = 0.0) -> Array:
        return np.clip(x.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)

    if rng.random() < 0.5:
        image = linear(image, shift=rng.uniform(-32, 32))
    contrast_first = rng.random() < 0.5
    if contrast_first and rng.random() < 0.5:
        image = linear(image, rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 1] = linear(hsv[..., 1], rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + int(rng.integers(-18, 18))) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if not contrast_first and rng.random() < 0.5:
        image = linear(image, rng.uniform(0.5, 1.5))
    return image


@dataclass(frozen=True)
class TrainAugmentation:
    """Resize, crop, mirror and distort one pair; padding to the crop is the model's, after normalisation.

    Args:
        crop_size: (height, width); smaller images are cropped to what exists.
        resize_box: (width, height) that the image is fitted into before the random factor; (0, 0): its own size.
        scale_range: of the uniform factor.
        max_class_share: a crop is redrawn, ten times at most, while its largest class holds this share of its valid
            pixels or more; the last draw is taken unchecked.
        flip_prob: of mirroring.
        distort: photometric distortion on or off.
        ignore_index: label that does not count for the share.
    """

    crop_size: tuple[int, int]
    resize_box: tuple[int, int] = (0, 0)
    scale_range: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    flip_prob: float = 0.5
    distort: bool = True
    ignore_index: int = 255

    def __call__(self, image: Array, label: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Returns the augmented pair: image [h, w, 3] BGR, label [h, w]."""
        height, width = image.shape[:2]
        factor = rng.uniform(*self.scale_range)
        box = self.resize_box if any(self.resize_box) else (width, height)
        size = fitted_size(height, width, (box[0] * factor, box[1] * factor))
        image, scaled = resize(image, label, size)
        assert scaled is not None
        rows, columns = self._crop(scaled, rng)
        image, label = image[rows, columns], scaled[rows, columns]
        if rng.random() < self.flip_prob:
            image, label = image[:, ::-1], label[:, ::-1]
        if self.distort:
            image = photometric(np.ascontiguousarray(image), rng)
        return np.ascontiguousarray(image), np.ascontiguousarray(label)

    def _crop(self, label: Array, rng: np.random.Generator) -> tuple[slice, slice]:
        for draw in range(CROP_DRAWS + 1):
            y = int(rng.integers(0, max(label.shape[0] - self.crop_size[0], 0) + 1))
            x = int(rng.integers(0, max(label.shape[1] - self.crop_size[1], 0) + 1))
            window = slice(y, y + self.crop_size[0]), slice(x, x + self.crop_size[1])
            if self.max_class_share >= 1 or draw == CROP_DRAWS:
                break
            counts = np.bincount(label[window].ravel(), minlength=256)
            counts[self.ignore_index] = 0
            counts = counts[counts > 0]
            if len(counts) > 1 and counts.max() / counts.sum() < self.max_class_share:
                break
        return window
