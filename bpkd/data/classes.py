"""The task and the classes of registered data sets, compared with those of a network."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from bpkd.tasks import INSTANCE, SEMANTIC, Task


def dataset_task(name: str) -> Task:
    """Returns the task of a registered data set."""
    return INSTANCE if MetadataCatalog.get(name).get("evaluator_type") == "coco" else SEMANTIC


def check_class_count(cfg: CfgNode, name: str, *, read: bool) -> None:
    """Compares the number of a data set's classes with that of the network.

    Args:
        cfg: Config of the network.
        name: Name of a data set of the network's task.
        read: Whether the data set has been read. Before that, the classes of a COCO file may be unknown.

    Raises:
        ValueError: the numbers differ.
    """
    task = dataset_task(name)
    names, wanted = task.class_names(MetadataCatalog.get(name)), task.num_classes(cfg)
    if len(names) != wanted and (names or read):
        more = ", ..." if len(names) > 4 else ""
        raise ValueError(
            f"{task.class_key} is {wanted}, but {name} has {len(names)} classes ({', '.join(names[:4])}{more}). "
            f"Set it to {len(names)}."
        )


def check_same_classes(names: Sequence[str]) -> None:
    """Checks that all training sets have the same class list.

    Raises:
        ValueError: they differ.
    """
    classes = [dataset_task(name).class_names(MetadataCatalog.get(name)) for name in names]
    if any(own != classes[0] for own in classes):
        raise ValueError(f"DATASETS.TRAIN: expected sets with the same classes, got {list(names)}.")
