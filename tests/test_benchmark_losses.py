"""tools/benchmark_losses.py at a tiny size: it runs, compares the masks and writes its record."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).resolve().parent.parent / "tools" / "benchmark_losses.py"
SPEC = importlib.util.spec_from_file_location("benchmark_losses", PATH)
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

TINY = ["--classes", "3", "--batch", "2", "--size", "40", "--rounds", "2"]


def test_record_holds_every_variant_and_the_environment(tmp_path, capsys):
    tool.main([*TINY, "--json", str(tmp_path / "bench.json")])
    record = json.loads((tmp_path / "bench.json").read_text())
    names = [row["what"].split(",")[0] for row in record["rows"]]
    assert names == ["edge mask", "edge mask", "boundary_kd", "channel_kd", "pixel_kd"]
    assert all(row["median_ms"] > 0 and row["rounds"] == 2 for row in record["rows"])
    assert record["environment"]["torch"] == torch.__version__
    assert capsys.readouterr().out.count("| ") > 5


def test_a_mask_that_differs_is_not_timed(monkeypatch):
    monkeypatch.setattr(tool, "class_edge_mask", lambda *a, **k: torch.zeros(2, 3, 5, 5))
    with pytest.raises(RuntimeError, match="differs from the literal form"):
        tool.main(TINY)


def test_every_variant_runs_once_a_round():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = tool.measure(functions, 3)
    assert [len(values) for values in times.values()] == [3, 3, 3]
    assert {calls[i] for i in (3, 6, 9)} == {"a", "b", "c"}  # the first one of a round rotates


def test_ratio_is_paired():
    rows = tool.summarise({tool.LITERAL: [10.0, 40.0], "edge mask, x": [5.0, 20.0]}, 19)
    assert rows[1]["times_faster_than_literal"] == pytest.approx(2.0)
