"""Intra-class feature variation distillation (Wang et al., ECCV 2020)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bpkd.functional import intra_class_variation, pixel_kd
from bpkd.structures import SegOutput

from .base import Distiller, with_preset
from .discriminator import Adversary

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's 50 beside a pixel term that is a mean over pixels.
    "default": {"pixel_weight": 1.0, "ifv_weight": 50.0, "adv_weight": 0.001, "adv_loss": "wgan-gp"},
    # The authors' code. Their pixel term is a mean over pixels and classes: its weight is 10 over the classes.
    "author": {"pixel_weight": 10.0, "ifv_weight": 200.0, "adv_weight": 0.001, "adv_loss": "wgan-gp"},
    # CIRKD's comparison runs.
    "cirkd": {"pixel_weight": 1.0, "ifv_weight": 20.0, "adv_weight": 0.001, "adv_loss": "hinge"},
}


class IFVD(Distiller):
    """pixel KD + ``intra_class_variation`` on a feature map + an ``Adversary`` on the logits, its critic included."""

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
        self.pixel_weight: float = chosen["pixel_weight"]
        self.ifv_weight: float = chosen["ifv_weight"]
        self.tap, self.valid_only = tap, valid_only
        adv = chosen["adv_weight"]
        self.adversary_options: dict[str, Any] = {
            "adv_weight": adv,
            "critic_weight": critic_weight,
            "adv_loss": chosen["adv_loss"],
            "gp_weight": gp_weight,
            "critic_input": critic_input,
            "critic_optimizer": critic_optimizer,
            "critic_lr": critic_lr,
        }
        self.adversary = Adversary(self.num_classes, **self.adversary_options) if adv else None
        weights = {"pixel": self.pixel_weight, "ifv": self.ifv_weight, "adv": adv, "critic": adv}
        self.taps = {name: tap if name == "ifv" else "logits" for name, weight in weights.items() if weight}

    def terms(self, student: SegOutput, teacher: SegOutput, target: Tensor, iteration: int) -> dict[str, Tensor]:
        """Returns {"pixel", "ifv", "adv", "critic"}, without those that are switched off."""
        out = {}
        logits = self.pair(student, teacher, "logits")
        if self.pixel_weight:
            out["pixel"] = self.pixel_weight * pixel_kd(*logits)
        if self.ifv_weight:
            out["ifv"] = self.ifv_weight * intra_class_variation(
                *self.pair(student, teacher, self.tap),
                target,
                num_classes=self.num_classes,
                ignore_index=self.ignore_index,
                valid_only=self.valid_only,
            )
        if self.adversary is not None:
            out.update(self.adversary(*logits))
        return out

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """Returns the critic's optimizer."""
        return {} if self.adversary is None else {"adversary.": self.adversary.optimizer_options()}
