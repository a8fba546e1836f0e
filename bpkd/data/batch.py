"""The batch that a loader delivers: a list of samples, which can be moved to pinned memory."""

from __future__ import annotations

from typing import Any

from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor


class Batch(list[dict[str, Any]]):
    """A list of samples whose tensors a `DataLoader` with ``pin_memory`` pins, those of ``instances`` too."""

    def pin_memory(self) -> Batch:
        """Returns the batch with its tensors in pinned memory."""
        return Batch({key: _pinned(value) for key, value in item.items()} for item in self)


def _pinned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, BitMasks | Boxes):
        return type(value)(value.tensor.pin_memory())
    if isinstance(value, Instances):
        return Instances(value.image_size, **{name: _pinned(x) for name, x in value.get_fields().items()})
    return value
