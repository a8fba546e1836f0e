"""The values of a checkpoint: which are weights, what keeps them from being used, names and colours of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .architectures import COUNTER
from .arrays import Rebuilt
from .nests import AVERAGED, PLAIN
from .unpickle import Placeholder

# Types of 8 bits and fewer: their numbers need the scales of a quantised network.
SMALL = tuple(t for t in (getattr(torch, n, None) for n in ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")) if t)


def as_weights(state: Any) -> dict[Any, Any]:
    """Returns a state dict with numpy's arrays as tensors, of which one array gives one tensor.

    Args:
        state: what should be a state dict; anything but a mapping gives an empty dict.
    """
    made: dict[int, Any] = {}
    out = dict(state) if isinstance(state, Mapping) else {}
    for key, value in out.items():
        if isinstance(value, np.ndarray):
            if id(value) not in made:
                made[id(value)] = _tensor(value)
            out[key] = made[id(value)]
        elif isinstance(value, int | float) and str(key).endswith(COUNTER):
            out[key] = torch.tensor(int(value))
    return out


def _tensor(array: np.ndarray[Any, Any]) -> Any:
    if isinstance(array, Rebuilt) and array.unread:
        return Placeholder(f"numpy.ndarray of {array.unread}")
    if array.dtype.kind not in "fiubc" or array.dtype.itemsize > 16:
        return array
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), subok=False, order="C"))


def blocked_in(data: Any, state: Mapping[Any, Any]) -> str:
    """Returns which Python object stands where weights should be, "" if none does."""
    if isinstance(data, Placeholder):
        return (
            f"it is the Python object {data.name} as a whole, which is not loaded (torch.save of a network and not of "
            "its state dict)"
        )
    found = [data.get(key) for key in (*PLAIN, *AVERAGED)] if isinstance(data, Mapping) else []
    stands = next((v for v in (*state.values(), *found) if isinstance(v, Placeholder)), None)
    if stands is None or (stands in found and any(isinstance(v, Tensor) for v in state.values())):
        return ""
    return f"it holds the Python object {stands.name}, which is not loaded"


def state_problem(data: Any, state: Mapping[Any, Any]) -> str:
    """Returns why there are no weights to use, as the end of a sentence that begins with the file; "" if there are."""
    tensors = [k for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)]
    if tensors and len(tensors) == len(state):
        flat = next((k for k in tensors if "_flat_param" in k or k.endswith(".flat_param")), None)
        return f"holds FSDP's flattened weights ({flat}): save it with StateDictType.FULL_STATE_DICT" if flat else ""
    keys = list(map(str, data)) if isinstance(data, Mapping) else []
    if not tensors and any("optim" in key for key in keys) or {"state", "param_groups"} <= set(keys):
        return f"holds the state of an optimizer and no weights ({', '.join(keys[:8])}): give the file with the weights"
    odd = next((k for k, v in state.items() if not isinstance(v, Tensor)), None)
    if tensors and odd is not None:
        return f"holds {type(state[odd]).__name__} under {odd!r} among its weights: expected tensors alone"
    shown = ", ".join(keys[:8]) if isinstance(data, Mapping) else type(data).__name__
    return f"holds no weights: expected a state dict under 'model' or 'state_dict', or alone, got {shown or 'nothing'}"


def unusable(state: Mapping[str, Tensor]) -> str:
    """Returns which weights cannot be used and what to do, "" if all can."""
    elsewhere = [k for k, v in state.items() if v.is_meta or v.layout != torch.strided]
    if elsewhere:
        return (
            f"{len(elsewhere)} weights without plain numbers (sparse, or on the device meta), first {elsewhere[0]}: "
            "save its state dict from the CPU, dense"
        )
    packed = [k for k, v in state.items() if v.is_quantized or v.dtype in SMALL or v.is_complex()]
    if packed:
        name = str(state[packed[0]].dtype).removeprefix("torch.")
        return (
            f"{len(packed)} weights of the type {name}, first {packed[0]}, "
            "where float32, float16 or bfloat16 are read: give the weights from before their quantisation"
        )
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        return (
            f"{len(broken)} weights that are not finite, first {broken[0]}. The training that wrote it went wrong, or "
            "the file was changed: use an earlier checkpoint or another copy"
        )
    return ""


def names_in(meta: Any, key: str) -> tuple[str, ...] | None:
    """Returns class names under a key, None where there is no list of texts."""
    value = meta.get(key) if isinstance(meta, Mapping) else None
    value = value.tolist() if isinstance(value, np.ndarray) else value
    plain = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
    return tuple(value) or None if plain else None  # type: ignore[arg-type]


def colors_in(meta: Any, key: str) -> tuple[tuple[int, ...], ...] | None:
    """Returns the colours of classes under a key, None where there is no list of three whole numbers each."""
    value = meta.get(key) if isinstance(meta, Mapping) else None
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(value, Sequence) or not all(isinstance(c, list | tuple) and len(c) == 3 for c in value):
        return None
    if not all(isinstance(v, int) for color in value for v in color):
        return None
    return tuple(tuple(color) for color in value) or None
