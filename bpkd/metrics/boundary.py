"""Boundary IoU of all classes of a label map at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bpkd.functional.edges import window_reduce


def boundary_width(height: int, width: int, ratio: float) -> int:
    """Width d of the boundary in pixels: ``ratio`` of the image's diagonal, at least 1 (Cheng et al. 2021)."""
    return max(1, round(ratio * math.hypot(height, width)))


def inner_boundary(labels: Tensor, valid: Tensor, distance: int) -> Tensor:
    """Pixels of each class's mask that erosion with a (2d+1) square removes; the image's border erodes.

    Args:
        labels: [N, H, W] integers >= 0.
        valid: bool [N, H, W]; other pixels take no part and erode nothing.
        distance: d in pixels.

    Returns:
        bool [N, H, W]: true where the pixel belongs to the boundary of its own class.
    """
    side = 2 * distance + 1
    x = labels if labels.dtype == torch.uint8 else labels.to(torch.int32)
    least, most = torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max
    low = window_reduce(x.masked_fill(~valid, most), side, torch.minimum, most)
    high = window_reduce(x.masked_fill(~valid, least), side, torch.maximum, least)
    boundary = low < high
    # The image's border: windows that leave the image.
    boundary[:, :distance] = boundary[:, -distance:] = True
    boundary[:, :, :distance] = boundary[:, :, -distance:] = True
    return boundary & valid


def boundary_counts(pred: Tensor, target: Tensor, valid: Tensor, num_classes: int, distance: int) -> Tensor:
    """Intersection, prediction and label pixels of the classes' boundaries.

    Args:
        pred: [N, H, W] in 0..K-1.
        target: [N, H, W]; 0..K-1 where ``valid``.
        valid: bool [N, H, W].
        num_classes: K.
        distance: d in pixels.

    Returns:
        int64 [3, K]: both, prediction's, label's.
    """
    of_pred = inner_boundary(pred, valid, distance)
    of_target = inner_boundary(target.masked_fill(~valid, 0), valid, distance)
    both = of_pred & of_target & (pred == target)
    parts = (target[both], pred[of_pred], target[of_target])
    return torch.stack([torch.bincount(p.long(), minlength=num_classes) for p in parts])


def boundary_iou(counts: Tensor, *, absent: str = "zero") -> Tensor:
    """Boundary IoU per class, float64 [K], from [3, K] counts; ``absent`` as in ``class_iou``."""
    both, predicted, labelled = counts.double()
    iou = both / (predicted + labelled - both)
    return torch.where(labelled > 0, iou, torch.nan) if absent == "skip" else iou
