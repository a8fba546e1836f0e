"""Modules by the names that they had before."""

from __future__ import annotations

import importlib
import sys

import pytest

from bpkd.analysis import task
from bpkd.old_modules import MOVED

# Public names of the old modules that scripts are likely to import.
NAMES = {
    "bpkd.engine.compare": "comparison_jobs",
    "bpkd.engine.matrix": "run_jobs",
    "bpkd.engine.search": "run_search",
    "bpkd.engine.summary": "write_report",
    "bpkd.engine.recording": "record_teacher",
    "bpkd.functional.edge_maps": "instance_edges",
    "bpkd.functional.edge_rows": "EdgeRows",
    "bpkd.functional.edge_rule": "EdgeRule",
    "bpkd.modeling.dense": "DenseModel",
    "bpkd.modeling.exported": "load_exported",
    "bpkd.modeling.foreign": "as_dense",
    "bpkd.modeling.losses": "segmentation_loss",
    "bpkd.modeling.teacher": "FrozenTeacher",
    "bpkd.modeling.teacher_cache": "CachedTeacher",
}


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_module_is_found_with_a_warning(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(FutureWarning, match=f"Module {old} is now {MOVED[old]};"):
        module = importlib.import_module(old)
    new = importlib.import_module(MOVED[old])
    assert new.__name__ == MOVED[old]
    name = NAMES.get(old)
    if name is not None and hasattr(new, name):
        assert getattr(module, name) is getattr(new, name)
    elif name is not None:
        with pytest.warns(DeprecationWarning, match=" is now "):
            assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"{old} is now"):
        module.no_such_name  # noqa: B018


def test_other_names_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'bpkd.engine.nothing'"):
        importlib.import_module("bpkd.engine.nothing")


def test_old_names_of_the_figures_of_a_task() -> None:
    with pytest.warns(DeprecationWarning, match="bpkd.analysis.task.task_of is now figures_of"):
        old = task.task_of
    assert old is task.figures_of
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        task.nothing  # noqa: B018
