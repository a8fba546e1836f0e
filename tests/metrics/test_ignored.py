from __future__ import annotations

import numpy as np
import pytest

from bpkd.metrics.ignored import IgnoredRegions, covers_regions


def block(height: int, width: int, side: int) -> np.ndarray:
    flags = np.zeros((height, width), bool)
    flags[10 : 10 + side, 12 : 12 + side] = True
    return flags


@pytest.mark.parametrize(("side", "others", "expected"), [(6, 2, False), (7, 2, True), (6, 1, True), (40, 3, True)])
def test_regions_are_wider_than_borders(side: int, others: int, expected: bool) -> None:
    assert covers_regions(block(60, 80, side), others) is expected


def test_borders_grow_with_the_picture_and_frames_separate_nothing() -> None:
    assert not covers_regions(block(2000, 3000, 20), 2)
    assert covers_regions(block(2000, 3000, 21), 2)
    frame = np.ones((40, 60), bool)
    frame[3:-3, 3:-3] = False
    assert not covers_regions(frame, 1)
    assert not covers_regions(np.ones((40, 60), bool), 0)
    assert not covers_regions(np.zeros((40, 60), bool), 2)
    assert not covers_regions(np.ones((3, 2), bool)[:, :0], 0)


def counted(maps: list[tuple[list[int], bool]], num_classes: int = 3) -> IgnoredRegions:
    out = IgnoredRegions(num_classes)
    for number, (present, regions) in enumerate(maps):
        out.add(f"{number}.png", np.asarray(present, int), regions)
    return out


def test_a_class_that_never_occurs_is_suspicious_where_255_covers_regions() -> None:
    found = counted([([0], True), ([0, 1], False)]).suspicion()
    assert found is not None
    assert (found.classes, found.mixed, found.maps, found.example) == ((2,), False, 1, "0.png")
    assert counted([([0], False), ([0, 1], False)]).suspicion() is None
    assert counted([([0, 1, 2], True), ([0, 1], False)]).suspicion() is None


def test_another_split_acquits_rare_classes_alone() -> None:
    own = counted([([0, 1], True)] * 4)
    assert own.suspicion([counted([([0, 1], True)] * 9 + [([0, 1, 2], True)])]) is None
    found = own.suspicion([counted([([0, 1, 2], True)] * 10)])
    assert found is not None
    assert found.classes == (2,)


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ([([0, 1, 2], False), ([0, 1], True)], (2,)),  # exchange 255 and 2 and both are alike
        ([([0, 1, 2], False), ([0, 1], True), ([0, 1, 2], True)], None),  # both in one mask
        ([([0, 1, 2], False)] * 3 + [([0, 1], False), ([0, 1], True)], None),  # chance: 40 %
        ([([0, 1, 2], False)] * 30 + [([0, 1], False)] * 3 + [([0, 1], True)] * 9, (2,)),
        ([([0, 1, 2], False)] * 2 + [([0, 1], False)] * 90 + [([0, 1], True)] * 9, None),  # 2 is rare
    ],
)
def test_maps_of_two_kinds_are_told_from_chance(maps: list, expected: tuple[int, ...] | None) -> None:
    found = counted(maps).suspicion()
    assert (found and found.classes) == expected
    assert found is None or found.mixed


def test_large_sets_are_judged_at_once() -> None:
    out = IgnoredRegions(171)
    out.maps, out.regions = 118_000, 60_000
    out.holds[:], out.both[:] = 50_000, 20_000
    out.both[7] = 0
    found = out.suspicion()
    assert found is not None
    assert found.classes == (7,)
