"""SegmentationMetrics: everything the tables need, from data-set-wide counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bpkd.functional.edges import edge_band

from .boundary import boundary_counts, boundary_iou, boundary_width
from .confusion import class_accuracy, class_iou, confusion_counts

ABSENT = ("zero", "skip")
Labels = Tensor | NDArray[np.integer[Any]]


class SegmentationMetrics:
    """mIoU, mAcc, aAcc, per-class IoU, trimap IoU over band widths, body IoU, Boundary IoU.

    All figures come from counts summed over every image (not from means of images), so parts of a data set that were
    counted apart ``merge`` into exactly the whole. The band of half-width w holds the valid pixels whose
    (2w+1) x (2w+1) window holds more than one valid label; the body is the rest.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        widths: Sequence[int] = (1, 3, 5, 9, 15),
        absent: str = "zero",
        boundary_ratio: float = 0.02,
    ) -> None:
        """Starts with no image.

        Args:
            num_classes: K.
            ignore_index: label that takes no part.
            widths: half-widths of the trimap bands in pixels.
            absent: a class that is predicted but occurs in no label counts as IoU 0 ("zero", OpenMMLab's rule) or is
                left out of the mean ("skip", Detectron2's).
            boundary_ratio: Boundary IoU's width as a share of the image's diagonal.

        Raises:
            ValueError: ``absent`` is unknown or a width is not positive.
        """
        if absent not in ABSENT:
            raise ValueError(f"absent: expected one of {ABSENT}, got {absent!r}.")
        if any(w < 1 for w in widths):
            raise ValueError(f"widths: expected positive half-widths in pixels, got {tuple(widths)}.")
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.widths, self.absent, self.boundary_ratio = tuple(widths), absent, boundary_ratio
        self.reset()

    def reset(self) -> None:
        """Forgets every image."""
        k = self.num_classes
        self.counts = torch.zeros(k, k, dtype=torch.int64)
        self.bands = torch.zeros(len(self.widths), k, k, dtype=torch.int64)
        self.boundary = torch.zeros(3, k, dtype=torch.int64)
        self.num_images = 0

    def update(self, pred: Labels, target: Labels) -> None:
        """Counts one image or a batch.

        Args:
            pred: [H, W] or [N, H, W] integers in 0..K-1.
            target: the same shape; 0..K-1 or ``ignore_index``.

        Raises:
            ValueError: shapes differ or a value is out of range.
        """
        p, t = (torch.as_tensor(np.asarray(x) if not isinstance(x, Tensor) else x) for x in (pred, target))
        if p.shape != t.shape or p.ndim not in (2, 3):
            raise ValueError(
                f"expected prediction and label of one shape [H, W] or [N, H, W], got {tuple(p.shape)} and "
                f"{tuple(t.shape)}."
            )
        p, t = (x.int() if x.ndim == 3 else x.int()[None] for x in (p, t))
        valid = t != self.ignore_index
        self._check(p, "prediction")
        self._check(t[valid], "label")
        if self.num_classes <= 255 and 0 <= self.ignore_index <= 255:
            p, t = p.to(torch.uint8), t.to(torch.uint8)  # the window filters run four times as fast
        k = self.num_classes
        self.counts += confusion_counts(p, t, k, valid).cpu()
        for i, w in enumerate(self.widths):
            band = edge_band(t, 2 * w + 1, ignore_index=self.ignore_index)
            self.bands[i] += confusion_counts(p, t, k, band).cpu()
        distance = boundary_width(t.shape[1], t.shape[2], self.boundary_ratio)
        self.boundary += boundary_counts(p, t, valid, k, distance).cpu()
        self.num_images += len(t)

    def _check(self, values: Tensor, what: str) -> None:
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= self.num_classes):
            raise ValueError(
                f"{what}: expected ids 0..{self.num_classes - 1}, got {int(values.min())}..{int(values.max())}. "
                f"Labels may also be ignore_index {self.ignore_index}."
            )

    def state(self) -> dict[str, Tensor]:
        """Returns the counts, for gathering over processes."""
        images = torch.tensor(self.num_images)
        return {"counts": self.counts, "bands": self.bands, "boundary": self.boundary, "images": images}

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Adds counts of ``state``."""
        self.counts += state["counts"]
        self.bands += state["bands"]
        self.boundary += state["boundary"]
        self.num_images += int(state["images"])

    def merge(self, other: SegmentationMetrics) -> None:
        """Adds another part of the data set.

        Raises:
            ValueError: the two follow different protocols.
        """
        if self.protocol(images=False) != other.protocol(images=False):
            raise ValueError(
                f"expected one protocol, got {self.protocol(images=False)} and {other.protocol(images=False)}."
            )
        self.add_state(other.state())

    def protocol(self, *, images: bool = True) -> dict[str, Any]:
        """Returns what the figures depend on beside the data."""
        rules = {
            "num_classes": self.num_classes,
            "ignore_index": self.ignore_index,
            "widths": list(self.widths),
            "band": "(2w+1) x (2w+1) window with more than one valid label",
            "absent_class": self.absent,
            "boundary_ratio": self.boundary_ratio,
        }
        return {**rules, "num_images": self.num_images} if images else rules

    def compute(self) -> dict[str, Any]:
        """Computes every figure, in percent; nan where there is nothing to measure.

        Returns:
            ``mIoU``, ``mAcc``, ``aAcc``, ``IoU`` and ``Acc`` (per class), ``trimap`` and ``body`` ({half-width:
            {"mIoU", "IoU"}}), ``boundary_IoU``, ``boundary_IoU_per_class``, ``protocol``.
        """
        iou, acc = class_iou(self.counts, absent=self.absent), class_accuracy(self.counts)
        edge = boundary_iou(self.boundary, absent=self.absent)
        total = self.counts.sum().double()
        return {
            "mIoU": _percent(iou.nanmean()),
            "mAcc": _percent(acc.nanmean()),
            "aAcc": _percent(self.counts.diag().sum().double() / total),
            "IoU": _percents(iou),
            "Acc": _percents(acc),
            "trimap": {w: self._region(b) for w, b in zip(self.widths, self.bands, strict=True)},
            "body": {w: self._region(self.counts - b) for w, b in zip(self.widths, self.bands, strict=True)},
            "boundary_IoU": _percent(edge.nanmean()),
            "boundary_IoU_per_class": _percents(edge),
            "protocol": self.protocol(),
        }

    def _region(self, counts: Tensor) -> dict[str, Any]:
        iou = class_iou(counts, absent=self.absent)
        return {"mIoU": _percent(iou.nanmean()), "IoU": _percents(iou)}


def _percent(value: Tensor) -> float:
    return 100.0 * float(value)


def _percents(values: Tensor) -> list[float]:
    return [100.0 * float(v) for v in values]
