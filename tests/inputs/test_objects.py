"""COCO files as tools and people write them: right, repaired with a note, or refused by name."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.coco_files import (
    OBJECTS,
    SIDE,
    Data,
    Edit,
    command,
    drawn,
    label_truth,
    perfect_scores,
    run_lengths,
    write_set,
)


def each(**changes: Callable[[dict[str, Any]], Any]) -> Edit:
    """Changes every annotation."""

    def edit(data: Data) -> None:
        for one in data["annotations"]:
            one.update({key: new(one) for key, new in changes.items()})

    return edit


def one(**values: Any) -> Edit:
    """Changes the annotation with the id 1."""
    return lambda data: data["annotations"][0].update(values)


def points(annotation: dict[str, Any]) -> list[tuple[int, int]]:
    flat = annotation["segmentation"][0]
    return list(zip(flat[::2], flat[1::2], strict=True))


def counts(annotation: dict[str, Any]) -> bytes:
    found: bytes = run_lengths(tuple(annotation["bbox"]))["counts"]
    return found


def images_named(name: Callable[[str], str]) -> Edit:
    def edit(data: Data) -> None:
        for image in data["images"]:
            image["file_name"] = name(image["file_name"])

    return edit


def numbered(new: Callable[[int], Any]) -> Edit:
    """Gives images other ids."""

    def edit(data: Data) -> None:
        for image in data["images"]:
            image["id"] = new(image["id"])
        for annotation in data["annotations"]:
            annotation["image_id"] = new(annotation["image_id"])

    return edit


def joined(*edits: Edit) -> Edit:
    def edit(data: Data) -> None:
        for change in edits:
            change(data)

    return edit


def categories_as_text(data: Data) -> None:
    for row in data["categories"]:
        row["id"] = str(row["id"])


def one_name(data: Data) -> None:
    data["categories"][1]["name"] = "square"


def twice(data: Data) -> None:
    data["images"].append(dict(data["images"][0]))


def speck(data: Data) -> None:
    """An object that a click too many left: it covers no pixel."""
    tiny = {"segmentation": [[60.1, 2.1, 60.3, 2.1, 60.3, 2.3]], "bbox": [60.1, 2.1, 0.2, 0.2], "area": 0.02}
    data["annotations"].append({**data["annotations"][0], **tiny, "id": 99})


REPAIRED: dict[str, tuple[Edit, str]] = {
    "boxes as two corners": (
        each(bbox=lambda a: [a["bbox"][0], a["bbox"][1], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]]),
        "4 objects have another bbox [x, y, width, height] than their mask's",
    ),
    "boxes as centre and size": (
        each(bbox=lambda a: [a["bbox"][0] + a["bbox"][2] / 2, a["bbox"][1] + a["bbox"][3] / 2, *a["bbox"][2:]]),
        "4 objects have another bbox [x, y, width, height] than their mask's",
    ),
    "boxes of zeros": (each(bbox=lambda a: [0, 0, 0, 0]), "4 objects have no valid bbox"),
    "areas of zero": (each(area=lambda a: 0.0), "4 objects have no valid area: counted from the mask"),
    "points as objects": (
        each(segmentation=lambda a: [[{"x": x, "y": y} for x, y in points(a)]]),
        "4 objects: outlines as points",
    ),
    "outlines as text, from a table": (
        each(segmentation=lambda a: json.dumps(a["segmentation"])),
        "4 objects: outlines written as text",
    ),
    "Python's bytes as text": (
        each(segmentation=lambda a: {"size": [SIDE, SIDE], "counts": str(counts(a))}),
        "4 objects: run lengths written as Python's b'...'",
    ),
    "run lengths in a list": (
        each(segmentation=lambda a: [{"size": [SIDE, SIDE], "counts": counts(a).decode()}]),
        "4 objects: run-length masks in a list: joined",
    ),
    "run lengths as bare text": (
        each(segmentation=lambda a: counts(a).decode()),
        "4 objects: run-length masks without 'size'",
    ),
    "ids of a table with gaps, as decimals": (
        joined(numbered(lambda i: float(i)), each(category_id=lambda a: f"{a['category_id']}.0")),
        "4 objects have a category_id that is text",
    ),
    "ids as text in the annotations alone": (
        each(image_id=lambda a: str(a["image_id"])),
        "4 objects have an image_id written otherwise",
    ),
    "category ids as text": (categories_as_text, "2 categories have an id that is text"),
    "Windows' paths of another machine": (
        images_named(lambda name: f"C:\\Users\\me\\data\\{name}"),
        "2 images have a file_name that begins with folders that are not here",
    ),
    "the split's folder in the name": (
        images_named(lambda name: f"images/{name}"),
        "2 images have a file_name that begins with folders that are not here",
    ),
    "an image listed twice": (twice, "1 images are listed twice under one id and name: read once (image id 1)"),
    "two classes of one name": (one_name, "2 categories share a name"),
    "an object without a pixel": (speck, "1 objects cover no pixel: left out (annotation id 99)"),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_repaired_with_a_note(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, note = REPAIRED[name]
    config = write_set(tmp_path, edit)
    status, text = command(capsys, "check-data", config)
    assert (status, len(notes_in(text, note)), len(notes_in(text))) == (0, 2, 2), text  # of either split
    masks = label_truth(config)
    assert all(np.array_equal(m, [drawn(b) for b, _ in objects]) for m, objects in zip(masks, OBJECTS, strict=True))
    scores = perfect_scores(config)
    assert {key: round(scores[key]["AP"], 6) for key in scores} == {"segm": 100, "boundary": 100, "bbox": 100}
    assert scores["segm"]["APs"] == pytest.approx(100)  # all are smaller than 32 x 32
    assert np.isnan(scores["segm"]["APl"])


def notes_in(text: str, part: str = "") -> list[str]:
    return [line for line in text.splitlines() if line.startswith("  note: ") and part in line]


ACCEPTED: dict[str, Edit] = {
    "ids as text": numbered(lambda i: f"image {i}"),
    "large ids": numbered(lambda i: 2**53 + i),
    "ids below zero": joined(numbered(lambda i: -i), each(id=lambda a: -a["id"])),
    "annotation ids as text": each(id=lambda a: f"object-{a['id']}"),
    "run lengths as a list": each(
        segmentation=lambda a: {"size": [SIDE, SIDE], "counts": _plain(drawn(tuple(a["bbox"])))}
    ),
    "a part outside the image": one(segmentation=[[4, 6, 24, 6, 24, 22, 4, 22], [70, 70, 80, 70, 80, 80]]),
}


def _plain(mask: np.ndarray) -> list[int]:
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    found: list[int] = np.diff([0, *ends, flat.size]).tolist()
    return found


@pytest.mark.parametrize("name", ACCEPTED)
def test_right_as_it_is(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_set(tmp_path, ACCEPTED[name])
    status, text = command(capsys, "check-data", config)
    assert (status, notes_in(text)) == (0, []), text
    scores = perfect_scores(config)
    assert [round(scores[key]["AP"], 6) for key in ("segm", "boundary", "bbox")] == [100] * 3


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings_of_other_systems(encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_set(tmp_path, raw=lambda text: text.encode(encoding))
    assert command(capsys, "check-data", config)[0] == 0


def test_accents_of_another_system_and_names_of_addresses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_set(tmp_path, images_named(lambda name: {"o0.png": "é 0.png", "o1.png": "my%20o1.png"}[name]))
    for split in ("train", "val"):
        (tmp_path / split / "o0.png").rename(tmp_path / split / unicodedata.normalize("NFD", "é 0.png"))
        (tmp_path / split / "o1.png").rename(tmp_path / split / "my o1.png")
    status, text = command(capsys, "check-data", config)
    assert status == 0
    assert "1 images have a file_name whose accents are encoded otherwise" in text
    assert "1 images have a file_name as in an address (%20 for a space): decoded (image id 2)" in text


def shares(data: Data) -> None:
    for annotation in data["annotations"]:
        annotation["segmentation"] = [[v / SIDE for v in annotation["segmentation"][0]]]


def two_files(data: Data) -> None:
    data["images"][1]["id"] = 1


def boxes_alone(data: Data) -> None:
    for annotation in data["annotations"]:
        del annotation["segmentation"]


def no_name(data: Data) -> None:
    image = data["images"][0]
    image["coco_url"] = f"http://images.example/{image.pop('file_name')}"


CUT = run_lengths(OBJECTS[0][0][0])["counts"].decode()[:-2]
TALL = {"size": [2 * SIDE, SIDE // 2], "counts": [SIDE * SIDE]}
OBJECT = r"1 of 4 objects cannot be used: o0\.png, annotation 1: "
# What is written, and the reason after the file's name. The last: whether it can be left out.
REFUSED: dict[str, tuple[Edit, str, bool]] = {
    "run lengths cut off": (
        one(segmentation={"size": [SIDE, SIDE], "counts": CUT}),
        OBJECT + r"run lengths: expected 4096 pixels \(64x64\), got",
        True,
    ),
    "run lengths of no pixel": (
        one(segmentation={"size": [SIDE, SIDE], "counts": ""}),
        OBJECT + "run lengths: .* got damaged text",
        True,
    ),
    "run lengths of another size": (
        one(segmentation=TALL),
        OBJECT + "expected a run-length mask of the image's 64x64, got one of 128x32",
        True,
    ),
    "the index of a colour as mask": (
        one(segmentation=7),
        OBJECT + "segmentation: expected polygons or run lengths, got 7",
        True,
    ),
    "a coordinate a million pixels away": (
        one(segmentation=[[4, 6, 1e6, 6, 24, 22]]),
        OBJECT + r"coordinate 1e\+06: far outside the image of 64x64",
        True,
    ),
    "a coordinate of thirty digits": (
        one(segmentation=[[4, 6, 10**30, 6, 24, 22]]),
        OBJECT + r"coordinate 1e\+30: far outside",
        True,
    ),
    "a flat list that holds null": (one(segmentation=[4, 6, None, 6, 24, 22]), OBJECT + "coordinate null", True),
    "a decimal comma": (one(segmentation=[["4,5", "6", "24", "6", "24", "22"]]), OBJECT + "coordinate '4,5'", True),
    "outlines of the image before it was cut": (
        one(segmentation=[[204, 206, 224, 206, 224, 222]]),
        OBJECT + r"the outline lies outside the image of 64x64: x 204\.\.224, y 206\.\.222",
        True,
    ),
    "a class that was deleted": (
        one(category_id=5),
        OBJECT + r"category_id: expected one of the file's categories \(1, 2\), got 5",
        True,
    ),
    "crowd as a word": (one(iscrowd="crowd"), OBJECT + "iscrowd: expected 0 or 1, got 'crowd'", True),
    "boxes alone": (boxes_alone, "4 of 4 objects cannot be used: .* The file holds boxes alone", False),
    "shares of the image's size": (shares, r"expected coordinates in pixels, got none above 0\.\d+", False),
    "two files under one id": (two_files, r"image id 1 stands for two files, o0\.png and o1\.png", False),
    "the address of an image alone": (no_name, "image id 1: expected a file_name, got None, only the address", False),
    "objects of other images": (
        each(image_id=lambda a: f"{a['image_id']}.png"),
        r"expected annotations of its 2 images \(ids 1, 2, \.\.\.\), got 4 of others \(image_id '1\.png'",
        False,
    ),
    "a file of results": (
        lambda data: [{**a, "score": 0.5} for a in data["annotations"]],
        r"got a results file \(a list of 4 detections with scores\)",
        False,
    ),
    "annotations alone": (
        lambda data: data["annotations"],
        "got a list of 4 annotations without images and categories",
        False,
    ),
    "a file of LabelMe": (
        lambda data: {"shapes": [], "imagePath": "o0.png"},
        "expected lists images, annotations, categories, .* looks like a file of LabelMe",
        False,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the check, by the grids and by training with and without its check, in the same words."""
    edit, reason, droppable = REFUSED[name]
    config = write_set(tmp_path, edit)
    doors = (("check-data",), ("suggest-grids",), ("train",), ("train", "DATASETS.CHECK", "off"))
    found = [command(capsys, door, config, *words) for door, *words in doors]
    assert [status for status, _ in found] == [1, 2, 2, 2]
    lines = [next(x for x in text.splitlines() if x.startswith("error: cells_train")) for _, text in found]
    assert len(set(lines)) == 1
    assert re.search(rf"cells_train: {re.escape(str(tmp_path))}/train\.json.*{reason}", lines[0]), lines[0]
    assert ("DATASETS.DROP_UNUSABLE_OBJECTS True" in lines[0]) == ("objects cannot be used" in lines[0])
    if droppable:
        words = ("DATASETS.DROP_UNUSABLE_OBJECTS", "True")
        status, text = command(capsys, "check-data", config, *words)
        assert status == 0
        assert "1 of 4 objects cannot be used and are left out" in text
        assert [len(masks) for masks in label_truth(config, *words)] == [1, 2]


BROKEN: dict[str, tuple[Callable[[str], bytes], str]] = {
    "empty": (lambda text: b" \n", "expected JSON, got an empty file"),
    "cut off": (lambda text: text[: len(text) // 2].encode(), r"ends in the middle|line 1, column \d+"),
    "a pointer": (lambda text: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
    "a page": (lambda text: b"<!DOCTYPE html><html>404</html>", "an HTML or XML page"),
    "Latin text": (lambda text: text.replace("square", "carré").encode("latin-1"), "text that is not UTF-8"),
    "comments": (lambda text: b"// mine\n" + text.encode(), "line 1, column 1"),
    "packed": (lambda text: b"\x1f\x8b\x08" + text.encode(), r"a gzip file \(unpack it\)"),
    "a key twice": (
        lambda text: text[:-1].encode() + b', "annotations": []}',
        "expected the key 'annotations' once, got it twice",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_are_none(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, reason = BROKEN[name]
    config = write_set(tmp_path, raw=raw)
    status, text = command(capsys, "check-data", config)
    assert status == 1
    assert re.search(rf"error: cells_train: .*/train\.json cannot be read as a COCO file: .*({reason})", text), text


def by_rows(annotation: dict[str, Any]) -> dict[str, Any]:
    """Run lengths as a program writes them that reads a mask row by row."""
    return {"size": [SIDE, SIDE], "counts": _plain(drawn(tuple(annotation["bbox"])).T)}


EXCHANGED = {
    "row and column for x and y": each(segmentation=lambda a: [[c for x, y in points(a) for c in (y, x)]]),
    "run lengths row by row": each(segmentation=by_rows),
}


@pytest.mark.parametrize("name", EXCHANGED)
def test_exchanged_axes_are_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_set(tmp_path, EXCHANGED[name])
    status, text = command(capsys, "check-data", config)
    assert (status, len(notes_in(text, "only with x and y exchanged"))) == (0, 2), text
    (line, _) = notes_in(text, "only with x and y exchanged")
    # those of the first image lie on the diagonal, where both readings overlap by half or more
    assert "train.json: 2 objects have a bbox that fits" in line
    assert "(annotation ids 3, 4)" in line


def test_objects_that_are_there_twice_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def merged(data: Data) -> None:
        data["annotations"] += [{**data["annotations"][0], "id": 51}, {**data["annotations"][3], "id": 52}]

    config = write_set(tmp_path, merged)
    status, text = command(capsys, "check-data", config)
    assert status == 0
    assert "2 objects are there twice, with the same image, class and outline" in text
    assert "(annotation ids 51, 52)" in text
    assert perfect_scores(config)["segm"]["AP"] < 100


HUGE = 10**400
LARGE: dict[str, tuple[Edit, int, str]] = {
    "box": (one(bbox=[1, 2, HUGE, 4]), 0, "1 objects have no valid bbox"),
    "area": (one(area=HUGE), 0, "1 objects have no valid area"),
    "size of run lengths": (one(segmentation={"size": [HUGE, SIDE], "counts": [20, 4076]}), 1, "expected size"),
    "image": (lambda data: data["images"][0].update(height=HUGE), 0, "1 images have no height or width"),
}


@pytest.mark.parametrize("name", LARGE)
def test_whole_numbers_that_no_float_holds(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, expected, words = LARGE[name]
    config = write_set(tmp_path, edit)
    status, text = command(capsys, "check-data", config)
    assert (status, words in text) == (expected, True), text


NOTHING: dict[str, Edit] = {
    "crowds alone": each(iscrowd=lambda a: 1),
    "lines alone": each(segmentation=lambda a: [[4, 6, 9, 6, 14, 6]], bbox=lambda a: [4, 6, 10, 0]),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_learn_is_refused_at_all_doors(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_set(tmp_path, NOTHING[name])
    for door in ("check-data", "suggest-grids", "train"):
        status, text = command(capsys, door, config)
        assert status in (1, 2)
        assert re.search("error: .*(expected objects|has an instance)", text), text


def test_shares_without_boxes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def alone(data: Data) -> None:
        shares(data)
        for annotation in data["annotations"]:
            del annotation["bbox"], annotation["area"]

    status, text = command(capsys, "check-data", write_set(tmp_path, alone))
    assert status == 1
    assert "expected coordinates in pixels, got none above" in text
