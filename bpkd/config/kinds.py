"""Kinds of config values: what is accepted, in words, and how what a file or a command says is read."""

from __future__ import annotations

import datetime
import re
from ast import literal_eval
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from bpkd.ranges import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SHARE, Range, is_number

# Longest value that a message shows as it is.
SHOWN = 100
DATE = re.compile(r"datetime\.date\((\d+), (\d+), (\d+)\)")
NUMBER = re.compile(r"\s*[+-]?((\d+(_\d+)*\.?\d*|\.\d+)(e[+-]?\d+)?|\.?(nan|inf))\s*", re.IGNORECASE)
WORDS: dict[type, str] = {
    bool: "True or False", int: "a whole number", float: "a number", str: "a text", list: "a list", tuple: "a list",
    dict: "keys with values", datetime.date: "a date", datetime.datetime: "a date", bytes: "bytes", set: "a set",
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What a key's value is; this one accepts everything."""

    def accepts(self, value: Any) -> bool:
        """Returns whether a value of the right type is one that the key may have."""
        return True

    def read(self, value: Any) -> Any:
        """Returns what is meant by a value as a file or a command gives it; what is not understood stays."""
        return value

    def hint(self, value: Any) -> str:
        """Returns what to write instead of a refused value; "" where nothing is known."""
        return ""

    def __str__(self) -> str:
        """Returns what is accepted, as it follows "expected"."""
        return "a value"


@dataclass(frozen=True)
class Number(Kind):
    """A finite number of a range; ``whole``: without a fraction."""

    range: Range = field(default_factory=Range)
    whole: bool = False

    def accepts(self, value: Any) -> bool:
        """True for numbers of the range; a whole number is one where any number is expected."""
        return is_number(value) and (not self.whole or isinstance(value, int)) and value in self.range

    def read(self, value: Any) -> Any:
        """Reads 1e-3, which YAML takes for a text, and 1e4 where a whole number is expected."""
        if isinstance(value, str):
            value = _number(value)
        if self.whole and isinstance(value, float) and value.is_integer():
            return int(value)
        return value

    def hint(self, value: Any) -> str:
        """Names what is meant by lists of one number."""
        one = isinstance(value, list | tuple) and len(value) == 1 and self.accepts(value[0])
        return f" Write {value[0]}, without brackets." if one else ""

    def __str__(self) -> str:
        """E.g. "a whole number of at least 1"."""
        return f"a {'whole ' if self.whole else ''}number {self.range}".rstrip()


@dataclass(frozen=True)
class Flag(Kind):
    """True or False."""

    def accepts(self, value: Any) -> bool:
        """True for the two values alone: 1 and 0 are numbers."""
        return isinstance(value, bool)

    def read(self, value: Any) -> Any:
        """Reads the texts that YAML takes for flags: true, false, yes, no, on, off."""
        if isinstance(value, str) and yaml.SafeLoader.bool_values.get(value.lower()) is not None:
            return yaml.SafeLoader.bool_values[value.lower()]
        return value

    def __str__(self) -> str:
        """Returns the two values."""
        return "True or False"


@dataclass(frozen=True)
class Text(Kind):
    """A text; ``filled``: one that holds more than spaces."""

    filled: bool = False

    def accepts(self, value: Any) -> bool:
        """True for texts."""
        return isinstance(value, str) and bool(value.strip() or not self.filled)

    def hint(self, value: Any) -> str:
        """Says what YAML reads in place of a text."""
        if isinstance(value, str) or value is None:
            return ""
        return f" Write it in quotes: {quoted_advice(value)}" if not isinstance(value, list | tuple | dict) else ""

    def __str__(self) -> str:
        """Returns the words."""
        return "a text that is not empty" if self.filled else "a text"


@dataclass(frozen=True)
class FilePath(Text):
    """A path, in which ``~`` and environment variables are replaced when a config is read."""

    def __str__(self) -> str:
        """Returns the words."""
        return "a path" if self.filled else "a path, or an empty text"


@dataclass(frozen=True)
class Choice(Kind):
    """One of some values, all texts or all whole numbers."""

    names: tuple[Any, ...]

    def accepts(self, value: Any) -> bool:
        """True for the values and their type: True is not 1."""
        return any(type(value) is type(one) and value == one for one in self.names)

    def read(self, value: Any) -> Any:
        """Reads numbers, and off and on, which YAML takes for flags, where they are choices."""
        if value is False and "off" in self.names:
            return "off"
        if value is True and "on" in self.names:
            return "on"
        return Number(whole=True).read(value) if isinstance(self.names[0], int) else value

    def __str__(self) -> str:
        """Returns the values."""
        return f"one of {', '.join(map(str, self.names))}"


@dataclass(frozen=True)
class ListOf(Kind):
    """A list of values of one kind; ``length``: so many; ``least``: so many or more."""

    item: Kind
    length: int = 0
    least: int = 0

    def accepts(self, value: Any) -> bool:
        """True for lists and tuples of the length whose values are all accepted."""
        if not isinstance(value, list | tuple) or len(value) < self.least:
            return False
        return (not self.length or len(value) == self.length) and all(map(self.item.accepts, value))

    def read(self, value: Any) -> Any:
        """Reads every value, of a list in a text too."""
        if isinstance(value, str):
            value = literal(value)
        return [self.item.read(one) for one in value] if isinstance(value, list | tuple) else value

    def hint(self, value: Any) -> str:
        """Returns how a list is written, or what is wrong with one of its values."""
        if isinstance(value, str):
            names = re.findall(r"[\w.+-]+", value)
            return f' Write "{names}".' if names and not isinstance(self.item, Number) else ""
        if not isinstance(value, list | tuple):
            return f" Write {[value] * (self.length or 1)}." if self.item.accepts(value) else ""
        wrong = [i for i, one in enumerate(value) if not self.item.accepts(one)]
        return self.item.hint(value[wrong[0]]) if wrong else ""

    def __str__(self) -> str:
        """E.g. "two whole numbers of at least 0", "a list, each a text"."""
        item = str(self.item)
        if self.length:
            count = {2: "two", 3: "three"}.get(self.length, str(self.length))
            plural = re.sub(r"^an? ((?:whole )?number|text)", r"\1s", item)
            return f"{count} {plural}" if plural != item else f"a list of {self.length}, each {item}"
        least = {0: "", 1: " that is not empty"}.get(self.least, f" of {self.least} or more")
        return f"a list{least}, each {item}"


@dataclass(frozen=True)
class Entries(Kind):
    """A list of mappings, whose keys are checked elsewhere."""

    def accepts(self, value: Any) -> bool:
        """True for lists."""
        return isinstance(value, list | tuple)

    def read(self, value: Any) -> Any:
        """Reads a list in a text."""
        return literal(value) if isinstance(value, str) else value

    def __str__(self) -> str:
        """Returns the words."""
        return "a list"


def whole(low: float | None = None, high: float | None = None) -> Number:
    """Returns the kind of a whole number in a range."""
    return Number(Range(low, high), whole=True)


def quoted_advice(value: Any) -> str:
    """Returns a value as a quoted text, with the words that YAML reads as something else where it is such."""
    if isinstance(value, bool):
        names = "'yes', 'on', 'true', ..." if value else "'no', 'off', 'false', ..."
        return f"{names} without quotes are {value} in YAML."
    return f"'{value}'." if isinstance(value, datetime.date) else f"YAML has read {value!r}."


def shown(value: Any, *, kind: Kind | None = None) -> str:
    """Returns a value for a message, with its type where that is what is wrong.

    Args:
        value: what a file or a command gave.
        kind: what was expected.
    """
    if value is None:
        return "nothing (null)"
    text = DATE.sub(r"\1-\2-\3", repr(list(value) if isinstance(value, tuple) else value))
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    right = isinstance(value, list | tuple) and isinstance(kind, ListOf | Entries)
    right |= is_number(value) and isinstance(kind, Number) and (not kind.whole or isinstance(value, int))
    right |= isinstance(value, str) and isinstance(kind, Text | Choice)
    return text if right or isinstance(value, Mapping) else f"{text} ({WORDS.get(type(value), type(value).__name__)})"


def literal(text: str) -> Any:
    """Returns the Python value that a text is written as; the text itself where it is none."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _number(text: str) -> Any:
    """Returns the number that a text is written as, which may be NaN or infinite; else the text."""
    if not NUMBER.fullmatch(text):
        return text
    plain = text.strip()
    if re.fullmatch(r"[+-]?[\d_]+", plain):
        return int(plain) if len(plain) < 100 else float(plain)
    return float(plain.lower().replace(".nan", "nan").replace(".inf", "inf"))


COUNT, PIXELS, ANY_NUMBER = Number(AT_LEAST_1, whole=True), Number(AT_LEAST_1, whole=True), Number()
SHARE_OF, WEIGHT, ABOVE_0 = Number(SHARE), Number(NOT_NEGATIVE), Number(POSITIVE)
COUNT_OR_0 = Number(NOT_NEGATIVE, whole=True)
FLAG, TEXT, PATH, TEXTS = Flag(), Text(), FilePath(), ListOf(Text(filled=True))
