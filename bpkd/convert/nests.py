"""Takes a network's weights out of what training programs wrap around them: entries of a file, prefixes of keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .unpickle import Placeholder

# Entries with weights averaged over the training (timm, YOLO, Detectron2's forks, BasicSR).
AVERAGED = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "ema_state", "params_ema",
    "model_ema_state_dict", "module_ema",
)  # fmt: skip
PLAIN = (
    "model", "state_dict", "model_state_dict", "model_state", "network", "net", "module", "params", "weights", "blobs",
)  # fmt: skip
ROLES = ("student", "teacher")
# Attributes under which wrappers keep a network.
WRAPPERS = (
    "module", "_orig_mod", "_forward_module", "model", "net", "network", "segmentor", *ROLES, *AVERAGED,
)  # fmt: skip
# Segments that torch.compile, FSDP and activation checkpointing put anywhere into a key.
INNER = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# First segments of keys that belong to a training and to no network.
SIDE = re.compile(r"(teacher|criterion|loss\w*|distiller|metrics?|(train|val|test)_\w+|ema_\w+|pixel_(mean|std))$")
# What wrappers nest at most.
DEPTH = 6
Weights = Mapping[Any, Any]
Fits = Callable[[Iterable[str]], bool]


class AmbiguousError(ValueError):
    """A file holds weights of several networks, and nothing says which are meant."""


@dataclass(frozen=True)
class Taken:
    """Weights of one network."""

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    """Sentences for the log: what was taken, what was stripped, what was left."""

    left_out: tuple[str, ...] = ()
    """Keys of the file that belong to something else."""


def open_entries(data: Any, role: str, take: str = "") -> tuple[Any, list[str]]:
    """Follows a file's entries down to a state dict.

    Args:
        data: content of a file.
        role: one of `ROLES`, where the file has both.
        take: Name of the entry that is wanted; "": by the rules.

    Returns:
        The state dict, or ``data`` where there is none, and sentences about what was taken.

    Raises:
        AmbiguousError: the file has several entries of weights with names that are not known here.
    """
    notes: list[str] = []
    path: list[str] = []
    for depth in range(DEPTH):
        name, others = _entry(data, role, take if depth == 0 else "") if isinstance(data, Mapping) else ("", [])
        if not name:
            break
        if others:
            notes.append(
                f"took the entry {name}{_why(name, data)} and left {', '.join(others)} (bpkd convert --take "
                f"{others[0]} writes that one)"
            )
        path.append(name)
        data = data[name]
    if path and path not in (["model"], ["state_dict"]) and not notes:
        notes.append(f"took the entry {'.'.join(path)}")
    return data, notes


def _entry(data: Weights, role: str, take: str) -> tuple[str, list[str]]:
    """(name of the entry to follow, names of others that it was preferred to); "" where the weights lie here."""
    there = [key for key, value in data.items() if isinstance(key, str) and isinstance(value, Mapping) and value]
    if take in there:
        return take, []
    averaged, plain = ([name for name in names if name in there] for names in (AVERAGED, PLAIN))
    if all(name in there for name in ROLES):
        return role, [name for name in ROLES if name != role]
    if averaged and plain and _is_mmengine(data):  # swapped when it is saved: state_dict holds the averaged ones
        return "state_dict", averaged
    filled = [name for name in plain if _holds_weights(data[name])]
    if len(filled) > 1 and not averaged:
        raise AmbiguousError(_which(filled))
    found = [*averaged, *plain, *(name for name in ROLES if name in there)]
    if found:
        return found[0], [name for name in found[1:] if name in averaged or found[0] in averaged]
    bare = [key for key in there if _holds_weights(data[key])]
    if len(bare) > 1 and not any(isinstance(value, Tensor) for value in data.values()):
        raise AmbiguousError(_which(bare))
    return (bare[0], []) if len(bare) == 1 and not _holds_weights(data) else ("", [])


def _which(names: list[str]) -> str:
    return (
        f"it holds weights under {', '.join(names[:6])}, and nothing says which are meant: write one of them with bpkd "
        f"convert --take {names[0]}"
    )


def _why(name: str, data: Weights) -> str:
    if name in AVERAGED:
        return " (averaged weights, with which such networks are evaluated)"
    return " (in OpenMMLab's files the averaged weights)" if name == "state_dict" and _is_mmengine(data) else ""


def _is_mmengine(data: Weights) -> bool:
    meta = data.get("meta")
    return isinstance(meta, Mapping) and ("mmengine_version" in meta or "dataset_meta" in meta)


def _holds_weights(value: Weights) -> bool:
    return all(isinstance(v, Tensor | Placeholder) for v in value.values())


def without_inner(state: dict[str, Tensor]) -> Taken:
    """Removes what torch.compile, FSDP and activation checkpointing put into keys.

    Raises:
        AmbiguousError: two keys become one.
    """
    renamed = {INNER.sub("", key): value for key, value in state.items()}
    if len(renamed) != len(state):
        raise AmbiguousError("it holds weights both with and without _orig_mod. in their keys: keep one of the two")
    names = sorted({found for key in state for found in INNER.findall(key)})
    return Taken(renamed, (f"stripped {', '.join(names)} from the keys",) if names else ())


def take_prefix(state: dict[str, Tensor], take: str) -> Taken:
    """Takes the weights whose keys begin with a segment, without it.

    Raises:
        AmbiguousError: there are none.
    """
    groups = _groups(state)
    if take not in groups:
        raise AmbiguousError(f"--take: expected one of {', '.join(list(groups)[:12])}, got {take!r}")
    left = tuple(key for name in groups if name != take for key in groups[name].values())
    found = {key: state[whole] for key, whole in groups[take].items()}
    return Taken(found, (f"took the weights of {take}.*, as --take says",), left)


def peel(state: dict[str, Tensor], fits: Fits, *, role: str, complete: Fits | None = None) -> Taken:
    """Strips prefixes of wrappers from keys until they are those of a network.

    Args:
        state: weights.
        fits: whether keys belong to the network.
        role: one of `ROLES`, where the keys have both prefixes.
        complete: whether keys are those of a whole network, where several prefixes fit; None: as ``fits``.

    Raises:
        AmbiguousError: keys of several networks fit, and nothing says which are meant.
    """
    stripped, notes, left = "", [], []
    for _ in range(DEPTH):
        if fits(state):
            break
        groups = _groups(state)
        name, why = _choose(groups, complete or fits, role)
        if not name:
            break
        others = [n for n in groups if n != name]
        if others:
            left += [key for n in others for key in groups[n].values()]
            notes.append(f"took the weights of {name}.*{why} and left {', '.join(f'{n}.*' for n in others[:6])}")
        stripped += f"{name}."
        state = {key: state[whole] for key, whole in groups[name].items()}
    first = (f"stripped {stripped} from the keys",) if stripped else ()
    return Taken(state, (*first, *notes), tuple(left))


def beside(state: Mapping[str, Tensor], expected: Iterable[str]) -> list[str]:
    """Returns the keys that belong to a training and to no network, and whose beginning the network does not have."""
    ours = {key.partition(".")[0] for key in expected}
    firsts = {key: key.partition(".")[0] for key in state}
    return [key for key, first in firsts.items() if first not in ours and SIDE.match(first)]


def _groups(state: Iterable[str]) -> dict[str, dict[str, str]]:
    """First segment -> {rest of a key: the key}."""
    groups: dict[str, dict[str, str]] = {}
    for key in state:
        first, _, rest = key.partition(".")
        groups.setdefault(first, {})[rest or first] = key
    return groups


def _choose(groups: Mapping[str, Mapping[str, str]], complete: Fits, role: str) -> tuple[str, str]:
    """(first segment of the wanted keys, why it among several); "" where it is none that a wrapper gives."""
    if len(groups) == 1:
        (only,) = groups
        return (only, "") if only in WRAPPERS else ("", "")
    if all(name in groups for name in ROLES):
        return role, ", as is asked for here,"
    fitting = [name for name, keys in groups.items() if _reaches(list(keys), complete)]
    averaged = [name for name in fitting if name in AVERAGED]
    if len(averaged) == 1:
        return averaged[0], " (averaged weights, with which such networks are evaluated)"
    networks = [name for name in fitting if not SIDE.match(name)]
    if len(networks) > 1:
        raise AmbiguousError(
            f"its keys are those of {len(networks)} networks that fit, {', '.join(f'{n}.*' for n in networks[:6])}, "
            f"and nothing says which is meant: write one of them with bpkd convert --take {networks[0]}"
        )
    if networks:
        return networks[0], ""
    rest = [name for name in groups if not SIDE.match(name)]
    return (rest[0], "") if len(rest) == 1 and rest[0] in WRAPPERS else ("", "")


def _reaches(keys: list[str], complete: Fits) -> bool:
    for _ in range(DEPTH):
        if complete(keys):
            return True
        first = keys[0].partition(".")[0]
        if first not in WRAPPERS or not all(key.startswith(f"{first}.") for key in keys):
            return False
        keys = [key[len(first) + 1 :] for key in keys]
    return False
