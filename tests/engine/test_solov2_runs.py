"""Runs on objects: loader, clipping, schedule, and what tools/train_net.py does with them."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from torch import nn

from bpkd.analysis.complexity import count
from bpkd.data import DatasetError, build_test_loader, build_train_loader
from bpkd.data.instances import InstanceAugmentation, InstanceTrainMapper
from bpkd.engine.hooks import MaskLossHint
from bpkd.engine.launch import argument_parser, load_config, main
from bpkd.engine.predict import Predictor
from bpkd.engine.step import StepTrainer, clip_gradients
from bpkd.engine.trainer import gradient_clip
from tests.helpers.golden_solov2 import REPO
from tests.helpers.miniatures import write_coco
from tests.helpers.solov2_runs import SMALL, write_shapes


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    write_shapes(tmp_path)
    monkeypatch.setattr("bpkd.engine.run_record.count", partial(count, size=(64, 64)))
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.format(repo=REPO, root=tmp_path, out=tmp_path / "out"))
    return str(path)


def run(config: str, *opts: str) -> Any:
    return main(argument_parser().parse_args(["--config-file", config, *opts]))


def test_own_objects_are_trained_evaluated_resumed_and_evaluated_alone(config: str, tmp_path: Path) -> None:
    results = run(config)
    assert {"segm", "boundary", "bbox"} <= set(results)
    out = tmp_path / "out"
    record = json.loads((out / "run.json").read_text())
    assert record["iterations"] == 4
    assert {"AP", "AP50", "APs", "boundary_AP", "bbox_AP", "AP-tall"} <= set(record["metrics"])
    assert record["segm"]["AP"] == record["metrics"]["AP"]
    rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    rows = [row for row in rows if "total_loss" in row]
    assert all({"loss_category", "loss_mask"} <= set(row) for row in rows)
    assert torch.load(out / "model_final.pth", weights_only=True)["bpkd"]["classes"] == ["tall", "square"]
    assert rows[0]["lr"] < rows[2]["lr"]  # warm-up
    assert rows[3]["lr"] == pytest.approx(0.1 * rows[2]["lr"])
    alone = run(config, "--eval-only")
    assert alone["segm"] == pytest.approx(results["segm"], nan_ok=True)
    run(config, "--resume", "SOLVER.MAX_ITER", "6")
    assert json.loads((out / "run.json").read_text())["iterations"] == 6


def test_batches_depend_on_seed_and_position_alone(config: str) -> None:
    cfg = load_config(config)
    batches = list(zip(range(4), build_train_loader(cfg), strict=False))
    again = next(iter(build_train_loader(cfg, start_iter=3)))
    for one, other in zip(batches[3][1], again, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_masks.tensor, other["instances"].gt_masks.tensor)
    sizes = {tuple(item["image"].shape[1:]) for _, batch in batches for item in batch}
    assert sizes <= {(48, 64)}


def test_masks_follow_the_image(config: str) -> None:
    load_config(config)
    item = DatasetCatalog.get("shapes_train")[0]
    for seed in range(6):
        mapper = InstanceTrainMapper(InstanceAugmentation((96,), 200, crop=("relative", (0.9, 0.9))), "RGB")
        out = mapper(item, np.random.default_rng(seed))
        labels, image = out["instances"], out["image"][0].int()
        assert "annotations" not in out
        assert labels.image_size == tuple(image.shape)
        assert torch.equal(labels.gt_boxes.tensor, labels.gt_masks.get_bounding_boxes().tensor)
        for mask, c in zip(labels.gt_masks.tensor, labels.gt_classes.tolist(), strict=True):
            inside = image[mask]
            assert float((inside - 100 * (c + 1)).abs().float().median()) <= 5
    assert item["annotations"][0]["segmentation"][0][0] >= 2  # the data set is not changed


def test_sizes_between_two_limits() -> None:
    augmentation = InstanceAugmentation((40, 60), 80, between=True, flip_prob=0)
    rng = np.random.default_rng(0)
    found = {augmentation.draw(100, 150, rng).transforms[0].new_h for _ in range(200)}
    assert len(found) > 10
    assert min(found) >= 40
    assert max(found) == 53  # the longest side is 80


def test_test_images_keep_their_original_size_beside_the_network(config: str) -> None:
    cfg = load_config(config, ["INPUT.MIN_SIZE_TEST", "32"])
    item = next(iter(build_test_loader(cfg, "shapes_val")))[0]
    assert item["image"].shape == (3, 32, 40)
    assert (item["height"], item["width"]) == (64, 80)
    whole = next(iter(build_test_loader(load_config(config, ["INPUT.MIN_SIZE_TEST", "0"]), "shapes_val")))[0]
    assert whole["image"].shape == (3, 64, 80)


def test_crowds_and_images_without_objects(tmp_path: Path) -> None:
    write_coco(tmp_path)
    text = f"_BASE_: {REPO}/configs/coco/solov2_light_r18.yaml\n"
    (tmp_path / "c.yaml").write_text(text)
    opts = ["DATASETS.ROOT", str(tmp_path), "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    cfg = load_config(str(tmp_path / "c.yaml"), opts)
    loader = build_train_loader(cfg)
    assert len(loader.dataset.items) == 2
    batch = next(iter(loader))
    assert sorted(int(i["instances"].gt_classes[0]) for i in batch) == [0, 79]
    assert [len(i["instances"]) for i in batch] == [1, 1]
    assert all(isinstance(i["instances"].gt_masks, BitMasks) for i in batch)
    everything = load_config(str(tmp_path / "c.yaml"), [*opts, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"])
    assert len(build_train_loader(everything).dataset.items) == 3


def test_a_set_without_any_object_is_refused(config: str, tmp_path: Path) -> None:
    write_shapes(tmp_path, empty=True)
    with pytest.raises(DatasetError, match="none of 3 images has an instance"):
        build_train_loader(load_config(config))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.SOLOV2.NUM_CLASSES", "3"], r"NUM_CLASSES is 3, but shapes_train has 2 classes \(tall, square\)"),
        (["INPUT.CROP.TYPE", "relative_range"], "INPUT.CROP.TYPE: expected one of absolute, relative"),
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "all"], "MIN_SIZE_TRAIN_SAMPLING: expected one of choice, range, got 'all'"),
        (
            ["DATASETS.TRAIN", "['procedural_train']"],
            "procedural_train holds semantic segmentation labels; MODEL.META_ARCHITECTURE SOLOv2 needs instances",
        ),
        (["DATASETS.TRAIN", "['coco_2017_train']"], "NUM_CLASSES is 2, but coco_2017_train has 80 classes"),
        (["DATASETS.TRAIN", "['other']"], "DATASETS.COCO_FOLDER.NAME"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "total"], "CLIP_TYPE: expected one of value, norm, full_model"),
    ],
)
def test_what_does_not_fit_is_refused(config: str, opts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(config, *opts)


def parameters() -> list[nn.Parameter]:
    out = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    out[0].grad, out[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    return out


@pytest.mark.parametrize(
    ("kind", "limit", "expected"),
    [
        ("full_model", 6.5, [[1.5, 2.0], [6.0]]),
        ("full_model", 35.0, [[3.0, 4.0], [12.0]]),
        ("norm", 6.0, [[3.0, 4.0], [6.0]]),
        ("value", 3.5, [[3.0, 3.5], [3.5]]),
    ],
)
def test_clipping(kind: str, limit: float, expected: list[list[float]]) -> None:
    own = parameters()
    clip_gradients(torch.optim.SGD(own, lr=1.0), kind, limit)
    for parameter, values in zip(own, expected, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.tolist() == pytest.approx(values, rel=1e-5)


def test_the_step_is_clipped_by_the_norm_of_all_gradients() -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

        def forward(self, batch: Any) -> dict[str, torch.Tensor]:
            return {"loss": 30 * self.a + 40 * self.b}

    model = Steep()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = StepTrainer(model, [[{}]], optimizer, clip=("full_model", 5.0, 2.0))
    with EventStorage():
        trainer.iter = 0
        trainer.run_step()
    assert (float(model.a), float(model.b)) == pytest.approx((-3, -4), rel=1e-5)


def test_the_configs_clip_at_a_total_norm_of_35(config: str) -> None:
    assert gradient_clip(load_config(config)) == ("full_model", 35.0, 2.0)
    assert gradient_clip(load_config(str(REPO / "configs" / "camvid" / "small_student.yaml"))) is None


@pytest.mark.parametrize(("value", "weight", "told"), [(2.9, 3.0, 1), (2.7, 3.0, 0), (0.95, 1.0, 1), (0.9, 1.0, 0)])
def test_masks_that_do_not_learn_are_told_once(
    value: float, weight: float, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    hook = MaskLossHint(SimpleNamespace(values={"loss_mask": value}), weight)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        for i in range(2100):
            hook.trainer = SimpleNamespace(iter=i)
            hook.after_step()
            assert i >= 1999 or not caplog.records
    assert len(caplog.records) == told
    assert not told or "lower it in proportion" in caplog.text


def test_label_maps_are_not_asked_of_a_network_for_instances(config: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(TypeError, match="expected a network for semantic segmentation, got SOLOv2"):
        Predictor(str(tmp_path / "w.pth"), config)
