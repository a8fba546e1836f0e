from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bpkd.metrics import SegmentationMetrics
from bpkd.metrics.boundary import boundary_width, contour_counts, inner_boundary, mask_boundary
from tests.helpers.label_maps import blocks, published_boundary

RECIPE = json.loads((Path(__file__).parents[1] / "golden" / "networks" / "recipe.json").read_text())["miou"]


def golden_case() -> tuple[np.ndarray, np.ndarray]:
    pred = np.random.default_rng(13).integers(0, 6, (3, 20, 30))
    target = np.random.default_rng(14).integers(0, 8, (3, 20, 30))
    target[target == 5] = 0
    target[target == 6] = 255
    target[target == 7] = 1
    same = (np.random.default_rng(15).random((3, 20, 30)) < 0.6) & (target != 255)
    pred[same] = target[same]
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
    assert left.merge_state([right]) is left
    a, b = left.compute(), whole.compute()
    assert json.dumps(a) == json.dumps(b)


def test_different_protocols_do_not_merge() -> None:
    with pytest.raises(ValueError, match="one protocol"):
        SegmentationMetrics(4, widths=(1,)).merge_state([SegmentationMetrics(4, widths=(2,))])


def test_nothing_valid_is_nan_not_a_crash() -> None:
    metrics = SegmentationMetrics(3)
    metrics.update(np.zeros((6, 6), int), np.full((6, 6), 255))
    assert math.isnan(metrics.compute()["mIoU"])


def test_wrong_input_says_what_to_change() -> None:
    metrics = SegmentationMetrics(3)
    with pytest.raises(ValueError, match="one shape"):
        metrics.update(np.zeros((4, 5), int), np.zeros((5, 4), int))
    with pytest.raises(ValueError, match=r"label: expected ids 0..2, got 7"):
        metrics.update(np.zeros((2, 2), int), np.array([[0, 7], [0, 0]]))
    with pytest.raises(ValueError, match=r"prediction: expected ids 0..2, got 3"):
        metrics.update(np.array([[0, 3], [0, 0]]), np.zeros((2, 2), int))
    with pytest.raises(ValueError, match=r"prediction: expected ids 0..2, got -2, 3, 4, 5, 6, \.\.\."):
        metrics.update(np.array([[-2, 0, 1, 2, 3, 4, 5, 6, 7]]), np.zeros((1, 9), int))
    with pytest.raises(ValueError, match="tolerances: expected a whole number of 1 or more"):
        SegmentationMetrics(3, tolerances=(0,))
    with pytest.raises(ValueError, match="absent"):
        SegmentationMetrics(3, absent="ignore")


@pytest.mark.parametrize("ratio", [0.01, 0.05, 0.2])
def test_binary_boundary_iou_equals_the_published_definition(ratio: float) -> None:
    pred, target = blocks(7, (30, 40), 2)
    target[target == 255] = 0
    metrics = SegmentationMetrics(2, boundary_ratio=ratio)
    metrics.update(pred, target)
    for c in range(2):
        p, t = (published_boundary(x == c, ratio) for x in (pred, target))
        assert metrics.compute()["boundary_IoU_per_class"][c] == pytest.approx(100 * (p & t).sum() / (p | t).sum())
        distance = boundary_width(30, 40, ratio)
        assert (mask_boundary(torch.from_numpy(pred == c), distance).numpy() == p).all()
    assert metrics.compute()["boundary_IoU"] < 100


def loop_contour(labels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return loop_band(np.where(valid, labels, 255), 1)


def loop_f(pred: np.ndarray, target: np.ndarray, tolerance: int, num_classes: int) -> list[float]:
    valid = target != 255
    contours = [loop_contour(x, valid) for x in (pred, target)]
    scores = []
    for c in range(num_classes):
        own, other = (k & (x == c) for k, x in zip(contours, (pred, target), strict=True))
        shares = []
        for a, b in ((own, other), (other, own)):
            near = 0
            for y, x in np.argwhere(a):
                near += b[max(0, y - tolerance) : y + tolerance + 1, max(0, x - tolerance) : x + tolerance + 1].any()
            shares.append(near / max(1, a.sum()))
        scores.append(100 * 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0)
    return scores


@pytest.mark.parametrize(("num_classes", "seed"), [(4, 3), (70, 4)])
def test_boundary_f_equals_plain_loops(num_classes: int, seed: int) -> None:
    pred, target = blocks(seed, num_classes=4)
    step = num_classes // 4  # ids beyond the first bit word
    pred, target = pred * step, np.where(target == 255, 255, target * step)
    metrics = SegmentationMetrics(num_classes, tolerances=(1, 3))
    metrics.update(pred, target)
    result = metrics.compute()["boundary_F"]
    for t in (1, 3):
        want = loop_f(pred, target, t, num_classes)
        assert result[t]["F"][: 4 * step : step] == pytest.approx(want[: 4 * step : step])
    assert result[1]["mF"] < result[3]["mF"] < 100


def test_boundary_f_of_a_shifted_square() -> None:
    target = np.zeros((20, 20), int)
    target[5:15, 5:15] = 1
    metrics = SegmentationMetrics(2, tolerances=(1, 2, 3))
    metrics.update(np.roll(target, 3, axis=1), target)
    scores = {t: v["F"][1] for t, v in metrics.compute()["boundary_F"].items()}
    # 36 contour pixels each. Three apart: rows overlap for 7 columns and reach t further; columns match at t = 3.
    assert scores[3] == 100.0
    assert scores[1] == pytest.approx(100 * (2 * 8 + 2) / 36)  # and one pixel below each row's end
    assert scores[1] < scores[2] < scores[3]
    away = SegmentationMetrics(3)
    away.update(np.full((8, 8), 2), np.zeros((8, 8), int))
    assert math.isnan(away.compute()["boundary_F"][3]["F"][2])  # no contour on either side
    missed = SegmentationMetrics(2, tolerances=(1,))
    missed.update(target * 0, target)
    assert missed.compute()["boundary_F"][1]["F"] == [0.0, 0.0]


def test_bands_equal_scipys_distance_transform() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    pred, target = blocks(2, (30, 40))
    valid = target != 255
    for width in (1, 3, 9):
        band = np.zeros(target.shape, bool)
        for c in range(4):
            # chessboard distance to the nearest valid pixel of another class
            distance = ndimage.distance_transform_cdt(~(valid & (target != c)), metric="chessboard")
            band |= valid & (target == c) & (distance <= width)
        metrics = SegmentationMetrics(4, widths=(width,))
        metrics.update(pred, target)
        want = loop_iou(pred, target, band, 4)
        assert metrics.compute()["trimap"][width]["IoU"] == pytest.approx(want, nan_ok=True)
    contours = [loop_contour(x, valid) for x in (pred, target)]
    counts = contour_counts(*(torch.from_numpy(x)[None] for x in (pred, np.where(valid, target, 0), valid)), 4, 2)
    for c in range(4):
        own, other = (k & (x == c) for k, x in zip(contours, (pred, target), strict=True))
        near = ndimage.distance_transform_cdt(~other, metric="chessboard") <= 2
        assert counts[:2, c].tolist() == [(own & near).sum(), own.sum()]


def test_edge_and_body_divide_the_valid_pixels() -> None:
    pred, target = blocks(1)
    metrics = SegmentationMetrics(4, widths=(2, 1))  # any order
    metrics.update(pred, target)
    result = metrics.compute()
    for w in (1, 2):
        edge, body = result["trimap"][w], result["body"][w]
        assert edge["share"] + body["share"] == pytest.approx(100)
        mean = (edge["share"] * edge["aAcc"] + body["share"] * body["aAcc"]) / 100
        assert mean == pytest.approx(result["aAcc"])
        assert edge["share"] == pytest.approx(100 * loop_band(target, w).sum() / (target != 255).sum())


def test_state_is_tensors_that_reduce_and_load() -> None:
    one, two = SegmentationMetrics(4), SegmentationMetrics(4)
    one.update(*blocks(0))
    for _ in range(3):
        two.update(*blocks(0))
    assert all(v.dtype == torch.int64 for v in one.state_dict().values())
    copy = SegmentationMetrics(4)
    copy.load_state_dict(one.state_dict())
    copy.reduce(lambda tensor: tensor.mul_(3))  # three processes that saw the same
    assert json.dumps(copy.compute()) == json.dumps(two.compute())
    assert one.num_images == 1  # loading copied
    with pytest.raises(ValueError, match=r"state: expected the counts.*\(4, 4\).*got.*\(5, 5\)"):
        copy.load_state_dict(SegmentationMetrics(5).state_dict())


def test_more_than_255_classes() -> None:
    pred, target = blocks(0)
    small, large = SegmentationMetrics(4), SegmentationMetrics(700, ignore_index=-1)
    small.update(pred, target)
    large.update(pred * 200, np.where(target == 255, -1, target * 200))
    a, b = small.compute(), large.compute()
    assert a["mIoU"] == pytest.approx(b["mIoU"])
    assert a["trimap"][3]["mIoU"] == pytest.approx(b["trimap"][3]["mIoU"])
    assert a["boundary_F"][3]["mF"] == pytest.approx(b["boundary_F"][3]["mF"])
    assert a["boundary_IoU"] == pytest.approx(b["boundary_IoU"])


def test_unsigned_ids_of_16_bits_count_and_bad_settings_are_refused() -> None:
    ids = np.array([[0, 1], [1, 300]], np.uint16)
    metrics = SegmentationMetrics(301)
    metrics.update(ids, ids)
    assert metrics.compute()["mIoU"] == 100
    with pytest.raises(ValueError, match="num_classes: expected a whole number of 1 or more, got 0"):
        SegmentationMetrics(0)
    with pytest.raises(ValueError, match="boundary_ratio: expected a positive share of at most 1, got -1.0"):
        SegmentationMetrics(2, boundary_ratio=-1.0)
