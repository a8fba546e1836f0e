"""Objects of a COCO file: read once, repaired where that is certain, and refused by name where it is not."""

from .masks import encode
from .reader import Objects, category_names, dataset_dicts, read_objects

__all__ = ["Objects", "category_names", "dataset_dicts", "encode", "read_objects"]
