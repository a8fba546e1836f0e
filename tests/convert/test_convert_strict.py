"""Strict loading of whole networks and backbones: what is accepted, and the likely cause that a refusal names."""

from __future__ import annotations

import re
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bpkd.convert import CheckpointError, load_backbone, load_strict
from bpkd.convert.causes import likely_causes
from bpkd.modeling import build_student
from tests.helpers.checkpoints import COUNTER, Buffer, Shapes, network_keys
from tests.helpers.tiny_networks import tiny_cfg


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def test_backbone_loading_is_strict(tmp_path: Path) -> None:
    model = build_student(tiny_cfg())
    backbone, path = model.backbone, tmp_path / "w.pth"
    good = backbone.state_dict()
    load_backbone(backbone, saved(path, {k: v for k, v in good.items() if not k.endswith(COUNTER)}))
    load_backbone(backbone, saved(path, {"state_dict": {f"backbone.{k}": v for k, v in good.items()}}))
    key = "layer2.0.conv1.weight"
    with pytest.raises(CheckpointError, match=f"MODEL.BACKBONE.WEIGHTS .*1 keys of the network are missing: {key}"):
        load_backbone(backbone, saved(path, {k: v for k, v in good.items() if k != key}))
    with pytest.raises(CheckpointError, match="1 keys of the file are unexpected: layer2.9.x"):
        load_backbone(backbone, saved(path, {**good, "layer2.9.x": torch.zeros(1)}))
    wide = build_student(tiny_cfg("MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 0.25)).backbone
    with pytest.raises(CheckpointError, match="first stage has 16 channels, the network's 8 .*WIDTH_MULTIPLIER"):
        load_backbone(backbone, saved(path, wide.state_dict()))
    with pytest.raises(CheckpointError, match=r"holds a whole network .*MODEL\.WEIGHTS"):
        load_backbone(backbone, saved(path, model.state_dict()))
    with pytest.raises(CheckpointError, match="here .*expected a file of OpenMMLab.* got keys like a"):
        load_backbone(backbone, saved(path, {"a": torch.zeros(1)}), source_name="here")
    with pytest.raises(CheckpointError, match=r"holds a backbone alone .*MODEL\.BACKBONE\.WEIGHTS"):
        load_strict(model, saved(path, good))


@pytest.mark.parametrize("style", ["0.3", "1.x"])
def test_students_are_taken_out_of_distillation_checkpoints(
    style: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_student(tiny_cfg())
    student, teacher = (
        ("architecture.model.", "distiller.teacher.") if style == "0.3" else ("architecture.", "teacher.")
    )
    state = {f"{student}{k}": v + 1 for k, v in model.state_dict().items() if not k.endswith(COUNTER)}
    state.update({f"{teacher}{k}": v for k, v in model.state_dict().items()})
    path = saved(tmp_path / "w.pth", {"meta": {}, "state_dict": {f"module.{k}": v for k, v in state.items()}})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with caplog.at_level("INFO"):
        info = load_strict(model, path)
    assert f"took the student, left out {len(before)} weights of the distillation" in caplog.text
    assert len(info.dropped) == len(before)
    for key, value in model.state_dict().items():
        assert key.endswith(COUNTER) or torch.equal(value, before[key] + 1), key
    state[f"{student}extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="1 keys of the file are unexpected: extra"):
        load_strict(model, saved(tmp_path / "w.pth", {"state_dict": state}))


def test_a_teachers_auxiliary_head_is_dropped(tmp_path: Path) -> None:
    model = build_student(tiny_cfg())
    path = saved(tmp_path / "w.pth", model.state_dict())
    model.drop_auxiliary()
    assert len(load_strict(model, path, drop=("auxiliary_head.",)).dropped) == 8


def classes(keys: Shapes, count: int) -> Shapes:
    return {k: [count, *v[1:]] if ".conv_seg." in k else v for k, v in keys.items()}


@pytest.mark.parametrize(
    ("file", "network", "cause"),
    [
        ("pspnet_r101", "pspnet_r18", "ResNet-101, the network's a ResNet-18: set MODEL.RESNET_V1C.DEPTH 101"),
        ("variant_pspnet_r18b", "pspnet_r18", r'plain 7x7 stem \("R18b".*set MODEL.RESNET_V1C.DEEP_STEM False'),
        ("pspnet_r18", "variant_pspnet_r18b", "set MODEL.RESNET_V1C.DEEP_STEM True"),
        ("isanet_r18", "pspnet_r18", r"decode head of ISANet \(MODEL.SEM_SEG_HEAD.NAME ISAHead\), .* PSPNet"),
        ("deeplabv3plus_r101", "pspnet_r101", "decode head of DeepLabV3+"),
        ("hrnetv2p_w48", "hrnetv2p_w18s", r"HRNet-W48, the network's HRNet-W18-small \(v2\) \(MODEL.HRNET.VARIANT"),
        ("hrnetv2p_w48", "pspnet_r101", "backbone HRNet, the network ResNet"),
        ("deeplabv3plus_mv2", "deeplabv3plus_r101", "backbone MobileNetV2, the network ResNet"),
        ("variant_deeplabv3plus_mv2_c128", "deeplabv3plus_mv2",
         "128 channels, the network's 512: .*CHANNELS 128 .*configs/networks/deeplabv3plus_mv2_c128.yaml"),
        ("variant_deeplabv3plus_mv2_c128", "deeplabv3plus_mv2", "set MODEL.AUX_HEAD.CHANNELS 64"),
        ("pspnet_r101:150", "pspnet_r101:19", r"150 classes \(ADE20K\), model has 19 \(Cityscapes\)"),
        ("pspnet_r18:59", "isanet_r18:60", r"59 classes \(Pascal-Context-59\), model has 60 \(Pascal-Context-60\)"),
        ("pspnet_r18:21", "pspnet_r18:171", r"21 classes \(Pascal VOC\), model has 171 \(COCO-Stuff\)"),
        ("pspnet_r18:11", "pspnet_r18:7", r"11 classes \(CamVid\), model has 7\."),
        ("pspnet_r18:no_aux", "pspnet_r18", "set MODEL.AUX_HEAD.LOSS_WEIGHT 0.0"),
        ("pspnet_r18", "pspnet_r18:no_aux", "set MODEL.AUX_HEAD.LOSS_WEIGHT 0.4"),
    ],
)  # fmt: skip
def test_likely_causes(file: str, network: str, cause: str) -> None:
    def shapes(name: str) -> dict[str, tuple[int, ...]]:
        name, _, change = name.partition(":")
        keys = network_keys(name)
        if change == "no_aux":
            keys = {k: v for k, v in keys.items() if not k.startswith("auxiliary_head.")}
        elif change:
            keys = classes(keys, int(change))
        return {k: tuple(v) for k, v in keys.items()}

    causes = ". ".join(likely_causes(shapes(file), shapes(network))) + "."
    assert re.search(cause.replace("V3+", r"V3\+"), causes), causes
    assert likely_causes(shapes(file), shapes(file)) == []


def test_class_names_of_the_file_come_before_guesses() -> None:
    ours, theirs = network_keys("pspnet_r18"), classes(network_keys("pspnet_r18"), 11)
    shapes = [{k: tuple(v) for k, v in keys.items()} for keys in (theirs, ours)]
    assert "11 classes (CamVid)" in likely_causes(*shapes, ["Sky", "Building"])[0]
    assert "11 classes (cat, dog, ...)" in likely_causes(*shapes, ["cat", "dog"])[0]


def test_a_training_checkpoint_of_openmmlab_loads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The layout of mmengine 0.10, its class not importable when the file is read."""
    module = types.ModuleType("mmengine_like.logging.history_buffer")
    kind = type("HistoryBuffer", (Buffer,), {"__module__": module.__name__})
    module.HistoryBuffer = kind  # type: ignore[attr-defined]
    model = build_student(tiny_cfg())
    content = {
        "meta": {
            "dataset_meta": {"classes": ("a", "b", "c", "d", "e"), "palette": np.zeros((5, 3))},
            "epoch": np.int64(3),
        },
        "state_dict": {k: v + 1 for k, v in model.state_dict().items()},
        "message_hub": {"log_scalars": OrderedDict(loss=kind()), "runtime_info": OrderedDict(iter=3)},
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1).state_dict(),
    }
    names = ("mmengine_like", "mmengine_like.logging", module.__name__)
    sys.modules.update({name: module if name == module.__name__ else types.ModuleType(name) for name in names})
    try:
        torch.save(content, tmp_path / "iter_80000.pth")
    finally:
        for name in names:
            del sys.modules[name]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with caplog.at_level("INFO"):
        info = load_strict(model, str(tmp_path / "iter_80000.pth"))
    assert info.classes == ("a", "b", "c", "d", "e")
    assert "HistoryBuffer" in caplog.text
    assert not any(name.startswith("mmengine_like") for name in sys.modules)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] + 1), key
    del content["state_dict"]["decode_head.conv_seg.bias"]
    content.pop("message_hub")
    torch.save(content, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match="missing"):
        load_strict(model, str(tmp_path / "short.pth"))


def test_flipped_bytes_and_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model, path = build_student(tiny_cfg()), tmp_path / "w.pth"
    state = model.state_dict()
    saved(path, {"model": state})
    data = bytearray(path.read_bytes())
    middle = data.index(state["backbone.layer4.1.conv2.weight"].numpy().tobytes()[:64])
    data[middle : middle + 8] = b"\x00" * 8  # finite numbers, but not those that were written
    path.write_bytes(data)
    with pytest.raises(ValueError, match="the file is damaged"):
        load_strict(model, str(path))
    broken = {**state, "decode_head.conv_seg.bias": torch.full((5,), float("nan"))}
    with pytest.raises(ValueError, match=r"1 weights that are not finite, first decode_head\.conv_seg\.bias"):
        load_strict(model, saved(path, {"model": broken}))


def test_heads_and_networks_of_others_are_named(tmp_path: Path) -> None:
    ours = {k: tuple(v.shape) for k, v in build_student(tiny_cfg()).state_dict().items()}
    own = {k.replace("psp_modules", "mine"): v for k, v in ours.items()}
    (cause,) = likely_causes(ours, own)
    assert cause == "the decode heads differ: the file has PSPNet, the network one that is not known here"
    state = {"backbone.conv1.weight": torch.zeros(1), "backbone.layer4.0.conv1.weight": torch.zeros(1)}
    state["classifier.4.bias"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="a whole segmentation network of torchvision"):
        load_strict(build_student(tiny_cfg()), saved(tmp_path / "w.pth", state))
