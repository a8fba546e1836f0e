"""Files of SOLOv2: raw heads and instances equal the network's, at sizes that the file was not made with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from bpkd.export import instances, solov2_to_torchscript
from bpkd.modeling import SOLOv2
from tests.helpers.tiny_networks import TINY as LABEL_MAPS
from tests.helpers.tiny_solov2 import batch, save_teacher, tiny_cfg
from tests.helpers.tools import load_tool

OPTIONS = ["MODEL.SOLOV2.SCORE_THRESHOLD", 0.01, "MODEL.SOLOV2.KEEP_THRESHOLD", 0.001]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Config and weights whose scores differ from cell to cell."""
    save_teacher(tmp_path, *OPTIONS)
    names = [str(tmp_path / f"teacher.{end}") for end in ("yaml", "pth")]
    return ["--config-file", names[0], "--weights", names[1], "--size", "64", "96"]


def network(folder: Path) -> SOLOv2:
    model = SOLOv2(tiny_cfg(*OPTIONS)).eval()
    model.load_state_dict(torch.load(folder / "teacher.pth", weights_only=True)["model"])
    return model


def test_the_raw_heads_of_any_size(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_tool("export_model").main([str(tmp_path / "net.ts"), *files]) == 0
    assert "its scores differ from the network's by at most" in capsys.readouterr().out
    extra = {"bpkd.json": ""}
    logits, kernels, features = torch.jit.load(tmp_path / "net.ts", _extra_files=extra)(
        images := torch.randn(3, 3, 96, 64)
    )
    with torch.no_grad():
        wanted = network(tmp_path).raw_outputs(images)
    torch.testing.assert_close(
        (logits, kernels, features), (wanted.category_logits, wanted.kernels, wanted.mask_features)
    )
    assert json.loads(extra["bpkd.json"])["num_classes"] == 4


def test_the_instances_of_an_image(files: list[str], tmp_path: Path) -> None:
    assert load_tool("export_model").main([str(tmp_path / "net.pt"), *files, "--nms"]) == 0
    model, loaded = network(tmp_path), torch.jit.load(tmp_path / "net.pt")
    for item in batch(4, size=(64, 96)) + batch(3, size=(96, 160)):
        images = model.preprocess([item])
        with torch.no_grad():
            (wanted,) = model([item])
            scores, labels, masks = loaded(images.tensor)
        found = wanted["instances"]
        assert len(found) > 3
        torch.testing.assert_close(scores, found.scores)
        assert torch.equal(labels, found.pred_classes)
        assert torch.equal(masks, found.pred_masks)
    maps = [torch.full((1, 4, 3, 3), -50.0)] * 5, [torch.zeros(1, 32, 3, 3)] * 5, torch.zeros(1, 32, 16, 24)
    blank = torch.jit.load(tmp_path / "net.pt").reader(*maps)
    assert [tuple(x.shape) for x in blank] == [(0,), (0,), (0, 64, 96)]


def test_a_file_that_reads_other_instances_is_not_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_teacher(tmp_path, *OPTIONS)
    model = network(tmp_path)
    other = torch.jit.script(instances.Reader(model.strides, model.detection._replace(nms_sigma=9.0)))
    monkeypatch.setattr(
        instances.torch.jit,
        "script",
        lambda m, own=torch.jit.script: other if isinstance(m, instances.Reader) else own(m),
    )
    with pytest.raises(ValueError, match="reads other instances off"):
        solov2_to_torchscript(model, str(tmp_path / "net.ts"), (64, 96), nms=True)
    assert not list(tmp_path.glob("net*"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.ts", ["--size", "60", "96"], "--size: expected multiples of 32, to which images are padded, got 60 96"),
        ("a.onnx", ["--nms"], "expected .ts or .pt, or .onnx for one size without --nms"),
        ("a.pt2", [], "expected .ts or .pt"),
    ],
)
def test_what_cannot_be_written_is_said(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, options: list[str], message: str
) -> None:
    assert load_tool("export_model").main([str(tmp_path / name), *files, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_label_maps_have_no_instances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.yaml").write_text(LABEL_MAPS)
    files = ["--config-file", str(tmp_path / "net.yaml"), "--weights", "none.pth"]
    assert load_tool("export_model").main([str(tmp_path / "a.ts"), *files, "--nms"]) == 2
    assert "--nms: expected SOLOv2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(TorchVersion(torch.__version__) < "2.7", reason="bpkd writes ONNX files from torch 2.7 on")
def test_onnx_has_the_raw_heads(files: list[str], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert load_tool("export_model").main([str(tmp_path / "net.onnx"), *files]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    names = [one.name for one in session.get_outputs()]
    assert names == [f"{kind}_{i}" for kind in ("category", "kernel") for i in range(5)] + ["mask_features"]
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = network(tmp_path).raw_outputs(image)
    got = session.run(["category_2", "mask_features"], {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(got[0]), wanted.category_logits[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(got[1]), wanted.mask_features, atol=1e-4, rtol=1e-4)
