"""IMPORTS: modules of other packages that a config needs, for the distillers, heads, data sets, ... they register."""

from __future__ import annotations

import ast
import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode


def import_modules(cfg: CfgNode, loaded: Mapping[str, Any], opts: Sequence[Any], *, beside: str = "") -> None:
    """Imports the modules that IMPORTS names, before the rest of a config is merged into the defaults.

    A module is found as by ``import``: installed, or in a folder of PYTHONPATH. The folder of the config file is not
    searched, the current folder only where Python does so itself (``python -m``). A module that defines
    ``add_config(cfg)`` adds its keys there.

    Args:
        cfg: defaults; ``add_config`` functions change it.
        loaded: keys of the file, ``_BASE_`` resolved: a list in a file replaces the one of its base.
        opts: KEY VALUE pairs over it; a list in them replaces the file's.
        beside: the config file's folder, for the message about a module that lies there.

    Raises:
        ValueError: IMPORTS is no list of names, a module is not found, or it raises when it is imported.
    """
    for name in _names(loaded, opts):
        module = _import(name, beside)
        if hasattr(module, "add_config"):
            module.add_config(cfg)


def _names(loaded: Mapping[str, Any], opts: Sequence[Any]) -> list[str]:
    names = loaded.get("IMPORTS") or []
    for key, value in zip(opts[::2], opts[1::2], strict=False):
        if key == "IMPORTS":
            names = _decoded(value)
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n for n in names):
        raise ValueError(
            f"IMPORTS: expected a list of modules, [package.module, ...] in a file or \"['package.module']\" on the "
            f"command line, got {names!r}."
        )
    for name in names:
        if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"IMPORTS: expected a name as after `import`, package.module, got {name!r}.")
    return list(names)


def _decoded(value: Any) -> Any:
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def _import(name: str, beside: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if not f"{name}.".startswith(f"{missing}."):
            raise ValueError(f"IMPORTS: {name} needs {missing!r}, which is not found. Install it.") from error
        raise ValueError(f"IMPORTS: {not_found(name, missing, beside)}") from error
    except (Exception, SystemExit) as error:  # whatever a module outside of bpkd does; a script without main() exits
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"IMPORTS: importing {name} failed: {message}") from error


def not_found(name: str, missing: str, beside: str = "") -> str:
    """Returns the message for a module that is not found, with the folder to put into PYTHONPATH if it lies near.

    Args:
        name: module.
        missing: the part of its name that was not found.
        beside: the config file's folder.
    """
    file = os.path.join(*name.split("."))
    places = {"in the current folder": os.getcwd(), "beside the config": os.path.abspath(beside)}
    lies = next((place for place in places if _holds(places[place], file)), "")
    path = os.environ.get("PYTHONPATH")
    export = f"export PYTHONPATH={places.get(lies, 'FOLDER_OF_THE_MODULE')}{f':{path}' if path else ''}"
    of = "" if missing == name else f" for {name!r}"
    return (
        f"found no {missing!r}{of} among the installed packages and in PYTHONPATH ({path or 'not set'}). "
        f"{f'It lies {lies}: ' if lies else 'Install it, or '}{export}"
    )


def _holds(folder: str, file: str) -> bool:
    path = os.path.join(folder, file)
    return os.path.exists(path) or os.path.exists(f"{path}.py")
