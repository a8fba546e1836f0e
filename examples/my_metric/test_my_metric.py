"""The metric beside its definition, and in parts."""

import pytest
import torch

from my_metric import FrequencyWeightedIoU

LABEL = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 255]])
PREDICTION = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 2]])


def test_value() -> None:
    metric = FrequencyWeightedIoU(num_classes=3)
    metric.update(PREDICTION, LABEL)
    assert metric.compute()["fwIoU"] == pytest.approx(100 * (6 / 7 * 5 / 6 + 1 / 7 * 1 / 2))


def test_parts_add_up() -> None:
    whole, left, right = (FrequencyWeightedIoU(num_classes=3) for _ in range(3))
    whole.update(PREDICTION, LABEL)
    left.update(PREDICTION[:, :1], LABEL[:, :1])
    right.update(PREDICTION[:, 1:], LABEL[:, 1:])
    assert left.merge_state([right]).compute() == whole.compute()
