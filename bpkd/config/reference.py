"""The reference page of all settings, docs/reference/settings.md, made from the declared keys."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from bpkd.distillers import DISTILLERS, arguments
from bpkd.distillers.arguments import expected

from .check import value_of
from .keys import KEYS, Key, data, distillation, instances, model, solver, test
from .read import get_bpkd_cfg

WIDTH = 100
INTRO = """Every key that bpkd adds to Detectron2's or reads of them: default, accepted values, meaning. `bpkd
help SOLVER.MAX_ITER` prints an entry. A value outside of what is accepted is refused in one line by
every command, before any work. This page is made from
[bpkd/config/keys](../../bpkd/config/keys/__init__.py) by `python dev/settings_page.py`.

A setting stands in a YAML file (`SOLVER: {MAX_ITER: 400}`) or as KEY VALUE at the end of a command
(`SOLVER.MAX_ITER 400`), which wins. `_BASE_: FILE` at the top of a file, relative to it, takes over
that file's settings; of a list of files the later ones win, and the file's own keys win over all.
A key that stands twice in a file is refused. Numbers are finite; `1e-3` and `4e4` are read as
numbers, true, yes and on as True. Names that YAML would read as something else (no, 007, 2026-01-01)
stand in quotes.

A key of Detectron2 that is not listed here changes nothing, and setting it is warned of; so is a key
that is not read with the others' values ("read where ..."), unless IMPORTS names modules of yours."""
DISTILLER_NODES = """The node `DISTILL.<NAME>` holds the arguments of that distiller; null takes the preset's
value ([methods](methods.md))."""
SECTIONS: tuple[tuple[str, Iterable[Key]], ...] = (
    ("Data sets", data.DATA_SETS),
    ("Loading", data.LOADER),
    ("Input and augmentation", data.INPUT),
    ("Networks", model.NETWORK),
    ("Backbones", model.BACKBONES),
    ("Heads", model.HEADS),
    ("Detectron2's ResNet and feature pyramid", model.PYRAMID_KEYS),
    ("SOLOv2", instances.KEYS),
    ("Optimizer", solver.OPTIMIZER),
    ("Schedule", solver.SCHEDULE_KEYS),
    ("The run", solver.RUN),
    ("Evaluation", test.KEYS),
    ("Teachers and distillation", distillation.KEYS),
)


def settings_page() -> str:
    """Returns the text of docs/reference/settings.md."""
    cfg, parts = get_bpkd_cfg(), ["# Settings", *map(_wrapped, INTRO.split("\n\n"))]
    for title, keys in SECTIONS:
        parts.append(f"## {title}\n\n" + "\n".join(_entry(key, value_of(cfg, key.name)) for key in keys))
    parts += ["## Distillers", _wrapped(DISTILLER_NODES)]
    for name, distiller in DISTILLERS.items():
        if distiller.__module__.startswith("bpkd."):
            parts.append(f"### {name}\n\n" + "\n".join(_arguments(name).values()))
    return "\n\n".join(parts) + "\n"


def describe(name: str) -> str:
    """Returns a key's entry as plain text; "" for one that is not declared.

    Args:
        name: dotted key.
    """
    if name in KEYS:
        return _entry(KEYS[name], value_of(get_bpkd_cfg(), name)).replace("`", "")[2:]
    node, _, method = name.rpartition(".")[0].rpartition(".")
    known = _arguments(method) if node == "DISTILL" and method in DISTILLERS else {}
    return known.get(name, "").replace("`", "")[2:]


def _arguments(method: str) -> dict[str, str]:
    """Returns the entries of a distiller's arguments by key."""
    found = {f"DISTILL.{method}.{one.name.upper()}": one for one in arguments(DISTILLERS[method]).values()}
    return {key: _item(key, one.default, expected(one), one.meaning) for key, one in found.items()}


def _entry(key: Key, default: Any) -> str:
    only = f" Read where {key.only[0]} is {' or '.join(map(str, key.only[1]))}." if key.only else ""
    return _item(key.name, default, str(key.kind), f"{key.meaning}{only}")


def _item(name: str, default: Any, values: str, meaning: str) -> str:
    """Returns a list's item, wrapped: key, default, what is accepted, meaning."""
    shown = "null" if default is None else repr(list(default) if isinstance(default, tuple) else default)
    text = f"- `{name}` (default `{shown}`): {values}. {meaning[:1].upper()}{meaning[1:]}"
    return _wrapped(text, "  ")


def _wrapped(text: str, indent: str = "") -> str:
    wrapper = textwrap.TextWrapper(WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return wrapper.fill(" ".join(text.split()))
