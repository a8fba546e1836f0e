"""Boundary privileged knowledge distillation (Liu et al., WACV 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from torch import Tensor

from bpkd.functional import EdgeRule, boundary_kd
from bpkd.functional.boundary_kd import NORMALIZERS, PRE_MASKS
from bpkd.functional.edges import IGNORE_MODES
from bpkd.ranges import OneOf
from bpkd.structures import SegOutput

from .arguments import Count, CountOrZero, Positive, Weight, with_preset
from .base import Distiller
from .target import Target

PRESETS: dict[str, dict[str, Any]] = {
    # A scale that trains from scratch: the edge term is a weighted mean over classes and positions, of unfiltered
    # logits.
    "recommended": {
        "edge_weight": 1.0,
        "body_weight": 2.0,
        "normalizer": "classes",
        "pre_mask": "none",
        "ramp_iters": 0,
    },
    # The same scale on edge maps of instances: the edge term divides by the map's sum
    # (docs/reference/solov2_distillation.md).
    "recommended_instance": {
        "edge_weight": 1.0,
        "body_weight": 2.0,
        "normalizer": "weights",
        "pre_mask": "none",
        "ramp_iters": 0,
    },
    # The supplement's average reduction: the edge term is the mean over images, classes and positions.
    "paper": {
        "edge_weight": 50.0,
        "body_weight": 20.0,
        "normalizer": "average",
        "pre_mask": "soft",
        "ramp_iters": 0,
    },
    # The supplement's sums with the weights that its re-implementers report.
    "literal": {
        "edge_weight": 50.0,
        "body_weight": 20.0,
        "normalizer": "positions",
        "pre_mask": "soft",
        "ramp_iters": 0,
    },
}


class BPKD(Distiller):
    """Edge and body terms of ``bpkd.functional.boundary_kd`` on the logits, with edges of the labels or as given.

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> student, teacher = (SegOutput(torch.randn(1, 2, 4, 4, generator=g)) for _ in range(2))
    >>> labels = torch.zeros(1, 8, 8).long()
    >>> labels[:, :, 4:] = 1
    >>> distiller = BPKD(kernel_size=3, num_classes=2)
    >>> {name: bool(term > 0) for name, term in distiller(student, teacher, labels).items()}
    {'loss_kd_edge': True, 'loss_kd_body': True}
    """

    presets = PRESETS
    renamed_values: ClassVar[Mapping[str, Mapping[Any, Any]]] = {"normalizer": {"cells": "positions"}}

    def __init__(
        self,
        *,
        preset: str = "recommended",
        edge_weight: Weight | None = None,
        body_weight: Weight | None = None,
        class_weight: Weight | Sequence[Weight] = (2.0,),
        temperature: Positive = 1.0,
        kernel_size: Count = 7,
        iterations: Count = 1,
        ignore_mode: Annotated[str, OneOf(IGNORE_MODES)] = "opaque",
        normalizer: Annotated[str, OneOf(NORMALIZERS)] | None = None,
        pre_mask: Annotated[str, OneOf(PRE_MASKS)] | None = None,
        ramp_iters: CountOrZero | None = None,
        **common: Any,
    ) -> None:
        """Sets both terms; arguments that are None come from the preset.

        Args:
            preset: values of the arguments that are None. "recommended": a scale that trains from scratch;
                "recommended_instance": the same for edge maps of instances; "paper": edge 50 and body 20, the edge
                term averaged over images, classes and positions; "literal": the same weights on the supplement's sums.
            edge_weight: factor on the edge term; 0 leaves it out.
            body_weight: factor on the body term; 0 leaves it out.
            class_weight: class weights alpha of the edge term, one number for all classes or one per class.
            temperature: divisor T of both networks' logits before the softmax.
            kernel_size: odd width of the edge window in label pixels.
            iterations: how often the edge window is applied.
            ignore_mode: whether ignored pixels make edges: "opaque" or "transparent", see ``class_edge_mask``.
            normalizer: what an image's edge sum is divided by: "positions" (n_c, the positions with an edge of the
                class), "classes" (n_c and the number of classes that have an edge), "weights" (the sum of the edge
                map, and the number of classes) or "average" (all classes times all positions), see ``boundary_kd``.
            pre_mask: filter on the logits before the softmax: "soft" (times the mask), "hard" (times mask > 0) or
                "none".
            ramp_iters: iterations over which the edge weight grows linearly from 0; 0: no ramp.
            **common: see `Distiller`; ``num_classes`` is needed.

        Raises:
            ValueError: the preset is unknown.
        """
        super().__init__(**common)
        given: dict[str, Any] = {
            "edge_weight": edge_weight,
            "body_weight": body_weight,
            "normalizer": normalizer,
            "pre_mask": pre_mask,
            "ramp_iters": ramp_iters,
        }
        chosen = with_preset(PRESETS, preset, given)
        self.edge_weight: float = chosen["edge_weight"]
        self.body_weight: float = chosen["body_weight"]
        self.ramp_iters: int = chosen["ramp_iters"]
        self.normalizer: str = chosen["normalizer"]
        self.pre_mask: str = chosen["pre_mask"]
        self.class_weight, self.temperature = class_weight, temperature
        self.kernel_size, self.iterations, self.ignore_mode = kernel_size, iterations, ignore_mode
        self.edge_window = (kernel_size, iterations)
        self.edge_rule: EdgeRule = EdgeRule(kernel_size, iterations, self.ignore_index, ignore_mode)
        weights = {"edge": self.edge_weight, "body": self.body_weight}
        self.taps = {name: "logits" for name, weight in weights.items() if weight}

    def terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        """Returns {"edge", "body"}, without a term whose weight is 0.

        Raises:
            ValueError: there are neither labels nor edges, or sparse edges of another shape than the logits.
        """
        s, t = self.pair(student, teacher, "logits")
        ramp = min(1.0, (iteration + 1) / self.ramp_iters) if self.ramp_iters else 1.0
        edge, body = boundary_kd(
            s,
            t,
            target.edges(self.edge_rule, s, reader=type(self).__name__),
            temperature=self.temperature,
            class_weight=self.class_weight,
            normalizer=self.normalizer,
            pre_mask=self.pre_mask,
            weights=(ramp * self.edge_weight, self.body_weight),
            valid=target.valid,
            independent=student.independent,
        )
        out = {"edge": edge, "body": body}
        return {name: out[name] for name in self.taps}
