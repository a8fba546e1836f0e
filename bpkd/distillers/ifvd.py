"""Intra-class feature variation distillation (Wang et al., ECCV 2020)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bpkd.functional import intra_class_variation

from .base import with_preset
from .holistic import HolisticDistiller

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's 50 beside a pixel term that is a mean over pixels.
    "default": {"pixel_weight": 1.0, "ifv_weight": 50.0, "adv_weight": 0.001, "adv_loss": "wgan-gp"},
    # The authors' code. Their pixel term is a mean over pixels and classes: its weight is 10 over the classes.
    "author": {"pixel_weight": 10.0, "ifv_weight": 200.0, "adv_weight": 0.001, "adv_loss": "wgan-gp"},
    # CIRKD's comparison runs.
    "cirkd": {"pixel_weight": 1.0, "ifv_weight": 20.0, "adv_weight": 0.001, "adv_loss": "hinge"},
}


class IFVD(HolisticDistiller):
    """pixel KD + ``intra_class_variation`` on a feature map + an ``Adversary`` on the logits, its critic included."""

    feature = "ifv"

    def __init__(
        self,
        *,
        preset: str = "default",
        pixel_weight: float = -1.0,
        ifv_weight: float = -1.0,
        adv_weight: float = -1.0,
        tap: str = "decode",
        valid_only: bool = False,
        adv_loss: str = "",
        critic_weight: float = 0.1,
        gp_weight: float = 10.0,
        critic_input: str = "batchnorm",
        critic_optimizer: str = "adam",
        critic_lr: float = 4e-4,
        **common: Any,
    ) -> None:
        """Sets the terms; arguments left at -1 or "" come from the preset.

        Args:
            preset: "default", "author" or "cirkd".
            pixel_weight: of the pixel term (a mean over pixels, temperature 1); 0 leaves it out.
            ifv_weight: of the intra-class term; 0 leaves it out.
            adv_weight: of the student's adversarial term; 0 leaves out both players and builds no critic.
            tap: feature whose variation is compared.
            valid_only: see ``intra_class_variation``.
            adv_loss: see Adversary, and so on for the arguments below.
            critic_weight: of the critic's own term.
            gp_weight: of the gradient penalty in it.
            critic_input: "batchnorm" or "tanh".
            critic_optimizer: "adam" or "sgd".
            critic_lr: its learning rate.
            **common: see Distiller; ``num_classes`` is needed.

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
        if preset == "author" and pixel_weight == -1:
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
