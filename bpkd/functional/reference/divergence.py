"""Kullback-Leibler divergences over classes and over positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Divergence(torch.autograd.Function):
    """The divergence with its gradient written out, p_student - p_teacher: half the passes that autograd takes."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, dim: int) -> Tensor:
        log_p = F.log_softmax(teacher, dim)
        p = log_p.exp()
        ctx.save_for_backward(student, p)
        ctx.dim = dim
        return log_p.sub_(F.log_softmax(student, dim)).mul_(p).sum(dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        student, p = ctx.saved_tensors
        return (F.softmax(student, ctx.dim) - p).mul_(gradients[0].unsqueeze(ctx.dim)), None, None


def kl_divergence(student: Tensor, teacher: Tensor, dim: int, temperature: float = 1.0) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)), summed over ``dim``; finite for any finite logits.

    Args:
        student: logits.
        teacher: logits of the same shape; gets no gradient.
        dim: dimension of the softmax.
        temperature: divisor T of the logits.

    Returns:
        The shape of the logits without ``dim``.
    """
    if temperature != 1:  # a division by 1 would copy both maps, and the gradient
        student, teacher = student / temperature, teacher / temperature
    value: Tensor = _Divergence.apply(student, teacher, dim)
    return value


def class_divergence(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, *, independent: bool = False
) -> Tensor:
    """KL(teacher || student) at each position of [N, K, h, w] logits, without the factor T^2.

    Args:
        student: [N, K, h, w] logits.
        teacher: [N, K, h, w] logits; gets no gradient.
        temperature: divisor T of the logits.
        independent: False: divergence of the softmax over the classes; True: each class has a sigmoid of its own, and
            the K Bernoulli divergences are summed.

    Returns:
        [N, h, w].

    Example:
        >>> logits = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)
        >>> class_divergence(torch.zeros(1, 2, 1, 1), logits)
        tensor([[[0.3278]]])
    """
    if not student.numel():
        return student.sum(1)
    if not independent:
        return kl_divergence(student, teacher, 1, temperature)
    s, t = student / temperature, teacher.detach() / temperature
    p = t.sigmoid()
    cross = F.binary_cross_entropy_with_logits(s, p, reduction="none")
    return (cross - F.binary_cross_entropy_with_logits(t, p, reduction="none")).sum(1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` is true; a zero that keeps the graph where it is true nowhere."""
    mask = mask.to(values.dtype)
    return (values * mask).sum() / mask.sum().clamp(min=1)


def pixel_kd(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    *,
    valid: Tensor | None = None,
    independent: bool = False,
) -> Tensor:
    """See ``bpkd.functional.pixel_kd``."""
    s, t = student.float(), teacher.detach().float()
    kl = class_divergence(s, t, temperature, independent=independent)
    if valid is None:
        return kl.mean() * temperature**2 if kl.numel() else s.sum() * 0.0
    return masked_mean(kl, valid) * temperature**2


def channel_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """See ``bpkd.functional.channel_kd``."""
    s, t = student.float(), teacher.detach().float()
    if not s.numel():
        return s.sum() * 0.0
    return kl_divergence(s.flatten(2), t.flatten(2), 2, temperature).mean() * temperature**2
