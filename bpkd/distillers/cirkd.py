"""Cross-image relational knowledge distillation (Yang et al., CVPR 2022)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from bpkd.functional import anchor_kd, cross_image_kd, nearest_labels, pixel_kd
from bpkd.functional.cross_image import pool_nodes
from bpkd.ranges import OneOf
from bpkd.structures import SegOutput

from .arguments import Count, CountOrZero, Positive, Weight, with_preset
from .base import Distiller
from .memory_bank import STORAGE, MemoryBank
from .projection import ProjectionHead
from .ranks import gather_ranks, rank, world_size
from .target import Target

WEIGHTS = {"kd_weight": 1.0, "mini_batch_weight": 1.0, "pixel_weight": 0.1, "region_weight": 0.1}
PRESETS: dict[str, dict[str, float]] = {
    # The authors' weights; the memory is held below 1 GB.
    "recommended": {**WEIGHTS, "max_gigabytes": 1.0},
    # The same with queues as long as the authors', whatever they take (6.8 GB for 150 classes of 512 channels).
    "author_code": {**WEIGHTS, "max_gigabytes": 0.0},
}


def _check_queues(**queues: tuple[float, int]) -> None:
    for name, (weight, length) in queues.items():
        if weight and not length:
            raise ValueError(
                f"CIRKD: {name}_queue: expected at least 1 with {name}_weight {weight}, got 0. Set {name}_weight 0 to "
                "leave the term out."
            )


class CIRKD(Distiller):
    """Pixel KD on the logits; similarities within the batch and to a memory on a feature map.

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> student, teacher = (
    ...     SegOutput(torch.randn(2, 3, 4, 4, generator=g), None, {"decode": torch.randn(2, 8, 4, 4, generator=g)})
    ...     for _ in range(2)
    ... )
    >>> channels = {"student_channels": {"decode": 8}, "teacher_channels": {"decode": 8}}
    >>> distiller = CIRKD(pixel_queue=20, region_queue=10, num_classes=3, **channels)
    >>> sorted(distiller(student, teacher, torch.zeros(2, 8, 8).long()))
    ['loss_kd_memory_pixel', 'loss_kd_memory_region', 'loss_kd_mini_batch', 'loss_kd_pixel']

    Attributes:
        memory: description of the queues, for the log.
    """

    presets = PRESETS
    parity_arguments = frozenset({"legacy_enqueue"})

    def __init__(
        self,
        *,
        preset: str = "recommended",
        kd_weight: Weight | None = None,
        mini_batch_weight: Weight | None = None,
        pixel_weight: Weight | None = None,
        region_weight: Weight | None = None,
        tap: str = "decode",
        temperature: Positive = 1.0,
        contrast_temperature: Positive = 0.1,
        memory_temperature: Positive = 1.0,
        max_nodes: Count = 8192,
        gather: bool = False,
        hidden_channels: CountOrZero = 0,
        pixel_queue: CountOrZero = 20000,
        region_queue: CountOrZero = 2000,
        pixels_per_image: Count = 16,
        pixel_anchors: Count = 4096,
        region_anchors: Count = 1024,
        storage: Annotated[str, OneOf(tuple(STORAGE))] = "float32",
        max_gigabytes: Weight | None = None,
        seed: CountOrZero = 0,
        legacy_enqueue: bool = False,
        **common: Any,
    ) -> None:
        """Sets the terms; arguments that are None come from the preset. A term of weight 0 is not computed.

        Args:
            preset: values of the arguments that are None. "recommended": the authors' weights, both queues below 1 GB;
                "author_code": the same weights, queues as long as the authors'.
            kd_weight: factor on the pixel term on the logits.
            mini_batch_weight: factor on the term of similarities between the batch's images.
            pixel_weight: factor on the term of similarities to the pixel queue.
            region_weight: factor on the term of similarities to the region queue.
            tap: name of the feature whose similarities are compared.
            temperature: divisor T of the logits in the pixel term.
            contrast_temperature: divisor tau of all similarities.
            memory_temperature: divisor Tk of the memory terms' similarities, beside tau.
            max_nodes: most positions of a map in the mini-batch term; larger maps are average-pooled.
            gather: the mini-batch term pairs the images of all processes, not only of its own.
            hidden_channels: width of the projection head; 0: the teacher's channels.
            pixel_queue: length of the pixel queue of each class.
            region_queue: length of the region queue of each class.
            pixels_per_image: number of pixels that an image adds to the pixel queue of a class.
            pixel_anchors: number A of queue pixels that a pixel is compared with, A // K + 1 of each of K classes.
            region_anchors: number A of queue regions that a pixel is compared with, A // K + 1 of each of K classes.
            storage: number format of the queues, "float32" or "float16".
            max_gigabytes: most memory of both queues in 1e9 bytes, 0: no limit; longer queues are shortened.
            seed: seed of the queues' first entries and of every draw.
            legacy_enqueue: fill and overflow the queues as CIRKD's code does, against the paper.
            **common: see `Distiller`; the memory needs ``num_classes`` and the channels of ``tap``.

        Raises:
            ValueError: the preset is unknown, or the memory lacks classes or channels.
        """
        super().__init__(**common)
        given = {
            "kd_weight": kd_weight,
            "mini_batch_weight": mini_batch_weight,
            "pixel_weight": pixel_weight,
            "region_weight": region_weight,
            "max_gigabytes": max_gigabytes,
        }
        chosen = with_preset(PRESETS, preset, given)
        self.kd_weight: float = chosen["kd_weight"]
        self.mini_batch_weight: float = chosen["mini_batch_weight"]
        self.pixel_weight: float = chosen["pixel_weight"]
        self.region_weight: float = chosen["region_weight"]
        weights = {
            "pixel": self.kd_weight,
            "mini_batch": self.mini_batch_weight,
            "memory_pixel": self.pixel_weight,
            "memory_region": self.region_weight,
        }
        self.taps = {name: "logits" if name == "pixel" else tap for name, weight in weights.items() if weight}
        self.averages_over_images = set(self.taps) <= {"pixel"}  # the others compare the images of a batch
        self.tap, self.temperature, self.contrast_temperature = tap, temperature, contrast_temperature
        self.memory_temperature, self.max_nodes, self.gather = memory_temperature, max_nodes, gather
        self.head: ProjectionHead | None = None
        self.bank: MemoryBank | None = None
        self.memory = "none"
        if not (self.pixel_weight or self.region_weight):
            return
        if self.num_classes < 1:
            raise ValueError(f"num_classes: CIRKD's memory expects at least 1, got {self.num_classes} classes.")
        _check_queues(pixel=(self.pixel_weight, pixel_queue), region=(self.region_weight, region_queue))
        student_channels, channels = self.channels(tap, "Name another TAP, or set both memory weights to 0.")
        self.pixel_anchors = pixel_anchors // self.num_classes + 1
        self.region_anchors = region_anchors // self.num_classes + 1
        self.head = ProjectionHead(student_channels, channels, hidden_channels)
        self.bank = MemoryBank(
            self.num_classes,
            channels,
            pixels=pixel_queue if self.pixel_weight else 0,
            regions=region_queue if self.region_weight else 0,
            pixels_per_image=pixels_per_image,
            ignore_index=self.ignore_index,
            storage=storage,
            max_gigabytes=chosen["max_gigabytes"],
            seed=seed,
            legacy=legacy_enqueue,
        )
        self.memory = self.bank.description

    def terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        """Returns those of {"pixel", "mini_batch", "memory_pixel", "memory_region"} whose weight is not 0."""
        terms = {}
        if self.kd_weight:
            logits = self.pair(student, teacher, "logits")
            terms["pixel"] = self.kd_weight * pixel_kd(*logits, self.temperature)
        if self.mini_batch_weight:
            s, t = self.pair(student, teacher, self.tap)
            terms["mini_batch"] = self.mini_batch_weight * cross_image_kd(
                s, t, self.contrast_temperature, max_nodes=self.max_nodes, remote=self._remote(s, t)
            )
        if self.bank is not None:
            terms.update(self._memory_terms(*self.pair(student, teacher, self.tap), self.labels(target), iteration))
        return terms

    def _remote(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor] | None:
        """Returns the other processes' features, pooled before they are sent."""
        if not self.gather or world_size() == 1:
            return None
        parts = (gather_ranks(pool_nodes(x.float(), self.max_nodes)) for x in (student, teacher))
        far_s, far_t = (torch.cat(x[: rank()] + x[rank() + 1 :]) for x in parts)
        return far_s, far_t

    def _memory_terms(self, student: Tensor, teacher: Tensor, target: Tensor, iteration: int) -> dict[str, Tensor]:
        """Fills the memory, then compares every valid pixel's similarities to a fresh draw from it."""
        assert self.bank is not None
        assert self.head is not None
        labels = nearest_labels(target, (teacher.shape[2], teacher.shape[3]))
        if torch.is_grad_enabled():  # a pass without gradient (precise batch norm) leaves the memory alone
            self.bank.update(teacher, labels, iteration)
        s, t, valid = _pixels((self.head(student), teacher), labels != self.ignore_index)
        temperatures = (self.contrast_temperature, self.memory_temperature)
        terms = {}
        if self.bank.pixel is not None:
            anchors = self.bank.pixel_anchors(self.pixel_anchors, iteration)
            terms["memory_pixel"] = self.pixel_weight * anchor_kd(s, t, anchors, *temperatures, valid=valid)
        if self.bank.region is not None:
            anchors = self.bank.region_anchors(self.region_anchors, iteration)
            terms["memory_region"] = self.region_weight * anchor_kd(s, t, anchors, *temperatures, valid=valid)
        return terms


def _pixels(maps: tuple[Tensor, Tensor], valid: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns the rows of two maps and which of them are valid: on a CPU only the valid ones, and None.

    On a GPU choosing them would wait for their number.

    Args:
        maps: two maps [N, D, h, w].
        valid: bool [N, h, w].
    """
    first, second = (x.permute(0, 2, 3, 1) for x in maps)
    if valid.device.type == "cpu":
        return first[valid], second[valid], None
    return first.flatten(0, 2), second.flatten(0, 2), valid.flatten()
