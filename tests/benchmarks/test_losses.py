"""benchmarks/losses.py at a tiny size: it runs, compares the masks and writes its record; the speed targets."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import losses as tool
from benchmarks import targets
from benchmarks.harness import Times
from bpkd.functional.backends import native

TINY = ["--classes", "3", "--batch", "2", "--size", "40", "--rounds", "2"]


def test_record_holds_every_variant_and_the_environment(tmp_path, capsys):
    tool.main([*TINY, "--json", str(tmp_path / "bench.json")])
    record = json.loads((tmp_path / "bench.json").read_text())
    names = [row["what"].split(",")[0] for row in record["rows"]]
    losses = ["boundary_kd", "channel_kd", "pixel_kd", "upsampled_cross_entropy"]
    assert names == ["edge mask"] * 3 + [name for name in losses for _ in ("eager", "auto")]
    assert all(row["median_ms"] > 0 and row["rounds"] == 2 for row in record["rows"])
    assert record["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["extension"].startswith(native.level() or native.unavailable())
    assert f"| what, C++ on {record['extension']} | classes" in capsys.readouterr().out


def test_a_mask_that_differs_is_not_timed(monkeypatch):
    monkeypatch.setattr(tool, "class_edge_mask", lambda *a, **k: torch.zeros(2, 3, 5, 5))
    with pytest.raises(RuntimeError, match="on eager differs from the literal form"):
        tool.main(TINY)


def test_ratio_is_paired_and_to_the_first_of_the_same_function():
    times = Times({tool.LITERAL: [10.0, 40.0], "edge mask, x": [5.0, 20.0], "pixel_kd, x": [1.0, 1.0]})
    assert [row["times_faster_than_first"] for row in tool.summarise(times, 19)] == [1.0, 2.0, 1.0]


def test_targets_are_paired_and_judged(monkeypatch):
    spent = {"a": iter([1.0, 2.0, 30.0, 4.0, 5.0]), "b": iter([3.0, 6.0, 90.0, 12.0, 15.0])}
    monkeypatch.setattr(targets, "timed", lambda call: (next(spent[call]), None))
    monkeypatch.setattr(targets, "CALLS", 1)
    row = targets.time_row(targets.Target("x", "a", "b", 4.0, at_least=True), 4)
    assert (row["rounds"], row["ratio"], row["quartiles"], row["ratio_of_minima"]) == (4, 3.0, [3.0, 3.0], 3.0)
    assert (row["ours"], row["other"]) == (4.5, 13.5)
    row = {"what": "x", "shape": [1, 2], "at_least": True, "limit": 2.0, "met": False, **row}
    assert targets.table([row], "base").splitlines()[-1].endswith("| >= 2 | **missed** |")


@pytest.mark.skipif(bool(native.unavailable()), reason=native.unavailable())
def test_all_targets_run_at_a_tiny_size(monkeypatch):
    monkeypatch.setattr(targets, "LOSS_SHAPES", ((1, 3, 4, 4),))
    monkeypatch.setattr(
        targets, "memory_row", lambda *_, **__: {"ratio": 0.1, "ours": 1.0, "other": 10.0, "unit": "MiB"}
    )
    lines = []
    rows = targets.run(None, 2, lines.append)
    assert rows == lines
    assert len(rows) == 3  # losses over the memory traffic; masks are timed at 64 x 64 alone
    x = targets.Inputs((1, 3, 4, 4), None)
    for target in (*targets.mask_targets(x), *targets.entropy_targets(x)):
        target.ours()
        target.other()
    x.whole()()
    fast = x.student.grad.clone()
    x.literal_whole()()
    assert torch.allclose(fast, x.student.grad, rtol=1e-4, atol=1e-5)
