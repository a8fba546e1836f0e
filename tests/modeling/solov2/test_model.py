"""SOLOv2 as a Detectron2 meta-architecture: batches in, losses and instances out; it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from bpkd.config import get_bpkd_cfg
from bpkd.modeling import build_dense, build_student, task_of
from bpkd.modeling.solov2 import SOLOv2
from bpkd.tasks import INSTANCE, SEMANTIC
from tests.conftest import TOLERANCE


def tiny_cfg(*opts: Any) -> CfgNode:
    cfg = get_bpkd_cfg()
    cfg.merge_from_list(
        [
            "MODEL.DEVICE", "cpu",
            "MODEL.META_ARCHITECTURE", "SOLOv2",
            "MODEL.BACKBONE.NAME", "build_deform_resnet_fpn_backbone",
            "MODEL.BACKBONE.FREEZE_AT", 0,
            "MODEL.RESNETS.DEPTH", 18,
            "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
            "MODEL.RESNETS.NORM", "BN",
            "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.FPN.OUT_CHANNELS", 32,
            "MODEL.SOLOV2.NUM_CLASSES", 3,
            "MODEL.SOLOV2.NUM_CONVS", 1,
            "MODEL.SOLOV2.CHANNELS", 32,
            "MODEL.SOLOV2.MASK_CHANNELS", 32,
            "MODEL.SOLOV2.KERNEL_CHANNELS", 32,
            "MODEL.SOLOV2.NUM_GRIDS", [12, 10, 8, 6, 4],
            "MODEL.SOLOV2.SCALE_RANGES", [[1, 24], [16, 48], [32, 64], [48, 128], [96, 512]],
            *opts,
        ]
    )  # fmt: skip
    return cfg


def tiny(*opts: Any) -> SOLOv2:
    torch.manual_seed(0)
    model = build_model(tiny_cfg(*opts))
    assert isinstance(model, SOLOv2)
    return model


def scene(size: tuple[int, int], boxes: list[list[int]], *, seed: int = 0) -> dict[str, Any]:
    """An image of rectangles, each of its class's colour, with its labels."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 40, (3, *size), generator=generator)
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        masks[i, y1:y2, x1:x2] = True
        image[i % 3, y1:y2, x1:x2] += 180
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % 3
    instances.gt_masks = BitMasks(masks)
    return {"image": image.to(torch.uint8), "instances": instances, "file_name": f"{seed}.png"}


def batch() -> list[dict[str, Any]]:
    return [
        scene((64, 96), [[4, 6, 30, 28], [50, 10, 90, 58], [10, 40, 22, 52]]),
        scene((61, 75), [[40, 5, 70, 30], [5, 30, 35, 60]], seed=1),
    ]


def test_overfit_lowers_both_losses() -> None:
    model = tiny().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(20):
        losses = model(batch())
        assert set(losses) == {"loss_category", "loss_mask"}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({k: float(v) for k, v in losses.items()})
    assert history[-1]["loss_category"] < 0.5 * history[0]["loss_category"]
    assert history[-1]["loss_mask"] < 0.7 * history[0]["loss_mask"]


def test_losses_of_images_of_several_sizes_are_those_of_one_padded_batch() -> None:
    model = tiny().train()
    images = model.preprocess(batch())
    assert images.tensor.shape[-2:] == (64, 96)
    outputs = model.raw_outputs(images.tensor)
    assert outputs.canvas == (64, 96)
    targets = model.assign([item["instances"] for item in batch()], outputs.canvas)
    assert targets.image.tolist() == [0, 0, 0, 1, 1]
    assert [tuple(m.shape) for m in targets.full_masks] == [(3, 64, 96), (2, 61, 75)]
    direct, whole = model.losses(outputs, targets), model(batch())
    for name, value in direct.items():
        torch.testing.assert_close(value, whole[name])


def test_every_parameter_gets_a_gradient_from_a_batch_without_instances() -> None:
    model = tiny().train()
    items = [
        scene((64, 64), []),
        {"image": torch.zeros(3, 50, 40, dtype=torch.uint8), "instances": Instances((50, 40))},
    ]
    losses = model(items)
    assert float(losses["loss_mask"]) == 0
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == []


def test_polygons_and_bitmasks_give_the_same_losses() -> None:
    model = tiny().eval()
    items = batch()
    polygons = []
    for item in items:
        boxes = item["instances"].gt_boxes.tensor.tolist()
        corners = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes]
        drawn = Instances(item["instances"].image_size)
        drawn.gt_boxes, drawn.gt_classes = item["instances"].gt_boxes, item["instances"].gt_classes
        drawn.gt_masks = PolygonMasks(corners)
        polygons.append({**item, "instances": drawn})
    images = model.preprocess(items)
    outputs = model.raw_outputs(images.tensor)
    first, second = (model.losses(outputs, model.targets(one, images)) for one in (items, polygons))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name])


def test_loss_weights_and_normaliser_are_the_configs() -> None:
    plain = tiny()
    other = tiny("MODEL.SOLOV2.CATEGORY_WEIGHT", 2.0, "MODEL.SOLOV2.MASK_WEIGHT", 6.0)
    cells = tiny("MODEL.SOLOV2.NORMALIZER", "per_cell")
    a, b, c = (model.train()(batch()) for model in (plain, other, cells))
    torch.testing.assert_close(b["loss_category"], 2 * a["loss_category"])
    torch.testing.assert_close(b["loss_mask"], 2 * a["loss_mask"])
    assert float(c["loss_mask"]) >= float(a["loss_mask"])
    with pytest.raises(ValueError, match="NORMALIZER: expected one of"):
        tiny("MODEL.SOLOV2.NORMALIZER", "mean")


def test_instances_have_the_size_that_the_item_asks_for() -> None:
    model = tiny("MODEL.SOLOV2.SCORE_THRESHOLD", 0.005, "MODEL.SOLOV2.KEEP_THRESHOLD", 0.0).eval()
    torch.nn.init.normal_(model.ins_head.kernel_pred.bias)
    torch.nn.init.normal_(model.mask_head.conv_pred[0].weight)
    items = [{**batch()[0], "height": 33, "width": 100}, batch()[1]]
    with torch.no_grad():
        found = [one["instances"] for one in model(items)]
    assert [one.image_size for one in found] == [(33, 100), (61, 75)]
    assert len(found[0]) > 0
    for one in found:
        assert one.pred_masks.dtype == torch.bool
        assert one.pred_masks.shape[1:] == one.image_size
        assert one.pred_classes.dtype == torch.int64
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
        assert torch.equal(one.pred_boxes.tensor, BitMasks(one.pred_masks).get_bounding_boxes().tensor)


def test_a_mask_is_put_where_its_image_is_on_the_canvas() -> None:
    """The scale from mask features to the canvas is 4 for an image that is much lower than its canvas too."""
    from bpkd.modeling.solov2 import full_masks

    features = torch.full((1, 16, 16), -5.0)
    features[0, :4, :8] = 5.0  # pixels 0..16 x 0..32 of a 64 x 64 canvas
    masks = full_masks(torch.ones(1, 1), features, content=(30, 64), size=(30, 64))
    rows, columns = masks[0].any(1).nonzero()[:, 0], masks[0].any(0).nonzero()[:, 0]
    assert (int(rows.max()) + 1, int(columns.max()) + 1) == (16, 32)


def test_training_without_labels_names_the_file() -> None:
    with pytest.raises(ValueError, match=r"7\.png: expected 'instances' for training"):
        tiny().train()([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "file_name": "7.png"}])


def test_it_is_built_as_a_student_but_not_as_a_dense_one() -> None:
    cfg = tiny_cfg()
    assert isinstance(build_student(cfg), SOLOv2)
    assert task_of(cfg) is INSTANCE
    assert task_of(get_bpkd_cfg()) is SEMANTIC
    with pytest.raises(TypeError, match="expected a network for semantic segmentation, got SOLOv2"):
        build_dense(cfg)


def test_acceleration() -> None:
    model = tiny().eval()
    images = model.preprocess(batch()).tensor
    plain = model.raw_outputs(images).mask_features
    model.accelerate(channels_last=True)
    # Other kernels sum in another order, and which ones run depends on the processor: small values move by more than
    # their own rounding, so the map's norm is the measure.
    apart = model.raw_outputs(images).mask_features - plain
    assert float(apart.norm()) <= TOLERANCE[torch.float32] * float(plain.norm())
    with pytest.raises(ValueError, match="MODEL.COMPILE: expected False"):
        model.accelerate(compiled=True)
