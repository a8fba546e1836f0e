"""Structured knowledge distillation (Liu et al., CVPR 2019, TPAMI 2020): pixel-wise, pair-wise, holistic."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from bpkd.functional import pairwise_affinity
from bpkd.functional.adversarial import ADVERSARIAL_LOSSES
from bpkd.ranges import OneOf, Range

from .arguments import CountOrZero, Positive, Weight, with_preset
from .discriminator import CRITIC_INPUTS, OPTIMIZERS
from .holistic import HolisticDistiller

PRESETS: dict[str, dict[str, Any]] = {
    # Pixel term as a mean over pixels at weight 1, a light adversary, the authors' pair-wise term.
    "recommended": {
        "pixel_weight": 1.0,
        "pair_weight": 0.5,
        "adv_weight": 0.001,
        "critic_weight": 0.1,
        "critic_optimizer": "adam",
    },
    # The authors' run script: their 10 on a sum over a batch of 8 is 80 on the mean.
    "author_code": {
        "pixel_weight": 80.0,
        "pair_weight": 0.5,
        "adv_weight": 0.1,
        "critic_weight": 0.1,
        "critic_optimizer": "sgd",
    },
}


class SKDS(HolisticDistiller):
    """pixel KD + ``pairwise_affinity`` on a feature map + an ``Adversary`` on the logits, its critic included.

    >>> import torch
    >>> from bpkd.structures import SegOutput
    >>> g = torch.Generator().manual_seed(0)
    >>> student, teacher = (
    ...     SegOutput(torch.randn(1, 3, 4, 4, generator=g), None, {"decode": torch.randn(1, 8, 4, 4, generator=g)})
    ...     for _ in range(2)
    ... )
    >>> sorted(SKDS(num_classes=3)(student, teacher, torch.zeros(1, 8, 8).long()))
    ['loss_kd_adv', 'loss_kd_critic', 'loss_kd_pair', 'loss_kd_pixel']
    """

    feature = "pair"
    presets = PRESETS
    parity_arguments = frozenset({"pool_kernel", "detach_norm"})

    def __init__(
        self,
        *,
        preset: str = "recommended",
        pixel_weight: Weight | None = None,
        pair_weight: Weight | None = None,
        adv_weight: Weight | None = None,
        tap: str = "decode",
        pool_scale: Annotated[float, Range(above=0, high=1)] = 0.5,
        pool_kernel: CountOrZero = 0,
        detach_norm: bool = True,
        adv_loss: Annotated[str, OneOf(ADVERSARIAL_LOSSES)] = "wgan-gp",
        critic_weight: Weight | None = None,
        gp_weight: Weight = 10.0,
        critic_input: Annotated[str, OneOf(CRITIC_INPUTS)] = "batchnorm",
        critic_optimizer: Annotated[str, OneOf(OPTIMIZERS)] | None = None,
        critic_lr: Positive = 4e-4,
        **common: Any,
    ) -> None:
        """Sets the terms; arguments that are None come from the preset.

        Args:
            preset: values of the arguments that are None. "recommended": pixel 1, pair 0.5, adv 0.001;
                "author_code": the authors' run script, 80, 0.5, 0.1 and SGD for the critic.
            pixel_weight: factor on the pixel term (a mean over pixels, temperature 1); 0 leaves it out.
            pair_weight: factor on the pair-wise term; 0 leaves it out.
            adv_weight: factor on the student's adversarial term; 0 leaves out the critic too.
            tap: name of the feature whose positions are compared.
            pool_scale: side of the max-pooled patches that are compared, as a share of the map's.
            pool_kernel: the same side in positions; 0: ``pool_scale`` decides.
            detach_norm: no gradient through the norms that features are divided by, as in the authors' code.
            adv_loss: adversarial loss, "wgan-gp" or "hinge".
            critic_weight: factor on the critic's own term.
            gp_weight: factor on the gradient penalty inside the critic's term.
            critic_input: what the critic does to the logits first, "batchnorm" or "tanh".
            critic_optimizer: optimizer of the critic, "adam" (betas 0.9, 0.99) or "sgd" (momentum 0.9, decay 5e-4).
            critic_lr: learning rate of the critic; it decays to 0.
            **common: see `Distiller`; ``num_classes`` is needed for the critic.

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
