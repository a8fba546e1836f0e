"""Run records, tables, findings and figures, from made-up runs."""

from __future__ import annotations

import csv
import io
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bpkd.analysis import plots
from bpkd.analysis.bars import bars
from bpkd.analysis.classes import class_rows, class_scores, edge_and_body, trimap_curves
from bpkd.analysis.records import commit, environment, read_records, write_records
from bpkd.analysis.report import best_cells, findings, provenance, run_rows, summarise, table, table_rows
from bpkd.analysis.statement import report_text
from bpkd.analysis.task import figures_of
from tests.helpers.run_records import run, runs

REPO = Path(__file__).parents[2]
COLORS = [(0, 0, 255), (0, 255, 0), (9, 9, 9)]


def test_table_gives_mean_deviation_and_share_of_the_teacher() -> None:
    records = runs(BPKD=[44.0, 46.0, 45.0], teacher=[60.0], none=[40.0, 42.0, 38.0], CWD=[43.0, 43.0, 43.0])
    text, values = table(records, trimap_width=3)
    lines = list(csv.reader(io.StringIO(values)))
    assert lines[0][2:] == [
        *("mIoU", "mAcc", "Trimap mIoU (w=3)", "Boundary IoU", "params M", "FLOPs G", "s / iteration"),
        "share of teacher's mIoU",
    ]
    assert [row[0] for row in lines[1:]] == ["student alone", "CWD", "BPKD", "teacher"]
    alone, _, bpkd, teacher = lines[1:]
    assert alone[1:4] == ["3", "40.00 ± 2.00", "50.00 ± 2.00"]
    assert bpkd[2:6] == ["45.00 ± 1.00", "55.00 ± 1.00", "25.00 ± 1.00", "30.00 ± 1.00"]
    assert bpkd[6:] == ["12.82", "54.53", "0.500", "75.0 %"]  # costs are the network's: no deviation
    assert teacher[2] == "60.00"  # one run has no deviation
    assert teacher[-1] == "100.0 %"
    assert len({line.count("|") for line in text.splitlines()}) == 1
    assert "| BPKD | 3 | 45.00 ± 1.00 |" in text


def test_missing_figures_stay_empty() -> None:
    records = [run("none", 0, 40.0)]
    del records[0]["params_m"]
    text, values = table(records, trimap_width=15)
    row = list(csv.reader(io.StringIO(values)))[1]
    assert row[4] == row[6] == row[-1] == ""  # width not measured, parameters unknown, no teacher
    assert "nan" not in text


def test_peak_memory_is_a_column_where_a_run_has_it() -> None:
    old, new = run("none", 0, 40.0), run("BPKD", 0, 41.0, peak_memory_mb=1234.6)
    header, *rows = list(csv.reader(io.StringIO(table([old, new], trimap_width=3)[1])))
    assert header[-2] == "peak memory MB"
    assert [row[-2] for row in rows] == ["", "1235"]


def test_time_per_image_stands_beside_flops_where_a_run_has_it() -> None:
    old, new = run("none", 0, 40.0), run("BPKD", 0, 41.0, ms_per_image=12.34)
    header, rows = table_rows([old, new], trimap_width=3)
    place = header.index("ms / image")
    assert header[place - 1] == "FLOPs G"
    assert [row[place] for row in rows] == ["", "12.3"]
    slower = run("CWD", 0, 41.0, ms_per_image=30.0)  # the same network on a busy machine
    assert [row[place] for row in table_rows([old, new, slower], trimap_width=3)[1]] == ["", "12.3", "12.3"]
    assert "ms / image is the median" in provenance([old, new])
    assert "ms / image" not in table_rows([old], trimap_width=3)[0]
    assert "ms / image" not in provenance([old])


def test_best_cells_are_those_of_students() -> None:
    records = runs(none=[40.0], KD=[43.001], BPKD=[43.004], teacher=[60.0])
    for record, seconds, ms in zip(records, (0.5, 0.7, 0.6, 0.1), (3.0, 2.0, 4.0, 1.0), strict=True):
        record |= {"seconds_per_iteration": seconds, "ms_per_image": ms}
    records.append(run("none-equal-time", 0, 39.0, seconds_per_iteration=0.2))
    header, rows = table_rows(records, trimap_width=3)
    best = {(rows[i][0], header[j]) for i, j in best_cells(records, trimap_width=3)}
    scores = [header[j] for j in range(2, 6)]
    level = {(method, score) for method in ("KD", "BPKD") for score in scores}  # as shown, with two decimals
    assert best == {*level, ("student alone", "s / iteration")}  # parameters and FLOPs are level: none is best
    assert best_cells(runs(none=[40.0], teacher=[60.0]), trimap_width=3) == set()


def test_equal_time_runs_are_rows_of_their_own() -> None:
    records = runs(none=[40.0], KD=[41.0], BPKD=[43.0])
    records += [run("none-equal-time", 0, 40.5), run("KD-equal-time", 0, 44.0)]
    rows = list(csv.reader(io.StringIO(table(records, trimap_width=3)[1])))[1:]
    names = ["student alone", "student alone, BPKD's time", "KD", "BPKD", "KD, BPKD's time"]
    assert [row[0] for row in rows] == names
    lines = findings(records)
    assert "student alone, BPKD's time over student alone: +0.50 mIoU (one seed)" in lines
    assert "KD, BPKD's time over BPKD: +1.00 mIoU (one seed)" in lines


def test_provenance_names_every_machine_and_the_runs() -> None:
    one, two = run("none", 0, 40.0, run="none-seed0"), run("BPKD", 0, 41.0, iterations=20, peak_memory_of="tensors")
    two["hardware"] = {"cpu": "other", "cores": 3, "gpus": ["big"]}
    assert "Trained with" not in provenance([one, two])  # records that are older than "precision"
    one["precision"], two["precision"] = {"student": "off"}, {"student": "bf16", "teacher": "bf16"}
    text = provenance([one, two])
    assert "other, 3 cores, big" in text
    assert "Trained with student in float32 and bf16, teacher in bf16." in text
    assert f"{one['hardware']['cores']} cores" in text
    assert text.endswith("Peak memory: tensors.")
    header, rows = run_rows([one, two])
    assert header == ["run", "seed", "iterations", "commit", "machine"]
    assert rows[0][:4] == ["none-seed0", "0", "10", one["commit"]]
    assert rows[1][:3] == ["BPKD-seed0", "0", "20"]


def test_peak_memory_names_the_methods_where_it_was_counted_in_different_ways() -> None:
    records = [run("teacher", 0, 50.0, peak_memory_of="tensors, evaluation only")]
    records += [run(method, seed, 40.0, peak_memory_of="tensors") for seed in (0, 1) for method in ("none", "BPKD")]
    text = provenance(records)
    assert text.endswith("Peak memory: of teacher: tensors, evaluation only; of student alone, BPKD: tensors.")
    assert provenance(records[1:]).endswith("Peak memory: tensors.")


def steps(batch: int, *crop: int) -> str:
    return f"SOLVER: {{IMS_PER_BATCH: {batch}}}\nINPUT: {{CROP_SIZE: {list(crop)}}}"


def test_batch_and_crop_are_said_where_the_teachers_differ() -> None:
    teacher = run("teacher", 0, 50.0, config=steps(8, 128, 128))
    students = [run(method, 0, 40.0, config=steps(4, 64, 96)) for method in ("none", "BPKD")]
    said = "s / iteration is the median step (teacher: batch 8, crop 128; students: batch 4, crop 64x96)."
    assert said in provenance([teacher, *students])
    plain = "s / iteration is the median step."
    assert plain in provenance([{**teacher, "config": students[0]["config"]}, *students])
    assert plain in provenance([{**teacher, "weights": "model_final.pth"}, *students])  # config of the evaluation
    assert plain in provenance([run("teacher", 0, 50.0), *students])
    assert plain in provenance(students)


@pytest.mark.parametrize("file", sorted((REPO / "projects" / "BPKD" / "results").glob("*.json")), ids=lambda p: p.stem)
def test_older_records_still_make_tables(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_table.py", str(file)])
    assert runpy.run_path(str(REPO / "tools" / "make_table.py"))["main"]() == 0
    text = capsys.readouterr().out
    assert "| student alone |" in text
    assert "nan" not in text
    records = read_records([file])
    whole, near_edges = (figure for _, figure in figures_of(records).per_class.values())
    assert class_scores(records, near_edges).keys() <= {r["method"] for r in records}
    header, rows = class_rows(class_scores(records, whole))
    assert header[:2] == ["class", "student alone"]
    assert len(rows) >= (10 if whole == "IoU" else 1)


def with_classes(method: str, seed: int, pole: float | None) -> dict[str, Any]:
    record = run(method, seed, 40.0 + seed)
    record["per_class"] = {"trimap_w3": {"sky": 50.0 + seed, "pole": pole}}
    record["metrics"] |= {"IoU-sky": 80.0, "IoU-pole": float("nan"), "body_w3": 70.0 + seed}
    return record


def test_classes_and_edges_from_records() -> None:
    records = [with_classes("BPKD", 0, 10.0), with_classes("BPKD", 2, 12.0), with_classes("none", 0, None)]
    records.append(run("CWD", 0, 30.0))  # an older record, without classes
    scores, deviation = class_scores(records, "trimap_w3"), pytest.approx(2**0.5)
    assert list(scores) == ["none", "BPKD"]
    assert scores["BPKD"] == {"sky": (51.0, deviation), "pole": (11.0, deviation)}
    assert class_rows(scores) == (
        ["class", "student alone", "BPKD"],
        [["sky", "50.00", "51.00 ± 1.41"], ["pole", "-", "11.00 ± 1.41"], ["mean", "50.00", "31.00"]],
    )
    parts = edge_and_body(records, 3)
    assert parts["BPKD"] == {"edge": (21.0, deviation), "body": (71.0, deviation)}
    assert list(parts) == ["none", "BPKD"]
    assert trimap_curves(records)["BPKD"] == {3: 21.0}


def test_summary_uses_the_sample_deviation() -> None:
    (row,) = summarise(runs(KD=[1.0, 2.0, 3.0, 6.0]), ["mIoU"])
    assert row.values["mIoU"] == pytest.approx((3.0, np.std([1, 2, 3, 6], ddof=1)))


def test_findings_are_honest() -> None:
    lines = findings(runs(none=[40.0, 42.0], KD=[39.0, 41.0], CWD=[46.0, 45.0], BPKD=[43.0, 41.5], teacher=[60.0]))
    assert "KD over student alone: -1.00 mIoU (worse on all 2 seeds; by seed: -1.00, -1.00)" in lines
    assert "BPKD over student alone: +1.25 mIoU (better on 1 of 2 seeds; by seed: +3.00, -0.50)" in lines
    higher = [line for line in lines if "over BPKD" in line]
    assert higher == ["CWD over BPKD: +3.25 mIoU (better on all 2 seeds; by seed: +3.00, +3.50)"]


def test_a_student_alone_that_scores_higher_than_bpkd_is_said_once() -> None:
    lines = findings(runs(none=[40.0], BPKD=[39.0]))
    assert lines == ["BPKD over student alone: -1.00 mIoU (one seed)"]


def test_one_seed_names_no_winner() -> None:
    text = report_text(runs(none=[40.0], KD=[41.0], DIST=[44.0], BPKD=[43.0]), trimap_width=3)
    assert "- DIST over BPKD: +1.00 mIoU (one seed)\n" in text
    assert not re.search("beats|best|winner|ahead", text)
    assert "Paired test: one seed: not tested." in text


def test_only_shared_seeds_are_compared() -> None:
    # CWD's second seed is a lucky one that BPKD has not run.
    lines = findings(runs(CWD=[40.0, 90.0], BPKD=[41.0]))
    assert not any("over BPKD" in line for line in lines)


def test_records_round_trip(tmp_path: Path) -> None:
    records = runs(none=[40.0], BPKD=[41.0])
    write_records(tmp_path / "deep" / "results.json", records)
    (tmp_path / "run.json").write_text(json.dumps(records[0]))
    assert read_records([tmp_path / "deep" / "results.json", tmp_path / "run.json"]) == [*records, records[0]]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["results.json"]


def test_bad_records_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('[{"method": "KD"')
    with pytest.raises(ValueError, match=r"results\.json: expected JSON"):
        read_records([path])
    record = run("KD", 0, 1.0)
    del record["commit"]
    path.write_text(json.dumps([run("KD", 1, 1.0), record]))
    with pytest.raises(ValueError, match=r"results\.json: run 1: .*missing \['commit'\]"):
        read_records([path])


def test_environment_says_where_numbers_come_from() -> None:
    found = environment()
    assert found["versions"]["torch"]
    assert found["hardware"]["cores"] >= 1
    assert isinstance(found["commit"], str)
    json.dumps(found)


@pytest.mark.parametrize(("given", "named"), [("0123456789ab+changes", "0123456789ab+changes"), ("", "unknown")])
def test_outside_git_the_environment_names_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, named: str
) -> None:
    monkeypatch.setenv("BPKD_COMMIT", given)
    monkeypatch.setattr("bpkd.analysis.records.__file__", str(tmp_path / "bpkd" / "analysis" / "records.py"))
    assert commit() == named


@pytest.mark.parametrize(("given", "named"), [("0123456789ab", "0123456789ab"), ("", "ba9876543210")])
def test_in_git_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, named: str) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("BPKD_COMMIT", given)
    monkeypatch.setattr("bpkd.analysis.records.__file__", str(tmp_path / "bpkd" / "analysis" / "records.py"))
    monkeypatch.setattr(
        "bpkd.analysis.records._git", lambda _root, verb, *_: {"rev-parse": "ba9876543210", "status": ""}[verb]
    )
    assert commit() == named


def test_where_git_does_not_answer_the_environment_names_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()  # git finds no repository in it
    monkeypatch.setenv("BPKD_COMMIT", "0123456789ab")
    monkeypatch.setattr("bpkd.analysis.records.__file__", str(tmp_path / "bpkd" / "analysis" / "records.py"))
    assert commit() == "0123456789ab"


def metrics_file(folder: Path, *terms: str) -> Path:
    folder.mkdir()
    rows = [{"iteration": i, "loss_ce": 2.0 / (i + 1), **dict.fromkeys(terms, 0.5)} for i in (0, 1, 2, 1)]
    rows += [{"iteration": i, plots.VAL_MIOU: 10.0 * i} for i in (1, 2)]
    cut = '{"iteration": 3, "loss_ce": 0.'
    (folder / "metrics.json").write_text("\n".join([*map(json.dumps, rows), cut]))
    return folder


def test_rows_survive_resume_and_a_cut_line(tmp_path: Path) -> None:
    folder = metrics_file(tmp_path / "run")
    assert [r["iteration"] for r in plots.training_rows(folder)] == [0, 1, 2]
    assert [r[plots.VAL_MIOU] for r in plots.evaluation_rows(folder)] == [10.0, 20.0]
    assert plots.training_rows(tmp_path / "nothing") == []


def test_errors_are_red_in_the_band_and_amber_outside() -> None:
    target = np.zeros((20, 20), np.int64)
    target[:, 10:] = 1
    target[0] = 255
    pred = target.copy()
    pred[5, 9] = 1  # at the edge
    pred[5, 1] = 1  # far from it
    pred[0] = 2  # ignored
    out = plots.errors(pred, target, np.full((20, 20, 3), 90, np.uint8), width=2)
    assert tuple(out[5, 9]) == plots.WRONG_EDGE
    assert tuple(out[5, 1]) == plots.WRONG_BODY
    strong = (out != out[10, 10]).any(2)
    assert strong.sum() == 2
    band = plots.trimap_band(target, 2)
    assert band[1:, 8:12].all()
    assert band.sum() == 19 * 4
    assert plots.wrong_share(pred, target, width=2) == pytest.approx(100 / (19 * 4))


def test_figures_are_written_and_not_blank(tmp_path: Path) -> None:
    folders = {"none": metrics_file(tmp_path / "a"), "BPKD": metrics_file(tmp_path / "b", "loss_kd_edge", "loss_kd_x")}
    plots.curves(folders, tmp_path / "curves.png")
    plots.curves({"none": folders["none"]}, tmp_path / "alone.png")
    plots.trimap_curves({"none": {1: 20.0, 3: 30.0}, "teacher": {3: 40.0, 1: 25.0}}, tmp_path / "trimap.png")
    label = np.zeros((24, 32), np.int64)
    label[6:18, 8:24] = 1
    label[:2] = 255
    # The network saw half the size of the labels.
    row = {
        "image": np.full((3, 12, 16), 80, np.uint8),
        "label": label,
        "predictions": {"none": label * 0, "CWD": label},
    }
    names = ("a", "b", "never seen")
    plots.panels([row], ["none", "CWD"], tmp_path / "panels.png", colors=COLORS, class_names=names, width=3)
    many = {f"class {i}": (10.0 + i, 2.0 if i % 2 else float("nan")) for i in range(15)}
    bars({"none": many, "BPKD": {**many, "class 3": (float("nan"),) * 2}}, tmp_path / "bars.png", title="bars")
    for name in ("curves", "alone", "trimap", "panels", "bars"):
        picture = cv2.imread(str(tmp_path / f"{name}.png"))
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 10
    drawn = cv2.imread(str(tmp_path / "panels.png"))[..., ::-1].reshape(-1, 3).tolist()
    for color in (COLORS[0], COLORS[1], plots.WRONG_EDGE, plots.WRONG_BODY, plots.BAND):
        assert list(color) in drawn
