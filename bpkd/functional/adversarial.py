"""Adversarial losses of a critic and a student: WGAN and hinge terms, and the gradient penalty."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ADVERSARIAL_LOSSES = ("wgan-gp", "hinge")


def generator_loss(fake_scores: Tensor) -> Tensor:
    """Minus the mean critic score of the student's maps: loss of the student, the same for WGAN and hinge.

    Args:
        fake_scores: the critic's scores of the student's maps, any shape.

    Returns:
        Scalar float32.

    Source:
        Liu et al., CVPR 2019, eq. 5; Gulrajani et al., "Improved Training of Wasserstein GANs", 2017.

    Example:
        >>> from bpkd.functional import generator_loss
        >>> generator_loss(torch.tensor([0.5, 1.5]))
        tensor(-1.)
    """
    return -fake_scores.float().mean()


def critic_loss(real_scores: Tensor, fake_scores: Tensor, kind: str = "wgan-gp") -> Tensor:
    """Loss of the critic, from means over its scores: low where it scores the teacher high and the student low.

    Args:
        real_scores: the critic's scores of the teacher's maps, any shape.
        fake_scores: the critic's scores of the student's maps, detached from the student, any shape.
        kind: "wgan-gp": -mean(real) + mean(fake), to which the caller adds the gradient penalty; "hinge":
            mean max(0, 1 - real) + mean max(0, 1 + fake).

    Returns:
        Scalar float32.

    Raises:
        ValueError: ``kind`` is unknown.

    Source:
        Gulrajani et al. 2017, eq. 3, without the penalty; Lim and Ye, "Geometric GAN", 2017, eq. 16.

    Example:
        >>> from bpkd.functional import critic_loss
        >>> teacher, student = torch.tensor([2.0, 0.5]), torch.tensor([-1.0, 0.0])
        >>> critic_loss(teacher, student)
        tensor(-1.7500)
        >>> critic_loss(teacher, student, "hinge")
        tensor(0.7500)
    """
    if kind not in ADVERSARIAL_LOSSES:
        raise ValueError(f"adv_loss: expected one of {ADVERSARIAL_LOSSES}, got {kind!r}.")
    real, fake = real_scores.float(), fake_scores.float()
    if kind == "hinge":
        return (1 - real).relu().mean() + (1 + fake).relu().mean()
    return fake.mean() - real.mean()


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], student: Tensor, teacher: Tensor, alpha: Tensor | None = None
) -> Tensor:
    """Mean over images of (|d critic(x) / d x| - 1)^2, x a point between teacher and student, one per image.

    Args:
        critic: function of [N, C, h, w] that returns scores; it is differentiated twice.
        student: maps [N, C, h, w]; get no gradient.
        teacher: maps [N, C, h, w]; get no gradient.
        alpha: [N, 1, 1, 1] in [0, 1], the teacher's share of x. Default: drawn from U(0, 1) on the maps' device.

    Returns:
        Scalar float32. The norm is over all elements of an image's map.

    Raises:
        ValueError: shapes differ.

    Source:
        Gulrajani et al. 2017, eq. 3, the factor lambda left to the caller.

    Example:
        >>> from bpkd.functional import gradient_penalty
        >>> maps = torch.zeros(2, 1, 1, 1)
        >>> gradient_penalty(lambda x: 3 * x.flatten(1).sum(1), maps, maps)  # slope 3: (3 - 1)^2
        tensor(4.)
    """
    if student.shape != teacher.shape:
        raise ValueError(f"expected maps of one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}.")
    with torch.autocast(student.device.type, enabled=False), torch.enable_grad():
        s, t = student.detach().float(), teacher.detach().float()
        if alpha is None:
            alpha = torch.rand(len(s), *[1] * (s.ndim - 1), device=s.device)
        x = (alpha * t + (1 - alpha) * s).requires_grad_()
        (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        norm = torch.linalg.vector_norm(slope.flatten(1), dim=1)
        penalty: Tensor = (norm - 1).square().mean()
    return penalty
