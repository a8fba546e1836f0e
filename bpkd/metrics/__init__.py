"""Segmentation metrics, usable without Detectron2."""

from .segmentation import SegmentationMetrics

__all__ = ["SegmentationMetrics"]
