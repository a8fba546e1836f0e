"""Suggests grids and scale ranges for a data set, from its instance sizes and the cells assigned to two instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .targets import CROWDED, GridAssigner, ImageInstances

# The published grids, and the bounds of the published ranges in multiples of the second level's lower bound.
GRIDS = (40, 36, 24, 16, 12)
PATTERN = ((0.0, 2.0), (1.0, 4.0), (2.0, 8.0), (4.0, 16.0), (8.0, 0.0))
NO_BOUND = 4096.0
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5)
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True)
class Claims:
    """Statistics of how grids and ranges assign a data set's instances to cells."""

    grids: tuple[int, ...]
    ranges: tuple[tuple[float, float], ...]
    positive: int
    """Cells that have an instance."""
    twice: int
    """Claims beyond the first on one cell: such instances share a kernel's training."""
    objects: int
    lost: int
    """Instances that no level learns: outside all ranges, or without a pixel."""
    per_level: tuple[int, ...]
    """Instances that each level learns."""

    @property
    def share(self) -> float:
        """Number of assignments beyond the first of a cell, divided by the number of positive cells."""
        return self.twice / max(self.positive, 1)


def object_sizes(images: Sequence[ImageInstances]) -> Tensor:
    """Returns the sorted sqrt(box area) of all instances, in pixels of the input."""
    boxes = torch.cat([one.boxes for one in images])
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return (sides[:, 0] * sides[:, 1]).sqrt().sort().values


def suggested_ranges(sizes: Tensor) -> tuple[tuple[float, float], ...]:
    """Scales the published ranges so that their centre is that of the sizes (5 % to 95 %, in logarithms).

    Args:
        sizes: Sizes of all instances, see `object_sizes`.

    Returns:
        Range (low, high) per level in whole pixels; the first begins at 1, the last has no upper bound in practice.

    Raises:
        ValueError: there is no instance.
    """
    if not len(sizes):
        raise ValueError("expected a data set with instances, got none.")
    low, high = torch.quantile(sizes.double().clamp(min=1), torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    unit = (low * high) ** 0.5 / 8**0.5  # the ranges' inner bounds are 1, 2, 4, 8 units
    return tuple((max(1.0, round(a * unit)), max(2.0, round(b * unit)) if b else NO_BOUND) for a, b in PATTERN)


def claims(
    images: Sequence[ImageInstances], grids: Sequence[int], ranges: Sequence[Sequence[float]], *, divisor: int = 32
) -> Claims:
    """Assigns the instances of single images to cells and returns the statistics.

    Args:
        images: Labelled instances of each image, at the size of the network's input.
        grids: Number S of the S x S grid cells per level.
        ranges: Range (low, high) of instance sizes per level.
        divisor: Number that the sides of each image are padded to a multiple of.
    """
    assigner = GridAssigner(num_classes=1, num_grids=grids, scale_ranges=ranges)
    assigner.crowded = True  # counted here instead of a warning
    positive = twice = objects = lost = 0
    per_level = [0] * len(grids)
    for one in images:
        height, width = (-(-int(side) // divisor) * divisor for side in one.masks.shape[1:])
        targets = assigner([ImageInstances(one.masks, one.boxes, torch.zeros_like(one.classes))], (height, width))
        seen: list[Tensor] = []
        for i, level in enumerate(targets.levels):
            cells = len(level.cell.unique())
            positive, twice = positive + cells, twice + len(level.cell) - cells
            seen.append(level.instance.unique())
            per_level[i] += len(seen[-1])
        objects, lost = objects + len(one.boxes), lost + len(one.boxes) - len(torch.cat(seen).unique())
    bounds = tuple((float(r[0]), float(r[1])) for r in ranges)
    return Claims(tuple(grids), bounds, positive, twice, objects, lost, tuple(per_level))


def suggestions(images: Sequence[ImageInstances], ranges: Sequence[Sequence[float]]) -> list[Claims]:
    """Returns the statistics of the published grids times `FACTORS`, coarsest first, up to the first grids that fit."""
    out = []
    for factor in FACTORS:
        out.append(claims(images, [max(2, round(factor * grid)) for grid in GRIDS], ranges))
        if out[-1].share <= CROWDED and factor >= 1:
            break
    return out


def fitting(rows: Sequence[Claims]) -> Claims:
    """Returns the coarsest grids with a share of at most `CROWDED`, else the finest."""
    return next((row for row in rows if row.share <= CROWDED), rows[-1])
