from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bpkd.metrics import SegmentationMetrics
from bpkd.metrics.boundary import inner_boundary

RECIPE = json.loads((Path(__file__).parent / "golden" / "networks" / "recipe.json").read_text())["miou"]


def golden_case() -> tuple[np.ndarray, np.ndarray]:
    pred = np.random.default_rng(13).integers(0, 6, (3, 20, 30))
    target = np.random.default_rng(14).integers(0, 8, (3, 20, 30))
    target[target == 5] = 0
    target[target == 6] = 255
    target[target == 7] = 1
    same = (np.random.default_rng(15).random((3, 20, 30)) < 0.6) & (target != 255)
    pred[same] = target[same]
    return pred, target


def blocks(seed: int, shape: tuple[int, int] = (23, 31), num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, num_classes, (6, 8))
    target = np.kron(coarse, np.ones((5, 5), int))[: shape[0], : shape[1]]
    pred = np.where(rng.random(shape) < 0.8, target, rng.integers(0, num_classes, shape))
    target = np.where(rng.random(shape) < 0.05, 255, target)
    return pred, target


def loop_iou(pred: np.ndarray, target: np.ndarray, region: np.ndarray, num_classes: int) -> list[float]:
    scores = []
    for c in range(num_classes):
        both = int(((pred == c) & (target == c) & region).sum())
        either = int((((pred == c) | (target == c)) & region).sum())
        scores.append(100 * both / either if either else math.nan)
    return scores


def loop_band(target: np.ndarray, width: int) -> np.ndarray:
    band = np.zeros(target.shape, bool)
    for y, x in np.ndindex(*target.shape):
        window = target[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        band[y, x] = target[y, x] != 255 and len(set(window.ravel().tolist()) - {255}) > 1
    return band


def test_counts_equal_openmmlabs() -> None:
    metrics = SegmentationMetrics(7)
    metrics.update(*golden_case())
    result = metrics.compute()
    assert result["mIoU"] == pytest.approx(100 * RECIPE["mIoU_nanmean"], rel=1e-6)
    assert result["mAcc"] == pytest.approx(100 * RECIPE["mAcc_nanmean"], rel=1e-6)
    assert result["aAcc"] == pytest.approx(100 * RECIPE["aAcc"], rel=1e-6)
    for got, want in zip(result["IoU"], RECIPE["IoU"], strict=True):
        assert math.isnan(got) if want is None else got == pytest.approx(100 * want, rel=1e-6)


def test_absent_class_can_be_skipped_as_detectron2_does() -> None:
    metrics = SegmentationMetrics(7, absent="skip")
    metrics.update(*golden_case())
    want = 100 * RECIPE["mIoU_if_classes_absent_from_gt_are_skipped_as_detectron2_does"]
    assert metrics.compute()["mIoU"] == pytest.approx(want, rel=1e-6)
    assert metrics.compute()["protocol"]["absent_class"] == "skip"


def test_trimap_and_body_equal_plain_loops() -> None:
    metrics = SegmentationMetrics(4, widths=(1, 3))
    cases = [blocks(seed) for seed in range(3)]
    for pred, target in cases:
        metrics.update(pred, target)
    result = metrics.compute()
    pred, target = (np.stack([c[i] for c in cases]) for i in (0, 1))
    for width in (1, 3):
        band = np.stack([loop_band(t, width) for t in target])
        valid = target != 255
        assert result["trimap"][width]["IoU"] == pytest.approx(loop_iou(pred, target, band, 4), nan_ok=True)
        assert result["body"][width]["IoU"] == pytest.approx(loop_iou(pred, target, valid & ~band, 4), nan_ok=True)


def test_boundary_equals_erosion_per_class() -> None:
    pred, target = blocks(5)
    valid = torch.from_numpy(target != 255)[None]
    labels = torch.from_numpy(np.where(target == 255, 0, target))[None]
    for distance in (1, 2):
        got = inner_boundary(labels, valid, distance)[0].numpy()
        for y, x in np.ndindex(*target.shape):
            inside = y >= distance and x >= distance and y < 23 - distance and x < 31 - distance
            window = target[max(0, y - distance) : y + distance + 1, max(0, x - distance) : x + distance + 1]
            kept = inside and set(window.ravel().tolist()) - {255} == {int(target[y, x])}
            assert got[y, x] == (target[y, x] != 255 and not kept)


def test_shifted_square_by_hand() -> None:
    target = np.zeros((20, 20), int)
    target[5:15, 5:15] = 1
    pred = np.roll(target, 1, axis=1)
    metrics = SegmentationMetrics(2, widths=(1,), boundary_ratio=0.01)
    metrics.update(pred, target)
    result = metrics.compute()
    assert result["IoU"][1] == pytest.approx(100 * 90 / 110)
    # 1-pixel rings of two 10x10 squares one apart: 36 pixels each, 18 shared (top and bottom rows' 9 each)
    assert result["boundary_IoU_per_class"][1] == pytest.approx(100 * 18 / (36 + 36 - 18))
    perfect = SegmentationMetrics(2, widths=(1,))
    perfect.update(target, target)
    assert perfect.compute()["boundary_IoU"] == 100.0
    assert perfect.compute()["trimap"][1]["mIoU"] == 100.0


def test_parts_merge_into_the_whole() -> None:
    whole, left, right = (SegmentationMetrics(4) for _ in range(3))
    for seed in range(4):
        whole.update(*blocks(seed))
        (left if seed % 2 else right).update(*blocks(seed))
    left.merge(right)
    a, b = left.compute(), whole.compute()
    assert json.dumps(a) == json.dumps(b)


def test_different_protocols_do_not_merge() -> None:
    with pytest.raises(ValueError, match="one protocol"):
        SegmentationMetrics(4, widths=(1,)).merge(SegmentationMetrics(4, widths=(2,)))


def test_nothing_valid_is_nan_not_a_crash() -> None:
    metrics = SegmentationMetrics(3)
    metrics.update(np.zeros((6, 6), int), np.full((6, 6), 255))
    assert math.isnan(metrics.compute()["mIoU"])


def test_wrong_input_says_what_to_change() -> None:
    metrics = SegmentationMetrics(3)
    with pytest.raises(ValueError, match="one shape"):
        metrics.update(np.zeros((4, 5), int), np.zeros((5, 4), int))
    with pytest.raises(ValueError, match=r"label: expected ids 0..2, got 0..7"):
        metrics.update(np.zeros((2, 2), int), np.array([[0, 7], [0, 0]]))
    with pytest.raises(ValueError, match=r"prediction: expected ids 0..2"):
        metrics.update(np.array([[0, 3], [0, 0]]), np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="absent"):
        SegmentationMetrics(3, absent="ignore")
