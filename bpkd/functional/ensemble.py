"""Combines several teachers' logits into one map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_probabilities(logits: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Logits whose softmax over the classes is the weighted mean of the given maps' softmax.

    log sum_i w_i softmax(Z_i) + sum_i w_i logsumexp_k(Z_i). The second part is one number per pixel: the softmax over
    the classes does not see it, but terms over the positions of a channel do, and without it one teacher named twice
    would not be that teacher.

    Args:
        logits: [N, K, h, w] each; those of another size are resized to the first one's (bilinear).
        shares: w, positive, of sum 1.

    Returns:
        [N, K, h, w] float32.

    Raises:
        ValueError: the numbers of maps and shares differ, or the shares are not what they should be.

    Example:
        >>> from bpkd.functional import mean_probabilities
        >>> sure, unsure = torch.tensor([9.0, 0.0]).view(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
        >>> mean_probabilities([sure, unsure], [0.5, 0.5]).softmax(1).flatten()
        tensor([0.7499, 0.2501])
    """
    if not logits or len(shares) != len(logits) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares: expected {len(logits)} positive numbers of sum 1, one per map, got {list(shares)}.")
    size = logits[0].shape[-2:]
    with torch.autocast(logits[0].device.type, enabled=False):
        maps = [z.float() for z in logits]
        maps = [z if z.shape[-2:] == size else F.interpolate(z, size=size, mode="bilinear") for z in maps]
        weights = torch.tensor(list(shares), device=maps[0].device)
        scores = torch.stack(maps)  # [teachers, N, K, h, w]
        level = scores.logsumexp(2, keepdim=True)
        shape = (-1, 1, 1, 1, 1)
        mixed = (scores - level + weights.log().view(shape)).logsumexp(0)
        return mixed + (weights.view(shape) * level).sum(0)
