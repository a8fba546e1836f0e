"""FrozenTeacher: a trained dense network in evaluation mode, without gradients."""

from __future__ import annotations

import torch

from bpkd.modeling.base import DenseModel
from bpkd.modeling.precision import autocast, check_amp
from bpkd.structures import SegOutput

from .base import Batch, Pending, Size, Taps, Teacher


class FrozenTeacher(Teacher[SegOutput]):
    """Runs a frozen network on raw batches, normalised with the network's own pixel statistics and colour order."""

    def __init__(
        self,
        model: DenseModel,
        *,
        amp: str = "off",
        features_unavailable_reason: str | None = None,
        stream: bool = False,
    ) -> None:
        """Freezes ``model``.

        Args:
            model: The network, with its weights loaded.
            amp: Autocast type of the forward pass, "off", "bf16" or "fp16".
            features_unavailable_reason: Why the network returns logits without features, for messages; None: it returns
                features.
            stream: Whether to run the network on a CUDA stream of its own.

        Raises:
            ValueError: ``amp`` is unknown.
        """
        self.amp = check_amp(amp, key="TEACHER.AMP")
        self.model = model.eval().requires_grad_(False)
        self.features_unavailable_reason = features_unavailable_reason
        self._stream = torch.cuda.Stream(model.device) if stream else None

    def feature_channels(self) -> dict[str, int]:
        """Returns the channels of the network's features by name."""
        return self.model.feature_channels()

    def submit(self, batch: Batch, size: Size, device: torch.device, *, taps: Taps = None) -> Pending[SegOutput]:
        """Starts the forward pass, see `Teacher.submit`; without a stream of its own it is complete on return."""
        if self.model.device != device:
            self.model.to(device)
        self.model.eval()  # in case a module that holds the network was set to training
        stream = self._stream
        if stream is None:
            output = self._run(batch, size, taps)
            return Pending(lambda: output)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            output = self._run(batch, size, taps)

        def wait() -> SegOutput:
            current = torch.cuda.current_stream(device)
            current.wait_stream(stream)
            for tensor in (output.logits, *output.features.values()):
                tensor.record_stream(current)
            return output

        return Pending(wait)

    @torch.no_grad()
    def _run(self, batch: Batch, size: Size, taps: Taps) -> SegOutput:
        # Inference mode, not just no_grad: the network's code cannot enable gradients again.
        with torch.inference_mode(), autocast(self.model.device, self.amp, cache=False):
            output = self.model.scores(self.model.images(batch, size))
        # Copied outside inference mode: autograd cannot save tensors of inference mode.
        kept = output.features if taps is None else taps & output.features.keys()
        features = {name: output.features[name].to(torch.float32, copy=True) for name in kept}
        return SegOutput(output.logits.to(torch.float32, copy=True), None, features)
