"""Parameters and FLOPs of a dense network, by the convention that gives the paper's table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Complexity:
    """Cost of one network at one image size."""

    params: int
    """All parameters, the auxiliary head's included, buffers excluded."""

    flops: int
    """Multiply-adds of one image in evaluation, the resize of the scores to the image included."""

    size: tuple[int, int]
    """(height, width) of the image."""

    params_by_part: dict[str, int]
    """Parameters of each child of the network."""

    flops_by_operator: dict[str, int]
    """FLOPs of convolutions, batch norms, resizes and so on."""

    def row(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)


def count(model: nn.Module, size: tuple[int, int] = (512, 512)) -> Complexity:
    """Counts parameters and FLOPs.

    The convention (it reproduces all sixteen numbers of the paper's Table 2 at 150 classes and 512 x 512): parameters
    with the auxiliary head, FLOPs without it; fvcore's counter in evaluation mode, one multiply-add = 1, convolution
    without bias, batch norm 2 per element, bilinear resize 4 per output element, with exactly one resize of the
    scores to the image's size.

    Args:
        model: a network with ``predict(images) -> SegOutput``, or one that maps images to a tensor of scores.
        size: (height, width).

    Returns:
        The counts; the model keeps its mode.

    Raises:
        ImportError: fvcore is not installed (it comes with Detectron2).
    """
    from fvcore.nn import FlopCountAnalysis

    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        image = torch.zeros(1, 3, *size, device=device)
        with torch.no_grad():
            analysis = FlopCountAnalysis(_ScoresAtImageSize(model), image)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            by_operator = {str(k): int(v) for k, v in sorted(analysis.by_operator().items())}
    finally:
        model.train(was_training)
    return Complexity(
        params=sum(p.numel() for p in model.parameters()),
        flops=sum(by_operator.values()),
        size=(int(size[0]), int(size[1])),
        params_by_part=parts,
        flops_by_operator=by_operator,
    )


class _ScoresAtImageSize(nn.Module):
    """Network plus the one resize that the convention counts."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        predict = getattr(self.model, "predict", None)
        logits = predict(image).logits if predict else self.model(image)
        align = bool(getattr(self.model, "align_corners", False))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=align)
