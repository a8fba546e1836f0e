"""Strict loading: every weight of the network comes from the file, and every weight of the file is used."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .architectures import COUNTER
from .causes import class_sentence, likely_causes, traits
from .checkpoint import Checkpoint, read_checkpoint
from .rules import DETECTRON2, OWN, Renamed, RuleError, RuleSet, recognise, rename

logger = logging.getLogger(__name__)

# A network wrapped by ModuleSegmentor accepts a state dict of the bare network.
WRAPPED_PREFIX = "network."


class CheckpointError(ValueError):
    """A checkpoint does not fit its network; the message names the keys and the likely cause."""


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
    model: nn.Module, path: str, *, source: str = "MODEL.WEIGHTS", drop: Sequence[str] = ()
) -> LoadedWeights:
    """Loads a whole network into ``model`` and refuses anything missing, left over or of another shape.

    Files of OpenMMLab and of its distillation toolbox load as they are; see `bpkd.convert.read_checkpoint`. Only
    ``num_batches_tracked`` may be absent.

    Args:
        model: network, unwrapped.
        path: file.
        source: Option or key that the path comes from, for messages.
        drop: key prefixes to leave out, with a line in the log.

    Returns:
        What the file says about itself.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the keys or shapes do not fit.
        ValueError: the file cannot be read.
    """
    checkpoint = read_checkpoint(path, source=source)
    where, expected = f"{source} {path}", model.state_dict()
    refuse_backbone(checkpoint, expected, where)
    state = _wrapped(checkpoint.state, expected)
    dropped = tuple(k for k in state if any(k.startswith(p) for p in drop))
    state = {k: v for k, v in state.items() if k not in set(dropped)}
    check_fit(state, expected, where, classes=checkpoint.classes)
    model.load_state_dict(state, strict=False)  # only num_batches_tracked can be missing here
    if dropped:
        logger.info("%s: left out %d unused weights (%s*).", where, len(dropped), ", ".join(drop))
    logger.info("%s: loaded %d weights (%s).", where, len(state), checkpoint.layout)
    return LoadedWeights(checkpoint.classes, checkpoint.layout, (*dropped, *checkpoint.left_out))


def load_backbone(backbone: nn.Module, path: str, *, source_name: str = "MODEL.BACKBONE.WEIGHTS") -> LoadedWeights:
    """Loads an ImageNet file into a backbone, as strictly as `load_strict`.

    Accepts what ``bpkd convert`` writes for a backbone and, directly, the files of torchvision, timm,
    OpenMMLab and HRNet's authors. Their classifier is left out with a line in the log.

    Args:
        backbone: its keys have no prefix.
        path: file.
        source_name: Option or key that the path comes from, for messages.

    Returns:
        What the file says about itself; ``dropped`` names the classifier's keys.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file holds a whole network or an unknown one, or keys or shapes do not fit.
        ValueError: the file cannot be read.
    """
    where = f"{source_name} {path}"
    checkpoint = read_checkpoint(path, source=source_name)
    renamed, rules = rename_backbone(checkpoint, where)
    expected = backbone.state_dict()
    if "stem.conv1.weight" in expected:
        renamed = rename(renamed.state, DETECTRON2)
        # ImageNet's networks are not deformable: offsets stay at 0, which makes the layer a plain one.
        expected = {k: v for k, v in expected.items() if ".conv_offset." not in k or k in renamed.state}
    check_fit(renamed.state, expected, where, prefix="backbone.")
    backbone.load_state_dict(renamed.state, strict=False)
    if renamed.dropped:
        shown = ", ".join(sorted({key.split(".")[0] for key in renamed.dropped}))
        logger.info("%s: left out %d weights that are no part of it (%s).", where, len(renamed.dropped), shown)
    logger.info("%s: loaded %d weights of the backbone (%s).", where, len(renamed.state), rules.label)
    return LoadedWeights(checkpoint.classes, rules.label, renamed.dropped)


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


def check_fit(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    where: str,
    *,
    classes: Sequence[str] | None = None,
    prefix: str = "",
) -> None:
    """Compares a file's weights with a network's.

    Args:
        state: the file's.
        expected: the network's.
        where: the file, for messages.
        classes: names that the file states.
        prefix: Beginning of the keys of both in a whole network.

    Raises:
        CheckpointError: a key is missing or left over, or a shape differs; the message says the likely cause.
    """
    missing = [k for k in expected if k not in state and not k.endswith(COUNTER)]
    unexpected = [k for k in state if k not in expected]
    wrong = [k for k, v in state.items() if k in expected and v.shape != expected[k].shape]
    if not missing and not unexpected and not wrong:
        return
    file, network = ({prefix + k: tuple(v.shape) for k, v in side.items()} for side in (state, expected))
    theirs, ours = traits(file), traits(network)
    only_classifier = all(k.rpartition(".")[0].endswith(("conv_seg", "cate_pred")) for k in wrong)
    if not missing and not unexpected and only_classifier and theirs["classes"] != ours["classes"]:
        raise CheckpointError(f"{where}: {class_sentence(theirs, ours, classes)}.")
    parts = _differences(missing, unexpected, {k: (state[k], expected[k]) for k in wrong})
    causes = likely_causes(file, network, classes)
    advice = f"Likely cause: {'; '.join(causes)}." if causes else (
        "Use the config that the weights were trained with (architecture, depth, stem, width, heads)."
    )  # fmt: skip
    raise CheckpointError(f"{where} does not fit the network. {advice} In detail: {'; '.join(parts)}.")


def _differences(
    missing: Sequence[str], unexpected: Sequence[str], wrong: Mapping[str, tuple[Tensor, Tensor]]
) -> list[str]:
    parts = []
    if missing:
        parts.append(f"{len(missing)} keys of the network are missing: {_listed(missing)}")
    if unexpected:
        parts.append(f"{len(unexpected)} keys of the file are unexpected: {_listed(unexpected)}")
    if wrong:
        shown = [f"{k} {tuple(got.shape)} (network: {tuple(want.shape)})" for k, (got, want) in wrong.items()]
        parts.append(f"{len(wrong)} weights have another shape: {_listed(shown)}")
    return parts


def _wrapped(state: dict[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    keys = set(expected)
    if any(k in keys for k in state) or not any(WRAPPED_PREFIX + k in keys for k in state):
        return state
    return {WRAPPED_PREFIX + key: value for key, value in state.items()}


def _listed(keys: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
