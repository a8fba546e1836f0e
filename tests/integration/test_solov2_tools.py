"""The tools' rows for SOLOv2."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import solov2
from tests.helpers.golden_solov2 import REPO, network


def tool(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "path", [str(REPO / "tools"), *sys.path])
    return runpy.run_path(str(REPO / "tools" / f"{name}.py"))


def test_table_4_counts_parameters_by_part(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert tool("analyze_model", monkeypatch)["main"](["--table4", "--json"]) == 0
    rows = {row["network"]: row for row in json.loads(capsys.readouterr().out)}
    light, teacher = rows["solov2_light_r18"], rows["solov2_x101_dcn"]
    assert (light["params"], light["trainable"]) == (18_271_760, 18_105_296)
    assert (light["backbone"], light["fpn"], light["heads"]) == (11_176_512, 2_607_104, 4_488_144)
    assert teacher["params"] == 113_420_574
    assert (teacher["backbone"], teacher["fpn"], teacher["heads"]) == (89_120_874, 3_344_384, 20_955_316)
    assert (rows["solov2_r50"]["params"], rows["solov2_r101_dcn"]["params"]) == (46_592_912, 68_729_118)


def test_cost_of_the_light_network_holds_its_branches() -> None:
    from bpkd.analysis.complexity import count

    cost = count(network("light_r18"), (128, 160))
    # The branches work on grids, whatever the image: 3,872 cells times their convolutions' weights.
    branches = 3872 * (1_180_672 - 1_024 + 1_185_280 - 1_024 + 184_320 + 294_912)
    assert cost.flops_by_operator["conv"] > branches


def test_deformable_convolutions_are_counted_as_plain_ones() -> None:
    from bpkd.analysis.complexity import count
    from bpkd.modeling.solov2 import ModulatedDeformConv2d

    layer = torch.nn.Sequential(ModulatedDeformConv2d(3, 8, 3, padding=1))
    cost = count(layer, (10, 12))
    assert cost.flops_by_operator["deform_conv2d"] == 10 * 12 * 3 * 8 * 9
    assert cost.flops_by_operator["conv"] == 10 * 12 * 3 * 27 * 9


def test_assignment_is_timed_beside_a_loop_that_gives_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["--instances", "6", "--height", "70", "--width", "100", "--rounds", "2", "--batch", "1", "--cpu-time"]
    path = tmp_path / "bench.json"
    assert solov2.main([*sizes, "--what", "assign", "inference", "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert [(row["what"], row["other"]) for row in record["rows"]] == [("assign", "loop"), ("inference", "ours again")]
    assert all(row["ours_ms"] > 0 and row["other_ms"] > 0 for row in record["rows"])
    assert record["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert capsys.readouterr().out.count("\n") == 4
    monkeypatch.setattr(solov2, "loop_assign", lambda *a: [(torch.zeros(1), [], [], [])] * 5)
    with pytest.raises(RuntimeError, match="the loop assigns otherwise"):
        solov2.main([*sizes, "--what", "assign"])


def test_a_peer_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert solov2.main(["--peer-root", str(tmp_path)]) == 1
    assert f"--peer-root {tmp_path}: No module named" in capsys.readouterr().err
