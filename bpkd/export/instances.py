"""TorchScript and ONNX files of a trained SOLOv2: its raw heads, and in TorchScript also the instances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bpkd.modeling import ExportedInfo, SOLOv2
from bpkd.modeling.solov2.nms import check_kernel
from bpkd.modeling.solov2.postprocess import PIXELS, Detection, full_masks, read_off
from bpkd.modeling.teachers.exported import INFO_FILE

from .student import checked, onnx_session

Heads = tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]
# Number of candidates for the comparison of instances: on random images a network detects nothing.
CHECKED = 40


class RawHeads(nn.Module):
    """Normalised, padded images [N, 3, H, W] to category logits and kernels per level, and mask features."""

    def __init__(self, model: SOLOv2) -> None:
        """Takes a network without its preprocessing."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Heads:
        """Returns [N, K, S, S] per level, [N, E, S, S] per level, [N, E, H/4, W/4]."""
        out = self.model.raw_outputs(images)
        return out.category_logits, out.kernels, out.mask_features


class Reader(nn.Module):
    """Raw heads of one image to its instances: thresholds, point NMS and Matrix NMS of the config."""

    def __init__(self, strides: Sequence[int], options: Detection) -> None:
        """Takes the levels' strides, and thresholds and limits."""
        super().__init__()
        check_kernel(options.nms_kernel)
        # As a plain tuple: TorchScript does not take a NamedTuple as attribute.
        self.strides, self.options, self.pixels = list(strides), tuple(options), PIXELS

    def forward(self, logits: list[Tensor], kernels: list[Tensor], features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns scores [n], falling, classes [n] and masks bool [n, H, W]."""
        options, maps = Detection(*self.options), features[0].float()  # type: ignore[arg-type]
        first = [x[0] for x in logits]
        own, scores, labels = read_off(first, [x[0] for x in kernels], maps, self.strides, options, self.pixels)
        size = (4 * maps.shape[1], 4 * maps.shape[2])
        return scores, labels, full_masks(own, maps, size, size, options.mask_threshold, self.pixels)


class Instances(nn.Module):
    """One normalised, padded image [1, 3, H, W] to its instances."""

    def __init__(self, heads: nn.Module, reader: nn.Module) -> None:
        """Takes a trace of ``RawHeads`` and a ``Reader``."""
        super().__init__()
        self.heads, self.reader = heads, reader

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns scores [n], falling, classes [n] and masks bool [n, H, W]."""
        logits, kernels, features = self.heads(image)
        return self.reader(list(logits), list(kernels), features)


def solov2_to_torchscript(
    model: SOLOv2, path: str, size: tuple[int, int], *, classes: Sequence[str] | None = None, nms: bool = False
) -> float:
    """Writes a TorchScript file for images of any size that the pyramid divides.

    The file also states number and names of the classes, pixel statistics and colour order (`ExportedInfo`).

    Args:
        model: network with its weights; its mode is kept.
        path: file to write.
        size: (height, width) of the example; the file is checked at this size and at another one.
        classes: names, where they are known.
        nms: the file takes one image and returns scores, classes and masks; else any number, and returns raw heads.

    Returns:
        The largest difference of a raw head, in standard deviations of the network's.

    Raises:
        ValueError: the size does not fit, or the file computes something else.
    """
    reader = torch.jit.script(Reader(model.strides, model.detection)) if nms else None

    def write(heads: nn.Module, example: Tensor, part: str) -> Callable[[Tensor], Heads]:
        network = torch.jit.trace(heads, example, check_trace=False)
        if reader is not None:
            network = torch.jit.script(Instances(network, reader))
        torch.jit.save(network, part, _extra_files={INFO_FILE: ExportedInfo.of_model(model, classes).dump()})
        loaded = torch.jit.load(part, map_location=example.device)
        if reader is None:
            return loaded
        _check_reading(model, loaded, example[:1], path)
        return loaded.heads

    return checked(RawHeads(model), path, write, batches=[(2, *size), (1, *_other(model, size))])


def solov2_to_onnx(model: SOLOv2, path: str, size: tuple[int, int]) -> float:
    """Writes an ONNX file for one image of ``size``: the raw heads ``category_<i>``, ``kernel_<i>``, ``mask_features``.

    Args:
        model: network with its weights; its mode is kept.
        path: file to write.
        size: (height, width) of the image, which the pyramid divides.

    Returns:
        The largest difference of a raw head, in standard deviations of the network's.

    Raises:
        ValueError: the size does not fit, the network cannot be exported, or the file computes something else.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    _other(model, size)
    levels = range(len(model.strides))
    names = [f"{kind}_{i}" for kind in ("category", "kernel") for i in levels] + ["mask_features"]

    def write(heads: nn.Module, example: Tensor, part: str) -> Callable[[Tensor], list[Tensor]]:
        try:
            return onnx_session(heads, example, part, names)
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"SOLOv2: torch's ONNX exporter cannot write this network ({reason}).") from error

    return checked(RawHeads(model), path, write, batches=[(1, *size)])


def _other(model: SOLOv2, size: tuple[int, int]) -> tuple[int, int]:
    """Returns another size that the pyramid divides, to check that the file's sizes are not constants."""
    step = model.backbone.size_divisibility
    if size[0] % step or size[1] % step:
        raise ValueError(f"--size: expected multiples of {step}, to which images are padded, got {size[0]} {size[1]}.")
    return size[0] + 2 * step, size[1] + step


def _check_reading(model: SOLOv2, loaded: Any, image: Tensor, path: str) -> None:
    """Compares the instances that are read off, with category logits raised until ``CHECKED`` of them are candidates.

    Raises:
        ValueError: the file reads other instances off than the network's own code.
    """
    logits, kernels, features = RawHeads(model)(image)
    ranked = torch.cat([x.flatten() for x in logits]).sort(descending=True).values
    threshold = torch.tensor(model.detection.score_threshold).clamp(1e-4, 1 - 1e-4).logit()
    raised = [x + (threshold - ranked[min(CHECKED, len(ranked) - 1)]) for x in logits]
    wanted = Reader(model.strides, model.detection)(raised, list(kernels), features)
    got = loaded.reader(raised, list(kernels), features)
    if len(wanted[0]) != len(got[0]) or not all(torch.allclose(a, b) for a, b in zip(wanted, got, strict=True)):
        raise ValueError(f"{path}: the file reads other instances off than the network does.")
