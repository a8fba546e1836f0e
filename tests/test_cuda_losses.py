"""The fast losses on a GPU: the path that `auto` takes there against eager, two streams, a CUDA graph, no waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from bpkd.functional import (
    boundary_kd,
    channel_kd,
    class_edge_mask,
    pixel_kd,
    upsampled_cross_entropy,
    use_path,
)
from bpkd.functional.triton_path import unavailable
from tests.test_fast_losses import labels_of, maps

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(bool(unavailable()), reason=unavailable()),
]
SHAPES = [(4, 19, 64, 64), (2, 150, 33, 47), (1, 2, 128, 256)]
TYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _triton() -> Iterator[None]:
    with use_path("triton"):
        yield


def step(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Masks from the labels, all losses, and the gradient of their sum."""
    leaf = student.detach().requires_grad_()
    mask = class_edge_mask(labels, leaf.shape[1], 7, (leaf.shape[2], leaf.shape[3]))
    losses = [*boundary_kd(leaf, teacher, mask), channel_kd(leaf, teacher), pixel_kd(leaf, teacher)]
    losses += boundary_kd(leaf, teacher, mask, normalizer="average", weights=(50.0, 20.0))
    losses.append(upsampled_cross_entropy(leaf, labels))
    values = torch.stack(losses)
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = maps(shape)
    return student.to("cuda", dtype), teacher.to("cuda", dtype), labels_of("scene", shape).cuda()


def check_equal(found: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor], tolerance: float) -> None:
    torch.testing.assert_close(found[0], want[0], rtol=max(1e-5, tolerance / 10), atol=1e-6)
    apart = torch.linalg.vector_norm((found[1] - want[1]).float())
    assert float(apart) <= tolerance * float(torch.linalg.vector_norm(want[1].float()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_triton_equals_eager(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given = inputs(shape, dtype)
    found = step(*given)
    with use_path("eager"):
        want = step(*given)
        mask = class_edge_mask(given[2], shape[1], 7, shape[2:])
    assert torch.equal(class_edge_mask(given[2], shape[1], 7, shape[2:]), mask)
    check_equal(found, want, 1e-5 if dtype == torch.float32 else 1e-2)


def test_two_streams_change_no_bit_of_each_other() -> None:
    cases = [inputs(shape) for shape in SHAPES[:2]]
    want = [step(*case) for case in cases]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in cases]
    for _ in range(5):
        found = []
        for case, stream in zip(cases, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(step(*case))
        torch.cuda.synchronize()
        for a, b in zip(found, want, strict=True):
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])


def replayed(call: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The call's results from a replayed CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    for x in out:
        x.zero_()
    graph.replay()
    torch.cuda.synchronize()
    return out


def test_masks_and_losses_run_in_a_cuda_graph() -> None:
    given = inputs(SHAPES[0])
    check_equal(replayed(lambda: step(*given)), step(*given), 1e-6)


def test_nothing_waits_for_the_gpu() -> None:
    given = inputs(SHAPES[0])
    step(*given)  # compiles
    before = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        step(*given)
    finally:
        torch.cuda.set_sync_debug_mode(before)
