"""HRNet with the FCN head."""

from __future__ import annotations

import pytest
import torch

from bpkd.modeling import HRNet
from tests.helpers.architecture import ArchitectureSuite
from tests.helpers.golden_networks import golden_of


class TestHRNet(ArchitectureSuite):
    config, stride = "hrnet_w18s", 4
    small = ("MODEL.HRNET.WIDTH_MULTIPLIER", 0.125, "MODEL.SEM_SEG_HEAD.CHANNELS", 16)
    golden = golden_of("hrnet")

    def auxiliary(self) -> tuple[object, ...]:
        return ("MODEL.AUX_HEAD.IN_FEATURE", "branch2", "MODEL.AUX_HEAD.CHANNELS", 8)


@pytest.mark.parametrize(("variant", "channels"), [("w18", 18), ("w32", 32), ("w40", 40)])
def test_other_widths(variant: str, channels: int) -> None:
    with torch.device("meta"):
        net = HRNet(variant)
    assert [s.channels for s in net.output_shape().values()] == [channels * 2**b for b in range(4)]
    assert (len(net.stage3), len(net.stage4), len(net.stage2[0].branches[0])) == (4, 3, 4)


@pytest.mark.parametrize(("arguments", "key"), [(("w64",), "VARIANT"), (("w48",), "WIDTH_MULTIPLIER")])
def test_wrong_arguments_name_their_key(arguments: tuple[str], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        HRNet(*arguments, width_multiplier=-1 if key.startswith("W") else 1.0)


def test_branches_of_a_single_position() -> None:
    """Up to 8 pixels a side every coarser branch is 1x1: its value is repeated, and nothing is summed into that."""
    torch.manual_seed(0)
    net = HRNet("w18s", width_multiplier=0.125).eval()
    with torch.no_grad():
        maps = net(torch.rand(1, 3, 8, 8))
    assert [tuple(m.shape[2:]) for m in maps.values()] == [(2, 2), (1, 1), (1, 1), (1, 1)]
    assert all(m.isfinite().all() for m in maps.values())
