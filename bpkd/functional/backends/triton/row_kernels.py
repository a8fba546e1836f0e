"""Triton kernels of channel-wise distillation and of BPKD, on contiguous maps [N, C, P] of P = h w cells.

count: the cells of each row (n, c) of an edge mask that are not zero
edge: per cell: both softmaxes over the classes of the masked logits, weight times divergence
      (a loop over classes of which few have an edge; where no logit is masked, tiles of classes, at cells with an edge)
rows: per row: both softmaxes over the cells, divergence, the whole gradient, the edge term's too

``(block & (number > 0)) != 0``: Triton 3.9's interpreter spreads a number's comparison as int32, which is no mask.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .divergence_kernels import AFRESH, FORWARD, HARD, NO_EDGES, NONE, SOFT, block_sums, divergence, joined_sums


@triton.jit
def count_kernel(mask: tl.tensor, cells: tl.tensor, P: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Mask [N C, P] float32 -> cells [N C] int32; one program per row."""
    row = tl.program_id(0)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, P, BLOCK):
        p = start + tl.arange(0, BLOCK)
        count += (tl.load(mask + row.to(tl.int64) * P + p, mask=p < P, other=0.0) > 0).to(tl.int32)
    tl.store(cells + row, tl.sum(count, 0))


@triton.jit
def _with_class(found: tl.tuple, t: tl.tensor, s: tl.tensor, on: tl.tensor, active: tl.tensor) -> tuple[tl.tensor, ...]:
    """Maxima and sums of the cells, a class's logits joined where it is on; ``active`` classes were before."""
    m_t, m_s, d_t, d_s, x = found
    first, later, one = on & (active == 0), on & (active > 0), tl.zeros_like(t) + 1.0
    j_t, j_s, e_t, e_s, y = joined_sums(m_t, m_s, d_t, d_s, x, t, s, one, one, one - 1.0)
    m_t, m_s = tl.where(first, t, tl.where(later, j_t, m_t)), tl.where(first, s, tl.where(later, j_s, m_s))
    d_t, d_s = tl.where(first, one, tl.where(later, e_t, d_t)), tl.where(first, one, tl.where(later, e_s, d_s))
    # 0 for a first finite logit; one that is not finite stays visible in the loss.
    return m_t, m_s, d_t, d_s, tl.where(first, (t - t) - (s - s), tl.where(later, y, x))


@triton.jit
def _with_zeros(found: tl.tuple, active: tl.tensor, C: tl.tensor) -> tuple[tl.tensor, ...]:
    """The same with the other classes, whose masked logits are exactly 0.

    Where there are none 0 must not enter the maxima: the sums would be 0.
    """
    m_t, m_s, d_t, d_s, x = found
    zero, rest = tl.zeros_like(m_t), (C - active).to(tl.float32)
    j_t, j_s, e_t, e_s, y = joined_sums(m_t, m_s, d_t, d_s, x, zero, zero, rest, rest, zero)
    some = (active > 0) & (active < C)
    m_t, m_s = tl.where(some, j_t, m_t), tl.where(some, j_s, m_s)
    return m_t, m_s, tl.where(some, e_t, d_t), tl.where(some, e_s, d_s), tl.where(some, y, x)


@triton.jit
def _class_tile(
    student: tl.tensor,
    teacher: tl.tensor,
    start: tl.tensor,
    p: tl.tensor,
    wanted: tl.tensor,
    P: tl.tensor,
    C: tl.tensor,
    scale: tl.tensor,
    CLASSES: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Maxima and sums over some classes of an image; logits that are not wanted count as 0 and are not read."""
    c = start + tl.arange(0, CLASSES)[:, None]
    real = (c < C) & (p[None, :] >= 0)
    at, ok = c.to(tl.int64) * P + p[None, :], (real & (wanted[None, :] > 0)) != 0
    t = tl.load(teacher + at, mask=ok, other=0.0).to(tl.float32) * scale
    s = tl.load(student + at, mask=ok, other=0.0).to(tl.float32) * scale
    m_t, m_s, d_t, d_s, x = block_sums(t, s, real, 0)
    return tl.sum(m_t, 0), tl.sum(m_s, 0), tl.sum(d_t, 0), tl.sum(d_s, 0), tl.sum(x, 0)  # of one row each: the cells


@triton.jit
def _all_classes(
    student: tl.tensor,
    teacher: tl.tensor,
    p: tl.tensor,
    wanted: tl.tensor,
    P: tl.tensor,
    C: tl.tensor,
    scale: tl.tensor,
    CLASSES: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Maxima and sums over all classes, a tile at a time: its loads do not wait for each other."""
    m_t, m_s, d_t, d_s, x = _class_tile(student, teacher, 0, p, wanted, P, C, scale, CLASSES)
    for start in range(CLASSES, C, CLASSES):
        n_t, n_s, e_t, e_s, y = _class_tile(student, teacher, start, p, wanted, P, C, scale, CLASSES)
        m_t, m_s, d_t, d_s, x = joined_sums(m_t, m_s, d_t, d_s, x, n_t, n_s, e_t, e_s, y)
    return m_t, m_s, d_t, d_s, x


@triton.jit
def _store_found(out: tl.tensor, P: tl.tensor, inside: tl.tensor, values: tl.tuple) -> None:
    for k in tl.static_range(5):
        tl.store(out + k * P, values[k], mask=inside)


@triton.jit
def edge_kernel(
    student: tl.tensor,  # [N, C, P]
    teacher: tl.tensor,  # [N, C, P]
    mask: tl.tensor,  # [N, C, P] float32
    cells: tl.tensor,  # [N, C] int32: what a class's sum is divided by; 0: it has no edge
    alpha: tl.tensor,  # [C] float32
    found: tl.tensor,  # [N, 5, P] float32, out: weight, maxima and sums of teacher and student
    values: tl.tensor,  # [N, programs per image] float32, out
    P: tl.tensor,
    C: tl.tensor,
    scale: tl.tensor,  # 1 / T
    PRE: tl.constexpr,
    PER_CLASS: tl.constexpr,  # divide by the sum of alpha over the classes that have an edge
    CLASSES: tl.constexpr,  # of a tile, with PRE NONE
    BLOCK: tl.constexpr,
) -> None:
    """One program per BLOCK cells of an image.

    Masked logits are read where the mask is not zero; where all count, at the cells that have an edge of any class: the
    weight of the others is 0, in the loss and in the gradient.
    """
    n, p = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = p < P
    zero = tl.zeros([BLOCK], tl.float32)
    m_t, m_s, d_t, d_s, x, weight, share = zero, zero, zero, zero, zero, zero, zero
    active = tl.zeros([BLOCK], tl.int32)
    for c in range(C):
        count = tl.load(cells + n * C + c)
        factor = tl.where(count > 0, tl.load(alpha + c), 0.0)
        share += factor
        if count > 0:
            at = (n * C + c).to(tl.int64) * P + p
            m = tl.load(mask + at, mask=inside, other=0.0)
            weight += m * (factor / count)
            if PRE != NONE:
                on = inside & (m > 0)
                t = tl.load(teacher + at, mask=on, other=0.0).to(tl.float32) * scale * (m if PRE == SOFT else 1.0)
                s = tl.load(student + at, mask=on, other=0.0).to(tl.float32) * scale * (m if PRE == SOFT else 1.0)
                m_t, m_s, d_t, d_s, x = _with_class((m_t, m_s, d_t, d_s, x), t, s, on, active)
                active += on.to(tl.int32)
    if PER_CLASS:
        weight = weight / tl.where(share > 0, share, 1.0)
    if PRE == NONE:
        active = (weight != 0).to(tl.int32)
        if tl.max(active, 0) > 0:
            base = n.to(tl.int64) * C * P
            m_t, m_s, d_t, d_s, x = _all_classes(student + base, teacher + base, p, active, P, C, scale, CLASSES)
    else:
        m_t, m_s, d_t, d_s, x = _with_zeros((m_t, m_s, d_t, d_s, x), active, C)
    loss = tl.where(inside & (active > 0), weight * divergence(d_t, d_s, x), 0.0)
    tl.store(values + n * tl.num_programs(0) + tl.program_id(0), tl.sum(loss, 0))
    _store_found(found + n.to(tl.int64) * 5 * P + p, P, inside, (weight, m_t, m_s, d_t, d_s))


@triton.jit
def _row_block(
    student: tl.tensor,
    teacher: tl.tensor,
    mask: tl.tensor,
    at: tl.tensor,
    ok: tl.tensor,
    count: tl.tensor,
    scale: tl.tensor,
    PRE: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Logits over T, mask and the body's filter of one block of a row."""
    t = tl.load(teacher + at, mask=ok, other=0.0).to(tl.float32) * scale
    s = tl.load(student + at, mask=ok, other=0.0).to(tl.float32) * scale
    m = tl.zeros_like(t)
    keep = m + 1.0
    if (PRE == SOFT) | (PRE == HARD):
        # A class without an edge: no mask is read.
        m = tl.load(mask + at, mask=(ok & (count > 0)) != 0, other=0.0)
        keep = tl.maximum(1.0 - m, 0.0)
    if PRE == HARD:
        keep = tl.where(m > 0, 0.0, 1.0)
    return t, s, m, keep


@triton.jit
def _edge_gradient(
    t: tl.tensor, s: tl.tensor, m: tl.tensor, found: tl.tensor, p: tl.tensor, P: tl.tensor, PRE: tl.constexpr
) -> tl.tensor:
    """Weight times (q - p) times the filter at one class's cells; ``found`` is the image's."""
    on = (p < P) & ((m > 0) | (PRE == NONE))
    filtered = tl.zeros_like(t) + 1.0
    if PRE == SOFT:
        filtered = m
    weight = tl.load(found + p, mask=on, other=0.0)
    a = tl.exp(t * filtered - tl.load(found + P + p, mask=on, other=0.0))
    b = tl.exp(s * filtered - tl.load(found + 2 * P + p, mask=on, other=0.0))
    a = a / tl.load(found + 3 * P + p, mask=on, other=1.0)
    b = b / tl.load(found + 4 * P + p, mask=on, other=1.0)
    return tl.where(on & (weight != 0), (b - a) * filtered * weight, 0.0)


@triton.jit
def _row_gradient(
    block: tl.tuple,  # logits over T, mask, filter
    sums: tl.tuple,  # maxima and sums of the row
    found: tl.tensor,
    image: tl.tensor,  # offset of the image in ``found``
    p: tl.tensor,
    P: tl.tensor,
    edge_factor: tl.tensor,
    body_factor: tl.tensor,
    PRE: tl.constexpr,
) -> tl.tensor:
    """Gradient of both terms at one block of a row."""
    t, s, m, keep = block
    m_t, m_s, d_t, d_s = sums
    g = (tl.exp(s * keep - m_s) / d_s - tl.exp(t * keep - m_t) / d_t) * keep * body_factor
    if PRE != NO_EDGES:
        g += edge_factor * _edge_gradient(t, s, m, found + image, p, P, PRE)
    return g


@triton.jit
def _row(
    student: tl.tensor,
    teacher: tl.tensor,
    mask: tl.tensor,
    cells: tl.tensor,
    found: tl.tensor,
    gradient: tl.tensor,
    values: tl.tensor,
    P: tl.tensor,
    C: tl.tensor,
    scale: tl.tensor,
    edge_factor: tl.tensor,
    body_factor: tl.tensor,
    PRE: tl.constexpr,
    VALUE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The first block of a row stays in registers between sums and gradient; what lies beyond is read twice."""
    row, p = tl.program_id(0), tl.arange(0, BLOCK)
    image, base, count = (row // C).to(tl.int64) * 5 * P, row.to(tl.int64) * P, row * 0
    if (PRE == SOFT) | (PRE == HARD):
        count = tl.load(cells + row)
    t, s, m, keep = _row_block(student, teacher, mask, base + p, p < P, count, scale, PRE)
    m_t, m_s, d_t, d_s, x = block_sums(t * keep, s * keep, p < P, 0)
    for start in range(BLOCK, P, BLOCK):
        q = start + p
        t_q, s_q, _m, keep_q = _row_block(student, teacher, mask, base + q, q < P, count, scale, PRE)
        n_t, n_s, e_t, e_s, y = block_sums(t_q * keep_q, s_q * keep_q, q < P, 0)
        m_t, m_s, d_t, d_s, x = joined_sums(m_t, m_s, d_t, d_s, x, n_t, n_s, e_t, e_s, y)
    if VALUE:
        tl.store(values + row + tl.arange(0, 1), divergence(d_t, d_s, x))
    if gradient is not None:
        sums = (m_t, m_s, d_t, d_s)
        g = _row_gradient((t, s, m, keep), sums, found, image, p, P, edge_factor, body_factor, PRE)
        tl.store(gradient + base + p, g.to(gradient.dtype.element_ty), mask=p < P)
        for start in range(BLOCK, P, BLOCK):
            q = start + p
            block = _row_block(student, teacher, mask, base + q, q < P, count, scale, PRE)
            g_q = _row_gradient(block, sums, found, image, q, P, edge_factor, body_factor, PRE)
            tl.store(gradient + base + q, g_q.to(gradient.dtype.element_ty), mask=q < P)


@triton.jit
def rows_kernel(
    student: tl.tensor,  # [N, C, P]
    teacher: tl.tensor,  # [N, C, P]
    mask: tl.tensor,  # [N, C, P] float32; None: channel-wise distillation
    cells: tl.tensor,  # [N, C] int32, or None
    found: tl.tensor,  # [N, 5, P] float32, of edge_kernel, or None
    gradient: tl.tensor,  # [N, C, P] out, or None
    values: tl.tensor,  # [N C] float32, out
    edge_upstream: tl.tensor,  # scalars that backward was given, or None
    body_upstream: tl.tensor,
    P: tl.tensor,
    C: tl.tensor,
    scale: tl.tensor,  # 1 / T
    edge_factor: tl.tensor,  # of the gradient's two parts, 1 / T in them
    body_factor: tl.tensor,
    PRE: tl.constexpr,
    PURPOSE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program per row (n, c)."""
    e, b = edge_factor, body_factor
    if PURPOSE == FORWARD:
        _row(student, teacher, mask, cells, found, gradient, values, P, C, scale, e, b, PRE, True, BLOCK)
    else:
        edge, body = tl.load(edge_upstream), tl.load(body_upstream)
        if (edge != 1) | (body != 1) | (PURPOSE == AFRESH):
            e, b = edge * edge_factor, body * body_factor
            _row(student, teacher, mask, cells, found, gradient, values, P, C, scale, e, b, PRE, False, BLOCK)
