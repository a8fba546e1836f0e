"""What the Triton kernels of the losses share: sums of two softmaxes relative to their maxima, and codes.

A divergence is ``x / d_t + log(d_s / d_t)`` with d the sums of exponentials of both maps, each relative to its own
maximum, and x = sum e^a' (a' - b') of these shifted values; the large parts that cancel in the textbook form never
appear. No atomics: the same input gives the same bits.

In all kernels an integer argument that is 1 arrives as a constant: no method of a number is called on it.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Filters before the softmax.
SOFT = tl.constexpr(0)
HARD = tl.constexpr(1)
NONE = tl.constexpr(2)
NO_EDGES = tl.constexpr(3)  # rows alone: channel-wise distillation
# Purposes of a launch: the loss with the gradient for an upstream gradient of 1; multiplying that gradient by the
# upstream gradients, nothing if they are 1; a gradient for the upstream gradients, in new memory.
FORWARD = tl.constexpr(0)
SETTLE = tl.constexpr(1)
AFRESH = tl.constexpr(2)


@triton.jit
def block_sums(t: tl.tensor, s: tl.tensor, ok: tl.tensor, axis: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Maxima, sums of exponentials and cross sum of one block, the axis kept."""
    m_t = tl.max(tl.where(ok, t, -float("inf")), axis, keep_dims=True)
    m_s = tl.max(tl.where(ok, s, -float("inf")), axis, keep_dims=True)
    a, b = t - m_t, s - m_s
    e = tl.where(ok, tl.exp(a), 0.0)
    d_t = tl.sum(e, axis, keep_dims=True)
    d_s = tl.sum(tl.where(ok, tl.exp(b), 0.0), axis, keep_dims=True)
    x = tl.sum(tl.where(ok, e * (a - b), 0.0), axis, keep_dims=True)
    return m_t, m_s, d_t, d_s, x


@triton.jit
def joined_sums(
    m_t: tl.tensor,
    m_s: tl.tensor,
    d_t: tl.tensor,
    d_s: tl.tensor,
    x: tl.tensor,
    n_t: tl.tensor,
    n_s: tl.tensor,
    e_t: tl.tensor,
    e_s: tl.tensor,
    y: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """The sums of two parts, each relative to its own maxima, relative to the common ones."""
    t, s = tl.maximum(m_t, n_t), tl.maximum(m_s, n_s)
    a, b = m_t - t, n_t - t
    r_a, r_b = tl.exp(a), tl.exp(b)
    both = r_a * (x + d_t * (a - (m_s - s))) + r_b * (y + e_t * (b - (n_s - s)))
    return t, s, d_t * r_a + e_t * r_b, d_s * tl.exp(m_s - s) + e_s * tl.exp(n_s - s), both


@triton.jit
def divergence(d_t: tl.tensor, d_s: tl.tensor, x: tl.tensor) -> tl.tensor:
    """KL of the teacher from the student by these sums."""
    return x / d_t + tl.log(d_s / d_t)


@triton.jit
def total_kernel(
    values: tl.tensor,  # [total] float32
    first: tl.tensor,  # scalar float32, out: factor times the sum of values[:split]
    second: tl.tensor,  # of the others
    split: tl.tensor,
    total: tl.tensor,
    first_factor: tl.tensor,
    second_factor: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Two programs, one per loss; one where there is one loss."""
    mine = tl.program_id(0)
    sums = tl.zeros([BLOCK], tl.float64)
    for start in range(0, total, BLOCK):
        i = start + tl.arange(0, BLOCK)
        sums += tl.load(values + i, mask=(i < total) & ((i >= split) == (mine == 1)), other=0.0).to(tl.float64)
    if mine == 0:
        tl.store(first, (tl.sum(sums, 0) * first_factor).to(tl.float32))
    else:
        tl.store(second, (tl.sum(sums, 0) * second_factor).to(tl.float32))
