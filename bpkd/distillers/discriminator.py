"""The critic of the holistic (adversarial) term, and the terms of student and critic in one backward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import register_parametrization

from bpkd.functional import critic_loss, generator_loss, gradient_penalty
from bpkd.functional.adversarial import ADVERSARIAL_LOSSES

CRITIC_INPUTS = ("batchnorm", "tanh")
OPTIMIZERS = ("adam", "sgd")
# Four strided convolutions and a 4 x 4 convolution without padding need at least this size.
SMALLEST_SIDE = 64


class SpectralNorm(nn.Module):
    """A weight over its largest singular value, estimated by one power iteration in each training forward.

    Values, buffers and random draws are those of `torch.nn.utils.parametrizations.spectral_norm`. That divides by
    the value, here its reciprocal is multiplied: two passes over the weight fewer in each backward, of which a step
    has many.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Starts with the singular vectors of 15 power iterations."""
        super().__init__()
        matrix = weight.detach().flatten(1)
        for name, size in zip(("_u", "_v"), matrix.shape, strict=True):
            self.register_buffer(name, F.normalize(matrix.new_empty(size).normal_(), dim=0, eps=1e-12))
        self._iterate(matrix, 15)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor, times: int = 1) -> None:
        for _ in range(times):
            self._u.copy_(F.normalize(matrix @ self._v, dim=0, eps=1e-12))
            self._v.copy_(F.normalize(matrix.T @ self._u, dim=0, eps=1e-12))

    def forward(self, weight: Tensor) -> Tensor:
        """Maps a weight to one of the same shape and spectral norm 1."""
        matrix = weight.flatten(1)
        if self.training:
            self._iterate(matrix)
        # Copies: the next forward changes the vectors that this one's backward needs.
        sigma = torch.dot(self._u.clone(), torch.mv(matrix, self._v.clone()))
        return weight * sigma.reciprocal()


def spectral_conv(channels: int, out_channels: int) -> nn.Conv2d:
    """Returns a 4 x 4 convolution of stride 2 whose weight has spectral norm 1."""
    conv = nn.Conv2d(channels, out_channels, 4, 2, 1)
    register_parametrization(conv, "weight", SpectralNorm(conv.weight))
    return conv


class SelfAttention(nn.Module):
    """x + gamma * attention over all positions (SAGAN, Zhang et al., ICML 2019), gamma 0 at the start."""

    def __init__(self, channels: int) -> None:
        """Builds queries and keys of an eighth of the channels."""
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, h, w] to the same shape."""
        queries, keys, values = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        attention = (queries.transpose(1, 2) @ keys).softmax(-1)  # [N, positions, keys]
        attended = (values @ attention.transpose(1, 2)).view_as(x)
        out: Tensor = self.gamma * attended + x
        return out


class Discriminator(nn.Module):
    """Scores logit maps; 3.19 M parameters at 19 classes.

    Batch norm is plain: its statistics are of one call and one process. A synchronised one would have to be
    differentiated twice by the gradient penalty, through a collective.
    """

    def __init__(self, channels: int, *, critic_input: str = "batchnorm") -> None:
        """Builds the critic.

        Args:
            channels: channels of the maps, the number of classes.
            critic_input: what is done to the maps first: "batchnorm" (the authors' mode 1) or "tanh".

        Raises:
            ValueError: the input is unknown, or the number of classes is not given.
        """
        super().__init__()
        if critic_input not in CRITIC_INPUTS:
            raise ValueError(f"critic_input: expected one of {CRITIC_INPUTS}, got {critic_input!r}.")
        if channels < 1:
            raise ValueError(f"num_classes: the critic expects at least 1, got {channels}. Give num_classes.")
        self.bn: nn.Module = nn.BatchNorm2d(channels) if critic_input == "batchnorm" else nn.Tanh()
        self.l1 = spectral_conv(channels, 64)
        self.l2 = spectral_conv(64, 128)
        self.l3 = spectral_conv(128, 256)
        self.attn1 = SelfAttention(256)
        self.l4 = spectral_conv(256, 512)
        self.attn2 = SelfAttention(512)
        self.last = nn.Conv2d(512, 1, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, channels, h, w], h and w at least 64, to scores [N, 1, h', w'].

        Raises:
            ValueError: the maps are too small; `enlarge` makes them fit.
        """
        if min(x.shape[-2:]) < SMALLEST_SIDE:
            raise ValueError(f"expected maps of at least {SMALLEST_SIDE} positions a side, got {tuple(x.shape[-2:])}.")
        x = self.bn(x)
        for layer in (self.l1, self.l2, self.l3):
            x = F.leaky_relu(layer(x), 0.1)
        x = F.leaky_relu(self.l4(self.attn1(x)), 0.1)
        score: Tensor = self.last(self.attn2(x))
        return score


def enlarge(logits: Tensor) -> Tensor:
    """Resizes maps whose short side is below 64 (bilinear, aspect kept); returns others as they are."""
    height, width = logits.shape[-2:]
    short = min(height, width)
    if short >= SMALLEST_SIDE:
        return logits
    size = [max(SMALLEST_SIDE, round(side * SMALLEST_SIDE / short)) for side in (height, width)]
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


class Adversary(nn.Module):
    """A critic with the student's and its own loss, for one optimizer step over their sum.

    The student's term runs the critic with detached weights, the critic's term sees detached logits: each gradient
    reaches its own network alone. Both are of the weights before the step, as in the authors' loop, which steps the
    student, then the critic on the logits that it already has.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        adv_weight: float,
        critic_weight: float,
        adv_loss: str = "wgan-gp",
        gp_weight: float = 10.0,
        critic_input: str = "batchnorm",
        critic_optimizer: str = "adam",
        critic_lr: float = 4e-4,
    ) -> None:
        """Builds the critic.

        Args:
            num_classes: number of classes, the critic's input channels.
            adv_weight: factor on the student's term.
            critic_weight: factor on the critic's term, penalty included.
            adv_loss: adversarial loss, "wgan-gp" or "hinge".
            gp_weight: factor on the gradient penalty inside the critic's term ("wgan-gp" only).
            critic_input: what is done to the logits first, see `Discriminator`.
            critic_optimizer: optimizer, "adam" (betas 0.9 and 0.99) or "sgd" (momentum 0.9, weight decay 5e-4).
            critic_lr: learning rate; it decays with the run's schedule, to 0.

        Raises:
            ValueError: an option is unknown, or the critic would never learn.
        """
        super().__init__()
        if adv_loss not in ADVERSARIAL_LOSSES:
            raise ValueError(f"adv_loss: expected one of {ADVERSARIAL_LOSSES}, got {adv_loss!r}.")
        if critic_optimizer not in ("adam", "sgd"):
            raise ValueError(f"critic_optimizer: expected 'adam' or 'sgd', got {critic_optimizer!r}.")
        if critic_weight <= 0 or critic_lr <= 0:
            raise ValueError(
                f"critic_weight and critic_lr: expected more than 0, got {critic_weight} and {critic_lr}. A critic "
                "that never learns teaches noise: adv_weight 0 switches both terms off."
            )
        self.adv_weight, self.critic_weight, self.adv_loss, self.gp_weight = (
            adv_weight, critic_weight, adv_loss, gp_weight)  # fmt: skip
        self.critic_optimizer, self.critic_lr = critic_optimizer, critic_lr
        self.critic = Discriminator(num_classes, critic_input=critic_input)

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Returns {"adv", "critic"} of logits [N, K, h, w] of any size, weights applied, in float32."""
        with torch.autocast(student.device.type, enabled=False):
            fake, real = enlarge(student.float()), enlarge(teacher.detach().float())
            frozen = {name: p.detach() for name, p in self.critic.named_parameters()}
            adv = generator_loss(functional_call(self.critic, frozen, (fake,)))
            fake = fake.detach()
            critic = critic_loss(self.critic(real), self.critic(fake), self.adv_loss)
            if self.adv_loss == "wgan-gp" and self.gp_weight:
                critic = critic + self.gp_weight * gradient_penalty(self.critic, fake, real)
        return {"adv": self.adv_weight * adv, "critic": self.critic_weight * critic}

    def optimizer_options(self) -> dict[str, Any]:
        """Returns the critic's own optimizer, for `Distiller.parameter_options`."""
        common = {"optimizer": self.critic_optimizer, "lr": self.critic_lr, "min_lr": 0.0}
        if self.critic_optimizer == "adam":
            return {**common, "betas": (0.9, 0.99), "weight_decay": 0.0}
        return {**common, "momentum": 0.9, "weight_decay": 5e-4}
