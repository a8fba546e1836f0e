"""What is a class id for the metrics as a library: whole numbers; scores and fractions are refused with a hint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bpkd.metrics import SegmentationMetrics, segmentation
from bpkd.metrics.absent import ABSENT, absent_lines, means_of
from tests.helpers.label_maps import blocks

LABEL = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 255]])
PREDICTION = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0]])


def counted(prediction: object, label: object = LABEL) -> list[int]:
    metrics = SegmentationMetrics(2, widths=(1,))
    metrics.update(prediction, label)  # type: ignore[arg-type]
    return metrics.counts.flatten().tolist()


WANTED = [2, 1, 0, 4]


@pytest.mark.parametrize(
    "prediction",
    [
        PREDICTION.float(),
        PREDICTION.double().numpy(),
        PREDICTION.bool(),
        PREDICTION.bool().numpy(),
        (PREDICTION.numpy().astype(np.uint8) * 255).view(np.bool_),  # Pillow's
        PREDICTION.to(torch.uint16),
        PREDICTION.numpy().astype(np.uint32),
        PREDICTION.numpy().astype(">i2"),
    ],
    ids=["float32", "float64", "bool tensor", "bool array", "bytes of 255", "uint16", "uint32", "big-endian"],
)
def test_whole_numbers_of_any_type_are_ids(prediction: object) -> None:
    if isinstance(prediction, np.ndarray) and not prediction.dtype.isnative:
        prediction = prediction.astype(prediction.dtype.newbyteorder("="))
    assert counted(prediction) == WANTED


def test_labels_may_be_whole_floats_too() -> None:
    assert counted(PREDICTION, LABEL.double()) == WANTED


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (PREDICTION * 0.9, "prediction: expected class ids, got fractions between 0 and 0.9: probabilities are no ids"),
        (PREDICTION.float() * 3.5 - 1, "fractions between -1 and 2.5: scores are no ids"),
        (PREDICTION.float().masked_fill(PREDICTION == 1, torch.nan), "5 values that are nan or infinite"),
        (PREDICTION.float() / 0, "nan or infinite"),
        (torch.zeros(2, 2, 4), r"\(2, 2, 4\) and \(2, 4\).* take argmax\(0\)"),
        (torch.zeros(1, 2, 2, 4), r"argmax over its classes"),
        (PREDICTION.to(torch.complex64), "expected integers, got torch.complex64"),
        (PREDICTION * 255, r"got 255.* are predictions and labels swapped\? Of masks of 0 and 255, map 255 to 1"),
    ],
)  # fmt: skip
def test_what_is_no_id_is_refused_with_a_hint(prediction: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        counted(prediction)


def test_batches_of_logits_are_refused_with_argmax_1() -> None:
    with pytest.raises(ValueError, match=r"take argmax\(1\)"):
        counted(torch.zeros(3, 2, 2, 4), LABEL.expand(3, 2, 4))


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_is_a_positive_number(ratio: float) -> None:
    with pytest.raises(ValueError, match="boundary_ratio: expected a positive share"):
        SegmentationMetrics(2, boundary_ratio=ratio)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 or more, got 1: with one class every labelled pixel is right"):
        SegmentationMetrics(1)


@pytest.mark.parametrize("rule", ABSENT)
def test_the_other_conventions_figures_are_those_of_the_other_convention(rule: str) -> None:
    label = torch.tensor([[0, 0, 1, 1]] * 4)
    prediction = label.clone()
    prediction[0, 0] = 2
    both = {one: SegmentationMetrics(4, widths=(1,), absent=one) for one in ABSENT}
    for metrics in both.values():
        metrics.update(prediction, label)
    own, (other,) = both[rule].compute(), [m.compute() for one, m in both.items() if one != rule]
    facts = own["absent"]
    assert (facts["in_no_label"], facts["predicted"], facts["never_predicted"]) == ([2, 3], [2], [])
    wanted = {k: v for k, v in means_of(other).items() if v != means_of(own)[k]}
    assert facts["other"] == wanted
    assert "mIoU" in wanted
    assert any(f"--absent {facts['other_rule']}" in line for line in absent_lines(own))


def test_nothing_is_said_of_the_other_convention_where_they_agree() -> None:
    metrics = SegmentationMetrics(2, widths=(1,))
    metrics.update(PREDICTION, LABEL)
    result = metrics.compute()
    assert result["absent"]["other"] == {}
    assert len(absent_lines(result)) == 1
    assert result["absent"]["ignored_share"] == 12.5


def test_images_without_a_labelled_pixel_change_no_figure() -> None:
    metrics, alone = (SegmentationMetrics(2, widths=(1,)) for _ in range(2))
    for one in (metrics, alone):
        one.update(PREDICTION, LABEL)
    metrics.update(PREDICTION, torch.full_like(LABEL, 255))
    found, wanted = metrics.compute(), alone.compute()
    assert found["images_without_label"] == 1
    changed = ("absent", "images_without_label", "protocol")
    same = ({k: str(v) for k, v in one.items() if k not in changed} for one in (found, wanted))  # nan equals nothing
    assert next(same) == next(same)
    assert metrics.merge_state([metrics]).compute()["images_without_label"] == 2


@pytest.mark.parametrize("pixels", [1, 200, 900])
def test_strips_count_what_the_whole_counts(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"widths": (1, 3, 9), "tolerances": (1, 4), "boundary_ratio": 0.06}
    whole, strips = (SegmentationMetrics(5, **options) for _ in range(2))
    for seed in range(4):
        whole.update(*blocks(seed))
    monkeypatch.setattr(segmentation, "STRIP", pixels)
    for seed in range(4):
        strips.update(*blocks(seed))
    for name, counts in whole.state_dict().items():
        assert torch.equal(counts, strips.state_dict()[name]), name
