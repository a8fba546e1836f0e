"""Images as people really have them: turned by tags, above 8 bits, with alpha, frames or odd colours."""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from bpkd.cli.main import run
from bpkd.config import get_bpkd_cfg
from bpkd.data import DatasetError, build_test_loader, build_train_loader, register_datasets
from bpkd.data.files import read_image
from bpkd.data.notes import Notes, depth_of
from bpkd.data.pictures import Picture

Write = Callable[[Path], None]
HEIGHT, WIDTH = 24, 40
# What a stored picture looks like after the turn that its orientation asks for: of the EXIF standard.
SHOWN = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.transpose(a, (1, 0, *range(2, a.ndim))),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.transpose(a, (1, 0, *range(2, a.ndim))), 2),
    8: np.rot90,
}
FORMATS = {"JPEG": {"quality": 98, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


def scene() -> np.ndarray:
    """RGB [24, 40, 3], dark to light to the right, with a red corner."""
    rgb = np.repeat(np.linspace(40, 200, WIDTH).astype(np.uint8)[None, :, None], HEIGHT, 0).repeat(3, 2)
    rgb[:8, :8] = (200, 40, 40)
    return rgb


def tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def stored(orientation: int, rgb: np.ndarray) -> np.ndarray:
    """The pixels that a camera stores for what it shows."""
    back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    return np.ascontiguousarray(SHOWN[back](rgb))


def save(path: Path, orientation: int, form: str, rgb: np.ndarray) -> None:
    Image.fromarray(stored(orientation, rgb)).save(path, form, exif=tag(orientation), **FORMATS[form])


def read(path: Path, **span: Any) -> np.ndarray:
    return read_image({"file_name": str(path)}, **span)[..., ::-1]


def cfg_of(root: Path, **more: Any) -> Any:
    cfg = get_bpkd_cfg()
    cfg.MODEL.DEVICE, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = "cpu", 0, 1
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("own_train",), ("own_val",)
    node = cfg.DATASETS.FOLDER
    node.NAME, node.ROOT, node.CLASSES, node.IMAGE_SUFFIXES = "own", str(root), ["a", "b"], [".img"]
    cfg.INPUT.merge_from_list([x for pair in more.items() for x in pair])
    register_datasets(cfg)
    return cfg


def make(root: Path, write: Write, mask: np.ndarray | None = None) -> None:
    """One pair a split; the image is written by ``write``, the mask holds both classes."""
    own = np.zeros((HEIGHT, WIDTH), np.uint8)
    own[:8, :8] = 1
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        write(root / split / "images" / "one.img")
        Image.fromarray(own if mask is None else mask).save(root / split / "masks" / "one.png")


def check(root: Path, capsys: pytest.CaptureFixture[str], *opts: str) -> str:
    (root / "own.yaml").write_text(
        "DATASETS:\n  TRAIN: [own_train]\n  TEST: [own_val]\n"
        f"  FOLDER: {{NAME: own, ROOT: '{root}', CLASSES: [a, b], IMAGE_SUFFIXES: [.img]}}\n"
    )
    sheet = str(root / "sheet.png")
    status = run("check-data", ["--config-file", str(root / "own.yaml"), "--draw", "1", "--output", sheet, *opts])
    out = capsys.readouterr()
    return f"status {status}\n{out.out}{out.err}"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("square", [False, True])
def test_all_orientations_are_turned_as_viewers_turn_them(
    tmp_path: Path, form: str, orientation: int, square: bool
) -> None:
    rgb = scene()[:, :HEIGHT] if square else scene()
    save(tmp_path / "x.img", orientation, form, rgb)
    got = read(tmp_path / "x.img").astype(int)
    assert got.shape == rgb.shape
    assert abs(got - rgb).mean() < 4


def test_untagged_files_keep_their_bytes(tmp_path: Path) -> None:
    for form, more in FORMATS.items():
        Image.fromarray(scene()).save(tmp_path / "x.img", form, **more)
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        assert np.array_equal(read(tmp_path / "x.img"), cv2.imread(str(tmp_path / "x.img"), flags)[..., ::-1])


def broken(exif: bytes) -> Write:
    return lambda path: Image.fromarray(scene()).save(path, "JPEG", quality=98, exif=b"Exif\0\0" + exif)


def short(value: int, kind: int = 3, count: int = 1) -> bytes:
    """An EXIF block with the orientation alone."""
    entry = (0x112).to_bytes(2, "little") + kind.to_bytes(2, "little") + count.to_bytes(4, "little")
    return b"II*\0\x08\0\0\0\x01\0" + entry + value.to_bytes(4, "little") + bytes(4)


BROKEN = {
    "orientation 0": short(0), "orientation 9": short(9), "text": short(int.from_bytes(b"6\0\0\0", "little"), 2, 2),
    "a fraction far away": short(9000, 5), "garbage": b"\x93\x01II" * 30,
    "cut off": short(6)[:14], "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("exif", BROKEN.values(), ids=BROKEN.keys())
def test_broken_tags_turn_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], exif: bytes) -> None:
    make(tmp_path, broken(exif))
    got = check(tmp_path, capsys)
    assert got.startswith("status 0"), got
    assert "EXIF" not in got
    assert abs(read(tmp_path / "train/images/one.img").astype(int) - scene()).mean() < 4


def test_a_tag_behind_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(stored(8, scene())).save(buffer, "PNG")
    data, exif = buffer.getvalue(), short(8)
    chunk = b"eXIf" + exif
    end = data.index(b"IEND") - 4
    whole = len(exif).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    (tmp_path / "x.img").write_bytes(data[:end] + whole + data[end:])
    assert np.array_equal(read(tmp_path / "x.img"), scene())


@pytest.mark.parametrize(("orientation", "how"), [(5, "diagonal from the upper left"), (6, "90 degrees clockwise"),
                         (7, "diagonal from the upper right"), (8, "90 degrees counterclockwise")])  # fmt: skip
def test_a_mask_of_the_stored_size_is_refused_naming_exif(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], orientation: int, how: str
) -> None:
    mask = np.zeros((WIDTH, HEIGHT), np.uint8)
    mask[:8, :8] = 1
    make(tmp_path, lambda path: save(path, orientation, "JPEG", scene()), mask)
    got = check(tmp_path, capsys)
    assert got.startswith("status 1")
    assert re.search(
        rf"one.img: its EXIF orientation {orientation} turns it to 24x40.*mask: 40x24.*{how}.*exiftool", got
    )
    for loader in (build_train_loader(cfg_of(tmp_path)), build_test_loader(cfg_of(tmp_path), "own_val")):
        with pytest.raises(DatasetError, match=f"EXIF orientation {orientation}"):  # without the check too
            next(iter(loader))
    turned = SHOWN[orientation](mask)
    for split in ("train", "val"):
        Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / split / "masks/one.png")
    got = check(tmp_path, capsys)
    assert got.startswith("status 0")
    assert "1 images are turned by their EXIF orientation" in got


def test_a_mask_is_turned_by_its_own_tag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = np.zeros((HEIGHT, WIDTH), np.uint8)
    own[:8, :8] = 1
    make(tmp_path, lambda path: save(path, 6, "JPEG", scene()))
    for split in ("train", "val"):
        Image.fromarray(stored(6, own)).save(tmp_path / split / "masks/one.png", exif=tag(6))
    assert check(tmp_path, capsys).startswith("status 0")
    (batch,) = next(iter(build_test_loader(cfg_of(tmp_path), "own_val")))
    assert np.array_equal(batch["sem_seg"].numpy(), own)
    red = batch["image"].numpy()[0].astype(int) - batch["image"].numpy()[1] > 80
    assert (red == (own == 1)).mean() > 0.98


@pytest.mark.parametrize("turned", [True, False])
def test_coco_sizes_are_those_of_the_turned_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], turned: bool
) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        save(tmp_path / split / "a.jpg", 6, "JPEG", scene())
        size = {"height": HEIGHT, "width": WIDTH} if turned else {"height": WIDTH, "width": HEIGHT}
        one = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 6, 6], "area": 36, "iscrowd": 0}
        one["segmentation"] = [[2, 2, 8, 2, 8, 8, 2, 8]]
        record = {"images": [{"id": 1, "file_name": "a.jpg", **size}], "annotations": [one]}
        record["categories"] = [{"id": 1, "name": "corner"}]
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(record))
    config = tmp_path / "own.yaml"
    config.write_text(
        "_BASE_: " + str(Path(__file__).parents[2] / "configs/nuclei/solov2_tiny.yaml") + "\nDATASETS:\n"
        f"  TRAIN: [own_train]\n  TEST: [own_val]\n  COCO_FOLDER: {{NAME: own, ROOT: '{tmp_path}', "
        "TRAIN_JSON: instances_train.json, VAL_JSON: instances_val.json, TRAIN_IMAGES: train, VAL_IMAGES: val}\n"
    )
    status = run("check-data", ["--config-file", str(config), "--draw", "1", "--output", str(tmp_path / "s.png")])
    out = capsys.readouterr()
    if turned:
        assert status == 0, out.err
        assert "turned by their EXIF orientation" in out.out
        return
    assert status == 1
    assert re.search("a.jpg: its EXIF orientation 6 turns it to 24x40.*in the JSON: 40x24", out.err)
    status = run("visualize", ["--images", str(tmp_path / "val"), "--labels", str(tmp_path / "instances_val.json"),
                               "--output", str(tmp_path / "drawn")])  # fmt: skip
    assert status != 0
    assert "EXIF orientation 6" in capsys.readouterr().err


def test_visualize_turns_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    save(tmp_path / "images/a.jpg", 6, "JPEG", scene())
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[:8, :8] = 1
    Image.fromarray(label).save(tmp_path / "labels/a.png")
    args = ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels"), "--output", str(tmp_path / "o")]
    assert run("visualize", args) == 0, capsys.readouterr().err
    Image.fromarray(stored(6, label)).save(tmp_path / "labels/a.png")
    assert run("visualize", args) != 0
    assert "EXIF orientation 6" in capsys.readouterr().err


def deep(bits: int, form: str = "PNG", spot: int = 0) -> Write:
    """Writes the scene in grey with values of ``bits`` bits in 16."""
    values = (scene()[..., 1].astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    values[-1, -1] = spot or values[-1, -1]
    return lambda path: Image.fromarray(values).save(path, form)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_dark_images_of_16_bits_are_noted_with_the_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, bits: int
) -> None:
    make(tmp_path, deep(bits, form))
    got = check(tmp_path, capsys)
    line = next(x for x in got.splitlines() if "16 bits" in x)
    assert "almost black" in line
    top = int(re.search(r"INPUT.IMAGE_RANGE: \[0, (\d+)\]", line)[1])
    assert top == 2**bits - 1
    got = check(tmp_path, capsys, "INPUT.IMAGE_RANGE", f"[0, {top}]")
    assert got.startswith("status 0")
    assert "16 bits" not in got
    (batch,) = next(iter(build_test_loader(cfg_of(tmp_path, IMAGE_RANGE=[0, top]), "own_val")))
    assert abs(batch["image"].numpy()[0].astype(int) - scene()[..., 1]).max() <= 1


def test_one_hot_pixel_hides_no_darkness_and_a_full_range_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, deep(12, spot=65535))
    got = check(tmp_path, capsys)
    assert "the largest value is 65535" in got
    make(tmp_path, deep(16))
    got = check(tmp_path, capsys)
    assert "almost black" not in got
    assert "0..65535 are read as 0..255" in got
    assert abs(read(tmp_path / "val/images/one.img")[..., 0].astype(int) - scene()[..., 1]).max() <= 1


def test_hot_pixels_do_not_make_the_range() -> None:
    pixels = np.full((64, 64, 3), 3000, np.uint16)
    pixels[:32], pixels[5, 5] = 100, 65535
    depth = depth_of(Picture(pixels, 1, b""))
    assert depth == (100, 3000, 65535)
    notes = Notes()
    notes.add([], depth, "a.png")
    (text,) = notes.texts()
    assert "almost black. If their values end at 4095, write INPUT.IMAGE_RANGE: [0, 4095]" in text


@pytest.mark.parametrize(("offset", "bits"), [(32768, 11), (40000, 12), (20000, 8)])
def test_a_narrow_band_of_16_bits_is_noted_with_its_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], offset: int, bits: int
) -> None:
    """Tomography with an offset, elevation, film scans."""
    values = (scene()[..., 1].astype(np.uint32) * (2**bits - 1) // 255 + offset).astype(np.uint16)
    make(tmp_path, lambda path: Image.fromarray(values).save(path, "PNG"))
    got = check(tmp_path, capsys)
    assert "almost one grey" in got
    low, high = map(int, re.search(r"such as \[(\d+), (\d+)\]", got).groups())
    assert values.min() <= low < high <= values.max()
    assert high - low > 0.9 * (int(values.max()) - int(values.min()))
    got = check(tmp_path, capsys, "INPUT.IMAGE_RANGE", f"[{low}, {high}]")
    assert "16 bits" not in got
    assert got.startswith("status 0")


def test_the_range_leaves_8_bits_alone_and_colours_keep_their_order(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "x.png")
    assert np.array_equal(read(tmp_path / "x.png", span=(0, 4095)), scene())
    cv2.imwrite(str(tmp_path / "y.png"), scene()[..., ::-1].astype(np.uint16) * 16)
    assert abs(read(tmp_path / "y.png", span=(0, 4080)).astype(int) - scene()).max() <= 1


def elevation(path: Path) -> None:
    Image.fromarray(scene()[..., 1].astype(np.int32) * 10 - 500).save(path, "TIFF")


def reflectance(path: Path) -> None:
    Image.fromarray(scene()[..., 1].astype(np.float32) / 255).save(path, "TIFF")


def colour_floats(path: Path) -> None:
    path.write_bytes(cv2.imencode(".tiff", scene()[..., ::-1].astype(np.float32) / 255)[1].tobytes())


@pytest.mark.parametrize(("write", "span"), [(elevation, "[-500, 2050]"), (reflectance, "[0, 1]"),
                         (colour_floats, "[0.0, 1.0]")])  # fmt: skip
def test_other_types_need_a_range(tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Write, span: str) -> None:
    make(tmp_path, write)
    got = check(tmp_path, capsys)
    assert got.startswith("status 1")
    assert re.search(r"one.img: expected 8 or 16 bits a channel, got (int|float)32.*INPUT.IMAGE_RANGE", got), got
    assert check(tmp_path, capsys, "INPUT.IMAGE_RANGE", span).startswith("status 0")
    numbers = tuple(json.loads(span))
    assert abs(read(tmp_path / "val/images/one.img", span=numbers)[..., 1].astype(int) - scene()[..., 1]).max() <= 1


def test_not_a_number_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = scene()[..., 1].astype(np.float32)
    values[3, 3] = np.nan
    make(tmp_path, lambda path: Image.fromarray(values).save(path, "TIFF"))
    assert "expected finite values, got NaN" in check(tmp_path, capsys, "INPUT.IMAGE_RANGE", "[0, 255]")


@pytest.mark.parametrize("span", ["[5, 5]", "[9, 1]", "[1]", "[1, 2, 3]"])
def test_a_range_is_two_rising_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str], span: str) -> None:
    make(tmp_path, deep(12))
    assert "INPUT.IMAGE_RANGE" in (got := check(tmp_path, capsys, "INPUT.IMAGE_RANGE", span))
    assert got.startswith("status 2"), got


def cut_out(path: Path) -> None:
    alpha = np.where(np.arange(WIDTH) < 20, 0, 255).astype(np.uint8)[None].repeat(HEIGHT, 0)
    Image.fromarray(np.dstack([scene(), alpha])).save(path, "PNG")


def layer(path: Path) -> None:
    Image.fromarray(np.dstack([scene(), np.full((HEIGHT, WIDTH), 90, np.uint8)])).save(path, "TIFF")


def print_shop(path: Path) -> None:
    Image.fromarray(scene()).convert("CMYK").save(path, "JPEG", quality=98)


def slices(path: Path) -> None:
    pages = [Image.fromarray(scene()), Image.fromarray(scene() // 2)]
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])


def moving(path: Path) -> None:
    Image.fromarray(scene()).save(path, "PNG", save_all=True, append_images=[Image.fromarray(255 - scene())])


NOTED = [
    (cut_out, "1 images have transparent pixels", 0),
    (layer, "1 images have transparent pixels", 0),
    (print_shop, "1 images are CMYK", 4),
    (slices, "1 images hold several frames", 0),
    (moving, "1 images hold several frames", 0),
]


@pytest.mark.parametrize(("write", "note", "near"), NOTED, ids=[case[0].__name__ for case in NOTED])
def test_odd_images_are_read_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Write, note: str, near: int
) -> None:
    make(tmp_path, write)
    got = check(tmp_path, capsys)
    assert got.startswith("status 0"), got
    assert f"  note: {note} (first {tmp_path}" in got
    assert abs(read(tmp_path / "val/images/one.img").astype(int) - scene()).mean() <= near


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA"])
def test_grey_palette_and_bilevel_images_need_no_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    picture = Image.fromarray(scene()).convert("L" if mode == "LA" else mode)
    picture = picture.convert("LA") if mode == "LA" else picture
    make(tmp_path, lambda path: picture.save(path, "PNG"))
    got = check(tmp_path, capsys)
    assert got.startswith("status 0")
    assert "  note" not in got
    assert np.array_equal(read(tmp_path / "val/images/one.img"), np.asarray(picture.convert("RGB")))


def test_lab_colours_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, lambda path: Image.fromarray(scene(), "LAB").save(path, "TIFF"))
    assert "one.img: expected grey or RGB, got LAB colours" in check(tmp_path, capsys)


def test_the_paths_of_the_notes_are_those_of_the_files(tmp_path: Path) -> None:
    make(tmp_path, deep(12))
    cfg_of(tmp_path)
    assert DatasetCatalog.get("own_val")[0]["file_name"].endswith("val/images/one.img")
