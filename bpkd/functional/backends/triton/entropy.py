"""Cross entropy at label size in Triton: the resized logits [N, K, H, W] never exist, nothing waits for the GPU.

Forward keeps one float32 per output pixel, the log-sum-exp; backward finds the gradient from it and from the small
logits, for the factor that lies on the device. The kernels' work, by count:

    memory: the gradient, and 4 bytes per output pixel (the resized logits alone would be 4 K)
    traffic: a label read and 4 bytes written per output pixel; backward reads both again for every 16 classes, and each
        source cell is read by the programs of the output pixels that it touches, next to each other
    exponentials per output pixel and class: 1 forward; backward 5/4, for the rows that two programs need, times 8/7 for
        the columns (eight times larger; 16/15 where it is four times or less)

There is no second derivative.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from bpkd.functional.backends.errors import refuse_second_derivative
from bpkd.functional.structures import CrossEntropyOptions

from . import entropy_kernels as kernels
from .losses import on_device, totals, warps

PIXELS = 256  # output pixels of a forward program
SOURCE_ROWS = 4  # of a backward program
SOURCE_COLUMNS = 15  # with the one before them a power of two
LEAST_BLOCK, MOST_BLOCK, WIDE_BLOCK = 16, 64, 128  # output columns at a time; the last where a cell covers many


def _scale(cells: int, size: int, align_corners: bool) -> float:
    """Returns the source cells per output pixel of one axis, as torch's resize counts them."""
    if align_corners:
        return (cells - 1) / (size - 1) if size > 1 else 0.0
    return cells / size


def _sizes(logits: Tensor, target: Tensor, o: CrossEntropyOptions) -> tuple[int | float, ...]:
    """What both kernels take after their tensors; the last is the loss's factor."""
    (_, c, h, w), (height, width) = logits.shape, target.shape[1:]
    scales = (_scale(h, height, o.align_corners), _scale(w, width, o.align_corners))
    return (c, h, w, height, width, *scales, o.ignore_index, 1.0 if isinstance(o.count, Tensor) else 1 / o.count)


def _count(o: CrossEntropyOptions) -> Tensor | None:
    return o.count.float() if isinstance(o.count, Tensor) else None


def _forward(logits: Tensor, target: Tensor, log_sums: Tensor | None, o: CrossEntropyOptions) -> Tensor:
    """Returns the loss, writes the log-sum-exps."""
    (n, _, h, _), (height, width) = logits.shape, target.shape[1:]
    rows = min(8, triton.next_power_of_2(triton.cdiv(height, h)))
    block = min(PIXELS // rows, triton.next_power_of_2(width))
    grid = (triton.cdiv(width, block), h, n)
    values = torch.empty(grid, device=logits.device)
    tensors = (logits, target, o.weight, _count(o), log_sums, values)
    codes = {"ALIGNED": o.align_corners, "ROWS": rows, "BLOCK": block, "num_warps": max(1, rows * block // 256)}
    kernels.entropy_kernel[grid](*tensors, *_sizes(logits, target, o), **codes)
    return totals(values, values.numel(), [1.0])[0]


def _tile(classes: int, columns: float) -> dict[str, int]:
    """Returns a backward program's blocks, for the output columns per source column."""
    if columns < 12:
        needed = triton.next_power_of_2(math.ceil((SOURCE_COLUMNS + 1) * columns))
        block = min(MOST_BLOCK, max(LEAST_BLOCK, needed))
    else:
        block = WIDE_BLOCK
    cells = max(1, min(SOURCE_COLUMNS, int(block / columns) - 1))  # and the one before them fill the block
    own = min((16, 8), key=lambda rows: triton.cdiv(classes, rows) * (2 * rows + 3))  # 3: what is done once a pixel
    padded = max(16, triton.next_power_of_2(cells))
    return {"COLUMNS": cells, "PADDED": padded, "CLASSES": own, "BLOCK": block, "num_warps": warps(own * block)}


def _backward(logits: Tensor, target: Tensor, log_sums: Tensor, upstream: Tensor, o: CrossEntropyOptions) -> Tensor:
    """Returns the gradient."""
    (n, c, h, w), gradient = logits.shape, torch.empty_like(logits)
    tile = _tile(c, target.shape[2] / w)
    codes = {"ALIGNED": o.align_corners, "ROWS": SOURCE_ROWS, **tile}
    grid = (triton.cdiv(w, tile["COLUMNS"]) * triton.cdiv(h, SOURCE_ROWS), triton.cdiv(c, tile["CLASSES"]), n)
    tensors = (logits, target, o.weight, _count(o), log_sums, upstream, gradient)
    kernels.entropy_gradient_kernel[grid](*tensors, *_sizes(logits, target, o), **codes)
    return gradient


class _UpsampledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, o: CrossEntropyOptions) -> Tensor:
        log_sums = torch.empty(target.shape, device=logits.device) if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(logits, target, log_sums)
        ctx.options = o
        with on_device(logits):
            return _forward(logits, target, log_sums, o)

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative("triton")
        logits, target, log_sums = ctx.saved_tensors
        with on_device(logits):
            return _backward(logits, target, log_sums, factors[0], ctx.options), None, None


def upsampled_cross_entropy(logits: Tensor, target: Tensor, options: CrossEntropyOptions) -> Tensor:
    """See ``bpkd.functional.upsampled_cross_entropy``.

    A label that is neither a class nor ignored makes the loss NaN.
    """
    value: Tensor = _UpsampledCrossEntropy.apply(logits.contiguous(), target.contiguous(), options)
    return value
