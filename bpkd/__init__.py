"""Boundary privileged knowledge distillation for segmentation networks."""

__version__ = "0.1.0"

from .old_modules import install as _install_old_modules

_install_old_modules()
