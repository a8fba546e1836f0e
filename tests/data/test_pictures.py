from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bpkd.config import get_bpkd_cfg, image_range
from bpkd.data.masks import load_mask
from bpkd.data.pictures import Picture, load_picture, turned, whole_frames


def test_turns_undo_each_other() -> None:
    pixels = np.arange(24).reshape(4, 6)
    for there, back in ((2, 2), (3, 3), (4, 4), (5, 5), (6, 8), (7, 7), (8, 6)):
        assert np.array_equal(turned(turned(pixels, there), back), pixels)
        assert not np.array_equal(turned(pixels, there), pixels)
    assert turned(pixels, 1) is pixels


@pytest.mark.parametrize(("kind", "span", "expected"), [
    (np.uint16, (0, 510), [0, 50, 255]), (np.int32, (-100, 155), [100, 200, 255]),
    (np.float32, (0, 250), [0, 102, 255]),
])  # fmt: skip
def test_a_range_is_linear_and_clipped(kind: type, span: tuple[float, float], expected: list[int]) -> None:
    values = np.array([0, 100, 1000], kind).reshape(1, 3, 1).repeat(3, 2)
    assert Picture(values, 1, b"").as_bytes(span)[0, :, 0].tolist() == expected


def test_ranges_are_checked_where_the_config_is_read() -> None:
    cfg = get_bpkd_cfg()
    assert image_range(cfg) == (0, 0)
    for wrong in ([3, 3], [0, -1]):
        cfg.INPUT.IMAGE_RANGE = wrong
        with pytest.raises(ValueError, match=r"INPUT.IMAGE_RANGE: expected \[low, high\]"):
            image_range(cfg)


def test_masks_have_no_size_limit_and_keep_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.ones((40, 40), np.uint8)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert load_mask(str(tmp_path / "x.png")).values.sum() == 1600
    assert load_picture(str(tmp_path / "x.png")) is not None
    assert Image.MAX_IMAGE_PIXELS == 100


def test_frames_of_phones_and_smaller_copies_do_not_count(tmp_path: Path) -> None:
    found = {}
    for name in ("x.mpo", "x.tif"):
        big, small = (Image.fromarray(np.zeros((side, side, 3), np.uint8)) for side in (32, 16))
        big.save(tmp_path / name, save_all=True, append_images=[small])
        with Image.open(tmp_path / name) as picture:
            found[name] = whole_frames(picture)
    assert found == {"x.mpo": 1, "x.tif": 2}


def test_files_are_read_by_threads_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, (20, 30, 3)).astype(np.uint8) for _ in range(8)]
    for i, own in enumerate(pixels):
        Image.fromarray(own).save(tmp_path / f"{i}.png")
    right = [False] * 8

    def read(i: int) -> None:
        for _ in range(20):
            picture = load_picture(str(tmp_path / f"{i}.png"))
            right[i] = picture is not None and np.array_equal(picture.pixels[..., ::-1], pixels[i])

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(right)
