"""DeepLabV3+ on MobileNetV2 and ResNet."""

from __future__ import annotations

import pytest
import torch

from bpkd.modeling import DeepLabV3PlusHead, MobileNetV2
from tests.helpers.architecture import ArchitectureSuite, network
from tests.helpers.golden_networks import golden_of


class TestDeepLabV3Plus(ArchitectureSuite):
    config, stride = "deeplabv3plus_mv2", 4
    small = (
        *("MODEL.MOBILENET_V2.WIDTH_MULTIPLIER", 0.125, "MODEL.SEM_SEG_HEAD.CHANNELS", 16),
        *("MODEL.SEM_SEG_HEAD.LOW_LEVEL_CHANNELS", 8, "MODEL.AUX_HEAD.CHANNELS", 8),
    )
    golden = golden_of("deeplabv3plus")


@pytest.mark.parametrize(("output_stride", "strides"), [(8, [4, 8, 8, 8]), (16, [4, 8, 16, 16]), (32, [4, 8, 16, 32])])
def test_output_strides_of_mobilenet(output_stride: int, strides: list[int]) -> None:
    net = MobileNetV2(width_multiplier=0.125, output_stride=output_stride).eval()
    maps = net(torch.rand(1, 3, 64, 96))
    assert [s.stride for s in net.output_shape().values()] == strides
    assert [tuple(m.shape[2:]) for m in maps.values()] == [(64 // s, 96 // s) for s in strides]


def test_widths_of_mobilenet_are_multiples_of_eight() -> None:
    with torch.device("meta"):
        net = MobileNetV2(width_multiplier=0.35)
    # the original's widths at 0.35: 8, 8, 16, 24, 32, 56, 112
    assert [s.channels for s in net.output_shape().values()] == [8, 16, 32, 112]
    for arguments, key in (({"width_multiplier": 0}, "WIDTH_MULTIPLIER"), ({"output_stride": 4}, "OUTPUT_STRIDE")):
        with pytest.raises(ValueError, match=key):
            MobileNetV2(**arguments)


def test_the_pyramid_reads_at_its_rates() -> None:
    """A branch of rate r sees the position itself and those at distance r, and nothing between."""
    head = DeepLabV3PlusHead(
        in_features=["low", "last"], in_channels=[4, 4], channels=4, num_classes=2, rates=(3, 6), low_level_channels=4
    ).eval()
    x = torch.rand(1, 4, 31, 31, requires_grad=True)
    for weight in head.parameters():
        weight.data.abs_()  # no ReLU cuts anything off
    for module, reach in zip(head.aspp_modules, (3, 6), strict=True):
        grad = torch.autograd.grad(module(x)[0, :, 15, 15].sum(), x)[0].abs().sum((0, 1))
        rows = grad.sum(1).nonzero().flatten().tolist()
        assert rows == [15 - reach, 15, 15 + reach]


def test_the_head_wants_two_stages() -> None:
    with pytest.raises(ValueError, match=r"reads 2 stages \(low level, last\), got \['layer7'\]"):
        network("deeplabv3plus_mv2", "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["layer7"])
