"""Comparisons of networks for instances: the whole tool with runs of two iterations, tables from made-up records."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bpkd.analysis.classes import class_figures
from bpkd.analysis.complexity import count
from bpkd.analysis.instances import instance_color, instance_layers, instance_panels, numbered, outlined
from bpkd.analysis.records import write_records
from bpkd.analysis.report import table
from bpkd.analysis.significance import paired_tests
from bpkd.analysis.statement import report_text
from bpkd.analysis.task import INSTANCES, figures_of
from tests.helpers.golden_solov2 import REPO
from tests.helpers.run_records import run as label_run
from tests.helpers.solov2_runs import SMALL, write_shapes

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
PAIR = """
_BASE_: net.yaml
MODEL: {{META_ARCHITECTURE: InstanceDistiller}}
DISTILL: {{STUDENT: SOLOv2, METHOD: BPKD, BPKD: {{PRESET: instances}}, INSTANCE: {{INPUT: same_ranges}}}}
TEACHER: {{CONFIG_FILE: {root}/net.yaml, OPTS: [SEED, 7]}}
"""
SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "boundary_AP", "bbox_AP")


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_shapes(tmp_path)
    monkeypatch.setattr("bpkd.engine.run_record.count", partial(count, size=(64, 64)))
    (tmp_path / "net.yaml").write_text(SMALL.format(repo=REPO, root=tmp_path, out=tmp_path / "out"))
    (tmp_path / "pair.yaml").write_text(PAIR.format(root=tmp_path))
    return tmp_path / "pair.yaml"


def test_the_whole_comparison_of_instances(
    pair: Path,
    started: list[str],
    compare: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "compared"
    asked = ["--config-file", pair, "--methods", "none", "BPKD", "--seeds", 2, "--images", 0, 2]
    short = ["SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "(1,)", "DATALOADER.NUM_WORKERS", 0]
    assert compare(*asked, "--output", out, "--opts", *short) == 0
    text = capsys.readouterr().out
    assert started == ["none-seed0", "teacher", "BPKD-seed0", "none-seed1", "BPKD-seed1"]
    assert "BPKD-seed1: AP 0." in text
    assert "mIoU" not in text

    report = out / "report"
    header, *rows = list(csv.reader((report / "table.csv").open()))
    assert header[2:5] == ["mask AP", "AP50", "AP75"]
    assert header[-1] == "share of teacher's AP"
    assert [row[0] for row in rows] == ["student alone", "BPKD", "teacher"]
    tests = list(csv.DictReader((report / "tests.csv").open()))
    assert [t["figure"] for t in tests] == ["AP", "boundary_AP"]
    made = {p.name for p in report.iterdir()}
    assert {"instances.png", "curves.png", "classes_ap.md", "classes_boundary.png", "report.html"} <= made
    assert not made & {"panels.png", "trimap.png", "edge_body.png", "classes_iou.md"}
    page = (report / "report.html").read_text()
    assert "Boundary AP per class" in page
    assert "ground truth" in page
    assert "mIoU" not in page
    assert "rimap" not in page


def run(method: str, seed: int, score: float, **more: Any) -> dict[str, Any]:
    metrics = dict.fromkeys(SCORES, score) | {"AP50": score + 20, "boundary_AP": score - 5, "APl": None}
    metrics |= {"AP-tall": score + 1, "AP-square": score - 1, "boundary_AP-tall": score - 6, "bbox_AP-tall": 99.0}
    return {**label_run(method, seed, 0.0, flops_size=[64, 64]), "metrics": metrics, **more}


def records() -> list[dict[str, Any]]:
    scores = {"teacher": [40.0], "none": [20.0, 22.0, 21.0], "BPKD": [24.0, 25.0, 24.5]}
    return [run(m, seed, score) for m, own in scores.items() for seed, score in enumerate(own)]


def test_columns_tests_and_classes_of_instances() -> None:
    found = records()
    header, *rows = list(csv.reader(table(found, trimap_width=3)[1].splitlines()))
    wanted = ["mask AP", "AP50", "AP75", "APs", "APm", "APl", "Boundary AP", "box AP", "params M", "FLOPs G"]
    assert header[2:] == [*wanted, "s / iteration", "share of teacher's AP"]
    assert [row[0] for row in rows] == ["student alone", "BPKD", "teacher"]
    assert rows[1][2:4] == ["24.50 ± 0.50", "44.50 ± 0.50"]
    assert rows[1][7] == "-"  # there is no large object
    assert rows[1][-1] == "61.2 %"
    tests = paired_tests(found, figures_of(found).tested)
    assert [(t.metric, t.seeds, round(t.mean, 2), t.verdict) for t in tests] == [
        ("AP", 3, 3.5, "gain"),
        ("boundary_AP", 3, 3.5, "gain"),
    ]
    classes = class_figures(found, 3)
    assert {name: list(scores["none"]) for name, (_, scores) in classes.items()} == {
        "classes_ap": ["tall", "square"],
        "classes_boundary": ["tall"],
    }
    assert classes["classes_ap"][1]["BPKD"]["tall"] == pytest.approx((25.5, 0.5))
    text = report_text(found, trimap_width=3)
    assert "BPKD over student alone: +3.50 boundary_AP (better on all 3 seeds" in text
    assert "FLOPs of one 64x64 image" in text


def test_the_task_is_told_from_what_was_measured() -> None:
    assert figures_of(records()) is INSTANCES
    assert figures_of([label_run("none", 0, 40.0)], 5).tested == ("mIoU", "trimap_w5")
    with pytest.raises(ValueError, match="expected records of one task"):
        table([label_run("none", 0, 40.0), *records()], trimap_width=3)


def test_make_table_takes_records_of_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path / "nuclei.json", records())
    monkeypatch.setattr(sys, "argv", ["make_table.py", str(tmp_path / "nuclei.json")])
    assert runpy.run_path(str(REPO / "tools" / "make_table.py"))["main"]() == 0
    text = capsys.readouterr().out
    assert text.startswith("### nuclei\n\n| method | seeds | mask AP |")
    assert "nan" not in text
    json.dumps(text)


def squares(*corners: int) -> np.ndarray:
    masks = np.zeros((len(corners), 40, 60), bool)
    for mask, corner in zip(masks, corners, strict=True):
        mask[10:26, corner : corner + 16] = True
    return masks


def test_a_mask_has_the_colour_of_the_object_it_lies_on(tmp_path: Path) -> None:
    truth, masks = squares(2, 30), squares(31, 3, 4, 44)
    assert numbered(masks, truth) == [1, 0, 4, 5]  # the third shares an object that is taken
    assert numbered(masks, truth[:0]) == [0, 1, 2, 3]
    assert numbered(masks[:0], truth) == []
    row = {
        "image": np.full((3, 20, 30), 100, np.uint8),
        "truth": truth,
        "predictions": {"none": masks[:1], "BPKD": masks},
    }
    layers = instance_layers(row)
    assert list(layers) == ["image", "ground truth", "student alone", "BPKD"]
    color = instance_color(1)
    assert tuple(layers["ground truth"][10, 30]) == tuple(layers["student alone"][10, 31]) == color  # outlines
    inside = layers["ground truth"][18, 38]
    assert (inside == (0.6 * 100 + 0.4 * np.asarray(color)).astype(np.uint8)).all()
    assert (layers["ground truth"][35] == 100).all()
    assert list(instance_layers({k: v for k, v in row.items() if k != "truth"})) == ["image", "student alone", "BPKD"]
    instance_panels([row, {**row, "truth": truth[:0]}], tmp_path / "drawn.png")
    drawn = cv2.imread(str(tmp_path / "drawn.png"))[..., ::-1]
    assert color in set(map(tuple, drawn.reshape(-1, 3).tolist()))
    with pytest.raises(ValueError, match="image and masks of one size"):
        outlined(np.zeros((4, 4, 3), np.uint8), truth)
