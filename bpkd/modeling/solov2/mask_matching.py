"""Matches the predicted masks of student and teacher: pairs of a grid cell and an instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Pairs (cell, instance) of a batch, concatenated over all levels."""

    level: Tensor
    """[P] int64."""

    cell: Tensor
    """[P] int64, i * S + j on the level's own grid."""

    instance: Tensor
    """[P] int64, row in the batch's instances."""

    def __getitem__(self, index: Tensor) -> Pairs:
        """Returns the pairs at an index or where a mask is true."""
        return Pairs(self.level[index], self.cell[index], self.instance[index])

    def __len__(self) -> int:
        """Returns the number of pairs P."""
        return len(self.level)

    def positions(self, grids: Sequence[int]) -> Tensor:
        """Returns [P]: the index of each pair's cell in the concatenated grids of all levels, of sides ``grids``."""
        offsets = [0, *accumulate(side * side for side in grids)][:-1]
        return self.cell.new_tensor(offsets)[self.level] + self.cell


def flat_grids(maps: Sequence[Tensor]) -> Tensor:
    """Concatenates the maps [N, C, S, S] of all levels to [N, C, sum of S * S], in the order of `Pairs.positions`."""
    return torch.cat([x.flatten(2) for x in maps], 2)


def first_per_group(groups: Tensor, keys: Tensor) -> Tensor:
    """Returns the index of the smallest key of each group, the first of equal keys, in ascending order of groups.

    Args:
        groups: Integer group [P] of each key.
        keys: Values [P] to compare.
    """
    order = keys.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order]
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return order[starts]


def central_pairs(pairs: Pairs, centers: Tensor, grids: Sequence[int]) -> Pairs:
    """Returns one pair per instance and level, that of the cell nearest to the instance's centre.

    Args:
        pairs: Pairs of a batch.
        centers: Centroids (y, x) [M, 2] of the instances as fractions of the canvas.
        grids: Side S of each level's grid.

    Returns:
        The chosen pairs, by instance and level.
    """
    side = pairs.cell.new_tensor(list(grids))[pairs.level]
    place = torch.stack([pairs.cell // side, pairs.cell % side], 1) + 0.5
    distance = (place - centers[pairs.instance] * side[:, None]).square().sum(1)
    return pairs[first_per_group(pairs.instance * len(grids) + pairs.level, distance)]


def limited_pairs(pairs: Pairs, image: Tensor, limit: int) -> Pairs:
    """Returns at most ``limit`` pairs of each image, chosen at random if there are more.

    Args:
        pairs: Pairs of a batch.
        image: Index [M] of each instance's image.
        limit: Largest number of pairs per image; 0: no limit.
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
    """Returns, for each of the student's pairs, one of the teacher's pairs of the same instance.

    Args:
        chosen: Pairs of the student.
        teacher: All pairs of the teacher in the batch.
        scores: The teacher's logit of the instance's class at each of its pairs.
        count: Number M of instances in the batch.
        same_cell: Whether the teacher's pair of the same level and cell is preferred to the one with the highest score.

    Returns:
        One pair per chosen pair; level and cell are the student's if the teacher has no pair of the instance.
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
    """Returns a bool mask of those of ``some`` pairs that are among the ``others``."""
    top = [max(int(x.max()) + 1 if len(x) else 1 for x in both) for both in
           ((some.cell, others.cell), (some.level, others.level))]  # fmt: skip
    numbers = [(p.instance * top[1] + p.level) * top[0] + p.cell for p in (some, others)]
    return torch.isin(*numbers)


def mask_logits(kernels: Tensor, features: Tensor, positions: Tensor, image: Tensor) -> Tensor:
    """Computes the mask logits of some cells by dynamic 1x1 convolutions, in float32.

    Args:
        kernels: Kernels [N, E, cells] of all levels, concatenated.
        features: Mask features [N, E, h, w].
        positions: Index [P] of each cell in ``kernels``.
        image: Index [P] of each cell's image, ascending.

    Returns:
        Raw logits [P, h, w]; attached to the graph even if P = 0.
    """
    height, width = features.shape[2], features.shape[3]
    with torch.autocast(features.device.type, enabled=False):
        chosen = kernels.float()[image, :, positions]  # [P, E]
        parts = [chosen[image == n] @ features[n].float().flatten(1) for n in range(len(features))]
    return torch.cat(parts).view(-1, height, width)
