"""The range of labels."""

from __future__ import annotations

from torch import Tensor


def check_labels(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """Checks that every label is a class or ignored. On a GPU this waits for the queue.

    Args:
        labels: integers of any shape.
        num_classes: number of classes K.
        ignore_index: label that means "ignore".

    Raises:
        ValueError: a label is out of range; the message names up to five such values.
    """
    if not labels.numel():
        return
    low, high = labels.aminmax()
    if low >= 0 and high < num_classes:
        return
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        values = sorted(set(labels[wrong].tolist()))[:5]
        raise ValueError(
            f"labels: expected 0..{num_classes - 1} or ignore_index {ignore_index}, got {values}. Set "
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES to the data set's number of classes, or map the ids "
            "(DATASETS.FOLDER.ID_MAP)."
        )
