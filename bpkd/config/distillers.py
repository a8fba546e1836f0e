"""The nodes DISTILL.<METHOD>, made of the distillers' signatures, and the keys and values of older configs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from detectron2.config import CfgNode as CN

from bpkd.distillers import DISTILLERS, Distiller, arguments
from bpkd.distillers.arguments import preset_name

from .imports import import_modules


def add_distillers(cfg: CN) -> None:
    """Adds a node for every registered distiller that has none yet; None means "from the preset"."""
    for name, distiller in DISTILLERS.items():
        if name not in cfg.DISTILL:
            cfg.DISTILL[name] = CN({k.upper(): argument.default for k, argument in arguments(distiller).items()})


def open_distillers(cfg: CN, loaded: Mapping[str, Any], opts: Sequence[Any], *, beside: str = "") -> None:
    """Imports the modules of IMPORTS and adds nodes for the distillers that they register.

    Keys of older versions that are arguments for comparing numbers now get a place where the file or a pair has them.

    Args:
        cfg: defaults that the file will be merged into.
        loaded: keys of the file.
        opts: KEY VALUE pairs.
        beside: the config file's folder, for messages.

    Raises:
        ValueError: a module of IMPORTS cannot be imported.
    """
    import_modules(cfg, loaded, opts, beside=beside)
    add_distillers(cfg)
    given = loaded.get("DISTILL")
    nodes = given if isinstance(given, Mapping) else {}
    for key, name, distiller in _parity_keys():
        node = nodes.get(name)
        if f"DISTILL.{name}.{key}" in opts[::2] or (isinstance(node, Mapping) and key in node):
            cfg.DISTILL[name][key] = _default(distiller, key)


def settle_distillers(cfg: CN) -> None:
    """Checks the values of the distillers' nodes and turns those of older versions into today's.

    -1 and "" become None where a preset fills the value, old names of presets the new ones. Keys that are no longer
    there (LEGACY_ENQUEUE, POOL_KERNEL, DETACH_NORM) stay where they change something.

    Args:
        cfg: config after merging, not frozen.

    Raises:
        ValueError: a value has another type than the distiller's argument.
    """
    for name in DISTILLERS:
        node = cfg.DISTILL[name]
        for key, value in _settled(name, node).items():
            if value is not node[key]:
                node[key] = value
    for key, name, distiller in _parity_keys():
        node = cfg.DISTILL[name]
        if key in node and node[key] == _default(distiller, key):
            del node[key]
        elif key in node:
            warnings.warn(
                f"DISTILL.{name}.{key}: still honoured, but no longer a key of new configs: it is there to compare "
                f"numbers with the authors' code. In Python it is an argument of bpkd.distillers.{name}.",
                FutureWarning,
                stacklevel=3,
            )


def settled_record(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of a run's record with the distillers' values as `settle_distillers` leaves them, silently."""
    nodes = config.get("DISTILL")
    if not isinstance(nodes, Mapping):
        return dict(config)
    out = dict(nodes)
    for name in DISTILLERS:
        if isinstance(nodes.get(name), Mapping):
            out[name] = {**nodes[name], **_settled(name, nodes[name], warn=False)}
    for key, name, distiller in _parity_keys():
        if isinstance(out.get(name), Mapping) and out[name].get(key) == _default(distiller, key):
            out[name] = {k: v for k, v in out[name].items() if k != key}
    return {**config, "DISTILL": out}


def _settled(name: str, node: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
    distiller, out = DISTILLERS[name], {}
    for argument in arguments(distiller).values():
        key = argument.name.upper()
        if key not in node:
            continue
        value, known = node[key], distiller.renamed_values.get(argument.name, {})
        if isinstance(value, str) and value in known:
            if warn:
                new = known[value]
                warnings.warn(f"DISTILL.{name}.{key}: {value!r} is now called {new!r}.", FutureWarning, stacklevel=3)
            value = known[value]
        try:
            out[key] = argument.check(value)
        except ValueError as error:
            meaning = re.split(r"[;.:] |\.$", argument.meaning)[0]
            raise ValueError(f"DISTILL.{name}.{key}: {error}.{meaning and f' It is: {meaning}.'}") from None
        if key == "PRESET" and distiller.presets:
            try:
                out[key] = preset_name(distiller.presets, out[key], warn=warn)
            except ValueError as error:
                raise ValueError(str(error).replace("<METHOD>", name)) from None
    return out


def _parity_keys() -> list[tuple[str, str, type[Distiller]]]:
    return [(a.upper(), name, one) for name, one in DISTILLERS.items() for a in sorted(one.parity_arguments)]


def _default(distiller: type[Distiller], key: str) -> Any:
    return signature(distiller.__init__).parameters[key.lower()].default
