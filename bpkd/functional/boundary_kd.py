"""The BPKD loss: edges and bodies distilled apart. The eager form is literal; faster paths are proved against it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import fused
from .divergence import channel_kd, check_pair, chosen_path, class_divergence
from .edge_rows import EdgeMap, EdgeRows

NORMALIZERS = ("cells", "classes", "weights", "average")
PRE_MASKS = ("soft", "hard", "none")


def boundary_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    edge_mask: Tensor | EdgeMap | EdgeRows,
    *,
    temperature: float = 1.0,
    class_weight: float | Sequence[float] | Tensor = 2.0,
    normalizer: str = "cells",
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
        student_logits: [N, K, h, w].
        teacher_logits: [N, K, h, w]; gets no gradient.
        edge_mask: [N, K, h, w] in [0, 1], from ``class_edge_mask``; what ``class_edges`` returns; or [N, 1, h, w],
            one map that all classes share and that counts once.
        temperature: T.
        class_weight: alpha, one number or one per class of the mask.
        normalizer: "cells": the sum above, which grows with the number of classes that have an edge; "classes": each
            image's sum also divided by the sum of alpha over these classes, a weighted mean over classes; "weights":
            as "classes", with n_c = max(1, sum of M_c) in place of the number of positions; "average": n_c = K h w,
            the mean over all classes and positions, with and without an edge (h w for one map that all classes share).
        pre_mask: filter before the softmax: "soft" multiplies by M (edge) and 1 - M (body), "hard" by M > 0 and
            M = 0, "none" leaves the logits alone (the body term is then plain CWD).
        weights: of the edge and the body term. Weighted here, and then added as they are, the two cost one pass.
        valid: [N, 1, h, w] in [0, 1], the share of each cell that is no padding: the body's filter is then
            max(0, valid - M), for "hard" M = 0 where valid > 0. None: 1 everywhere.
        independent: classes are no softmax but a sigmoid each, see ``class_divergence``; the body term is the same.

    Returns:
        (edge, body), scalars in float32, weights applied; edge is an exact zero where the mask is empty.

    Raises:
        ValueError: shapes differ, or an option does not exist.

    Source:
        Liu et al., BPKD, WACV 2024, and section 2 of its supplement.
    """
    if normalizer not in NORMALIZERS:
        raise ValueError(f"normalizer: expected one of {NORMALIZERS}, got {normalizer!r}.")
    if pre_mask not in PRE_MASKS:
        raise ValueError(f"pre_mask: expected one of {PRE_MASKS}, got {pre_mask!r}.")
    if edge_mask.shape not in (student_logits.shape, student_logits[:, :1].shape):
        raise ValueError(
            f"edge_mask: expected the logits' shape {tuple(student_logits.shape)} or one channel of it, got "
            f"{tuple(edge_mask.shape)}. Give class_edge_mask the logits' size and number of classes."
        )
    check_pair(student_logits, teacher_logits, temperature)
    # What instances need is not fused.
    dense = edge_mask.shape[1] == student_logits.shape[1]
    plain = dense and valid is None and not independent and normalizer != "weights"
    path = chosen_path("boundary_kd", student_logits, teacher_logits) if plain else "eager"
    if path in ("cpp", "triton"):
        alpha = _class_weights(class_weight, student_logits).contiguous()
        options = fused.BoundaryOptions(float(temperature), alpha, pre_mask, normalizer)
        if path == "triton":
            from .triton_path import losses

            edges = edge_mask if isinstance(edge_mask, EdgeMap) else None
            if edges is None or edges.mask.device != student_logits.device:
                edges = EdgeMap(_dense(edge_mask, student_logits.device))
            return losses.boundary_kd(student_logits, teacher_logits, edges, options, weights=weights)
        rows = EdgeRows.of(edge_mask)
        return fused.boundary_kd(
            student_logits.float(), teacher_logits.detach().float(), rows, options, weights=weights
        )
    with torch.autocast(student_logits.device.type, enabled=False):
        student, teacher = student_logits.float(), teacher_logits.detach().float()
        mask = _dense(edge_mask, student.device)
        alpha = _class_weights(class_weight, mask)
        on_edge, on_body = _filters(mask, pre_mask, 1.0 if valid is None else valid.to(mask))
        filtered = (_filtered(student, on_edge), _filtered(teacher, on_edge))
        per_position = class_divergence(*filtered, temperature, independent=independent, path=path)
        edge = _edge_sum(per_position, mask, alpha, normalizer) * temperature**2
        body = channel_kd(_filtered(student, on_body), _filtered(teacher, on_body), temperature)
    return weights[0] * edge, weights[1] * body


def _dense(edge_mask: Tensor | EdgeMap | EdgeRows, device: torch.device) -> Tensor:
    """Returns the mask as a float32 map on the logits' device."""
    dense = edge_mask if isinstance(edge_mask, Tensor) else edge_mask.dense(device)
    return dense.to(device, torch.float32)


def _filters(mask: Tensor, pre_mask: str, valid: Tensor | float) -> tuple[Tensor | None, Tensor | None]:
    """Factors of the logits in the edge and in the body term; None: left as they are."""
    if pre_mask == "soft":
        return mask, (valid - mask).clamp(min=0)
    if pre_mask == "hard":
        return (mask > 0).float(), ((mask == 0) & (valid > 0)).float()
    return None, None


def _filtered(logits: Tensor, factor: Tensor | None) -> Tensor:
    return logits if factor is None else logits * factor


def _class_weights(class_weight: float | Sequence[float] | Tensor, like: Tensor) -> Tensor:
    if isinstance(class_weight, Sequence) and len(class_weight) == 1:  # as configs hold it
        class_weight = class_weight[0]
    if isinstance(class_weight, (int, float)):  # filled on the device: a copy to a GPU would wait for it
        return torch.full((like.shape[1],), float(class_weight), device=like.device)
    alpha = torch.as_tensor(class_weight, dtype=torch.float32).to(like.device, non_blocking=True).flatten()
    if alpha.numel() not in (1, like.shape[1]):
        raise ValueError(f"class_weight: expected one number or {like.shape[1]} (one per class), got {alpha.numel()}.")
    return alpha.expand(like.shape[1])


def _counts(mask: Tensor, normalizer: str) -> Tensor:
    """n_c of each image and class, [N, K]; 0 where a count finds nothing."""
    if normalizer == "average":  # filled on the device, as above
        return mask.new_full(mask.shape[:2], mask.shape[1:].numel())
    return mask.sum((2, 3)) if normalizer == "weights" else (mask > 0).sum((2, 3))


def _edge_sum(per_position: Tensor, mask: Tensor, alpha: Tensor, normalizer: str) -> Tensor:
    cells = _counts(mask, normalizer)
    weight = alpha / cells.clamp(min=1)
    # The post-mask filter, summed over classes before it meets the KL. As a product it needs no copy per class, but a
    # GPU may round a product to TF32.
    factors = weight[:, :, None, None]
    per_cell = (mask * factors).sum(1) if mask.is_cuda else torch.einsum("nchw,nc->nhw", mask, weight)
    total = (per_position * per_cell).sum((1, 2))
    if normalizer in ("classes", "weights"):
        share = (alpha * (cells > 0)).sum(1)
        total = total / torch.where(share > 0, share, 1.0)
    return total.mean() if len(total) else total.sum()
