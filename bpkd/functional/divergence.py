"""Kullback-Leibler terms on logits, over classes (pixel mean) and over positions (channel mean)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import compiled, fused, paths, triton_path


def check_pair(student: Tensor, teacher: Tensor, temperature: float) -> None:
    """Looks at the shapes of two [N, C, h, w] maps, and at the temperature.

    Raises:
        ValueError: shapes differ, or are not four-dimensional, or the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected above 0, got {temperature}.")
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ValueError(
            f"expected student and teacher of one shape [N, C, h, w], got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}. Match sizes and channels first (bpkd.distillers.adapters)."
        )


def chosen_path(function: str, student: Tensor, teacher: Tensor) -> str:
    """Returns the path of a loss on two maps of one shape."""
    obstacles = {
        "cpp": fused.obstacle(student, teacher),
        "triton": triton_path.map_obstacle(student, teacher),
        "compiled": compiled.obstacle(),
    }
    types = (student.dtype, teacher.dtype)
    return paths.choose(function, student.device, obstacles, auto=("cpp", "triton"), types=types)


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


def kl_divergence(
    student: Tensor, teacher: Tensor, dim: int, temperature: float = 1.0, *, path: str = "eager"
) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)), summed over ``dim``; finite for any finite logits.

    The teacher gets no gradient. ``path``: "eager" or "compiled".
    """
    if temperature != 1:  # a division by 1 would copy both maps, and the gradient
        student, teacher = student / temperature, teacher / temperature
    if path == "compiled":
        found = compiled.divergence(student, teacher.detach(), dim)
        if found is not None:
            return found
    value: Tensor = _Divergence.apply(student, teacher, dim)
    return value


def class_divergence(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, *, independent: bool = False, path: str = "eager"
) -> Tensor:
    """KL(teacher || student) at each position of [N, K, h, w] logits, without the factor T^2.

    Args:
        student: [N, K, h, w] logits.
        teacher: [N, K, h, w] logits; gets no gradient.
        temperature: T.
        independent: False: of the softmax over the classes; True: every class is a yes or no of its own (sigmoid),
            and their Bernoulli divergences are summed.
        path: of the softmax's, "eager" or "compiled".

    Returns:
        [N, h, w].
    """
    if not student.numel():
        return student.sum(1)
    if not independent:
        return kl_divergence(student, teacher, 1, temperature, path=path)
    s, t = student / temperature, teacher.detach() / temperature
    p = t.sigmoid()
    cross = F.binary_cross_entropy_with_logits(s, p, reduction="none")
    return (cross - F.binary_cross_entropy_with_logits(t, p, reduction="none")).sum(1)


def pixel_kd(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    *,
    valid: Tensor | None = None,
    independent: bool = False,
) -> Tensor:
    """Mean over pixels of T^2 KL(teacher || student) over the classes.

    Args:
        student: [N, K, h, w] logits.
        teacher: [N, K, h, w] logits; gets no gradient.
        temperature: T.
        valid: bool [N, h, w]; the mean is over its true pixels, an exact zero if there is none. Default: all.
        independent: see ``class_divergence``.

    Returns:
        Scalar float32.

    Raises:
        ValueError: shapes differ, or the temperature is not above 0.

    Source:
        Hinton et al. 2015, per pixel; the normaliser is CIRKD's (CVPR 2022, eq. 1).
    """
    with torch.autocast(student.device.type, enabled=False):
        check_pair(student, teacher, temperature)
        path = "eager" if independent else chosen_path("pixel_kd", student, teacher)
        if path == "triton":
            from .triton_path import losses

            return losses.pixel_kd(student, teacher, float(temperature), valid=valid)
        s, t = student.float(), teacher.detach().float()
        if path == "cpp":
            return fused.pixel_kd(s, t, temperature, valid=valid)
        kl = class_divergence(s, t, temperature, independent=independent, path=path)
        if valid is None:
            return kl.mean() * temperature**2 if kl.numel() else s.sum() * 0.0
        return masked_mean(kl, valid) * temperature**2


def channel_kd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over images and channels of T^2 KL(teacher || student) over the positions of a channel.

    Args:
        student: [N, C, h, w] logits or features.
        teacher: [N, C, h, w]; gets no gradient.
        temperature: T.

    Returns:
        Scalar float32.

    Raises:
        ValueError: shapes differ, or the temperature is not above 0.

    Source:
        Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, eq. 5.
    """
    with torch.autocast(student.device.type, enabled=False):
        check_pair(student, teacher, temperature)
        if not student.numel():
            return student.float().sum() * 0.0
        path = chosen_path("channel_kd", student, teacher)
        if path == "triton":
            from .triton_path import losses

            return losses.channel_kd(student, teacher, float(temperature))
        s, t = student.float(), teacher.detach().float()
        if path == "cpp":
            return fused.channel_kd(s, t, temperature)
        kl = kl_divergence(s.flatten(2), t.flatten(2), 2, temperature, path=path)
        return kl.mean() * temperature**2


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` is true; a zero that keeps the graph where it is true nowhere."""
    mask = mask.to(values.dtype)
    return (values * mask).sum() / mask.sum().clamp(min=1)


def gradient_norm(loss: Tensor, logits: Tensor | Sequence[Tensor]) -> Tensor:
    """L2 norm of d loss / d logits (of all maps together); zero where the loss does not depend on them.

    The graph is kept.
    """
    maps = [logits] if isinstance(logits, Tensor) else list(logits)
    if not loss.requires_grad:
        return maps[0].new_zeros(())
    gradients = torch.autograd.grad(loss, maps, retain_graph=True, allow_unused=True)
    norms = [torch.linalg.vector_norm(g.float()) for g in gradients if g is not None]
    if not norms:
        return maps[0].new_zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
