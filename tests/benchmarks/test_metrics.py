"""benchmarks/metrics.py at a tiny size: loops and ours count the same, and the record holds both times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import metrics as tool

TINY = ["--classes", "3", "40", "--height", "60", "--width", "90", "--rounds", "2", "--cpu-time"]


def test_record_holds_every_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([*TINY, "--json", str(tmp_path / "bench.json")]) == 0
    record = json.loads((tmp_path / "bench.json").read_text())
    assert [row["classes"] for row in record["rows"]] == [3] * 4 + [40] * 4
    assert all(row["ours_ms"] > 0 and row["loop_ms"] > 0 for row in record["rows"])
    assert record["setting"]["cpu_time"] is True
    assert record["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert capsys.readouterr().out.count("\n") == 10


def test_other_counts_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "contour_counts", lambda *a: torch.zeros(4, 3))
    with pytest.raises(RuntimeError, match="boundary F: the loop counts otherwise"):
        tool.main(TINY)
