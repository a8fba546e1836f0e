"""Palettes of masks: programs that write a palette anew for each picture give a class another index in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Colour = tuple[int, int, int]


class Palettes:
    """Which index stands for each colour in a split's masks."""

    def __init__(self) -> None:
        """Has seen no mask yet."""
        self.places: dict[Colour, dict[int, str]] = {}

    def add(self, name: str, colours: Mapping[int, Colour]) -> None:
        """Takes a mask.

        Args:
            name: its file.
            colours: colour of each index that its pixels have, without colours that several indices share.
        """
        for index, colour in colours.items():
            self.places.setdefault(colour, {}).setdefault(index, name)

    def conflict(self, more: Iterable[Palettes] = ()) -> str:
        """Returns a sentence on a colour that has one index here and another there; "" without one.

        Args:
            more: those of other splits.
        """
        for colour, here in self.places.items():
            for places in (here, *(part.places.get(colour, {}) for part in more)):
                for index, name in places.items():
                    first, example = next(iter(here.items()))
                    if index != first:
                        return (
                            f"the colour {colour} is index {first} in {example} and index {index} in {name}: a program "
                            "that writes the palette anew for each picture gives a class another index in each. Save "
                            "all masks with one palette, or as PNG of ids; if the indices are the classes all the "
                            "same, say so by DATASETS.FOLDER.ID_MAP: [[0, 0], [1, 1], ...]."
                        )
        return ""
