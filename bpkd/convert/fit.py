"""Whether a file's weights are those of a network, and the likely cause where they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from .architectures import COUNTER
from .causes import class_sentence, likely_causes, traits


class CheckpointError(ValueError):
    """A checkpoint does not fit its network; the message names the keys and the likely cause."""


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
    _refuse_quantised(state, expected, where)
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


def _refuse_quantised(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    both = {k: (v, expected[k]) for k, v in state.items() if k in expected and v.numel()}
    whole = [k for k, (v, e) in both.items() if e.is_floating_point() and not v.is_floating_point()]
    if whole:
        raise CheckpointError(
            f"{where}: {len(whole)} weights are {str(state[whole[0]].dtype).removeprefix('torch.')}, first {whole[0]}, "
            "where real numbers are expected: it is quantised. Give the weights from before their quantisation."
        )


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


def _listed(keys: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
