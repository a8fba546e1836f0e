"""Frequency weighted IoU: a metric that bpkd does not have."""

from __future__ import annotations

from typing import Any

from bpkd.metrics import Metric, class_iou, confusion_counts, register_metric
from torch import Tensor


@register_metric
class FrequencyWeightedIoU(Metric):
    """Mean of the classes' IoU, each weighted by its share of the labelled pixels.

    Source:
        Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 5.
    """

    confusion: Tensor

    def __init__(self, num_classes: int, **options: Any) -> None:
        """Starts with no image; ``options`` as in ``Metric``."""
        super().__init__(num_classes, **options)
        self.register_sum("confusion", (num_classes, num_classes))

    def count(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """Adds the pairs of label and prediction of one batch."""
        self.confusion += confusion_counts(prediction, target, valid, self.num_classes)

    def compute(self) -> dict[str, float]:
        """Returns ``fwIoU`` in percent."""
        share = self.confusion.sum(1) / self.confusion.sum()
        return {"fwIoU": 100 * float((share * class_iou(self.confusion).nan_to_num()).sum())}
