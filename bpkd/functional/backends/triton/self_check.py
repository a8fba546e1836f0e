"""The check that a function's Triton kernels pass on a device before "auto" takes them there.

Small inputs go through the kernels and through the reference, forward and backward, in the types of the call that asks
(each type compiles kernels of its own), and in a shape of less and one of more than one block. Where a result differs
or a kernel raises, the function stays with the reference for these types and the reason is logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from bpkd.functional import reference
from bpkd.functional.backends.errors import first_line
from bpkd.functional.reference.cross_entropy import pixel_count
from bpkd.functional.structures import BoundaryOptions, CrossEntropyOptions, EdgeMap, EdgeWindow, dense_edges

SHAPES = ((2, 5, 7, 9), (1, 3, 96, 96))
MASK_CLASSES = 70  # more than one word of the kernels
Types = tuple[torch.dtype, ...]
_found: dict[tuple[str, str, Types], str | None] = {}


def failure(function: str, device: torch.device, types: Types) -> str | None:
    """Returns why the function's kernels are not to be used on this device; None: they agree with the reference.

    The first call of a process for a function, a device and types runs the check, later ones return its result.

    Args:
        function: name of the function.
        device: device to run on.
        types: types of the tensors: student and teacher, logits and labels, or labels.
    """
    key = (function, str(device), types)
    if key not in _found:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return "its check cannot run while a CUDA graph is captured; call the function once before"
        try:
            with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
                _found[key] = _difference(function, device, types)
        except Exception as error:  # noqa: BLE001 - whatever a compiler or a driver raises
            _found[key] = f"its check failed: {first_line(error)}"
    return _found[key]


def failures() -> list[str]:
    """Returns the reasons of the checks of this process that did not pass."""
    return [reason for reason in _found.values() if reason]


def _difference(function: str, device: torch.device, types: Types) -> str | None:
    from . import functions  # Triton is imported where it is used

    masks = function == "class_edge_mask"
    for shape in SHAPES:
        if masks:
            got, want = (_masks(module, shape, types[0], device) for module in (functions, reference))
        else:
            got, want = (_losses(module, function, shape, types, device) for module in (functions, reference))
        for i, pair in enumerate(zip(got, want, strict=True)):
            if not _close(*pair, None if masks else types[0]):
                names = ", ".join(str(t).removeprefix("torch.") for t in types)
                return f"its check failed: result {i} of {shape} in {names} differs from PyTorch's"
    return None


def _close(got: Tensor, want: Tensor, dtype: torch.dtype | None) -> bool:
    """Whether two results agree as far as the type allows; None: every bit. NaN agrees with nothing."""
    if dtype is None or got.shape != want.shape or got.dtype != want.dtype:
        return torch.equal(got, want)
    relative = 1e-4 if dtype == torch.float32 or not got.ndim else 1e-2  # a loss is float32 whatever the maps are
    apart, size = (float(torch.linalg.vector_norm(x.double())) for x in (got - want, want))
    return apart <= relative * size + 1e-6


def _labels(shape: Sequence[int], factor: int) -> Tensor:
    n, k, h, w = shape
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, k, (n, factor * h // 4 + 1, factor * w // 4 + 1), generator=g)
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : factor * h, : factor * w].clone()
    labels[:, :2, :5] = 255
    return labels


def _masks(module: ModuleType, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    labels = _labels((shape[0], MASK_CLASSES, *shape[2:]), 2).to(device, dtype)
    sizes = [(shape[2], shape[3]), (5, 4)]
    opaque, transparent = (EdgeWindow(7, 255, t) for t in (False, True))
    found: list[Tensor] = []
    for window in (opaque, transparent):
        found += module.class_edge_masks(labels, MASK_CLASSES, sizes, window)
    edges = module.class_edges(labels, MASK_CLASSES, sizes[1], opaque)
    mask = dense_edges(edges)
    counts = edges.counts if isinstance(edges, EdgeMap) else None
    return [*found, mask, (mask > 0).sum((2, 3), dtype=torch.int32) if counts is None else counts]


def _losses(
    module: ModuleType, function: str, shape: Sequence[int], types: Types, device: torch.device
) -> list[Tensor]:
    """Values of the function's cases, and the gradients of their plain and of their weighted sum."""
    g = torch.Generator().manual_seed(1)
    teacher = 3 * torch.randn(*shape, generator=g)
    student = (teacher + torch.randn(*shape, generator=g)).to(device, types[0]).requires_grad_()
    if function == "upsampled_cross_entropy":
        terms = _entropies(module, student, types[1])
    else:
        terms = _terms(module, function, student, teacher.to(device, types[1]))
    together = torch.stack(terms)
    (plain,) = torch.autograd.grad(together.sum(), student, retain_graph=True)
    (scaled,) = torch.autograd.grad(together @ torch.arange(2.0, 2 + len(terms), device=device), student)
    return [*(t.detach() for t in terms), plain, scaled]


def _terms(module: ModuleType, function: str, student: Tensor, teacher: Tensor) -> list[Tensor]:
    if function == "channel_kd":
        return [module.channel_kd(student, teacher, 2.0)]
    valid = (_labels(student.shape, 1) != 255).to(student.device)
    if function == "pixel_kd":
        return [module.pixel_kd(student, teacher, 2.0), module.pixel_kd(student, teacher, 1.0, valid=valid)]
    mask = torch.rand(student.shape, generator=torch.Generator().manual_seed(2))
    mask = (mask - 0.7).clamp(min=0).mul(3.0).to(student.device)
    alpha = torch.full((student.shape[1],), 2.0, device=student.device)
    options = [BoundaryOptions(1.0, alpha, pre, "positions") for pre in ("soft", "hard", "none")]
    return [term for o in options for term in module.boundary_kd(student, teacher, mask, o, weights=(1.0, 1.0))]


def _entropies(module: ModuleType, logits: Tensor, labels: torch.dtype) -> list[Tensor]:
    whole, odd = (_labels(logits.shape, factor).to(logits.device, labels) for factor in (8, 3))
    plain = CrossEntropyOptions(None, whole.numel(), 255, False)
    weight, odd = torch.linspace(0.5, 2.0, logits.shape[1], device=logits.device), odd[:, 1:, 2:]
    weighted = CrossEntropyOptions(weight, pixel_count(odd, 255, "valid", weight), 255, True)
    return [
        module.upsampled_cross_entropy(logits, whole, plain),
        module.upsampled_cross_entropy(logits, odd, weighted),
    ]
