"""Strict loading: every weight of the network comes from the file, and every weight of the file is used."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from bpkd.convert.checkpoint import Checkpoint, read_checkpoint

logger = logging.getLogger(__name__)

# A network wrapped by ModuleSegmentor accepts a state dict of the bare network.
WRAPPED_PREFIX = "network."


class CheckpointError(ValueError):
    """A checkpoint does not fit its network; the message names the keys."""


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
    """Loads a checkpoint into ``model`` and refuses anything missing, left over or of another shape.

    Only ``num_batches_tracked`` may be absent: older files lack these counters and nothing depends on them.

    Args:
        model: network, unwrapped.
        path: file, see `bpkd.convert.read_checkpoint` for the layouts.
        source: where the path comes from, for messages.
        drop: key prefixes to leave out, with a line in the log.

    Returns:
        What the file says about itself.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the keys or shapes do not fit.
        ValueError: the file cannot be read.
    """
    checkpoint = read_checkpoint(path, source=source)
    expected = model.state_dict()
    state = _wrapped(checkpoint.state, expected)
    dropped = tuple(k for k in state if any(k.startswith(p) for p in drop))
    state = {k: v for k, v in state.items() if k not in dropped}
    where = f"{source} {path}"
    _check_keys(state, expected, where)
    _check_shapes(state, expected, checkpoint, where)
    model.load_state_dict(state, strict=False)  # the counters alone can be missing by now
    if dropped:
        logger.info("%s: left out %d unused weights (%s*).", where, len(dropped), ", ".join(drop))
    logger.info("%s: loaded %d weights (%s).", where, len(state), checkpoint.layout)
    return LoadedWeights(checkpoint.classes, checkpoint.layout, dropped)


def _wrapped(state: dict[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    keys = set(expected)
    if any(k in keys for k in state) or not any(WRAPPED_PREFIX + k in keys for k in state):
        return state
    return {WRAPPED_PREFIX + key: value for key, value in state.items()}


def _check_keys(state: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in expected]
    if not missing and not unexpected:
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} keys of the network are missing: {_listed(missing)}")
    if unexpected:
        parts.append(f"{len(unexpected)} keys of the file are unexpected: {_listed(unexpected)}")
    raise CheckpointError(
        f"{where} does not fit the network: {'; '.join(parts)}. Use the config that the weights were trained with "
        "(architecture, depth, stem, auxiliary head)."
    )


def _check_shapes(state: dict[str, Tensor], expected: dict[str, Tensor], checkpoint: Checkpoint, where: str) -> None:
    wrong = [k for k, v in state.items() if v.shape != expected[k].shape]
    if not wrong:
        return
    if all(k.endswith(("conv_seg.weight", "conv_seg.bias")) for k in wrong):
        got, want = state[wrong[0]].shape[0], expected[wrong[0]].shape[0]
        names = f" ({', '.join(checkpoint.classes[:4])}, ...)" if checkpoint.classes else ""
        if got != want:
            raise CheckpointError(
                f"{where}: checkpoint has {got} classes{names}, model has {want}. Set "
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES to {got}, or use weights for {want} classes."
            )
    shown = _listed([f"{k} {tuple(state[k].shape)} (network: {tuple(expected[k].shape)})" for k in wrong])
    raise CheckpointError(
        f"{where} does not fit the network: {len(wrong)} weights have another shape: {shown}. Use the config that the "
        "weights were trained with (width, channels, classes)."
    )


def _listed(keys: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
