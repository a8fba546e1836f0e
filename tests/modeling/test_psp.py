"""PSPNet, and what all heads share."""

from __future__ import annotations

import pytest
import torch

from bpkd.modeling import FCNHead, PSPHead, build_student
from tests.helpers.architecture import ArchitectureSuite
from tests.helpers.golden_networks import golden_of
from tests.helpers.tiny_networks import tiny_cfg


class TestPSPNet(ArchitectureSuite):
    config, stride = "pspnet_r18", 8
    small = (
        *("MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 0.0625, "MODEL.SEM_SEG_HEAD.CHANNELS", 16),
        *("MODEL.AUX_HEAD.CHANNELS", 8),
    )
    golden = golden_of("pspnet")
    lacks = frozenset({"script", "onnx_any_size"})


def head(**changes: object) -> PSPHead:
    arguments = {"in_feature": "x", "in_channels": 8, "channels": 6, "num_classes": 3, **changes}
    return PSPHead(**arguments).eval()


def test_logits_keep_the_size_of_the_map() -> None:
    logits, decoded = head()({"x": torch.rand(2, 8, 7, 5)})
    assert logits.shape == (2, 3, 7, 5)
    assert decoded.shape == (2, 6, 7, 5)


def test_the_pyramid_reads_the_whole_image() -> None:
    """Bin 1 makes every score depend on every position, bins alone do not: a 3x3 head without it would not."""
    x = torch.rand(1, 8, 12, 12, requires_grad=True)
    for scales, everywhere in (((1,), True), ((6,), False)):
        grad = torch.autograd.grad(head(pool_scales=scales)({"x": x})[0][0, 0, 0, 0], x)[0]
        assert bool((grad.abs().sum(1) > 0).all()) is everywhere


def test_align_corners_reaches_the_pyramid() -> None:
    torch.manual_seed(0)
    one, x = head(), {"x": torch.rand(1, 8, 7, 9)}
    two = head(align_corners=True)
    two.load_state_dict(one.state_dict())
    assert (one(x)[0] - two(x)[0]).abs().max() > 1e-5


def test_dropout_takes_whole_channels_and_not_the_decoded_map() -> None:
    torch.manual_seed(0)
    psp = head(dropout=0.5).train()
    with torch.no_grad():
        psp.conv_seg.weight.copy_(torch.eye(3, 6)[..., None, None])
    logits, decoded = psp({"x": torch.rand(4, 8, 6, 6) + 1})
    dropped = logits.flatten(2).abs().sum(2) == 0
    kept = decoded[:, :3] * 2
    assert dropped.any()
    assert not dropped.all()
    torch.testing.assert_close(logits[~dropped], kept[~dropped])


def test_classifier_initialisation() -> None:
    torch.manual_seed(0)
    for one in (head(channels=512, num_classes=150), FCNHead(
        in_features=["x"], in_channels=[4], channels=512, num_classes=150
    )):  # fmt: skip
        assert float(one.conv_seg.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
        assert float(one.conv_seg.bias.detach().abs().max()) == 0


@pytest.mark.parametrize("key", ["MODEL.SEM_SEG_HEAD.IN_FEATURES", "MODEL.AUX_HEAD.IN_FEATURE"])
def test_unknown_stage_lists_the_stages(key: str) -> None:
    value = ["res5"] if key.endswith("S") else "res5"
    with pytest.raises(ValueError, match=f"{key}: expected one of layer1.*'res5'"):
        build_student(tiny_cfg(key, value))
