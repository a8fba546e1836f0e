"""Maps dataset dicts to a model's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from numpy.typing import NDArray

from bpkd.config import image_range

from .augment import TrainAugmentation, fitted_size, resize
from .files import check_sizes, read_image, read_label
from .pictures import WHOLE_TYPE, Span

# From labels [h, w] to their sparse edge mask.
Edges = Callable[[torch.Tensor], Any]


def as_tensor(bgr: NDArray[np.uint8], fmt: str) -> torch.Tensor:
    """Returns uint8 [3, H, W] in the colour order ``fmt``."""
    planes = np.empty((3, *bgr.shape[:2]), np.uint8)
    for i, plane in enumerate(planes):
        cv2.extractChannel(bgr, 2 - i if fmt == "RGB" else i, plane)
    return torch.from_numpy(planes)


class TrainMapper:
    """Reads and augments an image with its labels and converts them to tensors; the model pads after normalisation."""

    def __init__(
        self,
        augmentation: TrainAugmentation,
        fmt: str,
        table: list[int],
        *,
        edges: Edges | None = None,
        span: Span = WHOLE_TYPE,
    ) -> None:
        """Takes the augmentation, the colour order, the label table, and a function that finds the edges of labels.

        Edges are computed from the augmented labels by `edges`, which pads them too. `span` is INPUT.IMAGE_RANGE.
        """
        self.augmentation, self.fmt, self.table, self.edges = augmentation, fmt, table, edges
        self.span = span

    @classmethod
    def from_config(cls, cfg: CfgNode, table: list[int], *, edges: Edges | None = None) -> TrainMapper:
        """Reads cfg.INPUT."""
        node = cfg.INPUT
        augmentation = TrainAugmentation(
            crop_size=(node.CROP_SIZE[0], node.CROP_SIZE[1]),
            resize_box=(node.RESIZE_BOX[0], node.RESIZE_BOX[1]),
            scale_range=(node.SCALE_RANGE[0], node.SCALE_RANGE[1]),
            max_class_share=node.CROP_MAX_CLASS_SHARE,
            flip_prob=node.FLIP_PROB,
            distort=node.PHOTOMETRIC,
        )
        return cls(augmentation, node.FORMAT, table, edges=edges, span=image_range(cfg))

    def __call__(self, item: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Returns the dict with ``image`` uint8 [3, h, w], ``sem_seg`` int64 [h, w] and maybe ``edge_rows``."""
        image, label = read_image(item, self.span), read_label(item, self.table)
        check_sizes(item, image.shape[:2], label.shape)
        image, label = self.augmentation(image, label, rng)
        labels = torch.from_numpy(label.astype(np.int64))
        return {
            **item,
            "image": as_tensor(image, self.fmt),
            "image_format": self.fmt,
            "sem_seg": labels,
            "height": image.shape[0],
            "width": image.shape[1],
            **({} if self.edges is None else {"edge_rows": self.edges(labels)}),
        }


class EvalMapper:
    """Reads and resizes a test image; the labels stay at their original size."""

    def __init__(self, fmt: str, table: list[int], box: tuple[int, int] = (0, 0), *, span: Span = WHOLE_TYPE) -> None:
        """Takes colour order, label table and the (width, height) that images are fitted into; (0, 0): own size.

        `span` is INPUT.IMAGE_RANGE.
        """
        self.fmt, self.table, self.box, self.span = fmt, table, box, span

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Returns the dict with ``image``, the original ``height`` and ``width``, and ``sem_seg`` at that size."""
        image, label = read_image(item, self.span), read_label(item, self.table)
        check_sizes(item, image.shape[:2], label.shape)
        height, width = image.shape[:2]
        if any(self.box):
            image, _ = resize(image, None, fitted_size(height, width, self.box))
        return {
            **item,
            "image": as_tensor(image, self.fmt),
            "image_format": self.fmt,
            "sem_seg": torch.from_numpy(label.astype(np.int64)),
            "height": height,
            "width": width,
        }
