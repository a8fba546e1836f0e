"""Arguments of a distiller's constructor, read from its signature for config nodes, checks and help texts."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from bpkd.ranges import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, OneOf, Range

if TYPE_CHECKING:
    from .base import Distiller

# Annotations of arguments with a range: the config's values are checked by them.
Weight = typing.Annotated[float, NOT_NEGATIVE]
Positive = typing.Annotated[float, POSITIVE]
Count = typing.Annotated[int, AT_LEAST_1]
CountOrZero = typing.Annotated[int, NOT_NEGATIVE]

# Values that meant "from the preset" before None did.
OPEN = (-1, "")
RENAMED_PRESETS = {
    "safe": "recommended",
    "default": "recommended",
    "instances": "recommended_instance",
    "author": "author_code",
}
NAMES: dict[Any, str] = {float: "a number", int: "a whole number", str: "a text", bool: "True or False"}


@dataclass(frozen=True)
class Argument:
    """One keyword argument of a distiller and key of its config node."""

    name: str
    default: Any
    """A number, text, bool, list or None."""

    hints: tuple[Any, ...]
    """Annotated types of values beside None, of which a value has one; empty: any."""

    meaning: str
    """From the Args section of the docstring."""

    preset: bool
    """Whether a preset fills it where it is None."""

    optional: bool = False
    """Whether None is a value of its own, as annotated."""

    def check(self, value: Any) -> Any:
        """Returns the value as the constructor takes it: whole numbers as floats where those are expected.

        Raises:
            ValueError: the annotation does not allow the value; the message says what it allows.
        """
        if self.preset and not isinstance(value, bool | list | tuple) and value in OPEN:
            return None
        if value is None and (self.default is None or self.optional):
            return None
        kinds = [_kind(hint) for hint in self.hints]
        if type(value) is int and float in kinds and int not in kinds:
            value = float(value)
        if self.hints and not any(_fits(value, hint) for hint in self.hints):
            raise ValueError(f"expected {expected(self)}, got {value!r} ({type(value).__name__})")
        return value


def expected(argument: Argument) -> str:
    """Returns what an argument accepts, in words, e.g. "a number of at least 0 or None"."""
    empty = " or None" if argument.default is None or argument.optional else ""
    return f"{' or '.join(map(_described, argument.hints)) or 'a value'}{empty}"


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
    kind: Any = distiller  # classes are hashable, which type checkers do not accept here
    return _arguments(kind)


@cache
def _arguments(distiller: Any) -> dict[str, Argument]:
    common = distiller.common_arguments | distiller.parity_arguments
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
        hint = hints.get(name, Any)
        allowed, optional = _parts(hint), type(None) in typing.get_args(hint)
        kinds = [_kind(part) for part in allowed]
        if type(default) is int and float in kinds and int not in kinds:
            default = float(default)  # a config's key keeps the type of its default
        out[name] = Argument(name, default, allowed, meanings.get(name, ""), name in filled, optional)
    return out


def in_ranges(distiller: type[Distiller], constructor: Callable[..., None]) -> Callable[..., None]:
    """Returns a constructor that first checks the arguments whose annotations give a range or a choice.

    Args:
        distiller: class of the constructor.
        constructor: its ``__init__``.
    """
    filled = {key for preset in distiller.presets.values() for key in preset}

    @functools.wraps(constructor)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        for name, hint in _hints(distiller).items():
            value = options.get(name)
            if "Annotated" not in str(hint) or value is None or (name in filled and is_open(value)):
                continue
            if not any(_fits(value, part) for part in _parts(hint)):
                expected = " or ".join(map(_described, _parts(hint)))
                raise ValueError(f"{distiller.__name__}: {name}: expected {expected}, got {value!r}.")
        constructor(self, *args, **options)

    return checked


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
    """Returns whether a value means "from the preset"."""
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
        return typing.get_type_hints(distiller.__init__, include_extras=True)
    except NameError:  # a type that is imported for type checkers alone: that class's values are not checked
        return {}


def _parts(hint: Any) -> tuple[Any, ...]:
    """Returns the parts of an annotation other than None; nothing where values cannot be checked by it."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    found = [part for part in (typing.get_args(hint) if union else (hint,)) if part is not type(None)]
    return tuple(found) if all(_checkable(part) for part in found) else ()


def _kind(hint: Any) -> Any:
    """Returns a type without what `Annotated` says of it."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _checkable(hint: Any) -> bool:
    hint = _kind(hint)
    origin = typing.get_origin(hint) or hint
    return origin in NAMES or origin is typing.Literal or _is_list(origin)


def _is_list(origin: Any) -> bool:
    """Whether a type is one of lists: list, tuple, Sequence, Iterable, ..."""
    known = isinstance(origin, type) and origin not in (object, Any)
    return known and (issubclass(list, origin) or issubclass(tuple, origin))


def _items(hint: Any, length: int) -> list[Any] | None:
    """Returns the annotations of a list's values, one per value; None where the length is another one."""
    inner = typing.get_args(hint)
    if not inner:
        return [Any] * length
    if typing.get_origin(hint) is not tuple or inner[-1] is Ellipsis:
        return [inner[0]] * length
    return list(inner) if len(inner) == length else None


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Annotated:
        kind, *bounds = typing.get_args(hint)
        return _fits(value, kind) and all(value in bound for bound in bounds if isinstance(bound, Range | OneOf))
    origin = typing.get_origin(hint) or hint
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in typing.get_args(hint))
    if origin in NAMES:
        return (type(value) is origin or (origin is float and type(value) is int)) and value == value  # not NaN
    if _is_list(origin):
        items = _items(hint, len(value)) if isinstance(value, list | tuple) else None
        return items is not None and all(map(_fits, value, items))
    parts = _parts(hint)  # of a value of a list: a union, None, or what is not checked
    empty = value is None and type(None) in typing.get_args(hint)
    return not parts or empty or any(_fits(value, part) for part in parts)


def _described(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        kind, *bounds = typing.get_args(hint)
        choices = [str(bound) for bound in bounds if isinstance(bound, OneOf)]
        return " ".join(choices or [_described(kind), *(str(bound) for bound in bounds if isinstance(bound, Range))])
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, inner))}"
    if not _is_list(origin):
        return NAMES.get(origin) or " or ".join(map(_described, _parts(hint))) or "a value"
    if not inner:
        return "a list"
    if origin is not tuple or inner[-1] is Ellipsis:
        return f"a list, each {_described(inner[0])}"
    return f"a list of {len(inner)} ({', '.join(map(_described, inner))})"


def _meanings(distiller: type[Distiller]) -> dict[str, str]:
    """Returns the entries of the Args section of a constructor's or a class's docstring, each on one line."""
    out: dict[str, str] = {}
    for text in (distiller.__doc__, distiller.__init__.__doc__):
        section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", inspect.cleandoc(text or ""), re.MULTILINE)
        for entry in re.split(r"\n(?=    \S)", section[1]) if section else ():
            name, _, meaning = entry.partition(":")
            out[name.strip()] = " ".join(meaning.split())
    return out
