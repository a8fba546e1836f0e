"""Inputs of the level distillers: the maps of student and teacher and the edge maps at each level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bpkd.distillers import Target
from bpkd.functional import binary_logits, content_share, grid_edges, instance_edges, merged_edges, outside_region
from bpkd.structures import GridTargets, SegOutput, SOLOv2Outputs

from .mask_matching import Pairs, central_pairs, flat_grids, limited_pairs, mask_logits, teacher_pairs

Size = tuple[int, int]


@dataclass(frozen=True)
class LevelInputs:
    """Inputs of a `bpkd.distillers.LevelDistiller`, one entry per level."""

    students: list[SegOutput]
    teachers: list[SegOutput]
    maps: list[Target]


class EdgeContext:
    """Edge maps of a batch's instances, and the share of each position that is not padding, at given sizes."""

    def __init__(self, targets: GridTargets, canvas: Size, window: Size | None, sizes: Sequence[Size]) -> None:
        """Computes the edge maps.

        Args:
            targets: The student's assignment of instances to cells.
            canvas: Padded size of the student's images.
            window: Kernel size and passes of the edge maps; None: edges are not needed.
            sizes: Sizes of the maps.
        """
        self.targets, self.canvas, self.count = targets, canvas, len(targets.full_masks)
        self._edges: dict[Size, Tensor] = {}
        wanted = list(dict.fromkeys(sizes))
        if window is not None:
            found = [
                instance_edges(masks, window[0], canvas, wanted, iterations=window[1]) for masks in targets.full_masks
            ]
            self._edges = {size: torch.cat([one[i] for one in found]) for i, size in enumerate(wanted)}

    def edges(self, size: Size) -> Tensor | None:
        """Returns [M, h, w], the edge map of every instance; None where edges are not needed."""
        return self._edges.get(size)

    def merged(self, size: Size, members: Tensor, num_classes: int = 1) -> Tensor | None:
        """Returns [N, num_classes, h, w]: the maximum of the members' edge maps per image, or per image and class."""
        edges = self.edges(size)
        if edges is None:
            return None
        group = self.targets.image[members] * num_classes
        if num_classes > 1:
            group = group + self.targets.classes[members]
        merged = merged_edges(edges[members], group, self.count * num_classes)
        return merged.view(self.count, num_classes, *size)

    def valid(self, size: Size) -> Tensor:
        """Returns [N, 1, h, w]: the share of each position that is not padding."""
        return torch.stack(
            [
                content_share((masks.shape[1], masks.shape[2]), self.canvas, size, self.targets.image)
                for masks in self.targets.full_masks
            ]
        )[:, None]


def category_levels(
    student: SOLOv2Outputs,
    teacher: SOLOv2Outputs,
    context: EdgeContext,
    *,
    independent: bool,
    edges: str,
    per_class: bool,
) -> LevelInputs:
    """Returns the level inputs of the category logits.

    Args:
        student: Raw outputs of the student.
        teacher: Raw outputs of the teacher, on the same grids.
        context: Edge maps and valid shares of the batch.
        independent: Whether each class has a sigmoid of its own, see `bpkd.structures.SegOutput`.
        edges: Type of the edge maps: "boundary": edges of the level's instances; "grid": edges of the cells' labels.
        per_class: Whether there is one edge map per class.
    """
    maps = []
    for logits, level in zip(student.category_logits, context.targets.levels, strict=True):
        size = (int(logits.shape[2]), int(logits.shape[3]))
        valid = context.valid(size)
        if edges == "grid":
            edge: Tensor | None = torch.minimum(grid_edges(level.labels), valid)
        else:
            edge = context.merged(size, level.instance.unique(), logits.shape[1] if per_class else 1)
        maps.append(Target(edge_map=edge, valid=valid))
    return LevelInputs(
        [SegOutput(x, independent=independent) for x in student.category_logits],
        [SegOutput(x, independent=independent) for x in teacher.category_logits],
        maps,
    )


def map_levels(students: Sequence[Tensor], teachers: Sequence[Tensor], context: EdgeContext) -> LevelInputs:
    """Returns the level inputs of maps [N, C, H/4, W/4] of whole images, with the edges of all instances."""
    size = (int(students[0].shape[2]), int(students[0].shape[3]))
    everyone = torch.arange(len(context.targets.image), device=context.targets.image.device)
    maps = Target(edge_map=context.merged(size, everyone), valid=context.valid(size))
    resized = [at_size(t, size) for t in teachers]
    return LevelInputs([SegOutput(x) for x in students], [SegOutput(x) for x in resized], [maps] * len(students))


def mask_levels(
    student: SOLOv2Outputs,
    teacher: SOLOv2Outputs,
    context: EdgeContext,
    *,
    teacher_targets: GridTargets,
    max_pairs: int,
    box_region: float,
    match: str,
) -> LevelInputs:
    """Returns the level inputs of mask logits, two-class maps [P, 2, H/4, W/4] of one cell per instance and level.

    Args:
        student: Raw outputs of the student.
        teacher: Raw outputs of the teacher.
        context: Edge maps and valid shares of the batch.
        teacher_targets: The teacher's own assignment of the same instances, on the same grids.
        max_pairs: Largest number of pairs per image; 0: no limit.
        box_region: Factor that enlarges the instance's box, in which masks are compared; 0: the whole map.
        match: The teacher's pair that a pair is compared with, of the same instance: "cell": that of the same level
            and cell if there is one, else that with the highest score; "score": always that with the highest score.
    """
    targets, grids = context.targets, [int(x.shape[-1]) for x in student.category_logits]
    canvas = torch.tensor(context.canvas, dtype=torch.float64, device=targets.centers.device)
    chosen = central_pairs(pairs_of(targets), targets.centers / canvas, grids)
    chosen = limited_pairs(chosen, targets.image, max_pairs)
    theirs, image = pairs_of(teacher_targets), targets.image[chosen.instance]
    scores = flat_grids(teacher.category_logits)[
        targets.image[theirs.instance], targets.classes[theirs.instance], theirs.positions(grids)
    ]
    matched = teacher_pairs(chosen, theirs, scores, count=len(targets.image), same_cell=match == "cell")
    s = mask_logits(flat_grids(student.kernels), student.mask_features, chosen.positions(grids), image)
    t = mask_logits(flat_grids(teacher.kernels), teacher.mask_features, matched.positions(grids), image)
    size = (int(s.shape[1]), int(s.shape[2]))
    both = [binary_logits(s), binary_logits(at_size(t[:, None], size)[:, 0])]
    if box_region:
        inside = _enlarged_boxes(targets.boxes[chosen.instance], size, box_region)
        both = [outside_region(x, inside) for x in both]
    edges, valid = context.edges(size), context.valid(size)
    levels = LevelInputs([], [], [])
    for level in range(len(grids)):
        own = (chosen.level == level).nonzero().flatten()
        levels.students.append(SegOutput(both[0][own]))
        levels.teachers.append(SegOutput(both[1][own]))
        edge = None if edges is None else edges[chosen.instance[own]][:, None]
        levels.maps.append(Target(edge_map=edge, valid=valid[image[own]]))
    return levels


def pairs_of(targets: GridTargets) -> Pairs:
    """Returns the pairs of all levels, concatenated."""
    level = [torch.full_like(one.cell, i) for i, one in enumerate(targets.levels)]
    cell, instance = ([getattr(one, name) for one in targets.levels] for name in ("cell", "instance"))
    return Pairs(torch.cat(level), torch.cat(cell), torch.cat(instance))


def at_size(maps: Tensor, size: Size) -> Tensor:
    """Resizes the teacher's maps [N, C, h, w] bilinearly to the student's size."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)


def _enlarged_boxes(boxes: Tensor, size: Size, factor: float) -> Tensor:
    """Returns bool [P, h, w] at stride 4: pixels whose centre lies in a box enlarged around its own centre."""
    center, half = (boxes[:, 2:] + boxes[:, :2]) / 2, factor * (boxes[:, 2:] - boxes[:, :2]) / 2
    low, high = center - half, center + half
    y, x = (4 * torch.arange(n, device=boxes.device) + 2 for n in size)
    inside_x = (x >= low[:, :1]) & (x <= high[:, :1])
    inside_y = (y >= low[:, 1:]) & (y <= high[:, 1:])
    return inside_y[:, :, None] & inside_x[:, None, :]
