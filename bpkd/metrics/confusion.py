"""Exact counts of predictions against labels."""

from __future__ import annotations

import torch
from torch import Tensor


def confusion_counts(pred: Tensor, target: Tensor, num_classes: int, region: Tensor) -> Tensor:
    """Counts pairs (label, prediction) inside a region.

    Args:
        pred: integers in 0..K-1, any shape.
        target: integers in 0..K-1 wherever ``region`` is true, same shape.
        num_classes: K.
        region: bool, same shape.

    Returns:
        int64 [K, K]; row = label, column = prediction.
    """
    index = (target.int() * num_classes + pred)[region]  # one selection instead of two
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def class_iou(counts: Tensor, *, absent: str = "zero") -> Tensor:
    """IoU per class from [K, K] counts.

    Args:
        counts: row = label, column = prediction.
        absent: what a class counts that is predicted but occurs in no label: "zero" gives IoU 0, "skip" nan. A class
            that occurs on neither side is nan.

    Returns:
        float64 [K].
    """
    hit = counts.diag().double()
    labelled, predicted = counts.sum(1).double(), counts.sum(0).double()
    iou = hit / (labelled + predicted - hit)
    return torch.where(labelled > 0, iou, torch.nan) if absent == "skip" else iou


def class_accuracy(counts: Tensor) -> Tensor:
    """Share of each class's label pixels that are predicted right, float64 [K]; nan where a class has none."""
    return counts.diag().double() / counts.sum(1).double()
