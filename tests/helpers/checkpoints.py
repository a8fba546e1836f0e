"""Keys of checkpoints, and an object that mmengine pickles into them."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"

COUNTER = "num_batches_tracked"

Shapes = dict[str, list[int]]


def network_keys(name: str) -> Shapes:
    keys: Shapes = json.loads((GOLDEN / "networks" / f"{name}.keys.json").read_text())
    return keys


class Buffer:
    """Like mmengine's HistoryBuffer: numpy arrays and bound methods in its state."""

    def __init__(self) -> None:
        self._log_history, self._max_length = np.arange(4.0), 1_000_000
        self._statistics_methods = OrderedDict(mean=self.mean)

    def mean(self) -> float:
        return 0.0
