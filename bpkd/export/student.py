"""TorchScript, torch.export and ONNX files of a trained network, compared with it before they are handed out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bpkd.modeling import DenseModel, ExportedInfo
from bpkd.modeling.exported import INFO_FILE

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

    def write(scores: Scores, example: Tensor, part: str) -> Callable[[Tensor], Tensor]:
        traced = torch.jit.trace(scores, example, check_trace=False)
        torch.jit.save(traced, part, _extra_files={INFO_FILE: ExportedInfo.of_model(model, classes).dump()})
        return torch.jit.load(part, map_location=example.device)

    return _export(model, path, size, write, sizes=[size, _other(size)])


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

    def write(scores: Scores, example: Tensor, part: str) -> Callable[[Tensor], Tensor]:
        try:
            program = torch.export.export(scores, (example,), dynamic_shapes=(dims,))
        except Exception as error:  # torch.export's errors have no common type
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{type(model).__name__}: torch.export cannot write this network ({reason}).") from error
        torch.export.save(program, part, extra_files=info)
        return torch.export.load(part).module()

    sizes = [size, _other(size) if any_size else size]
    return _export(model, path, size, write, sizes=sizes, part=path + ".tmp.pt2")


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
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter is built on it)
    except ImportError as error:
        raise ImportError(f"{error}. ONNX files need the packages onnx, onnxscript and onnxruntime.") from error
    limits = {0: ("images", 1, 64), 2: ("height", 64, 4096), 3: ("width", 64, 4096)}
    dims = {d: torch.export.Dim(name, min=low, max=high) for d, (name, low, high) in limits.items()}

    def write(scores: Scores, example: Tensor, part: str) -> Callable[[Tensor], Tensor]:
        shapes = (dims,) if any_size else None
        program = torch.onnx.export(
            scores, (example,), input_names=["image"], output_names=["logits"], dynamic_shapes=shapes, verbose=False
        )
        assert program is not None  # only the old exporter returns nothing
        program.save(part)
        session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
        return lambda image: torch.from_numpy(session.run(None, {"image": image.cpu().numpy()})[0])

    return _export(model, path, size, write, sizes=[size, _other(size)] if any_size else [size])


def _require(model: DenseModel, capability: str) -> None:
    if not model.supports(capability):
        raise ValueError(
            f"{type(model).__name__}: this network does not support {capability!r} (lacking: "
            f"{', '.join(sorted(model.unsupported()))}). Export it for one size, or as TorchScript."
        )


def _other(size: tuple[int, int]) -> tuple[int, int]:
    """A size that divides by nothing the first one divides by: it shows whether the file took sizes for constants."""
    return size[0] + 33, size[1] + 17


@torch.no_grad()
def _export(
    model: DenseModel,
    path: str,
    size: tuple[int, int],
    write: Callable[[Scores, Tensor, str], Callable[[Tensor], Tensor]],
    *,
    sizes: list[tuple[int, int]],
    part: str = "",
) -> float:
    """Writes beside ``path`` (to ``part``), compares, and only then gives the file its name."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{path}: expected a file in a folder that exists. Make {folder} first.")
    was_training, part = model.training, part or path + ".tmp"
    scores, generator = Scores(model).eval(), torch.Generator().manual_seed(0)
    try:
        counts = (1,) if len(sizes) == 1 else (2, 1)  # a file for any batch is checked with two numbers of images
        batches = zip(counts, sizes, strict=True)
        images = [torch.randn(n, 3, *s, generator=generator).to(model.device) for n, s in batches]
        run = write(scores, images[0], part)
        worst = max(_difference(scores(image), run(image)) for image in images)
        if not worst <= TOLERANCE:
            raise ValueError(f"{path}: the file's scores differ from the network's by {worst:.2g} of their deviation.")
        os.replace(part, path)
    finally:
        model.train(was_training)
        if os.path.exists(part):
            os.remove(part)
    return worst


def _difference(wanted: Tensor, got: Tensor) -> float:
    return float((wanted.cpu() - got.cpu()).abs().max() / wanted.std())
