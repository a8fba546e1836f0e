"""Inference optimisations of a frozen network. What it computes stays the same up to rounding."""

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
# Largest difference of the folded network's scores, in standard deviations of the scores.
FOLD_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Optimizations:
    """How a frozen network is run: some of `OPTIMIZATIONS`, and the autocast type ("off", "bf16" or "fp16")."""

    names: tuple[str, ...] = ()
    amp: str = "off"

    @classmethod
    def choose(
        cls, optimize: str, amp: str, device: torch.device, *, exported: bool = False, key: str = "TEACHER"
    ) -> Optimizations:
        """Chooses from TEACHER.OPTIMIZE and TEACHER.AMP.

        Args:
            optimize: "off", "auto", or names of `OPTIMIZATIONS` joined by "+".
            amp: Autocast type, see `choose_precision`; ``optimize`` "auto" takes bf16 in place of "off" where the
                device computes in it.
            device: The device that the network runs on.
            exported: The network is a file, which runs as it is: only its autocast type can be chosen.
            key: Key of the config node, for messages.

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
        """The old name of ``names``."""
        return self.names

    def __str__(self) -> str:
        """Names the optimisations and the autocast type."""
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
    """Changes a frozen network in place, for good: it is never trained or saved again.

    Args:
        model: The network with its weights loaded, in evaluation mode.
        chosen: What to do; "stream" is left to the caller.
        example: Makes normalised images [1, 3, H, W] of the size to come. They are run through the network to find
            which batch norm follows which convolution.
    """
    if "fold" in chosen.names:
        logger.info("Teacher: %d batch norms folded into their convolutions.", fold_batch_norm(model, example()))
    # Never back to another layout: the network's own config may have chosen channels-last too.
    model.accelerate(channels_last="channels_last" in chosen.names)
    if chosen.amp != "off" and not isinstance(model, ExportedSegmentor):
        store_as(model, AMP_DTYPES[chosen.amp])
    if "compile" in chosen.names:
        model.accelerate(compiled=True)
    if "graphs" in chosen.names:
        model.accelerate(compiled=True, mode="reduce-overhead")


def store_as(model: nn.Module, dtype: torch.dtype) -> None:
    """Stores the weights of convolutions and linear layers as autocast would convert them on each call, in place.

    The scores keep their bits: the conversion is done once instead of in every forward pass.
    """
    for module in model.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Lets a GPU compute convolutions and products of float32 in float32, whatever SOLVER.TF32 says."""
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

    Which norm follows which convolution is watched while the network runs, so it works for any module, whatever its
    names. The network is put back as it was if its scores are not the same afterwards. They are compared in full
    float32: TF32's rounding alone takes a deep network's scores further apart than the tolerance.

    Args:
        model: The network in evaluation mode.
        images: [N, 3, H, W] to run it on.

    Returns:
        How many were folded; 0 where nothing was found or the scores differed (with a warning).
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
    """Runs the network and returns the norm behind every convolution that feeds one, and always the same one."""
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}
    calls: Counter[nn.Module] = Counter()
    seen: dict[nn.Module, list[nn.Module | None]] = {}

    def after_convolution(conv: nn.Module, _: object, out: Tensor) -> None:
        calls[conv] += 1
        made[id(out)] = (conv, out, out._version)  # held, so that its id stays its own

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
    """Torch's batch norms, and Detectron2's frozen one; not those that compute statistics of their own."""
    known = ("running_mean", "running_var", "weight", "bias")
    return "eps" in vars(module) and all(isinstance(getattr(module, name, None), Tensor) for name in known)


def __getattr__(name: str) -> Any:
    """Returns what an old name stands for, with a warning."""
    known = {"Plan": Optimizations, "make_fast": optimize_for_inference, "WAYS": OPTIMIZATIONS}
    if name not in known:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} has another name now.", DeprecationWarning, stacklevel=2)
    return known[name]
