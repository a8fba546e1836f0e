"""Terms of the two players of an adversarial game: WGAN and hinge scores, and the gradient penalty."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ADVERSARIAL_LOSSES = ("wgan-gp", "hinge")


def generator_loss(fake_scores: Tensor) -> Tensor:
    """Minus the mean critic score of the student's maps: the student's term, of WGAN and hinge alike.

    Args:
        fake_scores: any shape, the critic's scores of the student's maps.

    Returns:
        Scalar float32.

    Source:
        Liu et al., CVPR 2019, eq. 5; Gulrajani et al., "Improved Training of Wasserstein GANs", 2017.
    """
    return -fake_scores.float().mean()


def critic_loss(real_scores: Tensor, fake_scores: Tensor, kind: str = "wgan-gp") -> Tensor:
    """The critic's term, means over its scores: low where it scores the teacher high and the student low.

    Args:
        real_scores: any shape, scores of the teacher's maps.
        fake_scores: any shape, scores of the student's maps, which must be detached from the student.
        kind: "wgan-gp": -mean(real) + mean(fake), to which the caller adds the gradient penalty; "hinge":
            mean max(0, 1 - real) + mean max(0, 1 + fake).

    Returns:
        Scalar float32.

    Raises:
        ValueError: ``kind`` is unknown.

    Source:
        Gulrajani et al. 2017, eq. 3, without the penalty; Lim and Ye, "Geometric GAN", 2017, eq. 16.
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
        critic: maps [N, C, h, w] to scores; it is differentiated twice.
        student: [N, C, h, w]; gets no gradient.
        teacher: [N, C, h, w]; gets no gradient.
        alpha: [N, 1, 1, 1] in [0, 1], the teacher's share of x. Default: drawn from U(0, 1) on the maps' device.

    Returns:
        Scalar float32. The norm is over all elements of an image's map.

    Raises:
        ValueError: shapes differ.

    Source:
        Gulrajani et al. 2017, eq. 3, the factor lambda left to the caller.
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
