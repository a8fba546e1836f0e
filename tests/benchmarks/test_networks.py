"""benchmarks/networks.py at a tiny size: it runs, compares the variants and writes its record."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import networks as tool
from benchmarks.harness import Times
from benchmarks.peers import mmseg_networks

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


def test_ratio_is_paired():
    found = {("forward", tool.RIVAL): [10.0, 40.0], ("forward", tool.OURS): [5.0, 30.0]}
    rival, ours = tool.summarise(Times(found, {("forward", tool.OURS): 3.0}))
    assert ours["ratio"] == pytest.approx((0.5 + 0.75) / 2)
    assert rival["ratio"] is None
    assert (rival["peak_mib"], ours["peak_mib"]) == (None, 3.0)


def test_every_network_has_a_config():
    assert {path.stem for path in mmseg_networks.CONFIGS.glob("*.yaml")} >= set(mmseg_networks.NETWORKS)
