"""DenseModel: the interface of networks for semantic segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from bpkd.functional.segmentation import check_labels, upsampled_cross_entropy
from bpkd.modeling.preprocessing import check_format, file_names, normalised, stack_padded
from bpkd.structures import SegOutput
from bpkd.tasks import SEMANTIC
from bpkd.transfer import send

# Exports and optimisations that a network may support. "trace" and those in "any_size" are meant for images of any
# size; "onnx" for the size of the example.
CAPABILITIES = ("channels_last", "compile", "trace", "script", "onnx", "onnx_any_size", "export_any_size")


@dataclass(frozen=True)
class InferenceOptions:
    """Options of inference; the fields are keys of cfg.TEST."""

    mode: str = "whole"
    crop: tuple[int, int] = (512, 512)
    stride: tuple[int, int] = (341, 341)
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    windows: int = 4


class DenseModel(nn.Module):
    """Base class of networks for semantic segmentation, with one score per class and pixel.

    A subclass implements `predict` (images -> `SegOutput`) and, if it has further losses than the cross entropy,
    `losses`. This class has what all networks share: pixel statistics, padding, the task loss, inference and the batch
    format of Detectron2 (a list of dicts with ``image`` and ``sem_seg``).

    Attributes:
        task: The task that the network solves.
        source_format: Colour order of the loader's images; the channels are reversed if it is not ``input_format``. An
            item's own ``image_format`` takes precedence.
        output_map: Function that `scores` applies to the logits; a teacher's class map.
    """

    task = SEMANTIC
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        ignore_index: int = 255,
        train_size: tuple[int, int] | None = None,
        loss_denominator: str = "all",
        align_corners: bool = False,
        inference: InferenceOptions | None = None,
    ) -> None:
        """Sets the options that all networks share.

        Args:
            num_classes: Number of classes K.
            pixel_mean: Mean pixel value per channel, in the order of ``input_format``.
            pixel_std: Standard deviation of the pixel values per channel.
            input_format: Colour order that the network expects, "RGB" or "BGR".
            ignore_index: Label of pixels that the losses ignore.
            train_size: (height, width) that training batches are padded to; None: the largest of the batch.
            loss_denominator: "all" or "valid" (`bpkd.functional.segmentation.upsampled_cross_entropy`).
            align_corners: ``align_corners`` of the bilinear resizes after the network.
            inference: Options of inference; None: the whole image at one scale.
        """
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.input_format = self.source_format = check_format(input_format)
        self.train_size, self.loss_denominator = train_size, loss_denominator
        self.align_corners = align_corners
        self.inference = inference or InferenceOptions()
        self.output_map: Callable[[Tensor], Tensor] | None = None
        self._memory_format = torch.contiguous_format
        self._compiled: Callable[[Tensor], SegOutput] | None = None
        # Not persistent: a checkpoint holds the network's own keys only.
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            stats = torch.tensor([float(v) for v in values]).view(-1, 1, 1)
            self.register_buffer(name, stats, persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.pixel_mean.device

    def feature_channels(self) -> dict[str, int]:
        """Returns the channels of `SegOutput.features` by name, of those known before the first forward pass."""
        return {}

    def drop_auxiliary(self) -> None:
        """Removes parts that only training needs; called on a teacher before its weights are loaded."""

    def supports(self, capability: str) -> bool:
        """Returns whether the network supports one of `CAPABILITIES`.

        Networks of other projects are assumed to support everything.

        Raises:
            ValueError: the name is not one of `CAPABILITIES`.
        """
        if capability not in CAPABILITIES:
            raise ValueError(f"capability: expected one of {', '.join(CAPABILITIES)}, got {capability!r}.")
        return capability not in self.unsupported()

    def unsupported(self) -> frozenset[str]:
        """Returns the names of `CAPABILITIES` that the network is known to lack."""
        return frozenset()

    def accelerate(self, *, channels_last: bool = False, compiled: bool = False, mode: str | None = None) -> None:
        """Sets memory layout and compilation, for training and evaluation; the outputs stay the same.

        Args:
            channels_last: Whether images and weights have the memory format channels-last.
            compiled: Whether `predict` runs through `torch.compile`; the first batch of every image size takes long.
            mode: Argument ``mode`` of `torch.compile`.
        """
        if channels_last:
            self._memory_format = torch.channels_last
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            self._compiled = torch.compile(self.predict, mode=mode)

    def predict(self, images: Tensor) -> SegOutput:
        """Maps normalised images [N, 3, H, W] to raw scores; ``aux`` in training only."""
        raise NotImplementedError

    def scores(self, images: Tensor) -> SegOutput:
        """Like `predict`, with the class map applied to the logits.

        Raises:
            ValueError: the network returns another number of classes than ``num_classes``.
        """
        output = (self._compiled or self.predict)(images)
        if output.logits.shape[1] != self.num_classes:
            raise ValueError(
                f"{type(self).__name__}: expected logits of {self.num_classes} classes "
                f"(MODEL.SEM_SEG_HEAD.NUM_CLASSES), got {output.logits.shape[1]}. Make the two agree."
            )
        if self.output_map is None:
            return output
        return SegOutput(self.output_map(output.logits), output.aux, output.features)

    def images(self, batch: Sequence[dict[str, Any]], size: tuple[int, int] | None = None) -> Tensor:
        """Returns the images [N, 3, H, W] in the network's colour order, normalised, then padded with 0 to ``size``."""
        padded = stack_padded(normalised(batch, self), size, 0.0, file_names(batch))
        return padded.contiguous(memory_format=self._memory_format)

    def preprocess(self, batch: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor | None]:
        """Returns (images [N, 3, H, W], target [N, H, W] or None).

        In training both are padded to ``train_size``, the target with ``ignore_index``. In evaluation the target is
        None: labels have the original image's size and are read by the evaluator.

        Raises:
            ValueError: in training, labels are missing or differ in size from their image.
        """
        if not self.training:
            return self.images(batch), None
        for item, name in zip(batch, file_names(batch), strict=True):
            image, label = item["image"], item.get("sem_seg")
            if label is None or label.shape[-2:] != image.shape[-2:]:
                got = "none" if label is None else tuple(label.shape)
                raise ValueError(
                    f"{name}: expected semantic segmentation labels ('sem_seg') of size {tuple(image.shape[-2:])} for "
                    f"training, got {got}. Return them from the mapper."
                )
        labels = [send(i["sem_seg"], self.device).long() for i in batch]
        target = stack_padded(labels, self.train_size, self.ignore_index, file_names(batch))
        return self.images(batch, self.train_size), target

    def losses(self, output: SegOutput, target: Tensor) -> dict[str, Tensor]:
        """Returns the task's loss terms, weights applied."""
        return {"loss_ce": self.pixel_loss(output.logits, target)}

    def pixel_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the mean cross entropy of [N, K, h, w] logits at the target's size.

        Raises:
            ValueError: on a CPU, a label is out of range.
        """
        if target.device.type == "cpu":  # on a GPU this check would wait for the device in every step
            check_labels(target, logits.shape[1], self.ignore_index)
        return upsampled_cross_entropy(
            logits,
            target,
            ignore_index=self.ignore_index,
            denominator=self.loss_denominator,
            align_corners=self.align_corners,
        )

    def forward(self, batch: Sequence[dict[str, Any]]) -> Any:
        """Runs one batch in Detectron2's format.

        Returns:
            In training a dict of losses. In evaluation one dict per image with ``sem_seg`` [K, height, width]:
            scores at the original size; their argmax is the prediction.
        """
        if not self.training:
            return [{"sem_seg": self._infer(item)} for item in batch]
        images, target = self.preprocess(batch)
        assert target is not None
        return self.losses(self.scores(images), target)

    def _infer(self, item: Mapping[str, Any]) -> Tensor:
        # Imported here: training and distillation do not need it.
        from bpkd.modeling.inference import predict_logits

        image = self.images([dict(item)])
        height, width = image.shape[-2:]
        options = self.inference
        return predict_logits(
            lambda x: self.scores(x).logits,
            image,
            (int(item.get("height", height)), int(item.get("width", width))),
            mode=options.mode,
            crop=options.crop,
            stride=options.stride,
            scales=options.scales,
            flip=options.flip,
            align_corners=self.align_corners,
            windows=options.windows,
        )[0]


def dense_options(cfg: CfgNode) -> dict[str, Any]:
    """Reads the arguments of `DenseModel` from a config."""
    head, test = cfg.MODEL.SEM_SEG_HEAD, cfg.TEST
    return {
        "num_classes": head.NUM_CLASSES,
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "input_format": cfg.INPUT.FORMAT,
        "ignore_index": head.IGNORE_VALUE,
        "train_size": tuple(cfg.INPUT.CROP_SIZE),
        "loss_denominator": head.LOSS_DENOMINATOR,
        "align_corners": head.ALIGN_CORNERS,
        "inference": InferenceOptions(
            mode=test.MODE,
            crop=tuple(test.SLIDE_CROP),
            stride=tuple(test.SLIDE_STRIDE),
            scales=tuple(test.SCALES),
            flip=test.FLIP,
            windows=test.SLIDE_WINDOWS,
        ),
    }
