"""tools/convert_checkpoint.py: there and back, what it prints, what it refuses."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from bpkd.convert import load_backbone, load_strict, read_checkpoint, weight_files
from bpkd.modeling import MobileNetV2, build_student
from tests.helpers.checkpoints import Buffer
from tests.helpers.tiny_networks import CLASSES, TINY, tiny_cfg
from tests.helpers.tools import load_tool

REPO = Path(__file__).resolve().parents[2]
PALETTE = [[10 * i, 0, 255 - i] for i in range(5)]


TOOL = load_tool("convert_checkpoint")


@pytest.fixture
def config(tmp_path: Path) -> str:
    tiny_cfg()  # registers the data set
    (tmp_path / "tiny.yaml").write_text(f"VERSION: 2{TINY}")
    return str(tmp_path / "tiny.yaml")


def tiny_state(*opts: Any, seed: int = 5) -> OrderedDict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = build_student(tiny_cfg(*opts)).state_dict()
    return OrderedDict((k, torch.randn_like(v) if v.is_floating_point() else v + 7) for k, v in state.items())


def mmseg_file(path: Path, state: Any = None, **meta: Any) -> Path:
    torch.save({"meta": meta, "state_dict": state or tiny_state(), "optimizer": {}}, path)
    return path


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return list(first) == list(second) and all(
        a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in zip(first.values(), second.values(), strict=True)
    )


def test_there_and_back_is_bit_identical(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tiny_state()
    for key in [k for k in state if k.endswith("num_batches_tracked")][:3]:
        del state[key]
    state.move_to_end("backbone.stem.0.weight")  # the order is the file's, not the network's
    state["decode_head.conv_seg.bias"][0] = -0.0
    src = mmseg_file(tmp_path / "src.pth", state, CLASSES=CLASSES, PALETTE=PALETTE)
    ours, back = tmp_path / "ours.pth", tmp_path / "back.pth"
    assert TOOL.main([str(src), str(ours), "--source", "mmseg", "--config-file", config]) == 0
    digest = hashlib.sha256(src.read_bytes()).hexdigest()
    out = capsys.readouterr().out
    assert digest in out
    assert f"-{digest[:8]}" in out
    assert f"{len(state)} mapped, 0 dropped, 3 num_batches_tracked missing" in out
    assert "5: sky, road, tree, car, pole" in out
    assert "RGB, mean [123.675, 116.28, 103.53], std [58.395, 57.12, 57.375], of values 0..255" in out
    assert "WARNING" not in out
    content = torch.load(ours, weights_only=True)
    assert content["bpkd"] == {
        "part": "network", "classes": list(CLASSES), "palette": PALETTE,
        "source": "a segmentation network of OpenMMLab",
        "source_sha256": digest, "pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375],
        "input_format": "RGB",
    }  # fmt: skip
    model = build_student(tiny_cfg())
    assert load_strict(model, str(ours)).classes == CLASSES
    assert TOOL.main([str(ours), str(back), "--config-file", config, "--to", "mmseg"]) == 0
    returned = torch.load(back, weights_only=True)
    assert same(returned["state_dict"], state)
    assert returned["meta"] == {"CLASSES": CLASSES, "PALETTE": PALETTE}
    assert same(content["model"], state)


def test_a_run_of_ours_becomes_openmmlabs(config: str, tmp_path: Path) -> None:
    state, src, dst = tiny_state(), tmp_path / "model_final.pth", tmp_path / "out.pth"
    torch.save({"model": state, "bpkd": {"classes": list(CLASSES)}, "trainer": {"iteration": 3}}, src)
    assert TOOL.main([str(src), str(dst), "--to", "mmseg", "--config-file", config]) == 0
    content = torch.load(dst, weights_only=True)
    assert set(content) == {"state_dict", "meta"}
    assert same(content["state_dict"], state)
    assert content["meta"]["CLASSES"] == CLASSES
    assert len(content["meta"]["PALETTE"]) == 5


@pytest.mark.parametrize("name", ["pspnet_r18", "deeplabv3plus_mv2_c128"])
def test_released_students_without_meta_fit_the_papers_configs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = {"pspnet_r18": "pspnet_r18", "deeplabv3plus_mv2_c128": "variant_deeplabv3plus_mv2_c128"}[name]
    keys = json.loads((REPO / "tests" / "golden" / "networks" / f"{golden}.keys.json").read_text())
    state = {k: torch.zeros(v) for k, v in keys.items()}
    torch.save(state, tmp_path / "student.pth")  # bare: no meta at all
    run = [str(tmp_path / "student.pth"), str(tmp_path / "out.pth"), "--source", "mmseg"]
    assert TOOL.main([*run, "--config-file", f"{REPO}/configs/networks/{name}.yaml"]) == 0
    assert "19, no names in the file" in capsys.readouterr().out
    if name.endswith("c128"):
        other = f"{REPO}/configs/networks/deeplabv3plus_mv2.yaml"
        assert TOOL.main([*run, "--force", "--config-file", other]) == 2
        assert "configs/networks/deeplabv3plus_mv2_c128.yaml" in capsys.readouterr().err


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    for name in ("fvcore", "detectron2", "bpkd"):  # those of other tests' runs write to what is closed by now
        logging.getLogger(name).handlers.clear()
    assert TOOL.main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text


def test_what_does_not_fit_is_one_plain_line(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, dst = mmseg_file(tmp_path / "src.pth"), tmp_path / "dst.pth"
    run = [str(src), str(dst), "--config-file", config]
    number = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
    assert "has 5 classes, model has 150 (ADE20K). Set " in error_of([*run, number, "150"], capsys)
    assert "set MODEL.RESNET_V1C.DEEP_STEM True" in error_of([*run, "MODEL.RESNET_V1C.DEEP_STEM", "False"], capsys)
    assert "decode head has 16 channels" in error_of([*run, "MODEL.SEM_SEG_HEAD.CHANNELS", "32"], capsys)
    assert "set MODEL.RESNET_V1C.DEPTH 18" in error_of([*run, "MODEL.RESNET_V1C.DEPTH", "34"], capsys)
    assert "--source" in error_of([*run, "--source", "torchvision"], capsys)
    assert "Pass --config-file" in error_of([str(src), str(dst)], capsys)
    assert "no such file" in error_of([str(tmp_path / "none.pth"), *run[1:]], capsys)
    assert "Known keys there" in error_of([*run, "MODEL.NOTHING", "1"], capsys)
    state = tiny_state()
    del state["decode_head.bottleneck.bn.weight"]
    mmseg_file(src, {**state, "backbone.extra": torch.zeros(1)})
    text = error_of(run, capsys)
    assert "missing: decode_head.bottleneck.bn.weight" in text
    assert "unexpected: backbone.extra" in text
    src.write_bytes(b"\x80\x02rubbish")
    assert "cannot be read" in error_of(run, capsys)
    assert not dst.exists()


def test_a_target_is_never_lost(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    src, dst = mmseg_file(tmp_path / "src.pth"), tmp_path / "dst.pth"
    before = src.read_bytes()
    run = ["--config-file", config]
    (tmp_path / "link.pth").symlink_to(src)
    for target in (src, tmp_path / "link.pth", f"{tmp_path}/./src.pth"):
        assert "another file than SRC" in error_of([str(src), str(target), *run, "--force"], capsys)
    assert "Make" in error_of([str(src), str(tmp_path / "no" / "dst.pth"), *run], capsys)
    assert "got the folder" in error_of([str(src), str(tmp_path), *run, "--force"], capsys)
    dst.write_text("precious")
    assert "--force" in error_of([str(src), str(dst), *run], capsys)
    save = torch.save

    def fails(content: Any, f: Any) -> None:
        Path(f).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fails)
    assert "disk full" in error_of([str(src), str(dst), *run, "--force"], capsys)
    monkeypatch.setattr(torch, "save", save)
    assert dst.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["dst.pth", "link.pth", "src.pth", "tiny.yaml"]
    assert TOOL.main([str(src), str(dst), *run, "--force"]) == 0
    assert len(read_checkpoint(str(dst)).state) == len(tiny_state())
    assert src.read_bytes() == before


def test_other_pixel_statistics_and_changed_files_are_warned_of(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = mmseg_file(tmp_path / "net_20200101-deadbeef.pth")
    run = [str(src), str(tmp_path / "dst.pth"), "--config-file", config, "--force"]
    assert TOOL.main([*run, "INPUT.FORMAT", "BGR"]) == 0
    out = capsys.readouterr().out
    assert "WARNING: the weights expect RGB, mean [123.675, 116.28, 103.53]" in out
    assert "the config has INPUT.FORMAT BGR" in out
    assert "WARNING: the name of net_20200101-deadbeef.pth says its SHA-256 begins with deadbeef" in out
    right = src.with_name(f"net-{hashlib.sha256(src.read_bytes()).hexdigest()[:8]}.pth")
    src.rename(right)
    assert TOOL.main([str(right), *run[1:], "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"]) == 0
    out = capsys.readouterr().out
    assert out.count("WARNING") == 1
    assert "MODEL.PIXEL_STD [1.0, 1.0, 1.0]" in out


def test_the_statistics_of_our_files_are_those_they_state(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = tmp_path / "ours.pth"
    stated = {"pixel_mean": [1.0, 2.0, 3.0], "pixel_std": [4.0, 5.0, 6.0], "input_format": "BGR"}
    run = [str(src), str(tmp_path / "dst.pth"), "--config-file", config, "--force"]
    torch.save({"model": tiny_state(), "bpkd": {"version": "1", **stated}}, src)
    assert TOOL.main(run) == 0
    assert "BGR, mean [1.0, 2.0, 3.0], std [4.0, 5.0, 6.0]" in capsys.readouterr().out
    assert {k: torch.load(tmp_path / "dst.pth", weights_only=True)["bpkd"][k] for k in stated} == stated
    torch.save({"model": tiny_state()}, src)
    assert TOOL.main([*run, "--source", "bpkd"]) == 0
    assert "the file does not say" in capsys.readouterr().out


def test_backbones_are_converted_for_backbone_weights(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src, dst = tmp_path / "mobilenet_v2.pth", tmp_path / "backbone.pth"
    theirs = torchvision.models.mobilenet_v2().state_dict()
    torch.save(theirs, src)
    assert TOOL.main([str(src), str(dst)]) == 0  # complete by the architecture's own key list: no config needed
    out = capsys.readouterr().out
    assert "for MODEL.BACKBONE.WEIGHTS" in out
    assert "8 dropped (classifier.*, features.18.*)" in out
    ours = MobileNetV2()
    load_backbone(ours, str(dst))
    assert torch.equal(ours.layer7[0].conv[2].conv.weight, theirs["features.17.conv.2.weight"])
    assert torch.load(dst, weights_only=True)["bpkd"]["part"] == "backbone"
    assert TOOL.main([str(dst), str(tmp_path / "again.pth"), "--to", "mmseg"]) == 0
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert same(again["state_dict"], torch.load(dst, weights_only=True)["model"])
    assert again["meta"] == {}
    del theirs["features.3.conv.2.weight"]
    torch.save(theirs, src)
    text = error_of([str(src), str(dst), "--force"], capsys)
    assert "1 keys of the network are missing: layer2.1.conv.2.conv.weight" in text
    assert "backbone MobileNetV2, the network ResNet" in error_of(
        [str(src), str(dst), "--force", "--config-file", config], capsys
    )
    # timm's statistics are said in its own unit too.
    torch.save(torchvision.models.resnet18().state_dict(), src)
    assert TOOL.main([str(src), str(dst), "--force", "--source", "timm"]) == 0
    assert "timm states them in 0..1" in capsys.readouterr().out


def test_hrnet_backbones_want_their_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = "configs/networks/hrnet_w18s.yaml"
    keys = json.loads((REPO / "tests" / "golden" / "networks" / "hrnetv2p_w18s.keys.json").read_text())
    state = {k.removeprefix("backbone."): torch.zeros(v) for k, v in keys.items() if k.startswith("backbone.")}
    state["classifier.weight"] = torch.zeros(10, 4)
    torch.save(state, tmp_path / "w18s.pth")
    run = [str(tmp_path / "w18s.pth"), str(tmp_path / "out.pth"), "--source", "hrnet"]
    assert "Pass --config-file" in error_of(run, capsys)
    assert TOOL.main([*run, "--config-file", str(REPO / network)]) == 0
    assert "for MODEL.BACKBONE.WEIGHTS" in capsys.readouterr().out


def test_training_and_distillation_checkpoints_are_converted(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, src = tiny_state(), tmp_path / "iter.pth"
    both = {f"architecture.{k}": v for k, v in state.items()} | {f"teacher.{k}": v for k, v in state.items()}
    meta = {"dataset_meta": {"classes": CLASSES, "palette": PALETTE}, "epoch": np.float64(1.5)}
    torch.save({"meta": meta, "state_dict": both, "message_hub": {"x": np.arange(3), "y": Buffer()}}, src)
    assert TOOL.main([str(src), str(tmp_path / "out.pth"), "--config-file", config]) == 0
    out = capsys.readouterr().out
    assert f"{len(state)} mapped, {len(state)} dropped (teacher.*)" in out
    assert "not read  Python objects: tests.helpers.checkpoints.Buffer" in out
    content = torch.load(tmp_path / "out.pth", weights_only=True)  # nothing of the placeholders is in it
    assert same(content["model"], state)
    assert content["bpkd"]["palette"] == PALETTE


def test_the_files_of_a_checkpoint(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.bin", "b": "two.bin", "c": "../three.bin"}}))
    (tmp_path / "one.bin").write_text("1")
    assert weight_files(str(index)) == [str(index), str(tmp_path / "one.bin")]
    index.write_text("[]")
    assert weight_files(str(index)) == [str(index)]
    assert weight_files("w.pth") == ["w.pth"]
