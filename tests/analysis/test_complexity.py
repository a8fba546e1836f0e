"""Counting, and the tool that prints the counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bpkd.analysis.complexity import cost_table, count, latency
from bpkd.analysis.paper import TABLE2, table2_rows
from bpkd.modeling import build_student
from tests.helpers.architecture import ArchitectureSuite
from tests.helpers.tiny_networks import TINY, TORCHVISION, tiny_cfg
from tests.helpers.tools import load_tool
from tests.modeling import test_deeplab_plus, test_hrnet, test_isa, test_psp  # noqa: F401  (they define the suites)

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests/golden/networks/params_flops.json").read_text())["networks"]


def test_hand_count_of_a_plain_module() -> None:
    net = nn.Conv2d(3, 4, 3, stride=2, padding=1).train()
    got = count(net, (8, 10))
    assert got.params == 4 * 3 * 9 + 4
    assert got.flops_by_operator == {"conv": 4 * 5 * 4 * 27, "upsample_bilinear2d": 4 * 4 * 80}
    assert net.training


def test_foreign_networks_are_counted() -> None:
    model = build_student(tiny_cfg(text=TORCHVISION))
    assert count(model, (64, 64)).params == sum(p.numel() for p in model.parameters())


def test_tool_prints_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    arguments = ["--config-file", str(config), str(config), "--size", "64", "96"]
    assert load_tool("analyze_model").main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["config"] for r in rows] == [str(config)] * 2
    assert rows[0]["params"] == sum(p.numel() for p in build_student(tiny_cfg()).parameters())
    assert rows[0]["size"] == [64, 96]
    assert load_tool("analyze_model").main([*arguments, "--opts", "MODEL.SEM_SEG_HEAD.CHANNELS", "32"]) == 0
    assert "params M" in capsys.readouterr().out


def test_activations_and_latency_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    assert count(net, (8, 10)).activations is None
    assert count(net, (8, 10), activations=True).activations == 4 * 4 * 5
    timed = latency(net, (8, 10), seconds=0.01, batch=3)
    assert timed["images_per_second"] == pytest.approx(3e3 / timed["median_ms"])
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    assert (
        load_tool("analyze_model").main(["--config-file", str(config), "--size", "64", "64", "--latency", "cpu"]) == 0
    )
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.startswith("| config | classes | size | params M | FLOPs G | activations M | cpu ms (")
    assert f"({torch.get_num_threads()} threads, batch 1)" in header
    assert float(row.split("|")[-2]) > 0


def test_wrong_config_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_tool("analyze_model").main(["--config-file", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: --config-file: expected a YAML file, got 'nowhere.yaml'")


@pytest.mark.parametrize("options", [["--size", "0", "64"], ["--size", "-1", "64"], ["--batch", "0"]])
def test_wrong_sizes_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_tool("analyze_model").main(["--config-file", "x.yaml", *options])
    assert "expected a whole number of at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        load_tool("analyze_model").main(["--table2", "--size", "64", "64"])
    assert "goes with --json alone" in capsys.readouterr().err


def test_the_docs_table_is_the_tools() -> None:
    """The counts themselves are held by every architecture's own test."""
    suites = ArchitectureSuite.__subclasses__()
    names = {config: golden for suite in suites for config, (golden, _) in suite.golden.items()}
    costs = {}
    for config in TABLE2:
        golden = GOLDEN[names[config]]["150"]
        costs[config] = (golden["params_total"] / 1e6, golden["flops_512x512_fvcore"] / 1e9)
    assert cost_table(table2_rows(costs)) in (ROOT / "docs" / "reference" / "networks.md").read_text()


def test_table2_prints_what_was_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    one = load_tool("analyze_model")
    monkeypatch.setattr(
        "bpkd.analysis.paper.TABLE2", {"hrnet_w18s": TABLE2["hrnet_w18s"]}
    )  # the smallest: it is counted for real
    assert one.main(["--table2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["network"], round(row["params_m"], 2), round(row["flops_g"], 2)) == ("hrnet_w18s", 3.97, 10.49)
