"""SegmentationMetrics: everything the tables need, from data-set-wide counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bpkd.functional.reference.edges import mixed_windows

from .boundary import boundary_counts, boundary_f, boundary_iou, boundary_width, contour_counts
from .confusion import class_accuracy, class_iou, nested_counts

ABSENT = ("zero", "skip")
Labels = Tensor | NDArray[np.integer[Any]]


class SegmentationMetrics:
    """mIoU, mAcc, aAcc, per-class IoU; trimap and body IoU over band widths; Boundary IoU; boundary F.

    The interface is that of metric libraries: ``update``, ``compute``, ``reset``, ``merge_state``; the state is a few
    int64 tensors (``state_dict``), which ``reduce`` sums over processes.

    All figures come from counts summed over every image (not from means of images), so parts of a data set that were
    counted apart merge into exactly the whole. The band of half-width w holds the valid pixels whose
    (2w+1) x (2w+1) window holds more than one valid label; the body is the rest.

    Example:
        >>> from bpkd.metrics import SegmentationMetrics
        >>> target = torch.tensor([[0, 0, 0, 1, 1, 255]] * 4)
        >>> pred = torch.tensor([[0, 0, 1, 1, 1, 1]] * 4)
        >>> metrics = SegmentationMetrics(num_classes=2, widths=[1])
        >>> metrics.update(pred, target)
        >>> figures = metrics.compute()
        >>> print(f"{figures['mIoU']:.2f} {figures['aAcc']:.2f} {figures['trimap'][1]['mIoU']:.2f}")
        66.67 80.00 25.00
        >>> other = SegmentationMetrics(num_classes=2, widths=[1])
        >>> other.update(target[:, :5], target[:, :5])
        >>> metrics.merge_state([other]).num_images
        2
    """

    STATES = ("counts", "bands", "boundary", "contours", "images")

    counts: Tensor
    bands: Tensor
    boundary: Tensor
    contours: Tensor
    images: Tensor

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
        """Starts with no image.

        Args:
            num_classes: number of classes K.
            ignore_index: label that takes no part.
            widths: half-widths of the trimap bands in pixels.
            absent: a class that is predicted but occurs in no label counts as IoU 0 ("zero", OpenMMLab's rule) or is
                left out of the mean ("skip", Detectron2's).
            boundary_ratio: Boundary IoU's width as a share of the image's diagonal.
            tolerances: distances in pixels within which boundary F counts a contour pixel as found.
            device: device of the counts; images are counted where they are.

        Raises:
            ValueError: ``absent`` is unknown, or ``num_classes``, ``boundary_ratio``, a width or a tolerance is not
                positive.
        """
        if num_classes < 1 or boundary_ratio <= 0:
            raise ValueError(
                f"expected num_classes of 1 or more and a positive boundary_ratio, got {num_classes}, {boundary_ratio}."
            )
        if absent not in ABSENT:
            raise ValueError(f"absent: expected one of {ABSENT}, got {absent!r}.")
        for name, values in (("widths", widths), ("tolerances", tolerances)):
            if any(v < 1 for v in values):
                raise ValueError(f"{name}: expected positive numbers of pixels, got {tuple(values)}.")
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.widths, self.tolerances = tuple(widths), tuple(tolerances)
        self.absent, self.boundary_ratio = absent, boundary_ratio
        self.device = torch.device(device)
        self.reset()

    def reset(self) -> None:
        """Forgets every image."""
        k, w, t = self.num_classes, len(self.widths), len(self.tolerances)
        shapes = ((k, k), (w, k, k), (3, k), (t, 4, k), ())
        for name, shape in zip(self.STATES, shapes, strict=True):
            setattr(self, name, torch.zeros(shape, dtype=torch.int64, device=self.device))

    @property
    def num_images(self) -> int:
        """Number of images that were counted."""
        return int(self.images)

    def update(self, pred: Labels, target: Labels) -> None:
        """Counts one image or a batch.

        Args:
            pred: [H, W] or [N, H, W] predicted classes 0..K-1.
            target: labels of the same shape, 0..K-1 or ``ignore_index``.

        Raises:
            ValueError: shapes differ or a value is out of range.
        """
        p, t, valid = self._checked(pred, target)
        k = self.num_classes
        order = sorted(range(len(self.widths)), key=lambda i: -self.widths[i])  # a wider band holds the narrower ones
        bands = [mixed_windows(t, valid, 2 * self.widths[i] + 1) for i in order]
        whole, *inside = nested_counts(p, t, [valid, *bands], k).to(self.device)
        self.counts += whole
        for i, counts in zip(order, inside, strict=True):
            self.bands[i] += counts
        distance = boundary_width(t.shape[1], t.shape[2], self.boundary_ratio)
        self.boundary += boundary_counts(p, t, valid, k, distance).to(self.device)
        for i, tolerance in enumerate(self.tolerances):
            self.contours[i] += contour_counts(p, t, valid, k, tolerance).to(self.device)
        self.images += len(t)

    def _checked(self, pred: Labels, target: Labels) -> tuple[Tensor, Tensor, Tensor]:
        """Returns prediction, label (0 where ignored) and the valid pixels, [N, H, W]."""
        p, t = (x if isinstance(x, Tensor) else torch.as_tensor(_counted(np.asarray(x))) for x in (pred, target))
        if p.shape != t.shape or p.ndim not in (2, 3):
            raise ValueError(
                f"expected prediction and label of one shape [H, W] or [N, H, W], got {tuple(p.shape)} and "
                f"{tuple(t.shape)}."
            )
        p, t = (x if x.ndim == 3 else x[None] for x in (p, t))
        valid = t != self.ignore_index
        t = t.masked_fill(~valid, 0)
        for values, what in ((p, "prediction"), (t, "label")):
            self._check(values, what)
        # 8 bits where the ids fit: the window filters run four times as fast.
        dtype = torch.uint8 if self.num_classes <= 255 else torch.int32
        return p.to(dtype), t.to(dtype), valid

    def _check(self, values: Tensor, what: str) -> None:
        if not values.numel():
            return
        low, high = (int(v) for v in values.aminmax())
        if low < 0 or high >= self.num_classes:
            wrong = np.unique(values[(values < 0) | (values >= self.num_classes)].cpu().numpy())
            raise ValueError(
                f"{what}: expected ids 0..{self.num_classes - 1}, got {', '.join(map(str, wrong[:5]))}"
                f"{', ...' if len(wrong) > 5 else ''}. Labels may also be ignore_index {self.ignore_index}."
            )

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the counts: int64 tensors by name, the state itself and no copy."""
        return {name: getattr(self, name) for name in self.STATES}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes the counts of ``state_dict``, made by the same protocol.

        Raises:
            ValueError: names or shapes are not those of this protocol.
        """
        self._check_state(state)
        for name, own in self.state_dict().items():
            own.copy_(state[name])

    def add_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds the counts of a ``state_dict``.

        Raises:
            ValueError: names or shapes are not those of this protocol.
        """
        self._check_state(state)
        for name, own in self.state_dict().items():
            own += state[name].to(self.device)

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        want, got = ({k: tuple(v.shape) for k, v in s.items()} for s in (self.state_dict(), state))
        if want != got:
            raise ValueError(f"state: expected the counts {want}, got {got}. Make both sides with the same arguments.")

    def merge_state(self, metrics: Iterable[SegmentationMetrics]) -> SegmentationMetrics:
        """Adds other parts of the data set, and returns itself.

        Raises:
            ValueError: a part follows another protocol.
        """
        for other in metrics:
            if self.protocol(images=False) != other.protocol(images=False):
                raise ValueError(
                    f"expected one protocol, got {self.protocol(images=False)} and {other.protocol(images=False)}."
                )
            self.add_state(other.state_dict())
        return self

    def reduce(self, all_reduce: Callable[[Tensor], Any]) -> None:
        """Sums the state over processes, each of which has counted its own images.

        Args:
            all_reduce: sums one tensor over the processes in place, as ``torch.distributed.all_reduce`` does. NCCL
                needs the state on the GPU (``device``).
        """
        for tensor in self.state_dict().values():
            all_reduce(tensor)

    def protocol(self, *, images: bool = True) -> dict[str, Any]:
        """Returns what the figures depend on beside the data."""
        rules = {
            "num_classes": self.num_classes,
            "ignore_index": self.ignore_index,
            "widths": list(self.widths),
            "band": "(2w+1) x (2w+1) window with more than one valid label",
            "absent_class": self.absent,
            "boundary_ratio": self.boundary_ratio,
            "tolerances": list(self.tolerances),
        }
        return {**rules, "num_images": self.num_images} if images else rules

    def compute(self) -> dict[str, Any]:
        """Computes every figure, in percent; nan where there is nothing to measure.

        Returns:
            ``mIoU``, ``mAcc``, ``aAcc``, ``IoU`` and ``Acc`` (per class), ``trimap`` and ``body`` ({half-width:
            {"mIoU", "aAcc", "share", "IoU"}}; the share is that of all valid pixels), ``boundary_IoU``,
            ``boundary_IoU_per_class``, ``boundary_F`` ({tolerance: {"mF", "F"}}), ``protocol``.
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
            "boundary_F": {t: self._f(c) for t, c in zip(self.tolerances, self.contours, strict=True)},
            "protocol": self.protocol(),
        }

    def _region(self, counts: Tensor) -> dict[str, Any]:
        iou = class_iou(counts, absent=self.absent)
        pixels, hit = counts.sum().double(), counts.diag().sum().double()
        return {
            "mIoU": _percent(iou.nanmean()),
            "aAcc": _percent(hit / pixels),
            "share": _percent(pixels / self.counts.sum().double()),
            "IoU": _percents(iou),
        }

    def _f(self, counts: Tensor) -> dict[str, Any]:
        scores = boundary_f(counts, absent=self.absent)
        return {"mF": _percent(scores.nanmean()), "F": _percents(scores)}


def _percent(value: Tensor) -> float:
    return 100.0 * float(value)


def _percents(values: Tensor) -> list[float]:
    return [100.0 * float(v) for v in values]


def _counted(ids: NDArray[Any]) -> NDArray[Any]:
    """Returns ids in a type that torch can count with: it has few functions for unsigned ones of more than 8 bits."""
    return ids.astype(np.int64) if ids.dtype.kind == "u" and ids.dtype.itemsize > 1 else ids
