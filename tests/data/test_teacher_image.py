"""The second picture: the same content at the teacher's size, mirrored alike, only where it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bpkd.data.instances import InstanceAugmentation, InstanceTrainMapper
from tests.helpers.tiny_solov2 import tiny_cfg

WIDTH, HEIGHT = 64, 48


@pytest.fixture
def item(tmp_path: Path) -> dict[str, Any]:
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, : WIDTH // 2] = 200  # bright on the left
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    return {"file_name": str(tmp_path / "a.png"), "height": HEIGHT, "width": WIDTH, "annotations": []}


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_it_shows_what_the_students_picture_shows(flip: float, item: dict[str, Any]) -> None:
    mapper = InstanceTrainMapper(InstanceAugmentation((48,), 100, flip_prob=flip), "RGB", teacher_size=(96, 1000))
    found = mapper(item, np.random.default_rng(0))
    assert tuple(found["image"].shape) == (3, 48, 64)
    assert tuple(found["teacher_image"].shape) == (3, 96, 128)
    for name in ("image", "teacher_image"):
        left, right = found[name].float().chunk(2, -1)
        assert (float(left.mean()) > float(right.mean())) == (flip == 0), name


def test_the_longest_side_is_bounded(item: dict[str, Any]) -> None:
    mapper = InstanceTrainMapper(InstanceAugmentation((48,), 100), "RGB", teacher_size=(96, 80))
    assert tuple(mapper(item, np.random.default_rng(0))["teacher_image"].shape) == (3, 60, 80)


def test_only_own_size_asks_for_it(item: dict[str, Any]) -> None:
    wanted = ["DISTILL.INSTANCE.INPUT", "own_size", "DISTILL.METHOD", "CWD"]
    assert InstanceTrainMapper.from_config(tiny_cfg(*wanted)).teacher_size == (800, 1333)
    for opts in (wanted[:2], wanted[2:]):
        mapper = InstanceTrainMapper.from_config(tiny_cfg(*opts))
        assert "teacher_image" not in mapper(item, np.random.default_rng(0))


def test_a_crop_is_refused() -> None:
    opts = ["DISTILL.INSTANCE.INPUT", "own_size", "DISTILL.METHOD", "CWD", "INPUT.CROP.ENABLED", True]
    with pytest.raises(ValueError, match=r"own_size: expected INPUT.CROP.ENABLED False"):
        InstanceTrainMapper.from_config(tiny_cfg(*opts, "INPUT.CROP.TYPE", "absolute"))
