"""Our networks against mmsegmentation's own modules: keys, logits, gradients.

docs/results/benchmarks_networks.md says how to install it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.peers.mmseg_networks import (
    NETWORKS,
    build_mmseg,
    build_ours,
    import_mmseg,
    mmseg_logits,
    our_logits,
    random_state_dict,
)

pytestmark = pytest.mark.slow
CLASSES = 5


@pytest.fixture(scope="module", autouse=True)
def mmseg():
    pytest.importorskip("mmseg")
    return import_mmseg()  # whatever else is missing is an error


def both(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Double precision: a difference is then a difference of definition."""
    ours, theirs = build_ours(name, CLASSES, dropout=0.0).double(), build_mmseg(name, CLASSES, dropout=0.0).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    state = random_state_dict(theirs)
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    return ours, theirs


def assert_close(got: Tensor, want: Tensor, what: str) -> None:
    assert got.shape == want.shape, what
    assert float((got - want).abs().max()) <= 1e-8 * float(want.std()), what


def scores_and_gradients(model: torch.nn.Module, scores, images: Tensor) -> dict[str, Tensor]:
    """In training mode: the scores, running statistics and the gradients of backbone and heads."""
    decode, aux = scores(model.train(), images)
    found = {"decode": decode, "aux": aux} if aux is not None else {"decode": decode}
    generator = torch.Generator().manual_seed(2)
    # Not the mean: through batch norm a constant's gradient vanishes.
    sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in found.values()).backward()
    weights = {key: p for key, p in model.named_parameters() if p.dim() == 4}
    for part in ("backbone", "decode_head", "auxiliary_head"):
        key = next((k for k in weights if k.startswith(part) and "conv_seg" not in k), None)
        if key is not None:
            found[f"gradient of {key}"] = weights[key].grad
    found |= {key: value for key, value in model.named_buffers() if key.endswith("running_var")}
    return {key: value.detach() for key, value in found.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradients_equal_theirs(name: str) -> None:
    ours, theirs = both(name)
    images = torch.randn(2, 3, 65, 97, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    with torch.no_grad():
        assert_close(our_logits(ours.eval(), images)[0], mmseg_logits(theirs.eval(), images)[0], "evaluation")
    got = scores_and_gradients(ours, our_logits, images)
    want = scores_and_gradients(theirs, mmseg_logits, images)
    assert got.keys() == want.keys()
    assert sum(key.startswith("gradient") for key in got) >= 2
    for key, value in want.items():
        assert_close(got[key], value, f"training, {key}")
