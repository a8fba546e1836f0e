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
from bpkd.data.augment import TrainAugmentation, photometric
from bpkd.data.files import read_label
from bpkd.data.loader import naming
from tests.helpers.tools import load_tool

REPO = Path(__file__).parents[2]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder data set of three PNG pairs per split, ids 0..2 in columns."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(3, dtype=np.uint8), 10)[None].repeat(20, 0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for i in range(3):
            image = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / split / "images" / f"{i}.png"), image)
            cv2.imwrite(str(tmp_path / split / "masks" / f"{i}.png"), label)
    return tmp_path


def folder_cfg(root: Path, **changes: object):  # noqa: ANN201
    cfg = get_bpkd_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("own_train",), ("own_val",)
    cfg.DATASETS.FOLDER.NAME, cfg.DATASETS.FOLDER.ROOT = "own", str(root)
    cfg.DATASETS.FOLDER.CLASSES = ["a", "b", "c"]
    cfg.INPUT.CROP_SIZE = [16, 16]
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    for key, value in changes.items():
        cfg.DATASETS.FOLDER[key] = value
    register_datasets(cfg)
    return cfg


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_error_names_the_file(own: Path, workers: int) -> None:
    for i in range(3):
        (own / f"train/images/{i}.png").write_bytes(b"no image")
    cfg = folder_cfg(own)
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(DatasetError, match=r"images/\d.png: cannot be read as an image"):
        next(iter(build_train_loader(cfg)))
    (own / "val/masks/0.png").unlink()
    with pytest.raises(DatasetError, match=r"masks/0.png: cannot be read as a mask"):
        next(iter(build_test_loader(cfg, "own_val")))


def test_any_error_gets_the_name_once() -> None:
    item = {"file_name": "x.png"}
    with pytest.raises(DatasetError, match="^x.png: ZeroDivisionError: division by zero$"), naming(item):
        _ = 1 / 0
    with pytest.raises(DatasetError, match="^y.png: bad$"), naming(item):
        raise DatasetError("y.png: bad")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncation_is_found_and_trailing_bytes_are_none(own: Path, suffix: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    (own / "train/images/1.png").unlink()
    path = own / f"train/images/1.{suffix}"
    cv2.imwrite(str(path), image)
    data = path.read_bytes()
    folder_cfg(own)
    path.write_bytes(data + bytes(200))  # cameras append their own data
    assert check_dataset("own_train") == 3
    path.write_bytes(data[:-100])
    assert check_dataset("own_train", mode="fast") == 3
    with pytest.raises(DatasetError, match=rf"1 of 3 .*\n.*images/1.{suffix}"):
        check_dataset("own_train")


def test_an_ignored_class_is_refused_and_zero_reduction_is_an_id_map(own: Path) -> None:
    with pytest.raises(ValueError, match="IGNORE_INDEX.*got 0, which is class 'a'"):
        folder_cfg(own, IGNORE_INDEX=0)
    folder_cfg(own, IGNORE_INDEX=0, CLASSES=["b", "c"], ID_MAP=[[1, 0], [2, 1]])
    assert check_dataset("own_train") == 3
    item = DatasetCatalog.get("own_train")[0]
    label = read_label(item, MetadataCatalog.get("own_train").label_table)
    assert label[0].tolist() == [255] * 10 + [0] * 10 + [1] * 10


def test_palette_colours_never_become_ids(own: Path) -> None:
    picture = Image.fromarray(np.ones((20, 30), np.uint8), mode="P")
    picture.putpalette([200, 100, 50] * 256)
    picture.save(own / "train/masks/0.png")
    folder_cfg(own)
    assert check_dataset("own_train") == 3
    table = MetadataCatalog.get("own_train").label_table
    assert np.unique(read_label(DatasetCatalog.get("own_train")[0], table)).tolist() == [1]


def test_training_sets_must_share_their_classes(own: Path) -> None:
    cfg = folder_cfg(own)
    cfg.DATASETS.TRAIN = ("own_train", "procedural_train")
    with pytest.raises(ValueError, match="same classes"):
        build_train_loader(cfg)


def test_resume_is_exact_with_files_and_accumulation(own: Path) -> None:
    cfg = folder_cfg(own)
    cfg.SOLVER.ACCUMULATE = 2
    whole = list(islice(build_train_loader(cfg), 8))
    tail = list(islice(build_train_loader(cfg, start_iter=3), 2))
    for a, b in zip(whole[6:], tail, strict=True):
        assert all(torch.equal(x["image"], y["image"]) for x, y in zip(a, b, strict=True))


def test_image_and_label_move_together_and_ignored_pixels_do_not_fill_a_crop() -> None:
    label = np.full((40, 60), 255, np.uint8)
    label[:4] = np.repeat([0, 1], 30)[None]
    image = np.repeat(label[..., None], 3, 2)
    augment = TrainAugmentation((16, 60), scale_range=(1.0, 1.0), distort=False)
    rng, tops = np.random.default_rng(0), 0
    for _ in range(60):
        out, mask = augment(image, label, rng)
        assert np.array_equal(out[..., 1], mask)
        tops += int((mask != 255).any())
    # 4 of 25 windows hold valid pixels, two classes half and half: eleven draws find one in 85 %
    assert 38 <= tops <= 58


def test_photometric_distortion_clips_and_never_wraps() -> None:
    light, dark = np.full((4, 4, 3), 250, np.uint8), np.full((4, 4, 3), 5, np.uint8)
    lows, highs = [], []
    for i in range(300):
        lows.append(int(photometric(light, np.random.default_rng(i)).min()))
        highs.append(int(photometric(dark, np.random.default_rng(i)).max()))
    assert min(lows) >= 108  # (250 - 32) / 2; 250 + 32 would wrap to 26
    assert max(highs) <= 56  # (5 + 32) * 1.5; 5 - 32 would wrap to 229
    assert min(highs) == 0


def test_the_tool_reports_shares_and_faults(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = load_tool("check_data")
    config = own / "own.yaml"
    config.write_text(
        "VERSION: 2\nDATASETS:\n  TRAIN: [own_train]\n  TEST: [own_val]\n"
        f"  FOLDER: {{NAME: own, ROOT: '{own}', CLASSES: [a, b, c]}}\n"
    )
    sheet = own / "sheet.png"
    assert tool.main(["--config-file", str(config), "--draw", "2", "--output", str(sheet)]) == 0
    assert cv2.imread(str(sheet)).shape == (480, 640, 3)
    assert "1 b                     33.33 % of the pixels, in 3 images" in capsys.readouterr().out
    (own / "val/masks/2.png").unlink()
    assert tool.main(["--config-file", str(config), "--draw", "0"]) == 1
    assert "own_val: 1 of 3 images" in capsys.readouterr().err
