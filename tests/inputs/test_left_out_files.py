"""Folders, names and paths as people have them: nothing is left out in silence."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bpkd.cli.main import run

CONFIG = """_BASE_: {repo}/configs/camvid/small_student.yaml
DATASETS:
  TRAIN: ["mine_train"]
  TEST: ["mine_val"]
  FOLDER: {{NAME: mine, ROOT: "{root}", CLASSES: [background, road], {more}}}
MODEL: {{SEM_SEG_HEAD: {{NUM_CLASSES: 2}}}}
INPUT: {{RESIZE_BOX: [0, 0], TEST_BOX: [0, 0], CROP_SIZE: [16, 16]}}
OUTPUT_DIR: {out}
"""
REPO = next(p for p in (Path(__file__).parents[2], Path.cwd()) if (p / "configs").is_dir())
COUNT = 4
IMAGES, MASKS = "train/images", "train/masks"


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 24, 3)).astype(np.uint8))


def mask() -> Image.Image:
    ids = np.zeros((16, 24), np.uint8)
    ids[8:] = 1
    return Image.fromarray(ids)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder data set of four pairs s0..s3 per split."""
    for first, split in ((0, "train"), (100, "val")):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for i in range(COUNT):
            picture(first + i).save(tmp_path / split / "images" / f"s{i}.png")
            mask().save(tmp_path / split / "masks" / f"s{i}.png")
    return tmp_path


def config(root: Path, more: str = "", place: str = "") -> str:
    path = root / "config.yaml"
    path.write_text(CONFIG.format(repo=REPO, root=place or root, more=more, out=root / "out"))
    return str(path)


def check(root: Path, capfd: pytest.CaptureFixture[str], more: str = "", *opts: str) -> tuple[int, str]:
    status = run("check-data", ["--config-file", config(root, more), "--draw", "0", *opts], prog="bpkd check-data")
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    return status, out + err


def moved(old: str, new: str) -> Callable[[Path], None]:
    """Renames files; images are written anew in the format of the new suffix."""

    def change(root: Path) -> None:
        source, target = root / old, root / new
        image = Image.open(source).copy()
        source.unlink()
        target.parent.mkdir(parents=True, exist_ok=True)
        kinds = {".jfif": "JPEG", ".heic": "PNG", ".avif": "PNG", "": "PNG", ".npy": "PNG"}
        image.save(target, format=kinds.get(target.suffix.lower()))

    return change


def all_of(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def put(name: str, content: bytes = b"x") -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return change


def link(name: str, target: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)

    return change


def more_images(root: Path) -> None:
    """A linked folder with two more pairs, and their masks in a folder of that name."""
    for i in range(2):
        for folder in ("elsewhere", f"{MASKS}/more"):
            (root / folder).mkdir(exist_ok=True)
        picture(i).save(root / "elsewhere" / f"m{i}.png")
        mask().save(root / MASKS / "more" / f"m{i}.png")
    (root / IMAGES / "more").symlink_to(root / "elsewhere")


def accents(root: Path) -> None:
    """macOS writes the image's name decomposed, the labelling tool the mask's composed."""
    name = "straße-für-züge"
    moved(f"{IMAGES}/s0.png", f"{IMAGES}/{unicodedata.normalize('NFD', name)}.png")(root)
    moved(f"{MASKS}/s0.png", f"{MASKS}/{unicodedata.normalize('NFC', name)}.png")(root)


def strange_names(root: Path) -> None:
    for i, name in enumerate(("a b", "50%", "#1", "-x")):
        for folder in (IMAGES, MASKS):
            (root / folder / f"s{i}.png").rename(root / folder / f"{name}.png")


def beside(root: Path) -> None:
    """Labelling tools put a.png beside a.jpg."""
    (root / "train/both").mkdir()
    for i in range(COUNT):
        picture(i).save(root / f"train/both/s{i}.jpg")
        mask().save(root / f"train/both/s{i}.png")


def system_files(root: Path) -> None:
    for folder in (IMAGES, MASKS):
        for name in ("._s0.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints/s0-checkpoint.png",
                     "__MACOSX/._s1.png", "@eaDir/s1.png/SYNOPHOTO_THUMB_M.png"):  # fmt: skip
            put(f"{folder}/{name}")(root)


def latin_name(root: Path) -> None:
    """A name as an old archive has it: OpenCV crashed on it."""
    os.rename(root / IMAGES / "s0.png", os.fsencode(root / IMAGES) + b"/stra\xdfe.png")


def one_mask_folder(root: Path) -> None:
    """The masks of both splits in one folder."""
    (root / "masks").mkdir()
    for split in ("train", "val"):
        for i in range(COUNT):
            (root / split / "images" / f"s{i}.png").rename(root / split / "images" / f"{split}{i}.png")
            mask().save(root / "masks" / f"{split}{i}.png")


GOOD = {
    "cameras' suffixes": all_of(
        *(moved(f"{IMAGES}/s{i}.png", f"{IMAGES}/s{i}{e}") for i, e in enumerate((".JPG", ".Jpeg", ".PNG", ".jfif")))
    ),
    "scanners' suffixes": all_of(
        *(moved(f"{IMAGES}/s{i}.png", f"{IMAGES}/s{i}{e}") for i, e in enumerate((".TIF", ".tiff", ".ppm", ".WebP")))
    ),
    "masks with .PNG": all_of(moved(f"{MASKS}/s0.png", f"{MASKS}/s0.PNG"), moved(f"{MASKS}/s1.png", f"{MASKS}/s1.Png")),
    "accents": accents,
    "strange names": strange_names,
    "system files": system_files,
    "sub-folders": all_of(
        moved(f"{IMAGES}/s0.png", f"{IMAGES}/a/s1.png"), moved(f"{MASKS}/s0.png", f"{MASKS}/a/s1.png")
    ),
    "link to an image": all_of(
        moved(f"{IMAGES}/s0.png", "store/x.png"), lambda root: link(f"{IMAGES}/s0.png", f"{root}/store/x.png")(root)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_is_read_whole_and_without_a_note(
    name: str, own: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    GOOD[name](own)
    status, text = check(own, capfd)
    assert status == 0, text
    assert f"mine_train: {COUNT} images" in text
    assert "note: 1" not in text
    assert "left out" not in text
    assert "no image" not in text


def test_one_folder_of_masks_for_both_splits_is_no_leftover(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one_mask_folder(own)
    status, text = check(own, capfd, "TRAIN_MASKS: masks, VAL_MASKS: masks")
    assert (status, "no image" in text) == (0, False), text


def test_masks_beside_their_images(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    beside(own)
    status, text = check(own, capfd, "TRAIN_IMAGES: train/both, TRAIN_MASKS: train/both")
    assert (status, f"mine_train: {COUNT} images" in text) == (0, True), text
    assert "note" not in text


def test_masks_below_their_images(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.move(own / MASKS, own / IMAGES / "labels")
    status, text = check(own, capfd, "TRAIN_MASKS: train/images/labels")
    assert (status, f"mine_train: {COUNT} images" in text) == (0, True), text


def test_a_linked_folder_is_read(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    more_images(own)
    status, text = check(own, capfd)
    assert (status, "mine_train: 6 images" in text) == (0, True), text


NOTED: dict[str, tuple[Callable[[Path], None], str, int, tuple[str, ...]]] = {
    "phone formats": (
        all_of(moved(f"{IMAGES}/s0.png", f"{IMAGES}/s0.HEIC"), moved(f"{IMAGES}/s1.png", f"{IMAGES}/s1.avif")),
        "", 2, (".avif (1), .heic (1)", "2 of the 4 masks have no image", "s0, s1"),
    ),
    "no suffix": (moved(f"{IMAGES}/s0.png", f"{IMAGES}/s0"), "", 3, ("no suffix (1)",)),
    "narrower choice": (
        all_of(moved(f"{IMAGES}/s0.png", f"{IMAGES}/s0.jpg"), moved(f"{IMAGES}/s1.png", f"{IMAGES}/s1.bmp")),
        "IMAGE_SUFFIXES: ['.png']", 2, ("2 images", "left out by DATASETS.FOLDER.IMAGE_SUFFIXES", ".bmp (1), .jpg (1)"),
    ),
    "spare mask": (lambda root: mask().save(root / MASKS / "s9.png"), "", 4, ("1 of the 5 mask has no image", "s9")),
    "folder named like an image": (
        lambda root: (root / IMAGES / "crop.png").mkdir(), "", 4, ("1 folder is named like an image", "crop.png"),
    ),
    "loop": (link(f"{IMAGES}/again", ".."), "", 4, ("1 link leads back", "again")),
    "notes and tables": (put(f"{IMAGES}/list.csv"), "", 4, (".csv (1)",)),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTED)
def test_what_is_left_out_is_named_with_a_count(name: str, own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, more, count, words = NOTED[name]
    change(own)
    status, text = check(own, capfd, more)
    assert status == 0, text
    assert f"mine_train: {count} images" in text
    assert [word for word in words if word not in text] == [], text


REFUSED: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...]]] = {
    "two images of one mask": (
        lambda root: picture(0).save(root / IMAGES / "s0.jpg"), "", ("s0.jpg and s0.png", "IMAGE_SUFFIXES"),
    ),
    "one in capitals": (lambda root: picture(0).save(root / IMAGES / "s0.PNG"), "", ("s0.PNG and s0.png",)),
    "masks of another format": (
        moved(f"{MASKS}/s0.png", f"{MASKS}/s0.tif"), "", ("s0.tif", "DATASETS.FOLDER.MASK_SUFFIX .tif"),
    ),
    "all masks of another name": (
        all_of(*(moved(f"{MASKS}/s{i}.png", f"{MASKS}/s{i}_mask.png") for i in range(COUNT))),
        "", ("s0_mask.png", "DATASETS.FOLDER.MASK_SUFFIX _mask.png"),
    ),
    "mask in another case": (moved(f"{MASKS}/s0.png", f"{MASKS}/S0.png"), "", ("S0.png", "differs in its case")),
    "mask missing": (lambda root: (root / MASKS / "s2.png").unlink(), "", ("s2.png: missing",)),
    "dead link to an image": (link(f"{IMAGES}/s0.png", "gone/s0.png"), "", ("s0.png: a link to gone/s0.png",)),
    "dead link to a mask": (link(f"{MASKS}/s0.png", "gone.png"), "", ("masks/s0.png: a link to gone.png",)),
    "link to itself": (link(f"{IMAGES}/s0.png", "s0.png"), "", ("s0.png: cannot be opened",)),
    "empty image": (put(f"{IMAGES}/s0.png", b""), "", ("s0.png: an empty file",)),
    "git-lfs": (put(f"{IMAGES}/s0.png", b"version https://git-lfs.github.com/spec/v1\n"), "", ("s0.png: a pointer",)),
    "empty mask": (put(f"{MASKS}/s0.png", b""), "", ("masks/s0.png: an empty file",)),
    "arrays alone": (
        all_of(*(moved(f"{IMAGES}/s{i}.png", f"{IMAGES}/s{i}.npy") for i in range(COUNT))), "", (".npy (4)", ".png"),
    ),
    "name that is not UTF-8": (latin_name, "", ("UTF-8", r"stra\xdfe.png")),
    "suffix without a dot": (lambda root: None, "IMAGE_SUFFIXES: [jpg]", ("IMAGE_SUFFIXES", "'jpg'")),
    "a file for a folder": (lambda root: None, "TRAIN_MASKS: config.yaml", ("config.yaml", "folder")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_with_its_name(name: str, own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, more, words = REFUSED[name]
    change(own)
    status, text = check(own, capfd, more)
    assert status in (1, 2), text
    assert [word for word in words if word not in text] == [], text
    assert text.count("error: ") == 1


def test_a_folder_that_cannot_be_read_is_named(
    own: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / IMAGES / "locked").mkdir()
    scandir = os.scandir

    def denied(path: Any = ".") -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    status, text = check(own, capfd)
    assert status == 1
    assert "images/locked" in text
    assert "permission denied" in text


@pytest.mark.parametrize("how", ["same folder", "links", "hard links"])
def test_images_of_both_splits_are_noted(own: Path, capfd: pytest.CaptureFixture[str], how: str) -> None:
    more = "VAL_IMAGES: train/images, VAL_MASKS: train/masks" if how == "same folder" else ""
    if how == "links":
        link("val/images/s0.png", str(own / IMAGES / "s0.png"))(own)
    if how == "hard links":
        (own / "val/images/s0.png").unlink()
        os.link(own / IMAGES / "s0.png", own / "val/images/s0.png")
    status, text = check(own, capfd, more)
    assert status == 0
    assert f"mine_val: {4 if more else 1} of the 4 images are training images too" in text


@pytest.mark.parametrize("place", ["$MINE", "${MINE}", "${MINE}/../own$MINE_PART", "~"])
def test_variables_in_a_config(
    own: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    root = own / "own data"
    root.mkdir()
    for split in ("train", "val"):
        shutil.move(own / split, root / split)
    (own / "own data").rename(own / "own")
    monkeypatch.setenv("MINE", str(own / "own"))
    monkeypatch.setenv("MINE_PART", "/.")
    monkeypatch.setenv("HOME", str(own / "own"))
    arguments = ["--config-file", config(own, place=place), "--draw", "0"]
    assert run("check-data", arguments, prog="bpkd check-data") == 0
    assert "mine_train: 4 images" in capfd.readouterr().out


@pytest.mark.parametrize("key", ["DATASETS.FOLDER.ROOT", "OUTPUT_DIR", "MODEL.WEIGHTS", "TEACHER.CACHE"])
def test_a_variable_that_is_not_set_is_refused_by_name(
    own: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(own)
    monkeypatch.delenv("NO_SUCH_PLACE", raising=False)
    status, text = check(own, capfd, "", key, "$NO_SUCH_PLACE/x")
    assert status == 2
    assert key in text
    assert "'NO_SUCH_PLACE'" in text
    assert not (own / "$NO_SUCH_PLACE").exists()


def test_training_says_what_it_leaves_out_and_records_what_a_variable_meant(
    own: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNS", str(own / "runs"))
    NOTED["phone formats"][0](own)
    link("val/images/s3.png", str(own / IMAGES / "s3.png"))(own)
    opts = ["SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", "$RUNS/one"]
    assert run("train", ["--config-file", config(own), *opts], prog="bpkd train") == 0
    log = (own / "runs/one/log.txt").read_text()
    for words in (".avif (1), .heic (1)", "have no image", "1 of the 4 images are training images too"):
        assert words in log
    assert f"OUTPUT_DIR: {own}/runs/one\n" in (own / "runs/one/config.yaml").read_text()


def test_variables_on_the_command_line_and_in_a_base(
    own: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE", str(own))
    config(own)
    (own / "child.yaml").write_text("_BASE_: ${HERE}/config.yaml\n")
    arguments = ["--config-file", "$HERE/child.yaml", "--draw", "1", "--output", "$HERE/sheets/a.png"]
    assert run("check-data", arguments, prog="bpkd check-data") == 0
    assert (own / "sheets/a.png").is_file()
    with pytest.raises(SystemExit) as stop:
        run("metrics", ["$GONE/a", "b", "--num-classes", "2"], prog="bpkd metrics")
    assert stop.value.code == 2
    assert "'GONE'" in capfd.readouterr().err


def draw(*arguments: str) -> list[str]:
    out = Path(arguments[-1])
    assert run("visualize", [*map(str, arguments)], prog="bpkd visualize") == 0
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """Images of one name in two folders, one of another format, and one with a very long name; one object each."""
    names = ["a/x.png", "b/x.png", "b/x.bmp", f"{'n' * 240}.png"]
    images, annotations = [], []
    for i, name in enumerate(names, 1):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(tmp_path / "images" / name)
        images.append({"id": i, "file_name": name.replace("/", "\\"), "height": 16, "width": 24})
        square = [[2, 2, 2, 10, 12, 10, 12, 2]]
        annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 10, 8], "area": 80, "iscrowd": 0,
                            "segmentation": square})  # fmt: skip
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    (tmp_path / "objects.json").write_text(json.dumps(data))
    return tmp_path


def test_pictures_of_objects_do_not_replace_each_other_and_backslashes_are_folders(objects: Path) -> None:
    arguments = ["--images", str(objects / "images"), "--labels", str(objects / "objects.json")]
    found = draw(*arguments, "--output", str(objects / "drawn"))
    assert found[:3] == ["a/x_edges.png", "b/x.bmp_edges.png", "b/x.png_edges.png"]
    assert len(found) == 4
    assert found[3].startswith("nnn")
    assert found[3].endswith("_edges.png")


def test_system_files_are_no_label_maps(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    system_files(own)
    assert run("metrics", [str(own / MASKS), str(own / "val/masks"), "--num-classes", "2"], prog="bpkd metrics") == 0
    assert "| mIoU | 100.00 |" in capfd.readouterr().out
    drawn = draw("--images", str(own / IMAGES), "--labels", str(own / MASKS), "--output", str(own / "drawn"))
    assert drawn == [f"s{i}_edges.png" for i in range(COUNT)]


def test_label_maps_pair_over_accents_and_capitals(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = "Brücke"
    moved(f"{MASKS}/s0.png", f"{MASKS}/{unicodedata.normalize('NFD', name)}.png")(own)
    moved("val/masks/s0.png", f"val/masks/{unicodedata.normalize('NFC', name)}.PNG")(own)
    assert run("metrics", [str(own / MASKS), str(own / "val/masks"), "--num-classes", "2"], prog="bpkd metrics") == 0
    assert "| mIoU | 100.00 |" in capfd.readouterr().out


def test_predictions_that_are_not_read_are_named(
    own: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    put(f"{MASKS}/s0.npy")(own)
    assert run("metrics", [str(own / MASKS), str(own / "val/masks"), "--num-classes", "2"], prog="bpkd metrics") == 0
    assert ".npy (1)" in caplog.text


def test_predictions_of_an_inexact_format_are_named(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    moved(f"{MASKS}/s0.png", f"{MASKS}/s0.jpg")(own)
    assert run("metrics", [str(own / MASKS), str(own / "val/masks"), "--num-classes", "2"], prog="bpkd metrics") == 2
    assert ".jpg (1)" in capfd.readouterr().err


CAMVID = """_BASE_: {repo}/configs/camvid/small_student.yaml
DATASETS: {{ROOT: "{root}", TRAIN: [camvid_train], TEST: [camvid_val]}}
"""


@pytest.mark.parametrize(
    ("line", "status", "word"),
    [
        ("/Seg Net/CamVid/train/s0.png /Seg Net/CamVid/trainannot/s0.png", 0, "camvid_train: 2 images"),
        (r"C:\CamVid\train\s0.png C:\CamVid\trainannot\s0.png", 0, "camvid_train: 2 images"),
        ("train/s0.png", 1, "train.txt, line 2"),
    ],
)
def test_lines_of_a_list(tmp_path: Path, capfd: pytest.CaptureFixture[str], line: str, status: int, word: str) -> None:
    root = tmp_path / "camvid"
    for folder in ("train", "trainannot"):
        (root / folder).mkdir(parents=True)
    for name in ("s0", "s1"):
        picture(0).save(root / "train" / f"{name}.png")
        mask().save(root / "trainannot" / f"{name}.png")
    first = "SegNet/CamVid/train/s1.png SegNet/CamVid/trainannot/s1.png"
    (root / "train.txt").write_text(f"{first}\n{line}\n\n")
    (root / "val.txt").write_text(first)
    (tmp_path / "config.yaml").write_text(CAMVID.format(repo=REPO, root=tmp_path))
    arguments = ["--config-file", str(tmp_path / "config.yaml"), "--draw", "0"]
    assert run("check-data", arguments, prog="bpkd check-data") == status
    out, err = capfd.readouterr()
    assert word in out + err
