"""tools/convert_checkpoint.py for SOLOv2: mmdetection's and the authors' files, and ImageNet weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from bpkd.convert import CheckpointError, load_backbone, load_strict
from tests.helpers.golden_solov2 import REPO, network, table
from tests.helpers.tools import load_tool

TOOL = load_tool("convert_checkpoint")
NAME = "light_r18"
CONFIG = str(REPO / "configs" / "coco" / f"solov2_{NAME}.yaml")


def mmdet_state(name: str = NAME) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        key: torch.tensor(7) if key.endswith("num_batches_tracked") else torch.rand(shape, generator=generator)
        for key, shape in table(f"keys_mmdet_solov2_{name}").items()
    }


def authors_name(key: str) -> str:
    """The name of mmdetection's key in a file of the authors (spec section 10)."""
    for theirs, ours in (
        (r"mask_feat_head.conv_pred.0.", r"^mask_head\.mask_feature_head\.conv_pred\."),
        (r"mask_feat_head.", r"^mask_head\.mask_feature_head\."),
        (r"bbox_head.cate_convs.", r"^mask_head\.cls_convs\."),
        (r"bbox_head.solo_cate.", r"^mask_head\.conv_cls\."),
        (r"bbox_head.solo_kernel.", r"^mask_head\.conv_kernel\."),
        (r"bbox_head.kernel_convs.", r"^mask_head\.kernel_convs\."),
    ):
        if re.match(ours, key):
            return re.sub(ours, theirs, key)
    return key


def old_offsets(key: str) -> str:
    """Names of mmcv before version 2: a layer's `<name>.conv_offset.*` was `<name>_offset.*`."""
    return key.replace(".conv_offset.", "_offset.")


def convert(tmp_path: Path, state: dict[str, Any], *options: str, config: str = CONFIG) -> tuple[int, dict[str, Any]]:
    source, target = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    torch.save({"meta": {"CLASSES": [f"c{i}" for i in range(80)]}, "state_dict": state}, source)
    code = TOOL.main([str(source), str(target), "--config-file", config, *options])
    return code, torch.load(target, weights_only=True) if code == 0 else {}


@pytest.mark.parametrize("who", ["mmdet", "solo", "auto"])
def test_a_file_becomes_ours_and_loads_strictly(who: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = mmdet_state()
    given = {authors_name(k): v for k, v in state.items()} if who == "solo" else state
    code, done = convert(tmp_path, given, "--source", who)
    assert code == 0
    out = capsys.readouterr().out
    assert re.search(r"sha256 +[0-9a-f]{64}", out)
    assert "80: c0" in out
    assert "156 mapped, 20 dropped" in out
    names = table(f"keymap_mmdet_to_d2_{NAME}")
    assert set(done["model"]) == set(names.values())
    for key, ours in names.items():
        assert torch.equal(done["model"][ours], state[key])
    load_strict(network(NAME), str(tmp_path / "ours.pth"))


def test_old_names_of_offsets_are_the_same_file(tmp_path: Path) -> None:
    from bpkd.convert.rules import recognise, rename

    state = {k: torch.tensor(float(i)) for i, k in enumerate(table("keys_mmdet_solov2_x101_dcn"))}
    old = {old_offsets(k): v for k, v in state.items()}
    assert sum(a != b for a, b in zip(state, old, strict=True)) == 92  # weight and bias of 46
    new = rename(state, recognise(state)).state
    assert rename(old, recognise(old)).state == new
    authors = {authors_name(k): v for k, v in old.items()}
    assert recognise(authors).source == "solo"
    assert rename(authors, recognise(authors)).state == new


@pytest.mark.parametrize("change", ["missing", "left over", "other head"])
def test_anything_that_does_not_fit_is_refused(change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = mmdet_state()
    if change == "missing":
        del state["mask_head.conv_kernel.bias"]
    elif change == "left over":
        state["mask_head.extra.weight"] = torch.zeros(1)
    config = str(REPO / "configs" / "coco" / "solov2_r50.yaml") if change == "other head" else CONFIG
    code, _ = convert(tmp_path, state, "--source", "mmdet", config=config)
    assert code == 2
    error = capsys.readouterr().err
    assert "does not fit the network" in error
    assert {"missing": "ins_head.kernel_pred.bias", "left over": "mask_head.extra.weight",
            "other head": "another shape"}[change] in error  # fmt: skip


def test_it_cannot_become_a_segmentation_network_of_openmmlab(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = convert(tmp_path, mmdet_state(), "--to", "mmseg")
    assert code == 2
    assert "expected a network with a decode head, got SOLOv2" in capsys.readouterr().err


def test_imagenet_weights_of_torchvision_start_a_backbone(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    path = tmp_path / "resnet18.pth"
    torch.save(theirs, path)
    bottom = network(NAME).backbone.bottom_up
    load_backbone(bottom, str(path))
    assert torch.equal(bottom.res3[0].shortcut.weight, theirs["layer2.0.downsample.0.weight"])
    assert torch.equal(bottom.res5[1].conv2.norm.running_var, theirs["layer4.1.bn2.running_var"])
    assert torch.equal(bottom.stem.conv1.weight, theirs["conv1.weight"])


def test_imagenet_weights_start_a_deformable_backbone_with_offsets_at_zero(tmp_path: Path) -> None:
    theirs = torchvision.models.resnext101_64x4d(weights=None).state_dict()
    path = tmp_path / "resnext.pth"
    torch.save(theirs, path)
    bottom = network("x101_dcn").backbone.bottom_up
    load_backbone(bottom, str(path))
    assert torch.equal(bottom.res4[22].conv2.weight, theirs["layer3.22.conv2.weight"])
    assert not bottom.res4[22].conv2.conv_offset.weight.any()


def test_imagenet_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet34.pth"
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"80 keys of the file are unexpected: res2\.2\.conv1\.weight"):
        load_backbone(network(NAME).backbone.bottom_up, str(path))
