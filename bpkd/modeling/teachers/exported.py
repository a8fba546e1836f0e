"""Networks in exported files, TorchScript or torch.export."""

from __future__ import annotations

import contextlib
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from bpkd.modeling.base import DenseModel
from bpkd.modeling.preprocessing import check_format
from bpkd.modeling.solov2 import SOLOv2
from bpkd.structures import SegOutput

# Name of the entry of an exported file that holds its `ExportedInfo`.
INFO_FILE = "bpkd.json"
SUFFIXES = (".ts", ".pt", ".pt2")
# Inclusive bounds of the four sizes N, 3, H, W; empty where the file does not state them.
Limits = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class ExportedInfo:
    """What is needed to run an exported network on raw images; the fields are arguments of `DenseModel`."""

    num_classes: int
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    input_format: str
    classes: tuple[str, ...] | None = None

    @classmethod
    def of_model(cls, model: DenseModel | SOLOv2, classes: Sequence[str] | None = None) -> ExportedInfo:
        """Returns the description of a network; ``classes`` are its class names, None if unknown."""
        mean, std = (tuple(x.flatten().tolist()) for x in (model.pixel_mean, model.pixel_std))
        return cls(model.num_classes, mean, std, model.input_format, tuple(classes) if classes else None)

    @classmethod
    def of_cfg(cls, cfg: CfgNode, classes: Sequence[str] | None = None) -> ExportedInfo:
        """Returns the description of a config's network; ``classes`` are its class names, None if unknown."""
        mean, std = (tuple(map(float, x)) for x in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
        return cls(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, mean, std, cfg.INPUT.FORMAT, tuple(classes) if classes else None)

    @classmethod
    def parse(cls, text: str | bytes, path: str) -> ExportedInfo | None:
        """Reads the JSON of `dump`; returns None for an empty text.

        Raises:
            ValueError: the text is not such JSON.
        """
        if not text:
            return None
        try:
            known = json.loads(text)
            classes = known["classes"]
            mean, std = (tuple(float(v) for v in known[k]) for k in ("pixel_mean", "pixel_std"))
            count, order = int(known["num_classes"]), check_format(known["input_format"])
            return cls(count, mean, std, order, tuple(map(str, classes)) if classes else None)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: its {INFO_FILE} cannot be read ({error}). Export the network again.") from error

    def dump(self) -> str:
        """Returns the fields as JSON."""
        return json.dumps(asdict(self))

    def differences(self, other: ExportedInfo) -> list[str]:
        """Returns the names of the fields that differ; unknown class names equal any."""
        found = [k for k in ("num_classes", "input_format") if getattr(self, k) != getattr(other, k)]
        for key in ("pixel_mean", "pixel_std"):
            mine, others = getattr(self, key), getattr(other, key)
            if len(mine) != len(others) or not all(map(lambda a, b: math.isclose(a, b, rel_tol=1e-5), mine, others)):
                found.append(key)
        if self.classes and other.classes and self.classes != other.classes:
            found.append("classes")
        return found


class ExportedSegmentor(DenseModel):
    """An exported network as a `DenseModel`: it maps normalised images to logits, without features or training."""

    def __init__(self, network: nn.Module, *, path: str, limits: Limits = (), **options: Any) -> None:
        """Wraps a loaded network.

        Args:
            network: Maps [N, 3, H, W] to logits, see `predict`.
            path: Path of the network's file, for messages.
            limits: Image sizes that the network accepts, as inclusive bounds of N, 3, H, W; empty: unknown.
            **options: Arguments of `DenseModel`.
        """
        super().__init__(**options)
        self.network, self.path, self.limits = network, path, limits

    def train(self, mode: bool = True) -> ExportedSegmentor:
        """Sets only the flag ``training``: the network stays in the mode that it was exported in."""
        self.training = mode
        return self

    def predict(self, images: Tensor) -> SegOutput:
        """Runs the network, which returns logits, a tuple or list that begins with them, or a mapping with "out".

        Raises:
            ValueError: the network does not accept images of this size, fails on them, or returns something else.
        """
        self._check_size(images)
        try:
            output = self.network(images)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"{self.path}: the file fails on images of {_shape(images)}: {reason}") from error
        logits = output
        if isinstance(output, tuple | list) and output:
            logits = output[0]
        elif isinstance(output, Mapping):
            logits = output.get("out")
        if not isinstance(logits, Tensor) or logits.ndim != 4 or len(logits) != len(images):
            raise ValueError(
                f"{self.path}: expected a file that returns logits [N, K, h, w], a tuple or list that begins with them "
                f"or a dict with 'out', got {_described(output)} for images of {_shape(images)}."
            )
        return SegOutput(logits)

    def _check_size(self, images: Tensor) -> None:
        if all(low <= n <= high for n, (low, high) in zip(images.shape, self.limits, strict=False)):
            return
        ranges = [f"{low:g}" if low == high else f"{low:g}..{high:g}" for low, high in self.limits]
        raise ValueError(
            f"{self.path}: expected images of {' x '.join(ranges)} (N, channels, height, width), got {_shape(images)}. "
            "Export it for this size (--size, --any-size), or train with its size (INPUT.CROP_SIZE)."
        )


def load_exported(
    path: str, stated: ExportedInfo | None = None, *, device: torch.device, size: tuple[int, int], key: str = "TEACHER"
) -> tuple[ExportedSegmentor, ExportedInfo]:
    """Loads an exported network and runs it once on an image of ``size``.

    No unrestricted unpickler is used. Still, the file is a program: load only files from sources that you trust.

    Args:
        path: Path that ends in .ts or .pt (TorchScript), or .pt2 (torch.export).
        stated: Description from the config; required if the file holds none.
        device: Device to run the network on.
        size: (height, width) of the images that the network will be run on.
        key: Key of the teacher's node in the config, for messages.

    Returns:
        The network and its description.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another format, has no description, contradicts the config, or does not accept
            images of this size.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{key}.EXPORTED: expected a file, got {path!r}.")
    if not path.endswith(SUFFIXES):
        raise ValueError(f"{key}.EXPORTED: expected a file that ends in {', '.join(SUFFIXES)}, got {path!r}.")
    try:
        network, limits, text = (_read_program if path.endswith(".pt2") else _read_script)(path, device)
    except Exception as error:  # torch's loaders raise errors of many types
        raise ValueError(
            f"{key}.EXPORTED {path}: expected what torch.{'export' if path.endswith('.pt2') else 'jit'}.save writes, "
            f"it cannot be loaded ({str(error).strip().splitlines()[0]}). A checkpoint is given as {key}.WEIGHTS."
        ) from error
    own = ExportedInfo.parse(text, path)
    info = own or stated
    if info is None:
        raise ValueError(
            f"{key}.EXPORTED {path}: the file does not say its classes, pixel statistics and colour order. Give a "
            f"{key}.CONFIG_FILE that does (MODEL.SEM_SEG_HEAD.NUM_CLASSES, MODEL.PIXEL_MEAN, PIXEL_STD, INPUT.FORMAT)."
        )
    different = own.differences(stated) if own and stated else []
    if different:
        raise ValueError(f"{key}.EXPORTED {path}: the file and {key}.CONFIG_FILE differ in {', '.join(different)}.")
    options = {k: v for k, v in asdict(info).items() if k != "classes"}
    model = ExportedSegmentor(network, path=path, limits=limits, **options).to(device).eval().requires_grad_(False)
    with torch.no_grad():
        count = max(int(limits[0][0]), 1) if limits else 1
        # An unsupported size is an error here, not during training.
        model.scores(torch.zeros(count, 3, *size, device=device))
    return model, info


def _read_script(path: str, device: torch.device) -> tuple[nn.Module, Limits, str | bytes]:
    extra: dict[str, Any] = {INFO_FILE: ""}
    network = torch.jit.load(path, map_location=device, _extra_files=extra)
    if getattr(network, "training", False):  # a module after torch.jit.freeze has no such flag
        network.eval()
    return network, (), extra[INFO_FILE]


def _read_program(path: str, device: torch.device) -> tuple[nn.Module, Limits, str | bytes]:
    from torch.export.passes import move_to_device_pass  # torch.export takes seconds to import

    with zipfile.ZipFile(path) as archive:
        if any("/data/aotinductor/" in name for name in archive.namelist()):
            raise ValueError("it holds compiled code (AOTInductor), which would run unseen")
    extra: dict[str, Any] = {INFO_FILE: ""}
    with _restricted_unpickler():
        program = torch.export.load(path, extra_files=extra)
    names = program.graph_signature.user_inputs
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(inputs) != 1:
        raise ValueError(f"expected one input, the images, got {len(names)}")
    limits = [_bounds(n, program.range_constraints) for n in inputs[0].meta["val"].shape]
    return move_to_device_pass(program, device).module(), limits, extra[INFO_FILE]


def _bounds(size: Any, ranges: Mapping[Any, Any]) -> tuple[float, float]:
    if isinstance(size, int):
        return size, size
    known = ranges.get(size.node.expr)
    return (1, math.inf) if known is None else (float(known.lower), float(known.upper))


@contextlib.contextmanager
def _restricted_unpickler() -> Iterator[None]:
    """Keeps torch.export.load from its fallback, the unrestricted unpickler, when the restricted one raises."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _shape(images: Tensor) -> str:
    return " x ".join(str(int(n)) for n in images.shape)


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of {_shape(output)}"
    if isinstance(output, Mapping):
        return f"a dict with {', '.join(map(str, output)) or 'nothing'}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {', '.join(map(_described, output)) or 'nothing'}"
    return f"a {type(output).__name__}"
