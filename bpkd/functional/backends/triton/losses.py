"""The losses in Triton: value and gradient from one reading of both maps, without waiting for the GPU.

The gradient for an incoming factor of 1 is finished in the forward pass. Backward hands it on: a launch that looks at
the factors on the device leaves it alone where they are 1, else writes it anew: no factor comes to the host. A second
backward through the same graph computes its own. The teacher gets no gradient, and there is no second derivative.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from bpkd.functional.backends.errors import refuse_second_derivative
from bpkd.functional.structures import BoundaryOptions, EdgeMap, EdgeMask, dense_edges

from . import divergence_kernels, pixel_kernels, row_kernels

MOST_CELLS = 8192  # of a row that stay in registers
MOST_CLASSES = 256  # of a cell
EDGE_CELLS = 64  # per program of the edge term
EDGE_CLASSES = 16  # per tile of it, where every class counts
PRE_MASK_CODES = {name: getattr(divergence_kernels, name.upper()).value for name in ("soft", "hard", "none")}
NO_EDGES, UNMASKED = divergence_kernels.NO_EDGES.value, divergence_kernels.NONE.value
FORWARD, SETTLE, AFRESH = (getattr(divergence_kernels, name).value for name in ("FORWARD", "SETTLE", "AFRESH"))


def on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Makes the tensor's device the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def warps(elements: int) -> int:
    """Returns the number of warps for a block: 16 elements a thread."""
    return min(16, max(1, elements // 512))


def totals(values: Tensor, split: int, factors: Sequence[float]) -> tuple[Tensor, ...]:
    """Returns each factor times the sum of its part of ``values``, scalars."""
    out = tuple(values.new_empty(()) for _ in factors)
    divergence_kernels.total_kernel[(len(out),)](
        values, out[0], out[-1], split, values.numel(), factors[0], factors[-1], BLOCK=1024, num_warps=4
    )
    return out


@dataclass
class _Rows:
    """Channel-wise distillation, and the body of BPKD with the gradient of both terms.

    ``factors`` are those of the edge and the body part in the gradient.
    """

    temperature: float
    factors: tuple[float, float]
    pre: int = NO_EDGES
    edges: tuple[Tensor | None, ...] = (None, None, None)  # mask, cells, what edge_kernel found

    def launch(
        self,
        maps: tuple[Tensor, Tensor],
        outputs: tuple[Tensor | None, Tensor | None],
        *,
        upstream: tuple[Tensor | None, ...] = (None, None),
        purpose: int = FORWARD,
    ) -> None:
        """Writes the gradient and the values per row, either may be None."""
        n, c, h, w = maps[0].shape
        block, t = min(MOST_CELLS, triton.next_power_of_2(h * w)), self.temperature
        sizes = (h * w, c, 1 / t, self.factors[0] / t, self.factors[1] / t)
        codes = {"PRE": self.pre, "PURPOSE": purpose, "BLOCK": block, "num_warps": warps(block)}
        row_kernels.rows_kernel[(n * c,)](*maps, *self.edges, *outputs, *upstream, *sizes, **codes)

    def forward(self, maps: tuple[Tensor, Tensor], gradient: Tensor | None) -> tuple[Tensor, ...]:
        """Returns the loss, writes the gradient."""
        values = torch.empty(maps[0].shape[:2], device=maps[0].device)
        self.launch(maps, (gradient, values))
        return totals(values, values.numel(), self.factors[1:])

    def backward(self, maps: tuple[Tensor, Tensor], gradient: Tensor, factors: Sequence[Tensor], purpose: int) -> None:
        """Writes the gradient for these factors."""
        self.launch(maps, (gradient, None), upstream=(factors[0], factors[-1]), purpose=purpose)


@dataclass
class _Boundary(_Rows):
    """Both terms of BPKD."""

    alpha: Tensor | None = None
    normalizer: str = "positions"
    counts: Tensor | None = None

    def forward(self, maps: tuple[Tensor, Tensor], gradient: Tensor | None) -> tuple[Tensor, ...]:
        """Returns the edge and the body term, writes the gradient of their sum."""
        student, mask = maps[0], self.edges[0]
        n, c, h, w = student.shape
        programs, device = triton.cdiv(h * w, EDGE_CELLS), student.device
        found, values = torch.empty(n, 5, h * w, device=device), torch.empty(n * (programs + c), device=device)
        cells = self.counts
        if cells is None:
            cells, block = torch.empty(n, c, dtype=torch.int32, device=device), min(4096, triton.next_power_of_2(h * w))
            row_kernels.count_kernel[(n * c,)](mask, cells, h * w, BLOCK=block, num_warps=warps(block))
        if self.normalizer == "average":  # the divisor is in the factor; a class without an edge is still passed over
            cells = cells.clamp(max=1)
        sizes, codes = (h * w, c, 1 / self.temperature), {"PRE": self.pre, "PER_CLASS": self.normalizer == "classes"}
        codes["CLASSES"] = min(EDGE_CLASSES, triton.next_power_of_2(c)) if self.pre == UNMASKED else 1
        row_kernels.edge_kernel[(programs, n)](
            *maps, mask, cells, self.alpha, found, values, *sizes, **codes, BLOCK=EDGE_CELLS, num_warps=2
        )
        self.edges = (mask, cells, found)
        self.launch(maps, (gradient, values[n * programs :]))
        return totals(values, n * programs, self.factors)


@dataclass
class _Pixels:
    """Plain distillation: the divergence over the classes, mean over the cells."""

    temperature: float
    factor: float
    valid: Tensor | None
    count: Tensor | None

    def _launch(
        self,
        maps: tuple[Tensor, Tensor],
        outputs: tuple[Tensor | None, Tensor | None],
        upstream: Tensor | None,
        purpose: int,
    ) -> None:
        n, c, h, w = maps[0].shape
        classes, block = _tile(c)
        sizes = (h * w, c, 1 / self.temperature, self.factor / self.temperature)
        codes = {"PURPOSE": purpose, "CLASSES": classes, "BLOCK": block, "num_warps": warps(classes * block)}
        grid = (triton.cdiv(h * w, block), n)
        pixel_kernels.pixels_kernel[grid](*maps, self.valid, self.count, *outputs, upstream, *sizes, **codes)

    def forward(self, maps: tuple[Tensor, Tensor], gradient: Tensor | None) -> tuple[Tensor, ...]:
        """Returns the loss, writes the gradient."""
        n, c, h, w = maps[0].shape
        values = torch.empty(n * triton.cdiv(h * w, _tile(c)[1]), device=maps[0].device)
        self._launch(maps, (gradient, values), None, FORWARD)
        return totals(values, values.numel(), [self.factor])

    def backward(self, maps: tuple[Tensor, Tensor], gradient: Tensor, factors: Sequence[Tensor], purpose: int) -> None:
        """Writes the gradient for this factor."""
        self._launch(maps, (gradient, None), factors[0], purpose)


def _tile(classes: int) -> tuple[int, int]:
    """Returns the classes and the cells of a program's block."""
    rows = min(MOST_CLASSES, triton.next_power_of_2(classes))
    return rows, max(16, min(128, 4096 // rows))


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, job: _Rows | _Pixels) -> tuple[Tensor, ...]:
        ctx.save_for_backward(student, teacher)
        ctx.job = job
        ctx.gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        with on_device(student):
            return job.forward((student, teacher), ctx.gradient)

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative("triton")
        student, teacher = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None  # given away once: autograd may add to it in place
        purpose = AFRESH if gradient is None else SETTLE
        gradient = torch.empty_like(student) if gradient is None else gradient
        with on_device(student):
            ctx.job.backward((student, teacher), gradient, factors, purpose)
        return gradient, None, None


def _apply(student: Tensor, teacher: Tensor, job: _Rows | _Pixels) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = _Loss.apply(student.contiguous(), teacher.detach().contiguous(), job)
    return found


def channel_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """See ``bpkd.functional.channel_kd``."""
    n, c = student.shape[:2]
    return _apply(student, teacher, _Rows(temperature, (0.0, temperature**2 / (n * c))))[0]


def pixel_kd(student: Tensor, teacher: Tensor, temperature: float, *, valid: Tensor | None = None) -> Tensor:
    """See ``bpkd.functional.pixel_kd``."""
    if valid is None:
        pixels = len(student) * student[0, 0].numel()
        return _apply(student, teacher, _Pixels(temperature, temperature**2 / pixels, None, None))[0]
    weight = valid.to(student.device, torch.float32).contiguous()
    job = _Pixels(temperature, temperature**2, weight, weight.sum().clamp(min=1))
    return _apply(student, teacher, job)[0]


def boundary_kd(
    student: Tensor, teacher: Tensor, edges: EdgeMask, options: BoundaryOptions, *, weights: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """See ``bpkd.functional.boundary_kd``."""
    mask, counts = dense_edges(edges, student.device), None
    if isinstance(edges, EdgeMap) and edges.mask.device == student.device:
        counts = edges.counts
    (n, c), t = student.shape[:2], options.temperature
    divisor = student.numel() if options.normalizer == "average" else n
    job = _Boundary(
        t,
        (weights[0] * t**2 / divisor, weights[1] * t**2 / (n * c)),
        PRE_MASK_CODES[options.pre_mask],
        (mask.detach().contiguous(), None, None),
        options.alpha,
        options.normalizer,
        counts,
    )
    edge, body = _apply(student, teacher, job)
    return edge, body
