"""Assigns instances to the grid cells that predict them, for all instances of a batch at once.

Source: Wang et al., "SOLOv2", section 3; the arithmetic is mmdetection 3.3.0's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bpkd.structures import GridTargets, LevelTargets

logger = logging.getLogger(__name__)

# A centre exactly on a grid line belongs to the cell that begins there, also where the division rounds down.
LINE = 1e-6
# Share of a batch's positive cells that may be assigned to two instances before a warning.
CROWDED = 0.05


@dataclass(frozen=True)
class ImageInstances:
    """The labelled instances of one image."""

    masks: Tensor
    """[n, h, w] bool at the image's size."""

    boxes: Tensor
    """[n, 4] x1 y1 x2 y2 in pixels."""

    classes: Tensor
    """[n] int64."""


def on_canvas(masks: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Pads masks [n, h, w] bool with False to [n, H, W] bytes 0 and 1, at the right and the bottom."""
    below, right = canvas[0] - masks.shape[1], canvas[1] - masks.shape[2]
    bits = masks.contiguous().view(torch.uint8)
    return F.pad(bits, (0, right, 0, below)) if below or right else bits


def quarter_masks(bits: Tensor) -> Tensor:
    """Resizes masks on the canvas to a quarter of their size: bilinear, then >= 0.5.

    A result is True if at least two of the central 2x2 pixels of its 4x4 block are 1.

    Args:
        bits: Masks uint8 [n, H, W] of 0 and 1, both sides multiples of 4.

    Returns:
        bool [n, H/4, W/4].
    """
    rows = bits[:, 1::4] + bits[:, 2::4]
    return rows[..., 1::4] + rows[..., 2::4] >= 2


def mask_centers(bits: Tensor) -> tuple[Tensor, Tensor]:
    """Returns area and mean pixel index of masks, adding eight pixels at a time, many times faster than byte sums.

    Args:
        bits: Masks uint8 [n, H, W] of 0 and 1, W a multiple of 8.

    Returns:
        Area [n], and (y, x) [n, 2], 0 for an empty mask, both float64.
    """
    words = bits.view(torch.int64)
    columns = _byte_sums(words, 1)
    rows = _byte_sums(words, 2).unflatten(1, (-1, 8)).sum(2)
    moments = [
        counts.double() @ torch.arange(counts.shape[1], dtype=torch.float64, device=bits.device)
        for counts in (rows, columns)
    ]
    area = columns.sum(1).double()
    return area, torch.stack(moments, 1) / area.clamp(min=1)[:, None]


def _byte_sums(words: Tensor, dim: int) -> Tensor:
    """Sums words of eight byte counters over a dimension, 255 at a time so that no byte overflows; returns int32."""
    return sum(
        (part.sum(dim).view(torch.uint8).int() for part in words.split(255, dim)),
        start=torch.zeros((), dtype=torch.int32, device=words.device),
    )


class GridAssigner:
    """Assigns instances to grid cells.

    An instance is used at a level if the square root of its box's area lies in the level's range, both ends included.
    Its cells are those that its centre region (``sigma`` times the box, around the mask's centroid) touches, at most
    one beside the centroid's own in each direction. Grids divide the padded canvas, so an image's cells depend on the
    other images of its batch. If two instances have a cell, its label is the later one's, and its kernel has to predict
    both masks.

    Attributes:
        crowded: Whether the warning about cells with two instances has been given.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_grids: Sequence[int],
        scale_ranges: Sequence[Sequence[float]],
        sigma: float = 0.2,
    ) -> None:
        """Sets the grids.

        Args:
            num_classes: Number of classes K, which is also the label of background.
            num_grids: Number S of the S x S grid cells per level.
            scale_ranges: Range (low, high) of instance sizes per level, in pixels of the network's input.
            sigma: Ratio of the size of the centre region to that of the box.

        Raises:
            ValueError: the numbers of levels differ, or a range is empty.
        """
        if len(num_grids) != len(scale_ranges) or any(len(r) != 2 or r[0] > r[1] for r in scale_ranges):
            raise ValueError(
                f"MODEL.SOLOV2.SCALE_RANGES: expected a pair (low, high) for each of {len(num_grids)} grids, got "
                f"{[list(r) for r in scale_ranges]}."
            )
        self.num_classes, self.num_grids = num_classes, tuple(num_grids)
        self.scale_ranges, self.sigma = tuple((float(low), float(high)) for low, high in scale_ranges), sigma
        self.crowded = False

    def __call__(self, images: Sequence[ImageInstances], canvas: tuple[int, int]) -> GridTargets:
        """Assigns the instances of a batch.

        Args:
            images: Labelled instances of each image, of which there may be none.
            canvas: (height, width) that the batch is padded to, multiples of 8.

        Returns:
            Targets on the device of the masks.

        Raises:
            ValueError: a mask is larger than the canvas, or the canvas is no multiple of 8.
        """
        if canvas[0] % 8 or canvas[1] % 8:
            raise ValueError(f"expected a canvas of multiples of 8, got {canvas}.")
        for one in images:
            if one.masks.shape[-2] > canvas[0] or one.masks.shape[-1] > canvas[1]:
                raise ValueError(f"expected masks of at most {canvas}, got {tuple(one.masks.shape[-2:])}.")
        device = images[0].masks.device
        counts = torch.tensor([len(one.masks) for one in images], device=device)
        image = torch.repeat_interleave(torch.arange(len(images), device=device), counts)
        boxes = torch.cat([one.boxes.float() for one in images])
        classes = torch.cat([one.classes for one in images])
        bits = [on_canvas(one.masks, canvas) for one in images]
        found = [mask_centers(one) for one in bits]
        area, centers = torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])
        sides = boxes[:, 2:] - boxes[:, :2]
        size = (sides[:, 0] * sides[:, 1]).sqrt().masked_fill(area == 0, float("nan"))  # in no range
        half = 0.5 * self.sigma * sides.flip(1).double()
        levels = tuple(
            self._level(grid, bounds, canvas, len(images), (image, classes, size, centers, half))
            for grid, bounds in zip(self.num_grids, self.scale_ranges, strict=True)
        )
        self._warn(levels)
        return GridTargets(
            levels=levels,
            image=image,
            classes=classes,
            boxes=boxes,
            centers=centers,
            quarter_masks=torch.cat([quarter_masks(one) for one in bits]),
            full_masks=tuple(one.masks for one in images),
        )

    def _level(
        self,
        grid: int,
        bounds: tuple[float, float],
        canvas: tuple[int, int],
        num_images: int,
        instances: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    ) -> LevelTargets:
        image, classes, size, centers, half = instances
        scale = grid / torch.tensor(canvas, dtype=torch.float64, device=centers.device)

        def cell(at: Tensor) -> Tensor:
            return (at * scale + LINE).floor().long()

        own = cell(centers)
        first = torch.maximum(cell(centers - half), own - 1).clamp(min=0)
        last = torch.minimum(cell(centers + half), own + 1).clamp(max=grid - 1)
        used = (size >= bounds[0]) & (size <= bounds[1])
        places = first[:, :, None] + torch.arange(3, device=centers.device)  # [M, 2, 3]: three rows, three columns
        inside = (places <= last[:, :, None]) & used[:, None, None]
        chosen = inside[:, 0, :, None] & inside[:, 1, None, :]
        cells = places[:, 0, :, None] * grid + places[:, 1, None, :]
        instance = chosen.nonzero()[:, 0]
        pairs = cells[chosen]
        where = image[instance] * grid**2 + pairs
        # The greatest index is the last instance of the image that is assigned to the cell.
        owner = torch.full((num_images * grid**2,), -1, device=centers.device)
        owner.scatter_reduce_(0, where, instance, "amax")
        names = F.pad(classes, (0, 1), value=self.num_classes)  # index -1 is background
        return LevelTargets(names[owner].view(num_images, grid, grid), image[instance], pairs, instance)

    def _warn(self, levels: Sequence[LevelTargets]) -> None:
        """Warns once if many cells are assigned to two instances, which cannot be separated."""
        if self.crowded:
            return
        pairs = sum(len(level.cell) for level in levels)
        positive = sum(int((level.labels != self.num_classes).sum()) for level in levels)
        share = (pairs - positive) / max(positive, 1)
        if positive >= 20 and share > CROWDED:
            self.crowded = True
            logger.warning(
                "%.0f %% of the positive cells of a batch are claimed by two instances or more: the network cannot "
                "tell these apart. Larger grids (MODEL.SOLOV2.NUM_GRIDS), a larger input, or SCALE_RANGES that fit the "
                "data help.",
                100 * share,
            )
