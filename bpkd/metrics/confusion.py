"""Exact counts of predictions against labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def nested_counts(pred: Tensor, target: Tensor, regions: Sequence[Tensor], num_classes: int) -> Tensor:
    """Counts pairs (label, prediction) inside regions, each of which lies inside the one before it.

    Args:
        pred: predicted classes 0..K-1, any shape.
        target: labels 0..K-1, same shape.
        regions: R bool tensors of that shape, from the largest to the smallest.
        num_classes: number of classes K.

    Returns:
        int64 [R, K, K]; row = label, column = prediction.

    >>> everywhere, band = torch.tensor([True, True, True]), torch.tensor([False, True, True])
    >>> nested_counts(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), [everywhere, band], 2).tolist()
    [[[1, 1], [0, 1]], [[0, 1], [0, 1]]]
    """
    # One pass over the pixels for all regions: how many of them hold a pixel says which.
    depth = regions[0].to(torch.uint8)
    for region in regions[1:]:
        depth += region
    return joint_counts(depth, pred, target, len(regions) + 1, num_classes)[1:].flip(0).cumsum(0).flip(0)


def confusion_counts(pred: Tensor, target: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Counts pairs (label, prediction) of the valid pixels.

    Args:
        pred: integers in 0..K-1, any shape.
        target: integers in 0..K-1, same shape.
        valid: bool, same shape; False leaves a pixel out.
        num_classes: number of classes K.

    Returns:
        int64 [K, K]; row = label, column = prediction.

    >>> confusion_counts(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), torch.tensor([True, True, False]), 2)
    tensor([[1, 1],
            [0, 0]])
    """
    return nested_counts(pred, target, [valid], num_classes)[0]


def joint_counts(kind: Tensor, pred: Tensor, target: Tensor, num_kinds: int, num_classes: int) -> Tensor:
    """Counts triples (kind, label, prediction) of all pixels in one pass.

    Args:
        kind: integers in 0..C-1, any shape.
        pred: integers in 0..K-1, same shape.
        target: integers in 0..K-1, same shape.
        num_kinds: number of kinds C.
        num_classes: number of classes K.

    Returns:
        int64 [C, K, K].

    >>> joint_counts(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([1, 1]), 2, 2).tolist()
    [[[0, 0], [1, 0]], [[0, 0], [0, 1]]]
    """
    index = kind.int().mul_(num_classes).add_(target).mul_(num_classes).add_(pred)
    shape = (num_kinds, num_classes, num_classes)
    return torch.bincount(index.flatten(), minlength=math.prod(shape)).view(shape)


def class_iou(counts: Tensor, *, absent: str = "zero") -> Tensor:
    """IoU per class from [K, K] counts.

    Args:
        counts: [K, K] pixels; row = label, column = prediction.
        absent: what a class counts that is predicted but occurs in no label: "zero" gives IoU 0, "skip" nan. A class
            that occurs on neither side is nan.

    Returns:
        float64 [K].

    >>> class_iou(torch.tensor([[3, 1], [0, 2]])).tolist()
    [0.75, 0.6666666666666666]
    """
    hit = counts.diag().double()
    labelled, predicted = counts.sum(1).double(), counts.sum(0).double()
    iou = hit / (labelled + predicted - hit)
    return torch.where(labelled > 0, iou, torch.nan) if absent == "skip" else iou


def class_accuracy(counts: Tensor) -> Tensor:
    """Share of each class's label pixels that are predicted right, float64 [K]; nan where a class has none.

    >>> class_accuracy(torch.tensor([[3, 1], [0, 2]])).tolist()
    [0.75, 1.0]
    """
    return counts.diag().double() / counts.sum(1).double()
