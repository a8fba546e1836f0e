"""The term of similarities between images on a GPU: few kernels, each with work for the whole device.

N images, F of other processes, A positions, D channels. A softmax along the rows of a matrix, PyTorch's for
``dim=0``, runs on one multiprocessor per 1024 columns, 4 of an H200's 132 for maps of 64 x 64 positions. Sums along
rows use all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# e^40 times 80, summed over millions of positions, is far inside float32.
LARGEST_EXPONENT = 40.0
# Entries of the maps that are made together: one pair of 64 x 64 positions, all pairs of small images.
ENTRIES_AT_ONCE = 2**24


def pairs_at_once(
    student: Tensor, teacher: Tensor, far_student: Tensor, far_teacher: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Returns the sum over ordered pairs and rows of KL(teacher || student), and its gradient by ``student``.

    Args:
        student: unit rows [N, A, D].
        teacher: unit rows [N, A, Dt].
        far_student: unit rows [F, A, D], further columns without gradient.
        far_teacher: unit rows [F, A, Dt].
        temperature: divisor of the similarities, at least 1 / `LARGEST_EXPONENT`.
    """
    n, a = student.shape[:2]
    s_columns, t_columns = (torch.cat(x).flatten(0, 1) for x in ((student, far_student), (teacher, far_teacher)))
    s_rows, t_rows = student.contiguous() / temperature, teacher.contiguous() / temperature
    total, slope = s_rows.new_zeros(()), s_rows.new_zeros(s_rows.shape)
    for i, first, last, both in _groups(n, len(s_columns) // a, max(ENTRIES_AT_ONCE // a**2, 1)):
        columns = slice(first * a, last * a)
        maps = (s_rows[i] @ s_columns[columns].T, t_rows[i] @ t_columns[columns].T)
        value, map_slope = _bounded_divergence(*(x.view(a, last - first, a) for x in maps), both=both)
        total += value
        slope[i].addmm_(map_slope.flatten(1), s_columns[columns])
        if last <= n:
            slope[first:last].view(-1, slope.shape[2]).addmm_(map_slope.flatten(1).T, student[i])
    return total, slope.div_(temperature)


def _groups(n: int, columns: int, most: int) -> Iterator[tuple[int, int, int, bool]]:
    """Yields image i, first and last + 1 of at most so many images j, and whether the pairs (j, i) are asked for too.

    Every pair once; those of two images of this process as (i, j), i < j.
    """
    for i in range(n):
        for begin, end, both in ((i, i + 1, False), (i + 1, n, True), (n, columns, False)):
            for first in range(begin, end, most):
                yield i, first, min(first + most, end), both


def _bounded_divergence(student: Tensor, teacher: Tensor, *, both: bool) -> tuple[Tensor, Tensor]:
    """Sum over rows of KL(softmax(teacher) || softmax(student)), and its gradient by ``student``.

    No maximum is looked for, so that rows and columns share one exponential. Overwrites both maps.

    Args:
        student: [rows, J, columns] similarities of an image to J images, at most `LARGEST_EXPONENT` in magnitude.
        teacher: the same of the teacher.
        both: add the sum over columns of the same divergence along these.
    """
    gap = teacher - student
    p, q = teacher.exp_(), student.exp_()
    gap.mul_(p)
    total, inverse_p, inverse_q = _normalised(p, q, gap, 2)
    if both:
        more, other_p, other_q = _normalised(p, q, gap, 0)
        total, inverse_p, inverse_q = total + more, inverse_p + other_p, inverse_q + other_q
    return total, q.mul_(inverse_q).addcmul_(p, inverse_p, value=-1.0)


def _normalised(p: Tensor, q: Tensor, weighted: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the divergences along a dimension, and the reciprocal sums of p and q.

    Args:
        p: exponentials of the teacher's similarities.
        q: the same of the student.
        weighted: p times the differences of the similarities.
        dim: dimension of the softmax.
    """
    p_sum, q_sum, expected = (x.sum(dim, keepdim=True) for x in (p, q, weighted))
    total = (expected / p_sum - p_sum.log() + q_sum.log()).sum()
    return total, p_sum.reciprocal(), q_sum.reciprocal()
