"""Other projects' key names: what becomes what, what is dropped, what is refused, and what a refusal says."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from bpkd.convert import CheckpointError, RuleError, load_backbone
from bpkd.convert.architectures import architecture_keys
from bpkd.convert.rules import DETECTRON2, RULE_SETS, RuleSet, recognise, rename
from bpkd.modeling import MobileNetV2, ResNetV1c
from tests.helpers.checkpoints import COUNTER, GOLDEN, Shapes, network_keys

OTHERS = json.loads((GOLDEN / "convert" / "keys.json").read_text())


def backbone_keys(name: str) -> Shapes:
    keys = network_keys(name)
    return {k.removeprefix("backbone."): v for k, v in keys.items() if k.startswith("backbone.")}


def without_counters(keys: Shapes) -> Shapes:
    return {k: list(v) for k, v in keys.items() if not k.endswith(COUNTER)}


def weights(keys: Shapes) -> dict[str, Tensor]:
    return {k: torch.empty(v, device="meta") for k, v in keys.items()}


def torchvision_keys(name: str) -> Shapes:
    with torch.device("meta"):
        return {k: list(v.shape) for k, v in getattr(torchvision.models, name)().state_dict().items()}


def mmpose_stem(keys: Shapes) -> Shapes:
    parts = {0: "0.conv", 1: "0.bn", 3: "1.conv", 4: "1.bn", 6: "2.conv", 7: "2.bn"}
    out = {}
    for key, shape in keys.items():
        for ours, theirs in parts.items():
            if key.startswith(f"stem.{ours}."):
                key = key.replace(f"stem.{ours}.", f"stem.{theirs}.")
                break
        out[key] = shape
    return out


def prefixed(keys: Shapes, **heads: list[int]) -> Shapes:
    return {**{f"backbone.{k}": v for k, v in keys.items()}, **{k.replace("__", "."): v for k, v in heads.items()}}


def detectron2_keys(name: str) -> Shapes:
    state = {k: v for k, v in weights(torchvision_keys(name)).items() if not k.startswith("fc.")}
    return {k: list(v.shape) for k, v in rename(state, DETECTRON2).state.items()}


HRNET_SURPLUS = OTHERS["hrnet_w18_small_v2_surplus"]
FC = {"head__fc__weight": [1000, 512], "head__fc__bias": [1000]}
# Name -> (keys of their file, our network whose backbone it fits, --source, what is dropped).
FILES: dict[str, tuple[Shapes, str, str, set[str]]] = {
    "torchvision resnet18": (torchvision_keys("resnet18"), "variant_pspnet_r18b", "torchvision", {"fc"}),
    "timm resnet18": (torchvision_keys("resnet18"), "variant_pspnet_r18b", "timm", {"fc"}),
    "torchvision mobilenet_v2": (
        torchvision_keys("mobilenet_v2"), "deeplabv3plus_mv2", "torchvision", {"features.18", "classifier.1"},
    ),
    "timm mobilenetv2_100": (
        OTHERS["timm_mobilenetv2_100"], "deeplabv3plus_mv2", "timm", {"conv_head", "bn2", "classifier"},
    ),
    "timm resnet101c": (OTHERS["timm_resnet101c"], "pspnet_r101", "timm", {"fc"}),
    "hrnet w18 small v2": (
        {**backbone_keys("hrnetv2p_w18s"), **HRNET_SURPLUS}, "hrnetv2p_w18s", "hrnet",
        {"incre_modules", "downsamp_modules", "final_layer", "classifier"},
    ),
    "hrnet w48": (
        {**backbone_keys("hrnetv2p_w48"), "classifier.weight": [1000, 2048]}, "hrnetv2p_w48", "hrnet", {"classifier"},
    ),
    "mmcls hrnet": (prefixed(backbone_keys("hrnetv2p_w18s"), **FC), "hrnetv2p_w18s", "mmcls", {"head.fc"}),
    "open-mmlab resnet18_v1c": (
        {**backbone_keys("pspnet_r18"), "fc.weight": [1000, 512]}, "pspnet_r18", "mmcls", {"fc"},
    ),
    "mmcls resnet18_v1c": (prefixed(backbone_keys("pspnet_r18"), **FC), "pspnet_r18", "mmcls", {"head.fc"}),
    "mmpose resnet101_v1c": (
        prefixed(mmpose_stem(backbone_keys("pspnet_r101")), **FC), "pspnet_r101", "mmcls", {"head.fc"},
    ),
    "mmcls resnet18": (prefixed(backbone_keys("variant_pspnet_r18b"), **FC), "variant_pspnet_r18b", "mmcls",
                       {"head.fc"}),
    "mmcls mobilenet_v2": (
        prefixed({**backbone_keys("deeplabv3plus_mv2"), "conv2.conv.weight": [1280, 320, 1, 1]}, **FC),
        "deeplabv3plus_mv2", "mmcls", {"backbone.conv2", "head.fc"},
    ),
    "detectron2 R-18.pkl": (
        {**detectron2_keys("resnet18"), "stem.fc.weight": [1000, 512], "stem.fc.bias": [1000]}, "variant_pspnet_r18b",
        "detectron2", {"stem.fc"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("source", ["named", "auto"])
@pytest.mark.parametrize("name", FILES)
def test_every_backbone_file_becomes_our_keys_and_nothing_is_left_over(name: str, source: str) -> None:
    keys, network, named, dropped = FILES[name]
    rules = recognise(keys, named if source == "named" else "auto")
    assert rules.part == "backbone"
    done = rename(weights(keys), rules)
    got = {k: list(v.shape) for k, v in done.state.items() if not k.endswith(COUNTER)}
    assert got == without_counters(backbone_keys(network))
    assert done.left_over == ()
    assert {".".join(k.split(".")[: d.count(".") + 1]) for k in done.dropped for d in dropped} >= dropped
    assert all(any(k.startswith(f"{d}.") for d in dropped) for k in done.dropped)
    assert len(done.mapped) + len(done.dropped) == len(keys)
    for key, value in weights(keys).items():  # each to its own, not merely the same set
        assert key in done.dropped or done.state[done.mapped[key]].shape == value.shape


@pytest.mark.parametrize("name", FILES)
def test_completeness_without_a_network(name: str) -> None:
    keys, network, named, _ = FILES[name]
    state = rename(weights(keys), recognise(keys, named)).state
    expected = architecture_keys(state)
    if "hrnet" in name:
        assert expected is None
        return
    assert expected is not None
    assert set(expected) == set(state)
    # A weight less is noticed, an unknown depth is no architecture.
    gone = next(k for k in state if k.startswith("layer4.1.") and "conv" in k)
    assert gone in (architecture_keys({k: v for k, v in state.items() if k != gone}) or [])
    if "layer7.0.conv.0.conv.weight" not in state:
        assert architecture_keys({k: v for k, v in state.items() if not k.startswith("layer3.1.")}) is None


# Neighbours of equal shape, which the comparison of shapes above cannot tell apart.
EXAMPLES = {
    "torchvision mobilenet_v2": {
        "features.1.conv.0.1.bias": "layer1.0.conv.0.bn.bias",
        "features.1.conv.2.running_var": "layer1.0.conv.1.bn.running_var",
        "features.3.conv.0.1.weight": "layer2.1.conv.0.bn.weight",
        "features.3.conv.1.1.weight": "layer2.1.conv.1.bn.weight",
        "features.17.conv.3.running_mean": "layer7.0.conv.2.bn.running_mean",
    },
    "timm mobilenetv2_100": {
        "bn1.weight": "conv1.bn.weight",
        "blocks.0.0.bn1.weight": "layer1.0.conv.0.bn.weight",
        "blocks.0.0.bn2.bias": "layer1.0.conv.1.bn.bias",
        "blocks.3.2.bn1.running_mean": "layer4.2.conv.0.bn.running_mean",
        "blocks.3.2.bn2.running_mean": "layer4.2.conv.1.bn.running_mean",
        "blocks.6.0.bn3.weight": "layer7.0.conv.2.bn.weight",
    },
    "timm resnet101c": {
        "conv1.0.weight": "stem.0.weight", "conv1.1.bias": "stem.1.bias", "conv1.3.weight": "stem.3.weight",
        "conv1.4.bias": "stem.4.bias", "conv1.6.weight": "stem.6.weight", "bn1.running_var": "stem.7.running_var",
    },
    "mmpose resnet101_v1c": {
        "backbone.stem.0.bn.weight": "stem.1.weight", "backbone.stem.1.bn.weight": "stem.4.weight",
        "backbone.stem.2.bn.bias": "stem.7.bias", "backbone.stem.1.conv.weight": "stem.3.weight",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_key_goes_to_its_own_place(name: str) -> None:
    keys, _, source, _ = FILES[name]
    mapped = rename(weights(keys), recognise(keys, source)).mapped
    assert {key: mapped[key] for key in EXAMPLES[name]} == EXAMPLES[name]


def test_what_no_rule_names_is_left_over() -> None:
    keys = {**torchvision_keys("mobilenet_v2"), "features.3.conv.9.weight": [1], "extra": [1]}
    done = rename(weights(keys), recognise(keys))
    assert done.left_over == ("features.3.conv.9.weight", "extra")
    assert {"features.3.conv.9.weight", "extra"} <= set(done.state)


def test_another_source_than_said_is_explained() -> None:
    with pytest.raises(RuleError, match="looks like timm's MobileNetV2: --source timm"):
        recognise(OTHERS["timm_mobilenetv2_100"], "torchvision")
    with pytest.raises(RuleError, match="looks like torchvision's ResNet: --source torchvision"):
        recognise(torchvision_keys("resnet18"), "mmseg")
    with pytest.raises(RuleError, match="expected a file of OpenMMLab, torchvision, timm or HRNet, got keys like some"):
        recognise(["some.weight"])


def test_pooled_shortcuts_are_refused_with_the_reason() -> None:
    keys = OTHERS["timm_resnet18d_excerpt"]
    with pytest.raises(RuleError, match=r"layer2.0.downsample.2.weight cannot be converted: .*pool.*plain or the 'c'"):
        rename(weights(keys), recognise(keys))


def test_two_keys_for_one_weight_are_refused() -> None:
    rules = RuleSet("x", "x", (), ((r"a\.", "c."), (r"b\.", "c.")))
    with pytest.raises(RuleError, match=r"two keys of the file mean c\.w"):
        rename(weights({"a.w": [1], "b.w": [1]}), rules)


def test_each_rule_set_is_covered_by_a_file() -> None:
    used = {recognise(keys, source).label for keys, _, source, _ in FILES.values()}
    used |= {"a segmentation network of OpenMMLab"}
    used |= {"Caffe2's ResNet (MSRA, Detectron1)"}  # refused: tests/inputs/test_weights.py
    used |= {"mmdetection's SOLOv2", "the SOLOv2 of its authors"}  # tests/convert/test_solov2_convert.py
    assert used == {rules.label for rules in RULE_SETS}


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet101c", "resnet18", "hrnet_w48", "hrnet_w18_small_v2"])
def test_key_lists_equal_timms_own(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is no requirement; its key lists are in tests/golden/convert")
    with torch.device("meta"):
        keys = {k: list(v.shape) for k, v in timm.create_model(name, pretrained=False).state_dict().items()}
    network = {"mobilenetv2_100": "deeplabv3plus_mv2", "resnet101c": "pspnet_r101", "resnet18": "variant_pspnet_r18b"}
    ours = network.get(name) or f"hrnetv2p_{'w48' if name.endswith('48') else 'w18s'}"
    done = rename(weights(keys), recognise(keys))
    assert {k: list(v.shape) for k, v in done.state.items()} == backbone_keys(ours)
    if f"timm_{name}" in OTHERS:
        assert without_counters(keys) == OTHERS[f"timm_{name}"]


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for key, value in model.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
        elif key.endswith("running_var") or (value.dim() == 1 and key.endswith("weight")):
            value.uniform_(0.5, 1.5)
    return model.eval()


def test_torchvisions_mobilenet_computes_the_same_as_ours(tmp_path: Path) -> None:
    theirs = randomised(torchvision.models.mobilenet_v2())
    torch.save(theirs.state_dict(), tmp_path / "mobilenet_v2-b0353104.pth")
    ours = MobileNetV2(output_stride=32).eval()
    info = load_backbone(ours, str(tmp_path / "mobilenet_v2-b0353104.pth"))
    assert len(info.dropped) == 8
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)["layer7"], theirs.features[:18](x), rtol=1e-5, atol=1e-6)


def test_torchvisions_resnet_computes_the_same_as_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs, path = randomised(torchvision.models.resnet18()), tmp_path / "resnet18.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, path)  # wrapped
    ours = ResNetV1c(18, deep_stem=False, output_stride=32).eval()
    with caplog.at_level(logging.INFO):
        load_backbone(ours, str(path))
    assert "left out 2 weights that are no part of it (fc)" in caplog.text
    theirs.avgpool, theirs.fc = nn.Identity(), nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)["layer4"].flatten(1), theirs(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(CheckpointError, match=r"plain 7x7 stem .*MODEL.RESNET_V1C.DEEP_STEM False"):
        load_backbone(ResNetV1c(18), str(path))


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet50c"])
def test_timms_networks_compute_the_same_as_ours(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is no requirement")
    theirs = randomised(timm.create_model(name, pretrained=False))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = (MobileNetV2(output_stride=32) if "mobile" in name else ResNetV1c(50, output_stride=32)).eval()
    load_backbone(ours, str(tmp_path / "w.pth"))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = theirs.blocks(theirs.bn1(theirs.conv_stem(x))) if "mobile" in name else theirs.forward_features(x)
        got = list(ours(x).values())[-1]
    assert float((got - want).abs().max()) <= 1e-5 * float(want.std())
