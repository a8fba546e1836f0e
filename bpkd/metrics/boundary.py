"""Boundary IoU and boundary F of all classes of a label map at once; the boundary of one mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bpkd.functional.reference.edges import mixed_windows, window_reduce

from .confusion import joint_counts

# Classes per int32 word.
_GROUP = 31
EVERYWHERE = slice(None)


def boundary_width(height: int, width: int, ratio: float) -> int:
    """Width d of the boundary in pixels: ``ratio`` of the image's diagonal, at least 1 (Cheng et al. 2021).

    >>> boundary_width(1024, 2048, 0.02)
    46
    """
    return max(1, round(ratio * math.hypot(height, width)))


def mask_boundary(mask: Tensor, distance: int) -> Tensor:
    """The part of a binary mask within ``distance`` pixels of its outline; the image's border is outline.

    Args:
        mask: bool [..., H, W].
        distance: width d of the boundary in pixels.

    Returns:
        bool [..., H, W]: the mask without its erosion by a (2d+1) square.

    Source:
        Cheng et al., "Boundary IoU", CVPR 2021: the inner boundary region G_d.

    >>> mask_boundary(torch.ones(3, 4, dtype=torch.bool), 1).int()
    tensor([[1, 1, 1, 1],
            [1, 0, 0, 1],
            [1, 1, 1, 1]], dtype=torch.int32)
    """
    kept = window_reduce(mask.to(torch.uint8), 2 * distance + 1, torch.minimum, 0)
    return mask & (kept == 0)


def inner_boundary(labels: Tensor, valid: Tensor, distance: int) -> Tensor:
    """Pixels of each class's mask that erosion with a (2d+1) square removes; the image's border erodes.

    Args:
        labels: [N, H, W] integers >= 0.
        valid: bool [N, H, W]; other pixels take no part and erode nothing.
        distance: width d of the boundary in pixels.

    Returns:
        bool [N, H, W]: true where the pixel belongs to the boundary of its own class.

    >>> labels = torch.tensor([[[0, 0, 0, 0, 0, 1, 1]] * 3])
    >>> inner_boundary(labels, torch.ones_like(labels, dtype=torch.bool), 1)[0, 1].int().tolist()
    [1, 0, 0, 0, 1, 1, 1]
    """
    boundary = mixed_windows(labels, valid, 2 * distance + 1)
    # The image's border: windows that leave the image.
    boundary[:, :distance] = boundary[:, -distance:] = True
    boundary[:, :, :distance] = boundary[:, :, -distance:] = True
    return boundary & valid


def boundary_counts(
    pred: Tensor, target: Tensor, valid: Tensor, num_classes: int, distance: int, rows: slice = EVERYWHERE
) -> Tensor:
    """Intersection, prediction and label pixels of the classes' boundaries.

    Args:
        pred: [N, H, W] in 0..K-1.
        target: [N, H, W] in 0..K-1.
        valid: bool [N, H, W].
        num_classes: number of classes K.
        distance: width d of the boundary in pixels.
        rows: rows that are counted; the others are their surroundings, at least d of them on each side.

    Returns:
        int64 [3, K]: both, prediction's, label's.

    >>> labels = torch.tensor([[[0, 0, 0, 0, 0, 1, 1]] * 3])
    >>> valid = torch.ones_like(labels, dtype=torch.bool)
    >>> boundary_counts(labels, labels, valid, num_classes=2, distance=1).tolist()
    [[12, 6], [12, 6], [12, 6]]
    """
    of_pred = inner_boundary(pred, valid, distance)[:, rows]
    of_target = inner_boundary(target, valid, distance)[:, rows]
    kind = of_pred.to(torch.uint8) * 2 + of_target
    counts = joint_counts(kind, pred[:, rows], target[:, rows], 4, num_classes)
    return torch.stack([counts[3].diag(), counts[2:].sum((0, 1)), counts[1::2].sum((0, 2))])


def boundary_iou(counts: Tensor, *, absent: str = "zero") -> Tensor:
    """Returns Boundary IoU per class, float64 [K].

    Args:
        counts: [3, K] of ``boundary_counts``, summed over images.
        absent: what a class counts that is predicted but occurs in no label, as in ``class_iou``.

    >>> boundary_iou(torch.tensor([[3], [4], [5]])).tolist()
    [0.5]
    """
    both, predicted, labelled = counts.double()
    iou = both / (predicted + labelled - both)
    return torch.where(labelled > 0, iou, torch.nan) if absent == "skip" else iou


def contour_counts(
    pred: Tensor, target: Tensor, valid: Tensor, num_classes: int, tolerance: int, rows: slice = EVERYWHERE
) -> Tensor:
    """Contour pixels of each class, and those that have the other side's contour of the same class nearby.

    A contour pixel is a valid pixel whose 3x3 window holds another valid label; the image's border makes none.

    Args:
        pred: [N, H, W] in 0..K-1.
        target: [N, H, W]; 0..K-1 where ``valid``.
        valid: bool [N, H, W].
        num_classes: number of classes K.
        tolerance: distance t in pixels; nearby means inside the (2t+1) square.
        rows: rows that are counted; the others are their surroundings, at least t + 1 of them on each side.

    Returns:
        int64 [4, K]: prediction's matched, prediction's, label's matched, label's.

    >>> label = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])
    >>> valid = torch.ones_like(label, dtype=torch.bool)
    >>> contour_counts(label.roll(3, dims=2), label, valid, num_classes=2, tolerance=3).tolist()
    [[2, 2], [2, 2], [1, 1], [1, 1]]
    """
    sides = []
    for labels in (pred, target):
        where = mixed_windows(labels, valid, 3).flatten().nonzero().squeeze(1)
        sides.append((where, labels.flatten().index_select(0, where).int()))
    matched = [torch.zeros(len(classes), dtype=torch.bool, device=pred.device) for _, classes in sides]
    for start in range(0, num_classes, _GROUP):
        # One bit per class of the group; others have none.
        bits = [_bits(classes - start) for _, classes in sides]
        for own, other in ((0, 1), (1, 0)):
            words = torch.zeros(valid.numel(), dtype=torch.int32, device=pred.device)
            words.scatter_(0, sides[other][0], bits[other])
            near = window_reduce(words.view(valid.shape), 2 * tolerance + 1, torch.bitwise_or, 0)
            matched[own] |= (near.flatten().index_select(0, sides[own][0]) & bits[own]) != 0
    inside = torch.zeros(valid.shape[1], dtype=torch.bool, device=pred.device)
    inside[rows] = True
    found = []
    for hit, (where, classes) in zip(matched, sides, strict=True):
        counted = inside[where // valid.shape[2] % valid.shape[1]]
        found += [torch.bincount(c, minlength=num_classes) for c in (classes[hit & counted], classes[counted])]
    return torch.stack(found)


def _bits(index: Tensor) -> Tensor:
    one = torch.ones((), dtype=torch.int32, device=index.device)
    return (one << index.clamp(0, _GROUP - 1)).masked_fill((index < 0) | (index >= _GROUP), 0)


def boundary_f(counts: Tensor, *, absent: str = "zero") -> Tensor:
    """Boundary F per class: harmonic mean of the matched shares of both contours.

    Args:
        counts: [4, K] of ``contour_counts``.
        absent: what a class counts that has a contour in predictions but in no label: "zero" 0, "skip" nan. A class
            without contour on either side is nan.

    Returns:
        float64 [K].

    Source:
        Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013, from counts over
        the data set instead of means of images.

    >>> boundary_f(torch.tensor([[1], [2], [3], [3]])).tolist()
    [0.6666666666666666]
    """
    hit, predicted, found, labelled = counts.double()
    precision, recall = hit / predicted.clamp(min=1), found / labelled.clamp(min=1)
    score = 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(torch.float64).tiny)
    known = labelled > 0 if absent == "skip" else predicted + labelled > 0
    return torch.where(known, score, torch.nan)
