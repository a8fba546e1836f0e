"""Ranges of numbers: what config keys and distillers' arguments accept, in words and as a check. Standard library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """An interval of finite numbers.

    >>> str(Range(0, 1)), str(Range(above=0)), 0.5 in Range(0, 1), float("nan") in Range(0)
    ('from 0 to 1', 'above 0', True, False)
    """

    low: float | None = None
    """Least value; None: no such bound."""

    high: float | None = None
    """Greatest value."""

    above: float | None = None
    """Values are greater than this."""

    below: float | None = None
    """Values are less than this."""

    def __contains__(self, value: float) -> bool:
        """Whether a number is finite and lies in the interval."""
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Returns the words that follow "a number": "from 0 to 1", "above 0", ...; "" where all are accepted."""
        if self.low is not None and self.high is not None:
            return f"from {_shown(self.low)} to {_shown(self.high)}"
        words = []
        for bound, word in ((self.low, "of at least"), (self.above, "above")):
            words += [] if bound is None else [f"{word} {_shown(bound)}"]
        for bound, word in ((self.high, "of at most"), (self.below, "below")):
            words += [] if bound is None else [f"{word} {_shown(bound)}"]
        return " and ".join(words)


class OneOf(tuple[Any, ...]):
    """Values of which an argument has one: ``OneOf(("mean", "sum"))``."""

    def __str__(self) -> str:
        """Returns the values, as they follow "expected"."""
        return f"one of {', '.join(map(str, self))}"


NOT_NEGATIVE, POSITIVE, AT_LEAST_1, SHARE = Range(0), Range(above=0), Range(1), Range(0, 1)


def is_number(value: Any) -> bool:
    """Returns whether a value is a number, which True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
