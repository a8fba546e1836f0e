"""Converts one project's file to another's: the steps of `bpkd convert`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bpkd.files import sha256_of

from .architectures import COUNTER, architecture_keys
from .checkpoint import Checkpoint, read_checkpoint
from .fit import CheckpointError, check_fit
from .pixels import IMAGENET_PIXELS, Pixels
from .rules import OWN, RuleError, RuleSet, recognise, rename
from .stated import difference
from .strict import peeled_backbone, peeled_for, refuse_backbone, rename_backbone

# Start of a key that says what it belongs to.
GROUP = re.compile(r"^((?:(?:features|backbone|distiller)\.)?[^.]+)\..*")
# Modules whose objects training checkpoints do hold.
USUAL = ("mmengine.", "mmcv.", "mmseg.", "mmdet.", "numpy", "collections.", "torch.", "builtins.set", "builtins.froz")


@dataclass(frozen=True)
class Conversion:
    """A file's weights under the names of this package."""

    state: dict[str, Tensor]
    rules: RuleSet
    checkpoint: Checkpoint
    sha256: str
    dropped: tuple[str, ...]
    """Keys left out on purpose: classifier of ImageNet files, teacher of distillation checkpoints."""

    counters_missing: int
    """``num_batches_tracked`` that the file lacks, as older ones do; 0 where there is no network to compare with."""

    pixels: Pixels | None
    """None where the file's project does not fix them and the file does not state them."""

    @property
    def num_classes(self) -> int | None:
        """Classes of the decode or the instance head, None for a backbone."""
        classifier = self.state.get("decode_head.conv_seg.weight", self.state.get("ins_head.cate_pred.weight"))
        return None if classifier is None else len(classifier)


def convert_checkpoint(path: str, network: nn.Module | None, *, source: str = "auto", take: str = "") -> Conversion:
    """Reads a file, renames its weights and checks that they are exactly those of one network.

    Args:
        path: file.
        network: Network that the weights are for. None: a ResNet's or MobileNetV2's backbone is checked against the
            keys of its architecture.
        source: one of `bpkd.convert.rules.SOURCES`.
        take: Name of the entry, or first part of the keys, to take where the file holds several networks.

    Returns:
        The weights in the file's order, with what is to say about them.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: keys or shapes do not fit, or there is no network to check a whole one against.
        ValueError: the file cannot be read.
    """
    where = f"SRC {path}"
    checkpoint = _peeled(read_checkpoint(path, source="SRC", take=take), network, where)
    own = source == "bpkd" or (source == "auto" and checkpoint.layout == "bpkd")
    if own:
        rules = OWN["backbone" if checkpoint.meta.get("part") == "backbone" else "network"]
    else:
        try:
            rules = recognise(checkpoint.state, source)
        except RuleError as error:
            hint = " Keys of a network of your own: --source bpkd." if source == "auto" else ""
            raise CheckpointError(f"{where}: {error}{hint}") from error
    if rules.part == "backbone":
        renamed, rules = rename_backbone(checkpoint, where, source)
        state, dropped = renamed.state, renamed.dropped
    else:
        renamed = rename(checkpoint.state, rules)
        state, dropped = renamed.state, (*checkpoint.left_out, *renamed.dropped)
    expected = _check(state, rules, checkpoint, network, where)
    counters = sum(k.endswith(COUNTER) and k not in state for k in expected)
    return Conversion(state, rules, checkpoint, sha256_of(path), dropped, counters, _pixels(checkpoint, rules))


def _peeled(checkpoint: Checkpoint, network: nn.Module | None, where: str) -> Checkpoint:
    expected = network.state_dict() if network is not None else {}
    found = peeled_backbone(checkpoint, where, expected)
    return peeled_for(found, expected, where) if network is not None else found


def describe(done: Conversion) -> list[str]:
    """Returns the lines that the tool prints about a file."""
    names, left, alone = done.checkpoint.classes or (), done.dropped, done.rules.part == "backbone"
    groups = ", ".join(sorted({GROUP.sub(r"\1.*", key) for key in left}))
    lines = [
        f"sha256    {done.sha256} (OpenMMLab would end the name with -{done.sha256[:8]})",
        f"source    {done.rules.label}, layout {done.checkpoint.layout}{', backbone alone' if alone else ''}",
        f"keys      {len(done.state)} mapped, {len(left)} dropped{f' ({groups})' if left else ''}, "
        f"{done.counters_missing} {COUNTER} missing (not needed)",
        f"classes   {_class_line(done, names)}",
        f"pixels    {done.pixels or 'the file does not say'}",
        *(f"note      {text}" for text in done.checkpoint.notes),
    ]
    types = sorted({str(v.dtype).removeprefix("torch.") for v in done.state.values() if v.is_floating_point()})
    if types != ["float32"]:
        lines.append(f"types     {', '.join(types)}; they become float32 where the file is loaded")
    if done.rules.source == "timm":
        lines.append("          timm states them in 0..1; a few of its files use 0.5 for all: see the file's own page")
    if done.checkpoint.replaced:
        lines.append(f"not read  Python objects: {', '.join(done.checkpoint.replaced)}")
    odd = [name for name in done.checkpoint.replaced if not name.startswith(USUAL)]
    if odd:
        shown = ", ".join(odd)
        lines.append(f"WARNING: no checkpoint needs {shown}. Nothing of it was run; do not open this file elsewhere.")
    return lines


def _class_line(done: Conversion, names: Sequence[str]) -> str:
    if done.num_classes is None:
        return "none: a backbone" if done.rules.part == "backbone" else "unknown: no conv_seg"
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{done.num_classes}{': ' + shown if shown else ', no names in the file'}"


def pixel_warning(pixels: Pixels | None, mean: Sequence[float], std: Sequence[float], order: str) -> str | None:
    """Compares what weights expect with a config's MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and INPUT.FORMAT."""
    text = difference(pixels, mean, std, order)
    return f"{text}. They would load and score badly: set these keys to what the weights expect." if text else None


def as_bpkd(done: Conversion) -> dict[str, Any]:
    """Returns the content of a file of ours; plain values only."""
    pixels = done.pixels
    meta: dict[str, Any] = {
        **done.checkpoint.meta,
        "part": done.rules.part,
        "classes": list(done.checkpoint.classes or []),
        "source": done.rules.label,
        "source_sha256": done.sha256,
    }
    if pixels:
        stated = {"pixel_mean": list(pixels.mean), "pixel_std": list(pixels.std), "input_format": pixels.order}
        meta.update({key: value for key, value in stated.items() if value})
    if done.checkpoint.palette:
        meta["palette"] = [list(color) for color in done.checkpoint.palette]
    return {"model": done.state, "bpkd": meta}


def as_mmseg(
    done: Conversion, classes: Sequence[str] | None = None, palette: Sequence[Sequence[int]] | None = None
) -> dict[str, Any]:
    """Returns the content of a file for OpenMMLab.

    Args:
        done: Result of `convert_checkpoint`.
        classes: names where the file states none.
        palette: colours where the file states none; OpenMMLab's inference wants both.

    Raises:
        CheckpointError: the file holds a network for instances.
    """
    if "ins_head.cate_pred.weight" in done.state:
        raise CheckpointError("--to mmseg: expected a network with a decode head, got SOLOv2. Convert it --to bpkd.")
    names = done.checkpoint.classes or classes
    colors = done.checkpoint.palette or palette
    meta: dict[str, Any] = {"CLASSES": tuple(names)} if names else {}
    if names and colors:
        meta["PALETTE"] = [list(color) for color in colors]
    return {"state_dict": done.state, "meta": meta}


def _check(
    state: dict[str, Tensor], rules: RuleSet, checkpoint: Checkpoint, network: nn.Module | None, where: str
) -> Mapping[str, Any]:
    """Checks the weights against a network or an architecture; returns what was expected."""
    if network is None:
        expected = architecture_keys(state) if rules.part == "backbone" else None
        if expected is None:
            raise CheckpointError(
                f"{where} holds {rules.label}: it can only be checked against its network. Pass --config-file (those "
                "of the paper's networks are in configs/networks)."
            )
        check_fit(state, {k: state.get(k, torch.empty(0)) for k in expected}, where, prefix="backbone.")
        return {}
    if rules.part == "network":
        refuse_backbone(checkpoint, network.state_dict(), where)
        check_fit(state, network.state_dict(), where, classes=checkpoint.classes)
        return network.state_dict()
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise CheckpointError(
            f"{where} holds a backbone ({rules.label}), but the config's {type(network).__name__} has none of its own."
        )
    check_fit(state, backbone.state_dict(), where, prefix="backbone.")
    return backbone.state_dict()


def _pixels(checkpoint: Checkpoint, rules: RuleSet) -> Pixels | None:
    """What the file states, else what its project's files are known to expect."""
    if checkpoint.pixels or rules.source in ("bpkd", "detectron2"):
        return checkpoint.pixels
    usual = rules.part == "backbone" or checkpoint.layout in ("OpenMMLab", "state dict")
    return IMAGENET_PIXELS if usual else None
