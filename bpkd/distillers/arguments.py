"""What a distiller's constructor takes: read from its signature, for config nodes, checks and help texts."""

from __future__ import annotations

import inspect
import re
import types
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Distiller

# Values that meant "from the preset" before None did.
OPEN = (-1, "")
RENAMED_PRESETS = {
    "safe": "recommended",
    "default": "recommended",
    "instances": "recommended_instance",
    "author": "author_code",
}
NAMES = {float: "a number", int: "a whole number", str: "a text", bool: "True or False", list: "a list"}


@dataclass(frozen=True)
class Argument:
    """One keyword argument of a distiller and key of its config node."""

    name: str
    default: Any
    """A number, text, bool, list or None."""

    types: tuple[type, ...]
    """Types of values beside None, as annotated; empty: any."""

    meaning: str
    """From the Args section of the docstring."""

    preset: bool
    """Whether a preset fills it where it is None."""

    optional: bool = False
    """Whether None is a value of its own, as annotated."""

    def check(self, value: Any) -> Any:
        """Returns the value as the constructor takes it: whole numbers as floats where those are expected.

        Raises:
            ValueError: the value has another type than the annotation says.
        """
        if self.preset and not isinstance(value, bool | list | tuple) and value in OPEN:
            return None
        if value is None and (self.default is None or self.optional):
            return None
        if type(value) is int and float in self.types and int not in self.types:
            return float(value)
        kind = list if type(value) is tuple else type(value)
        if self.types and kind not in self.types:
            expected = " or ".join(NAMES.get(t, t.__name__) for t in self.types)
            empty = " or None" if self.default is None or self.optional else ""
            raise ValueError(f"expected {expected}{empty}, got {value!r} ({type(value).__name__})")
        return value


def arguments(distiller: type[Distiller]) -> dict[str, Argument]:
    """Returns a distiller's own arguments by name: without those of `Distiller` and its ``parity_arguments``.

    >>> from bpkd.distillers import CWD
    >>> {name: argument.default for name, argument in arguments(CWD).items()}
    {'weight': 5.0, 'temperature': 1.0, 'tap': 'logits'}

    Args:
        distiller: subclass of `Distiller`.

    Raises:
        TypeError: an argument has no default, or one that a config cannot hold.
    """
    kind: Any = distiller  # a class is hashable; type checkers doubt it of this one
    return _arguments(kind)


@cache
def _arguments(distiller: Any) -> dict[str, Argument]:
    from .base import Distiller

    common = inspect.signature(Distiller.__init__).parameters.keys() | distiller.parity_arguments
    hints, meanings = _hints(distiller), _meanings(distiller)
    filled = {key for preset in distiller.presets.values() for key in preset}
    out = {}
    for name, parameter in inspect.signature(distiller.__init__).parameters.items():
        if name in common or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        if parameter.default is parameter.empty or type(default) not in (int, float, str, bool, list, type(None)):
            raise TypeError(
                f"{distiller.__name__}: argument {name!r} expects a default that a config can hold (a number, text, "
                f"bool, tuple or None), got {'none' if parameter.default is parameter.empty else repr(default)}."
            )
        kinds, optional = _types(hints.get(name)), type(None) in typing.get_args(hints.get(name))
        if type(default) is int and float in kinds and int not in kinds:
            default = float(default)  # a config's key keeps the type of its default
        out[name] = Argument(name, default, kinds, meanings.get(name, ""), name in filled, optional)
    return out


def with_preset(presets: Mapping[str, Mapping[str, Any]], preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``given`` with what is None taken from a preset; -1 and "" mean the same, as in older configs.

    >>> with_preset({"paper": {"weight": 50.0, "mask": "soft"}}, "paper", {"weight": None, "mask": "hard"})
    {'weight': 50.0, 'mask': 'hard'}

    Args:
        presets: values by argument by name of the preset.
        preset: name of the preset; old names work and warn.
        given: values by argument.

    Raises:
        ValueError: the preset is unknown.
    """
    values = presets[preset_name(presets, preset)]
    return {key: values[key] if is_open(value) else value for key, value in given.items()}


def is_open(value: Any) -> bool:
    """Tells whether a value leaves the choice to the preset."""
    return value is None or (isinstance(value, int | float | str) and value in OPEN)


def preset_name(presets: Mapping[str, Any], preset: str, *, warn: bool = True) -> str:
    """Returns the name of a preset, the new one for a name of an earlier version.

    Args:
        presets: the known ones.
        preset: name, new or old.
        warn: whether an old name is warned about, once per name.

    Raises:
        ValueError: the preset is unknown.
    """
    if preset in presets:
        return preset
    renamed = RENAMED_PRESETS.get(preset, "")
    if renamed not in presets:
        raise ValueError(f"preset (DISTILL.<METHOD>.PRESET): expected one of {sorted(presets)}, got {preset!r}.")
    if warn:
        _warn_renamed(preset, renamed)
    return renamed


@cache
def _warn_renamed(old: str, new: str) -> None:
    message = (
        f"preset {old!r} (DISTILL.<METHOD>.PRESET) is now called {new!r}; the old name goes with the next release."
    )
    warnings.warn(message, FutureWarning, stacklevel=5)


def _hints(distiller: type[Distiller]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(distiller.__init__)
    except NameError:  # a type that is imported for type checkers alone: that class's values are not checked
        return {}


def _types(hint: Any) -> tuple[type, ...]:
    if hint is None or hint is Any:
        return ()
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    found = [typing.get_origin(h) or h for h in (typing.get_args(hint) if union else (hint,)) if h is not type(None)]
    kinds = [t if t in (bool, int, float, str) else list for t in found if isinstance(t, type)]
    return tuple(dict.fromkeys(kinds)) if len(kinds) == len(found) else ()


def _meanings(distiller: type[Distiller]) -> dict[str, str]:
    """Returns the entries of the Args section of a constructor's or a class's docstring, each on one line."""
    out: dict[str, str] = {}
    for text in (distiller.__doc__, distiller.__init__.__doc__):
        section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", inspect.cleandoc(text or ""), re.MULTILINE)
        for entry in re.split(r"\n(?=    \S)", section[1]) if section else ():
            name, _, meaning = entry.partition(":")
            out[name.strip()] = " ".join(meaning.split())
    return out
