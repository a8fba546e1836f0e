"""Whether 255, which is ignored unless said otherwise, is a class in label maps: a paint tool's white, for example."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, lgamma
from typing import Any

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
# A border between regions is thinner than this many pixels, or this share of the shorter side of a large map: Pascal
# VOC's are 5 pixels wide, and grow with the picture.
WIDTH, SHARE = 7, 0.01
# A class's absence that comes about by chance less often than this is no chance. Over all classes together.
CHANCE = 0.05


def covers_regions(ignored: Flags, others: int) -> bool:
    """Returns whether ignored pixels look like a class: they are not the thin borders between regions alone.

    Args:
        ignored: bool [H, W].
        others: number of classes in the rest of the map. Where it is one or none, ignored pixels separate nothing, so
            that thin ones (cracks, vessels) look like a class too, unless they frame the map. A map that is ignored as
            a whole says nothing.
    """
    side = max(WIDTH, int(SHARE * min(ignored.shape)) | 1)
    if not ignored.any() or ignored.all():
        return False
    inner = ignored[side // 2 : -(side // 2), side // 2 : -(side // 2)]
    return bool(others <= 1 and inner.any()) or bool(_windows(_windows(ignored, side), side, axis=1).any())


def _windows(flags: Flags, length: int, axis: int = 0) -> Flags:
    """Returns where all of ``length`` neighbours along an axis are set, by doubling the length that is known."""
    flags = flags if axis == 0 else flags.T
    known = 1
    while known < length and len(flags):
        step = min(known, length - known)
        flags = flags[:-step] & flags[step:]
        known += step
    return flags if axis == 0 else flags.T


@dataclass(frozen=True)
class Suspicion:
    """Why 255 may be a class."""

    classes: tuple[int, ...]
    """The class that never occurs, or never where 255 covers regions."""

    mixed: bool
    """Other maps do hold the class: 255 would be it in a part of them."""

    maps: int
    """Number of maps in which 255 covers regions."""

    example: str
    """One of them."""

    other: str
    """One that holds the class, if it is mixed."""


class IgnoredRegions:
    """Counts of the maps in which classes and regions of 255 occur, together or apart."""

    def __init__(self, num_classes: int) -> None:
        """Takes the number of classes K."""
        self.maps = self.regions = 0
        self.holds, self.both = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
        self.example, self.others = "", [""] * num_classes

    def add(self, name: str, present: NDArray[Any], regions: bool) -> None:
        """Counts a map.

        Args:
            name: its file.
            present: the classes in it.
            regions: whether 255 covers regions of it (`covers_regions`).
        """
        self.maps += 1
        self.regions += regions
        self.holds[present] += 1
        if regions:
            self.both[present] += 1
            self.example = self.example or name
            return
        for index in present:
            self.others[index] = self.others[index] or name

    def joined(self, more: Iterable[IgnoredRegions]) -> IgnoredRegions:
        """Returns the counts of these maps and of those of other splits."""
        out = IgnoredRegions(len(self.holds))
        for part in (self, *more):
            out.maps, out.regions = out.maps + part.maps, out.regions + part.regions
            out.holds, out.both = out.holds + part.holds, out.both + part.both
            out.example = out.example or part.example
            out.others = [a or b for a, b in zip(out.others, part.others, strict=True)]
        return out

    def suspicion(self, before: Iterable[IgnoredRegions] = ()) -> Suspicion | None:
        """Returns why 255 may be a class in these maps; None if it need not be.

        Args:
            before: counts of the set's other splits. A class that they hold, and that is rare, may be missing here.
        """
        if not self.regions:
            return None
        before = list(before)
        never = [c for c in np.flatnonzero(self.holds == 0).tolist() if not _rare(c, self.maps, before)]
        if never:
            other = next((p.others[c] for c in never for p in before if p.others[c]), "")
            return Suspicion(tuple(never), bool(other), self.regions, self.example, other)
        return self.joined(before)._mixed()

    def _mixed(self) -> Suspicion | None:
        """Returns a class that occurs in many maps but never beside regions of 255."""
        for index in np.flatnonzero((self.holds > 0) & (self.both == 0)).tolist():
            free, count = self.maps - self.regions, int(self.holds[index])
            chance = _apart(self.maps, self.regions, count) * len(self.holds)
            # each map holds either the class or 255, and those with 255 all the rest: exchanged, the maps are alike
            alone = int(((self.holds > 0) & (self.both == 0)).sum()) == 1
            if chance < CHANCE or (count == free and alone):
                return Suspicion((index,), True, self.regions, self.example, self.others[index])
        return None


def _apart(maps: int, first: int, second: int) -> float:
    """Returns the probability that two random choices of so many of the maps have none in common."""
    if first + second > maps:
        return 0.0
    a, b, both, neither = (lgamma(n + 1) for n in (maps - first, maps - second, maps, maps - first - second))
    return exp(a + b - both - neither)


def _rare(index: int, maps: int, before: list[IgnoredRegions]) -> bool:
    """Whether the other splits hold a class so seldom that its absence from these maps may be chance."""
    total, count = sum(part.maps for part in before), sum(int(part.holds[index]) for part in before)
    if not count:
        return False
    return (1 - count / total) ** maps * len(before[0].holds) >= CHANCE
