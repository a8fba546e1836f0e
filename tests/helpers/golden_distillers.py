"""The golden inputs and numbers of the distillation losses, and the critic with the recipe's weights."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bpkd.distillers.discriminator import Discriminator

GOLDEN = Path(__file__).parents[1] / "golden" / "distillers"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


def entry(name: str) -> dict:
    return EXPECTED["entries"].get(name) or EXPECTED["derived"][name]


def names(prefix: str) -> list[str]:
    return sorted(n for part in ("entries", "derived") for n in EXPECTED[part] if n.startswith(prefix))


def golden(file: str, name: str) -> Tensor:
    return torch.from_numpy(np.load(GOLDEN / f"{file}.npz")[name])


def exact_norm(*tensors: Tensor | None) -> float:
    """L2 norm of all tensors together, in float64: float32 sums of a critic's gradient are off by 1e-4."""
    return float(sum(t.double().square().sum() for t in tensors if t is not None)) ** 0.5


def gradient(loss: Tensor, x: Tensor) -> float:
    return exact_norm(torch.autograd.grad(loss, x, retain_graph=True)[0])


def golden_critic() -> Discriminator:
    """A fresh copy: the singular vectors of its weights, by which it is built, take seconds."""
    return copy.deepcopy(_critic())


@cache
def _critic() -> Discriminator:
    critic = Discriminator(19)
    with torch.no_grad():
        for i, (name, shape) in enumerate(EXPECTED["discriminator_recipe"]["layers"]):
            scale = 0.4 if name == "last.weight" else 0.05
            value = np.float32(np.random.default_rng([20240107, i]).standard_normal(shape) * scale)
            value += np.float32(name == "bn.weight")
            module, leaf = critic.get_submodule(name.rsplit(".", 1)[0]), name.rsplit(".", 1)[1]
            normalised = leaf == "weight" and hasattr(module, "parametrizations")
            target = module.parametrizations.weight.original if normalised else getattr(module, leaf)
            target.copy_(torch.from_numpy(value))
        critic.attn1.gamma.fill_(0.5)
        critic.attn2.gamma.fill_(-0.25)
        for layer in (critic.l1, critic.l2, critic.l3, critic.l4):
            matrix = layer.parametrizations.weight.original.flatten(1).double()
            u, _, v = torch.linalg.svd(matrix, full_matrices=False)
            layer.parametrizations.weight[0]._u.copy_(u[:, 0])
            layer.parametrizations.weight[0]._v.copy_(v[0])
    return critic
