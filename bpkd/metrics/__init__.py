"""Segmentation metrics, usable without Detectron2."""

from .base import METRICS, Metric, register_metric
from .confusion import class_accuracy, class_iou, confusion_counts
from .segmentation import SegmentationMetrics

__all__ = [
    "METRICS",
    "Metric",
    "SegmentationMetrics",
    "class_accuracy",
    "class_iou",
    "confusion_counts",
    "register_metric",
]
