"""Structured knowledge distillation (Liu et al., CVPR 2019, TPAMI 2020): pixel-wise, pair-wise, holistic."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bpkd.functional import pairwise_affinity

from .base import with_preset
from .holistic import HolisticDistiller

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


class SKDS(HolisticDistiller):
    """pixel KD + ``pairwise_affinity`` on a feature map + an ``Adversary`` on the logits, its critic included."""

    feature = "pair"

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
        self.pool_scale, self.pool_kernel, self.detach_norm = pool_scale, pool_kernel, detach_norm
        self.set_terms(
            tap,
            pixel_weight=chosen["pixel_weight"],
            feature_weight=chosen["pair_weight"],
            adv_weight=chosen["adv_weight"],
            adv_loss=adv_loss,
            critic_weight=chosen["critic_weight"],
            gp_weight=gp_weight,
            critic_input=critic_input,
            critic_optimizer=chosen["critic_optimizer"],
            critic_lr=critic_lr,
        )

    def feature_term(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Returns the pair-wise term."""
        return pairwise_affinity(
            student,
            teacher,
            pool_scale=self.pool_scale,
            pool_kernel=self.pool_kernel,
            detach_norm=self.detach_norm,
        )
