"""One declared key: name, default, kind and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bpkd.config.kinds import Kind, shown


class _Detectron2:
    """Type of `DETECTRON2`."""


# Default of a key that keeps the value which Detectron2 gives it.
DETECTRON2 = _Detectron2()


@dataclass(frozen=True)
class Key:
    """A config key that bpkd adds or reads: all that checks, messages and docs/reference/settings.md say about it."""

    name: str
    """Dotted, e.g. SOLVER.MAX_ITER."""

    default: Any
    """Its value where no config sets it; `DETECTRON2`: that of Detectron2."""

    kind: Kind
    meaning: str
    """Sentences; the first stands in messages. "" where the name says it."""

    only: tuple[str, tuple[Any, ...]] | None = None
    """Another key and the values of it with which this one is read; None: always."""

    def problem(self, value: Any, name: str = "") -> str:
        """Returns what is wrong with a value, as one line; "" for one that is accepted.

        Args:
            value: of the config.
            name: the key as the message calls it; "": its own name.
        """
        if self.kind.accepts(value):
            return ""
        got = f"{name or self.name}: expected {self.kind}, got {shown(value, kind=self.kind)}."
        return f"{got}{self.kind.hint(value)}{self._in_short()}"

    def _in_short(self) -> str:
        first = self.meaning.partition(". ")[0].rstrip(".:")
        return f" It is: {first[0].lower() if first[1:2].islower() else first[0]}{first[1:]}." if first else ""
