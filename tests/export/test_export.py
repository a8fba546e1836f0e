"""The export tool, and files that compute something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bpkd.export import student, to_onnx, to_torchscript
from bpkd.modeling import build_student
from tests.helpers.tiny_networks import TINY, tiny_cfg
from tests.helpers.tools import load_tool

ROOT = Path(__file__).parents[2]


def test_tool_writes_what_runs_without_us(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.yaml").write_text(TINY)
    torch.manual_seed(0)
    model = build_student(tiny_cfg())
    torch.save({"model": model.state_dict()}, tmp_path / "net.pth")
    files = [str(tmp_path / name) for name in ("net.yaml", "net.pth")]
    options = ["--config-file", files[0], "--weights", files[1], "--size", "64", "64"]
    assert load_tool("export_model").main([str(tmp_path / "net.ts"), *options]) == 0
    assert "RGB, minus [123.675" in capsys.readouterr().out
    images = torch.randn(3, 3, 50, 70)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "net.ts")(images), model.eval().predict(images).logits)
    assert load_tool("export_model").main([str(tmp_path / "a.onnx"), *options, "--any-size"]) == 2
    assert "error: SemanticSegmentor: this network does not support 'onnx_any_size'" in capsys.readouterr().err
    options[3] = str(tmp_path / "absent.pth")
    assert load_tool("export_model").main([str(tmp_path / "b.ts"), *options]) == 2
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        load_tool("export_model").main([str(tmp_path / "net.bin"), *options])
    assert sorted(p.name for p in tmp_path.glob("*.ts")) == ["net.ts"]


def test_onnx_of_an_old_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student.torch, "__version__", "2.6.0+cu124")
    with pytest.raises(ImportError, match=r"expected torch 2.7 or later, got 2.6.0\+cu124"):
        to_onnx(build_student(tiny_cfg()), str(tmp_path / "net.onnx"), (64, 64))
    assert not list(tmp_path.iterdir())


def test_a_network_that_diverged_is_refused(tmp_path: Path) -> None:
    model = build_student(tiny_cfg())
    torch.nn.init.constant_(model.decode_head.conv_seg.bias, float("nan"))
    with pytest.raises(ValueError, match="expected a network with finite scores, got NaN or infinity"):
        to_torchscript(model, str(tmp_path / "net.ts"), (64, 64))
    torch.nn.init.zeros_(model.decode_head.conv_seg.weight)
    torch.nn.init.zeros_(model.decode_head.conv_seg.bias)
    to_torchscript(model, str(tmp_path / "net.ts"), (64, 64))  # one score everywhere is no fault


def test_a_file_that_computes_something_else_is_not_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_student(tiny_cfg()).train()
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    load = torch.jit.load
    monkeypatch.setattr(student.torch.jit, "load", lambda *a, **k: lambda image: 1.01 * load(*a, **k)(image))
    with pytest.raises(ValueError, match="differ from the network's by"):
        to_torchscript(model, str(tmp_path / "net.ts"), (64, 64))
    assert not list(tmp_path.iterdir())
    assert model.training
