"""Boundary privileged knowledge distillation (Liu et al., WACV 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from bpkd.functional import EdgeMap, EdgeRule, SparseEdgeMask, boundary_kd
from bpkd.structures import EdgeMaps, SegOutput

from .base import Distiller, LabelledEdges, Target, with_preset

PRESETS: dict[str, dict[str, Any]] = {
    # A scale that trains from scratch: the edge term is a weighted mean over classes and cells, of unfiltered logits.
    "safe": {
        "edge_weight": 1.0,
        "body_weight": 2.0,
        "normalizer": "classes",
        "pre_mask": "none",
        "ramp_iters": 0,
    },
    # The same scale on edge maps of instances: the edge term divides by the map's sum (docs/solov2.md).
    "instances": {
        "edge_weight": 1.0,
        "body_weight": 2.0,
        "normalizer": "weights",
        "pre_mask": "none",
        "ramp_iters": 0,
    },
    # The supplement's average reduction: the edge term is the mean over images, classes and cells.
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
    """Edge and body terms of ``bpkd.functional.boundary_kd`` on the logits, with edges of the labels or as given."""

    def __init__(
        self,
        *,
        preset: str = "safe",
        edge_weight: float = -1.0,
        body_weight: float = -1.0,
        class_weight: float | Sequence[float] = 2.0,
        temperature: float = 1.0,
        kernel_size: int = 7,
        iterations: int = 1,
        ignore_mode: str = "opaque",
        normalizer: str = "",
        pre_mask: str = "",
        ramp_iters: int = -1,
        **common: Any,
    ) -> None:
        """Sets both terms; arguments left at -1 or "" come from the preset.

        Args:
            preset: "safe", "instances", "paper" or "literal".
            edge_weight: of the edge term; 0 leaves it out.
            body_weight: of the body term; 0 leaves it out.
            class_weight: alpha of the edge term, one number or one per class.
            temperature: T of both terms.
            kernel_size: odd edge width in label pixels.
            iterations: passes of the window.
            ignore_mode: "opaque" or "transparent", see ``class_edge_mask``.
            normalizer: "positions", "classes", "weights" or "average", see ``boundary_kd``.
            pre_mask: "soft", "hard" or "none", see ``boundary_kd``.
            ramp_iters: iterations over which the edge weight grows from 0.
            **common: see Distiller; ``num_classes`` is needed.

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
            ValueError: there are edge maps without an edge, or rows of edges of another shape than the logits.
        """
        s, t = self.pair(student, teacher, "logits")
        edges: Tensor | EdgeMap | SparseEdgeMask | None
        if isinstance(target, EdgeMaps):
            edges, valid = target.edge, target.valid
        else:
            edges, valid = self._edges(target, s), None
        if edges is None:
            raise ValueError("BPKD: expected labels, or edge maps with an edge, got maps without one.")
        ramp = min(1.0, (iteration + 1) / self.ramp_iters) if self.ramp_iters else 1.0
        edge, body = boundary_kd(
            s,
            t,
            edges,
            temperature=self.temperature,
            class_weight=self.class_weight,
            normalizer=self.normalizer,
            pre_mask=self.pre_mask,
            weights=(ramp * self.edge_weight, self.body_weight),
            valid=valid,
            independent=student.independent,
        )
        out = {"edge": edge, "body": body}
        return {name: out[name] for name in self.taps}

    def _edges(self, target: Tensor | LabelledEdges, logits: Tensor) -> Tensor | EdgeMap | SparseEdgeMask:
        if not isinstance(target, LabelledEdges):
            return self.edge_rule.edges(target, logits.shape[1], (logits.shape[2], logits.shape[3]))
        if target.rows.shape != tuple(logits.shape):
            raise ValueError(
                f"BPKD: expected edges of the logits' shape {tuple(logits.shape)}, got {target.rows.shape} from the "
                "data loader. DATALOADER.EDGE_MASKS step finds them in the training step, at any size."
            )
        return target.rows
