"""The reader of COCO files beside Detectron2's, its parts, and the check and the figures that use it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Instances
from pycocotools import mask as rle

from bpkd.config import read_config
from bpkd.data import DatasetError, check_dataset, register_datasets, survey_dataset
from bpkd.data.annotations import dataset_dicts, encode, read_objects
from bpkd.data.annotations.fields import box_differs, read_crowd
from bpkd.data.annotations.masks import run_total
from bpkd.data.annotations.notes import SHOWN, UnusableError
from bpkd.data.annotations.outlines import read_outline
from bpkd.evaluation.instances import InstanceEvaluator
from tests.helpers.coco_files import SIDE, command, content, corners, drawn, run_lengths, write_set


def coco_like(path: Path) -> None:
    """A file as COCO publishes them: gaps in ids, several and invalid polygons, crowds, images without objects."""
    rng = np.random.default_rng(0)
    images = [{"id": int(i), "file_name": f"{i:012d}.jpg", "height": 40, "width": 60, "license": 3} for i in
              rng.permutation(500)[:12]]  # fmt: skip
    annotations: list[dict[str, Any]] = []
    for number in range(60):
        image = images[int(rng.integers(0, 11))]
        polygons = [(rng.random(int(rng.integers(3, 9)) * 2) * 39).round(2).tolist() for _ in range(1 + number % 3)]
        if number % 7 == 0:
            polygons.append([1.0, 2.0, 3.0, 4.0])
        if number % 11 == 0:
            polygons = [[5.0, 5.0, 6.0, 6.0]]
        mask: Any = polygons
        if number % 10 == 0:
            mask = {"size": [40, 60], "counts": [1200, 100, 1100]}
        box = [1.5, 2.25, 20.0, 0.0 if number == 1 else 12.5]
        crowd = int(number % 10 == 0)
        one = {"id": 900_000 - number, "image_id": image["id"], "category_id": int(rng.choice([1, 5, 90]))}
        annotations.append({**one, "iscrowd": crowd, "area": 33.25, "bbox": box, "segmentation": mask})
    names = [{"id": i, "name": n, "supercategory": "x"} for i, n in ((90, "brush"), (1, "person"), (5, "plane"))]
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": names}))


def test_published_files_are_read_as_detectron2_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "instances_val2017.json"
    coco_like(path)
    want = load_coco_json(str(path), str(tmp_path / "val2017"), "read_by_detectron2")
    found = read_objects(path, tmp_path / "val2017", published=True)
    assert dataset_dicts(found, str(tmp_path / "val2017")) == want
    meta = MetadataCatalog.get("read_by_detectron2")
    assert list(found.categories.values()) == meta.thing_classes
    assert found.classes == meta.thing_dataset_id_to_contiguous_id
    assert any("5 of 60 objects cannot be used and are left out (as Detectron2 does)" in note for note in found.notes)


def test_a_right_file_of_ones_own_too(tmp_path: Path) -> None:
    write_set(tmp_path)
    found = read_objects(tmp_path / "val.json", tmp_path / "val")
    assert dataset_dicts(found, str(tmp_path / "val")) == load_coco_json(
        str(tmp_path / "val.json"), str(tmp_path / "val"), "own_by_detectron2"
    )
    assert (found.notes, found.problems) == ((), ())


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    write_set(tmp_path)
    path = tmp_path / "val.json"
    first = read_objects(path, tmp_path / "val")
    assert read_objects(path, tmp_path / "val") is first
    data = content()
    del data["annotations"][0]
    path.write_text(json.dumps(data))
    assert read_objects(path, tmp_path / "val").total == 3


@pytest.mark.parametrize("seed", range(5))
def test_pixels_of_run_lengths(seed: int) -> None:
    """Counted in the text as pycocotools writes it, and damage is seen."""
    rng = np.random.default_rng(seed)
    for height, width in ((1, 1), (7, 300), (200, 3)):
        mask = (rng.random((height, width)) < rng.choice([0.02, 0.5])).astype(np.uint8)
        counts = rle.encode(np.asfortranarray(mask))["counts"]
        assert run_total(counts) == height * width
        assert run_total(counts + b"2") != height * width
    assert run_total(b"") is run_total(b"\x20") is run_total(b"o") is run_total(b"ooooooooooooo0") is None


def test_boxes_of_other_forms_only() -> None:
    """Rounding, a margin and an amodal box are somebody's choice; another form is none."""
    extent = (30.0, 20.0, 50.0, 60.0)
    for right in ([30, 20, 20, 40], [28.5, 18, 23, 43.9], [24, 15, 30, 50]):
        assert not box_differs(right, extent, 100, 100)
    for wrong in ([30, 20, 50, 60], [40, 40, 20, 40], [0.3, 0.2, 0.2, 0.4], [60, 40, 40, 80]):
        assert box_differs(wrong, extent, 100, 100)
    assert not box_differs([80, 80, 40, 40], (80, 80, 120, 120), 100, 100)
    assert not box_differs([80, 80, 20, 20], (80, 80, 120, 120), 100, 100)  # cut off at the border


@pytest.mark.parametrize(
    ("value", "crowd"), [(0, 0), (1, 1), (None, 0), ("1", 1), (True, 1), (0.0, 0), ("false", 0), (" True ", 1)]
)
def test_crowd_flags(value: Any, crowd: int) -> None:
    assert read_crowd(value)[0] == crowd


@pytest.mark.parametrize("value", [2, -1, "yes", [0], 0.5, float("nan")])
def test_crowd_flags_that_are_none(value: Any) -> None:
    with pytest.raises(UnusableError, match="iscrowd: expected 0 or 1, got "):
        read_crowd(value)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("wild", [NAN, INF, -INF, 1e18, -1e7, 10**400])
@pytest.mark.parametrize("shape", ["polygon", "pairs", "flat", "second"])
def test_no_wild_number_reaches_pycocotools(wild: float, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rle, "frPyObjects", lambda *args: pytest.fail("handed on"))
    ring = [4.0, 4.0, 30.0, 4.0, 30.0, wild]
    pairs = [[x, y] for x, y in zip(ring[::2], ring[1::2], strict=True)]
    value = {"polygon": [ring], "pairs": [pairs], "flat": ring, "second": [[4.0, 4, 30, 4, 30, 30], ring]}[shape]
    with pytest.raises(UnusableError, match="coordinate "):
        read_outline(value, SIDE, SIDE)


def test_the_first_problems_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        for number in range(30):
            data["annotations"].append({**data["annotations"][0], "id": 100 + number, "segmentation": [[1, 2]]})

    write_set(tmp_path, edit)
    with pytest.raises(DatasetError) as error:
        read_objects(tmp_path / "train.json", tmp_path / "train")
    text = str(error.value)
    assert "30 of 34 objects cannot be used" in text
    assert text.count("o0.png, annotation 1") == SHOWN
    assert f"and {30 - SHOWN} more" in text


def test_published_sets_never_begin_to_refuse(tmp_path: Path) -> None:
    write_set(tmp_path, lambda data: data["annotations"][1].update(segmentation=[[1, 2, 3, 4]]))
    found = read_objects(tmp_path / "train.json", tmp_path / "train", published=True)
    assert sum(map(len, found.annotations.values())) == 3
    assert "1 of 4 objects cannot be used and are left out (as Detectron2 does); the first: o0.png" in found.notes[-1]


def test_masks_that_are_encoded_are_the_drawn_ones() -> None:
    box = (5, 7, 20, 11)
    counts = run_lengths(box)["counts"]
    plain = {"size": [SIDE, SIDE], "counts": [SIDE * SIDE]}
    for outline in ([corners(box)], {"size": [SIDE, SIDE], "counts": counts.decode()}, run_lengths(box)):
        assert np.array_equal(rle.decode(encode(outline, SIDE, SIDE)), drawn(box))
    assert not rle.decode(encode(plain, SIDE, SIDE)).any()


@pytest.mark.parametrize("mode", ["full", "fast"])
def test_splits_without_objects_say_what_they_hold(mode: str, tmp_path: Path) -> None:
    config = write_set(tmp_path, lambda data: [a.update(iscrowd=1) for a in data["annotations"]] and None)
    register_datasets(read_config(str(config), []))
    with pytest.raises(DatasetError, match=r"none of the 2 images has an instance.*It holds 4 crowds alone"):
        check_dataset("cells_val", mode)


def test_objects_without_a_pixel_alone(tmp_path: Path) -> None:
    tiny = [[60.1, 2.1, 60.3, 2.1, 60.3, 2.3]]
    config = write_set(tmp_path, lambda data: [a.update(segmentation=tiny) for a in data["annotations"]] and None)
    register_datasets(read_config(str(config), []))
    with pytest.raises(DatasetError, match=r"none of the 2 images has an instance.*4 objects without a pixel alone"):
        survey_dataset("cells_val")


def figures(path: Path, caplog: pytest.LogCaptureFixture, keep: int | None = None) -> tuple[dict[str, Any], str]:
    """Figures of predictions of class 1, one an image, and what is logged."""
    evaluator = InstanceEvaluator(json_file=str(path), class_names=["square", "box"], backend="pycocotools")
    for image, box in ((1, (4, 6, 20, 16)), (2, (20, 4, 12, 18))):
        found = Instances((SIDE, SIDE), scores=torch.ones(2), pred_classes=torch.tensor([0, 1]))
        found.pred_masks = torch.from_numpy(np.stack([drawn(box)] * 2)).bool()
        evaluator.process([{"image_id": image}], [{"instances": found[:keep]}])
    with caplog.at_level(logging.WARNING, "bpkd"):
        return evaluator.evaluate() or {}, caplog.text


def test_classes_without_labels_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["annotations"] = [a for a in data["annotations"] if a["category_id"] == 1]

    write_set(tmp_path, edit)
    scores, text = figures(tmp_path / "val.json", caplog)
    assert scores["segm"]["AP"] == pytest.approx(100)
    assert np.isnan(scores["segm"]["AP-box"])
    assert "1 of 2 classes have no label in the evaluated images (box): AP leaves them out, as COCO's does" in text
    assert "counted as 0 they make an AP of 50.00 instead of 100.00" in text
    caplog.clear()
    assert "counted as 0" not in figures(tmp_path / "val.json", caplog, keep=1)[1]


@pytest.mark.parametrize(("crowd", "what"), [(True, "only 4 crowds"), (False, "no objects")])
def test_nothing_to_evaluate_is_said(crowd: bool, what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["annotations"] = [{**a, "iscrowd": 1} for a in data["annotations"]] if crowd else []

    write_set(tmp_path, edit)
    scores, text = figures(tmp_path / "val.json", caplog)
    assert np.isnan(scores["segm"]["AP"])
    assert f"{what} in the labels of the 2 evaluated images: AP is undefined (nan)" in text


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
@pytest.mark.parametrize("name", ["from 0", "gaps", "text", "missing", "below zero", "decimals", "twice", "null"])
def test_any_ids_of_annotations(name: str, backend: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Perfect masks score 100 in every table, whatever the ids."""
    if backend != "pycocotools":
        pytest.importorskip("faster_coco_eval")
    new = {"from 0": lambda i: i, "gaps": lambda i: 1000 * i * i, "text": str, "below zero": lambda i: -i,
           "decimals": lambda i: i + 0.5, "twice": lambda i: i // 2, "null": lambda i: None}  # fmt: skip

    def edit(data: dict[str, Any]) -> None:
        for number, one in enumerate(data["annotations"]):
            if name == "missing":
                del one["id"]
            else:
                one["id"] = new[name](number)

    write_set(tmp_path, edit)
    evaluator = InstanceEvaluator(json_file=str(tmp_path / "val.json"), class_names=["square", "box"], backend=backend)
    for image in (1, 2):
        rows = [a for a in content()["annotations"] if a["image_id"] == image]
        found = Instances((SIDE, SIDE), scores=torch.tensor([0.9, 0.8]))
        found.pred_masks = torch.from_numpy(np.stack([drawn(tuple(a["bbox"])) for a in rows])).bool()
        found.pred_classes = torch.tensor([a["category_id"] - 1 for a in rows])
        evaluator.process([{"image_id": image}], [{"instances": found}])
    scores = evaluator.evaluate()
    assert scores is not None
    assert [scores[key]["AP"] for key in ("segm", "boundary", "bbox")] == pytest.approx([100] * 3)
    said = {"twice": "2 annotations have the id of another one: kept", "missing": "4 annotations have no id"}
    assert said.get(name, "") in caplog.text


@pytest.mark.slow
def test_what_the_check_repairs_is_trained_and_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(data: dict[str, Any]) -> None:
        for one in data["annotations"]:
            del one["bbox"], one["area"], one["iscrowd"]
            one["segmentation"] = one["segmentation"][0]

    config = write_set(tmp_path, edit)
    notes = ("4 objects have no valid bbox", "4 objects have no valid area", "4 objects have no iscrowd")
    for door in ("check-data", "train"):
        status, text = command(capsys, door, config)
        assert status == 0, text
        assert all(note in text for note in notes), text
