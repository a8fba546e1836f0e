"""Whole-image, sliding-window, multi-scale and mirrored inference, at the original image's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
MODES = ("whole", "slide")
# Number of classes, or of rows of the image, that are processed at once, which bounds temporary memory.
CLASSES_AT_ONCE = 8
ROWS_AT_ONCE = 16


def predict_logits(
    predict: Predict,
    image: Tensor,
    out_size: tuple[int, int],
    *,
    mode: str = "whole",
    crop: tuple[int, int] = (512, 512),
    stride: tuple[int, int] = (341, 341),
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    align_corners: bool = False,
    windows: int = 4,
) -> Tensor:
    """Returns the class scores of an image at its original size.

    Args:
        predict: Function from normalised images [N, 3, H, W] to logits [N, K, h, w] of any size.
        image: Normalised image [1, 3, H, W], the network's input.
        out_size: (height, width) of the original image.
        mode: "whole", or "slide" (windows of ``crop`` every ``stride``; scores are averaged where they overlap).
        crop: (height, width) of a window; a shorter side of the image is not divided.
        stride: (vertical, horizontal) distance of two windows.
        scales: Factors on the input size; softmax probabilities are averaged over the scales.
        flip: Whether to average over the mirrored image too.
        align_corners: ``align_corners`` of every bilinear resize.
        windows: Number of windows in one forward pass of mode "slide".

    Returns:
        [1, K, *out_size] float32: logits for one scale without flip, else mean probabilities.

    Raises:
        ValueError: ``mode`` is unknown, or the windows would leave gaps.

    Source:
        mmsegmentation 0.26.0's test protocol: scores are resized to the network's input size, then to the original.
    """
    if mode not in MODES:
        raise ValueError(f"TEST.MODE: expected one of {MODES}, got {mode!r}.")

    def scores(view: Tensor) -> Tensor:
        size = (view.shape[2], view.shape[3])
        if mode == "whole":
            return resized_twice(predict(view), size, out_size, align_corners)
        total = slide(predict, view, crop=crop, stride=stride, align_corners=align_corners, windows=windows)
        return resized_twice(total, size, out_size, align_corners)

    average = len(scales) > 1 or flip
    total: Tensor | None = None
    for factor in scales:
        # Rounded half up, like the sizes of test images.
        height, width = (max(1, int(n * factor + 0.5)) for n in image.shape[2:])
        view = _resize(image, (height, width), align_corners)
        if not average:
            return scores(view)
        for mirrored in (False, True) if flip else (False,):
            part = scores(view.flip(3) if mirrored else view)
            total = torch.zeros_like(part) if total is None else total
            add_probabilities(total, part, mirrored)
            del part  # before the next view needs the memory
    assert total is not None  # at least one scale
    return total.div_(len(scales) * (1 + flip))


def resized_twice(logits: Tensor, middle: tuple[int, int], size: tuple[int, int], align_corners: bool) -> Tensor:
    """Resizes scores to the network's input and from there to the original image, in float32.

    A few classes at a time, so that the intermediate result is never in memory for all classes, where it would take up
    to several times as much as the returned tensor.

    Args:
        logits: Class scores [1, K, h, w].
        middle: (height, width) of the network's input.
        size: (height, width) of the result.
        align_corners: ``align_corners`` of both bilinear resizes.

    Returns:
        Scores [1, K, *size]; ``logits`` itself if the sizes are equal.
    """
    if middle == size or logits.shape[2:] == middle:
        return _resize(logits.float(), size, align_corners)
    out = logits.new_empty((1, logits.shape[1], *size), dtype=torch.float32)
    for first in range(0, out.shape[1], CLASSES_AT_ONCE):
        part = slice(first, first + CLASSES_AT_ONCE)
        out[:, part] = _resize(_resize(logits[:, part].float(), middle, align_corners), size, align_corners)
    return out


def add_probabilities(total: Tensor, scores: Tensor, mirrored: bool) -> None:
    """Adds the softmax over the classes of [1, K, H, W] scores to ``total``, flipped back if ``mirrored``."""
    for first in range(0, scores.shape[2], ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        probabilities = scores[:, :, rows].softmax(1)
        total[:, :, rows] += probabilities.flip(3) if mirrored else probabilities


def window_starts(size: int, crop: int, stride: int) -> list[int]:
    """Returns the first positions of the windows along an axis; the last window ends at the image's border."""
    count = max(size - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride, size - crop), 0) for i in range(count)]


def slide(
    predict: Predict,
    image: Tensor,
    *,
    crop: tuple[int, int],
    stride: tuple[int, int],
    align_corners: bool = False,
    windows: int = 4,
) -> Tensor:
    """Returns scores [1, K, H, W] by sliding windows, averaged where they overlap.

    Raises:
        ValueError: the stride is not in 1..crop, so that windows would leave gaps.
    """
    if not all(1 <= s <= c for s, c in zip(stride, crop, strict=True)):
        raise ValueError(
            f"TEST.SLIDE_STRIDE: expected 1..{crop[0]} and 1..{crop[1]} (TEST.SLIDE_CROP) so that the windows leave no "
            f"gap, got {tuple(stride)}."
        )
    height, width = image.shape[2:]
    h, w = min(crop[0], height), min(crop[1], width)
    corners = [
        (y, x) for y in window_starts(height, crop[0], stride[0]) for x in window_starts(width, crop[1], stride[1])
    ]
    total: Tensor | None = None
    count = image.new_zeros(1, 1, height, width)
    for i in range(0, len(corners), windows):
        part = corners[i : i + windows]
        logits = predict(torch.cat([image[:, :, y : y + h, x : x + w] for y, x in part]))
        if total is None:
            total = logits.new_zeros((1, logits.shape[1], height, width), dtype=torch.float32)
        for (y, x), one in zip(part, logits.split(1), strict=True):
            total[:, :, y : y + h, x : x + w] += _resize(one.float(), (h, w), align_corners)
            count[:, :, y : y + h, x : x + w] += 1
    assert total is not None  # at least one window
    return total.div_(count)


def _resize(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
