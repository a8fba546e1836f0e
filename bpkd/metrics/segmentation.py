"""SegmentationMetrics: IoU, trimap IoU, Boundary IoU and boundary F from data-set-wide counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bpkd.functional.reference.edges import mixed_windows

from .absent import ABSENT, absent_facts, means_of
from .base import Metric
from .boundary import boundary_counts, boundary_f, boundary_iou, boundary_width, contour_counts
from .confusion import class_accuracy, class_iou, nested_counts
from .ids import whole

# Pixels that are counted at once: larger images are counted in strips, which keeps the memory small.
STRIP = 1 << 24


class SegmentationMetrics(Metric):
    """mIoU, mAcc, aAcc, per-class IoU; trimap and body IoU over band widths; Boundary IoU; boundary F.

    All figures come from counts summed over every image (not from means of images), so parts of a data set that were
    counted apart merge into exactly the whole. The band of half-width w holds the valid pixels whose
    (2w+1) x (2w+1) window holds more than one valid label; the body is the rest. One pass over the pixels counts all
    bands, which is why these figures are one metric.

    >>> metrics = SegmentationMetrics(num_classes=2, widths=(1,))
    >>> label = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]] * 4)
    >>> metrics.update(label.roll(1, dims=1), label)
    >>> result = metrics.compute()
    >>> result["mIoU"], result["trimap"][1]["mIoU"], round(result["body"][1]["mIoU"], 2)
    (60.0, 25.0, 70.83)
    """

    counts: Tensor
    bands: Tensor
    boundary: Tensor
    contours: Tensor
    ignored: Tensor
    images: Tensor
    unlabelled: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        widths: Sequence[int] = (1, 3, 5, 9, 15),
        absent: str = "zero",
        boundary_ratio: float = 0.02,
        tolerances: Sequence[int] = (3,),
        device: torch.device | str = "cpu",
    ) -> None:
        """Creates the counters.

        Args:
            num_classes: number of classes K, at least 2: with one, every labelled pixel is right.
            ignore_index: label that takes no part.
            widths: half-widths of the trimap bands in pixels.
            absent: a class that is predicted but occurs in no label counts as IoU 0 ("zero", OpenMMLab's rule) or is
                left out of the mean ("skip", Detectron2's).
            boundary_ratio: width of Boundary IoU's band as a share of the image's diagonal.
            tolerances: distances in pixels at which two contours still match, for boundary F.
            device: device of the counts; images are counted where they are.

        Raises:
            ValueError: ``absent`` is unknown, ``num_classes`` is below 2, ``boundary_ratio`` is no share, or a width
                or a tolerance no whole number of pixels.
        """
        if num_classes == 1:
            raise ValueError(
                "num_classes: expected 2 or more, got 1: with one class every labelled pixel is right and every figure "
                "100. Objects on a background are 2 classes: 0 background, 1 object."
            )
        super().__init__(num_classes, ignore_index=ignore_index, device=device)
        if not 0 < boundary_ratio <= 1:
            raise ValueError(f"boundary_ratio: expected a positive share of at most 1, got {boundary_ratio}.")
        if absent not in ABSENT:
            raise ValueError(f"absent: expected one of {ABSENT}, got {absent!r}.")
        self.widths, self.tolerances = _pixels(widths, "widths"), _pixels(tolerances, "tolerances")
        self.absent, self.boundary_ratio = absent, boundary_ratio
        k, w, t = num_classes, len(self.widths), len(self.tolerances)
        self.register_sum("counts", (k, k))
        self.register_sum("bands", (w, k, k))
        self.register_sum("boundary", (3, k))
        self.register_sum("contours", (t, 4, k))
        self.register_sum("ignored", (k,))
        self.register_sum("images")
        self.register_sum("unlabelled")

    @property
    def num_images(self) -> int:
        """Number of images that were counted."""
        return int(self.images)

    def count(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """Adds images to the counts."""
        images, height, width = target.shape
        distance = boundary_width(height, width, self.boundary_ratio)
        halo = max([distance, *self.widths, *(t + 1 for t in self.tolerances)])
        step = max(halo, STRIP // max(images * width, 1))
        for start in range(0, height, step):
            low, end = max(0, start - halo), min(start + step, height)
            strip = slice(low, min(end + halo, height))
            parts = (x[:, strip] for x in (prediction, target, valid))
            self._count_rows(*parts, rows=slice(start - low, end - low), distance=distance)
        self.ignored += torch.bincount(prediction[~valid], minlength=self.num_classes).to(self.device)
        self.images += len(target)
        self.unlabelled += (~valid.flatten(1).any(1)).sum().to(self.device)

    def _count_rows(self, prediction: Tensor, target: Tensor, valid: Tensor, *, rows: slice, distance: int) -> None:
        """Counts some rows of images; the others are as much of their surroundings as the windows see."""
        k = self.num_classes
        order = sorted(range(len(self.widths)), key=lambda i: -self.widths[i])  # a wider band holds the narrower ones
        bands = [mixed_windows(target, valid, 2 * self.widths[i] + 1)[:, rows] for i in order]
        regions = [valid[:, rows], *bands]
        whole, *inside = nested_counts(prediction[:, rows], target[:, rows], regions, k).to(self.device)
        self.counts += whole
        for i, counts in zip(order, inside, strict=True):
            self.bands[i] += counts
        self.boundary += boundary_counts(prediction, target, valid, k, distance, rows).to(self.device)
        for i, tolerance in enumerate(self.tolerances):
            self.contours[i] += contour_counts(prediction, target, valid, k, tolerance, rows).to(self.device)

    def protocol(self, *, images: bool = True) -> dict[str, Any]:
        """Returns what the figures depend on beside predictions and labels.

        Args:
            images: whether to include the number of images.
        """
        rules = {
            **super().protocol(),
            "widths": list(self.widths),
            "band": "(2w+1) x (2w+1) window with more than one valid label",
            "absent_class": self.absent,
            "boundary_ratio": self.boundary_ratio,
            "tolerances": list(self.tolerances),
        }
        return {**rules, "num_images": self.num_images} if images else rules

    def flatten(self, result: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, float]:
        """Returns the figures that run records hold: means of the whole, each band and tolerance, and IoU per class.

        Args:
            result: figures as ``compute`` returns them.
            class_names: names of the K classes.
        """
        flat: dict[str, float] = {k: result[k] for k in ("mIoU", "mAcc", "aAcc", "boundary_IoU")}
        for region in ("trimap", "body"):
            flat.update({f"{region}_w{w}": v["mIoU"] for w, v in result[region].items()})
        flat.update({f"boundary_F_t{t}": v["mF"] for t, v in result["boundary_F"].items()})
        flat.update({f"IoU-{n}": v for n, v in zip(class_names, result["IoU"], strict=True)})
        return flat

    def compute(self) -> dict[str, Any]:
        """Computes every figure, in percent; nan where there is nothing to measure.

        Returns:
            ``mIoU``, ``mAcc``, ``aAcc``, ``IoU`` and ``Acc`` (per class), ``trimap`` and ``body`` ({half-width:
            {"mIoU", "aAcc", "share", "IoU"}}; the share is that of all valid pixels), ``boundary_IoU``,
            ``boundary_IoU_per_class``, ``boundary_F`` ({tolerance: {"mF", "F"}}), ``absent``
            (which classes do not occur, see ``absent_facts``), ``images_without_label``, ``protocol``.
        """
        result = self._figures(self.absent)
        means = {rule: means_of(result if rule == self.absent else self._figures(rule)) for rule in ABSENT}
        return {
            **result,
            "absent": absent_facts(self.counts, self.ignored, self.absent, means),
            "images_without_label": int(self.unlabelled),
            "protocol": self.protocol(),
        }

    def _figures(self, rule: str) -> dict[str, Any]:
        iou, acc = class_iou(self.counts, absent=rule), class_accuracy(self.counts)
        edge = boundary_iou(self.boundary, absent=rule)
        total = self.counts.sum().double()
        return {
            "mIoU": _percent(iou.nanmean()),
            "mAcc": _percent(acc.nanmean()),
            "aAcc": _percent(self.counts.diag().sum().double() / total),
            "IoU": _percents(iou),
            "Acc": _percents(acc),
            "trimap": {w: self._region(b, rule) for w, b in zip(self.widths, self.bands, strict=True)},
            "body": {w: self._region(self.counts - b, rule) for w, b in zip(self.widths, self.bands, strict=True)},
            "boundary_IoU": _percent(edge.nanmean()),
            "boundary_IoU_per_class": _percents(edge),
            "boundary_F": {t: _f(c, rule) for t, c in zip(self.tolerances, self.contours, strict=True)},
        }

    def _region(self, counts: Tensor, rule: str) -> dict[str, Any]:
        iou = class_iou(counts, absent=rule)
        pixels, hit = counts.sum().double(), counts.diag().sum().double()
        return {
            "mIoU": _percent(iou.nanmean()),
            "aAcc": _percent(hit / pixels),
            "share": _percent(pixels / self.counts.sum().double()),
            "IoU": _percents(iou),
        }


def _pixels(values: Any, name: str) -> tuple[int, ...]:
    """Returns numbers of pixels, each at least 1, that an argument lists."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name}: expected a list of numbers of pixels, got {values!r}.")
    return tuple(whole(value, name, 1) for value in values)


def _f(counts: Tensor, rule: str) -> dict[str, Any]:
    scores = boundary_f(counts, absent=rule)
    return {"mF": _percent(scores.nanmean()), "F": _percents(scores)}


def _percent(value: Tensor) -> float:
    return 100.0 * float(value)


def _percents(values: Tensor) -> list[float]:
    return [100.0 * float(v) for v in values]
