"""InstanceTerms: the distillation terms of instance segmentation, each the mean over the levels of SOLOv2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bpkd.distillers import DistillationModule, Distiller, LevelDistiller
from bpkd.distillers.adapters import ChannelAdapter
from bpkd.structures import GridTargets, SOLOv2Outputs

from .level_inputs import EdgeContext, LevelInputs, category_levels, map_levels, mask_levels

INPUTS = ("same", "same_ranges", "own_size")
MASK_TERMS = ("mask_logits", "mask_towers", "mask_features")


@dataclass(frozen=True)
class InstanceOptions:
    """Options of a method's application to the levels; the fields are keys of cfg.DISTILL.INSTANCE."""

    category_weight: float = 1.0
    mask_weight: float = 1.0
    category_edges: str = "boundary"
    per_class: bool = False
    divergence: str = "sigmoid"
    mask_term: str = "mask_logits"
    match: str = "cell"
    max_pairs: int = 64
    box_region: float = 0.0


class InstanceTerms(DistillationModule):
    """Applies one distiller to the category logits and one to the masks, at every level."""

    def __init__(
        self,
        *,
        category: Distiller,
        mask: Distiller,
        options: InstanceOptions,
        channels: tuple[int, int] = (0, 0),
    ) -> None:
        """Sets the terms.

        Args:
            category: Distiller of the category logits.
            mask: Distiller of the masks.
            options: Options of the comparison.
            channels: Number of channels of the student's and the teacher's maps, for "mask_features" and "mask_towers".

        Raises:
            ValueError: both weights are 0, or the towers' channels differ.
        """
        super().__init__()
        self.options = options
        self.weights = {"category": options.category_weight, "mask": options.mask_weight}
        if not any(self.weights.values()):
            raise ValueError(
                "DISTILL.INSTANCE: expected CATEGORY_WEIGHT or MASK_WEIGHT above 0, got 0 for both. Without "
                "distillation set DISTILL.METHOD none."
            )
        if options.mask_term == "mask_towers" and channels[0] != channels[1]:
            raise ValueError(
                f"DISTILL.INSTANCE.MASK_TERM mask_towers: expected towers of one width, got {channels[0]} and "
                f"{channels[1]} channels (MODEL.SOLOV2.MASK_CHANNELS). Use mask_logits or mask_features."
            )
        aligned = options.mask_term == "mask_features" and options.mask_weight
        self.adapter = ChannelAdapter(*channels) if aligned else None
        chosen = {"category": (category, "category logits"), "mask": (mask, options.mask_term.replace("_", " "))}
        self.parts = nn.ModuleDict(
            {
                name: LevelDistiller(distiller, name=name, compares=compares, weight=self.weights[name])
                for name, (distiller, compares) in chosen.items()
                if self.weights[name]
            }
        )
        members = self.distillers()
        self.taps = {term: tap for part in members for term, tap in part.taps.items()}
        self.edge_window = next((part.edge_window for part in members if part.edge_window), None)

    def distillers(self) -> list[LevelDistiller]:
        """Returns the distillers of the category logits and of the masks whose weight is not 0."""
        return [part for part in self.parts.values() if isinstance(part, LevelDistiller)]

    def forward(
        self,
        student: SOLOv2Outputs,
        teacher: SOLOv2Outputs,
        *,
        targets: GridTargets,
        teacher_targets: GridTargets,
        iteration: int,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Computes the loss terms in float32, also under autocast.

        Args:
            student: Raw outputs of the student.
            teacher: Raw outputs of the teacher, detached; masks of another size are resized to the student's.
            targets: The student's assignment of instances to cells.
            teacher_targets: The teacher's assignment of the same instances on the same grids.
            iteration: Iteration of the training run.

        Returns:
            ``{"loss_kd_category_<term>", "loss_kd_mask_<term>": scalar}`` with weights applied, means over the levels
            (mask terms: over levels with a pair), and the detached values per level without the prefix ``loss_kd_``.
        """
        terms: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}
        with torch.autocast(student.mask_features.device.type, enabled=False):
            student = student.float()
            context = self._edge_context(student, targets)
            for name, part in self.parts.items():
                if name == "category":
                    levels = self._category(student, teacher, context)
                else:
                    levels = self._mask(student, teacher, context, teacher_targets)
                losses, per_level = part(levels.students, levels.teachers, levels.maps, iteration)
                terms.update(losses)
                values.update(per_level)
        return terms, values

    def _edge_context(self, student: SOLOv2Outputs, targets: GridTargets) -> EdgeContext:
        bands = "category" in self.parts and self.options.category_edges == "boundary"
        maps = [*(student.category_logits if bands else ())]
        if "mask" in self.parts:
            maps.append(student.mask_features)
        sizes = [(int(x.shape[2]), int(x.shape[3])) for x in maps]
        return EdgeContext(targets, student.canvas, self.edge_window, sizes)

    def _category(self, student: SOLOv2Outputs, teacher: SOLOv2Outputs, context: EdgeContext) -> LevelInputs:
        return category_levels(
            student,
            teacher,
            context,
            independent=self.options.divergence == "sigmoid",
            edges=self.options.category_edges,
            per_class=self.options.per_class,
        )

    def _mask(
        self, student: SOLOv2Outputs, teacher: SOLOv2Outputs, context: EdgeContext, teacher_targets: GridTargets
    ) -> LevelInputs:
        if self.options.mask_term == "mask_towers":
            return map_levels(student.mask_towers, teacher.mask_towers, context)
        if self.adapter is not None:
            return map_levels([self.adapter(student.mask_features)], [teacher.mask_features], context)
        return mask_levels(
            student,
            teacher,
            context,
            teacher_targets=teacher_targets,
            max_pairs=self.options.max_pairs,
            box_region=self.options.box_region,
            match=self.options.match,
        )
