"""Boundary privileged knowledge distillation for segmentation networks."""

__version__ = "0.1.0"
