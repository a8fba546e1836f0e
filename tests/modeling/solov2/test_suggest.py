"""Suggested grids and ranges: the rule, the counts against the assignment, and the tool on a small set."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bpkd.modeling.solov2 import ImageInstances
from bpkd.modeling.solov2.suggest import (
    GRIDS,
    claims,
    fitting,
    object_sizes,
    suggested_ranges,
    suggestions,
)
from tests.helpers.tools import load_tool

REPO = Path(__file__).parents[3]
FILE = str(REPO / "configs" / "coco" / "solov2_light_r18.yaml")
tool = load_tool("suggest_grids")


def image(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (64, 96)) -> ImageInstances:
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return ImageInstances(
        masks, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.zeros(len(boxes), dtype=torch.long)
    )


def test_sizes_are_roots_of_box_areas() -> None:
    assert object_sizes([image((0, 0, 9, 4), (0, 0, 2, 2)), image()]).tolist() == [2.0, 6.0]


def test_ranges_overlap_and_lie_around_the_sizes() -> None:
    ranges = suggested_ranges(torch.full((50,), 8 * 8**0.5))  # the middle of 1, 2, 4, 8 units of 8 pixels
    assert ranges == ((1.0, 16.0), (8.0, 32.0), (16.0, 64.0), (32.0, 128.0), (64.0, 4096.0))
    for (low, high), (following, _) in zip(ranges, ranges[1:], strict=False):
        assert low < following <= high
    assert suggested_ranges(torch.full((50,), 0.5))[0] == (1.0, 2.0)
    with pytest.raises(ValueError, match="a data set with instances"):
        suggested_ranges(torch.zeros(0))


def test_claims_are_counted() -> None:
    ranges = ((1.0, 20.0), (10.0, 30.0), (90.0, 100.0))
    same = image((10, 10, 20, 20), (10, 10, 20, 20), (0, 0, 50, 50))
    found = claims([same, image()], (8, 4, 2), ranges)
    assert (found.objects, found.lost, found.per_level) == (3, 1, (2, 2, 0))
    assert found.twice == found.positive > 0
    assert found.share == 1.0
    assert claims([image()], (8,), ((1.0, 9.0),)).share == 0.0


def test_crowded_sets_get_finer_grids() -> None:
    crowded = [image(*((x, y, x + 4, y + 4) for x in range(0, 92, 5) for y in range(0, 60, 5)))]
    rows = suggestions(crowded, suggested_ranges(object_sizes(crowded)))
    shares = [row.share for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert fitting(rows).share <= 0.05 < shares[0]
    sparse = [image((0, 0, 4, 4), (60, 40, 70, 50))]
    rows = suggestions(sparse, suggested_ranges(object_sizes(sparse)))
    assert rows[-1].grids == GRIDS  # not finer than the published ones without need
    assert fitting(rows) == rows[0]


@pytest.fixture
def coco_set(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    images, annotations = [], []
    for i in range(3):
        cv2.imwrite(str(tmp_path / "train" / f"{i}.png"), np.zeros((48, 64, 3), np.uint8))
        images.append({"id": i, "file_name": f"{i}.png", "height": 48, "width": 64})
        for k in range(i):  # the first image has no object
            x, y = 4 + 20 * k, 6
            outline = [x, y, x + 12, y, x + 12, y + 12, x, y + 12]
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": 1, "iscrowd": 0,
                                "area": 144, "bbox": [x, y, 12, 12], "segmentation": [outline]})  # fmt: skip
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "instances_train.json").write_text(json.dumps(data))
    return tmp_path


def options(root: Path) -> list[str]:
    return [
        "DATASETS.COCO_FOLDER.NAME",
        "mine",
        "DATASETS.COCO_FOLDER.ROOT",
        str(root),
        "DATASETS.TRAIN",
        "('mine_train',)",
    ]


def test_the_tool_prints_a_config(coco_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--config-file", FILE, *options(coco_set), "INPUT.MIN_SIZE_TRAIN", "(96,)"]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 images with objects, 3 objects, input 96 (at most 768)" in out
    assert "50 % 24" in out  # 12 pixels, twice as large
    assert "NUM_GRIDS: [" in out
    assert "SCALE_RANGES: [[1, 17], [8, 34], [17, 68], [34, 136], [68, 4096]]" in out


def test_the_tool_names_what_is_missing(coco_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--config-file", FILE, "DATASETS.ROOT", str(coco_set)]) == 2
    assert "error: COCO: expected " in capsys.readouterr().err
