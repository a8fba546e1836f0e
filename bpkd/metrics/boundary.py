"""Boundary IoU and boundary F of all classes of a label map at once; the boundary of one mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bpkd.functional.reference.edges import mixed_windows, window_reduce

from .confusion import joint_counts

# Classes per int32 word.
_GROUP = 31


def boundary_width(height: int, width: int, ratio: float) -> int:
    """Width d of the boundary in pixels: ``ratio`` of the image's diagonal, at least 1 (Cheng et al. 2021).

    Example:
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

    Example:
        >>> mask_boundary(torch.ones(1, 5, dtype=torch.bool), 1)  # a row of pixels is outline all along
        tensor([[True, True, True, True, True]])
        >>> mask_boundary(torch.ones(5, 5, dtype=torch.bool), 1).sum()  # all but the inner 3 x 3
        tensor(16)
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

    Example:
        >>> labels = torch.zeros(1, 5, 5, dtype=torch.uint8)
        >>> inner_boundary(labels, labels == 0, 1).sum()  # the image's border alone
        tensor(16)
    """
    boundary = mixed_windows(labels, valid, 2 * distance + 1)
    # The image's border: windows that leave the image.
    boundary[:, :distance] = boundary[:, -distance:] = True
    boundary[:, :, :distance] = boundary[:, :, -distance:] = True
    return boundary & valid


def boundary_counts(pred: Tensor, target: Tensor, valid: Tensor, num_classes: int, distance: int) -> Tensor:
    """Intersection, prediction and label pixels of the classes' boundaries.

    Args:
        pred: [N, H, W] predicted classes 0..K-1.
        target: [N, H, W] labels 0..K-1.
        valid: bool [N, H, W]; other pixels take no part.
        num_classes: number of classes K.
        distance: width d of the boundary in pixels.

    Returns:
        int64 [3, K]: both, prediction's, label's.

    Example:
        >>> labels = torch.zeros(1, 5, 5, dtype=torch.uint8)
        >>> boundary_counts(labels, labels, labels == 0, num_classes=1, distance=1).flatten().tolist()
        [16, 16, 16]
    """
    of_pred = inner_boundary(pred, valid, distance)
    of_target = inner_boundary(target, valid, distance)
    kind = of_pred.to(torch.uint8) * 2 + of_target
    counts = joint_counts(kind, pred, target, 4, num_classes)
    return torch.stack([counts[3].diag(), counts[2:].sum((0, 1)), counts[1::2].sum((0, 2))])


def boundary_iou(counts: Tensor, *, absent: str = "zero") -> Tensor:
    """Boundary IoU per class, float64 [K], from [3, K] counts; ``absent`` as in ``class_iou``.

    Example:
        >>> boundary_iou(torch.tensor([[3], [4], [5]]))  # 3 pixels in both, 4 predicted, 5 labelled
        tensor([0.5000], dtype=torch.float64)
    """
    both, predicted, labelled = counts.double()
    iou = both / (predicted + labelled - both)
    return torch.where(labelled > 0, iou, torch.nan) if absent == "skip" else iou


def contour_counts(pred: Tensor, target: Tensor, valid: Tensor, num_classes: int, tolerance: int) -> Tensor:
    """Contour pixels of each class, and those that have the other side's contour of the same class nearby.

    A contour pixel is a valid pixel whose 3x3 window holds another valid label; the image's border makes none.

    Args:
        pred: [N, H, W] predicted classes 0..K-1.
        target: [N, H, W] labels, 0..K-1 where ``valid``.
        valid: bool [N, H, W]; other pixels take no part.
        num_classes: number of classes K.
        tolerance: distance t in pixels; nearby means inside the (2t+1) square.

    Returns:
        int64 [4, K]: prediction's matched, prediction's, label's matched, label's.

    Example:
        >>> target = torch.tensor([[[0, 0, 1, 1, 1, 1]] * 3], dtype=torch.uint8)
        >>> pred = torch.tensor([[[0, 0, 0, 1, 1, 1]] * 3], dtype=torch.uint8)  # one pixel to the right
        >>> valid = torch.ones(1, 3, 6, dtype=torch.bool)
        >>> counts = contour_counts(pred, target, valid, num_classes=2, tolerance=1)
        >>> boundary_f(counts)
        tensor([1., 1.], dtype=torch.float64)
        >>> boundary_f(contour_counts(pred, target, valid, 2, tolerance=0))
        tensor([0., 0.], dtype=torch.float64)
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
    rows = []
    for hit, (_, classes) in zip(matched, sides, strict=True):
        rows += [torch.bincount(classes[hit], minlength=num_classes), torch.bincount(classes, minlength=num_classes)]
    return torch.stack(rows)


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

    Example:
        >>> boundary_f(torch.tensor([[2], [4], [3], [4]]))  # precision 2/4, recall 3/4
        tensor([0.6000], dtype=torch.float64)
    """
    hit, predicted, found, labelled = counts.double()
    precision, recall = hit / predicted.clamp(min=1), found / labelled.clamp(min=1)
    score = 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(torch.float64).tiny)
    known = labelled > 0 if absent == "skip" else predicted + labelled > 0
    return torch.where(known, score, torch.nan)
