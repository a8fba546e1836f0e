"""The golden networks' inputs and weights, made from names alone."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden" / "networks"
INPUTS = {"a": (0, (1, 3, 128, 128)), "b": (1, (1, 3, 97, 161))}


def filled_state(keys: dict[str, list[int]], gain: float) -> dict[str, Tensor]:
    """Weights made from key and shape alone."""
    state = {}
    for key, shape in keys.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
        if key.endswith("running_mean"):
            value = 0.1 * z
        elif key.endswith("running_var"):
            value = 1 + 0.1 * np.abs(z)
        elif len(shape) == 4:
            value = z * np.sqrt(2 / (shape[1] * shape[2] * shape[3]))
        elif key.endswith(".weight"):
            value = gain * (1 + 0.1 * z)
        else:
            value = 0.1 * z
        state[key] = torch.from_numpy(value.astype(np.float32))
    return state
