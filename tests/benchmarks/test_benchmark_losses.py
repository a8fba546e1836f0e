"""tools/benchmark_losses.py at a tiny size: it runs, compares the masks and writes its record."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bpkd.functional import native

PATH = Path(__file__).resolve().parents[2] / "tools" / "benchmark_losses.py"
SPEC = importlib.util.spec_from_file_location("benchmark_losses", PATH)
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

TINY = ["--classes", "3", "--batch", "2", "--size", "40", "--rounds", "2"]


def test_record_holds_every_variant_and_the_environment(tmp_path, capsys):
    tool.main([*TINY, "--json", str(tmp_path / "bench.json")])
    record = json.loads((tmp_path / "bench.json").read_text())
    names = [row["what"].split(",")[0] for row in record["rows"]]
    losses = ["boundary_kd", "channel_kd", "pixel_kd", "upsampled_cross_entropy"]
    assert names == ["edge mask"] * 3 + [name for name in losses for _ in ("eager", "auto")]
    assert all(row["median_ms"] > 0 and row["rounds"] == 2 for row in record["rows"])
    assert record["environment"]["torch"] == torch.__version__
    assert record["environment"]["extension"].startswith(native.level() or native.unavailable())
    assert f"| what, C++ on {record['environment']['extension']} | classes" in capsys.readouterr().out


def test_a_mask_that_differs_is_not_timed(monkeypatch):
    monkeypatch.setattr(tool, "class_edge_mask", lambda *a, **k: torch.zeros(2, 3, 5, 5))
    with pytest.raises(RuntimeError, match="on eager differs from the literal form"):
        tool.main(TINY)


def test_every_variant_runs_once_a_round():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = tool.measure(functions, 3)
    assert [len(values) for values in times.values()] == [3, 3, 3]
    assert {calls[i] for i in (3, 6, 9)} == {"a", "b", "c"}  # the first one of a round rotates


def test_ratio_is_paired():
    rows = tool.summarise({tool.LITERAL: [10.0, 40.0], "edge mask, x": [5.0, 20.0]}, 19)
    assert rows[1]["times_faster_than_first"] == pytest.approx(2.0)


def fast_targets(monkeypatch):
    monkeypatch.syspath_prepend(str(PATH.parent))
    import fast_targets

    return fast_targets


def test_targets_are_paired_and_judged(monkeypatch):
    targets = fast_targets(monkeypatch)
    calls = []
    clock = iter(range(10000))
    monkeypatch.setattr(targets.time, "perf_counter", lambda: 0.1 * next(clock))
    target = targets.Target("x", lambda: calls.append("a"), lambda: calls.append("b"), 2.0, at_least=True)
    row = targets.time_row(target, 4)
    assert row["rounds"] == 4
    assert row["ratio"] == pytest.approx(1.0)
    assert calls[:4] == ["a", "b", "b", "a"]  # who comes first changes
    row = {"what": "x", "shape": [1, 2], "at_least": True, "limit": 2.0, "met": False, **row}
    assert targets.line(row).endswith("| >= 2 | **missed** |")


@pytest.mark.skipif(bool(native.unavailable()), reason=native.unavailable())
def test_all_targets_run_at_a_tiny_size(monkeypatch):
    targets = fast_targets(monkeypatch)
    monkeypatch.setattr(targets, "LOSS_SHAPES", ((1, 3, 4, 4),))
    monkeypatch.setattr(
        targets, "memory_row", lambda *_, **__: {"ratio": 0.1, "ours": 1.0, "other": 10.0, "unit": "MiB"}
    )
    lines = []
    rows = targets.run(None, 2, lines.append)
    assert len(rows) == len(lines) == 3  # losses over the memory traffic; masks are timed at 64 x 64 alone
    x = targets.Inputs((1, 3, 4, 4), None)
    for target in (*targets.mask_targets(x), *targets.entropy_targets(x)):
        target.ours()
        target.other()
    x.whole()()
    fast = x.student.grad.clone()
    x.literal_whole()()
    assert torch.allclose(fast, x.student.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_peak_of_a_call():
    """In a process of its own: this one's cold pages come and go with the machine's memory."""
    code = "import sys, torch\nsys.path.insert(0, 'tools')\nfrom fast_targets import peak_mib\n"
    code += "print(peak_mib(lambda: torch.ones(16 * 2**20).sum()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PATH.parent.parent
    )
    assert 60 <= float(done.stdout.split()[-1]) <= 80
