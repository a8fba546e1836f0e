"""Parameters, FLOPs, activations and latency of a dense network, by the convention that gives the paper's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpkd.extras import need
from bpkd.text import markdown_table


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

    activations: int | None = None
    """Values that convolutions and matrix products write for one image; None where they were not asked for."""

    def row(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)


def count(model: nn.Module, size: tuple[int, int] = (512, 512), *, activations: bool = False) -> Complexity:
    """Counts parameters and FLOPs.

    The convention (it reproduces all sixteen numbers of the paper's Table 2 at 150 classes and 512 x 512): parameters
    with the auxiliary head, FLOPs without it; fvcore's counter in evaluation mode, one multiply-add = 1, convolution
    without bias, batch norm 2 per element, bilinear resize 4 per output element, adaptive pooling 1 per input element,
    matrix products, with exactly one resize of the scores to the image's size. Free are ReLU, max pooling, sums,
    softmax and dropout.

    Args:
        model: a network with ``predict(images) -> SegOutput``, or one that maps images to a tensor of scores.
        size: (height, width).
        activations: also count these, which takes a second pass.

    Returns:
        The counts; the model keeps its mode.

    Raises:
        ImportError: fvcore is not installed (``bpkd[train]`` has it).
    """
    need("Counting FLOPs", "fvcore")
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        image = torch.zeros(1, 3, *size, device=device)
        with torch.no_grad():
            by_operator = _by_operator(FlopCountAnalysis(_ScoresAtImageSize(model), image))
            written = _by_operator(ActivationCountAnalysis(_ScoresAtImageSize(model), image)) if activations else None
    finally:
        model.train(was_training)
    return Complexity(
        params=sum(p.numel() for p in model.parameters()),
        flops=sum(by_operator.values()),
        size=(int(size[0]), int(size[1])),
        params_by_part=parts,
        flops_by_operator=by_operator,
        activations=None if written is None else sum(written.values()),
    )


def latency(
    model: nn.Module, size: tuple[int, int] = (512, 512), *, device: str = "cpu", batch: int = 1, seconds: float = 2.0
) -> dict[str, float]:
    """Times a forward pass in evaluation, the resize of the scores to the image included.

    Args:
        model: as for `count`; it is moved to ``device``.
        size: (height, width).
        device: "cpu" (with the number of threads that torch is set to) or "cuda".
        batch: images per pass.
        seconds: to measure for, at least, after a warm-up.

    Returns:
        ``median_ms`` and ``iqr_ms`` (interquartile range) of a pass, ``images_per_second``, ``threads``, ``batch``.
    """
    from torch.utils.benchmark import Timer

    net = _ScoresAtImageSize(model).to(device).eval()
    image = torch.zeros(batch, 3, *size, device=device)
    with torch.inference_mode():
        timer = Timer("net(image)", globals={"net": net, "image": image}, num_threads=torch.get_num_threads())
        measured = timer.blocked_autorange(min_run_time=seconds)  # warms up and waits for a GPU by itself
    return {
        "median_ms": 1e3 * measured.median,
        "iqr_ms": 1e3 * measured.iqr,
        "images_per_second": batch / measured.median,
        "threads": float(torch.get_num_threads()),
        "batch": float(batch),
    }


def cost_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Formats rows of one shape as a Markdown table.

    Args:
        rows: {column: value}; floats are shown with two decimals, columns are those of the first row.
    """
    rows = [dict(row) for row in rows]
    names = list(rows[0])
    cells = [[f"{v:.2f}" if isinstance(v, float) else v for v in (row[name] for name in names)] for row in rows]
    return markdown_table(names, cells)


def _deformable(inputs: list[Any], outputs: list[Any]) -> Any:
    """Multiply-adds of a deformable convolution: those of a plain one of its shape; its sampling is free."""
    from fvcore.nn.jit_handles import conv_flop_count, get_shape

    x, weight, out = get_shape(inputs[0]), get_shape(inputs[1]), get_shape(outputs[0])
    return conv_flop_count(x, weight, out)


def _by_operator(analysis: Any) -> dict[str, int]:
    if hasattr(analysis, "set_op_handle"):
        analysis.set_op_handle("torchvision::deform_conv2d", _deformable)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return {str(k): int(v) for k, v in sorted(analysis.by_operator().items())}


class _ScoresAtImageSize(nn.Module):
    """Network plus the one resize that the convention counts."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        raw_outputs = getattr(self.model, "raw_outputs", None)
        if raw_outputs:  # a network for instances, up to its heads: the rest depends on what is found
            found = raw_outputs(image)
            return torch.cat([x.flatten() for x in (*found.category_logits, *found.kernels, found.mask_features)])
        predict = getattr(self.model, "predict", None)
        logits = predict(image).logits if predict else self.model(image)
        align = bool(getattr(self.model, "align_corners", False))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=align)
