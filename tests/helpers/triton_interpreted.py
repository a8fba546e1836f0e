"""The Triton backend against double precision, its kernels interpreted on the CPU.

Not collected by itself: ``TRITON_INTERPRET=1`` must be set before Triton is imported, so test_triton.py runs this
file in a process of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bpkd.functional import (
    EdgeMap,
    boundary_kd,
    channel_kd,
    class_edge_mask,
    class_edges,
    pixel_kd,
    reference,
    upsampled_cross_entropy,
    use_backend,
)
from bpkd.functional.backends import dispatch, triton
from bpkd.functional.backends.triton import functions, masks, self_check
from bpkd.functional.backends.triton import losses as triton_losses
from bpkd.functional.structures import EdgeWindow
from tests.helpers.interpreter import prepare
from tests.helpers.label_maps import scenes
from tests.helpers.loss_checks import (
    LABELS,
    check_average_by_hand,
    check_average_without_an_edge,
    check_cross_entropy,
    check_cross_entropy_of_ignored_pixels,
    check_plain_losses,
    check_two_classes_far_below_zero,
    check_weighted_terms,
    exact_boundary,
    labels_of,
    maps,
)
from tests.helpers.oracle import literal_edge_mask

CPU = torch.device("cpu")
SHAPES = [(2, 5, 3, 4), (1, 2, 5, 7), (1, 33, 2, 3), (1, 1, 2, 2), (1, 3, 1, 1)]
FUNCTIONS = ["channel_kd", "pixel_kd", "boundary_kd", "class_edge_mask", "upsampled_cross_entropy"]


prepare()


@pytest.fixture(autouse=True)
def _triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    assert triton.interpreted()
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(self_check, "_found", {})
    monkeypatch.setattr(self_check, "SHAPES", ((2, 3, 3, 5),))
    with use_backend("triton"):
        yield
        assert not [c for c in dispatch.choices() if "triton was asked for, but" in c.reason]  # nothing fell back


def check_boundary_loss(shape: tuple[int, ...], kind: str, pre_mask: str, temperature: float, normalizer: str) -> None:
    student, teacher = maps(shape)
    with use_backend("eager"):
        mask = class_edge_mask(labels_of(kind, shape), shape[1], 7, (shape[2], shape[3]))
    alpha = torch.linspace(0.5, 3, shape[1])
    options = {"temperature": temperature, "class_weight": alpha, "normalizer": normalizer, "pre_mask": pre_mask}
    for weights in ((50.0, 20.0), (1.0, 0.0) if normalizer == "average" else (0.0, 1.0)):
        check_weighted_terms((student, teacher), mask, weights, options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_channel_and_pixel_loss(shape: tuple[int, ...], temperature: float) -> None:
    check_plain_losses(shape, temperature)


@pytest.mark.parametrize("pre_mask", ["soft", "hard", "none"])
@pytest.mark.parametrize("kind", LABELS)
def test_boundary_loss(pre_mask: str, kind: str) -> None:
    for shape in SHAPES if kind == "scene" else [SHAPES[0], SHAPES[-1]]:
        check_boundary_loss(shape, kind, pre_mask, 2.5, "classes" if shape[0] == 1 else "positions")


@pytest.mark.parametrize("pre_mask", ["soft", "hard", "none"])
@pytest.mark.parametrize("kind", LABELS)
def test_boundary_loss_averaged_over_classes_and_positions(pre_mask: str, kind: str) -> None:
    for shape in SHAPES if kind == "scene" else [SHAPES[0], SHAPES[-1]]:
        check_boundary_loss(shape, kind, pre_mask, 1.5, "average")


@pytest.mark.parametrize("pre_mask", ["soft", "hard", "none"])
def test_boundary_loss_averaged_without_an_edge(pre_mask: str) -> None:
    check_average_without_an_edge(pre_mask)


def test_boundary_loss_averaged_by_hand() -> None:
    check_average_by_hand()


def test_rows_and_classes_of_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_losses, "MOST_CELLS", 16)
    monkeypatch.setattr(triton_losses, "MOST_CLASSES", 4)
    monkeypatch.setattr(triton_losses, "EDGE_CELLS", 16)
    for shape in ((1, 9, 7, 5), (2, 5, 3, 6)):
        check_plain_losses(shape, 2.0)
        for pre_mask in ("soft", "hard", "none"):
            for normalizer in ("positions", "average"):
                check_boundary_loss(shape, "scene", pre_mask, 1.0, normalizer)


def test_two_classes_far_below_zero() -> None:
    check_two_classes_far_below_zero((1, 2, 3, 4))


@pytest.mark.parametrize("scale", [60.0, 1e4])
def test_large_logits_are_no_worse_than_eager(scale: float) -> None:
    shape = (1, 7, 8, 8)
    student, teacher = maps(shape, scale)
    options = {"temperature": 0.5, "class_weight": torch.full((7,), 2.0), "normalizer": "positions", "pre_mask": "soft"}
    error = {}
    for backend in ("eager", "triton"):
        with use_backend("eager"):
            mask = class_edge_mask(labels_of("scene", shape), 7, 7, (8, 8))
        want = sum(exact_boundary(student.double(), teacher.double(), mask.double(), options))
        with use_backend(backend):
            error[backend] = abs(float(sum(boundary_kd(student, teacher, mask, **options))) / float(want) - 1)
    assert error["triton"] <= max(error["eager"], 1e-6)


def losses(student: Tensor, teacher: Tensor, mask: Tensor) -> list[Tensor]:
    edge, body = boundary_kd(student, teacher, mask)
    average = boundary_kd(student, teacher, mask, normalizer="average", weights=(50.0, 20.0))
    whole = upsampled_cross_entropy(student, labels_of("scene", tuple(student.shape)))
    return [edge, body, channel_kd(student, teacher), pixel_kd(student, teacher), whole, *average]


def scene(shape: tuple[int, ...], scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    with use_backend("eager"):
        mask = class_edge_mask(labels_of("scene", shape), shape[1], 7, (shape[2], shape[3]))
    return *maps(shape, scale), mask


@pytest.mark.parametrize("layout", ["channels last", "strided", "transposed", "bf16", "fp16"])
def test_any_layout_and_type(layout: str) -> None:
    student, teacher, mask = scene((2, 4, 5, 3), 1.0)
    change: dict[str, Callable[[Tensor], Tensor]] = {
        "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
        "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        "bf16": lambda x: x.bfloat16(),
        "fp16": lambda x: x.half(),
    }
    given = [change[layout](x) for x in (student, teacher)]
    exact = [x.float().contiguous() for x in given]
    results = {}
    for backend, pair in (("eager", exact), ("triton", given)):
        leaf = pair[0].detach().requires_grad_()
        with use_backend(backend):
            values = losses(leaf, pair[1], mask)
        results[backend] = values, [torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in values]
    tolerance = 1e-5 if given[0].dtype == torch.float32 else 1e-2  # the gradient is rounded to the input's type
    for a, b in zip(results["eager"][0], results["triton"][0], strict=True):
        assert float(b.detach()) == pytest.approx(float(a.detach()), rel=1e-5)
    for a, b in zip(results["eager"][1], results["triton"][1], strict=True):
        assert b.dtype == given[0].dtype
        assert float((a - b.float()).norm()) <= tolerance * float(a.norm())


def test_a_small_gradient_in_half_precision_is_scaled_before_it_is_rounded() -> None:
    student, teacher = (x.half() for x in maps((1, 3, 8, 8), 0.01))
    leaf = student.requires_grad_()
    (gradient,) = torch.autograd.grad(65536 * channel_kd(leaf, teacher) * 1e-2, leaf)
    with use_backend("eager"):
        (want,) = torch.autograd.grad(65536 * channel_kd(leaf, teacher) * 1e-2, leaf)
    assert want.any()
    assert float((gradient - want).float().norm()) <= 1e-2 * float(want.float().norm())


def test_upstream_factor_and_double_use_in_one_graph() -> None:
    student, teacher, mask = scene((2, 4, 4, 5))
    gradients = {}
    for backend in ("eager", "triton"):
        x = student.clone().requires_grad_()
        with use_backend(backend):
            values = losses(x, teacher, mask)
            total = sum((i + 1) * v for i, v in enumerate(values)) + values[2] ** 2 + 3 * channel_kd(x, teacher)
            total = total + sum(losses(x, teacher, mask))
        total.backward(retain_graph=True)
        once = x.grad.clone()
        (128 * total).backward()  # what the first call was given is not used or changed by the second
        assert torch.allclose(x.grad, 129 * once, rtol=1e-5, atol=1e-6)
        gradients[backend] = once
    assert float((gradients["triton"] - gradients["eager"]).norm()) <= 1e-5 * float(gradients["eager"].norm())


def test_no_gradient_is_made_where_none_is_asked_for_and_none_goes_to_the_teacher() -> None:
    student, teacher, mask = scene((1, 3, 3, 3))
    for value in losses(student, teacher, mask):
        assert not value.requires_grad
    leaf, other = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    sum(losses(leaf, other, mask)).backward()
    assert other.grad is None
    with pytest.raises(RuntimeError, match="the backend triton has no second derivative"):
        torch.autograd.grad(channel_kd(leaf, teacher), leaf, create_graph=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_shows_in_the_loss(bad: float) -> None:
    student, teacher, _ = scene((1, 3, 4, 4))
    student[0, 1, 3, 3] = bad
    mask = torch.full(student.shape, 0.5)
    for value in losses(student, teacher, mask):
        assert not torch.isfinite(value)


ENTROPY_CASES = [
    ((2, 5, 3, 4), (24, 32)),
    ((1, 19, 6, 5), (20, 13)),  # no whole factor, classes and rows of several programs
    ((1, 3, 5, 5), (5, 5)),  # no resize
    ((2, 3, 8, 6), (3, 4)),  # smaller: rows and columns that no pixel touches
    ((1, 2, 1, 1), (6, 4)),
    ((1, 1, 2, 3), (1, 1)),
    ((1, 2, 2, 20), (3, 61)),  # columns of several programs
    ((1, 2, 2, 1), (40, 300)),  # bands of several blocks
]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("case", ENTROPY_CASES)
def test_upsampled_cross_entropy(align_corners: bool, case: tuple) -> None:
    for denominator, weighted in (("all", False), ("valid", True)):
        check_cross_entropy(case, align_corners, denominator, weighted=weighted)


def test_cross_entropy_of_ignored_pixels_alone() -> None:
    check_cross_entropy_of_ignored_pixels((1, 3, 2, 2))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_cross_entropy_of_any_label_type_layout_and_ignore_index(kind: torch.dtype) -> None:
    logits = maps((1, 4, 3, 4))[0]
    labels = torch.randint(0, 4, (1, 7, 8), generator=torch.Generator().manual_seed(0))
    results = []
    for backend, given in (("eager", labels), ("triton", labels.to(kind).transpose(1, 2).contiguous().transpose(1, 2))):
        leaf = logits.clone().requires_grad_()
        with use_backend(backend):
            loss = upsampled_cross_entropy(leaf, given, ignore_index=2, denominator="valid")
        results += [loss.detach(), *torch.autograd.grad(2 * loss, leaf)]
    assert float(results[2]) == pytest.approx(float(results[0]), rel=1e-6)
    assert float((results[1] - results[3]).norm()) <= 1e-5 * float(results[1].norm())


def test_a_label_out_of_range_makes_the_cross_entropy_nan() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 2, 1] = 3
    assert not torch.isfinite(upsampled_cross_entropy(torch.zeros(1, 3, 2, 2), labels))


def test_large_logits_of_the_cross_entropy_are_no_worse_than_eager() -> None:
    logits, labels = maps((1, 5, 4, 4), 1e4)[0], labels_of("scene", (1, 5, 4, 4))
    error = {}
    for backend in ("eager", "triton"):
        big = F.interpolate(logits.double(), labels.shape[1:], mode="bilinear")
        want = F.cross_entropy(big, labels, ignore_index=255, reduction="sum") / labels.numel()
        with use_backend(backend):
            error[backend] = abs(float(upsampled_cross_entropy(logits, labels)) / float(want) - 1)
    assert error["triton"] <= max(error["eager"], 1e-6)


@pytest.mark.parametrize("num_classes", [2, 31])
@pytest.mark.parametrize(
    ("picture", "size", "side", "mode"),
    [
        ((16, 24), (4, 3), 3, "opaque"),
        ((13, 11), (5, 4), 7, "transparent"),  # no whole factor
        ((6, 7), (6, 7), 5, "opaque"),
    ],
)
def test_masks_equal_the_literal_form_bit_for_bit(
    num_classes: int, picture: tuple[int, int], size: tuple[int, int], side: int, mode: str
) -> None:
    for name, labels in scenes(num_classes, *picture).items():
        got = class_edge_mask(labels, num_classes, side, size, ignore_mode=mode)
        assert torch.equal(got, literal_edge_mask(labels, num_classes, side, size, mode)), name


@pytest.mark.parametrize(("shape", "size"), [((1, 6, 1024), (1, 2)), ((1, 5, 300), (1, 1)), ((1, 300, 40), (1, 8))])
def test_masks_of_cells_that_are_hundreds_of_pixels_wide_or_high(
    shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 35, shape, generator=g).where(torch.rand(shape, generator=g) > 0.7, 0)
    got, want = (
        module.class_edge_masks(labels, 35, [size], EdgeWindow(3, 255, False)) for module in (functions, reference)
    )
    assert torch.equal(got[0], want[0])
    assert float(want[0].max()) > 0


def test_a_window_holds_classes_of_several_words() -> None:
    labels = torch.arange(70).repeat(2).reshape(1, 10, 14)
    assert torch.equal(class_edge_mask(labels, 70, 5, (5, 7)), literal_edge_mask(labels, 70, 5, (5, 7)))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_label_type_layout_and_ignore_index(kind: torch.dtype) -> None:
    base = scenes(5, 12, 16)["noise"]
    want = literal_edge_mask(base, 5, 3, (3, 4))
    labels = torch.where(base == 255, 3, base + (base >= 3).to(base.dtype)).to(kind)  # 3 is ignored, classes move up
    order = [c for c in range(6) if c != 3]
    got = class_edge_mask(labels.transpose(1, 2).contiguous().transpose(1, 2), 6, 3, [(3, 4), (12, 16)], ignore_index=3)
    assert torch.equal(got[0][:, order], want)
    assert torch.equal(got[1][:, order], literal_edge_mask(base, 5, 3, (12, 16)))
    assert not got[0][:, 3].any()


def test_the_counts_beside_a_mask_are_its_non_zero_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "CELL_PIXELS", 16)  # several programs add to a count
    for labels in scenes(40, 6, 40).values():
        for mode in ("opaque", "transparent"):
            edges = class_edges(labels, 40, 5, (5, 20), ignore_mode=mode)
            assert isinstance(edges, EdgeMap)
            assert torch.equal(edges.mask, class_edge_mask(labels, 40, 5, (5, 20), ignore_mode=mode))
            assert torch.equal(edges.counts, (edges.mask > 0).sum((2, 3), dtype=torch.int32))


@pytest.mark.parametrize("pre_mask", ["soft", "none"])
@pytest.mark.parametrize("normalizer", ["positions", "classes", "average"])
def test_a_mask_with_its_counts_gives_the_same_bits(pre_mask: str, normalizer: str) -> None:
    shape = (2, 5, 6, 7)
    student, teacher = maps(shape)
    edges = class_edges(labels_of("scene", shape), shape[1], 7, (6, 7))
    assert isinstance(edges, EdgeMap)
    before = edges.counts.clone()
    found = []
    for mask in (edges, edges.mask):
        leaf = student.clone().requires_grad_()
        terms = boundary_kd(leaf, teacher, mask, pre_mask=pre_mask, normalizer=normalizer)
        found.append([*terms, torch.autograd.grad(sum(terms), leaf)[0]])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert torch.equal(edges.counts, before)


def test_unmasked_logits_are_read_only_at_cells_with_an_edge() -> None:
    """What lies elsewhere, NaN even, cannot reach the edge term or its gradient there."""
    shape = (1, 20, 6, 11)  # more than a tile of classes
    student, teacher = maps(shape)
    mask = torch.zeros(shape)
    mask[0, 3, :2], mask[0, 7, 1:3] = 0.5, 0.25
    elsewhere = ~mask.any(1, keepdim=True).expand(shape)
    edge = {}
    for name, value in (("as it is", None), ("with NaN", float("nan"))):
        leaf = student.clone() if value is None else student.masked_fill(elsewhere, value)
        edge[name] = boundary_kd(leaf, teacher, mask, pre_mask="none", weights=(1.0, 0.0))[0]
    assert torch.equal(edge["as it is"], edge["with NaN"])


def test_wide_cells_and_many_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "CELL_PIXELS", 16)  # several programs per row of cells
    labels = scenes(4, 6, 40)["blocks"]
    for size in ((2, 20), (3, 2), (1, 1)):
        assert torch.equal(class_edge_mask(labels, 4, 5, size), literal_edge_mask(labels, 4, 5, size))


def types_of(function: str, maps: torch.dtype, other: torch.dtype) -> tuple[torch.dtype, ...]:
    """The types of a function's tensors: of labels alone, logits and labels, or student and teacher."""
    labels = torch.uint8 if maps == torch.bfloat16 else torch.int64
    if function == "class_edge_mask":
        return (labels,)
    return (maps, labels if function == "upsampled_cross_entropy" else other)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("maps", [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)])
def test_the_check_passes_once_for_each_types(
    function: str, maps: tuple[torch.dtype, torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    types = types_of(function, *maps)
    assert self_check.failure(function, CPU, types) is None
    monkeypatch.setattr(self_check, "_difference", lambda *_: "called again")
    assert self_check.failure(function, CPU, types) is None
    assert self_check.failure(function, CPU, (torch.float64, *types[1:])) == "called again"


def slightly_wrong(x: Tensor) -> Tensor:
    return x * 1.001


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("fault", ["raises", "wrong"])
def test_a_failed_check_falls_back_with_one_message(
    function: str, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module, name = (masks, "write_edges") if function == "class_edge_mask" else (functions, function)
    good = getattr(module, name)

    def bad(*args: Any, **options: object) -> object:
        if fault == "raises":
            raise RuntimeError("no such instruction\nat line 1")
        if function == "class_edge_mask":
            return [target.fill_(0.125) for target in args[1]]
        found = good(*args, **options)
        return tuple(map(slightly_wrong, found)) if function == "boundary_kd" else slightly_wrong(found)

    monkeypatch.setattr(module, name, bad)
    with use_backend("auto"):
        for _ in range(2):
            reasons, types = {"cpp": "not built", "triton": None}, types_of(function, torch.float32, torch.float32)
            assert dispatch.choose(function, CPU, reasons, types) == "eager"
    (record,) = [r for r in caplog.records if r.name == dispatch.__name__]
    assert record.levelno == logging.WARNING
    assert (
        f"{function} on cpu runs the backend eager (cpp: not built; triton: its check failed: " in record.getMessage()
    )
    assert self_check.failures()
    assert ("no such instruction)" if fault == "raises" else "differs from PyTorch's") in record.getMessage()


def test_auto_takes_what_passed_the_check_and_never_the_interpreter() -> None:
    with use_backend("auto"):
        reasons, types = {"cpp": "x", "triton": None}, (torch.float32, torch.float32)
        assert dispatch.choose("pixel_kd", CPU, reasons, types) == "triton"
        assert triton.unsupported_reason(torch.zeros(1)) == "it runs on CUDA alone"
    assert triton.unsupported_reason(torch.zeros(1)) is None
    assert triton.unsupported_reason(torch.zeros(0)) == "a tensor is empty"
    assert "float16" in triton.unsupported_dtype(*torch.zeros(2, 1, dtype=torch.float64).unbind())
