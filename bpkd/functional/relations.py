"""Relations inside a feature map: similarities between places (SKDS), similarities to the own class (IFVD).

Both compare numbers that do not depend on the channels, so student and teacher need no alignment of these.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference.divergence import masked_mean
from .reference.labels import check_labels


def pairwise_affinity(
    student: Tensor,
    teacher: Tensor,
    *,
    pool_scale: float = 0.5,
    pool_kernel: int = 0,
    detach_norm: bool = True,
) -> Tensor:
    """Mean over images and pairs of nodes of (a^T_ij - a^S_ij)^2, a_ij the cosine of nodes i and j of one image.

    A node is a max-pooled patch. Its number, and with it what is compared, follows from ``pool_scale`` and not from
    the map's size: 0.5 gives 2 x 2 nodes, or 3 x 3 where a side is odd.

    Args:
        student: features [N, Cs, h, w].
        teacher: features [N, Ct, h, w]; get no gradient.
        pool_scale: side of a patch as a share of the map's, at least one position.
        pool_kernel: side of a patch in positions; 0: from ``pool_scale``.
        detach_norm: no gradient through the norms that the features are divided by (the authors' code). The value
            is the same, the gradient is another: also along the feature itself.

    Returns:
        Scalar float32.

    Raises:
        ValueError: batch or sizes differ, or the patch has no size.

    Source:
        Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019, eq. 3, fully connected;
        pooling and norm as in the authors' repository at ce208e1.

    Example:
        >>> from bpkd.functional import pairwise_affinity
        >>> teacher = torch.randn(1, 8, 4, 4)
        >>> print(f"{pairwise_affinity(2 * teacher, teacher):.4f}")  # the cosines are the same
        0.0000
        >>> bool(pairwise_affinity(torch.randn(1, 3, 4, 4), teacher) > 0)  # channels may differ
        True
    """
    if pool_scale <= 0 and pool_kernel < 1:
        raise ValueError(f"expected pool_scale > 0 or pool_kernel >= 1, got {pool_scale} and {pool_kernel}.")
    with torch.autocast(student.device.type, enabled=False):
        s, t = _same_places(student, teacher)
        if not s.numel():
            return s.sum() * 0.0
        h, w = s.shape[-2:]
        kernel = (pool_kernel,) * 2 if pool_kernel else (max(int(h * pool_scale), 1), max(int(w * pool_scale), 1))
        affinities = []
        for x in (s, t):
            nodes = _patch_maxima(x, kernel).flatten(2)
            norm = torch.linalg.vector_norm(nodes, dim=1, keepdim=True)
            nodes = nodes / ((norm.detach() if detach_norm else norm) + 1e-8)
            affinities.append(nodes.transpose(1, 2) @ nodes)
        error: Tensor = (affinities[1] - affinities[0]).square()
    return error.mean()


def _patch_maxima(x: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Max-pools [N, C, h, w] without overlap; a patch that sticks out has the maximum of what it holds."""
    if x.requires_grad or min(kernel) < 8:
        return F.max_pool2d(x, kernel, kernel, ceil_mode=True)
    # The same numbers, vectorised: large patches, and nobody asks where the maxima are.
    rows = torch.cat([part.amax(2, keepdim=True) for part in torch.split(x, kernel[0], 2)], 2)
    return torch.cat([part.amax(3, keepdim=True) for part in torch.split(rows, kernel[1], 3)], 3)


def intra_class_variation(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    ignore_index: int = 255,
    valid_only: bool = False,
) -> Tensor:
    """Mean over all positions of (s^S - s^T)^2, s the cosine of a position's feature with its class's centre.

    A centre is the mean feature of a class's positions in one image. Ignored positions have no error.

    Args:
        student: features [N, Cs, h, w]; the gradient flows through feature and centre.
        teacher: features [N, Ct, h, w]; get no gradient.
        labels: [N, H, W] in 0..num_classes-1 or ``ignore_index``; read at the features' size by nearest neighbour.
        num_classes: number of classes K.
        ignore_index: label that means "ignore".
        valid_only: divide by the positions that are not ignored. Default: by all, as the authors do.

    Returns:
        Scalar float32; an exact zero where all is ignored.

    Raises:
        ValueError: batch or sizes differ, or (labels on CPU) a label is out of range.

    Source:
        Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020, eq. 3-5.

    Example:
        >>> from bpkd.functional import intra_class_variation
        >>> labels = torch.tensor([[[0, 0, 1, 1]] * 4])
        >>> teacher = torch.randn(1, 8, 4, 4)
        >>> print(f"{intra_class_variation(2 * teacher, teacher, labels, num_classes=2):.4f}")
        0.0000
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = _same_places(student, teacher)
        small = nearest_labels(labels, (s.shape[2], s.shape[3])).to(s.device).flatten(1).long()
        valid = small != ignore_index
        if small.device.type == "cpu":  # on a GPU this would wait for the queue
            check_labels(small, num_classes, ignore_index)
        member = s.new_zeros(*small.shape, num_classes + 1)
        member.scatter_(2, small.masked_fill(~valid, num_classes)[..., None], 1.0)
        member = member[..., :num_classes]  # [N, A, K]
        error = (_own_class_cosine(s, member) - _own_class_cosine(t, member)).square()
        error = error.masked_fill(~valid, 0.0)
        if valid_only:
            return masked_mean(error, valid)
        return error.mean() if error.numel() else error.sum()


def nearest_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Reads [N, H, W] labels at (h, w): row i is row floor(i H / h), exactly, for any ratio.

    Example:
        >>> from bpkd.functional import nearest_labels
        >>> nearest_labels(torch.arange(6).view(1, 1, 6), (1, 3))
        tensor([[[0, 2, 4]]])
    """
    for dim, new in ((1, size[0]), (2, size[1])):
        old = labels.shape[dim]
        if old != new:
            labels = labels.index_select(dim, torch.arange(new, device=labels.device) * old // new)
    return labels


def _own_class_cosine(features: Tensor, member: Tensor) -> Tensor:
    """Returns [N, A]; positions that belong to no class get 0."""
    flat = features.flatten(2)
    centres = (flat @ member) / (member.sum(1, keepdim=True) + 1e-6)  # [N, C, K]
    return F.cosine_similarity(flat, centres @ member.transpose(1, 2), dim=1, eps=1e-8)


def _same_places(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    same = student.ndim == 4 and student.shape[:1] + student.shape[2:] == teacher.shape[:1] + teacher.shape[2:]
    if not same:
        raise ValueError(
            f"expected student [N, Cs, h, w] and teacher [N, Ct, h, w], got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}. Match the sizes first (bpkd.distillers.adapters)."
        )
    return student.float(), teacher.detach().float()
