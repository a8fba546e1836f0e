"""The SOLOv2 teacher: its input images and its assignment of instances to grid cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor
from torch.nn import functional as F

from bpkd.modeling.precision import autocast, check_amp, choose_precision
from bpkd.modeling.preprocessing import file_names, normalised, stack_padded
from bpkd.modeling.teachers.base import Pending
from bpkd.modeling.teachers.build import build_teacher_model
from bpkd.structures import GridTargets, SOLOv2Outputs

from .distillation_terms import INPUTS
from .meta import SOLOv2
from .targets import GridAssigner, ImageInstances


class FrozenSOLOv2:
    """Runs a frozen SOLOv2 on raw batches; returns its detached outputs and its own assignment of the instances.

    It is deliberately no nn.Module, like `bpkd.modeling.FrozenTeacher`: it is part neither of the student's parameters
    and checkpoint nor of DistributedDataParallel.
    """

    def __init__(self, model: SOLOv2, *, inputs: str = "same", amp: str = "off") -> None:
        """Freezes ``model``.

        Args:
            model: The network, with its weights loaded.
            inputs: Images that the teacher gets: "same" or "same_ranges": the student's padded images; "own_size": each
                item's ``teacher_image``, padded in proportion to the student's.
            amp: Autocast type of the forward pass, "off", "bf16" or "fp16".

        Raises:
            ValueError: an option is unknown.
        """
        self.amp = check_amp(amp, key="TEACHER.AMP")
        if inputs not in INPUTS:
            raise ValueError(f"DISTILL.INSTANCE.INPUT: expected one of {', '.join(INPUTS)}, got {inputs!r}.")
        self.model, self.inputs = model.eval().requires_grad_(False), inputs

    @torch.no_grad()
    def __call__(
        self, batch: Sequence[dict[str, Any]], images: ImageList, targets: GridTargets
    ) -> tuple[SOLOv2Outputs, GridTargets]:
        """Runs the teacher.

        Args:
            batch: Items of the data loader with uint8 images.
            images: The student's padded images.
            targets: The student's assignment of instances to cells.

        Returns:
            The teacher's outputs in float32 without an autograd graph, and its assignment of the same instances. Grids
            divide the canvas, so the cells of both networks coincide, whatever the size of the teacher's images.
        """
        device = images.tensor.device
        if self.model.device != device:
            self.model.to(device)
        self.model.eval()  # in case a module that holds the network was set to training
        canvas = (int(images.tensor.shape[-2]), int(images.tensor.shape[-1]))
        pixels = self._images(batch, images, canvas)
        with autocast(device, self.amp, cache=False):
            out = self.model.raw_outputs(pixels)
        outputs = out.float()
        if self.inputs == "same_ranges":
            return outputs, targets
        zoom = math.sqrt(pixels.shape[-2] * pixels.shape[-1] / (canvas[0] * canvas[1]))
        return outputs, self._assign(targets, canvas, zoom)

    def submit(
        self, batch: Sequence[dict[str, Any]], images: ImageList, targets: GridTargets
    ) -> Pending[tuple[SOLOv2Outputs, GridTargets]]:
        """Runs the teacher at once; arguments as in `__call__`, whose outputs ``result()`` returns."""
        output = self(batch, images, targets)
        return Pending(lambda: output)

    def _images(self, batch: Sequence[dict[str, Any]], images: ImageList, canvas: tuple[int, int]) -> Tensor:
        if self.inputs != "own_size":
            return stack_padded(normalised(batch, self.model), canvas, 0.0, file_names(batch))
        for item, name in zip(batch, file_names(batch), strict=True):
            if "teacher_image" not in item:
                raise ValueError(
                    f"{name}: expected a 'teacher_image' for DISTILL.INSTANCE.INPUT own_size, got none. The mapper "
                    "has to return the same picture, flipped alike, at DISTILL.INSTANCE.TEACHER_SIZE."
                )
        rows = normalised(batch, self.model, "teacher_image")
        sizes = images.image_sizes
        wanted = max(row.shape[-2] / size[0] for row, size in zip(rows, sizes, strict=True))
        divisor = self.model.backbone.size_divisibility
        own = [divisor * max(1, round(side * wanted / divisor)) for side in canvas]
        zoom = [o / c for o, c in zip(own, canvas, strict=True)]
        resized = [
            F.interpolate(row[None], size=[round(s * z) for s, z in zip(size, zoom, strict=True)], mode="bilinear")[0]
            for row, size in zip(rows, sizes, strict=True)
        ]
        return stack_padded(resized, (own[0], own[1]), 0.0, file_names(batch))

    def _assign(self, targets: GridTargets, canvas: tuple[int, int], zoom: float) -> GridTargets:
        """Assigns instances by the teacher's own scale ranges, in its own pixels: ``zoom`` times the student's."""
        own = self.model.assigner
        assigner = GridAssigner(
            num_classes=own.num_classes,
            num_grids=own.num_grids,
            scale_ranges=[(low / zoom, high / zoom) for low, high in own.scale_ranges],
            sigma=own.sigma,
        )
        assigner.crowded = True  # the student's assignment has given the warning
        counts = torch.bincount(targets.image, minlength=len(targets.full_masks)).tolist()
        parts = zip(targets.full_masks, targets.boxes.split(counts), targets.classes.split(counts), strict=True)
        return assigner([ImageInstances(*part) for part in parts], canvas)


def build_instance_teacher(cfg: CfgNode, student: SOLOv2) -> FrozenSOLOv2:
    """Builds the frozen teacher of a student.

    Raises:
        FileNotFoundError: config file or weights do not exist.
        ValueError: see `build_teacher_model`; or the networks' grids differ, or their scale ranges do with
            "same_ranges".
    """
    model = build_teacher_model(cfg)
    assert isinstance(model, SOLOv2)  # as the student is
    _check_fit(model, student, inputs=cfg.DISTILL.INSTANCE.INPUT)
    amp = choose_precision(cfg.TEACHER.AMP, torch.device(cfg.MODEL.DEVICE), key="TEACHER.AMP")
    return FrozenSOLOv2(model, inputs=cfg.DISTILL.INSTANCE.INPUT, amp=amp)


def _check_fit(teacher: SOLOv2, student: SOLOv2, *, inputs: str) -> None:
    have, want = list(teacher.assigner.num_grids), list(student.assigner.num_grids)
    if have != want:
        raise ValueError(
            "MODEL.SOLOV2.NUM_GRIDS: expected the same of teacher and student, whose cells are compared one by one, "
            f"got {have} and {want}."
        )
    if inputs == "same_ranges" and teacher.assigner.scale_ranges != student.assigner.scale_ranges:
        raise ValueError(
            "DISTILL.INSTANCE.INPUT same_ranges: expected equal MODEL.SOLOV2.SCALE_RANGES, got "
            f"{[list(r) for r in teacher.assigner.scale_ranges]} of the teacher and "
            f"{[list(r) for r in student.assigner.scale_ranges]} of the student. Give the student the teacher's, in "
            "the run without distillation too, or use INPUT same."
        )
