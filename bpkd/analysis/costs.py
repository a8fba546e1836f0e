"""How the costs of a comparison's runs were measured, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def peak_memory(counted: Iterable[tuple[str, str]]) -> str:
    """Returns what was counted as peak memory, with the methods' names where it differs between them.

    Args:
        counted: per run the method's name and what was counted.
    """
    methods: dict[str, dict[str, None]] = {}  # by what was counted, each once
    for name, kind in counted:
        methods.setdefault(kind, {})[name] = None
    if len(methods) < 2:
        return "".join(f" Peak memory: {kind}." for kind in methods)
    parts = [f"of {', '.join(names)}: {kind}" for kind, names in methods.items()]
    return f" Peak memory: {'; '.join(parts)}."


def batches(teachers: Iterable[Mapping[str, Any]], students: Iterable[Mapping[str, Any]]) -> str:
    """Returns batch size and crop of teacher and students where they differ; "" where a record does not hold them.

    Args:
        teachers: records of the teacher's runs.
        students: records of the students' runs.
    """
    first, second = _trained_with(teachers), _trained_with(students)
    if not first or not second or first == second:
        return ""
    return f" (teacher: {' or '.join(first)}; students: {' or '.join(second)})"


def _trained_with(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the batch sizes and crops of runs, each once; of each method the last run is read."""
    # A record with "weights" is of an evaluation alone: its config is not the one of the training.
    last = {r["method"]: r for r in records if "weights" not in r}
    return list(dict.fromkeys(text for record in last.values() if (text := _batch(record))))


def _batch(record: Mapping[str, Any]) -> str:
    try:
        import yaml  # comes with bpkd[train]; without it nothing is said of batches

        config = yaml.safe_load(record["config"])
        height, width = config["INPUT"]["CROP_SIZE"]
        batch = config["SOLVER"]["IMS_PER_BATCH"]
    except (ImportError, KeyError, TypeError, ValueError):
        return ""
    return f"batch {batch}, crop {height if height == width else f'{height}x{width}'}"
