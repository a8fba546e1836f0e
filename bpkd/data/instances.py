"""Maps dataset dicts with instances to a model's input, by Detectron2's transforms and an explicit generator."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    annotations_to_instances,
    filter_empty_instances,
    transform_instance_annotations,
)
from detectron2.structures import Instances
from numpy.typing import NDArray

from bpkd.config import image_range

from .files import check_sizes, read_image
from .mapper import as_tensor
from .pictures import WHOLE_TYPE, Span

CROPS = ("absolute", "relative")


@dataclass(frozen=True)
class InstanceAugmentation:
    """Resize of the shortest side, crop and mirror, in this order."""

    short: Sequence[int]
    """Lengths of the shortest side that are drawn from; with ``between``, two limits."""

    longest: int
    """The longest side is this at most."""

    between: bool = False
    """Draw any length between the two of ``short``, not one of them."""

    flip_prob: float = 0.5
    crop: tuple[str, Sequence[float]] | None = None
    """Detectron2's kind of crop, "absolute" or "relative", and its (height, width)."""

    def draw(self, height: int, width: int, rng: np.random.Generator) -> T.TransformList:
        """Draws the transforms of an image of this size."""
        low, high = min(self.short), max(self.short)
        length = int(rng.integers(low, high + 1)) if self.between else int(rng.choice(np.asarray(self.short)))
        chain: list[Any] = [shortest_side(height, width, length, self.longest)]
        height, width = chain[0].new_h, chain[0].new_w
        if self.crop is not None:
            rows, columns = T.RandomCrop(self.crop[0], self.crop[1]).get_crop_size((height, width))
            top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
            chain.append(_Crop(left, top, columns, rows, orig_w=width, orig_h=height))
            height, width = rows, columns
        if rng.random() < self.flip_prob:
            chain.append(T.HFlipTransform(width))
        return T.TransformList(chain)


class _Crop(T.CropTransform):
    """Detectron2's crop without shapely: polygons keep their parts outside, which are cut off when masks are drawn."""

    def apply_polygons(self, polygons: list[Any]) -> list[Any]:
        return [self.apply_coords(points) for points in polygons]


def read_sized(item: dict[str, Any], span: Span) -> NDArray[Any]:
    """Reads a dataset dict's image BGR [H, W, 3].

    Args:
        item: dataset dict, with or without ``height`` and ``width``.
        span: INPUT.IMAGE_RANGE.

    Raises:
        DatasetError: it cannot be read, or has another size than stated.
    """
    image = read_image(item, span)
    if "height" in item and "width" in item:
        check_sizes(item, image.shape[:2], (item["height"], item["width"]), "in the JSON")
    return image


def shortest_side(height: int, width: int, length: int, longest: int) -> Any:
    """Returns Detectron2's resize of the shortest side to ``length``, the longest at most ``longest``; 0: none."""
    size = (height, width)
    if length:
        size = T.ResizeShortestEdge.get_output_shape(height, width, length, longest)
    return T.ResizeTransform(height, width, *size)


class InstanceTrainMapper:
    """Reads and augments an image and draws its instance masks; crowd annotations are left out."""

    def __init__(
        self,
        augmentation: InstanceAugmentation,
        fmt: str,
        teacher_size: tuple[int, int] | None = None,
        *,
        span: Span = WHOLE_TYPE,
    ) -> None:
        """Takes the augmentation and the colour order.

        Args:
            augmentation: Augmentation of the student's image.
            fmt: Colour order, "RGB" or "BGR".
            teacher_size: shortest side and upper limit of the longest side of the teacher's image, which is mirrored as
                the student's; None: the teacher gets the student's image.
            span: INPUT.IMAGE_RANGE.

        Raises:
            ValueError: a crop is combined with ``teacher_size``.
        """
        if teacher_size is not None and augmentation.crop is not None:
            raise ValueError(
                "DISTILL.INSTANCE.INPUT own_size: expected INPUT.CROP.ENABLED False, got True: the teacher's picture "
                "would show more than the student's."
            )
        self.augmentation, self.fmt, self.teacher_size, self.span = augmentation, fmt, teacher_size, span

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InstanceTrainMapper:
        """Reads Detectron2's keys of cfg.INPUT.

        Raises:
            ValueError: INPUT.CROP.TYPE or INPUT.MIN_SIZE_TRAIN_SAMPLING is not supported.
        """
        node = cfg.INPUT
        if node.CROP.ENABLED and node.CROP.TYPE not in CROPS:
            raise ValueError(f"INPUT.CROP.TYPE: expected one of {', '.join(CROPS)}, got {node.CROP.TYPE!r}.")
        if node.MIN_SIZE_TRAIN_SAMPLING not in ("choice", "range"):
            raise ValueError(
                f"INPUT.MIN_SIZE_TRAIN_SAMPLING: expected choice or range, got {node.MIN_SIZE_TRAIN_SAMPLING!r}."
            )
        augmentation = InstanceAugmentation(
            short=tuple(node.MIN_SIZE_TRAIN),
            longest=node.MAX_SIZE_TRAIN,
            between=node.MIN_SIZE_TRAIN_SAMPLING == "range",
            flip_prob=node.FLIP_PROB,
            crop=(node.CROP.TYPE, tuple(node.CROP.SIZE)) if node.CROP.ENABLED else None,
        )
        instance = cfg.DISTILL.INSTANCE
        second = instance.INPUT == "own_size" and cfg.DISTILL.METHOD != "none"
        size = tuple(instance.TEACHER_SIZE) if second else None
        return cls(augmentation, node.FORMAT, size, span=image_range(cfg))

    def __call__(self, item: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Returns the dict with ``image`` uint8 [3, h, w] and ``instances`` with boxes, classes and bitmasks.

        With ``teacher_size`` it also has ``teacher_image`` uint8 [3, h', w'].
        """
        original = read_sized(item, self.span)
        transforms = self.augmentation.draw(original.shape[0], original.shape[1], rng)
        image = transforms.apply_image(original)
        size = (image.shape[0], image.shape[1])
        annotated = [
            transform_instance_annotations(copy.deepcopy(one), transforms, size)
            for one in item["annotations"]
            if not one.get("iscrowd", 0)
        ]
        rest = {k: v for k, v in item.items() if k != "annotations"}
        return {
            **rest,
            "image": as_tensor(image, self.fmt),
            "image_format": self.fmt,
            "instances": _instances(annotated, size, cropped=self.augmentation.crop is not None),
            "height": size[0],
            "width": size[1],
            **self._second(original, transforms),
        }

    def _second(self, original: NDArray[np.uint8], transforms: T.TransformList) -> dict[str, Any]:
        if self.teacher_size is None:
            return {}
        image = shortest_side(original.shape[0], original.shape[1], *self.teacher_size).apply_image(original)
        for one in transforms.transforms:
            if isinstance(one, T.HFlipTransform):
                image = np.ascontiguousarray(image[:, ::-1])
        return {"teacher_image": as_tensor(image, self.fmt)}


def _instances(annotated: Sequence[dict[str, Any]], size: tuple[int, int], *, cropped: bool) -> Instances:
    instances = annotations_to_instances(annotated, size, mask_format="bitmask")
    if not annotated:
        return instances
    if cropped:  # a box of what is left, not the part of the old box inside the crop
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return filter_empty_instances(instances)


def instances_at(item: dict[str, Any], short: int, longest: int) -> Instances:
    """Returns a dataset dict's instances without crowds, at the size of a test image of these sides (0: its own)."""
    transform = shortest_side(int(item["height"]), int(item["width"]), short, longest)
    size = (transform.new_h, transform.new_w)
    chain = T.TransformList([transform])
    annotated = [one for one in item["annotations"] if not one.get("iscrowd", 0)]
    return _instances(
        [transform_instance_annotations(copy.deepcopy(o), chain, size) for o in annotated], size, cropped=False
    )


def label_masks(item: dict[str, Any]) -> NDArray[np.bool_]:
    """Returns bool [n, height, width]: the masks of a dataset dict's instances at its own size, without crowds."""
    found = instances_at(item, 0, 0)
    if not found.get_fields() or not len(found):  # without fields it has no length
        return np.zeros((0, *found.image_size), bool)
    masks: NDArray[np.bool_] = found.gt_masks.tensor.numpy()
    return masks


class InstanceEvalMapper:
    """Reads and resizes a test image."""

    def __init__(self, fmt: str, short: int, longest: int, *, span: Span = WHOLE_TYPE) -> None:
        """Takes colour order, and the length of the shortest side (0: the image's own size) and the longest one's.

        `span` is INPUT.IMAGE_RANGE.
        """
        self.fmt, self.short, self.longest, self.span = fmt, short, longest, span

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InstanceEvalMapper:
        """Reads cfg.INPUT."""
        node = cfg.INPUT
        return cls(node.FORMAT, node.MIN_SIZE_TEST, node.MAX_SIZE_TEST, span=image_range(cfg))

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Returns the dict with ``image`` and the original ``height`` and ``width``."""
        image = read_sized(item, self.span)
        height, width = image.shape[:2]
        image = shortest_side(height, width, self.short, self.longest).apply_image(image)
        rest = {k: v for k, v in item.items() if k != "annotations"}
        return {
            **rest,
            "image": as_tensor(image, self.fmt),
            "image_format": self.fmt,
            "height": height,
            "width": width,
        }
