"""Names of any kind in every output, files that cannot be written, records of different data."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bpkd.analysis.records import write_records
from bpkd.analysis.report import table
from bpkd.cli.main import run
from bpkd.experiments.html import comparison_page
from bpkd.experiments.report import draw_figures, write_tables
from bpkd.files import replacing, write_text
from tests.helpers.comparison_pages import run as record
from tests.helpers.comparison_pages import runs

NAMES = (
    "$x$ and $y$", "cost in $", "a|b", "line\nbreak", "<script>alert(1)</script>", "R&D &lt;", "=1+1", "-2+3", "+A1",
    "@SUM(A1)", "'single' \"double\" \\ back", "道路 🚗", "שלום \u202eevil", "x" * 300, "_hidden", "`code` *bold*",
    "[link](javascript:alert(1))", "tab\there", "not UTF-8: \udcff", "\x00",
)  # fmt: skip
FORMULA = re.compile(r"[=+\-@]")


def named(name: str, seed: int = 0) -> list[dict[str, Any]]:
    """Records of two methods with a class of this name, one of them in a run of this name."""
    found = [record("none", seed, 50.0), record("BPKD", seed, 52.0, run=name)]
    for one in found:
        one["metrics"] |= {f"IoU-{name}": 40.0}
        one["per_class"] = {"trimap_w3": {name: 30.0, "road": 20.0}}
        one["data"] = data(classes=["road", name])
        one["absent"] = {"rule": "zero", "in_no_label": [1], "predicted": [], "other_rule": "skip", "other": {}}
    return found


def cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line.strip())[1:-1]


class Page(HTMLParser):
    """Collects the elements of a page and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.filterwarnings("ignore:constrained_layout not applied", "ignore:Tight layout")
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_breaks_no_output(name: str, tmp_path: Path) -> None:
    records = named(name)
    write_records(tmp_path / "results.json", records)
    assert json.loads((tmp_path / "results.json").read_text())[1]["run"] == name
    write_tables(records, tmp_path, trimap_width=3, margin=0.5)
    for path in tmp_path.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert "<script" not in text
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({len(cells(line)) for line in block.splitlines()}) == 1, block
    for path in tmp_path.glob("*.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert len({len(row) for row in rows}) == 1
        for cell in (cell for row in rows for cell in row if FORMULA.match(cell)):
            assert re.fullmatch(r"-|[+-][\d.]+( \.\. [+-][\d.]+)?", cell), cell
    draw_figures(records, tmp_path, trimap_width=3)
    assert Image.open(tmp_path / "classes_iou.png").width > 100
    picture = {"name": name, "image": np.zeros((3, 8, 8), np.uint8), "label": np.zeros((8, 8), np.uint8)}
    classes = [(name, (0, 0, 255)), ("road", (255, 0, 0))]
    pictures = [{**picture, "predictions": {"none": picture["label"], "BPKD": picture["label"]}}]
    comparison_page(records, pictures, tmp_path, classes=classes, trimap_width=3, margin=0.5)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == 2  # the page's own
    assert "\u202e" not in page.text.split("{", 1)[0]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("-")], ids=ascii)
def test_a_name_breaks_no_table_of_metrics(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in "pg":
        (tmp_path / side).mkdir()
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / side / "a|b $1$.png")
    words = [str(tmp_path / "p"), str(tmp_path / "g"), "--num-classes", "2", "--per-image", "--classes", "road", name]
    assert run("metrics", words, prog="bpkd metrics") == 0
    shown = capsys.readouterr().out
    shown.encode()  # every terminal can print it
    for block in re.findall(r"(?:^\|.*\n)+", shown, re.MULTILINE):
        assert len({len(cells(line)) for line in block.splitlines()}) == 1, block
    assert "| a\\|b \\$1\\$ | 100.00 |" in shown


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    for side in "pg":
        (tmp_path / side).mkdir()
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / side / "a.png")
    return [str(tmp_path / "p"), str(tmp_path / "g"), "--num-classes", "2"]


def message(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    assert "wrote" not in found.out
    (line,) = found.err.splitlines()
    return line


def test_a_folder_of_the_files_name(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").mkdir()
    assert run("metrics", [*folders, "--json", str(tmp_path / "x.json")], prog="bpkd metrics") == 2
    assert re.search(r"error: .*x\.json: cannot be written \(is a directory\)\.", message(capsys))
    assert list((tmp_path / "x.json").iterdir()) == []


def test_a_parent_that_is_a_file(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "p" / "a.png" / "x.json"
    assert run("metrics", [*folders, "--json", str(target)], prog="bpkd metrics") == 2
    assert "a.png/x.json: cannot be written" in message(capsys)


def test_a_parent_that_is_missing_is_made(folders: list[str], tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "x.json"
    assert run("metrics", [*folders, "--json", str(target)], prog="bpkd metrics") == 0
    assert json.loads(target.read_text())["mIoU"] == 100


def test_a_full_disk(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    assert run("metrics", [*folders, "--json", str(tmp_path / "x.json")], prog="bpkd metrics") == 2
    assert "x.json: cannot be written (no space left on device)" in message(capsys)
    assert not list(tmp_path.glob("*x*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_device_is_written_to_and_not_replaced(folders: list[str], tmp_path: Path, capsys: Any) -> None:
    link = tmp_path / "full.json"  # so that a fault of the test cannot replace the device itself
    link.symlink_to("/dev/full")
    assert run("metrics", [*folders, "--json", str(link)], prog="bpkd metrics") == 2
    assert "full.json: cannot be written (no space left on device)" in message(capsys)
    assert link.is_symlink()
    assert link.is_char_device()


def test_a_picture_that_opencv_does_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import cv2

    (tmp_path / "c.yaml").write_text("DATASETS: {TRAIN: [procedural_train], TEST: [], PROCEDURAL: {NUM_TRAIN: 2}}\n")
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)
    words = ["--config-file", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "sheet.png")]
    assert run("check-data", words, prog="bpkd check-data") == 2
    found = capsys.readouterr()
    assert "sheet.png cannot be written" in found.err
    assert "wrote" not in found.out


def test_torch_errors_of_a_full_disk_are_one_line(tmp_path: Path) -> None:
    def save() -> None:
        with replacing(tmp_path / "model.pth"):
            raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    with pytest.raises(RuntimeError, match=r"model\.pth: cannot be written"):
        save()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


def test_the_longest_name_of_a_file(tmp_path: Path) -> None:
    target = tmp_path / ("長" * 83 + ".json")  # 254 bytes
    write_text(target, "{}")
    assert list(tmp_path.iterdir()) == [target]


# Records of different data


def data(**more: Any) -> dict[str, Any]:
    return {"name": "toy_val", "images": 12, "classes": ["a", "b"], "names": "1", "labels": "2", **more}


DIFFERENT = {
    "number of images": ({"data": data()}, {"data": data(images=24)}, "number of images (12 and 24)"),
    "file names": ({"data": data()}, {"data": data(names="9")}, "names of the image files"),
    "masks or ID_MAP": ({"data": data()}, {"data": data(labels="9")}, "labels (other annotations"),
    "classes": ({"data": data()}, {"data": data(classes=["a", "c"])}, "classes (2: a, b and 2: a, c)"),
    "name": ({}, {"dataset": "other_val"}, "data set (toy_val and other_val)"),
    "convention": (
        {"config": "TEST:\n  ABSENT_CLASS: zero\n"},
        {"config": "TEST:\n  ABSENT_CLASS: skip\n"},
        "convention for classes without a label (TEST.ABSENT_CLASS zero and skip)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIFFERENT)
def test_other_data_are_not_tabled_under_one_name(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, words = DIFFERENT[kind]
    records = [record("none", 0, 50.0, **first), record("BPKD", 0, 60.0, **second)]
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        table(records, trimap_width=3)
    assert "none-seed0 and BPKD-seed0" in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(words)):
        comparison_page(records, [], tmp_path, classes=[], trimap_width=3, margin=0.5)
    write_records(tmp_path / "both.json", records)
    assert run("report", [str(tmp_path / "both.json")], prog="bpkd report") == 0
    shown = capsys.readouterr().out
    heads = [i for i, line in enumerate(shown.splitlines()) if line.startswith("#### ")]
    assert len(heads) == 2
    assert words.split(" (")[0] in shown
    assert shown.count("| method |") == 2
    assert "over student alone" not in shown  # no difference between them is taken


def test_older_records_are_tabled_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [record("none", 0, 50.0, data=data(classes=["class 0", "class 1", "class 2"])), record("BPKD", 0, 60.0)]
    write_records(tmp_path / "r.json", records)
    assert run("report", [str(tmp_path / "r.json")], prog="bpkd report") == 0
    shown = capsys.readouterr().out
    assert "1 of 2 records are older and do not identify their images and labels." in shown
    assert shown.count("| method |") == 1


def test_older_records_of_other_classes_stand_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(tmp_path / "r.json", [record("none", 0, 50.0, classes=3), record("BPKD", 0, 60.0, classes=4)])
    assert run("report", [str(tmp_path / "r.json")], prog="bpkd report") == 0
    assert "differs in the classes (3: class 0, class 1, class 2 and 4: " in capsys.readouterr().out


def test_reports_state_the_convention_and_the_other_figures(tmp_path: Path, capsys: Any) -> None:
    absent = {"rule": "zero", "in_no_label": [2], "predicted": [2], "other_rule": "skip"}
    records = runs(none=[50.0], BPKD=[52.0])
    for one, other in zip(records, (75.0, 78.0), strict=True):
        one["absent"] = {**absent, "other": {"mIoU": other}}
    write_records(tmp_path / "r.json", records)
    assert run("report", [str(tmp_path / "r.json")], prog="bpkd report") == 0
    shown = capsys.readouterr().out
    assert "count as IoU 0 where they are predicted (TEST.ABSENT_CLASS zero): 1 here (class 2)." in shown
    assert "under the other convention (skip), where it differs: none 75.00, BPKD 78.00." in shown


def test_a_set_without_objects_has_a_dash_and_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = runs(none=[1.0], BPKD=[1.0])
    for one in records:
        one["metrics"] = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl", "boundary_AP", "bbox_AP"))
        del one["per_class"]
    write_records(tmp_path / "r.json", records)
    assert run("report", [str(tmp_path / "r.json")], prog="bpkd report") == 0
    shown = capsys.readouterr().out
    assert "| student alone | 1 | - | - | - |" in shown
    assert "-: mask AP, AP50" in shown
    assert "no label or object that counts in the data set" in shown
    assert "nan" not in shown
    comparison_page(records, [], tmp_path, classes=[], trimap_width=3, margin=0.5)
