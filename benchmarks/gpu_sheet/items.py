"""Data classes of the sheet: settings, items, parts and goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Options of the command line.

    Attributes:
        device: "cuda" or "cpu".
        tiny: small shapes and networks and few steps, which run the code and measure nothing.
        out: folder of the records.
        work: folder for runs and other files that are no result.
        data: DATASETS.ROOT that holds CamVid; None: the training uses drawn scenes.
        peers: folder in which mmsegmentation was installed; None: its rows are left out.
    """

    device: str
    tiny: bool
    out: Path
    work: Path
    data: Path | None = None
    peers: Path | None = None

    def pick(self, full: Any, tiny: Any) -> Any:
        """Returns ``tiny`` with --tiny, else ``full``."""
        return tiny if self.tiny else full


@dataclass(frozen=True)
class Item:
    """One measurement or check, in a process of its own.

    Attributes:
        name: its name, unique in the part.
        call: ``call(settings, seconds)`` returns a JSON-able row; ``seconds`` are left for it. The row's "line" is
            printed, its "failed" (a sentence) makes the item fail though it returned.
        seconds: time limit in seconds.
        needs: names of items of the part that must have passed, in this call or an earlier one.
    """

    name: str
    call: Callable[[Settings, float], Row]
    seconds: float
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A group of items that measure or check one subject.

    Attributes:
        name: name of its record's file and of ``--only``.
        title: heading in the report.
        seconds: its share of nine minutes in seconds; 0: what the others leave.
        items: builds its items.
        goals: returns its goals, from its finished rows by item name.
        parallel: whether items may run at the same time; False where they are timed.
    """

    name: str
    title: str
    seconds: float
    items: Callable[[Settings], list[Item]]
    goals: Callable[[dict[str, Row]], list[Goal]] = field(default=lambda rows: [])
    parallel: bool = False


@dataclass(frozen=True)
class Goal:
    """A figure and its limit: ``value`` is to be at most ``limit``, or at least that with ``at_least``."""

    text: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the value is within the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> Row:
        """Returns the goal for a record."""
        sign = ">=" if self.at_least else "<="
        return {"goal": self.text, "value": self.value, "limit": f"{sign} {self.limit:g}", "met": self.met}
