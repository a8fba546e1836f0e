"""Strict loading: every weight of the network comes from the file, and every weight of the file is used."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .architectures import COUNTER
from .checkpoint import Checkpoint, read_checkpoint
from .fit import CheckpointError, check_fit
from .nests import beside
from .pixels import IMAGENET_PIXELS, Pixels
from .rules import DETECTRON2, OWN, Renamed, RuleError, RuleSet, recognise, rename
from .stated import check_classes, check_pixels

logger = logging.getLogger(__name__)

# A network wrapped by ModuleSegmentor accepts a state dict of the bare network.
WRAPPED_PREFIX = "network."


@dataclass(frozen=True)
class LoadedWeights:
    """What was loaded."""

    classes: tuple[str, ...] | None
    """Class names that the file states, None if it states none."""

    layout: str
    """Project that wrote the file."""

    dropped: tuple[str, ...]
    """Keys that were left out on purpose."""


def load_strict(
    model: nn.Module,
    path: str,
    *,
    source: str = "MODEL.WEIGHTS",
    drop: Sequence[str] = (),
    role: str = "student",
    classes: Sequence[str] | None = None,
    statements: str = "refuse",
) -> LoadedWeights:
    """Loads a whole network into ``model`` and refuses anything missing, left over or of another shape.

    Files of OpenMMLab and of its distillation toolbox load as they are; see `bpkd.convert.read_checkpoint`. Only
    ``num_batches_tracked`` may be absent. Prefixes of wrappers are stripped from the keys, and named in the log.

    Args:
        model: network, unwrapped; what the file says about images is compared with its ``pixel_mean``, ``pixel_std``
            and ``input_format``.
        path: file.
        source: Option or key that the path comes from, for messages.
        drop: key prefixes to leave out, with a line in the log.
        role: "student" or "teacher": which is taken where the file holds both.
        classes: Class names that the file must not contradict; None: not compared.
        statements: "refuse" or "warn" where the file contradicts the network's pixel statistics, colour order or class
            names.

    Returns:
        What the file says about itself.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the keys or shapes do not fit.
        ValueError: the file cannot be read, or contradicts the network.
    """
    where, expected = f"{source} {path}", model.state_dict()
    checkpoint = peeled_for(read_checkpoint(path, source=source, role=role), expected, where, role=role)
    refuse_backbone(checkpoint, expected, where)
    state = _wrapped(checkpoint.state, expected)
    dropped = tuple(k for k in state if any(k.startswith(p) for p in drop))
    state = {k: v for k, v in state.items() if k not in set(dropped)}
    check_fit(state, expected, where, classes=checkpoint.classes)
    check_pixels(checkpoint.pixels, model, where, policy=statements)
    check_classes(checkpoint.classes, classes, where, policy=statements)
    model.load_state_dict(state, strict=False)  # only num_batches_tracked can be missing here
    _log(checkpoint, state, expected, where)
    if dropped:
        logger.info("%s: left out %d unused weights (%s*).", where, len(dropped), ", ".join(drop))
    logger.info("%s: loaded %d weights (%s).", where, len(state), checkpoint.layout)
    return LoadedWeights(checkpoint.classes, checkpoint.layout, (*dropped, *checkpoint.left_out))


def load_backbone(
    backbone: nn.Module,
    path: str,
    *,
    source_name: str = "MODEL.BACKBONE.WEIGHTS",
    network: nn.Module | None = None,
    statements: str = "refuse",
) -> LoadedWeights:
    """Loads an ImageNet file into a backbone, as strictly as `load_strict`.

    Accepts what ``bpkd convert`` writes for a backbone and, directly, the files of torchvision, timm,
    OpenMMLab, HRNet's authors and Detectron2. Their classifier is left out with a line in the log.

    Args:
        backbone: its keys have no prefix.
        path: file.
        source_name: Option or key that the path comes from, for messages.
        network: Network that it belongs to, whose pixel statistics are compared with the file's; None: not compared.
        statements: "refuse" or "warn" where the file contradicts them.

    Returns:
        What the file says about itself; ``dropped`` names the classifier's keys.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file holds a whole network or an unknown one, or keys or shapes do not fit.
        ValueError: the file cannot be read, or contradicts the network.
    """
    where = f"{source_name} {path}"
    checkpoint = peeled_backbone(read_checkpoint(path, source=source_name), where)
    renamed, rules = rename_backbone(checkpoint, where)
    expected = backbone.state_dict()
    if "stem.conv1.weight" in expected:
        renamed = rename(renamed.state, DETECTRON2)
        # ImageNet's networks are not deformable: offsets stay at 0, which makes the layer a plain one.
        expected = {k: v for k, v in expected.items() if ".conv_offset." not in k or k in renamed.state}
    check_fit(renamed.state, expected, where, prefix="backbone.")
    if network is not None:
        _compare_images(checkpoint.pixels, network, where, rules, statements)
    backbone.load_state_dict(renamed.state, strict=False)
    _log(checkpoint, renamed.state, expected, where)
    if renamed.dropped:
        shown = ", ".join(sorted({key.split(".")[0] for key in renamed.dropped}))
        logger.info("%s: left out %d weights that are no part of it (%s).", where, len(renamed.dropped), shown)
    logger.info("%s: loaded %d weights of the backbone (%s).", where, len(renamed.state), rules.label)
    return LoadedWeights(checkpoint.classes, rules.label, renamed.dropped)


def peeled_for(
    checkpoint: Checkpoint, expected: Mapping[str, Tensor], where: str, *, role: str = "student"
) -> Checkpoint:
    """Strips prefixes until the keys are those of a network, and leaves out what belongs to a training alone.

    Args:
        checkpoint: a file's content.
        expected: the network's state dict.
        where: the file, for messages.
        role: "student" or "teacher": which is taken where the keys have both prefixes.

    Raises:
        ValueError: keys of several networks fit.
    """
    names = {*expected, *(k.removeprefix(WRAPPED_PREFIX) for k in expected if k.startswith(WRAPPED_PREFIX))}
    needed = [k.removeprefix(WRAPPED_PREFIX) for k in expected if not k.endswith(COUNTER)]
    needed = [k for k in needed if not k.startswith("auxiliary_head.")]

    def complete(keys: Iterable[str]) -> bool:
        there = {k.removeprefix(WRAPPED_PREFIX) for k in keys}
        return all(k in there for k in needed)

    found = checkpoint.peeled(lambda keys: any(k in names for k in keys), where, role=role, complete=complete)
    return _without(found, [k for k in beside(found.state, expected) if k not in names])


def peeled_backbone(checkpoint: Checkpoint, where: str, own: Iterable[str] = ()) -> Checkpoint:
    """Strips prefixes until the keys are those of a known backbone or network, or among ``own``; see `peeled_for`."""
    if checkpoint.layout == "bpkd" and checkpoint.meta.get("part") == "backbone":
        return checkpoint

    ours = set(own)

    def known(keys: Iterable[str]) -> bool:
        if any(key in ours for key in keys):
            return True
        try:
            recognise(keys)
        except RuleError:
            return False
        return True

    return checkpoint.peeled(known, where)


def _without(checkpoint: Checkpoint, keys: Sequence[str]) -> Checkpoint:
    if not keys:
        return checkpoint
    shown = ", ".join(sorted({k.partition(".")[0] for k in keys})[:6])
    state = {k: v for k, v in checkpoint.state.items() if k not in set(keys)}
    notes = (*checkpoint.notes, f"left out {len(keys)} values that are no part of the network ({shown})")
    return dataclasses.replace(checkpoint, state=state, notes=notes, left_out=(*checkpoint.left_out, *keys))


def _compare_images(pixels: Pixels | None, network: nn.Module, where: str, rules: RuleSet, statements: str) -> None:
    """Refuses what a backbone's file contradicts; warns of what its project's files are known to expect."""
    if pixels is not None or rules.source in ("bpkd", "detectron2"):
        check_pixels(pixels, network, where, policy=statements)
    else:
        usual = Pixels(IMAGENET_PIXELS.mean, IMAGENET_PIXELS.std, "RGB", f"as usual for {rules.label}")
        check_pixels(usual, network, where, policy="warn")


def _log(checkpoint: Checkpoint, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    for note in checkpoint.notes:
        logger.log(logging.WARNING if " left " in note else logging.INFO, "%s: %s.", where, note)
    types = {v.dtype for k, v in state.items() if v.is_floating_point() and v.dtype != expected[k].dtype}
    if types:
        shown = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
        logger.info("%s: its weights are %s and become float32.", where, shown)


def rename_backbone(checkpoint: Checkpoint, where: str, source: str = "auto") -> tuple[Renamed, RuleSet]:
    """Puts a backbone file's weights under our names.

    Raises:
        CheckpointError: it holds a whole network, or is of no kind that ``source`` allows.
    """
    if checkpoint.layout == "bpkd" and checkpoint.meta.get("part") == "backbone":
        return rename(checkpoint.state, OWN["backbone"]), OWN["backbone"]
    try:
        rules = recognise(checkpoint.state, source)
        if rules.part == "backbone":
            return rename(checkpoint.state, rules), rules
    except RuleError as error:
        raise CheckpointError(f"{where}: {error}") from error
    raise CheckpointError(
        f"{where} holds a whole network (its keys begin with decode_head. too), where a backbone alone was expected. "
        "Give it as MODEL.WEIGHTS, which starts from all of it."
    )


def refuse_backbone(checkpoint: Checkpoint, expected: Mapping[str, Tensor], where: str) -> None:
    """Refuses a backbone's file where a network with a decode head is expected.

    Raises:
        CheckpointError: it is one.
    """
    if any(key in expected for key in checkpoint.state if not key.startswith("backbone.")):
        return
    if not any(key.startswith("decode_head.") for key in expected):
        return
    try:
        rules = recognise(checkpoint.state)
    except RuleError:
        return
    if rules.part == "backbone" and any(key.startswith("classifier.") for key in checkpoint.state):
        raise CheckpointError(
            f"{where} holds a whole segmentation network of torchvision, which ours cannot load. Use it as it is: "
            "META_ARCHITECTURE ModuleSegmentor with MODEL.MODULE.FACTORY (docs/how_to/add_network.md)."
        )
    if rules.part == "backbone":
        raise CheckpointError(
            f"{where} holds a backbone alone ({rules.label}; first key {next(iter(checkpoint.state))}): decode_head.* "
            "is missing. A training can start from it: give it as MODEL.BACKBONE.WEIGHTS."
        )


def _wrapped(state: dict[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    keys = set(expected)
    if any(k in keys for k in state) or not any(WRAPPED_PREFIX + k in keys for k in state):
        return state
    return {WRAPPED_PREFIX + key: value for key, value in state.items()}
