"""The dilated ResNet: sizes, widths, initialisation, norms."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from bpkd.modeling import ResNetV1c
from bpkd.modeling.layers import ConvBlock, CpuSyncBatchNorm, make_norm
from tests.helpers.processes import spawn


@pytest.mark.parametrize(("output_stride", "strides"), [(8, (4, 8, 8, 8)), (16, (4, 8, 16, 16)), (32, (4, 8, 16, 32))])
@pytest.mark.parametrize("deep_stem", [True, False])
def test_maps_have_the_stated_size(output_stride: int, strides: tuple[int, ...], deep_stem: bool) -> None:
    net = ResNetV1c(18, width_multiplier=0.125, output_stride=output_stride, deep_stem=deep_stem).eval()
    maps = net(torch.rand(1, 3, 65, 97))
    shapes = net.output_shape()
    assert list(maps) == ["layer1", "layer2", "layer3", "layer4"]
    for (name, value), stride in zip(maps.items(), strides, strict=True):
        assert shapes[name].stride == stride
        # ceil at each halving is ceil at the end
        assert value.shape[1:] == (
            shapes[name].channels, math.ceil(65 / stride), math.ceil(97 / stride)
        )  # fmt: skip


@pytest.mark.parametrize(
    ("depth", "blocks", "channels"),
    [(18, 8, 512), (34, 16, 512), (50, 16, 2048), (101, 33, 2048), (152, 50, 2048)],
)
def test_depths(depth: int, blocks: int, channels: int) -> None:
    with torch.device("meta"):
        net = ResNetV1c(depth, width_multiplier=0.25)
    assert sum(len(getattr(net, f"layer{i}")) for i in range(1, 5)) == blocks
    assert net.output_shape()["layer4"].channels == channels // 4


def test_first_block_of_a_dilated_stage_uses_half_the_rate() -> None:
    with torch.device("meta"):
        net = ResNetV1c(50, width_multiplier=0.125)
    rates = [[block.conv2.dilation[0] for block in stage] for stage in (net.layer3, net.layer4)]
    assert rates == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]


@pytest.mark.parametrize("zero", [True, False])
def test_initialisation(zero: bool) -> None:
    torch.manual_seed(0)
    net = ResNetV1c(18, zero_init_residual=zero)
    block = net.layer3[1]
    assert float(block.bn2.weight.detach().abs().max()) == (0.0 if zero else 1.0)
    assert float(block.bn1.weight.detach().min()) == 1.0
    fan_out = 256 * 9
    assert float(block.conv1.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"depth": 20}, "DEPTH"),
        ({"depth": 18, "output_stride": 4}, "OUTPUT_STRIDE"),
        ({"depth": 18, "width_multiplier": 0}, "WIDTH_MULTIPLIER"),
        ({"depth": 18, "norm": "Batch"}, "NORM"),
    ],
)
def test_wrong_arguments_name_their_key(arguments: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        ResNetV1c(**arguments)


def test_one_value_per_channel_is_explained() -> None:
    block = ConvBlock(4, 8, 1, norm="BN")
    with pytest.raises(RuntimeError, match="2 images or more"):
        block(torch.rand(1, 4, 1, 1))
    with pytest.raises(RuntimeError, match="2 images or more"):
        ConvBlock(4, 8, 1, norm="CpuSyncBN")(torch.rand(1, 4, 1, 1))  # alone, there is no other process
    assert block(torch.rand(2, 4, 1, 1)).shape == (2, 8, 1, 1)
    assert block.eval()(torch.rand(1, 4, 1, 1)).shape == (1, 8, 1, 1)
    assert ConvBlock(4, 8, 1, norm="FrozenBN")(torch.rand(1, 4, 1, 1)).shape == (1, 8, 1, 1)


def _normalise(norm: nn.Module, x: torch.Tensor, start: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    torch.nn.init.uniform_(norm.weight)
    x = x.clone().requires_grad_()
    out = norm(x)
    weights = torch.arange(start, start + x.numel()).reshape(x.shape).sin()
    (out * weights).sum().backward()
    return {
        "out": out.detach(),
        "input_grad": x.grad,
        "weight_grad": norm.weight.grad,
        "bias_grad": norm.bias.grad,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
    }


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    x = torch.load(f"{folder}/x.pt")
    part = x[:1] if rank == 0 else x[1:]
    start = 0 if rank == 0 else x[:1].numel()
    torch.save(_normalise(CpuSyncBatchNorm(4), part, start), f"{folder}/{rank}.pt")
    dist.barrier()  # nobody leaves while the other still talks
    dist.destroy_process_group()


def test_sync_norm_on_cpu_equals_the_joint_batch(tmp_path: Path) -> None:
    """Two processes with 1 and 2 images against one with 3, values and gradients."""
    x = torch.randn(3, 4, 5, 3, generator=torch.Generator().manual_seed(1)) + 10
    torch.save(x, tmp_path / "x.pt")
    spawn(_worker, (str(tmp_path),), 2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    joint = _normalise(make_norm("BN", 4), x, 0)
    for key in ("out", "input_grad"):
        torch.testing.assert_close(torch.cat([p[key] for p in parts]), joint[key], rtol=1e-4, atol=1e-5)
    for key in ("weight_grad", "bias_grad"):
        torch.testing.assert_close(parts[0][key] + parts[1][key], joint[key], rtol=1e-4, atol=1e-5)
    for key in ("running_mean", "running_var"):
        torch.testing.assert_close(parts[0][key], joint[key], rtol=1e-5, atol=1e-6)


def test_a_narrow_shortcut_in_channels_last_survives_large_maps() -> None:
    """In a process of its own: oneDNN crashes in the plain convolution's backward pass."""
    code = """
import torch
from torch import nn
from bpkd.modeling.backbones.blocks import BasicBlock
torch.manual_seed(0)
block = BasicBlock(8, 16, norm="BN", stride=2).to(memory_format=torch.channels_last)
x = torch.randn(2, 8, 65, 64).contiguous(memory_format=torch.channels_last).requires_grad_()
shortcut = block.train().downsample
for _ in range(5):
    block(x).sum().backward()
want = shortcut[1](shortcut[0](x.detach()))
assert type(shortcut) is not nn.Sequential and want.shape == (2, 16, 33, 32)
torch.testing.assert_close(shortcut(x), want, rtol=0, atol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
