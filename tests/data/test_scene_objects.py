"""The objects of the built-in scenes: labels, check, evaluation, and a SOLOv2 that learns two of them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode, Instances

from bpkd.config import get_bpkd_cfg, read_config
from bpkd.data import register_datasets
from bpkd.data.check import survey_dataset
from bpkd.data.instances import InstanceAugmentation, InstanceTrainMapper, label_masks
from bpkd.data.procedural import CLASSES, POLE, make_scene
from bpkd.engine.launch import argument_parser, main
from bpkd.evaluation import build_evaluator
from bpkd.modeling import build_student
from tests.helpers.golden_solov2 import REPO
from tests.helpers.tiny_solov2 import tiny_cfg

VAL = "procedural_objects_val"


@pytest.fixture
def registered() -> None:
    cfg = get_bpkd_cfg()
    cfg.merge_from_list(["DATASETS.PROCEDURAL.NUM_VAL", 3, "DATASETS.PROCEDURAL.NUM_TRAIN", 2])
    register_datasets(cfg)


@pytest.mark.usefixtures("registered")
def test_labels_are_the_scenes_own() -> None:
    items = DatasetCatalog.get(VAL)
    assert [item["image_id"] for item in items] == [1_000_000, 1_000_001, 1_000_002]
    assert MetadataCatalog.get(VAL).thing_classes == list(CLASSES[POLE:])
    for item in items:
        scene = make_scene(*item["procedural"])
        masks = label_masks(item)
        assert len(masks) == len(scene.instances) > 2
        for mask, one, drawn in zip(masks, item["annotations"], scene.instances, strict=True):
            assert np.array_equal(mask, drawn.mask)
            assert (scene.labels[mask] == one["category_id"] + POLE).all()
            assert BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYXY_ABS) == list(drawn.box)


@pytest.mark.usefixtures("registered")
def test_check_and_evaluation(tmp_path: Path) -> None:
    survey = survey_dataset(VAL, draw=True)
    items = DatasetCatalog.get(VAL)
    assert survey.values.sum() == sum(len(item["annotations"]) for item in items)
    evaluator = build_evaluator(get_bpkd_cfg(), VAL, str(tmp_path))
    evaluator.reset()
    for item in items:
        right = Instances((item["height"], item["width"]), pred_masks=torch.from_numpy(label_masks(item)))
        right.pred_classes = torch.tensor([one["category_id"] for one in item["annotations"]])
        right.scores = torch.ones(len(right))
        evaluator.process([item], [{"instances": right}])
    result = evaluator.evaluate()
    assert result["segm"]["AP"] == result["boundary"]["AP"] == pytest.approx(100)


@pytest.mark.usefixtures("registered")
def test_solov2_learns_two_scenes() -> None:
    """Twenty iterations: both losses fall."""
    mapper = InstanceTrainMapper(InstanceAugmentation(short=[96], longest=128, flip_prob=0.0), "RGB")
    rng = np.random.default_rng(0)
    batch = [mapper(item, rng) for item in DatasetCatalog.get("procedural_objects_train")]
    torch.manual_seed(0)
    model = build_student(tiny_cfg("MODEL.SOLOV2.NUM_CLASSES", 5, "MODEL.RESNETS.NORM", "BN")).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(20):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({k: float(v.detach()) for k, v in losses.items()})
    assert history[-1]["loss_category"] < 0.6 * history[0]["loss_category"]
    assert history[-1]["loss_mask"] < 0.8 * history[0]["loss_mask"]


def test_configs_run_to_a_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Teacher, then BPKD, two iterations each, by the project's own configs."""
    caplog.set_level(logging.INFO)
    small = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2"]
    small += ["DATASETS.PROCEDURAL.NUM_TRAIN", "4", "DATASETS.PROCEDURAL.NUM_VAL", "2"]
    for name, config, more in (
        ("teacher", "configs/procedural/solov2_tiny_teacher.yaml", []),
        ("bpkd", "projects/BPKD/configs/procedural/solov2_tiny__bpkd.yaml",
         ["TEACHER.WEIGHTS", str(tmp_path / "teacher" / "model_final.pth")]),
    ):  # fmt: skip
        opts = ["OUTPUT_DIR", str(tmp_path / name), *small, *more]
        assert read_config(str(REPO / config), opts).MODEL.SOLOV2.NUM_CLASSES == 5
        result = main(argument_parser().parse_args(["--config-file", str(REPO / config), *opts]))
        assert "AP-pole" in result["segm"], result
    assert "Class names of teacher or student are unknown" not in caplog.text
    assert (tmp_path / "bpkd" / "run.json").is_file()
