"""Masks as people really have them: each is read rightly, noted, or refused in one line that names the cause."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from bpkd.cli.main import run
from bpkd.data.files import read_label

Write = Callable[[Path, np.ndarray, int], None]
CLASSES = ["background", "road", "car"]


def ids_of(number: int, num_classes: int = 3) -> np.ndarray:
    """Ids [48, 64] with every class, each a block of its own."""
    ids = np.zeros((48, 64), np.uint8)
    for index in range(1, num_classes):
        ids[4 + number : 24 + number, 20 * index - 14 : 20 * index] = index
    return ids


def save(path: Path, ids: np.ndarray, number: int = 0) -> None:
    Image.fromarray(ids).save(path)


def make(root: Path, write: Write = save, *, val: Write | None = None, classes: list[str] | None = None) -> None:
    classes = classes or CLASSES
    for split, writer in (("train", write), ("val", val or write)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            image = np.random.default_rng(number).integers(0, 255, (48, 64, 3)).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{number}.png")
            writer(root / split / "masks" / f"{number}.png", ids_of(number, len(classes)), number)


def check(root: Path, capsys: pytest.CaptureFixture[str], *, classes: list[str] | None = None, **keys: Any) -> str:
    """Runs `bpkd check-data` on the set; returns its status and output."""
    folder = {"NAME": "own", "ROOT": str(root), "CLASSES": classes or CLASSES, **keys}
    lines = [f"    {key}: {value}" for key, value in folder.items()]
    config = root / "own.yaml"
    config.write_text("DATASETS:\n  TRAIN: [own_train]\n  TEST: [own_val]\n  FOLDER:\n" + "\n".join(lines) + "\n")
    status = run("check-data", ["--config-file", str(config), "--draw", "0"])
    out = capsys.readouterr()
    return f"status {status}\n{out.out}{out.err}"


def labels(split: str = "train") -> Iterator[np.ndarray]:
    table = MetadataCatalog.get(f"own_{split}").label_table
    return (read_label(item, table) for item in DatasetCatalog.get(f"own_{split}"))


def values(table: dict[int, int]) -> Write:
    """Writes masks whose ids have other values."""
    lut = np.arange(256, dtype=np.uint8)
    for index, value in table.items():
        lut[index] = value
    return lambda path, ids, number: save(path, lut[ids])


def cracks(path: Path, ids: np.ndarray, number: int) -> None:
    mask = np.zeros_like(ids)
    cv2.line(mask, (5, 5 + number), (58, 40), 255, 2)
    save(path, mask)


def zero_taken_off(path: Path, ids: np.ndarray, number: int) -> None:
    save(path, ids - np.uint8(1))


def half_painted(path: Path, ids: np.ndarray, number: int) -> None:
    save(path, np.where(ids > 0, 255 if number % 2 else 1, 0).astype(np.uint8))


def one_painted(path: Path, ids: np.ndarray, number: int) -> None:
    save(path, np.where(ids > 0, 255 if number == 3 else 1, 0).astype(np.uint8))


BINARY = ["background", "object"]
CLASS_255 = [
    ("cracks two pixels wide", cracks, BINARY, {}, r"class 1 \('object'\) never.*ID_MAP: \[\[0, 0\], \[255, 1\]\]"),
    ("0 taken off in 8 bits", zero_taken_off, ["road", "car", "background"], {},
     r"2 \('background'\) never.*ID_MAP: \[\[0, 0\], \[1, 1\], \[255, 2\]\].*IGNORE_INDEX: 255"),
    ("the last class is white", values({2: 255}), CLASSES, {},
     r"2 \('car'\) never.*\[\[0, 0\], \[1, 1\], \[255, 2\]\]"),
    ("every second mask from a paint tool", half_painted, BINARY, {},
     r"255 seems to be class 1.*3\.png.*0\.png|255 seems to be class 1.*1\.png.*0\.png"),
    ("one mask from a paint tool", one_painted, BINARY, {}, r"3\.png.*0\.png.*\[\[0, 0\], \[1, 1\], \[255, 1\]\]"),
    ("another value is ignored", values({1: 255, 2: 9}), BINARY, {"IGNORE_INDEX": 9},
     r"1 \('object'\) never.*\[255, 1\].*ID_MAP: \[\[0, 0\], \[9, 255\], \[255, 255\]\]"),
    ("an id map without 255", values({1: 7, 2: 255}), BINARY, {"ID_MAP": "[[0, 0], [7, 0]]"},
     r"\[\[0, 0\], \[7, 0\], \[255, 1\]\]"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "write", "classes", "keys", "expected"), CLASS_255, ids=[c[0] for c in CLASS_255])
def test_255_that_looks_like_a_class_is_refused_with_both_ways_out(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    what: str,
    write: Write,
    classes: list[str],
    keys: Any,
    expected: str,
) -> None:
    make(tmp_path, write)
    got = check(tmp_path, capsys, classes=classes, **keys)
    assert got.startswith("status 1"), got
    line = next(line for line in got.splitlines() if "own_train" in line and "error" in line)
    assert re.search(expected, line), line
    assert "255" in line
    stated = re.findall(r"DATASETS\.FOLDER\.(ID_MAP|IGNORE_INDEX): (\[\[.*?\]\]|255)", line)
    assert len(stated) == 2, line
    for key, value in stated:  # both ways out are taken as they are written
        others = {k: v for k, v in keys.items() if k != key}
        assert check(tmp_path, capsys, classes=classes, **others, **{key: value}).startswith("status 0"), (key, value)


def test_a_split_that_was_painted_in_another_way_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, values({2: 1}), val=values({1: 255, 2: 255}))
    got = check(tmp_path, capsys, classes=BINARY)
    assert "own_train: 4 images, all usable" in got
    assert re.search(r"own_val: .*255 seems to be class 1 .*val/masks/0\.png.*train/masks/0\.png", got), got


def test_thin_borders_between_regions_are_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(path: Path, ids: np.ndarray, number: int) -> None:
        edge = cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        save(path, np.where(edge, 255, ids).astype(np.uint8))

    make(tmp_path, write)
    assert check(tmp_path, capsys, classes=[*CLASSES, "train"]).startswith("status 0")


def test_a_rare_class_may_be_missing_beside_real_void(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def void(path: Path, ids: np.ndarray, number: int) -> None:
        ids[30:, 40:] = 255
        save(path, np.where((ids == 2) & (number > 0), 1, ids).astype(np.uint8))

    def without(path: Path, ids: np.ndarray, number: int) -> None:
        ids[30:, 40:] = 255
        save(path, np.where(ids == 2, 1, ids).astype(np.uint8))

    make(tmp_path, void, val=without)
    assert check(tmp_path, capsys).startswith("status 0")


def test_stated_255_is_never_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, values({1: 255, 2: 255}))
    assert check(tmp_path, capsys, IGNORE_INDEX=255).startswith("status 0")
    assert [set(np.unique(own)) for own in labels()] == [{0, 255}] * 4
    assert check(tmp_path, capsys, ID_MAP="[[0, 0], [255, 1]]").startswith("status 0")
    assert [set(np.unique(own)) for own in labels()] == [{0, 1}] * 4


ID_MAPS = [
    ("spread for the eye", {1: 127, 2: 254}, "[[0, 0], [127, 1], [254, 2]]"),
    ("with white", {1: 128, 2: 255}, "[[0, 0], [128, 1], [255, 2]]"),
    ("from 1", {0: 1, 1: 2, 2: 3}, "[[1, 0], [2, 1], [3, 2]]"),
    ("dataset ids with gaps", {0: 7, 1: 11, 2: 26}, "[[7, 0], [11, 1], [26, 2]]"),
]


@pytest.mark.parametrize(("table", "line"), [case[1:] for case in ID_MAPS], ids=[case[0] for case in ID_MAPS])
def test_values_that_are_no_ids_come_with_their_id_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: dict[int, int], line: str
) -> None:
    make(tmp_path, values(table))
    got = check(tmp_path, capsys)
    assert got.startswith("status 1")
    assert f"DATASETS.FOLDER.ID_MAP: {line}" in got
    assert check(tmp_path, capsys, ID_MAP=line).startswith("status 0")
    assert all(np.array_equal(own, ids_of(i)) for i, own in enumerate(labels()))


def test_an_id_too_many_names_both_causes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path)
    got = check(tmp_path, capsys, classes=BINARY)
    assert "0 is no class and the ids begin with 1" in got
    assert "[[0, 255], [1, 0], [2, 1]]" in got
    assert "CLASSES lacks a name" in got


def jpeg_called_png(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(ids * np.uint8(100)).save(path, "JPEG", quality=95)


def webp(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(ids).convert("RGB").save(path, "WEBP", quality=80)


def interpolated(path: Path, ids: np.ndarray, number: int) -> None:
    small = cv2.resize(ids * np.uint8(127), (23, 17))
    save(path, cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC))


def painted(path: Path, ids: np.ndarray, number: int) -> None:
    picture = Image.fromarray(ids)
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.convert("RGB").save(path)


def on_nothing(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(np.dstack([np.full_like(ids, 255)] * 3 + [np.where(ids > 0, 255, 0).astype(np.uint8)])).save(path)


def wide_grey(path: Path, ids: np.ndarray, number: int) -> None:
    cv2.imwrite(str(path), np.dstack([ids.astype(np.uint16)] * 3))


def floats(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(ids.astype(np.float32)).save(path, "TIFF")


def page_per_class(path: Path, ids: np.ndarray, number: int) -> None:
    pages = [Image.fromarray((ids == index).astype(np.uint8)) for index in range(3)]
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])


def animated(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(ids).save(path, "PNG", save_all=True, append_images=[Image.fromarray(ids[::-1].copy())])


def wide_ids(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(ids.astype(np.uint16) * 1000).save(path)


def red_channel(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(np.dstack([ids, 0 * ids, 0 * ids])).save(path)


REFUSED = [
    (jpeg_called_png, "lossless format, got JPEG, whatever the file is called.*PNG"),
    (webp, "lossless format, got lossy WebP"),
    (interpolated, "JPEG or of resizing with interpolation"),
    (painted, r"got colours \(mode RGB, such as \((128, 0, 0|0, 128, 0)\)\)"),
    (red_channel, r"got colours \(mode RGB, such as \([12], 0, 0\)\)"),
    (on_nothing, "transparent pixels.*without an alpha channel"),
    (wide_grey, "mode RGB of 16 bits"),
    (floats, "float values"),
    (page_per_class, "one frame, got 3 .TIFF"),
    (animated, "one frame, got 2 .PNG"),
    (wide_ids, r"expected ids 0..255, got 0..2000"),
]


@pytest.mark.parametrize(("write", "expected"), REFUSED, ids=[case[0].__name__ for case in REFUSED])
def test_masks_that_hold_no_ids_are_called_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Write, expected: str
) -> None:
    make(tmp_path, write)
    got = check(tmp_path, capsys)
    assert got.startswith("status 1")
    assert re.search(f"own_train.*masks/0.png.*{expected}|own_train: .*{expected}", got), got


def grey_rgb(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(ids).convert("RGB").save(path)


def opaque(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(np.dstack([ids] * 3 + [np.full_like(ids, 255)])).save(path)


def grey_and_alpha(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(np.dstack([ids, np.full_like(ids, 255)])).save(path)


def small_copies(path: Path, ids: np.ndarray, number: int) -> None:
    """As GDAL's overviews, in one file."""
    page = Image.fromarray(ids[::2, ::2].copy())
    page.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(ids).save(path, "TIFF", save_all=True, append_images=[page])


def wide(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(ids.astype(np.int32)).save(path, "TIFF")


def big_endian(path: Path, ids: np.ndarray, number: int) -> None:
    Image.frombytes("I;16B", (64, 48), ids.astype(">u2").tobytes()).save(path, "TIFF")


def viewed(path: Path, ids: np.ndarray, number: int) -> None:
    picture = Image.fromarray(ids)
    picture.putpalette([0, 0, 0, 128, 128, 128, 255, 255, 255])
    picture.save(path, transparency=0)


def turned_tiff(path: Path, ids: np.ndarray, number: int) -> None:
    Image.fromarray(np.ascontiguousarray(np.rot90(ids))).save(path, "TIFF", tiffinfo={0x112: 6})


def permuted(path: Path, ids: np.ndarray, number: int) -> None:
    picture = Image.fromarray(ids)
    picture.putpalette([0, 0, 0, 7, 7, 7, 1, 1, 1])
    picture.save(path)


READ = [
    (grey_rgb, "4 masks are saved as colours.*read as one"),
    (opaque, "4 masks are saved as colours.*read as one"),
    (grey_and_alpha, "4 masks are saved as colours or with an alpha.*read as one"),
    (small_copies, ""),
    (wide, ""),
    (big_endian, ""),
    (viewed, ""),
    (turned_tiff, ""),
    (permuted, "4 masks have a palette of greys.*the indices are read"),
]


@pytest.mark.parametrize(("write", "note"), READ, ids=[case[0].__name__ for case in READ])
def test_masks_of_other_modes_are_read_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Write, note: str
) -> None:
    make(tmp_path, write)
    got = check(tmp_path, capsys)
    assert got.startswith("status 0"), got
    assert re.search(note, got), got
    assert ("  note:" in got) == bool(note), got
    assert all(np.array_equal(own, ids_of(i)) for i, own in enumerate(labels()))


def test_bilevel_masks_are_0_and_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fax(path: Path, ids: np.ndarray, number: int) -> None:
        Image.fromarray(ids > 0).save(path, "TIFF", compression="group4")

    make(tmp_path, fax)
    assert check(tmp_path, capsys, classes=BINARY).startswith("status 0")
    assert all(np.array_equal(own, ids_of(i) > 0) for i, own in enumerate(labels()))


def without_labels(path: Path, ids: np.ndarray, number: int) -> None:
    save(path, np.full_like(ids, 255) if number == 2 else ids)


def test_an_image_without_a_labelled_pixel_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, without_labels)
    out = check(tmp_path, capsys)
    assert "status 0" in out
    assert len(re.findall(r"note: 1 images hold no labelled pixel \(first .*/2.png\)", out)) == 2


def test_class_names_are_printed_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path)
    out = check(tmp_path, capsys, CLASSES='[background, "road\\nleft", car]')
    assert "1 road left" in out


COLOURS = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]


def indexed(path: Path, ids: np.ndarray, order: list[int]) -> None:
    """Saves colours, with the palette in an order of the picture's own."""
    picture = Image.fromarray(np.argsort(order).astype(np.uint8)[ids], "P")
    picture.putpalette([value for index in order for value in COLOURS[index]])
    picture.save(path)


def each_anew(path: Path, ids: np.ndarray, number: int) -> None:
    indexed(path, ids, [0, 1, 2] if number % 2 else [0, 2, 1])


def first_seen(path: Path, ids: np.ndarray, number: int) -> None:
    """A picture without a class has no place for it in its palette."""
    if number == 2:
        ids = np.where(ids == 1, 0, ids)
    Image.fromarray(np.asarray(COLOURS, np.uint8)[ids]).quantize(3).save(path)


def one_order(order: list[int]) -> Write:
    return lambda path, ids, number: indexed(path, ids, order)


@pytest.mark.parametrize(
    ("train", "val", "split"),
    [(each_anew, each_anew, "train"), (first_seen, first_seen, "train"),
     (one_order([0, 1, 2]), one_order([2, 1, 0]), "val")],
    ids=["each mask its own", "a palette of the colours seen", "each split its own"],
)  # fmt: skip
def test_palettes_that_differ_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], train: Write, val: Write, split: str
) -> None:
    make(tmp_path, train, val=val)
    got = check(tmp_path, capsys)
    assert re.search(rf"error: own_{split}: the colour \(\d+, \d+, \d+\) is index \d in .* and index \d in ", got), got
    got = check(tmp_path, capsys, ID_MAP="[[0, 0], [1, 1], [2, 2]]")
    assert got.startswith("status 0")


def with_spare_colours(path: Path, ids: np.ndarray, number: int) -> None:
    """Cityscapes' colour table: several ids are black."""
    picture = Image.fromarray(ids, "P")
    picture.putpalette([0, 0, 0] * 2 + [0, 0, 9 + number] + [0, 0, 0] * 200)
    picture.save(path)


@pytest.mark.parametrize("write", [one_order([0, 1, 2]), with_spare_colours], ids=["one palette", "shared colours"])
def test_one_palette_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Write) -> None:
    make(tmp_path, write)
    assert check(tmp_path, capsys).startswith("status 0")
    assert all(np.array_equal(got, ids_of(i)) for i, got in enumerate(labels()))
