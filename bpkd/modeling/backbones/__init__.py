"""Backbones, which compute the maps of several stages from an image."""

from .hrnet import HRNet, build_hrnet_backbone
from .mobilenet_v2 import MobileNetV2, build_mobilenet_v2_backbone
from .resnet import ResNetV1c, build_resnet_v1c_backbone

__all__ = [
    "HRNet",
    "MobileNetV2",
    "ResNetV1c",
    "build_hrnet_backbone",
    "build_mobilenet_v2_backbone",
    "build_resnet_v1c_backbone",
]
