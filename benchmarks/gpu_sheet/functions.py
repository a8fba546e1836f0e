"""The functions that have kernels: their inputs, every option of theirs, values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bpkd.functional import (
    EdgeMap,
    boundary_kd,
    channel_kd,
    class_edge_mask,
    class_edges,
    pixel_kd,
    upsampled_cross_entropy,
    use_backend,
)

FUNCTIONS = ("class_edge_mask", "boundary_kd", "channel_kd", "pixel_kd", "upsampled_cross_entropy")
KINDS = ("scene", "all edge", "no edge", "all ignored")
LABEL_TYPES = (torch.uint8, torch.int32, torch.int64)
IGNORE, STRIDE, KERNEL = 255, 8, 7
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Inputs:
    """Both maps [N, K, h, w] and labels [N, 8 h, 8 w] of one shape."""

    student: Tensor
    teacher: Tensor
    labels: Tensor

    @classmethod
    def draw(
        cls,
        shape: Shape,
        kind: str,
        device: torch.device,
        student_type: torch.dtype = torch.float32,
        teacher_type: torch.dtype = torch.float32,
    ) -> Inputs:
        """Draws seeded maps, and labels of a kind of `KINDS`."""
        generator = torch.Generator().manual_seed(shape[1])
        teacher = 3 * torch.randn(shape, generator=generator)
        student = teacher + 2 * torch.randn(shape, generator=generator)
        labels = draw_labels(shape, kind).to(device)
        return cls(student.to(device, student_type), teacher.to(device, teacher_type), labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the maps."""
        return self.student.shape[2], self.student.shape[3]


def draw_labels(shape: Shape, kind: str) -> Tensor:
    """Blocks of labels with an ignored corner, a label per pixel, one class, or nothing but ignored pixels."""
    n, k, h, w = shape
    generator = torch.Generator().manual_seed(1)
    size = (n, STRIDE * h, STRIDE * w)
    if kind == "all edge":
        return torch.randint(0, k, size, generator=generator)
    if kind != "scene":
        return torch.full(size, IGNORE if kind == "all ignored" else k - 1)
    blocks = torch.randint(0, k, (n, size[1] // 20 + 1, size[2] // 20 + 1), generator=generator)
    labels = blocks.repeat_interleave(20, 1).repeat_interleave(20, 2)[:, : size[1], : size[2]].clone()
    labels[:, : size[1] // 8, : size[2] // 4] = IGNORE
    return labels


def with_gradient(loss: Callable[[Tensor], Tensor | tuple[Tensor, ...]], student: Tensor) -> list[Tensor]:
    """Returns a loss's terms, the gradient of their sum, and that of their sum with unequal factors."""
    leaf = student.detach().requires_grad_()
    terms = loss(leaf)
    together = torch.stack(terms if isinstance(terms, tuple) else (terms,))
    (plain,) = torch.autograd.grad(together.sum(), leaf, retain_graph=True)
    factors = torch.arange(2.0, 2 + len(together), device=leaf.device)
    (weighted,) = torch.autograd.grad(together @ factors, leaf)
    return [together.detach(), plain, weighted]


def masks(x: Inputs) -> Iterator[tuple[str, list[Tensor]]]:
    """The edge masks of every label type and way with ignored pixels, at the maps' size and at an odd one."""
    odd = (max(1, x.size[0] - 3), max(1, x.size[1] // 2 + 1))
    for dtype in LABEL_TYPES:
        for mode in ("opaque", "transparent"):
            for kernel in (3, KERNEL):
                labels, k = x.labels.to(dtype), x.student.shape[1]
                rules: dict[str, Any] = {"ignore_index": IGNORE, "ignore_mode": mode}
                found = class_edge_mask(labels, k, kernel, [x.size, odd], **rules)
                edges = class_edges(labels, k, kernel, odd, **rules)
                mask = edges if isinstance(edges, Tensor) else edges.dense()
                counts = edges.counts if isinstance(edges, EdgeMap) else None
                counted = (mask > 0).sum((2, 3), dtype=torch.int32) if counts is None else counts
                yield f"{dtype}, {mode}, k = {kernel}", [*found, mask, counted]


def boundaries(x: Inputs) -> Iterator[tuple[str, list[Tensor]]]:
    """Both terms of BPKD with every pre-mask and normaliser that has kernels, and with weights."""
    with use_backend("eager"):
        mask = class_edge_mask(x.labels, x.student.shape[1], KERNEL, x.size, ignore_index=IGNORE)
    for pre in ("soft", "hard", "none"):
        for normalizer, weights in (("positions", (50.0, 20.0)), ("classes", (1.0, 2.0)), ("average", (50.0, 20.0))):
            options: dict[str, Any] = {"pre_mask": pre, "normalizer": normalizer, "weights": weights}
            yield (
                f"{pre}, {normalizer}",
                with_gradient(lambda s, o=options: boundary_kd(s, x.teacher, mask, **o), x.student),
            )
    yield "T = 4", with_gradient(lambda s: boundary_kd(s, x.teacher, mask, temperature=4.0), x.student)


def channels(x: Inputs) -> Iterator[tuple[str, list[Tensor]]]:
    """Channel-wise distillation at two temperatures."""
    for t in (1.0, 4.0):
        yield f"T = {t:g}", with_gradient(lambda s, t=t: channel_kd(s, x.teacher, t), x.student)


def pixels(x: Inputs) -> Iterator[tuple[str, list[Tensor]]]:
    """Pixel-wise distillation at two temperatures, and of valid pixels only."""
    valid = x.labels[:, ::STRIDE, ::STRIDE] != IGNORE
    for t in (1.0, 4.0):
        yield f"T = {t:g}", with_gradient(lambda s, t=t: pixel_kd(s, x.teacher, t), x.student)
    yield "valid", with_gradient(lambda s: pixel_kd(s, x.teacher, valid=valid), x.student)


def entropies(x: Inputs) -> Iterator[tuple[str, list[Tensor]]]:
    """Cross entropy at label size: plain; at an odd size, weighted, corners aligned, over valid pixels."""
    k = x.student.shape[1]
    yield "plain", with_gradient(lambda s: upsampled_cross_entropy(s, x.labels, ignore_index=IGNORE), x.student)
    odd, weight = x.labels[:, 1:, 2:].contiguous(), torch.linspace(0.5, 2.0, k, device=x.labels.device)
    options: dict[str, Any] = {"class_weight": weight, "denominator": "valid", "align_corners": True}
    yield (
        "weighted",
        with_gradient(lambda s: upsampled_cross_entropy(s, odd, ignore_index=IGNORE, **options), x.student),
    )


CASES: dict[str, Callable[[Inputs], Iterator[tuple[str, list[Tensor]]]]] = dict(
    zip(FUNCTIONS, (masks, boundaries, channels, pixels, entropies), strict=True)
)


def run_once(function: str, device: torch.device, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """Calls a function once, forward and backward, on maps of these types of student and teacher."""
    next(CASES[function](Inputs.draw((1, 3, 8, 9), "scene", device, *dtypes)))


def whole_step(x: Inputs) -> tuple[Tensor, Tensor]:
    """Masks from the labels, all losses, and the gradient of their sum: what a training step asks of the functions."""
    leaf = x.student.detach().requires_grad_()
    mask = class_edges(x.labels, leaf.shape[1], KERNEL, x.size, ignore_index=IGNORE)
    terms = [*boundary_kd(leaf, x.teacher, mask), *boundary_kd(leaf, x.teacher, mask, normalizer="average")]
    terms += [channel_kd(leaf, x.teacher), pixel_kd(leaf, x.teacher)]
    terms.append(upsampled_cross_entropy(leaf, x.labels, ignore_index=IGNORE))
    values = torch.stack(terms)
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]
