"""Intra-class feature variation distillation (Wang et al., ECCV 2020)."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from bpkd.functional import intra_class_variation
from bpkd.functional.adversarial import ADVERSARIAL_LOSSES
from bpkd.ranges import OneOf

from .arguments import Positive, Weight, is_open, preset_name, with_preset
from .discriminator import CRITIC_INPUTS, OPTIMIZERS
from .holistic import HolisticDistiller

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's 50 beside a pixel term that is a mean over pixels.
    "recommended": {"pixel_weight": 1.0, "ifv_weight": 50.0, "adv_weight": 0.001, "adv_loss": "wgan-gp"},
    # The authors' code. Their pixel term is a mean over pixels and classes: its weight is 10 over the classes.
    "author_code": {"pixel_weight": 10.0, "ifv_weight": 200.0, "adv_weight": 0.001, "adv_loss": "wgan-gp"},
    # CIRKD's comparison runs.
    "cirkd": {"pixel_weight": 1.0, "ifv_weight": 20.0, "adv_weight": 0.001, "adv_loss": "hinge"},
}


class IFVD(HolisticDistiller):
    """pixel KD + ``intra_class_variation`` on a feature map + an ``Adversary`` on the logits, its critic included.

    >>> import torch
    >>> from bpkd.structures import SegOutput
    >>> g = torch.Generator().manual_seed(0)
    >>> student, teacher = (
    ...     SegOutput(torch.randn(1, 3, 4, 4, generator=g), None, {"decode": torch.randn(1, 8, 4, 4, generator=g)})
    ...     for _ in range(2)
    ... )
    >>> sorted(IFVD(adv_weight=0.0, num_classes=3)(student, teacher, torch.zeros(1, 8, 8).long()))
    ['loss_kd_ifv', 'loss_kd_pixel']
    """

    feature = "ifv"
    presets = PRESETS

    def __init__(
        self,
        *,
        preset: str = "recommended",
        pixel_weight: Weight | None = None,
        ifv_weight: Weight | None = None,
        adv_weight: Weight | None = None,
        tap: str = "decode",
        valid_only: bool = False,
        adv_loss: Annotated[str, OneOf(ADVERSARIAL_LOSSES)] | None = None,
        critic_weight: Weight = 0.1,
        gp_weight: Weight = 10.0,
        critic_input: Annotated[str, OneOf(CRITIC_INPUTS)] = "batchnorm",
        critic_optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "adam",
        critic_lr: Positive = 4e-4,
        **common: Any,
    ) -> None:
        """Sets the terms; arguments that are None come from the preset.

        Args:
            preset: values of the arguments that are None. "recommended": pixel 1, ifv 50, adv 0.001; "author_code":
                10 over the number of classes, 200, 0.001; "cirkd": CIRKD's comparison runs, 1, 20, 0.001 with hinge.
            pixel_weight: factor on the pixel term (a mean over pixels, temperature 1); 0 leaves it out.
            ifv_weight: factor on the intra-class term; 0 leaves it out.
            adv_weight: factor on the student's adversarial term; 0 leaves out the critic too.
            tap: name of the feature whose variation is compared.
            valid_only: divide the intra-class term by the pixels that are not ignored (the authors divide by all).
            adv_loss: adversarial loss, "wgan-gp" or "hinge".
            critic_weight: factor on the critic's own term.
            gp_weight: factor on the gradient penalty inside the critic's term.
            critic_input: what the critic does to the logits first, "batchnorm" or "tanh".
            critic_optimizer: optimizer of the critic, "adam" (betas 0.9, 0.99) or "sgd" (momentum 0.9, decay 5e-4).
            critic_lr: learning rate of the critic; it decays to 0.
            **common: see `Distiller`; ``num_classes`` is needed.

        Raises:
            ValueError: the preset or an option is unknown.
        """
        super().__init__(**common)
        given = {
            "pixel_weight": pixel_weight,
            "ifv_weight": ifv_weight,
            "adv_weight": adv_weight,
            "adv_loss": adv_loss,
        }
        chosen = with_preset(PRESETS, preset, given)
        if preset_name(PRESETS, preset) == "author_code" and is_open(pixel_weight):
            chosen["pixel_weight"] /= max(self.num_classes, 1)
        self.valid_only = valid_only
        self.set_terms(
            tap,
            pixel_weight=chosen["pixel_weight"],
            feature_weight=chosen["ifv_weight"],
            adv_weight=chosen["adv_weight"],
            adv_loss=chosen["adv_loss"],
            critic_weight=critic_weight,
            gp_weight=gp_weight,
            critic_input=critic_input,
            critic_optimizer=critic_optimizer,
            critic_lr=critic_lr,
        )
        self.averages_over_images &= not valid_only  # else divided by the valid pixels of the batch

    def feature_term(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Returns the intra-class term."""
        return intra_class_variation(
            student,
            teacher,
            target,
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            valid_only=self.valid_only,
        )
