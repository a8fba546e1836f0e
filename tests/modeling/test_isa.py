"""ISANet."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bpkd.modeling.heads.isa import WindowAttention
from bpkd.modeling.inference import predict_logits
from tests.helpers.architecture import ArchitectureSuite, network
from tests.helpers.golden_networks import GOLDEN, INPUTS, filled_state, golden_of


class TestISANet(ArchitectureSuite):
    config, stride = "isanet_r18", 8
    small = (
        *("MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 0.0625, "MODEL.SEM_SEG_HEAD.CHANNELS", 16),
        *("MODEL.SEM_SEG_HEAD.ATTENTION_CHANNELS", 8, "MODEL.AUX_HEAD.CHANNELS", 8),
    )
    golden = golden_of("isanet")
    lacks = frozenset({"script", "export_any_size"})


@pytest.mark.parametrize("across", [True, False])
def test_attention_equals_the_plain_form(across: bool) -> None:
    """Position by position: softmax over the group's keys, in float64."""
    torch.manual_seed(0)
    attention = WindowAttention(6, 4, across=across, norm="BN").double().eval()
    x = torch.randn(1, 6, 6, 8, dtype=torch.float64)
    got = attention(x, (3, 4))
    query, key, value = (p(x)[0] for p in (attention.query_project, attention.key_project, attention.value_project))
    plain = torch.zeros_like(value)
    places = [(i, j) for i in range(6) for j in range(8)]
    for i, j in places:
        if across:
            group = [(a, b) for a, b in places if (a % 3, b % 4) == (i % 3, j % 4)]
        else:
            group = [(a, b) for a, b in places if (a // 3, b // 4) == (i // 3, j // 4)]
        scores = torch.stack([query[:, i, j] @ key[:, a, b] / 2 for a, b in group]).softmax(0)
        plain[:, i, j] = sum(s * value[:, a, b] for s, (a, b) in zip(scores, group, strict=True))
    torch.testing.assert_close(got, attention.output_project(plain[None]), rtol=1e-10, atol=1e-10)


def test_align_corners_is_the_networks_own() -> None:
    """The Cityscapes teacher needs it; the golden classes of this setting are those of the whole test path."""
    model = network("isanet_r18", "MODEL.SEM_SEG_HEAD.ALIGN_CORNERS", True, classes=19).eval()
    model.load_state_dict(filled_state(json.loads((GOLDEN / "isanet_r18.keys.json").read_text()), 0.8))
    golden = np.load(GOLDEN / "isanet_r18.logits.npz")
    seed, shape = INPUTS["b"]
    image = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    with torch.no_grad():
        scores = predict_logits(lambda x: model.scores(x).logits, image, shape[2:], align_corners=model.align_corners)
    wrong = {key: int((scores.argmax(1).numpy() != golden[f"{key}_b"]).sum()) for key in ("pred_ac", "pred")}
    assert wrong["pred_ac"] <= 2 < wrong["pred"]
