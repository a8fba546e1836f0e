"""Example outputs of networks, and the values and gradients of a distiller's terms on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bpkd.distillers import Distiller
from bpkd.structures import SegOutput

Batch = tuple[SegOutput, SegOutput, Tensor]


def example_batch(
    *, images: int = 2, classes: int = 5, channels: tuple[int, int] = (6, 8), size: tuple[int, int] = (8, 8)
) -> Batch:
    """Returns random outputs of a student and a teacher with a feature ``decode``, and labels with ignored pixels.

    Args:
        images: number of images N.
        classes: number of classes K.
        channels: channels of the student's and of the teacher's feature.
        size: (h, w) of the student's maps; the teacher's are 8 x 8, the labels 32 x 32.
    """
    g = torch.Generator().manual_seed(0)
    outputs = []
    for count, (h, w) in zip(channels, (size, (8, 8)), strict=True):
        logits = torch.randn(images, classes, h, w, generator=g) * 3
        outputs.append(SegOutput(logits, None, {"decode": torch.randn(images, count, h, w, generator=g)}))
    coarse = torch.randint(0, classes, (images, 8, 8), generator=g)
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[:, :5] = 255
    return outputs[0], outputs[1], labels


def mapped(output: SegOutput, function: Any) -> SegOutput:
    """Returns an output with a function applied to its logits and features."""
    features = {name: function(x) for name, x in output.features.items()}
    return SegOutput(function(output.logits), None, features, output.independent)


def leaves(output: SegOutput, dtype: torch.dtype = torch.float32) -> SegOutput:
    """Returns an output whose maps are copies of another type that gradients can be taken of."""
    return mapped(output, lambda x: x.detach().to(dtype, copy=True).requires_grad_())


def maps(output: SegOutput) -> list[Tensor]:
    """Returns the logits and the features."""
    return [output.logits, *output.features.values()]


def values(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns the values of terms."""
    return {name: float(term.detach()) for name, term in terms.items()}


def trained(distiller: Distiller) -> list[Tensor]:
    """Returns the parameters of a distiller that are trained."""
    return [p for p in distiller.parameters() if p.requires_grad]


def gradients(terms: Mapping[str, Tensor], output: SegOutput) -> list[Tensor]:
    """Returns the gradients of the sum of some terms with respect to the maps of an output, zeros where it has none."""
    return _gradients(terms, maps(output))


def parameter_gradients(terms: Mapping[str, Tensor], distiller: Distiller) -> list[Tensor]:
    """Returns the gradients of the sum of some terms with respect to a distiller's parameters, zeros where none."""
    return _gradients(terms, trained(distiller))


def _gradients(terms: Mapping[str, Tensor], inputs: list[Tensor]) -> list[Tensor]:
    if not inputs:
        return []
    total = torch.stack([term.double() for term in terms.values()]).sum()
    found = torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def close(got: list[Tensor], want: list[Tensor], *, rtol: float) -> bool:
    """Tells whether gradients differ by at most ``rtol`` of the largest entry of what is wanted, each."""
    pairs = zip(got, want, strict=True)
    return all(float((a - b).abs().max()) <= rtol * float(b.abs().max()) + 1e-9 for a, b in pairs)
