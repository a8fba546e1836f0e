"""tools/benchmark_networks.py at a tiny size: it runs, compares the variants and writes its record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

TOOLS = str(Path(__file__).resolve().parents[2] / "tools")
if TOOLS not in sys.path:
    sys.path.append(TOOLS)  # the tool imports its neighbour, as it does when it is run

import benchmark_networks as tool  # noqa: E402
import mmseg_networks  # noqa: E402

TINY = ["--no-rival", "--networks", "hrnet_w18s", "--size", "32", "48", "--rounds", "2"]


def test_record_holds_every_variant_and_the_environment(tmp_path, capsys):
    assert tool.main([*TINY, "--json", str(tmp_path / "bench.json")]) == 0
    record = json.loads((tmp_path / "bench.json").read_text())
    rows = record["rows"]
    assert [(r["step"], r["variant"]) for r in rows] == [(s, v) for s in (tool.FORWARD, tool.STEP) for v in tool.OWN]
    assert all(r["network"] == "hrnet_w18s" and r["median_ms"] > 0 and len(r["times_ms"]) == 2 for r in rows)
    assert all(r["ratio"] is None and r["logits_apart"] <= 1e-4 for r in rows)
    assert record["setting"]["size"] == [32, 48]
    assert record["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"commit", "hardware"} <= set(record["environment"])
    assert capsys.readouterr().out.count("| hrnet_w18s |") == 4


def test_variants_that_differ_are_not_timed(monkeypatch):
    layout = torch.channels_last
    monkeypatch.setattr(
        tool, "our_logits", lambda m, x: (m.predict(x).logits + x.is_contiguous(memory_format=layout), None)
    )
    with pytest.raises(RuntimeError, match="hrnet_w18s, ours, channels-last: expected the logits of ours"):
        tool.main(TINY)


def test_absent_rival_is_a_plain_error(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mmcv", None)
    monkeypatch.setitem(sys.modules, "mmseg", None)
    monkeypatch.setitem(sys.modules, "mmseg.models", None)
    assert tool.main(TINY[1:]) == 2
    error = capsys.readouterr().err
    assert mmseg_networks.INSTALL in error
    assert "--no-rival" in error


def test_order_rotates_and_turns_round():
    calls = []
    times = tool.measure({name: lambda name=name: calls.append(name) for name in "abc"}, 5)
    assert [len(values) for values in times.values()] == [5, 5, 5]
    rounds = ["".join(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert rounds[1:] == ["abc", "acb", "cab", "cba", "bca"]


def test_ratio_is_paired():
    found = {("forward", tool.RIVAL): [(10.0, None), (40.0, None)], ("forward", tool.OURS): [(5.0, 1.0), (30.0, 3.0)]}
    rival, ours = tool.summarise(found)
    assert ours["ratio"] == pytest.approx((0.5 + 0.75) / 2)
    assert rival["ratio"] is None
    assert (rival["peak_mib"], ours["peak_mib"]) == (None, 3.0)


def test_every_network_has_a_config():
    assert {path.stem for path in mmseg_networks.CONFIGS.glob("*.yaml")} >= set(mmseg_networks.NETWORKS)
