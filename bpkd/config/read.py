"""Reads config files; the error of an unknown key names the most similar ones."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from bpkd.errors import did_you_mean, nearest

from .defaults import add_bpkd_config
from .distillers import open_distillers, settle_distillers
from .paths import ConfigFile, expand_paths
from .renamed import rename_entries, rename_pairs, rename_tree

# yacs's message about a value of the wrong type.
MISMATCH = re.compile(
    r"Type mismatch \(<class '(\w+)'> vs\. <class '(\w+)'>\) with values \(.* vs\. (.*)\) for config key: (\S+)"
)


def get_bpkd_cfg() -> CfgNode:
    """Returns Detectron2's default config with bpkd's keys added."""
    cfg = get_cfg()
    add_bpkd_config(cfg)
    return cfg


def read_config(path: str, opts: Sequence[Any] = (), *, source: str = "--config-file") -> CfgNode:
    """Reads a YAML file over the defaults, then KEY VALUE pairs over both.

    Args:
        path: YAML file; ``_BASE_`` in it is relative to it.
        opts: KEY VALUE pairs.
        source: where the path comes from, for messages.

    Returns:
        The config, not frozen.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is no YAML, a key is unknown (the message lists its siblings), a value has the wrong type or a
            path holds an environment variable that is not set.
    """
    if not path:
        raise FileNotFoundError(f"{source}: expected a YAML file, got none; configs/ and projects/ hold some.")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{source}: expected a YAML file, got {_not_a_file(path)}")
    cfg, place = get_bpkd_cfg(), f"{source} {path}"
    try:
        with open(path) as file:
            if not isinstance(yaml.safe_load(file), dict):
                raise ValueError("expected keys with values, got a file without any")
        loaded = ConfigFile.load_yaml_with_base(path)  # not merge_from_file, which falls back on an unsafe loader
        if loaded.get("VERSION", cfg.VERSION) != cfg.VERSION:
            raise ValueError(f"VERSION: expected {cfg.VERSION}, got {loaded['VERSION']}")
        loaded, opts = rename_tree(loaded), rename_pairs(opts)
        open_distillers(cfg, loaded, opts, beside=os.path.dirname(path))
        _file_floats(cfg, loaded)
        cfg.merge_from_other_cfg(CfgNode(loaded))
        place = f"KEY VALUE pairs over {place}"
        cfg.merge_from_list(_option_floats(cfg, opts))
        cfg.TEACHER.OTHERS = rename_entries(cfg.TEACHER.OTHERS, "TEACHER.OTHERS")
        settle_distillers(cfg)
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: expected YAML, got a file that is no text.") from error
    except (KeyError, AssertionError, ValueError) as error:
        raise ValueError(f"{place}: {_explained(cfg, str(error))}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{source} {path}: expected YAML{_yaml_fault(error)}") from error
    except PermissionError as error:
        raise PermissionError(f"{source} {path}: it cannot be read (permission denied).") from error
    except OSError as error:
        message = f"{source} {path}: its _BASE_ cannot be read ({error}). _BASE_ is relative to the file it stands in."
        raise FileNotFoundError(message) from error
    expand_paths(cfg)
    return cfg


def _file_floats(node: Mapping[str, Any], given: dict[str, Any]) -> None:
    """Turns whole numbers into floats where the default is one: ``WEIGHT: 3`` is no mistake."""
    for key, value in given.items():
        default = node.get(key)
        if isinstance(value, dict) and isinstance(default, Mapping):
            _file_floats(default, value)
        elif type(value) is int and isinstance(default, float):
            given[key] = float(value)


def _option_floats(cfg: CfgNode, opts: Sequence[Any]) -> list[Any]:
    """Does the same as `_file_floats` for KEY VALUE pairs."""
    pairs = list(opts)
    for i, key in enumerate(pairs[:-1:2]):
        default: Any = cfg
        for part in str(key).split("."):
            default = default.get(part) if isinstance(default, Mapping) else None
        value = pairs[2 * i + 1]
        if isinstance(default, float) and (type(value) is int or re.fullmatch(r"[+-]?\d+", str(value))):
            pairs[2 * i + 1] = float(value)
    return pairs


def _not_a_file(path: str) -> str:
    """Returns the end of a message: what is at the path instead of a file, and a file with a similar name."""
    if os.path.isdir(path):
        return f"the folder {path!r}."
    folder = os.path.dirname(path)
    there = (
        [n for n in os.listdir(folder or ".") if n.endswith((".yaml", ".yml"))] if os.path.isdir(folder or ".") else []
    )
    near = nearest(os.path.basename(path), there, count=1)
    hint = f" Did you mean {os.path.join(folder, near[0])}?" if near else ""
    where = "" if os.path.isabs(path) else f" (in the current folder, {os.getcwd()})"
    return f"{path!r}{where}; configs/ and projects/ hold some.{hint}"


def _yaml_fault(error: Exception) -> str:
    """Returns the end of a message: what is wrong with a YAML file, and in which line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if isinstance(error, RecursionError):
        return ", got a _BASE_ that leads back to the file."
    return f"; line {mark.line + 1}, column {mark.column + 1}: {problem}." if mark and problem else f", got {error}"


def _explained(cfg: CfgNode, message: str) -> str:
    text = message.strip("\"'")
    mismatch = MISMATCH.search(text)
    if mismatch:
        expected, got, value, key = mismatch.groups()
        names = re.findall(r"[\w.+-]+", value)
        write = f' Write "{names}".' if (expected, got) == ("tuple", "str") else ""
        return f"Type mismatch: {key}: expected {expected}, got {got} {value!r}.{write}"
    found = re.search(r"Non-existent (?:config )?key: ([\w.]+)", text)
    if found is None:
        return text
    hint = did_you_mean(found[1], _keys(cfg))
    node: Any = cfg
    for part in found[1].split("."):
        if not isinstance(node.get(part), CfgNode):
            break
        node = node[part]
    return f"{text}.{hint} Known keys there: {', '.join(sorted(node))}."


def _keys(node: CfgNode, prefix: str = "") -> list[str]:
    """Returns the dotted keys of a config, those of its nodes too."""
    found: list[str] = []
    for key, value in node.items():
        found.append(prefix + key)
        if isinstance(value, CfgNode):
            found += _keys(value, f"{prefix}{key}.")
    return found
