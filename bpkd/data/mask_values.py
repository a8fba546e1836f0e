"""What the values of a split's masks say about their encoding: 255 that may be a class, ids that fit no class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpkd.metrics.ignored import IgnoredRegions, Suspicion, covers_regions

from .files import IGNORE
from .palettes import Palettes

# Values of maps that were saved as JPEG or resized with interpolation: more than these, and than so many per class.
SMEARED, PER_CLASS = 20, 3
SHOWN = 12
# Splits that were checked, by the name of the set of one's own: what one says about 255 holds for the other.
_SEEN: dict[str, dict[str, MaskValues]] = {}


def forget(family: str) -> None:
    """Forgets what was seen of the splits of a set: it is registered anew.

    Args:
        family: name of the set without its split.
    """
    _SEEN.pop(family, None)


class MaskValues:
    """Counts of the values in a split's masks."""

    def __init__(self, classes: Sequence[str], table: Sequence[int]) -> None:
        """Takes the class names, and the table from mask values to ids."""
        self.classes, self.table = classes, np.asarray(table)
        self.regions, self.palettes = IgnoredRegions(len(classes)), Palettes()
        self.masks = np.zeros(256, np.int64)
        self.total = self.unknown = 0

    def add(self, name: str, counts: NDArray[np.int64], regions: bool) -> None:
        """Counts a mask.

        Args:
            name: its file.
            counts: [256] pixels of each value.
            regions: whether 255 covers regions of it.
        """
        self.total += 1
        self.masks += counts > 0
        ids = self.table[np.flatnonzero(counts)]
        self.unknown += bool((ids < 0).any())
        self.regions.add(name, np.unique(ids[(ids >= 0) & (ids != IGNORE)]), regions)

    def faults(self, name: str, *, family: str, palettes: bool = False) -> list[str]:
        """Returns what is wrong with the encoding, with the lines to write.

        Args:
            name: name of the split.
            family: name of the set without its split; empty where it is not from DATASETS.FOLDER, or its config says
                what 255 is.
            palettes: whether indices of palettes may differ from mask to mask: the config does not say what they are.
        """
        others = _SEEN.setdefault(family, {}) if family else {}
        more = [part for split, part in others.items() if split != name]
        others[name] = self
        if palettes and (conflict := self.palettes.conflict(part.palettes for part in more)):
            return [conflict]
        if self.unknown:
            return self._ids() if self.unknown * 2 >= self.total else []
        found = self.regions.suspicion([part.regions for part in more]) if family else None
        return [] if found is None else [self._void(found)]

    def _values(self, limit: int = SHOWN) -> str:
        found = np.flatnonzero(self.masks).tolist()
        return ", ".join(map(str, found[:limit])) + (f", ... ({len(found)} values)" if len(found) > limit else "")

    def _void(self, found: Suspicion) -> str:
        names = [f"{c} ({self.classes[c]!r})" for c in found.classes]
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        pairs = [[v, int(self.table[v])] for v in np.flatnonzero(self.masks).tolist() if v != IGNORE]
        pairs += [[IGNORE, found.classes[0]]]
        which = "" if len(names) == 1 else " (the id of the class that it is)"
        number = "class" if len(names) == 1 else "classes"
        if found.mixed:
            what = (
                f"255 seems to be {number} {listed} in a part of the masks: {found.maps} with regions of 255 "
                f"({found.example}) never hold it, others ({found.other}) do"
            )
            known = {v for v, _ in pairs}
            pairs[:0] = [[c, c] for c in found.classes if c not in known and self.table[c] == c]
        else:
            what = (
                f"{number} {listed} never occur{'s' if len(names) == 1 else ''}, and 255, which is ignored unless you "
                f"say what it is, covers regions as a class does in {found.maps} of {self.total} masks "
                f"({found.example})"
            )
        stated = "IGNORE_INDEX: 255" if self._only_255() else f"ID_MAP: {pairs[:-1] + [[IGNORE, IGNORE]]}"
        return (
            f"the masks hold the values {self._values()}; {what}. If 255 is a class, write DATASETS.FOLDER.ID_MAP: "
            f"{sorted(pairs)}{which}; if it really is to be ignored, write DATASETS.FOLDER.{stated}."
        )

    def _only_255(self) -> bool:
        """Whether IGNORE_INDEX is free to name 255: no other value is ignored by it."""
        return not (np.flatnonzero(self.table == IGNORE) != IGNORE).any()

    def _ids(self) -> list[str]:
        """Returns the ID_MAP that fits the values, for masks with values that are no class."""
        values, k = np.flatnonzero(self.masks).tolist(), len(self.classes)
        if len(values) > max(SMEARED, PER_CLASS * k):
            return [
                f"{self.unknown} of {self.total} masks hold values that are no class, {len(values)} different ones: so "
                "many come of JPEG or of resizing with interpolation, which smear ids. Save the masks anew from what "
                "they were made of, as PNG and without either."
            ]
        inner = [v for v in values if v != IGNORE]
        text = f"{self.unknown} of {self.total} masks hold values that are no class: found {self._values()}, expected "
        text += f"0..{k - 1} for the {k} CLASSES (255 is ignored). "
        if len(values) == k:
            return [text + f"If they are the classes in this order, write {_line(values)}."]
        if len(inner) == k:
            return [text + f"If they are the classes in this order, write {_line(inner)}."]
        if max(inner) == k and min(inner) >= 1:
            return [text + f"If the ids begin with 1, write {_line(range(1, k + 1))}."]
        if max(inner) == k and min(inner) == 0:
            zero = [[0, IGNORE], *([v, v - 1] for v in range(1, k + 1))]
            return [
                text + f"If 0 is no class and the ids begin with 1, write DATASETS.FOLDER.ID_MAP: {zero}; else CLASSES "
                "lacks a name."
            ]
        return [text + "Say which value is which class: DATASETS.FOLDER.ID_MAP: [[value, id], ...], id 255 to ignore."]


def _line(values: Any) -> str:
    return f"DATASETS.FOLDER.ID_MAP: {[[v, i] for i, v in enumerate(values)]}"


def region_of_255(values: NDArray[Any], counts: NDArray[np.int64]) -> bool:
    """Returns whether 255 covers regions of a mask.

    Args:
        values: uint8 [H, W].
        counts: [256] pixels of each value.
    """
    return bool(counts[IGNORE]) and covers_regions(values == IGNORE, int((counts[:IGNORE] > 0).sum()))
