"""Maps as people hand them to `bpkd metrics`: measured rightly, with a note, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bpkd.cli.main import run

Ids = NDArray[np.uint8]
GT, PRED = np.zeros((12, 16), np.uint8), np.zeros((12, 16), np.uint8)
GT[3:9, 4:12] = 1
PRED[3:9, 5:13] = 1
IOU = 100 * (42 / 54 + 138 / 150) / 2


def png(path: Path, values: NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def npy(path: Path, values: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


class Measured:
    """What a call of the command left behind."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], *options: str, classes: int = 2) -> None:
        found = folder / "figures.json"
        words = [str(folder / "p"), str(folder / "g"), "--num-classes", str(classes), "--widths", "1", *options]
        self.status = run("metrics", [*words, "--json", str(found)], prog="bpkd metrics")
        self.err = capsys.readouterr().err
        self.result = json.loads(found.read_text(), parse_constant=pytest.fail) if found.is_file() else {}

    def refused(self, *words: str) -> None:
        assert (self.status, self.result) == (2, {})
        (line,) = (x for x in self.err.splitlines() if x.startswith("error: "))
        assert not [word for word in words if word not in line], line


@pytest.fixture
def measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Measured]:
    return lambda *options, classes=2: Measured(tmp_path, capsys, *options, classes=classes)


def write(folder: Path, prediction: NDArray[Any] = PRED, label: NDArray[Any] = GT) -> None:
    png(folder / "p" / "a.png", prediction)
    png(folder / "g" / "a.png", label)


RIGHT: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "0/255 on both sides, mapped": (
        lambda d: write(d, PRED * 255, GT * 255),
        ("--id-map", "255:1", "--prediction-id-map", "255:1"),
        "",
    ),
    "whole numbers in a float TIFF": (
        lambda d: (write(d), (d / "p/a.png").unlink(), png(d / "p/a.tif", PRED.astype(np.float32))),
        (),
        "whole numbers stored as float32",
    ),
    "float64 ids in .npy": (
        lambda d: (write(d), (d / "p/a.png").unlink(), npy(d / "p/a.npy", PRED.astype(np.float64))),
        (),
        "whole numbers stored as float64",
    ),
    "logits [K, H, W] with --argmax": (
        lambda d: (
            write(d),
            (d / "p/a.png").unlink(),
            npy(d / "p/a.npy", np.stack([1.0 - PRED, PRED - 0.5]).astype(np.float16)),
        ),
        ("--argmax",),
        "largest is taken",
    ),
    "R=G=B saved by a paint tool": (lambda d: write(d, np.stack([PRED] * 3, -1)), (), "mode RGB with equal channels"),
    "RGBA, opaque": (
        lambda d: write(d, np.dstack([PRED, PRED, PRED, np.full_like(PRED, 255)])),
        (),
        "mode RGBA with equal channels",
    ),
    "1-bit PNG": (lambda d: write(d, PRED.astype(bool)), (), ""),
    "16-bit PNG of small ids": (lambda d: write(d, PRED.astype(np.uint16)), (), ""),
    "hidden files beside them": (
        lambda d: (
            write(d),
            (d / "p/._a.png").write_text("Mac"),
            png(d / "g/.ipynb_checkpoints/a-checkpoint.png", GT),
            (d / "g/Thumbs.db").write_text("Windows"),
        ),
        (),
        "",
    ),
    "an image without a labelled pixel": (
        lambda d: (write(d), png(d / "p/b.png", PRED), png(d / "g/b.png", np.full_like(GT, 255))),
        (),
        "1 images hold no labelled pixel and count nowhere: b",
    ),
    "scores in .npy beside the picture of ids": (
        lambda d: (write(d), npy(d / "p/a.npy", np.random.default_rng(0).random((2, 12, 16)))),
        (),
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT)
def test_right_figures(kind: str, tmp_path: Path, measure: Callable[..., Measured]) -> None:
    make, options, note = RIGHT[kind]
    make(tmp_path)
    found = measure(*options)
    assert found.status == 0, found.err
    assert found.result["mIoU"] == pytest.approx(IOU)
    assert note in found.err
    assert bool(note) == ("note: " in found.err)


def scores(order: tuple[int, ...]) -> NDArray[np.float32]:
    return np.stack([1.0 - PRED, PRED]).astype(np.float32).transpose(order)


def exif(d: Path) -> None:
    write(d)
    tags = Image.Exif()
    tags[274] = 6
    png(d / "g/a.png", GT, exif=tags)


def replaced(d: Path, name: str, values: NDArray[Any], save: Callable[..., None] = png) -> None:
    write(d)
    (d / "p/a.png").unlink()
    save(d / "p" / name, values)


def pages(d: Path) -> None:
    replaced(d, "a.tif", PRED)
    page = Image.fromarray(PRED)
    page.save(d / "p/a.tif", save_all=True, append_images=[page])


def jpeg_named_png(d: Path) -> None:
    write(d)
    Image.fromarray(PRED * 100).save(d / "p/a.png", format="JPEG")


def only_jpeg(d: Path) -> None:
    replaced(d, "a.jpg", PRED)


def two_arrays(d: Path) -> None:
    replaced(d, "a.npy", PRED, npy)
    (d / "p/a.npy").unlink()
    np.savez(d / "p/a.npz", pred=PRED, conf=PRED)


def pickled(d: Path) -> None:
    replaced(d, "a.npy", np.array([{"mask": 1}], dtype=object), npy)


THREE = np.zeros((24, 24), np.uint8)
THREE[:12, :12], THREE[12:, :12] = 1, 255
NAN = scores((0, 1, 2))
NAN[0, 0, 0] = np.nan

REFUSED: dict[str, tuple[Callable[[Path], None], tuple[str, ...], int, tuple[str, ...]]] = {
    "labels of 0 and 255": (
        lambda d: write(d, np.zeros_like(GT), GT * 255),
        (),
        2,
        ("255", "class 1 occurs in no label", "--id-map 255:1", "--ignore-index 255"),
    ),
    "labels and predictions of 0 and 255": (
        lambda d: write(d, PRED * 255, GT * 255),
        (),
        2,
        ("a: prediction: expected ids 0..1, got 255", "map 255 to 1"),
    ),
    "0/1/255 where 255 is the third class": (
        lambda d: write(d, np.where(GT == 1, 2, PRED).astype(np.uint8), np.where(GT == 1, 255, PRED).astype(np.uint8)),
        (),
        3,
        ("class 2 occurs in no label", "--id-map 255:2"),
    ),
    "0/1/255 where the third class is never predicted": (
        lambda d: write(d, THREE % 255, THREE),
        (),
        3,
        ("class 0, 1 and, on 25.0 % of the pixels, 255", "class 2 occurs in no label", "--id-map 255:2"),
    ),
    "probabilities in a float TIFF": (
        lambda d: replaced(d, "a.tif", np.where(PRED, 0.9, 0.1).astype(np.float32)),
        (),
        2,
        ("a.tif", "fractions between 0.1 and 0.9", "probabilities are no ids"),
    ),
    "sigmoid outputs in .npy": (
        lambda d: replaced(d, "a.npy", np.where(PRED, 0.75, 0.25), npy),
        (),
        2,
        ("a.npy", "probabilities are no ids"),
    ),
    "logits without --argmax": (
        lambda d: replaced(d, "a.npy", scores((0, 1, 2)), npy),
        (),
        2,
        ("a.npy", "[2, 12, 16]", "--argmax"),
    ),
    "scores [H, W, K]": (
        lambda d: replaced(d, "a.npy", scores((1, 2, 0)), npy),
        ("--argmax",),
        2,
        ("[12, 16, 2]", "transpose(2, 0, 1)"),
    ),
    "nan among the scores": (lambda d: replaced(d, "a.npy", NAN, npy), ("--argmax",), 2, ("1 values that are nan",)),
    "ids where scores are announced": (write, ("--argmax",), 2, ("a.png", "got a picture")),
    "a colour map": (
        lambda d: write(d, np.dstack([PRED * 200, PRED, PRED])),
        (),
        2,
        ("mode RGB", "Colours are no ids"),
    ),
    "transparent pixels": (
        lambda d: write(d, np.dstack([PRED, PRED, PRED, PRED * 255])),
        (),
        2,
        ("mode RGBA with transparent pixels",),
    ),
    "JPEG under another name": (jpeg_named_png, (), 2, ("a.png", "JPEG", "Save PNG")),
    "a folder of JPEG": (only_jpeg, (), 2, ("1 are JPEG files",)),
    "two pages in a TIFF": (pages, (), 2, ("a.tif", "2 pages")),
    "EXIF orientation": (exif, (), 2, ("g/a.png", "EXIF orientation 6")),
    "swapped folders": (
        lambda d: write(d, np.where(PRED, 1, 255).astype(np.uint8), GT),
        (),
        2,
        ("prediction: expected ids 0..1, got 255", "swapped?"),
    ),
    "instanceIds of Cityscapes": (
        lambda d: write(d, PRED, np.where(GT, 24001, 0).astype(np.uint16)),
        (),
        2,
        ("label: expected ids 0..1, got 24001", "instances"),
    ),
    "ids from 1 on": (lambda d: write(d, PRED + 1, GT), (), 2, ("got 2", "Ids begin at 0")),
    "negative ids": (lambda d: replaced(d, "a.tif", PRED.astype(np.int32) - 1), (), 2, ("prediction", "-1")),
    "another size": (
        lambda d: write(d, PRED[:6, :8], GT),
        (),
        2,
        ("(6, 8) and (12, 16)", "Resize predictions"),
    ),
    "two arrays in an .npz": (two_arrays, (), 2, ("a.npz", "got 2: pred, conf")),
    "a pickled object": (pickled, (), 2, ("a.npy", "cannot be read as an array")),
    "one class": (lambda d: write(d, PRED * 0, GT * 0), (), 1, ("expected 2 or more, got 1", "100")),
    "all labels ignored": (lambda d: write(d, PRED, GT * 0 + 255), (), 2, ("no pixel counts",)),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_line(kind: str, tmp_path: Path, measure: Callable[..., Measured]) -> None:
    make, options, classes, words = REFUSED[kind]
    make(tmp_path)
    measure(*options, classes=classes).refused(*words)


def test_what_is_said_by_hand_is_not_doubted(tmp_path: Path, measure: Callable[..., Measured]) -> None:
    write(tmp_path, PRED, GT * 255)
    found = measure("--ignore-index", "255")
    assert found.status == 0
    assert found.result["absent"]["in_no_label"] == [1]


def test_more_classes_than_a_byte_need_their_own_ignored_label(tmp_path: Path) -> None:
    write(tmp_path)
    words = [str(tmp_path / "p"), str(tmp_path / "g"), "--num-classes", "300"]
    with pytest.raises(SystemExit, match="2"):
        run("metrics", words, prog="bpkd metrics")
    assert run("metrics", [*words, "--ignore-index", "-1"], prog="bpkd metrics") == 0


def test_both_conventions_are_printed_where_they_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prediction = PRED.copy()
    prediction[0, :3] = 2  # a class that no label has; class 3 occurs nowhere
    write(tmp_path, prediction)
    words = [str(tmp_path / "p"), str(tmp_path / "g"), "--num-classes", "4", "--per-image", "--widths", "1"]
    shown, figures = {}, {}
    for rule in ("zero", "skip"):
        assert run("metrics", [*words, "--absent", rule, "--classes", "a", "b", "car", "$x$"], prog="bpkd metrics") == 0
        shown[rule] = capsys.readouterr().out
        row = next(line for line in shown[rule].splitlines() if line.startswith("| mIoU |"))
        figures[rule] = float(row.split("|")[2])
    inside = (42 / 54, 135 / 150)
    assert figures["skip"] == pytest.approx(100 * sum(inside) / 2, abs=0.005)
    assert figures["zero"] == pytest.approx(100 * sum(inside) / 3, abs=0.005)
    for rule, other in (("zero", "skip"), ("skip", "zero")):
        assert f"--absent {rule}:" in shown[rule]
        assert "2 of 4 classes occur in no label: car predicted" in shown[rule]
        assert "$x$ not predicted either (left out)" in shown[rule]
        assert f"(--absent {other}): mIoU {figures[other]:.2f} (not {figures[rule]:.2f})" in shown[rule]
        rows = [line.split(" | ") for line in shown[rule].splitlines() if line.startswith("| a |")]
        assert [float(cell.strip(" |")) for cell in (rows[-1][1], rows[-1][-1])] == [figures[rule], figures[other]]


def test_borders_as_pascal_voc_has_them_are_no_class(tmp_path: Path, measure: Callable[..., Measured]) -> None:
    label = np.where(np.abs(np.arange(24) - 12)[None] <= 2, 255, THREE % 255).astype(np.uint8)
    write(tmp_path, THREE % 255, label)
    found = measure(classes=3)
    assert found.status == 0
    assert "class 2 occurs in no label" in found.err
    assert found.result["mIoU"] == 100


PAINTED: dict[str, tuple[int, ...]] = {
    "one map of three": (255, 1, 1),
    "one map of two": (255, 1),
    "every other one": (255, 1, 255, 1, 255, 1),
}


@pytest.mark.parametrize("values", PAINTED.values(), ids=PAINTED.keys())
def test_a_part_of_the_labels_painted_as_0_and_255(
    tmp_path: Path, measure: Callable[..., Measured], values: tuple[int, ...]
) -> None:
    gt, pred = np.zeros((32, 40), np.uint8), np.zeros((32, 40), np.uint8)
    gt[8:24, 8:24] = 1
    pred[8:24, 10:26] = 1
    for number, value in enumerate(values):
        png(tmp_path / "p" / f"{number}.png", pred)
        png(tmp_path / "g" / f"{number}.png", gt * value)
    first = values.index(255)
    measure().refused("255", f"({first})", "--id-map 255:1", "--ignore-index 255")
    right = 100 * (224 / 288 + (1280 - 288) / 1056) / 2
    assert measure("--id-map", "255:1").result["mIoU"] == pytest.approx(right)
    assert measure("--ignore-index", "255").status == 0


def test_void_beside_all_classes_is_no_class(tmp_path: Path, measure: Callable[..., Measured]) -> None:
    for number in range(4):
        gt = np.zeros((32, 40), np.uint8)
        gt[8:24, 8:24] = 1
        gt[:, 32:] = 255 if number % 2 else 0
        png(tmp_path / "p" / f"{number}.png", gt % 255)
        png(tmp_path / "g" / f"{number}.png", gt)
    got = measure()
    assert (got.status, got.result["mIoU"]) == (0, 100)
    assert "seems to be" not in got.err
