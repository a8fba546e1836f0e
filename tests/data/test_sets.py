"""ADE20K, Cityscapes, Pascal Context and COCO on miniatures in their real layouts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers import labels as cityscapes_labels
from cityscapesscripts.preparation.json2labelImg import json2labelImg
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES
from PIL import Image

from bpkd.config import get_bpkd_cfg
from bpkd.data import DatasetError, check_dataset, register_datasets, survey_dataset
from bpkd.data.files import read_image, read_label
from bpkd.data.prepare import prepare
from bpkd.data.sets import ade20k, cityscapes, pascal_context
from bpkd.data.sheet import contact_sheet
from bpkd.engine import load_config
from tests.helpers.miniatures import (
    CONTEXT_IDS,
    save_mask,
    save_photo,
    write_ade20k,
    write_cityscapes,
    write_coco,
    write_pascal_context,
)
from tests.helpers.tools import load_tool

REPO = Path(__file__).parents[2]
ADE, CITY, CONTEXT = "ade20k_sem_seg", "cityscapes_fine_sem_seg", "pascal_context_59_sem_seg"


def register(root: Path, **datasets: Any) -> CfgNode:
    cfg = get_bpkd_cfg()
    cfg.DATASETS.ROOT = str(root)
    for key, value in datasets.items():
        cfg.DATASETS[key].merge_from_other_cfg(CfgNode(value))
    register_datasets(cfg)
    return cfg


def labels(name: str) -> dict[str, np.ndarray]:
    """Image id -> trained label map."""
    table = MetadataCatalog.get(name).label_table
    return {item["image_id"]: read_label(item, table) for item in DatasetCatalog.get(name)}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


# Classes, colours, ids


def test_ade20k_is_detectron2s_list_in_openmmlabs_words() -> None:
    first = [name.split(",")[0].strip() for name in ADE20K_SEM_SEG_CATEGORIES]
    assert len(ade20k.CLASSES) == len(set(ade20k.CLASSES)) == len(ade20k.COLORS) == 150
    differ = [i for i, (a, b) in enumerate(zip(first, ade20k.CLASSES, strict=True)) if a != b]
    assert differ == [8, 37, 38, 87, 89, 90, 92, 109, 113, 138]
    assert ade20k.COLORS[6] == ade20k.COLORS[48] == (0x8C, 0x8C, 0x8C)
    assert len(set(ade20k.COLORS)) == 149
    assert (ade20k.COLORS[0], ade20k.COLORS[149]) == ((120, 120, 120), (92, 0, 255))


def test_cityscapes_is_the_scripts_table() -> None:
    wanted = {label.id: label.trainId for label in cityscapes_labels.labels if label.id >= 0}
    assert wanted == cityscapes.LABEL_IDS
    for index, (name, color) in enumerate(zip(cityscapes.CLASSES, cityscapes.COLORS, strict=True)):
        label = cityscapes_labels.trainId2label[index]
        assert (label.name, label.color) == (name, color)
    assert [len(c) for c in cityscapes.CITIES.values()] == [18, 3, 6]


def test_pascal_context_is_alphabetical_and_its_ids_are_vocs() -> None:
    assert pascal_context.IDS == CONTEXT_IDS
    assert list(pascal_context.CLASSES) == sorted(pascal_context.CLASSES)
    assert len(pascal_context.CLASSES) == len(pascal_context.COLORS) == 59
    # The 20 classes of VOC have these ids in the annotation file's own evaluation order.
    voc = dict(zip(pascal_context.CLASSES, pascal_context.IDS[1:], strict=True))
    names = ["aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table"]
    assert [voc[n] for n in names] == [2, 23, 25, 31, 34, 45, 59, 65, 72, 98, 397]
    assert pascal_context.COLORS[5] == pascal_context.COLORS[47] == (0x8C, 0x8C, 0x8C)


def test_every_split_says_how_it_is_evaluated(tmp_path: Path) -> None:
    register(tmp_path)
    kinds = {ADE: "sem_seg", CITY: "cityscapes_sem_seg", CONTEXT: "sem_seg", "coco_2017": "coco"}
    counts = {ADE: (20_210, 2_000), CITY: (2_975, 500), CONTEXT: (4_998, 5_105), "coco_2017": (118_287, 5_000)}
    for name, kind in kinds.items():
        for split, count in zip(("train", "val"), counts[name], strict=True):
            meta = MetadataCatalog.get(f"{name}_{split}")
            assert (meta.evaluator_type, meta.published[1]) == (kind, count)
            if kind != "coco":
                assert meta.ignore_label == 255
                assert len(meta.stuff_classes) == {ADE: 150, CITY: 19, CONTEXT: 59}[name]
    assert MetadataCatalog.get(f"{CITY}_val").gt_dir == str(tmp_path / "cityscapes/gtFine/val")


# Layouts


@pytest.mark.parametrize("layout", ["", "ade"])
def test_ade20k_in_both_layouts_and_both_forms(tmp_path: Path, layout: str) -> None:
    base = write_ade20k(tmp_path, layout=layout)
    register(tmp_path)
    raw = labels(f"{ADE}_train")
    assert len(raw) == 4
    stored = np.asarray(Image.open(base / "annotations/training/ADE_train_00000001.png"))
    got = raw["ADE_train_00000001"]
    assert (stored == 0).any()
    assert (got[stored == 0] == 255).all()
    assert (got[stored > 0] == stored[stored > 0] - 1).all()
    write_ade20k(tmp_path, layout=layout, folder="annotations_detectron2")
    register(tmp_path)
    assert same(labels(f"{ADE}_train"), raw)  # still the release's
    (base / "annotations").rename(base / "away")
    register(tmp_path)
    assert "annotations_detectron2" in DatasetCatalog.get(f"{ADE}_val")[0]["sem_seg_file_name"]
    assert same(labels(f"{ADE}_train"), raw)
    assert check_dataset(f"{ADE}_val", subset=True) == 4


def test_cityscapes_label_ids_and_train_ids_are_equal(tmp_path: Path) -> None:
    base = write_cityscapes(tmp_path, splits=("train", "val", "test"))
    register(tmp_path)
    table = {s: labels(f"{CITY}_{s}") for s in ("train", "val")}
    assert sorted(table["val"]) == [f"{c}/{c}_{i:06d}_000019" for c in ("frankfurt", "lindau") for i in (0, 1)]
    assert {0, 2, 5, 8, 10, 11, 13, 255} == set(np.unique(table["train"]["aachen/aachen_000000_000019"]))
    assert "made 12 and kept 0 of 12" in prepare("cityscapes", tmp_path, 0)
    for file in base.glob("gtFine/*/*/*_labelIds.png"):
        file.unlink()
    register(tmp_path)
    assert DatasetCatalog.get(f"{CITY}_val")[0]["sem_seg_file_name"].endswith("_gtFine_labelTrainIds.png")
    for split, wanted in table.items():
        assert same(labels(f"{CITY}_{split}"), wanted)
    assert check_dataset(f"{CITY}_test", subset=True) == 4


@pytest.mark.parametrize("base", ["VOCdevkit/VOC2010", "VOC2010"])
def test_pascal_context_json_and_converted_masks_are_equal(tmp_path: Path, base: str) -> None:
    theirs = write_pascal_context(tmp_path / "theirs", masks=True, base=base)
    ours = write_pascal_context(tmp_path / "ours", base=base)
    assert "made 6 and kept 0 of 6 masks" in prepare("pascal_context", tmp_path / "ours", 0)
    for split in ("train", "val"):
        register(tmp_path / "theirs")
        wanted = labels(f"{CONTEXT}_{split}")
        register(tmp_path / "ours")
        assert same(labels(f"{CONTEXT}_{split}"), wanted)
        assert check_dataset(f"{CONTEXT}_{split}", subset=True) == 3
    for mask in theirs.glob("SegmentationClassContext/*.png"):
        stored = np.asarray(Image.open(mask))
        assert np.array_equal(stored, np.asarray(Image.open(ours / "SegmentationClassContext" / mask.name)))
        assert set(np.unique(stored)) <= set(range(60))


def test_coco_lies_below_the_root_and_keeps_polygons_and_run_lengths(tmp_path: Path) -> None:
    write_coco(tmp_path)
    register(tmp_path)
    items, meta = DatasetCatalog.get("coco_2017_train"), MetadataCatalog.get("coco_2017_train")
    assert [Path(i["file_name"]).relative_to(tmp_path).as_posix() for i in items][
        0
    ] == "coco/train2017/000000000009.jpg"
    assert [[a["category_id"] for a in i["annotations"]] for i in items] == [[0, 11], [79, 11], []]
    polygon, crowd = items[0]["annotations"]
    assert isinstance(polygon["segmentation"], list)
    assert (crowd["iscrowd"], set(crowd["segmentation"])) == (1, {"size", "counts"})
    assert meta.thing_dataset_id_to_contiguous_id[90] == 79
    assert len(meta.thing_classes) == len(meta.thing_colors) == 80
    seen = survey_dataset("coco_2017_val", subset=True)
    assert (seen.images, seen.amounts[0], seen.amounts[79], seen.amounts.sum()) == (3, 1, 1, 2)  # crowds do not count


def test_own_objects_in_cocos_format(tmp_path: Path) -> None:
    base = write_coco(tmp_path)
    data = json.loads((base / "annotations/instances_train2017.json").read_text())
    data["categories"] = [{"id": 4, "name": "nucleus"}, {"id": 7, "name": "other"}]
    for number, annotation in enumerate(data["annotations"]):
        annotation["category_id"] = (4, 7)[number % 2]
    (base / "own.json").write_text(json.dumps(data))
    node = {"NAME": "cells", "ROOT": str(base), "TRAIN_JSON": "own.json", "TRAIN_IMAGES": "train2017"}
    register(tmp_path / "elsewhere", COCO_FOLDER=node)
    assert check_dataset("cells_train") == 3
    assert MetadataCatalog.get("cells_train").thing_classes == ["nucleus", "other"]
    with pytest.raises(DatasetError, match=r"cells_val: expected a COCO JSON at .*instances_val\.json, got none"):
        check_dataset("cells_val")
    (base / "own.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"own\.json cannot be read as a COCO file"):
        check_dataset("cells_train")


def test_masks_with_a_palette_are_indices(tmp_path: Path) -> None:
    base = write_pascal_context(tmp_path, masks=True)
    register(tmp_path)
    plain = labels(f"{CONTEXT}_train")
    for mask in base.glob("SegmentationClassContext/*.png"):
        save_mask(mask, np.asarray(Image.open(mask)), palette=True)
    assert same(labels(f"{CONTEXT}_train"), plain)


# Roots


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (ADE, r"expected .*/ADEChallengeData2016/images \(Detectron2's layout\) or .*/ade/ADEChallengeData2016/images "
              r"\(mmsegmentation's layout\), got neither\. DATASETS\.ROOT"),
        (CITY, r"expected .*/cityscapes/leftImg8bit \(Detectron2's and mmsegmentation's layout\), got nothing there"),
        (CONTEXT, r"expected .*/VOCdevkit/VOC2010/JPEGImages \(Detectron2's and mmsegmentation's layout\) or "
                  r".*/VOC2010/JPEGImages \(flat layout\), got neither"),
        ("coco_2017", r"expected .*/coco/annotations \(Detectron2's and mmdetection's layout\), got nothing there"),
    ],
)  # fmt: skip
def test_a_wrong_root_names_the_places(tmp_path: Path, name: str, message: str) -> None:
    register(tmp_path)
    with pytest.raises(DatasetError, match=message):
        check_dataset(f"{name}_val")


def test_a_root_one_too_deep_and_the_full_ade20k(tmp_path: Path) -> None:
    register(write_ade20k(tmp_path / "deep"))
    with pytest.raises(DatasetError, match="is the data set's own folder: give the one above it"):
        check_dataset(f"{ADE}_val")
    (tmp_path / "ADE20K_2021_17_01").mkdir()
    register(tmp_path)
    with pytest.raises(DatasetError, match="ADE20K_2021_17_01 is of the full ADE20K"):
        check_dataset(f"{ADE}_val")


# Pitfalls, one at a time


def halve(folder: Path) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files[len(files) // 2 :]:
        path.unlink()


def swap(one: Path, other: Path) -> None:
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def plant(path: Path, value: int) -> None:
    mask = np.asarray(Image.open(path)).copy()
    mask[0, 0] = value
    save_mask(path, mask)


def first(folder: Path, pattern: str = "*.png") -> Path:
    return sorted(folder.rglob(pattern))[0]


def reduce_all(base: Path) -> None:
    for path in base.rglob("annotations/training/*.png"):
        save_mask(path, np.asarray(Image.open(path)) - np.uint8(1))


def zero_all(base: Path) -> None:
    for path in base.rglob("annotations/training/*.png"):
        save_mask(path, np.zeros_like(np.asarray(Image.open(path))))


def train_ids_as_label_ids(base: Path) -> None:
    for path in base.rglob("*" + cityscapes.LABEL):
        table = np.full(256, 255, np.uint8)
        table[list(cityscapes.LABEL_IDS)] = list(cityscapes.LABEL_IDS.values())
        save_mask(path, table[np.asarray(Image.open(path))])


def remove(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def shared_lists(base: Path) -> None:
    lists = base / pascal_context.LISTS
    (lists / "val.txt").write_text((lists / "val.txt").read_text() + "2008_000000\n")


def rename_images(base: Path) -> None:
    swap(base / "train2017", base / "val2017")


WRITERS = {
    ADE: write_ade20k,
    CITY: write_cityscapes,
    CONTEXT: lambda root: write_pascal_context(root, masks=True),
    "coco_2017": write_coco,
}
PITFALLS = [
    (ADE, lambda b: halve(b / "images/training"), r"2 of 4 images are unusable:\n  .*00000003\.jpg: missing"),
    (ADE, lambda b: halve(b / "annotations/training"), r"2 of 4 images are unusable:\n  .*00000003\.png: missing"),
    (ADE, lambda b: swap(b / "images/training", b / "images/validation"),
     r"4 of the 8 images of train are images of val \(first .*ADE_val_00000001\.jpg\): are the two folders swapped"),
    (ADE, reduce_all, r"annotations/training holds the value 255 and never 150: these masks have been reduced already"),
    (ADE, lambda b: plant(first(b / "annotations/training"), 151), r"00000001\.png: mask value \[151\] is outside"),
    (CITY, lambda b: halve(b / "gtFine/train"), r"of 4 images are unusable:\n  .*labelIds\.png: missing"),
    (CITY, lambda b: swap(b / "leftImg8bit/train", b / "leftImg8bit/val"), r"4 of the 8 images of train .* of val"),
    (CITY, lambda b: plant(first(b / "gtFine/train", "*labelIds.png"), 34), r"labelIds\.png: mask value \[34\]"),
    (CONTEXT, lambda b: halve(b / "JPEGImages"), r"of 3 images are unusable:\n  .*\.jpg: missing"),
    (CONTEXT, lambda b: halve(b / "SegmentationClassContext"), r"of 3 images are unusable:\n  .*\.png: missing"),
    (CONTEXT, shared_lists, r"1 images stand in train\.txt and in val\.txt \(first 2008_000000\)"),
    (CONTEXT, lambda b: plant(first(b / "SegmentationClassContext"), 60), r"2008_000000\.png: mask value \[60\]"),
    (CONTEXT, lambda b: save_mask(first(b / "SegmentationClassContext"), np.zeros((9, 9), np.uint8)),
     r"image 40x56, mask 9x9: sizes differ"),
    ("coco_2017", lambda b: halve(b / "train2017"), r"2 of 3 images are unusable:\n  .*\.jpg: missing"),
    (ADE, zero_all, r"every pixel of the 4 masks is ignored: they hold the values \[0\] alone"),
    (ADE, lambda b: remove(b / "annotations/training"), r"none of the 4 masks is there, expected .*00000001\.png"),
    (CITY, train_ids_as_label_ids, r"labelIds\.png hold the value 255, which labelIds \(0\.\.33\) do not: these"),
    ("coco_2017", lambda b: rewrite(b / "annotations/instances_train2017.json", annotations=[]),
     r"none of the 3 images has an instance: expected annotations in .*instances_train2017\.json"),
    ("coco_2017", lambda b: rewrite(b / "annotations/instances_train2017.json", categories=[{"id": 1, "name": "cell"}]),
     r"expected COCO's 80 categories, got 1, the first \[\(1, 'cell'\)\]\. Your own instances belong into"),
    ("coco_2017", rename_images, r"3 of the 3 images are not in .*train2017; the first is .*val2017/000000000009\.jpg"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "message"), PITFALLS)
def test_a_pitfall_gives_its_message(tmp_path: Path, name: str, damage: Any, message: str) -> None:
    base = WRITERS[name](tmp_path)
    register(tmp_path)
    assert check_dataset(f"{name}_train", subset=True) > 2
    damage(base)
    register(tmp_path)
    with pytest.raises(DatasetError, match=message):
        check_dataset(f"{name}_train", subset=True)


def test_an_archive_in_a_folder_of_its_own_and_a_folder_of_folders(tmp_path: Path) -> None:
    base = write_cityscapes(tmp_path)
    (base / "leftImg8bit_trainvaltest").mkdir()
    (base / "leftImg8bit").rename(base / "leftImg8bit_trainvaltest/leftImg8bit")
    register(tmp_path)
    with pytest.raises(DatasetError, match=r"one level too deep: .*leftImg8bit_trainvaltest/leftImg8bit\."):
        check_dataset(f"{CITY}_train")
    (tmp_path / "ADEChallengeData2016/images/training/a").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"expected images .*training/\*\.jpg, got none\. It holds folders .*\(a\)"):
        check_dataset(f"{ADE}_train")


def test_cityscapes_train_ids_are_known_without_255_too() -> None:
    values = np.zeros(256, np.int64)
    values[7:19] = 5
    items = [{"file_name": f"aachen_{i}.png"} for i in range(10)]
    assert "nothing above 18 in 10 images" in cityscapes._audit("train", True, items, values)[0]
    assert not cityscapes._audit("train", False, items, values)
    values[26] = 1
    assert not cityscapes._audit("train", True, items, values)


def test_own_objects_need_the_same_categories_in_both_files(tmp_path: Path) -> None:
    base = write_coco(tmp_path)
    files = {s: f"annotations/instances_{s}2017.json" for s in ("train", "val")}
    folder = {"NAME": "own", "ROOT": str(base), "TRAIN_JSON": files["train"], "VAL_JSON": files["val"]}
    register(tmp_path, COCO_FOLDER={**folder, "TRAIN_IMAGES": "train2017", "VAL_IMAGES": "val2017"})
    assert check_dataset("own_train") == 3
    categories = json.loads((base / files["val"]).read_text())["categories"]
    categories[0]["name"], categories[1]["name"] = categories[1]["name"], categories[0]["name"]
    rewrite(base / files["val"], categories=categories)
    for split in ("train", "val"):
        with pytest.raises(DatasetError, match="each would call its classes by the other's names"):
            check_dataset(f"own_{split}")


def test_swapped_lists_of_pascal_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = write_pascal_context(tmp_path, masks=True, count=2) / pascal_context.LISTS
    monkeypatch.setattr(pascal_context, "PUBLISHED", {"train": (2, 2), "val": (1, 1)})
    (lists / "val.txt").write_text("2008_000001\n")
    register(tmp_path)
    assert (check_dataset(f"{CONTEXT}_train"), check_dataset(f"{CONTEXT}_val")) == (2, 1)
    swap(lists / "train.txt", lists / "val.txt")
    with pytest.raises(DatasetError, match=r"1 images are those of val: are train\.txt and val\.txt swapped"):
        check_dataset(f"{CONTEXT}_train")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (ADE, "expected 20210 images, as published, got 4 images and 4 masks"),
        (CITY, "expected 2975 images, as published, got 4 images and 4 masks"),
        (CONTEXT, "expected 4996 to 4998 images, as published, got 3 images and 3 masks"),
        ("coco_2017", "expected 118287 images, as published, got 3 images"),
    ],
)
def test_fewer_images_than_published_are_refused_unless_meant(tmp_path: Path, name: str, message: str) -> None:
    WRITERS[name](tmp_path)
    register(tmp_path)
    for mode in ("fast", "full"):
        with pytest.raises(DatasetError, match=message + r".*DATASETS\.SUBSET True \(check_data\.py: --subset\)"):
            check_dataset(f"{name}_train", mode)
    check_dataset(f"{name}_train", subset=True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), r"Put trainval_merged\.json into .* and run bpkd prepare-data pascal_context"),
        (("trainval_merged.json",), r"bpkd prepare-data pascal_context .* makes them from trainval_merged\.json"),
        (("annotations_detectron2/pc59_val/a.png",), r"another edition, in the order of 59_labels\.txt"),
    ],
)
def test_pascal_context_without_masks_says_how_to_get_them(
    tmp_path: Path, files: tuple[str, ...], message: str
) -> None:
    base = tmp_path / "VOCdevkit/VOC2010"
    for name in ("JPEGImages/a.jpg", *files):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).touch()
    register(tmp_path)
    with pytest.raises(DatasetError, match=message):
        check_dataset(f"{CONTEXT}_val")


# Preparation


@pytest.mark.parametrize("workers", [0, 2])
def test_preparation_goes_on_and_keeps_what_is_there(tmp_path: Path, workers: int) -> None:
    base = write_cityscapes(tmp_path)
    originals = {p: p.read_bytes() for p in base.rglob("*") if p.is_file()}
    prepare("cityscapes", tmp_path, workers)
    made = sorted(base.rglob("*labelTrainIds.png"))
    assert len(made) == 8
    json2labelImg(str(made[0]).replace("labelTrainIds.png", "polygons.json"), str(tmp_path / "x.png"), "trainIds")
    assert np.array_equal(np.asarray(Image.open(made[0])), np.asarray(Image.open(tmp_path / "x.png")))
    made[0].unlink()
    made[1].write_bytes(b"a user's own")
    age = os.stat(made[2]).st_mtime_ns
    assert "made 1 and kept 7 of 8" in prepare("cityscapes", tmp_path, workers)
    assert (made[1].read_bytes(), os.stat(made[2]).st_mtime_ns) == (b"a user's own", age)
    assert originals == {p: p.read_bytes() for p in originals}
    assert not list(base.rglob("*.part*"))


def test_a_failed_file_leaves_nothing_behind_and_is_named(tmp_path: Path) -> None:
    base = write_cityscapes(tmp_path)
    broken = first(base, "*polygons.json")
    broken.write_text(broken.read_text().replace('"pole"', '"lamp post"'))
    with pytest.raises(DatasetError, match=rf"{broken.name}: cannot be drawn .*lamp post"):
        prepare("cityscapes", tmp_path, 0)
    assert not list(base.rglob("*.part*"))
    broken.write_text('{"imgHeight"')
    with pytest.raises(DatasetError, match=rf"{broken.name}: cannot be drawn"):
        prepare("cityscapes", tmp_path, 0)
    for path in base.rglob("*polygons.json"):
        path.unlink()
    with pytest.raises(DatasetError, match="expected polygons in .*gtFine_trainvaltest.zip"):
        prepare("cityscapes", tmp_path, 0)


def test_pascal_context_annotations_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    base = write_pascal_context(tmp_path)
    path = base / "trainval_merged.json"
    text = path.read_text()
    data = json.loads(text)
    data["annos_segmentation"][0]["category_id"] = 3
    path.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=r"2008_000000\.jpg: annotation 0: expected one of the 60 .* category 3"):
        prepare("pascal_context", tmp_path, 0)
    path.write_text(text[:-100])
    with pytest.raises(DatasetError, match="A file that was cut off while it was copied"):
        prepare("pascal_context", tmp_path, 0)
    path.unlink()
    with pytest.raises(DatasetError, match="expected Pascal Context's annotations in one JSON file, got none"):
        prepare("pascal_context", tmp_path, 0)


def test_pascal_context_keeps_lists_and_leaves_bare_images_out(tmp_path: Path) -> None:
    base = write_pascal_context(tmp_path)
    path = base / "trainval_merged.json"
    data = json.loads(path.read_text())
    data["annos_segmentation"] = [a for a in data["annos_segmentation"] if a["image_id"] != 10]
    path.write_text(json.dumps(data))
    assert "(2 in train, 3 in val; 1 images without annotations are left out)" in prepare("pascal_context", tmp_path, 0)
    listing = base / pascal_context.LISTS / "train.txt"
    assert listing.read_text().split() == ["2008_000002", "2008_000004"]
    listing.write_text("2008_000002\n")
    with pytest.raises(DatasetError, match=r"train\.txt: exists with other images"):
        prepare("pascal_context", tmp_path, 0)
    assert listing.read_text() == "2008_000002\n"


@pytest.mark.parametrize(("name", "write"), [("ade20k", write_ade20k), ("coco", write_coco)])
def test_what_needs_no_preparation_says_so(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert "nothing to prepare" in prepare(name, tmp_path, 0)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(DatasetError, match="got (neither|nothing there)"):
        prepare(name, tmp_path / "elsewhere", 0)


# The tool


def config(folder: Path, name: str) -> list[str]:
    path = folder / "sets.yaml"
    path.write_text(f"DATASETS: {{TRAIN: [{name}_train], TEST: [{name}_val], ROOT: '{folder}'}}\n")
    return ["--config-file", str(path), "--output", str(folder / "sheet.png")]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (ADE, "149 flag "),
        (CITY, "255 (ignored)"),
        (CONTEXT, "  note: "),
        ("coco_2017", "  0 person                50.00 % of the instances, in 1 images"),
    ],
)
def test_the_check_tool_counts_and_draws(tmp_path: Path, capsys: Any, name: str, line: str) -> None:
    WRITERS[name](tmp_path)
    args, check = config(tmp_path, name), load_tool("check_data").main
    assert check(args) == 1
    assert f"error: {name}_train: expected " in capsys.readouterr().err
    assert check([*args, "--subset"]) == 0
    out = capsys.readouterr().out
    assert line in out
    assert f"{name}_val: " in out
    for sheet in ("sheet.png", f"sheet_{name}_val.png"):
        picture = cv2.imread(str(tmp_path / sheet))
        assert picture.shape[1] == 640
        assert picture.shape[0] > 3 * 200  # a row per pair


def test_the_sheet_shows_the_classes_colours(tmp_path: Path) -> None:
    base = write_cityscapes(tmp_path, count=1)
    save_mask(first(base / "gtFine/train", "*labelIds.png"), np.full((64, 128), 26, np.uint8))
    register(tmp_path)
    items, meta = DatasetCatalog.get(f"{CITY}_train"), MetadataCatalog.get(f"{CITY}_train")
    sheet = contact_sheet(items, meta, 1)
    height, width = read_image(items[0]).shape[:2]
    drawn = round(320 * height / width)
    assert sheet.shape == (18 + drawn + 18, 640, 3)  # name, pair, legend
    assert (sheet[18 : 18 + drawn, 330:] == (142, 0, 0)).all()  # a car's blue, in BGR


def test_the_preparation_tool(tmp_path: Path, capsys: Any) -> None:
    main = load_tool("prepare_data").main
    assert main(["pascal_context", str(tmp_path)]) == 2
    assert "error: Pascal Context: expected" in capsys.readouterr().err
    write_pascal_context(tmp_path)
    assert main(["pascal_context", str(tmp_path), "--workers", "0"]) == 0
    assert "made 6 and kept 0 of 6 masks" in capsys.readouterr().out


def test_a_set_of_objects_does_not_train_a_semantic_network(tmp_path: Path) -> None:
    config(tmp_path, "coco_2017")
    with pytest.raises(ValueError, match="coco_2017_train holds instances; .* BPKDSemanticSegmentor needs semantic"):
        load_config(str(tmp_path / "sets.yaml"))


def test_cocostuff_of_the_documentation(tmp_path: Path) -> None:
    text = (REPO / "docs/reference/datasets.md").read_text()
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "coco_stuff164k" in b)
    text = block.replace("/data/", f"{tmp_path}/").replace("_BASE_: ", f"_BASE_: {REPO}/")
    (tmp_path / "stuff.yaml").write_text(text)
    folder = tmp_path / "coco_stuff164k"
    for split in ("train", "val"):
        save_photo(folder / f"images/{split}2017/000000000009.jpg", np.zeros((2, 4, 3), np.uint8))
        label = np.array([[0, 10, 12, 89], [91, 181, 255, 255]], np.uint8)
        save_mask(folder / f"annotations/{split}2017/000000000009.png", label, palette=True)
    cfg = load_config(str(tmp_path / "stuff.yaml"))
    name = cfg.DATASETS.TRAIN[0]
    names = MetadataCatalog.get(name).stuff_classes
    assert (len(names), names[79:81], names[170]) == (171, ["toothbrush", "banner"], "wood")
    assert labels(name)["000000000009"].tolist() == [[0, 10, 11, 79], [80, 170, 255, 255]]
    assert [MetadataCatalog.get(name).label_table[v] for v in (11, 25, 90)] == [-1, -1, -1]
