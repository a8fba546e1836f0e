"""Parameters and FLOPs equal the paper's table."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from bpkd.analysis.complexity import count
from bpkd.config import get_bpkd_cfg
from bpkd.modeling import DenseModel, build_student

from .tiny_networks import TINY, TORCHVISION, tiny_cfg

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests/golden/networks/params_flops.json").read_text())["networks"]


def without_data(cfg: CfgNode) -> DenseModel:
    """Shapes are all that is counted."""
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_student(cfg)


@pytest.mark.parametrize("classes", [150, 19])
@pytest.mark.parametrize(
    ("name", "depth", "channels", "aux"),
    [("pspnet_r101", 101, 512, 256), ("pspnet_r18", 18, 128, 64)],
)
def test_counts_equal_the_papers(name: str, depth: int, channels: int, aux: int, classes: int) -> None:
    if classes != 150 and depth == 101:
        pytest.skip("seconds of tracing: with other classes only the classifier changes")
    model = build_student(
        tiny_cfg(
            *("MODEL.RESNET_V1C.DEPTH", depth, "MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 1.0),
            *("MODEL.SEM_SEG_HEAD.CHANNELS", channels, "MODEL.AUX_HEAD.CHANNELS", aux),
            *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes),
        )
    )
    got, golden = count(model), GOLDEN[name][str(classes)]
    assert got.params == golden["params_total"]
    assert got.flops == golden["flops_512x512_fvcore"]
    assert got.flops_by_operator == golden["flops_by_operator"]
    assert got.params_by_part == {
        "backbone": golden["params_backbone"],
        "decode_head": golden["params_decode_head"],
        "auxiliary_head": golden["params_aux_head"],
    }
    if classes == 150:
        paper = GOLDEN[name]["paper_table2"]
        assert round(got.params / 1e6, 2) == paper["params_M"]
        assert round(got.flops / 1e9, 2) == paper["flops_G"]


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
    spec = importlib.util.spec_from_file_location("analyze_model", ROOT / "tools" / "analyze_model.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    arguments = ["--config-file", str(config), str(config), "--size", "64", "96"]
    assert tool.main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["config"] for r in rows] == [str(config)] * 2
    assert rows[0]["params"] == sum(p.numel() for p in build_student(tiny_cfg()).parameters())
    assert rows[0]["size"] == [64, 96]
    assert tool.main([*arguments, "--opts", "MODEL.SEM_SEG_HEAD.CHANNELS", "32"]) == 0
    assert "params M" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "params"), [("pspnet_r101", 67.9), ("pspnet_r18", 12.8)])
def test_shipped_configs_are_the_papers_networks(name: str, params: float) -> None:
    cfg = get_bpkd_cfg()
    cfg.merge_from_file(str(ROOT / "configs" / "camvid" / f"{name}.yaml"))
    assert sum(p.numel() for p in without_data(cfg).parameters()) / 1e6 == pytest.approx(params, abs=0.1)
