"""The losses in C++: value and gradient in one pass over both maps, on the CPU.

The gradient is finished in the forward pass and saved; backward multiplies it by the incoming factor. The teacher gets
no gradient, and there is no second derivative: the backend "eager" has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bpkd.functional.backends.errors import refuse_second_derivative
from bpkd.functional.reference.labels import check_labels
from bpkd.functional.structures import BoundaryOptions, CrossEntropyOptions, EdgeMask, SparseEdgeMask

from . import loader
from .edges import sparse_mask

PRE_MASK_CODES = {"soft": 0, "hard": 1, "none": 2}
NORMALIZER_CODES = {"positions": 0, "classes": 1, "average": 2}


def unsupported_reason(*maps: Tensor) -> str | None:
    """Returns why these losses cannot take the maps; None: they can."""
    if any(m.device.type != "cpu" for m in maps):
        return "it runs on the CPU alone"
    if not all(m.numel() for m in maps):
        return "a tensor is empty"
    return loader.unavailable_reason()


def times(gradient: Tensor, factor: Tensor) -> Tensor:
    """Returns the gradient times a scalar; itself where that is 1, without a copy.

    Raises:
        RuntimeError: a second derivative is wanted.
    """
    refuse_second_derivative("cpp")
    return gradient if float(factor) == 1 else gradient * factor


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _maps(student: Tensor, teacher: Tensor) -> tuple[Any, ...]:
    """Both maps and their shape as C arguments."""
    n, k, h, w = student.shape
    return student.data_ptr(), teacher.data_ptr(), loader.int64s(n, k, h * w)


class _Channel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        grad = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        value = loader.library().bpkd_channel_kd(
            *_maps(student, teacher), temperature, _pointer(grad), torch.get_num_threads()
        )
        ctx.save_for_backward(grad)
        return student.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor, None, None]:
        return times(ctx.saved_tensors[0], factors[0]), None, None


class _Pixel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, valid: Tensor | None) -> Tensor:
        weight = None if valid is None else valid.float().contiguous()
        count = len(student) * student[0, 0].numel() if valid is None else max(1, int(valid.sum()))
        grad = None
        if ctx.needs_input_grad[0]:
            grad = torch.empty_like(student) if weight is None else torch.zeros_like(student)
        value = loader.library().bpkd_pixel_kd(
            *_maps(student, teacher), temperature, _pointer(weight), count, _pointer(grad), torch.get_num_threads()
        )
        ctx.save_for_backward(grad)
        return student.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor, None, None, None]:
        return times(ctx.saved_tensors[0], factors[0]), None, None, None


def _boundary(
    student: Tensor, teacher: Tensor, mask: SparseEdgeMask, o: BoundaryOptions, *, factors: Sequence[float] | None
) -> tuple[float, float, Tensor | None]:
    """Returns (edge, body, gradient of ``factors[0] edge + factors[1] body``, None without factors)."""
    grad = None if factors is None else torch.empty_like(student)
    out = loader.doubles(0.0, 0.0)
    loader.library().bpkd_boundary_kd(
        *_maps(student, teacher),
        o.temperature,
        *(x.data_ptr() for x in (mask.crow, mask.index, mask.value, o.alpha)),
        loader.int32s(PRE_MASK_CODES[o.pre_mask], NORMALIZER_CODES[o.normalizer]),
        loader.doubles(*(factors or (0.0, 0.0))),
        _pointer(grad),
        out,
        torch.get_num_threads(),
    )
    return out[0], out[1], grad


class _Boundary(torch.autograd.Function):
    """Both terms. The saved gradient is that of weighted terms which are then added as they are, the usual case."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        mask: SparseEdgeMask,
        options: BoundaryOptions,
        weights: Sequence[float],
    ) -> tuple[Tensor, Tensor]:
        factors = weights if ctx.needs_input_grad[0] else None
        edge, body, grad = _boundary(student, teacher, mask, options, factors=factors)
        ctx.mask, ctx.options, ctx.weights = mask, options, weights
        ctx.save_for_backward(student, teacher, grad)
        return student.new_tensor(weights[0] * edge), student.new_tensor(weights[1] * body)

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, grad = ctx.saved_tensors
        edge, body = (float(f) for f in factors)
        if edge == body or not ctx.weights[1]:
            return times(grad, factors[0]), None, None, None, None
        if not ctx.weights[0]:
            return times(grad, factors[1]), None, None, None, None
        own = (ctx.weights[0] * edge, ctx.weights[1] * body)  # they count differently: once more, for these factors
        found = _boundary(student, teacher, ctx.mask, ctx.options, factors=own)[2]
        return (None if found is None else times(found, torch.ones(()))), None, None, None, None


class _UpsampledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, o: CrossEntropyOptions) -> Tensor:
        grad, count = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None, float(o.count)
        total = loader.library().bpkd_upsampled_cross_entropy(
            logits.data_ptr(),
            target.data_ptr(),
            _pointer(o.weight),
            loader.int64s(*logits.shape, *target.shape[1:]),
            o.ignore_index,
            int(o.align_corners),
            1 / count,
            _pointer(grad),
            torch.get_num_threads(),
        )
        ctx.save_for_backward(grad)
        return logits.new_tensor(total / count)

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor, None, None]:
        return times(ctx.saved_tensors[0], factors[0]), None, None


def channel_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """See ``bpkd.functional.channel_kd``."""
    value: Tensor = _Channel.apply(*_contiguous(student, teacher), temperature)
    return value


def pixel_kd(student: Tensor, teacher: Tensor, temperature: float, *, valid: Tensor | None = None) -> Tensor:
    """See ``bpkd.functional.pixel_kd``."""
    value: Tensor = _Pixel.apply(*_contiguous(student, teacher), temperature, valid)
    return value


def boundary_kd(
    student: Tensor, teacher: Tensor, edges: EdgeMask, options: BoundaryOptions, *, weights: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """See ``bpkd.functional.boundary_kd``."""
    mask = sparse_mask(edges)
    terms: tuple[Tensor, Tensor] = _Boundary.apply(*_contiguous(student, teacher), mask, options, weights)
    return terms


def upsampled_cross_entropy(logits: Tensor, target: Tensor, options: CrossEntropyOptions) -> Tensor:
    """See ``bpkd.functional.upsampled_cross_entropy``."""
    value: Tensor = _UpsampledCrossEntropy.apply(logits.float().contiguous(), target.long().contiguous(), options)
    if value.isnan():  # so it is where a label is out of range
        check_labels(target, logits.shape[1], options.ignore_index)
    return value


def _contiguous(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps as the C++ functions read them."""
    return student.float().contiguous(), teacher.detach().float().contiguous()
