"""The published data sets: places of their files, meaning of mask values, and numbers of images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .ade20k import ade20k_sets
from .base import InstanceSet, SemanticSet
from .camvid import camvid_sets
from .cityscapes import cityscapes_sets
from .coco import coco_sets
from .pascal_context import pascal_context_sets

__all__ = ["InstanceSet", "SemanticSet", "published_sets"]


def published_sets(root: Path) -> Iterable[SemanticSet | InstanceSet]:
    """Returns every split of every published data set below ``root``, whether its files are there or not."""
    yield from camvid_sets(root)
    yield from ade20k_sets(root)
    yield from cityscapes_sets(root)
    yield from pascal_context_sets(root)
    yield from coco_sets(root)
