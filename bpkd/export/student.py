"""TorchScript, torch.export and ONNX files of a trained network, compared with it before they are renamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from bpkd.files import replacing
from bpkd.modeling import DenseModel, ExportedInfo
from bpkd.modeling.teachers.exported import INFO_FILE

# Largest difference of a file's scores from the network's, in standard deviations of the scores.
TOLERANCE = 1e-3


class Scores(nn.Module):
    """Normalised images [N, 3, H, W] to raw scores [N, K, h, w], before any resize."""

    def __init__(self, model: DenseModel) -> None:
        """Takes a network without its preprocessing and inference protocol."""
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Returns the decode head's scores."""
        return self.model.predict(image).logits


def to_torchscript(
    model: DenseModel, path: str, size: tuple[int, int] = (512, 512), *, classes: Sequence[str] | None = None
) -> float:
    """Writes a TorchScript trace that takes images of any size.

    The file also states number and names of the classes, pixel statistics and colour order (`ExportedInfo`).

    Args:
        model: network with its weights; its mode is kept.
        path: file to write.
        size: (height, width) of the example; the file is checked at this size and at another one.
        classes: names, where they are known.

    Returns:
        The largest difference of the scores, in standard deviations of the network's.

    Raises:
        ValueError: the network cannot be traced, or the file computes something else.
    """
    _require(model, "trace")

    def write(scores: nn.Module, example: Tensor, part: str) -> Callable[[Tensor], Tensor]:
        traced = torch.jit.trace(scores, example, check_trace=False)
        torch.jit.save(traced, part, _extra_files={INFO_FILE: ExportedInfo.of_model(model, classes).dump()})
        return torch.jit.load(part, map_location=example.device)

    return checked(Scores(model), path, write, batches=_batches(size, _other(size)))


def to_exported_program(
    model: DenseModel,
    path: str,
    size: tuple[int, int] = (512, 512),
    *,
    any_size: bool = False,
    classes: Sequence[str] | None = None,
) -> float:
    """Writes a torch.export program (.pt2) that takes any number of images, and states what `to_torchscript`'s states.

    Args:
        model: network with its weights; its mode is kept.
        path: file to write.
        size: (height, width) of the images.
        any_size: the file takes images of 64 to 4096 pixels a side.
        classes: names, where they are known.

    Returns:
        The largest difference of the scores, in standard deviations of the network's.

    Raises:
        ValueError: the network cannot be exported like this, or the file computes something else.
    """
    if any_size:
        _require(model, "export_any_size")
    limits = {0: ("images", 1, 4096), **({2: ("height", 64, 4096), 3: ("width", 64, 4096)} if any_size else {})}
    dims = {d: torch.export.Dim(name, min=low, max=high) for d, (name, low, high) in limits.items()}
    info = {INFO_FILE: ExportedInfo.of_model(model, classes).dump()}

    def write(scores: nn.Module, example: Tensor, part: str) -> Callable[[Tensor], Tensor]:
        try:
            program = torch.export.export(scores, (example,), dynamic_shapes=(dims,), strict=False)  # later default
        except Exception as error:  # torch.export's errors have no common type
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{type(model).__name__}: torch.export cannot write this network ({reason}).") from error
        torch.export.save(program, part, extra_files=info)
        return torch.export.load(part).module()

    batches = _batches(size, _other(size) if any_size else size)
    return checked(Scores(model), path, write, batches=batches)


def to_onnx(model: DenseModel, path: str, size: tuple[int, int] = (512, 512), *, any_size: bool = False) -> float:
    """Writes an ONNX file with the input ``image`` and the output ``logits``.

    Args:
        model: network with its weights; its mode is kept.
        path: file to write.
        size: (height, width) of the example.
        any_size: the file takes batches of 1 to 64 images of 64 to 4096 pixels a side, else one image of ``size``.

    Returns:
        The largest difference of the scores, in standard deviations of the network's.

    Raises:
        ValueError: the network cannot be exported like this, or the file computes something else.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    _require(model, "onnx_any_size" if any_size else "onnx")
    limits = {0: ("images", 1, 64), 2: ("height", 64, 4096), 3: ("width", 64, 4096)}
    dims = {d: torch.export.Dim(name, min=low, max=high) for d, (name, low, high) in limits.items()}

    def write(scores: nn.Module, example: Tensor, part: str) -> Callable[[Tensor], list[Tensor]]:
        return onnx_session(scores, example, part, ["logits"], dynamic_shapes=(dims,) if any_size else None)

    return checked(Scores(model), path, write, batches=_batches(size, _other(size)) if any_size else [(1, *size)])


def onnx_session(
    network: nn.Module, example: Tensor, part: str, names: Sequence[str], *, dynamic_shapes: Any = None
) -> Callable[[Tensor], list[Tensor]]:
    """Writes an ONNX file and returns it as a function from images to its outputs.

    Args:
        network: Maps images to a tensor, or to tuples of tensors.
        example: images.
        part: Path to write.
        names: Names of the outputs, in their order.
        dynamic_shapes: Argument ``dynamic_shapes`` of torch.onnx.export.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed, or torch is too old.
    """
    if TorchVersion(torch.__version__) < "2.7.0a0":  # its exporter does not know the operators of today's onnxscript
        raise ImportError(f"ONNX files: expected torch 2.7 or later, got {torch.__version__}. Export TorchScript.")
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter is built on it)
    except ImportError as error:
        raise ImportError(f"{error}. ONNX files need more packages: pip install 'bpkd[onnx]'.") from error
    # Before torch 2.9 the default is the exporter by TorchScript.
    shapes: dict[str, Any] = {"dynamic_shapes": dynamic_shapes, "dynamo": True, "verbose": False}
    program = torch.onnx.export(network, (example,), input_names=["image"], output_names=list(names), **shapes)
    assert program is not None  # only the old exporter returns nothing
    program.save(part)
    session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
    return lambda image: [torch.from_numpy(x) for x in session.run(None, {"image": image.cpu().numpy()})]


def _require(model: DenseModel, capability: str) -> None:
    if not model.supports(capability):
        raise ValueError(
            f"{type(model).__name__}: this network does not support {capability!r} (lacking: "
            f"{', '.join(sorted(model.unsupported()))}). Export it for one size, or as TorchScript."
        )


def _other(size: tuple[int, int]) -> tuple[int, int]:
    """Returns another size, to check that the sizes in the file are not constants."""
    return size[0] + 33, size[1] + 17


def _batches(size: tuple[int, int], other: tuple[int, int]) -> list[tuple[int, int, int]]:
    """A file for any batch is checked with two numbers of images."""
    return [(2, *size), (1, *other)]


@torch.no_grad()
def checked(
    network: nn.Module,
    path: str,
    write: Callable[[nn.Module, Tensor, str], Callable[[Tensor], Any]],
    *,
    batches: Sequence[tuple[int, int, int]],
) -> float:
    """Writes a temporary file, compares it with the network, then renames it to the final path.

    Args:
        network: Maps normalised images to a tensor, or to tuples of tensors; its ``model`` keeps its mode.
        path: file to write.
        write: Writes the file from network and example, and returns a function that runs it.
        batches: (images, height, width) to compare with; the first is the example.

    Returns:
        The largest difference of an output, in standard deviations of the network's.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the file computes something else.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{path}: expected a file in a folder that exists. Make {folder} first.")
    model: Any = network.model
    was_training = model.training
    generator = torch.Generator().manual_seed(0)
    network.eval()
    try:
        images = [torch.randn(n, 3, *size, generator=generator).to(model.device) for n, *size in batches]
        with replacing(path) as part:
            run = write(network, images[0], str(part))
            worst = max(_difference(network(image), run(image)) for image in images)
            if not worst <= TOLERANCE:
                raise ValueError(
                    f"{path}: the file's scores differ from the network's by {worst:.2g} of their deviation."
                )
    finally:
        model.train(was_training)
    return worst


def _difference(wanted: Any, got: Any) -> float:
    pairs = list(zip(_flat(wanted), _flat(got), strict=True))
    if not all(a.isfinite().all() for a, _ in pairs):
        raise ValueError("export: expected a network with finite scores, got NaN or infinity: its training diverged.")
    return max(float((a.cpu() - b.cpu()).abs().max() / a.std().clamp_min(1e-30)) for a, b in pairs)


def _flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [x for part in outputs for x in _flat(part)]
