"""Numbers without sense, checkpoints that state something else, and records twice, at the doors they come through."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from torch import nn

from bpkd.analysis.records import read_records
from bpkd.cli.main import main
from bpkd.config import get_bpkd_cfg
from bpkd.convert.stated import check_pixels, stated_pixels
from bpkd.engine.checkpoint import StudentCheckpointer
from bpkd.experiments import jobs
from bpkd.metrics import SegmentationMetrics
from bpkd.modeling.teachers.classes import class_names

RESULTS = Path(__file__).parents[2] / "projects/BPKD/results/camvid_compare.json"
NAN, MEAN, STD = float("nan"), [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_classes", 1.5), ("num_classes", "2"), ("num_classes", True), ("num_classes", -3), ("ignore_index", 254.5),
        ("widths", [1.5]), ("widths", "135"), ("widths", 3), ("widths", [NAN]), ("tolerances", [NAN]),
        ("tolerances", [True]), ("boundary_ratio", 5), ("boundary_ratio", NAN),
    ],
)  # fmt: skip
def test_arguments_of_the_metrics_have_ranges(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        SegmentationMetrics(**{"num_classes": 2, name: value})


def test_numbers_of_numpy_and_torch_are_arguments() -> None:
    found = SegmentationMetrics(np.int64(2), ignore_index=torch.tensor(255), widths=np.array([1, 3]), tolerances=(2,))
    assert (found.num_classes, found.ignore_index, found.widths) == (2, 255, (1, 3))


@pytest.mark.parametrize("value", ["nan", "-1", "0", "5", "inf", "much"])
def test_a_boundary_ratio_that_is_no_share_is_named(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["metrics", str(tmp_path), str(tmp_path), "--num-classes", "2", "--boundary-ratio", value])
    assert "--boundary-ratio: expected a number above 0 and of at most 1, got" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "-1", "inf", "x"])
def test_a_margin_that_is_no_number_of_points_is_named(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(RESULTS), "--margin", value])
    assert "--margin: expected a number of at least 0, got" in capsys.readouterr().err


# Content of a file beside its weights -> the words of the refusal.
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "mean and std in 0..1": ({"mean": [0.5] * 3, "std": [0.5] * 3}, r"mean \[127.5, 127.5, 127.5\]"),
    "pixel_mean alone": ({"pixel_mean": [1.0, 2.0, 3.0]}, r"mean \[1.0, 2.0, 3.0\]"),
    "a tensor": ({"pixel_mean": torch.tensor([1.0, 2.0, 3.0])}, "mean"),
    "Lightning's hyper-parameters": ({"hyper_parameters": {"mean": [0.1, 0.2, 0.3]}}, "its entry hyper_parameters"),
    "a config in a config": ({"cfg": {"data_preprocessor": {"mean": [1, 2, 3]}}}, "its entry cfg.data_preprocessor"),
    "texts of safetensors": ({"metadata": {"image_mean": "[0.1, 0.2, 0.3]"}}, "its entry metadata"),
    "an order alone": ({"input_format": "BGR"}, "expect BGR"),
    "OpenMMLab's flag": ({"to_rgb": False}, "expect BGR"),
}


def network() -> nn.Module:
    found = nn.Module()
    found.register_buffer("pixel_mean", torch.tensor(MEAN))
    found.register_buffer("pixel_std", torch.tensor(STD))
    found.input_format = "RGB"  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_file_that_states_other_pixels_is_refused(case: str, tmp_path: Path) -> None:
    content, words = CONTRADICTIONS[case]
    stated = stated_pixels(content, {}, str(tmp_path / "w.pth"))
    with pytest.raises(ValueError, match=words):
        check_pixels(stated, network(), "TEACHER.WEIGHTS w.pth", policy="refuse")


@pytest.mark.parametrize(
    "content",
    [
        {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, {"pixel_mean": MEAN, "pixel_std": STD},
        {"mean": [0, 0, 0], "std": [1, 1, 1]}, {"mean": 0.3, "std": "x", "format": "pth"}, {"args": {"std": [1, 2]}},
        {"hyper_parameters": {"mean": None}}, {"to_rgb": True}, {"meta": {}}, {"mean": [NAN, 0, 0]},
    ],
)  # fmt: skip
def test_a_file_that_states_the_same_or_nothing_is_read(content: dict[str, Any], tmp_path: Path) -> None:
    check_pixels(stated_pixels(content, {}, str(tmp_path / "w.pth")), network(), "w.pth", policy="refuse")


def test_a_teacher_has_the_class_names_of_its_own_config() -> None:
    """Its config's data set has the student's name, and was registered with the student's order of classes."""
    MetadataCatalog.get("swapped_train").set(stuff_classes=["background", "car", "road"])
    try:
        cfg = get_bpkd_cfg()
        cfg.DATASETS.TRAIN, cfg.DATASETS.FOLDER.NAME = ("swapped_train",), "swapped"
        cfg.DATASETS.FOLDER.CLASSES = ["background", "road", "car"]
        assert class_names(cfg) == ("background", "road", "car")
    finally:
        MetadataCatalog.pop("swapped_train")


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("pixel_mean", [1.0, 2.0, 3.0], "MODEL.PIXEL_MEAN"),
        ("pixel_std", [1.0, 1.0, 1.0], "MODEL.PIXEL_STD"),
        ("input_format", "BGR", "INPUT.FORMAT"),
    ],
)
def test_a_run_is_not_resumed_with_other_pixels(tmp_path: Path, key: str, value: Any, name: str) -> None:
    own = {"method": "none", "classes": ["a"], "pixel_mean": MEAN, "pixel_std": STD, "input_format": "RGB"}
    StudentCheckpointer(nn.Linear(2, 2), str(tmp_path), metadata=own).save("model_0")
    StudentCheckpointer(nn.Linear(2, 2), str(tmp_path), metadata=own).resume()
    with pytest.raises(RuntimeError, match=name):
        StudentCheckpointer(nn.Linear(2, 2), str(tmp_path), metadata={**own, key: value}).resume()


def test_a_run_of_a_version_that_did_not_state_pixels_is_resumed(tmp_path: Path) -> None:
    StudentCheckpointer(nn.Linear(2, 2), str(tmp_path), metadata={"method": "none", "classes": ["a"]}).save("model_0")
    own = {"method": "none", "classes": ["a"], "pixel_mean": MEAN}
    assert StudentCheckpointer(nn.Linear(2, 2), str(tmp_path), metadata=own).resume()


def test_a_comparison_goes_on_with_a_teacher_that_does_not_say_how_long_it_was_trained(tmp_path: Path) -> None:
    record = {"metrics": {"mIoU": 50.0}, "iterations": None, "seconds": None}
    job: Any = SimpleNamespace(record=record, name="teacher", evaluates="w.pth", output=tmp_path)
    process: Any = SimpleNamespace(returncode=0)
    lines: list[str] = []
    done: set[str] = set()
    jobs._collect(job, process, done, lines.append)
    assert lines == ["teacher: mIoU 50.00 of w.pth"]
    assert done == {"teacher"}


@pytest.mark.parametrize("case", ["empty", "text", "flag", "list", "twice"])
def test_records_that_would_be_tabled_wrongly_are_refused(tmp_path: Path, case: str) -> None:
    runs: list[dict[str, Any]] = json.loads(RESULTS.read_text())[:2]
    figures: dict[str, Any] = {"text": {"mIoU": "high"}, "flag": {"mIoU": True}, "list": [1.0]}
    if case in figures:
        runs[1]["metrics"] = figures[case]
    runs = [] if case == "empty" else [*runs, *([copy.deepcopy(runs[0])] if case == "twice" else [])]
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(runs))
    words = {"empty": "got an empty list", "twice": "runs 0 and 2 are the same"}
    with pytest.raises(ValueError, match=words.get(case, r"runs.json: run 1: (mIoU|metrics): expected a number")):
        read_records([path])


def test_committed_records_are_read() -> None:
    assert len(read_records([RESULTS])) == len(json.loads(RESULTS.read_text()))
