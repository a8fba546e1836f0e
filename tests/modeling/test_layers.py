"""Pooling to several grids as one matrix product, beside torch's adaptive pooling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bpkd.modeling.layers import pyramid_pool

SCALES = (1, 2, 3, 6)


@pytest.mark.parametrize("size", [(64, 64), (45, 60), (7, 5), (1, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pyramid_pool_is_adaptive_pooling(size: tuple[int, int], layout: torch.memory_format) -> None:
    x = torch.randn(2, 5, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    want = [F.adaptive_avg_pool2d(x, scale) for scale in SCALES]
    got = pyramid_pool(x, SCALES)
    torch.testing.assert_close(got, want)
    factors = [torch.randn_like(grid) for grid in want]
    gradients = [torch.autograd.grad(grids, x, factors)[0] for grids in (got, want)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pyramid_pool_rounds_like_half_precision_and_does_not_overflow(dtype: torch.dtype) -> None:
    x = (300 * torch.rand(2, 3, 64, 64)).to(dtype)  # a sum of 4096 of them is no number of float16
    for got, scale in zip(pyramid_pool(x, SCALES), SCALES, strict=True):
        want = F.adaptive_avg_pool2d(x.double(), scale)
        assert got.dtype == dtype
        assert float((got.double() - want).norm() / want.norm()) < torch.finfo(dtype).eps


def test_bins_that_a_frozen_network_made_serve_a_trained_one() -> None:
    with torch.inference_mode():
        pyramid_pool(torch.zeros(1, 2, 9, 11), (1, 4))
    x = torch.zeros(1, 2, 9, 11, requires_grad=True)
    sum(grid.sum() for grid in pyramid_pool(x, (1, 4))).backward()
    assert x.grad is not None
