"""ISANet."""

from __future__ import annotations

import pytest
import torch

from bpkd.modeling.heads.isa import WindowAttention

from .architecture import ArchitectureSuite


class TestISANet(ArchitectureSuite):
    config, stride = "isanet_r18", 8
    small = (
        *("MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 0.0625, "MODEL.SEM_SEG_HEAD.CHANNELS", 16),
        *("MODEL.SEM_SEG_HEAD.ATTENTION_CHANNELS", 8, "MODEL.AUX_HEAD.CHANNELS", 8),
    )
    golden = {"isanet_r101": ("isanet_r101", 0.75), "isanet_r18": ("isanet_r18", 0.8)}


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
