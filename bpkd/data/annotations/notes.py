"""Counts of what was repaired or left out, and objects that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SHOWN, EXAMPLES = 20, 5


class UnusableError(ValueError):
    """An object that cannot be used; the message says why, without naming it."""


@dataclass
class Notes:
    """What was repaired or left out: a sentence -> how often, and the first ids."""

    found: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, what: str, who: Any, *, unit: str = "annotation id") -> None:
        """Counts one case.

        Args:
            what: sentence that follows the number of cases.
            who: id of the case.
            unit: what the id is, such as "image id".
        """
        entry = self.found.setdefault(what, [0, [], unit])
        entry[0] += 1
        if len(entry[1]) < EXAMPLES:
            entry[1].append(who)

    def lines(self) -> list[str]:
        """Returns a line for each sentence."""
        return [f"{count} {what} ({first(who, count, unit)})." for what, (count, who, unit) in self.found.items()]


def first(who: Sequence[Any], count: int, unit: str) -> str:
    """Returns ids as text, with dots where there are more.

    Args:
        who: the first ids.
        count: how many there are.
        unit: what one of them is.
    """
    more = ", ..." if count > len(who) else ""
    plural = "" if count == 1 else "es" if unit.endswith("x") else "s"
    return f"{unit}{plural} {', '.join(repr(w) for w in who)}{more}"


def listed(problems: Sequence[str]) -> str:
    """Returns the first problems as one text, and how many more there are.

    Args:
        problems: all of them.
    """
    more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "\n  ".join(problems[:SHOWN]) + more
