"""The loss of BPKD: edges and bodies of objects distilled by two separate terms."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .backends import dispatch
from .divergence import channel_kd, check_pair
from .reference.boundary import body_logits, edge_term
from .structures import BoundaryOptions, EdgeMap, SparseEdgeMask, dense_edges

NORMALIZERS = ("positions", "classes", "weights", "average")
PRE_MASKS = ("soft", "hard", "none")


def boundary_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    edge_mask: Tensor | EdgeMap | SparseEdgeMask,
    *,
    temperature: float = 1.0,
    class_weight: float | Sequence[float] | Tensor = 2.0,
    normalizer: str = "positions",
    pre_mask: str = "soft",
    weights: tuple[float, float] = (1.0, 1.0),
    valid: Tensor | None = None,
    independent: bool = False,
) -> tuple[Tensor, Tensor]:
    """Edge and body term of BPKD.

    Edge, with M the edge mask, n_c = max(1, positions of the image with M_c > 0), alpha the class weights and
    KL(i) over the classes of the masked logits at position i:

        T^2 mean_n sum_c (alpha_c / n_c) sum_i KL(i) M_c(i)

    Body: channel-wise KL of Z (1 - M), T^2 / (N K) sum.

    Args:
        student_logits: [N, K, h, w] logits.
        teacher_logits: [N, K, h, w] logits; get no gradient.
        edge_mask: [N, K, h, w] in [0, 1], from ``class_edge_mask``; what ``class_edges`` returns; or [N, 1, h, w],
            one map that all classes share and that counts once.
        temperature: divisor T of the logits.
        class_weight: factor alpha of each class in the edge term, one number or one per class of the mask.
        normalizer: "positions": the sum above, which grows with the number of classes that have an edge; "classes":
            each image's sum also divided by the sum of alpha over these classes, a weighted mean over classes;
            "weights": as "classes", with n_c = max(1, sum of M_c) in place of the number of positions; "average":
            n_c = K h w, the mean over all classes and positions, with and without an edge (h w for one map that all
            classes share).
        pre_mask: filter before the softmax: "soft" multiplies by M (edge) and 1 - M (body), "hard" by M > 0 and
            M = 0, "none" leaves the logits alone (the body term is then plain CWD).
        weights: factors of the edge and the body term. Terms that are weighted here, and then added, cost one pass.
        valid: [N, 1, h, w] in [0, 1], the share of each cell that is no padding: the body's filter is then
            max(0, valid - M), for "hard" M = 0 where valid > 0. None: 1 everywhere.
        independent: True: each class has a sigmoid of its own in place of the softmax, see ``class_divergence``; the
            body term is the same.

    Returns:
        (edge, body), scalars in float32, weights applied; edge is an exact zero where the mask is empty.

    Raises:
        ValueError: shapes differ, or an option does not exist.

    Source:
        Liu et al., BPKD, WACV 2024, and section 2 of its supplement.

    Example:
        >>> from bpkd.functional import boundary_kd, class_edge_mask
        >>> labels = torch.tensor([[[0, 0, 0, 1]] * 4])
        >>> mask = class_edge_mask(labels, num_classes=2, kernel_size=3)
        >>> student, teacher = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
        >>> teacher[:, 0, :, :3] = 2.0
        >>> edge, body = boundary_kd(student, teacher, mask)
        >>> print(f"{edge:.4f} {body:.4f}")
        0.6556 0.1639
    """
    if normalizer == "cells":
        warnings.warn("normalizer: 'cells' is now called 'positions'.", FutureWarning, stacklevel=2)
        normalizer = "positions"
    _check(student_logits, edge_mask, normalizer, pre_mask)
    check_pair(student_logits, teacher_logits, temperature)
    channels = edge_mask.shape[1]
    alpha = _class_weights(class_weight, channels, student_logits.device)
    options = BoundaryOptions(float(temperature), alpha, pre_mask, normalizer)
    with torch.autocast(student_logits.device.type, enabled=False):
        if channels == student_logits.shape[1] and valid is None and not independent and normalizer != "weights":
            backend = dispatch.loss_backend("boundary_kd", student_logits, teacher_logits)
            return backend.boundary_kd(student_logits, teacher_logits, edge_mask, options, weights=weights)
        # Shared masks and valid shares, which instances need, have no fast backend.
        student, teacher = student_logits.float(), teacher_logits.detach().float()
        mask = dense_edges(edge_mask, student.device)
        edge = edge_term(student, teacher, mask, options, independent=independent)
        body = body_logits(student, teacher, mask, pre_mask, 1.0 if valid is None else valid.to(mask))
        return weights[0] * edge, weights[1] * channel_kd(*body, temperature)


def _check(student: Tensor, edge_mask: Tensor | EdgeMap | SparseEdgeMask, normalizer: str, pre_mask: str) -> None:
    if normalizer not in NORMALIZERS:
        raise ValueError(f"normalizer: expected one of {NORMALIZERS}, got {normalizer!r}.")
    if pre_mask not in PRE_MASKS:
        raise ValueError(f"pre_mask: expected one of {PRE_MASKS}, got {pre_mask!r}.")
    if edge_mask.shape not in (student.shape, student[:, :1].shape):
        raise ValueError(
            f"edge_mask: expected the logits' shape {tuple(student.shape)} or one channel of it, got "
            f"{tuple(edge_mask.shape)}. Give class_edge_mask the logits' size and number of classes."
        )


def _class_weights(class_weight: float | Sequence[float] | Tensor, channels: int, device: torch.device) -> Tensor:
    if isinstance(class_weight, Sequence) and len(class_weight) == 1:  # as configs hold it
        class_weight = class_weight[0]
    if isinstance(class_weight, (int, float)):  # filled on the device: a copy to a GPU would wait for it
        return torch.full((channels,), float(class_weight), device=device)
    alpha = torch.as_tensor(class_weight, dtype=torch.float32).to(device, non_blocking=True).flatten()
    if alpha.numel() not in (1, channels):
        raise ValueError(f"class_weight: expected one number or {channels} (one per class), got {alpha.numel()}.")
    return alpha.expand(channels).contiguous()
