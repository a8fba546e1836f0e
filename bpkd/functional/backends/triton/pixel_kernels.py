"""Triton kernel of plain distillation, on contiguous maps [N, C, P] of P = h w cells."""

from __future__ import annotations

import triton
import triton.language as tl

from .divergence_kernels import AFRESH, FORWARD, block_sums, divergence, joined_sums


@triton.jit
def _pixel_block(
    student: tl.tensor, teacher: tl.tensor, at: tl.tensor, ok: tl.tensor, scale: tl.tensor
) -> tuple[tl.tensor, ...]:
    t = tl.load(teacher + at, mask=ok, other=0.0).to(tl.float32) * scale
    return t, tl.load(student + at, mask=ok, other=0.0).to(tl.float32) * scale


@triton.jit
def _pixel_weights(valid: tl.tensor, count: tl.tensor, at: tl.tensor, real: tl.tensor) -> tl.tensor:
    weight = real.to(tl.float32)
    if valid is not None:
        weight = tl.load(valid + at, mask=real, other=0.0) / tl.load(count)
    return weight


@triton.jit
def _pixel_gradient(t: tl.tensor, s: tl.tensor, sums: tl.tuple, share: tl.tensor) -> tl.tensor:
    m_t, m_s, d_t, d_s = sums
    return (tl.exp(s - m_s) / d_s - tl.exp(t - m_t) / d_t) * share


@triton.jit
def _pixels(
    student: tl.tensor,
    teacher: tl.tensor,
    valid: tl.tensor,
    count: tl.tensor,
    gradient: tl.tensor,
    values: tl.tensor,
    P: tl.tensor,
    C: tl.tensor,
    scale: tl.tensor,
    factor: tl.tensor,
    VALUE: tl.constexpr,
    CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The first block of classes stays in registers between sums and gradient."""
    n = tl.program_id(1).to(tl.int64)
    p = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[None, :]
    real, c, base = p < P, tl.arange(0, CLASSES)[:, None], n * C * P + p
    weight = _pixel_weights(valid, count, n * P + p, real)
    inside, first = weight > 0, base + c.to(tl.int64) * P
    t, s = _pixel_block(student, teacher, first, inside & (c < C), scale)
    m_t, m_s, d_t, d_s, x = block_sums(t, s, (c < C) & (p >= 0), 0)
    for start in range(CLASSES, C, CLASSES):
        k = start + c
        t_k, s_k = _pixel_block(student, teacher, base + k.to(tl.int64) * P, inside & (k < C), scale)
        n_t, n_s, e_t, e_s, y = block_sums(t_k, s_k, (k < C) & (p >= 0), 0)
        m_t, m_s, d_t, d_s, x = joined_sums(m_t, m_s, d_t, d_s, x, n_t, n_s, e_t, e_s, y)
    if VALUE:
        loss = tl.where(inside, weight * divergence(d_t, d_s, x), 0.0)
        tl.store(values + n * tl.num_programs(0) + tl.program_id(0), tl.sum(tl.sum(loss, 1), 0))
    if gradient is not None:
        share, sums = tl.where(inside, weight * factor, 0.0), (m_t, m_s, d_t, d_s)
        g = _pixel_gradient(t, s, sums, share)
        tl.store(gradient + first, g.to(gradient.dtype.element_ty), mask=real & (c < C))
        for start in range(CLASSES, C, CLASSES):
            k, at = start + c, base + (start + c).to(tl.int64) * P
            t_k, s_k = _pixel_block(student, teacher, at, inside & (k < C), scale)
            g_k = _pixel_gradient(t_k, s_k, sums, share)
            tl.store(gradient + at, g_k.to(gradient.dtype.element_ty), mask=real & (k < C))


@triton.jit
def pixels_kernel(
    student: tl.tensor,  # [N, C, P]
    teacher: tl.tensor,  # [N, C, P]
    valid: tl.tensor,  # [N, P] float32, or None
    count: tl.tensor,  # scalar float32, the sum of valid, at least 1, or None
    gradient: tl.tensor,  # [N, C, P] out, or None
    values: tl.tensor,  # [N, programs per image] float32, out
    upstream: tl.tensor,  # scalar that backward was given, or None
    P: tl.tensor,
    C: tl.tensor,
    scale: tl.tensor,  # 1 / T
    factor: tl.tensor,  # of the gradient, 1 / T in it
    PURPOSE: tl.constexpr,
    CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program per BLOCK cells of an image; up to CLASSES classes stay in registers, the others are read twice."""
    if PURPOSE == FORWARD:
        _pixels(student, teacher, valid, count, gradient, values, P, C, scale, factor, True, CLASSES, BLOCK)
    else:
        up = tl.load(upstream)
        if (up != 1) | (PURPOSE == AFRESH):
            _pixels(student, teacher, valid, count, gradient, values, P, C, scale, up * factor, False, CLASSES, BLOCK)
