"""Inference optimisations of a frozen network; its outputs stay the same up to rounding."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from bpkd.modeling.base import DenseModel
from bpkd.modeling.precision import AMP_DTYPES, choose_precision, has_instructions
from bpkd.modeling.teachers.exported import ExportedSegmentor

logger = logging.getLogger(__name__)

OPTIMIZATIONS = ("fold", "channels_last", "compile", "graphs", "stream")
AUTOMATIC = ("fold", "channels_last")
NEEDS_CUDA = ("graphs", "stream")
# Largest allowed difference of the scores with folded batch norms, in standard deviations of the scores.
FOLD_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Optimizations:
    """Names of a frozen network's `OPTIMIZATIONS`, and its autocast type ("off", "bf16" or "fp16")."""

    names: tuple[str, ...] = ()
    amp: str = "off"

    @classmethod
    def choose(
        cls, optimize: str, amp: str, device: torch.device, *, exported: bool = False, key: str = "TEACHER"
    ) -> Optimizations:
        """Chooses the optimisations by TEACHER.OPTIMIZE and TEACHER.AMP.

        Args:
            optimize: "off", "auto", or names of `OPTIMIZATIONS` joined by "+".
            amp: Autocast type, see `choose_precision`; with ``optimize`` "auto", "off" becomes bf16 if the device has
                instructions for it.
            device: Device that the network runs on.
            exported: Whether the network is an exported file, for which only the autocast type can be chosen.
            key: Key of the teacher's node in the config, for messages.

        Raises:
            ValueError: a name is unknown, given twice, or unsupported by this device or network.
        """
        amp = choose_precision(amp, device, key=f"{key}.AMP")
        if optimize == "off":
            return cls((), amp)
        if optimize == "auto":
            if amp == "off" and has_instructions("bf16", device):
                amp = "bf16"
            return cls(() if exported else AUTOMATIC, amp)
        names = tuple(optimize.split("+"))
        if len(set(names)) != len(names) or not set(names) <= set(OPTIMIZATIONS):
            known = ", ".join(OPTIMIZATIONS)
            raise ValueError(f"{key}.OPTIMIZE: expected off, auto, or some of {known} joined by +, got {optimize!r}.")
        _refuse(names, device, exported, key)
        return cls(names, amp)

    @property
    def ways(self) -> tuple[str, ...]:
        """Old name of ``names``."""
        return self.names

    def __str__(self) -> str:
        """Returns the names of the optimisations and of the autocast type."""
        return "+".join(self.names + ((self.amp,) if self.amp != "off" else ())) or "as it is"


def _refuse(names: tuple[str, ...], device: torch.device, exported: bool, key: str) -> None:
    if exported:
        raise ValueError(
            f"{key}.OPTIMIZE: expected off or auto for a teacher of {key}.EXPORTED, got {'+'.join(names)!r}: a file "
            "runs as it was written."
        )
    cuda = [name for name in names if name in NEEDS_CUDA]
    if cuda and device.type != "cuda":
        raise ValueError(
            f"{key}.OPTIMIZE: {cuda[0]!r} needs a CUDA device, got MODEL.DEVICE {device.type}. Leave it out."
        )
    if "graphs" in names and set(names) & {"compile", "stream"}:
        raise ValueError(f"{key}.OPTIMIZE: expected graphs without compile, which it contains, and without stream.")


def optimize_for_inference(model: DenseModel, chosen: Optimizations, example: Callable[[], Tensor]) -> None:
    """Applies optimisations to a frozen network in place; it can't be trained or saved afterwards.

    Args:
        model: The network with its weights loaded, in evaluation mode.
        chosen: Optimisations to apply; "stream" is left to the caller.
        example: Function that returns normalised images [1, 3, H, W] of the size used later. The network is run on them
            to find which batch norm follows which convolution.
    """
    if "fold" in chosen.names:
        logger.info("Teacher: %d batch norms folded into their convolutions.", fold_batch_norm(model, example()))
    # Only ever switched on: the network's own config may have chosen channels-last too.
    model.accelerate(channels_last="channels_last" in chosen.names)
    if chosen.amp != "off" and not isinstance(model, ExportedSegmentor):
        store_as(model, AMP_DTYPES[chosen.amp])
    if "compile" in chosen.names:
        model.accelerate(compiled=True)
    if "graphs" in chosen.names:
        model.accelerate(compiled=True, mode="reduce-overhead")


def store_as(model: nn.Module, dtype: torch.dtype) -> None:
    """Converts the weights of convolutions and linear layers to autocast's type, in place.

    The scores stay identical: the conversion is done once instead of in every forward pass.
    """
    for module in model.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Turns TF32 off within the context: float32 convolutions and matrix products run in full float32."""
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    try:
        yield
    finally:
        for switch, was in zip(switches, before, strict=True):
            switch.allow_tf32 = was


@torch.no_grad()
@full_float32()
def fold_batch_norm(model: DenseModel, images: Tensor) -> int:
    """Folds batch norms into the convolutions that they follow, in place.

    Hooks on a forward pass find which norm follows which convolution, so any module works, whatever its names. The
    change is undone if the scores differ afterwards. They are compared in full float32: TF32's rounding alone changes
    a deep network's scores by more than the tolerance.

    Args:
        model: The network in evaluation mode.
        images: Normalised images [N, 3, H, W] to run the network on.

    Returns:
        Number of folded norms; 0 if none can be folded or the scores differed (with a warning).
    """
    before = model.predict(images).logits
    pairs = _norm_of_convolution(model, images)
    undo = [(conv, norm, conv.weight, conv.bias) for conv, norm in pairs.items()]
    places = {child: (parent, name) for parent in model.modules() for name, child in parent.named_children()}
    for conv, norm, *_ in undo:
        statistics: Any = [getattr(norm, name) for name in ("running_mean", "running_var", "eps", "weight", "bias")]
        folded = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        conv.weight, conv.bias = (nn.Parameter(p.detach(), requires_grad=False) for p in folded)
        parent, name = places[norm]
        setattr(parent, name, nn.Identity())
    apart = float((model.predict(images).logits - before).abs().max() / before.std().clamp_min(1e-12))
    if apart <= FOLD_TOLERANCE:
        return len(pairs)
    for conv, norm, weight, bias in undo:
        conv.weight, conv.bias = weight, bias
        setattr(*places[norm], norm)
    logger.warning("Teacher: batch norms are not folded: its scores would differ by %.1g of their deviation.", apart)
    return 0


def _norm_of_convolution(model: DenseModel, images: Tensor) -> dict[nn.Conv2d, nn.Module]:
    """Runs the network and returns convolutions with the norm that, in every call, is alone in reading their output."""
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}
    calls: Counter[nn.Module] = Counter()
    seen: dict[nn.Module, list[nn.Module | None]] = {}

    def after_convolution(conv: nn.Module, _: object, out: Tensor) -> None:
        calls[conv] += 1
        made[id(out)] = (conv, out, out._version)  # the reference keeps the id from being reused

    def before_norm(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        conv, out, version = made.get(id(args[0]), (None, args[0], -1))
        seen.setdefault(norm, []).append(conv if out._version == version else None)

    handles = []
    for module in model.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            handles.append(module.register_forward_hook(after_convolution))
        elif _is_batch_norm(module):
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        model.predict(images)
    finally:
        for handle in handles:
            handle.remove()
    users = Counter(conv for convs in seen.values() for conv in set(convs))
    alone = {norm: conv for norm, convs in seen.items() for conv in convs[:1] if len(set(convs)) == 1}
    return {
        cast(nn.Conv2d, conv): norm
        for norm, conv in alone.items()
        if conv is not None and users[conv] == 1 and calls[conv] == len(seen[norm])
    }


def _is_batch_norm(module: nn.Module) -> bool:
    """Returns whether a module is a batch norm of torch, or Detectron2's frozen one, that uses running statistics."""
    known = ("running_mean", "running_var", "weight", "bias")
    return "eps" in vars(module) and all(isinstance(getattr(module, name, None), Tensor) for name in known)


def __getattr__(name: str) -> Any:
    """Returns the object that an old name refers to, with a warning."""
    known = {"Plan": Optimizations, "make_fast": optimize_for_inference, "WAYS": OPTIMIZATIONS}
    if name not in known:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} has another name now.", DeprecationWarning, stacklevel=2)
    return known[name]
