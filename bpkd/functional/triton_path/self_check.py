"""The check that a function's Triton kernels pass on a device before ``auto`` takes them there.

Small inputs go through the kernels and through plain PyTorch, forward and backward, in the types of the call that asks
(each type compiles kernels of its own), and in a shape of less and one of more than one block. What differs or raises
is told, and the function stays with PyTorch for these types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bpkd.functional import paths

SHAPES = ((2, 5, 7, 9), (1, 3, 96, 96))
Types = tuple[torch.dtype, ...]
_found: dict[tuple[str, str, Types], str] = {}


def failure(function: str, device: torch.device, types: Types) -> str:
    """Returns why the function's kernels are not to be used on this device; empty: they agree with PyTorch.

    The first call of a process for a function, a device and types runs the check, the others know.

    Args:
        function: its name.
        device: to run on.
        types: of the tensors: student and teacher, logits and labels, or labels.
    """
    key = (function, str(device), types)
    if key not in _found:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return "its check cannot run while a CUDA graph is captured; call the function once before"
        try:
            with torch.inference_mode(False), torch.enable_grad():
                _found[key] = _difference(function, device, types)
        except Exception as error:  # noqa: BLE001 - whatever a compiler or a driver raises
            _found[key] = f"its check failed: {paths.first_line(error)}"
    return _found[key]


def _difference(function: str, device: torch.device, types: Types) -> str:
    run = _masks if function == "class_edge_mask" else _losses(function)
    for shape in SHAPES:
        results = []
        for path in ("triton", "eager"):
            with paths.trial(path):
                results.append(run(shape, types, device))
        for i, (got, want) in enumerate(zip(*results, strict=True)):
            if not _close(got, want, types[0] if run is not _masks else None):
                names = ", ".join(str(t).removeprefix("torch.") for t in types)
                return f"its check failed: result {i} of {shape} in {names} differs from PyTorch's"
    return ""


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


def _masks(shape: Sequence[int], types: Types, device: torch.device) -> list[Tensor]:
    from bpkd.functional.edge_rows import EdgeMap
    from bpkd.functional.edges import class_edge_mask, class_edges

    labels = _labels((shape[0], 70, *shape[2:]), 2).to(device, types[0])  # classes of several words
    sizes = [(shape[2], shape[3]), (5, 4)]
    modes = ("opaque", "transparent")
    found = [m for mode in modes for m in class_edge_mask(labels, 70, 7, sizes, ignore_mode=mode)]
    edges = class_edges(labels, 70, 7, sizes[1])
    counts = edges.counts if isinstance(edges, EdgeMap) else None
    mask = edges if isinstance(edges, Tensor) else edges.dense()
    return [*found, mask, (mask > 0).sum((2, 3), dtype=torch.int32) if counts is None else counts]


def _losses(function: str) -> Callable[[Sequence[int], Types, torch.device], list[Tensor]]:
    def run(shape: Sequence[int], types: Types, device: torch.device) -> list[Tensor]:
        g = torch.Generator().manual_seed(1)
        teacher = 3 * torch.randn(*shape, generator=g)
        student = (teacher + torch.randn(*shape, generator=g)).to(device, types[0]).requires_grad_()
        if function == "upsampled_cross_entropy":
            terms = _entropies(student, types[1])
        else:
            terms = _terms(function, student, teacher.to(device, types[1]))
        together = torch.stack(terms)
        (plain,) = torch.autograd.grad(together.sum(), student, retain_graph=True)
        (scaled,) = torch.autograd.grad(together @ torch.arange(2.0, 2 + len(terms), device=device), student)
        return [*(t.detach() for t in terms), plain, scaled]

    return run


def _terms(function: str, student: Tensor, teacher: Tensor) -> list[Tensor]:
    from bpkd.functional.boundary_kd import boundary_kd
    from bpkd.functional.divergence import channel_kd, pixel_kd

    if function == "channel_kd":
        return [channel_kd(student, teacher, 2.0)]
    valid = (_labels(student.shape, 1) != 255).to(student.device)
    if function == "pixel_kd":
        return [pixel_kd(student, teacher, 2.0), pixel_kd(student, teacher, valid=valid)]
    mask = torch.rand(student.shape, generator=torch.Generator().manual_seed(2))
    mask = (mask - 0.7).clamp(min=0).mul(3.0).to(student.device)
    return [t for pre in ("soft", "hard", "none") for t in boundary_kd(student, teacher, mask, pre_mask=pre)]


def _entropies(logits: Tensor, labels: torch.dtype) -> list[Tensor]:
    from bpkd.functional.segmentation import upsampled_cross_entropy

    whole, odd = (_labels(logits.shape, factor).to(logits.device, labels) for factor in (8, 3))
    weight = torch.linspace(0.5, 2.0, logits.shape[1], device=logits.device)
    weighted = upsampled_cross_entropy(
        logits, odd[:, 1:, 2:], class_weight=weight, denominator="valid", align_corners=True
    )
    return [upsampled_cross_entropy(logits, whole), weighted]
