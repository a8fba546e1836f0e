"""Modules that have moved: for one release an import of the old name works and warns. Imports nothing heavy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Old name -> new name.
MOVED = {
    "bpkd.engine.compare": "bpkd.experiments.compare",
    "bpkd.engine.html": "bpkd.experiments.html",
    "bpkd.engine.machine": "bpkd.experiments.resources",
    "bpkd.engine.matrix": "bpkd.experiments.jobs",
    "bpkd.engine.pictures": "bpkd.experiments.pictures",
    "bpkd.engine.record": "bpkd.engine.run_record",
    "bpkd.engine.recording": "bpkd.engine.cache_teacher",
    "bpkd.engine.resources": "bpkd.engine.process_setup",
    "bpkd.engine.resume": "bpkd.experiments.reuse",
    "bpkd.engine.search": "bpkd.experiments.search",
    "bpkd.engine.summary": "bpkd.experiments.report",
    "bpkd.functional.edge_maps": "bpkd.functional.instance_edges",
    "bpkd.functional.edge_rows": "bpkd.functional.structures",
    "bpkd.functional.edge_rule": "bpkd.functional.edges",
    "bpkd.functional.native": "bpkd.functional.backends.native",
    "bpkd.functional.triton_path": "bpkd.functional.backends.triton",
    "bpkd.modeling.dense": "bpkd.modeling.base",
    "bpkd.modeling.exported": "bpkd.modeling.teachers.exported",
    "bpkd.modeling.fast": "bpkd.modeling.teachers.acceleration",
    "bpkd.modeling.foreign": "bpkd.modeling.external",
    "bpkd.modeling.losses": "bpkd.modeling",
    "bpkd.modeling.pixels": "bpkd.modeling.preprocessing",
    "bpkd.modeling.teacher": "bpkd.modeling",
    "bpkd.modeling.teacher_cache": "bpkd.modeling.teachers.cached",
}


class MovedModules(MetaPathFinder, Loader):
    """Finds modules by their old names; what has another name in the new module is looked up in its package."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns a spec for an old name; the arguments are those of the import system."""
        return ModuleSpec(name, self) if name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Fills the old module with the names of the new one."""
        old, new = module.__name__, MOVED[module.__name__]
        warnings.warn(f"Module {old} is now {new}; the old name goes with the next release.", FutureWarning, 2)
        found = import_module(new)
        module.__dict__.update({k: v for k, v in vars(found).items() if not k.startswith("__")})
        package = import_module(new if new.count(".") == 1 else new.rpartition(".")[0])

        def renamed(name: str) -> object:
            if not name.startswith("__") and hasattr(package, name):
                return getattr(package, name)
            raise AttributeError(f"{old} is now {new}, which has no {name!r}.")

        module.__dict__["__getattr__"] = renamed


def install() -> None:
    """Adds the old names to the import system, once; modules that exist are found before."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
