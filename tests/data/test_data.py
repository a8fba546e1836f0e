from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from bpkd.config import get_bpkd_cfg
from bpkd.data import DatasetError, build_test_loader, build_train_loader, check_dataset, register_datasets
from bpkd.data.augment import TrainAugmentation, fitted_size, photometric
from bpkd.data.batch import Batch
from bpkd.data.files import label_table, read_image, read_label
from bpkd.data.procedural import CLASSES, make_scene
from tests.conftest import write_camvid

CLASSES3 = ["road", "car", "sky"]


def folder_cfg(root: Path, **changes: object):  # noqa: ANN201
    cfg = get_bpkd_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.FOLDER.NAME = "own"
    cfg.DATASETS.FOLDER.ROOT = str(root)
    cfg.DATASETS.FOLDER.CLASSES = CLASSES3
    for key, value in changes.items():
        cfg.DATASETS.FOLDER[key] = value
    register_datasets(cfg)
    return cfg


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder data set of four good pairs, one of them in a sub-folder."""
    rng = np.random.default_rng(0)
    for i in range(4):
        where = "deep" if i == 3 else ""
        for kind in ("images", "masks"):
            (tmp_path / "train" / kind / where).mkdir(parents=True, exist_ok=True)
            (tmp_path / "val" / kind).mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "train" / "images" / where / f"{i}.jpg"), image)
        mask = rng.integers(0, 3, (20, 30)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "train" / "masks" / where / f"{i}.png"), mask)
    return tmp_path


def test_a_good_folder_passes_and_pairs_by_relative_path(own: Path) -> None:
    folder_cfg(own)
    assert check_dataset("own_train") == 4
    assert {d["image_id"] for d in DatasetCatalog.get("own_train")} == {"0", "1", "2", "deep/3"}
    assert MetadataCatalog.get("own_train").stuff_classes == CLASSES3


def plant_id(root: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[3, 4] = 7
    cv2.imwrite(str(root / "train/masks/1.png"), mask)


def plant_size(root: Path) -> None:
    cv2.imwrite(str(root / "train/masks/1.png"), np.zeros((20, 31), np.uint8))


def plant_truncated(root: Path) -> None:
    path = root / "train/images/1.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def plant_broken_mask(root: Path) -> None:
    path = root / "train/masks/1.png"
    path.write_bytes(path.read_bytes()[:60])


def plant_color_mask(root: Path) -> None:
    cv2.imwrite(str(root / "train/masks/1.png"), np.full((20, 30, 3), (0, 1, 2), np.uint8))


def plant_missing(root: Path) -> None:
    (root / "train/masks/1.png").unlink()


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (plant_id, r"masks/1.png: mask value \[7\] is outside the known 0..2 and 255.*ID_MAP"),
        (plant_size, r"images/1.jpg: image 20x30, mask 20x31: sizes differ"),
        (plant_truncated, r"images/1.jpg: truncated"),
        (plant_broken_mask, r"masks/1.png: cannot be read as a mask"),
        (
            plant_color_mask,
            r"masks/1.png: expected a single-channel mask of class ids, got colours .mode RGB, such as .2, 1, 0..",
        ),
        (plant_missing, r"masks/1.png: missing"),
    ],
)
def test_the_check_names_planted_faults(own: Path, plant, message: str) -> None:  # noqa: ANN001
    plant(own)
    folder_cfg(own)
    with pytest.raises(DatasetError, match=rf"(?s)own_train: 1 of 4 images are unusable.*{message}"):
        check_dataset("own_train")


def test_the_check_names_twenty_and_counts_all(own: Path) -> None:
    for i in range(30):
        cv2.imwrite(str(own / "train/images" / f"x{i:02d}.png"), np.zeros((4, 4, 3), np.uint8))
    folder_cfg(own)
    with pytest.raises(DatasetError, match="30 of 34") as error:
        check_dataset("own_train")
    assert str(error.value).count(": missing") == 20
    assert "and 10 more" in str(error.value)


def test_an_empty_or_absent_folder_is_said(own: Path) -> None:
    folder_cfg(own)
    with pytest.raises(DatasetError, match="no image found"):
        check_dataset("own_val")
    folder_cfg(own, TRAIN_IMAGES="nowhere")
    with pytest.raises(DatasetError, match="no such folder"):
        check_dataset("own_train")


def test_palette_masks_are_indices_and_ids_are_mapped(own: Path) -> None:
    picture = Image.fromarray(np.full((20, 30), 40, np.uint8), mode="P")
    picture.putpalette([i for i in range(256) for _ in range(3)][::-1])
    path = own / "train/masks/1.png"
    picture.save(path)
    folder_cfg(own, ID_MAP=[[40, 2], [0, 0], [1, 1], [2, 255]], IGNORE_INDEX=9)
    item = next(d for d in DatasetCatalog.get("own_train") if d["image_id"] == "1")
    table = MetadataCatalog.get("own_train").label_table
    assert set(np.unique(read_label(item, table))) == {2}
    assert (table[9], table[255], table[2], table[3]) == (255, 255, 255, -1)
    with pytest.raises(ValueError, match="id map"):
        label_table({0: 5}, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_void_is_ignored_in_either_format(tmp_path: Path, suffix: str) -> None:
    write_camvid(tmp_path / "camvid", suffix=suffix)
    cfg = get_bpkd_cfg()
    cfg.DATASETS.ROOT = str(tmp_path)
    register_datasets(cfg)
    assert check_dataset("camvid_train") == 6
    item = DatasetCatalog.get("camvid_train")[0]
    raw = np.asarray(Image.open(item["sem_seg_file_name"])).copy()
    assert (raw == 11).any()
    raw[0, 0] = 255
    Image.fromarray(raw).save(item["sem_seg_file_name"])
    label = read_label(item, MetadataCatalog.get("camvid_train").label_table)
    assert np.array_equal(label == 255, (raw == 11) | (raw == 255))
    assert np.array_equal(label[label != 255], raw[label != 255])


def test_camvid_where_it_is(camvid_root: Path) -> None:
    cfg = get_bpkd_cfg()
    cfg.DATASETS.ROOT = str(camvid_root)
    register_datasets(cfg)
    assert check_dataset("camvid_val", mode="fast") in (6, 101)
    item = DatasetCatalog.get("camvid_val")[0]
    assert read_image(item).shape[:2] == read_label(item, MetadataCatalog.get("camvid_val").label_table).shape


def procedural_cfg(**solver: object):  # noqa: ANN201
    cfg = get_bpkd_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("procedural_train",), ("procedural_val",)
    cfg.DATASETS.PROCEDURAL.SIZE = [40, 56]
    cfg.DATASETS.PROCEDURAL.NUM_TRAIN, cfg.DATASETS.PROCEDURAL.NUM_VAL = 10, 5
    cfg.INPUT.CROP_SIZE = [32, 32]
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.NUM_WORKERS = 0
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    register_datasets(cfg)
    return cfg


def equal(a: list[dict], b: list[dict]) -> bool:
    return len(a) == len(b) and all(
        x["file_name"] == y["file_name"]
        and torch.equal(x["image"], y["image"])
        and torch.equal(x["sem_seg"], y["sem_seg"])
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_for_a_gpu_are_pinned(device: str) -> None:
    cfg = procedural_cfg()
    cfg.MODEL.DEVICE, cfg.DATALOADER.NUM_WORKERS = device, 0
    loader = build_train_loader(cfg)
    assert loader.pin_memory == (device == "cuda")
    assert isinstance(loader.collate_fn([{"image": torch.zeros(1)}]), Batch)


def test_batches_depend_on_position_alone() -> None:
    cfg = procedural_cfg()
    whole = list(islice(build_train_loader(cfg), 7))
    resumed = list(islice(build_train_loader(cfg, start_iter=4), 3))
    assert all(equal(a, b) for a, b in zip(whole[4:], resumed, strict=True))
    ranks = [list(islice(build_train_loader(cfg, rank=r, world_size=2), 7)) for r in (0, 1)]
    assert all(equal(w, a + b) for w, a, b in zip(whole, *ranks, strict=True))
    cfg.DATALOADER.NUM_WORKERS = 2
    assert all(equal(a, b) for a, b in zip(whole, islice(build_train_loader(cfg), 7), strict=True))
    cfg.SEED = 1
    assert not equal(whole[0], next(iter(build_train_loader(cfg))))


def test_an_epoch_holds_every_image_once() -> None:
    cfg = procedural_cfg(IMS_PER_BATCH=5)
    batches = list(islice(build_train_loader(cfg), 4))
    names = [d["file_name"] for batch in batches for d in batch]
    assert len(set(names[:10])) == len(set(names[10:])) == 10
    assert names[:10] != names[10:]


def test_batch_must_divide() -> None:
    with pytest.raises(ValueError, match="multiple of the 3 processes, got 4"):
        build_train_loader(procedural_cfg(), rank=0, world_size=3)


def test_test_loader_is_sharded_and_keeps_labels_at_their_size() -> None:
    cfg = procedural_cfg()
    cfg.INPUT.TEST_BOX = [28, 20]
    shards = [[b[0] for b in build_test_loader(cfg, "procedural_val", rank=r, world_size=2)] for r in (0, 1)]
    assert [len(s) for s in shards] == [3, 2]
    item = shards[0][0]
    assert item["image"].shape == (3, 20, 28)
    assert item["sem_seg"].shape == (40, 56) == (item["height"], item["width"])


def test_scenes_are_seeded_exact_and_varied() -> None:
    scene = make_scene(3, 5, 60, 90)
    make_scene.cache_clear()
    again = make_scene(3, 5, 60, 90)
    assert np.array_equal(scene.image, again.image)
    assert np.array_equal(scene.labels, again.labels)
    assert not np.array_equal(scene.labels, make_scene(3, 6, 60, 90).labels)
    seen = {int(c) for i in range(30) for c in np.unique(make_scene(0, i, 60, 90).labels)}
    assert seen == set(range(len(CLASSES)))
    for found in scene.instances:
        assert (scene.labels[found.mask] == found.category).all()
        x0, y0, x1, y1 = found.box
        assert found.mask[y0:y1, x0:x1].sum() == found.mask.sum()
    with pytest.raises(ValueError, match="at least 16x16"):
        make_scene(0, 0, 8, 8)


def test_augmentation_follows_the_recipe() -> None:
    image = np.full((60, 80, 3), 100, np.uint8)
    label = np.zeros((60, 80), np.uint8)
    label[:, 40:] = 1
    heights, flips, shares = [], 0, []
    augment = TrainAugmentation((200, 200), scale_range=(0.5, 2.0), distort=False)
    crop = TrainAugmentation((30, 30), scale_range=(1.0, 1.0), distort=False)
    rng = np.random.default_rng(0)
    for _ in range(400):
        out, mask = augment(image, label, rng)
        assert out.shape[:2] == mask.shape
        heights.append(mask.shape[0])
        flips += int(mask[0, 0] == 1)
        small = crop(image, label, rng)[1]
        shares.append(max(np.bincount(small.ravel())) / small.size)
    assert 30 <= min(heights) <= 32
    assert 118 <= max(heights) <= 120
    assert np.mean(heights) == pytest.approx(75, abs=5)  # standard error 1.3
    assert 0.42 < flips / 400 < 0.58
    # 71 % of the windows break the cap; ten redraws leave 2 % of them
    assert np.mean(np.array(shares) >= 0.75) < 0.06


@pytest.mark.parametrize("box", [(2048, 512), (520, 520), (2048, 1024)])
def test_fitted_size_equals_openmmlabs(box: tuple[int, int]) -> None:
    import json

    recipe = json.loads((Path(__file__).parents[1] / "golden" / "networks" / "recipe.json").read_text())
    cases = [c for c in recipe["test_resize_wh"] if tuple(c["scale"]) == box]
    assert cases
    for case in cases:
        assert fitted_size(case["in"][1], case["in"][0], box) == (case["out"][1], case["out"][0])


def test_photometric_distortion_changes_colour_within_bounds() -> None:
    image = np.random.default_rng(0).integers(60, 190, (20, 20, 3)).astype(np.uint8)
    unchanged, shifts = 0, []
    for i in range(300):
        out = photometric(image, np.random.default_rng(i))
        assert out.dtype == np.uint8
        unchanged += int(np.array_equal(out, image))
        shifts.append(out.mean() - image.mean())
    assert 0.03 < unchanged / 300 < 0.10  # all four steps off: 1 in 16
    assert max(np.abs(shifts)) < 110
    assert abs(np.mean(shifts)) < 6


def test_tuning_drive_is_apart(camvid_root: Path) -> None:
    cfg = get_bpkd_cfg()
    cfg.DATASETS.ROOT = str(camvid_root)
    register_datasets(cfg)
    names = {s: {d["image_id"] for d in DatasetCatalog.get(f"camvid_{s}")} for s in ("train", "tune_train", "tune_val")}
    assert names["tune_train"] | names["tune_val"] == names["train"]
    assert not names["tune_train"] & names["tune_val"]
    if len(names["train"]) == 367:
        assert {n[:6] for n in names["tune_val"]} == {"0006R0"}
        assert len(names["tune_val"]) == 101
