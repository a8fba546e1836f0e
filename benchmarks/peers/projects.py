"""Files of other projects' repositories, imported unchanged: for comparisons only. The library needs none of them.

They lie in clones beside each other in one folder; docs/results/benchmarks_losses.md says which commits were measured.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

# Name of repository and clone -> owner on GitHub, licence, folder in the repository. Only free licences.
PEERS = {
    "structure_knowledge_distillation": ("irfanICMLL", "BSD-2-Clause", "."),
    "IFVD": ("YukangWang", "BSD-2-Clause", "."),
    "TorchDistiller": ("irfanICMLL", "BSD-2-Clause", "SemSeg-distill"),
    "mmrazor": ("open-mmlab", "Apache-2.0", "."),
    "mmsegmentation-distiller": ("pppppM", "Apache-2.0", "."),
    "torchdistill": ("yoshitomo-matsubara", "MIT", "."),
}
# Imported by the peers' files, not used by their losses: each becomes a module of names.
UNUSED = ("scipy", "tensorboardX", "mmcv", "mmrazor")


class _Name:
    """Anything that a stand-in holds: has every attribute, and as a decorator returns the class."""

    def __getattr__(self, name: str) -> _Name:
        return _Name()

    def __call__(self, *args: object, **_: object) -> object:
        return args[0] if len(args) == 1 and isinstance(args[0], type) else _Name()


class _Operators(types.ModuleType):
    """Stands for mmcv's compiled operators, which mmcv-lite lacks: they can be named, not called."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*_: object, **__: object) -> None:
            raise NotImplementedError(f"mmcv-lite has no compiled operator {name!r}; install mmcv for it.")

        return absent


def replace_operators() -> None:
    """Lets a package be imported that imports mmcv's compiled operators, where mmcv-lite stands in for mmcv."""
    if "mmcv._ext" not in sys.modules and importlib.util.find_spec("mmcv._ext") is None:
        sys.modules["mmcv._ext"] = _Operators("mmcv._ext")


class _StandIn(types.ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> _Name:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name()


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers the import of the packages in `UNUSED`."""

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] in UNUSED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Has nothing to run."""


def load(root: Path, peer: str, file: str) -> Any:
    """Imports one file of a peer, unchanged, without its packages' own ``__init__``.

    Raises:
        FileNotFoundError: it is not below ``root``; the message says where to get it.
    """
    owner, _, inside = PEERS[peer]
    base = root / peer / inside
    if not (base / file).is_file():
        raise FileNotFoundError(
            f"{base / file}: expected a clone of {peer}; git clone https://github.com/{owner}/{peer} {root / peer}"
        )
    *folders, name = ("peer_" + peer.replace("-", "_"), *Path(file).with_suffix("").parts)
    for depth in range(1, len(folders) + 1):
        package = types.ModuleType(".".join(folders[:depth]))
        package.__path__ = [str(base.joinpath(*folders[1:depth]))]
        sys.modules.setdefault(package.__name__, package)
    before = set(sys.modules)
    with (
        mock.patch.object(sys, "meta_path", [_StandIns(), *sys.meta_path]),
        mock.patch.object(sys, "path", [str(base), *sys.path]),
    ):
        module = importlib.import_module(".".join([*folders, name]))
    for key in set(sys.modules) - before:  # two peers have a package `utils`
        if key.split(".")[0] in (*UNUSED, "utils"):
            del sys.modules[key]
    return module


def sources(root: Path) -> dict[str, dict[str, str]]:
    """Address, licence and the clone's commit of every peer."""
    found = {}
    for peer, (owner, licence, _) in PEERS.items():
        git = ["git", "-C", str(root / peer), "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
        found[peer] = {"url": f"https://github.com/{owner}/{peer}", "licence": licence, "commit": commit}
    return found
