"""Which cells learn which instance: mmdetection's maps, hard cases, and a plain loop."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from bpkd.modeling.solov2 import GridAssigner, ImageInstances, image_instances
from bpkd.modeling.solov2.targets import mask_centers
from bpkd.structures import GridTargets
from tests.helpers.golden_solov2 import CANVAS, GRIDS, RANGES, numbers, toy

CPU = torch.device("cpu")


def assigner(ranges: str = "light", num_classes: int = 80) -> GridAssigner:
    return GridAssigner(num_classes=num_classes, num_grids=GRIDS, scale_ranges=RANGES[ranges])


def blobs(count: int, size: tuple[int, int], seed: int = 0) -> ImageInstances:
    """Random ellipses and rectangles, some cut by the border, some tiny."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[: size[0], : size[1]]
    masks = []
    for i in range(count):
        cy, cx = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        ry, rx = rng.uniform(1, size[0] / 3, 2) if i % 3 else rng.uniform(1, 8, 2)
        inside = ((ys - cy) / ry) ** 2 + ((xs - cx) / rx) ** 2 <= 1
        masks.append(inside if i % 2 else (abs(ys - cy) <= ry) & (abs(xs - cx) <= rx))
    tensor = torch.from_numpy(np.stack(masks))
    boxes = BitMasks(tensor).get_bounding_boxes().tensor
    return ImageInstances(tensor, boxes, torch.from_numpy(rng.integers(0, 80, count)))


def plain_loop(
    one: ImageInstances, canvas: tuple[int, int], grid: int, bounds: tuple[float, float], classes: int
) -> Any:
    """The definition, an instance at a time, with Python's numbers."""
    labels = np.full((grid, grid), classes)
    pairs = []
    for index, (mask, box) in enumerate(zip(one.masks.numpy(), one.boxes.tolist(), strict=True)):
        if not mask.any():
            continue
        width, height = box[2] - box[0], box[3] - box[1]
        if not bounds[0] <= math.sqrt(width * height) <= bounds[1]:
            continue
        rows, columns = np.nonzero(mask)
        sides = []
        for centre, half, length in (
            (rows.mean(), 0.1 * height, canvas[0]),
            (columns.mean(), 0.1 * width, canvas[1]),
        ):
            cell, low, high = (math.floor(v * grid / length + 1e-6) for v in (centre, centre - half, centre + half))
            sides.append(range(max(0, low, cell - 1), min(grid - 1, high, cell + 1) + 1))
        for i in sides[0]:
            for j in sides[1]:
                labels[i, j] = int(one.classes[index])
                pairs.append((i * grid + j, index))
    return labels, pairs


@pytest.mark.parametrize("ranges", sorted(RANGES))
@pytest.mark.parametrize("image", ["im0", "im1"])
def test_the_maps_are_mmdetections(image: str, ranges: str) -> None:
    data = numbers("targets")
    targets = assigner(ranges)([image_instances(toy(image), CPU)], CANVAS)
    for level, ours in enumerate(targets.levels):
        key = f"{image}_{ranges}_l{level}"
        np.testing.assert_array_equal(ours.labels[0].numpy(), data[f"{key}_labels"])
        order = np.lexsort((ours.instance, ours.cell))
        theirs = np.lexsort((data[f"{key}_inst"], data[f"{key}_pos_index"]))
        np.testing.assert_array_equal(ours.cell.numpy()[order], data[f"{key}_pos_index"][theirs])
        np.testing.assert_array_equal(ours.instance.numpy()[order], data[f"{key}_inst"][theirs])
        masks = targets.quarter_masks[ours.instance].numpy()[order]
        packed = np.packbits(masks.reshape(len(masks), 64 * 96), axis=1)
        np.testing.assert_array_equal(packed, data[f"{key}_mask_packed"][theirs])


def test_a_batch_is_its_images_with_the_larger_canvas() -> None:
    pair = [image_instances(toy(name), CPU) for name in ("im0", "im1")]
    both = assigner()(pair, CANVAS)
    assert both.image.tolist() == [0] * 10 + [1] * 3
    for i, first in ((0, 0), (1, 10)):
        alone = assigner()([pair[i]], CANVAS)
        for level, own in zip(both.levels, alone.levels, strict=True):
            assert torch.equal(level.labels[i], own.labels[0])
            here = level.image == i
            assert torch.equal(level.cell[here], own.cell)
            assert torch.equal(level.instance[here], own.instance + first)
        assert torch.equal(both.full_masks[i], pair[i].masks)


def test_the_same_image_has_other_cells_on_a_larger_canvas() -> None:
    one = image_instances(toy("im1"), CPU)
    small, large = (assigner()([one], canvas) for canvas in (CANVAS, (512, 512)))
    assert not torch.equal(small.levels[2].labels, large.levels[2].labels)


@pytest.mark.parametrize("size", [(256, 384), (250, 371), (97, 33)])
def test_vectorised_is_the_plain_loop(size: tuple[int, int]) -> None:
    one = blobs(60, size, seed=size[1])
    canvas = (math.ceil(size[0] / 32) * 32, math.ceil(size[1] / 32) * 32)
    targets = assigner()([one], canvas)
    for grid, bounds, level in zip(GRIDS, RANGES["light"], targets.levels, strict=True):
        labels, pairs = plain_loop(one, canvas, grid, bounds, 80)
        np.testing.assert_array_equal(level.labels[0].numpy(), labels)
        assert list(zip(level.cell.tolist(), level.instance.tolist(), strict=True)) == pairs


def test_more_than_512_instances() -> None:
    one = blobs(600, (96, 128))
    targets = assigner()([one], (96, 128))
    labels, pairs = plain_loop(one, (96, 128), 40, RANGES["light"][0], 80)
    np.testing.assert_array_equal(targets.levels[0].labels[0].numpy(), labels)
    assert targets.levels[0].instance.tolist() == [p[1] for p in pairs]
    assert max(targets.levels[0].instance.tolist()) > 512


def test_quarter_masks_are_the_bilinear_resize_of_the_padded_mask() -> None:
    masks = torch.rand(5, 250, 371) > 0.5
    padded = torch.nn.functional.pad(masks.float(), (0, 384 - 371, 0, 256 - 250))
    resized = torch.nn.functional.interpolate(padded[None], scale_factor=0.25, mode="bilinear")[0] >= 0.5
    one = ImageInstances(masks, torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64))
    assert torch.equal(assigner()([one], (256, 384)).quarter_masks, resized)


def test_centers_of_masks_of_more_pixels_than_a_byte_counts() -> None:
    bits = torch.zeros(3, 520, 2048, dtype=torch.uint8)
    bits[0] = 1
    bits[1, 300:, 2000:] = 1
    area, centers = mask_centers(bits)
    assert area.tolist() == [520 * 2048, 220 * 48, 0]
    assert centers.tolist() == [[259.5, 1023.5], [409.5, 2023.5], [0, 0]]


def test_no_instance_at_all() -> None:
    empty = image_instances(Instances((64, 64)), CPU)
    targets = assigner()([empty, empty], (64, 64))
    assert all((level.labels == 80).all() and not len(level.cell) for level in targets.levels)
    assert targets.levels[0].labels.shape == (2, 40, 40)
    assert targets.quarter_masks.shape == (0, 16, 16)


def test_an_instance_outside_all_ranges_and_an_empty_mask_have_no_cell() -> None:
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[0, :8, :8] = True
    masks[2, 20:40, 20:40] = True
    boxes = torch.tensor([[0.0, 0, 8, 8], [10, 10, 30, 30], [20, 20, 40, 40]])
    ranges = ((10, 56), (28, 112), (56, 224), (112, 448), (224, 896))
    own = GridAssigner(num_classes=80, num_grids=GRIDS, scale_ranges=ranges)
    targets = own([ImageInstances(masks, boxes, torch.tensor([1, 2, 3]))], (64, 64))
    assert set(torch.cat([level.instance for level in targets.levels]).tolist()) == {2}
    assert targets.centers[0].tolist() == [3.5, 3.5]
    assert targets.centers[1].tolist() == [0, 0]


def test_polygons_are_drawn_as_bitmasks() -> None:
    polygons = [[np.array([4.0, 4, 40, 6, 30, 50.5])], [np.array([10.0, 10, 20, 10, 20, 20, 10, 20])]]
    drawn, given = Instances((61, 67)), Instances((61, 67))
    for out in (drawn, given):
        out.gt_classes = torch.tensor([3, 4])
    drawn.gt_masks = PolygonMasks(polygons)
    given.gt_masks = BitMasks.from_polygon_masks(polygons, 61, 67)
    for out in (drawn, given):
        out.gt_boxes = Boxes(given.gt_masks.get_bounding_boxes().tensor)
    first, second = (assigner()([image_instances(one, CPU)], (64, 96)) for one in (drawn, given))
    assert first.quarter_masks.any()
    assert torch.equal(first.quarter_masks, second.quarter_masks)
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(first.levels, second.levels, strict=True))


def test_labels_without_masks_are_refused() -> None:
    bare = Instances((10, 10))
    bare.gt_boxes, bare.gt_classes = Boxes(torch.zeros(1, 4)), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="expected Detectron2's BitMasks or PolygonMasks, got NoneType"):
        image_instances(bare, CPU)


def test_order_of_instances_changes_nothing_but_overwritten_labels() -> None:
    one = blobs(30, (128, 128), seed=3)
    flipped = ImageInstances(one.masks.flip(0), one.boxes.flip(0), one.classes.flip(0))
    first, second = assigner()([one], (128, 128)), assigner()([flipped], (128, 128))

    def pairs(targets: GridTargets, level: int, turn: bool) -> set[tuple[int, int]]:
        t = targets.levels[level]
        index = 29 - t.instance if turn else t.instance
        return set(zip(t.cell.tolist(), index.tolist(), strict=True))

    for level in range(5):
        assert pairs(first, level, False) == pairs(second, level, True)
        a, b = first.levels[level].labels, second.levels[level].labels
        assert torch.equal(a == 80, b == 80)


def test_crowded_cells_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    own, crowd = assigner(), blobs(60, (64, 64))
    with caplog.at_level(logging.WARNING):
        own([blobs(1, (64, 64))], (64, 64))
        assert not caplog.records
        own([crowd], (64, 64))
        own([crowd], (64, 64))
    assert len(caplog.records) == 1
    assert "claimed by two instances or more" in caplog.text


def test_wrong_ranges_and_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SCALE_RANGES: expected a pair \(low, high\) for each of 2 grids"):
        GridAssigner(num_classes=2, num_grids=(4, 3), scale_ranges=((1, 2),))
    with pytest.raises(ValueError, match=r"masks of at most \(32, 32\), got \(64, 64\)"):
        assigner()([blobs(2, (64, 64))], (32, 32))
    with pytest.raises(ValueError, match="multiples of 8, got \\(70, 64\\)"):
        assigner()([blobs(2, (64, 64))], (70, 64))
