"""Whole-image, sliding-window, multi-scale and mirrored inference, at the original image's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
MODES = ("whole", "slide")
# Windows of one batch; more would only cost memory.
WINDOWS_AT_ONCE = 4


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
) -> Tensor:
    """Scores an image at its original size.

    Args:
        predict: maps normalised images [N, 3, H, W] to raw scores [N, K, h, w] at any resolution.
        image: [1, 3, H, W], the network's input.
        out_size: (height, width) of the original image.
        mode: "whole", or "slide" (windows of ``crop`` every ``stride``; scores are averaged where they overlap).
        crop: (height, width) of a window; an axis shorter than it is taken whole.
        stride: (vertical, horizontal) step.
        scales: factors of the input size; softmax probabilities are averaged over them.
        flip: also average over the mirrored image.
        align_corners: of every resize.

    Returns:
        [1, K, *out_size]: logits for one scale without flip, else mean probabilities. Argmax-ready.

    Raises:
        ValueError: ``mode`` is unknown, or the windows would leave gaps.

    Source:
        mmsegmentation 0.26.0's test protocol: scores are resized to the network's input first, then to the original.
    """
    if mode not in MODES:
        raise ValueError(f"TEST.MODE: expected one of {MODES}, got {mode!r}.")
    views = []
    for factor in scales:
        # Rounded half up, like the sizes of test images.
        height, width = (max(1, int(n * factor + 0.5)) for n in image.shape[2:])
        views.append(_resize(image, (height, width), align_corners))
    if len(views) == 1 and not flip:
        return _scores(predict, views[0], out_size, mode, crop, stride, align_corners)
    total: Tensor | None = None
    for view in views:
        for mirrored in (False, True) if flip else (False,):
            scores = _scores(predict, view.flip(3) if mirrored else view, out_size, mode, crop, stride, align_corners)
            probabilities = scores.float().softmax(1)
            probabilities = probabilities.flip(3) if mirrored else probabilities
            total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return total / (len(views) * (1 + flip))


def _scores(
    predict: Predict,
    image: Tensor,
    out_size: tuple[int, int],
    mode: str,
    crop: tuple[int, int],
    stride: tuple[int, int],
    align_corners: bool,
) -> Tensor:
    size = (image.shape[2], image.shape[3])
    if mode == "whole":
        scores = _resize(predict(image).float(), size, align_corners)
    else:
        scores = slide(predict, image, crop=crop, stride=stride, align_corners=align_corners)
    return _resize(scores, out_size, align_corners)


def window_starts(size: int, crop: int, stride: int) -> list[int]:
    """Returns where the windows of one axis begin; the last one is shifted back inside."""
    count = max(size - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride, size - crop), 0) for i in range(count)]


def slide(
    predict: Predict,
    image: Tensor,
    *,
    crop: tuple[int, int],
    stride: tuple[int, int],
    align_corners: bool = False,
) -> Tensor:
    """Averages the scores of overlapping windows, [1, K, H, W].

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
    for i in range(0, len(corners), WINDOWS_AT_ONCE):
        part = corners[i : i + WINDOWS_AT_ONCE]
        windows = torch.cat([image[:, :, y : y + h, x : x + w] for y, x in part])
        scores = _resize(predict(windows).float(), (h, w), align_corners)
        if total is None:
            total = scores.new_zeros(1, scores.shape[1], height, width)
        for (y, x), one in zip(part, scores, strict=True):
            total[0, :, y : y + h, x : x + w] += one
            count[:, :, y : y + h, x : x + w] += 1
    assert total is not None  # at least one window
    return total / count


def _resize(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
