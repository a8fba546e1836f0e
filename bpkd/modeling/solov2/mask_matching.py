"""Which predicted masks of student and teacher are compared: pairs of a cell and an instance, matched by instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """(cell, instance) pairs of a batch, of all levels in one row."""

    level: Tensor
    """[P] int64."""

    cell: Tensor
    """[P] int64, i * S + j on the level's own grid."""

    instance: Tensor
    """[P] int64, row in the batch's instances."""

    def __getitem__(self, index: Tensor) -> Pairs:
        """Returns some of the pairs."""
        return Pairs(self.level[index], self.cell[index], self.instance[index])

    def __len__(self) -> int:
        """Returns P."""
        return len(self.level)

    def positions(self, grids: Sequence[int]) -> Tensor:
        """Returns [P]: where each cell lies once all levels' grids of sides ``grids`` are one row of cells."""
        offsets = [0, *accumulate(side * side for side in grids)][:-1]
        return self.cell.new_tensor(offsets)[self.level] + self.cell


def flat_grids(maps: Sequence[Tensor]) -> Tensor:
    """Joins the maps [N, C, S, S] of all levels to [N, C, sum of S * S], in the order of `Pairs.positions`."""
    return torch.cat([x.flatten(2) for x in maps], 2)


def first_per_group(groups: Tensor, keys: Tensor) -> Tensor:
    """Returns the index of the smallest key of every group, groups ascending; the first where keys are equal.

    Args:
        groups: [P] integers.
        keys: [P].
    """
    order = keys.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order]
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return order[starts]


def central_pairs(pairs: Pairs, centers: Tensor, grids: Sequence[int]) -> Pairs:
    """One pair per instance and level, that of the cell nearest to the instance's centre.

    Args:
        pairs: Pairs of a batch.
        centers: [M, 2] mass centres (y, x) as shares of the canvas.
        grids: Sides S of the levels' grids.

    Returns:
        The chosen pairs, by instance and level.
    """
    side = pairs.cell.new_tensor(list(grids))[pairs.level]
    place = torch.stack([pairs.cell // side, pairs.cell % side], 1) + 0.5
    distance = (place - centers[pairs.instance] * side[:, None]).square().sum(1)
    return pairs[first_per_group(pairs.instance * len(grids) + pairs.level, distance)]


def limited_pairs(pairs: Pairs, image: Tensor, limit: int) -> Pairs:
    """At most ``limit`` pairs of each image (0: all of them), random ones where there are more.

    Args:
        pairs: Pairs of a batch.
        image: [M] image of each instance.
        limit: Most pairs per image.
    """
    owner = image[pairs.instance]
    counts = torch.bincount(owner).tolist()
    if not limit or not counts or max(counts) <= limit:
        return pairs
    kept = []
    for n, count in enumerate(counts):
        own = (owner == n).nonzero().flatten()
        kept.append(own if count <= limit else own[torch.randperm(count)[:limit].to(own.device)])
    return pairs[torch.cat(kept)]


def teacher_pairs(chosen: Pairs, teacher: Pairs, scores: Tensor, *, count: int, same_cell: bool) -> Pairs:
    """For each chosen pair one of the teacher's pairs of the same instance.

    Args:
        chosen: the student's pairs.
        teacher: all of the teacher's own pairs of the batch.
        scores: [P of teacher] the teacher's logit of the instance's class at each of its pairs.
        count: M, instances of the batch.
        same_cell: take the teacher's pair of the same level and cell where there is one, else the one with the highest
            score; False: always the latter.

    Returns:
        As many pairs as are chosen; level and cell of the student's pair where the teacher has none of the instance.
    """
    best = teacher[first_per_group(teacher.instance, -scores)]
    found = chosen.cell.new_full((2, count), -1)
    found[:, best.instance] = torch.stack([best.level, best.cell])
    level, cell = found[:, chosen.instance]
    kept = level < 0
    if same_cell:
        kept = kept | _contained(chosen, teacher)
    return Pairs(torch.where(kept, chosen.level, level), torch.where(kept, chosen.cell, cell), chosen.instance)


def _contained(some: Pairs, others: Pairs) -> Tensor:
    """Returns bool: which of ``some`` pairs are among the ``others`` too."""
    top = [max(int(x.max()) + 1 if len(x) else 1 for x in both) for both in
           ((some.cell, others.cell), (some.level, others.level))]  # fmt: skip
    numbers = [(p.instance * top[1] + p.level) * top[0] + p.cell for p in (some, others)]
    return torch.isin(*numbers)


def mask_logits(kernels: Tensor, features: Tensor, positions: Tensor, image: Tensor) -> Tensor:
    """Masks of some cells: 1x1 dynamic convolutions, in float32.

    Args:
        kernels: [N, E, cells], all levels in one row.
        features: [N, E, h, w] mask features.
        positions: [P] of the cells.
        image: [P] that they belong to, ascending.

    Returns:
        [P, h, w] raw logits; none of them keep the graph too.
    """
    height, width = features.shape[2], features.shape[3]
    with torch.autocast(features.device.type, enabled=False):
        chosen = kernels.float()[image, :, positions]  # [P, E]
        parts = [chosen[image == n] @ features[n].float().flatten(1) for n in range(len(features))]
    return torch.cat(parts).view(-1, height, width)
