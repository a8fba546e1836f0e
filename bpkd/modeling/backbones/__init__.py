"""Backbones: maps of several stages from an image."""

from .resnet import ResNetV1c, build_resnet_v1c_backbone

__all__ = ["ResNetV1c", "build_resnet_v1c_backbone"]
