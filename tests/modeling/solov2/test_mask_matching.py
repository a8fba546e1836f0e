"""Which masks are compared: nearest cells, matching by instance, limits."""

from __future__ import annotations

import pytest
import torch

from bpkd.modeling.solov2.mask_matching import (
    Pairs,
    central_pairs,
    first_per_group,
    flat_grids,
    limited_pairs,
    mask_logits,
    teacher_pairs,
)

GRIDS = (6, 4)


def pairs(*rows: tuple[int, int, int]) -> Pairs:
    level, cell, instance = torch.tensor(rows, dtype=torch.long).reshape(-1, 3).T
    return Pairs(level, cell, instance)


def rows(found: Pairs) -> list[tuple[int, ...]]:
    return [tuple(r) for r in torch.stack([found.level, found.cell, found.instance], 1).tolist()]


def test_first_per_group_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 7, (60,), generator=generator)
    keys = torch.randint(0, 5, (60,), generator=generator)  # with ties
    want = [min((int(k), i) for i, (g, k) in enumerate(zip(groups, keys, strict=True)) if g == group)[1]
            for group in sorted(set(groups.tolist()))]  # fmt: skip
    assert first_per_group(groups, keys).tolist() == want
    assert first_per_group(groups[:0], keys[:0]).tolist() == []


def test_the_cell_nearest_to_the_centre_is_taken_once_per_level() -> None:
    # Instance 0 at the canvas's centre of (0.5, 0.4): row 3 x 2.4 of 6, row 2 x 1.6 of 4.
    centers = torch.tensor([[0.5, 0.4], [0.05, 0.05]], dtype=torch.float64)
    found = pairs((0, 14, 0), (0, 20, 0), (0, 21, 0), (1, 5, 0), (1, 9, 0), (0, 0, 1), (0, 1, 1))
    assert rows(central_pairs(found, centers, GRIDS)) == [(0, 14, 0), (1, 5, 0), (0, 0, 1)]
    moved = torch.tensor([[0.56, 0.4], [0.05, 0.2]], dtype=torch.float64)
    assert rows(central_pairs(found, moved, GRIDS)) == [(0, 20, 0), (1, 9, 0), (0, 1, 1)]
    assert len(central_pairs(pairs(), centers[:0], GRIDS)) == 0


def test_limit_is_per_image() -> None:
    many = pairs(*((0, i, i) for i in range(10)))
    image = torch.tensor([0] * 7 + [1] * 3)
    assert len(limited_pairs(many, image, 0)) == 10
    assert rows(limited_pairs(many, image, 7)) == rows(many)
    torch.manual_seed(0)
    kept = limited_pairs(many, image, 4)
    assert torch.bincount(image[kept.instance]).tolist() == [4, 3]
    torch.manual_seed(0)
    assert rows(limited_pairs(many, image, 4)) == rows(kept)
    assert len(limited_pairs(pairs(), image[:0], 4)) == 0


def test_teacher_is_matched_by_instance_and_score() -> None:
    chosen = pairs((0, 3, 0), (1, 2, 0), (0, 5, 1), (0, 7, 2))
    own = pairs((1, 8, 0), (0, 4, 0), (0, 9, 2))
    found = teacher_pairs(chosen, own, torch.tensor([0.1, 0.7, -3.0]), count=3, same_cell=False)
    assert rows(found) == [(0, 4, 0), (0, 4, 0), (0, 5, 1), (0, 9, 2)]  # of instance 1 the teacher has none
    none = teacher_pairs(chosen, pairs(), torch.zeros(0), count=3, same_cell=False)
    assert rows(none) == rows(chosen)


def test_teacher_is_matched_by_cell_where_it_has_it() -> None:
    chosen = pairs((0, 3, 0), (1, 2, 0), (0, 5, 1), (0, 7, 2))
    own = pairs((1, 2, 0), (0, 4, 0), (1, 7, 2), (0, 3, 2))
    found = teacher_pairs(chosen, own, torch.tensor([0.1, 0.7, 1.0, 0.5]), count=3, same_cell=True)
    assert rows(found) == [(0, 4, 0), (1, 2, 0), (0, 5, 1), (1, 7, 2)]
    empty = teacher_pairs(pairs(), own, torch.zeros(4), count=3, same_cell=True)
    assert len(empty) == 0


def test_masks_are_dynamic_convolutions_of_the_cells() -> None:
    generator = torch.Generator().manual_seed(1)
    kernels = [torch.randn(2, 3, s, s, generator=generator, requires_grad=True) for s in GRIDS]
    features = torch.randn(2, 3, 5, 7, generator=generator, requires_grad=True)
    found = pairs((0, 13, 0), (1, 6, 0), (0, 0, 1))
    image = torch.tensor([0, 1])[found.instance]
    got = mask_logits(flat_grids(kernels), features, found.positions(GRIDS), image)
    for row, (level, cell, instance) in zip(got, rows(found), strict=True):
        i, j = divmod(cell, GRIDS[level])
        want = torch.nn.functional.conv2d(features[instance][None], kernels[level][instance, :, i, j].view(1, 3, 1, 1))
        assert torch.allclose(row, want[0, 0], atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mask_logits(flat_grids(kernels), features, found.positions(GRIDS), image), got)
    none = mask_logits(flat_grids(kernels), features, pairs().positions(GRIDS), image[:0])
    assert none.shape == (0, 5, 7)
    none.sum().backward()
    assert features.grad is not None
    assert all(k.grad is not None for k in kernels)


@pytest.mark.parametrize("level", [0, 1])
def test_positions_follow_the_levels(level: int) -> None:
    maps = [torch.arange(s * s).view(1, 1, s, s) + 100 * i for i, s in enumerate(GRIDS)]
    found = pairs((level, 7, 0))
    assert int(flat_grids(maps)[0, 0, found.positions(GRIDS)]) == 100 * level + 7
