"""Structured knowledge distillation (Liu et al., CVPR 2019, TPAMI 2020): pixel-wise, pair-wise, holistic."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bpkd.functional import pairwise_affinity, pixel_kd
from bpkd.structures import SegOutput

from .base import Distiller, with_preset
from .discriminator import Adversary

PRESETS: dict[str, dict[str, Any]] = {
    # Pixel term as a mean over pixels at weight 1, a light adversary, the authors' pair-wise term.
    "default": {
        "pixel_weight": 1.0,
        "pair_weight": 0.5,
        "adv_weight": 0.001,
        "critic_weight": 0.1,
        "critic_optimizer": "adam",
    },
    # The authors' run script: their 10 on a sum over a batch of 8 is 80 on the mean.
    "author": {
        "pixel_weight": 80.0,
        "pair_weight": 0.5,
        "adv_weight": 0.1,
        "critic_weight": 0.1,
        "critic_optimizer": "sgd",
    },
}


class SKDS(Distiller):
    """pixel KD + ``pairwise_affinity`` on a feature map + an ``Adversary`` on the logits, its critic included."""

    def __init__(
        self,
        *,
        preset: str = "default",
        pixel_weight: float = -1.0,
        pair_weight: float = -1.0,
        adv_weight: float = -1.0,
        tap: str = "decode",
        pool_scale: float = 0.5,
        pool_kernel: int = 0,
        detach_norm: bool = True,
        adv_loss: str = "wgan-gp",
        critic_weight: float = -1.0,
        gp_weight: float = 10.0,
        critic_input: str = "batchnorm",
        critic_optimizer: str = "",
        critic_lr: float = 4e-4,
        **common: Any,
    ) -> None:
        """Sets the terms; arguments left at -1 or "" come from the preset.

        Args:
            preset: "default" or "author".
            pixel_weight: of the pixel term (a mean over pixels, temperature 1); 0 leaves it out.
            pair_weight: of the pair-wise term; 0 leaves it out.
            adv_weight: of the student's adversarial term; 0 leaves out both players and builds no critic.
            tap: feature whose places are compared.
            pool_scale: see ``pairwise_affinity``.
            pool_kernel: see ``pairwise_affinity``.
            detach_norm: see ``pairwise_affinity``.
            adv_loss: see Adversary, and so on for the arguments below.
            critic_weight: of the critic's own term.
            gp_weight: of the gradient penalty in it.
            critic_input: "batchnorm" or "tanh".
            critic_optimizer: "adam" or "sgd".
            critic_lr: its learning rate.
            **common: see Distiller; ``num_classes`` is needed for the critic.

        Raises:
            ValueError: the preset or an option is unknown.
        """
        super().__init__(**common)
        given = {
            "pixel_weight": pixel_weight,
            "pair_weight": pair_weight,
            "adv_weight": adv_weight,
            "critic_weight": critic_weight,
            "critic_optimizer": critic_optimizer,
        }
        chosen = with_preset(PRESETS, preset, given)
        self.pixel_weight: float = chosen["pixel_weight"]
        self.pair_weight: float = chosen["pair_weight"]
        self.tap, self.pool_scale, self.pool_kernel, self.detach_norm = tap, pool_scale, pool_kernel, detach_norm
        adv = chosen["adv_weight"]
        self.adversary_options: dict[str, Any] = {
            "adv_weight": adv,
            "critic_weight": chosen["critic_weight"],
            "adv_loss": adv_loss,
            "gp_weight": gp_weight,
            "critic_input": critic_input,
            "critic_optimizer": chosen["critic_optimizer"],
            "critic_lr": critic_lr,
        }
        self.adversary = Adversary(self.num_classes, **self.adversary_options) if adv else None
        weights = {"pixel": self.pixel_weight, "pair": self.pair_weight, "adv": adv, "critic": adv}
        self.taps = {name: tap if name == "pair" else "logits" for name, weight in weights.items() if weight}

    def terms(self, student: SegOutput, teacher: SegOutput, target: Tensor, iteration: int) -> dict[str, Tensor]:
        """Returns {"pixel", "pair", "adv", "critic"}, without those that are switched off."""
        out = {}
        logits = self.pair(student, teacher, "logits")
        if self.pixel_weight:
            out["pixel"] = self.pixel_weight * pixel_kd(*logits)
        if self.pair_weight:
            out["pair"] = self.pair_weight * pairwise_affinity(
                *self.pair(student, teacher, self.tap),
                pool_scale=self.pool_scale,
                pool_kernel=self.pool_kernel,
                detach_norm=self.detach_norm,
            )
        if self.adversary is not None:
            out.update(self.adversary(*logits))
        return out

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """Returns the critic's optimizer."""
        return {} if self.adversary is None else {"adversary.": self.adversary.optimizer_options()}
