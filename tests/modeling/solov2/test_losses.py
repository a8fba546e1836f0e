"""SOLOv2's losses and what is read off its outputs, against mmdetection's numbers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from bpkd.modeling.solov2 import (
    Detection,
    GridAssigner,
    category_loss,
    detect,
    dice,
    image_instances,
    mask_loss,
    matrix_nms,
    pair_kernels,
    point_nms,
    postprocess,
)
from bpkd.structures import GridTargets, SOLOv2Outputs
from tests.helpers.golden_solov2 import CANVAS, GRIDS, RANGES, numbers, table, toy

STRIDES = (8, 8, 16, 32, 32)


def outputs(prefix: str = "loss", dtype: torch.dtype = torch.float64) -> SOLOv2Outputs:
    data = numbers("loss_features", "loss_heads") if prefix == "loss" else numbers("nms_post")

    def leaf(key: str) -> torch.Tensor:
        return torch.from_numpy(data[key]).to(dtype).requires_grad_()

    return SOLOv2Outputs(
        tuple(leaf(f"{prefix}_cls_l{i}") for i in range(5)),
        tuple(leaf(f"{prefix}_kernel_l{i}") for i in range(5)),
        leaf(f"{prefix}_mask_feats"),
        (),
    )


def toy_targets(ranges: str, *, empty: bool = False) -> GridTargets:
    assigner = GridAssigner(num_classes=5, num_grids=GRIDS, scale_ranges=RANGES[ranges])
    labels = [toy(name, num_classes=5) for name in ("im0", "im1")]
    return assigner([image_instances(one[:0] if empty else one, torch.device("cpu")) for one in labels], CANVAS)


def norms(tensors: Any) -> list[float]:
    return [float(t.grad.norm()) for t in tensors]


def test_focal_is_mmdetections() -> None:
    data = numbers("loss_heads")
    logits, labels = torch.from_numpy(data["focal_logits"]), torch.from_numpy(data["focal_labels"])
    wanted = F.one_hot(labels, 6)[:, :5].float()
    terms = sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0)
    torch.testing.assert_close(terms, torch.from_numpy(data["focal_elementwise"]), atol=1e-5, rtol=1e-5)
    assert float(terms.sum()) == pytest.approx(table("scalars")["focal_sum"], rel=1e-6)


def test_dice_is_mmdetections() -> None:
    data = numbers("loss_heads")
    rows = dice(torch.from_numpy(data["dice_logits"]), torch.from_numpy(data["dice_targets"]).bool())
    torch.testing.assert_close(rows, torch.from_numpy(data["dice_rows"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("ranges", sorted(RANGES))
def test_both_losses_and_their_gradients_are_mmdetections(ranges: str) -> None:
    golden, own, targets = table("scalars")[f"loss_{ranges}"], outputs(), toy_targets(ranges)
    category = category_loss(own.category_logits, targets)
    mask = 3 * mask_loss(own, targets, normalizer="per_cell")
    assert float(category.detach()) == pytest.approx(golden["loss_cls"], abs=1e-8)
    assert float(mask) == pytest.approx(golden["loss_mask"], abs=1e-8)
    (category + mask).backward()
    assert norms([own.mask_features])[0] == pytest.approx(golden["grad_l2_feats"], rel=1e-6)
    assert norms(own.kernels) == pytest.approx(golden["grad_l2_kernel"], rel=1e-6)
    assert norms(own.category_logits) == pytest.approx(golden["grad_l2_cls"], rel=1e-6)


@pytest.mark.parametrize("ranges", sorted(RANGES))
def test_mean_over_pairs(ranges: str) -> None:
    own, targets = outputs(), toy_targets(ranges)
    assert float(3 * mask_loss(own, targets)) == pytest.approx(
        table("scalars")[f"loss_{ranges}_mask_mean_over_pairs_derived"], abs=1e-8
    )
    counts = table("scalars")[f"loss_{ranges}_counts"]
    kernels, image, _ = pair_kernels(own.kernels, targets)
    assert len(kernels) == counts["cell_instance_pairs"]
    assert image.tolist() == sorted(image.tolist())
    assert sum(int((t.labels < 5).sum()) for t in targets.levels) == counts["unique_positive_cells"]


def test_a_batch_without_instances_gives_zero_with_gradients() -> None:
    own, targets = outputs(), toy_targets("light", empty=True)
    golden = table("scalars")["loss_light_no_gt"]
    category, mask = category_loss(own.category_logits, targets), mask_loss(own, targets)
    assert float(mask) == 0
    assert float(category) == pytest.approx(golden["loss_cls"], rel=1e-6)  # theirs is float32 here
    (category + mask).backward()
    assert all(t.grad is not None for t in (own.mask_features, *own.kernels))
    assert norms([own.mask_features, *own.kernels]) == [0] * 6
    assert norms(own.category_logits) == pytest.approx(golden["grad_l2_cls"], rel=1e-6)


def test_losses_are_float32_under_autocast() -> None:
    own, targets = outputs(dtype=torch.float32), toy_targets("light")
    plain = category_loss(own.category_logits, targets), mask_loss(own, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = category_loss(own.category_logits, targets), mask_loss(own, targets)
    assert [t.dtype for t in cast] == [torch.float32] * 2
    torch.testing.assert_close(cast, plain, atol=1e-6, rtol=1e-6)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="NORMALIZER: expected one of pairs, per_cell, got 'cells'"):
        mask_loss(outputs(), toy_targets("light"), normalizer="cells")
    with pytest.raises(ValueError, match="NMS_KERNEL: expected one of gaussian, linear, got 'box'"):
        matrix_nms(torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1), torch.ones(1), kernel="box")


def test_point_nms() -> None:
    data = numbers("nms_post")
    assert torch.equal(point_nms(torch.from_numpy(data["pnms_in"])), torch.from_numpy(data["pnms_out"]))


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_matrix_nms(kernel: str) -> None:
    data = numbers("nms_post")
    shape = tuple(data["mnms_shape"])
    masks = torch.from_numpy(np.unpackbits(data["mnms_masks_packed"], axis=1)[:, : shape[1] * shape[2]].reshape(shape))
    scores, labels = torch.from_numpy(data["mnms_scores"]), torch.from_numpy(data["mnms_labels"])
    first = scores.argsort(descending=True)

    def run(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        order = first[:count]
        new = matrix_nms(masks[order].bool(), labels[order], scores[order], kernel=kernel)
        again = new.argsort(descending=True, stable=True)
        return new[again], order[again]

    ours, index = run(len(scores))
    torch.testing.assert_close(ours, torch.from_numpy(data[f"mnms_{kernel}_scores"]), atol=1e-5, rtol=0)
    assert index.tolist() == data[f"mnms_{kernel}_index"].tolist()
    if kernel == "gaussian":
        ours, index = run(15)
        kept = (ours >= 0.05).nonzero()[:8, 0]
        theirs = torch.from_numpy(data["mnms_pre15_thr05_max8_scores"])
        torch.testing.assert_close(ours[kept], theirs, atol=1e-5, rtol=0)
        assert index[kept].tolist() == data["mnms_pre15_thr05_max8_index"].tolist()


def test_linear_decay_survives_a_mask_that_is_there_twice() -> None:
    masks = torch.ones(3, 4, 4, dtype=torch.bool)
    new = matrix_nms(masks, torch.zeros(3), torch.tensor([0.9, 0.8, 0.7]), kernel="linear")
    assert new.tolist() == pytest.approx([0.9, 0, 0])


def golden_detections(**options: Any) -> Instances:
    with torch.no_grad():
        return detect(
            outputs("post", torch.float32),
            0,
            content=(250, 370),
            size=(200, 296),
            strides=STRIDES,
            options=Detection(**options),
        )


@pytest.mark.parametrize("pixels", [postprocess.PIXELS, 200_000])
def test_post_processing_is_mmdetections_whatever_the_chunk(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = numbers("nms_post")
    monkeypatch.setattr(postprocess, "PIXELS", pixels)
    found = golden_detections(max_candidates=0)
    torch.testing.assert_close(found.scores, torch.from_numpy(data["post_scores"]), atol=1e-5, rtol=0)
    assert found.pred_classes.tolist() == data["post_labels"].tolist()
    masks = np.unpackbits(data["post_masks_packed"], axis=1)[:, : 200 * 296].reshape(-1, 200, 296)
    assert np.array_equal(found.pred_masks.numpy(), masks.astype(bool))
    assert found.pred_masks.flatten(1).sum(1).tolist() == data["post_area"].tolist()
    assert torch.equal(found.pred_boxes.tensor, BitMasks(found.pred_masks).get_bounding_boxes().tensor)


def test_few_candidates_are_the_best_ones() -> None:
    found = golden_detections(max_candidates=40)
    assert 0 < len(found) <= 40
    everything = golden_detections(max_candidates=0)
    assert float(found.scores.max()) <= float(everything.scores.max()) + 1e-6


def test_nothing_found_has_the_right_types() -> None:
    found = golden_detections(score_threshold=1.0)
    assert len(found) == 0
    assert found.pred_masks.shape == (0, 200, 296)
    assert (found.pred_masks.dtype, found.pred_classes.dtype, found.scores.dtype) == (
        torch.bool, torch.int64, torch.float32
    )  # fmt: skip
    assert found.pred_boxes.tensor.shape == (0, 4)


def test_masks_above_all_thresholds_but_too_small_are_dropped() -> None:
    data = outputs("post", torch.float32)
    flat = copy.copy(data)
    object.__setattr__(flat, "mask_features", torch.full_like(data.mask_features, -1.0))
    object.__setattr__(flat, "kernels", tuple(torch.ones_like(k) for k in data.kernels))
    found = detect(flat, 0, content=(250, 370), size=(200, 296), strides=STRIDES, options=Detection())
    assert len(found) == 0


def test_boxes_are_tight_and_end_after_the_last_pixel() -> None:
    found = golden_detections()
    first = found[0]
    rows, columns = first.pred_masks[0].nonzero(as_tuple=True)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert isinstance(first.pred_boxes, Boxes)
    assert first.pred_boxes.tensor[0].tolist() == [float(v) for v in expected]
