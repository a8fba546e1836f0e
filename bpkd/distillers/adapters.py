"""Matches sizes, channels and class lists of student and teacher."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)
_reported: set[tuple[int, ...]] = set()


def match_size(student: Tensor, teacher: Tensor) -> Tensor:
    """Resizes the student's map [N, C, h, w] to the teacher's h x w (bilinear, align_corners False).

    The resize is logged once per pair of sizes, as a warning if they differ by one pixel, usually an unintended
    padding or rounding difference between the two networks.
    """
    have, want = tuple(student.shape[-2:]), tuple(teacher.shape[-2:])
    if have == want:
        return student
    if (*have, *want) not in _reported:
        _reported.add((*have, *want))
        close = max(abs(a - b) for a, b in zip(have, want, strict=True)) == 1
        logger.log(
            logging.WARNING if close else logging.INFO,
            "Student maps of %s are resized to the teacher's %s for distillation.", have, want,
        )  # fmt: skip
    return F.interpolate(student, size=want, mode="bilinear", align_corners=False)


def map_classes(logits: Tensor, class_map: Sequence[int], num_classes: int) -> Tensor:
    """Turns teacher logits [N, Kt, h, w] into logits over the student's K classes.

    Teacher classes with the same target are merged by log-sum-exp, which adds their probabilities.

    Args:
        logits: [N, Kt, h, w].
        class_map: for each teacher class the student's class, or -1 to drop it.
        num_classes: K.

    Returns:
        [N, K, h, w].

    Raises:
        ValueError: the map's length is not Kt, an entry is no class, or a student class gets no teacher class.
    """
    if len(class_map) != logits.shape[1]:
        raise ValueError(
            f"TEACHER.CLASS_MAP: expected {logits.shape[1]} entries, one per teacher class, got {len(class_map)}."
        )
    wrong = [c for c in class_map if not -1 <= c < num_classes]
    empty = sorted(set(range(num_classes)) - set(class_map))
    if wrong or empty:
        raise ValueError(
            f"TEACHER.CLASS_MAP: entries must be -1 or 0..{num_classes - 1} and reach every student class; "
            f"wrong entries {wrong}, student classes without a teacher class {empty}."
        )
    sources = [[t for t, c in enumerate(class_map) if c == k] for k in range(num_classes)]
    return torch.stack([logits[:, s].logsumexp(1) for s in sources], 1)


class ChannelAdapter(nn.Module):
    """1x1 convolution without bias from the student's channels to the teacher's; the identity if they are equal."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        """Builds the convolution if the numbers of channels differ."""
        super().__init__()
        same = student_channels == teacher_channels
        self.project: nn.Module = (
            nn.Identity() if same else nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps [N, Cs, h, w] to [N, Ct, h, w]."""
        out: Tensor = self.project(features)
        return out
