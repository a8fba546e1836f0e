"""Reads config files; the error of an unknown key names the most similar ones."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, get_cfg

from bpkd.errors import did_you_mean, nearest

from .check import check_ranges
from .defaults import add_bpkd_config
from .distillers import open_distillers, settle_distillers
from .paths import expand_paths
from .renamed import rename_entries, rename_pairs, rename_tree
from .unread import warn_unread
from .written import read_pairs, read_tree
from .yaml_file import Lines, read_yaml

# yacs's message about a value of the wrong type.
MISMATCH = re.compile(
    r"Type mismatch \(<class '(\w+)'> vs\. <class '(\w+)'>\) with values \(.* vs\. (.*)\) for config key: (\S+)"
)

# A file with so many keys is the config.yaml of a run, which states all of them.
DUMPED = 200


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
        ValueError: it is no YAML, a key is unknown (the message lists its siblings), stands twice or has a value that
            it does not accept, or a path with an
            environment variable that is not set. The message names the line.
    """
    if not path:
        raise FileNotFoundError(f"{source}: expected a YAML file, got none; configs/ and projects/ hold some.")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{source}: expected a YAML file, got {_not_a_file(path)}")
    reading = _Reading(source, path, list(opts))
    try:
        return reading.config()
    except (KeyError, AssertionError, ValueError) as error:
        message = _explained(reading.cfg, str(error))
        raise ValueError(f"{reading.place(message)}: {message}") from error
    except PermissionError as error:
        raise PermissionError(f"{source} {error.filename or path}: it cannot be read (permission denied).") from error
    except OSError as error:
        message = str(error) if error.errno is None else f"it cannot be read ({error})."
        raise FileNotFoundError(f"{source} {path}: {message}") from error


class _Reading:
    """One config while it is read: knows where a key was set, for messages."""

    def __init__(self, source: str, path: str, opts: list[Any]) -> None:
        self.source, self.path, self.opts = source, path, opts
        self.cfg, self.lines = get_bpkd_cfg(), Lines()

    def config(self) -> CfgNode:
        """Reads the file, then the pairs, and checks all values."""
        cfg = self.cfg
        loaded, self.lines = read_yaml(self.path)
        if loaded.get("VERSION", cfg.VERSION) != cfg.VERSION:
            raise ValueError(f"VERSION: expected {cfg.VERSION}, got {loaded['VERSION']}.")
        loaded, self.opts = rename_tree(loaded), rename_pairs(self.opts)
        open_distillers(cfg, loaded, self.opts, beside=os.path.dirname(self.path))
        read_tree(cfg, loaded)
        cfg.merge_from_other_cfg(CfgNode(loaded))
        cfg.merge_from_list(read_pairs(cfg, self.opts))
        cfg.TEACHER.OTHERS = rename_entries(cfg.TEACHER.OTHERS, "TEACHER.OTHERS")
        settle_distillers(cfg)
        expand_paths(cfg)
        check_ranges(cfg)
        own = [key for key, (file, _) in self.lines.places.items() if file == self.path]
        written = own if len(own) < DUMPED else []
        warn_unread(cfg, [*written, *map(str, self.opts[::2])])
        return cfg

    def place(self, message: str) -> str:
        """Returns where the key that a message begins with was set: the pairs, or a file and a line of it."""
        start = f"{self.source} {self.path}"
        found = re.match(
            r"(?:Type mismatch: )?([A-Z]\w*(?:\.\w+)*)(?=[\[: ])|Non-existent (?:config )?key: ([\w.]+)", message
        )
        key = (found[1] or found[2].rstrip(".")) if found else ""
        if key in map(str, self.opts[::2]):
            return f"KEY VALUE pairs over {start}"
        if key not in self.lines.places:
            return start
        file, line = self.lines.places[key]
        return f"{start}, line {line}" if file == self.path else f"{start}, its _BASE_ {file}, line {line}"


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
