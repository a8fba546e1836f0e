"""Base class of the teachers of dense networks: objects that map a raw batch to detached scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from bpkd.structures import SegOutput

Output = TypeVar("Output")
Batch = Sequence[dict[str, Any]]
Size = tuple[int, int]
# Names of the features that will be read; None: all of them.
Taps = frozenset[str] | None


@dataclass(frozen=True)
class Pending(Generic[Output]):
    """An output that another CUDA stream may still be computing."""

    wait: Callable[[], Output]

    def result(self) -> Output:
        """Waits for the output and returns it."""
        return self.wait()


class Teacher(Generic[Output]):
    """A frozen source of scores.

    It is deliberately no nn.Module: as a plain object it is part neither of the student's parameters and checkpoint nor
    of DistributedDataParallel.

    Attributes:
        amp: Autocast type of the forward pass, "off", "bf16" or "fp16"; several teachers' types are joined by "+";
            "recorded" for scores from disk.
        features_unavailable_reason: Why the teacher returns no features, for messages; None: it returns features.
    """

    amp: str
    features_unavailable_reason: str | None = None

    @property
    def no_features(self) -> str:
        """Old name of ``features_unavailable_reason``, with "" in place of None."""
        return self.features_unavailable_reason or ""

    def feature_channels(self) -> dict[str, int]:
        """Returns the channels of the features by name."""
        return {}

    def submit(self, batch: Batch, size: Size, device: torch.device, *, taps: Taps = None) -> Pending[Output]:
        """Starts the forward pass of a batch.

        Args:
            batch: Items of the data loader with uint8 images.
            size: (height, width) that the student's images were padded to.
            device: The student's device.
            taps: Names of the features that will be read; the others are dropped. None: all are kept.

        Returns:
            The pending output: float32 scores without an autograd graph.
        """
        raise NotImplementedError

    def __call__(self, batch: Batch, size: Size, device: torch.device) -> Output:
        """Runs the forward pass of a batch, see `submit`."""
        return self.submit(batch, size, device).result()

    def logits_sizes(self, crop: Size, device: torch.device, *, count: int) -> set[Size]:
        """Returns the sizes (h, w) of every teacher's logits, found by a forward pass of black images.

        Args:
            crop: (height, width) that training images are padded to.
            device: The student's device.
            count: Batch size, so that a compiled network need not be compiled again in training.
        """
        outputs: Any = self([{"image": torch.zeros(3, *crop, dtype=torch.uint8)}] * count, crop, device)
        found: Sequence[SegOutput] = outputs if isinstance(outputs, list) else [outputs]
        return {(output.logits.shape[2], output.logits.shape[3]) for output in found}
