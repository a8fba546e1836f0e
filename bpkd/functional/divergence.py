"""Distillation by Kullback-Leibler divergences of logits: over classes (KD) and over positions (CWD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backends import dispatch
from .reference import divergence as reference


def check_pair(student: Tensor, teacher: Tensor, temperature: float) -> None:
    """Checks the shapes of two [N, C, h, w] maps, and the temperature.

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
        temperature: divisor T of the logits.
        valid: bool [N, h, w]; the mean is over its true pixels, an exact zero if there is none. Default: all.
        independent: True: each class has a sigmoid of its own in place of the softmax, see ``class_divergence``.

    Returns:
        Scalar float32.

    Raises:
        ValueError: shapes differ, or the temperature is not above 0.

    Source:
        Hinton et al. 2015, per pixel; the normaliser is CIRKD's (CVPR 2022, eq. 1).

    Example:
        >>> from bpkd.functional import pixel_kd
        >>> student, teacher = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
        >>> teacher[:, 0, 0, 0] = 2.0
        >>> print(f"{pixel_kd(student, teacher):.4f}")
        0.0820
        >>> valid = torch.tensor([[[True, False], [False, False]]])
        >>> print(f"{pixel_kd(student, teacher, valid=valid):.4f}")
        0.3278
    """
    check_pair(student, teacher, temperature)
    with torch.autocast(student.device.type, enabled=False):
        if independent:
            return reference.pixel_kd(student, teacher, temperature, valid=valid, independent=True)
        backend = dispatch.loss_backend("pixel_kd", student, teacher)
        return backend.pixel_kd(student, teacher, float(temperature), valid=valid)


def channel_kd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over images and channels of T^2 KL(teacher || student) over the positions of a channel.

    Args:
        student: [N, C, h, w] logits or features.
        teacher: [N, C, h, w] logits or features; gets no gradient.
        temperature: divisor T of the maps.

    Returns:
        Scalar float32.

    Raises:
        ValueError: shapes differ, or the temperature is not above 0.

    Source:
        Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, eq. 5.

    Example:
        >>> from bpkd.functional import channel_kd
        >>> student, teacher = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
        >>> teacher[:, 0, 0, 0] = 2.0
        >>> print(f"{channel_kd(student, teacher):.4f}")
        0.2340
        >>> print(f"{channel_kd(student, teacher + 1):.4f}")  # a constant per channel changes nothing
        0.2340
    """
    check_pair(student, teacher, temperature)
    with torch.autocast(student.device.type, enabled=False):
        backend = dispatch.loss_backend("channel_kd", student, teacher)
        return backend.channel_kd(student, teacher, float(temperature))


def gradient_norm(loss: Tensor, logits: Tensor | Sequence[Tensor]) -> Tensor:
    """L2 norm of d loss / d logits, zero where the loss does not depend on them. The graph is kept.

    Args:
        loss: scalar.
        logits: one map, or several whose gradients are taken as one vector.

    Returns:
        Scalar.

    Example:
        >>> from bpkd.functional import gradient_norm
        >>> logits = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> gradient_norm(logits.square().sum() / 2, logits)
        tensor(5.)
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
