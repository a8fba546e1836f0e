"""What the GPU sheet does on CUDA alone, walked on a CPU: torch.cuda's streams, events and graphs are fakes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.gpu_sheet import correct, device, functions, losses, pairs
from benchmarks.gpu_sheet.device import Device
from benchmarks.gpu_sheet.items import Settings
from bpkd.functional import use_backend

MIB = 2**20


class Stream:
    """A stream that knows for whom it has waited."""

    def __init__(self, device: object = None) -> None:
        self.waited: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other)


class Recorder(TorchDispatchMode):
    """Keeps operations with their tensors, to run them again in the same memory."""

    def __init__(self, steps: list[Callable[[], None]]) -> None:
        super().__init__()
        self.steps = steps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))

        def again() -> None:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **(kwargs or {}))), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

        self.steps.append(again)
        return out


class Graph:
    """A CUDA graph's interface over recorded operations."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []

    def replay(self) -> None:
        with torch.no_grad():
            for again in self.steps:
                again()


class FakeCuda:
    """What the sheet uses of torch.cuda."""

    Stream, CUDAGraph = Stream, Graph

    def __init__(self) -> None:
        self.current, self.default = Stream(), None
        self.default = self.current
        self.mode, self.synchronized = 0, 0
        self.allocated, self.peak = 0, 0
        self.pools: list[object] = []

    def synchronize(self, device: object = None) -> None:
        self.synchronized += 1

    def current_stream(self, device: object = None) -> Stream:
        return self.current

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph: Graph, pool: object = None) -> Iterator[None]:
        """As torch's: a capture that breaks leaves its stream the current one."""
        before, self.current = self.current, Stream()
        self.pools.append(pool)
        with Recorder(graph.steps):
            yield
        self.current = before

    def graph_pool_handle(self) -> object:
        return object()

    def get_sync_debug_mode(self) -> int:
        return self.mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.mode = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)  # type: ignore[assignment,arg-type]

    def Event(self, enable_timing: bool = False) -> Any:
        assert enable_timing
        log: list[str] = []
        return SimpleNamespace(
            record=lambda: log.append("record"),
            synchronize=lambda: log.append("synchronize"),
            elapsed_time=lambda other: 0.25,
        )

    def memory_allocated(self, device: object = None) -> int:
        return self.allocated

    def max_memory_allocated(self, device: object = None) -> int:
        return self.peak

    def reset_peak_memory_stats(self, device: object = None) -> None:
        self.peak = self.allocated

    def take(self, count: int) -> None:
        self.allocated += count
        self.peak = max(self.peak, self.allocated)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Devices of the sheet take themselves for CUDA ones; their tensors are the CPU's."""
    fake = FakeCuda()
    monkeypatch.setattr(device.torch, "cuda", fake)
    build = Device.__init__

    def pretend(self: Device, name: str) -> None:
        build(self, name)
        self.cuda = True

    monkeypatch.setattr(Device, "__init__", pretend)
    return fake


def test_a_replay_reads_new_numbers_and_writes_the_same_tensors(cuda: FakeCuda) -> None:
    x = torch.arange(4.0)
    replay, (out,) = Device("cpu").graphed(lambda: (x * 2 + 1,))
    x.fill_(3.0)
    replay()
    assert out.tolist() == [7.0] * 4
    assert cuda.current is cuda.default
    assert cuda.pools == [None]


def test_graphs_whose_results_nobody_wants_share_their_memory(cuda: FakeCuda) -> None:
    unit = Device("cpu")
    for _ in range(2):
        unit.graphed(lambda: (torch.ones(2),), keep=False)
    unit.graphed(lambda: (torch.ones(2),))
    assert cuda.pools[0] is cuda.pools[1] is not None
    assert cuda.pools[2] is None


def test_a_call_that_waits_is_refused_before_it_is_captured(cuda: FakeCuda) -> None:
    def waits() -> tuple[Tensor]:
        if cuda.mode == 2:
            raise RuntimeError("called a synchronizing CUDA operation")
        return (torch.ones(2),)

    with pytest.raises(RuntimeError, match="synchronizing"):
        Device("cpu").graphed(waits)
    assert cuda.pools == []
    assert (cuda.mode, cuda.current) == (0, cuda.default)


def test_a_capture_that_breaks_leaves_the_stream_as_it_was(cuda: FakeCuda) -> None:
    calls: list[int] = []

    def breaks() -> tuple[Tensor]:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("operation not permitted when stream is capturing")
        return (torch.ones(2),)

    with pytest.raises(RuntimeError, match="capturing"):
        Device("cpu").graphed(breaks)
    assert cuda.current is cuda.default


def test_every_call_beside_others_has_a_stream_that_waits_for_the_current_one(cuda: FakeCuda) -> None:
    seen: list[Stream] = []

    def call() -> tuple[Tensor]:
        seen.append(cuda.current)
        return (torch.ones(1),)

    found = Device("cpu").beside([call, call])
    assert len(found) == 2
    assert len({id(stream) for stream in seen}) == 2
    assert all(stream.waited == [cuda.default] for stream in seen)
    assert cuda.synchronized == 1


def test_memory_is_counted_without_what_a_call_returns_and_without_its_first_time(cuda: FakeCuda) -> None:
    calls: list[int] = []

    def call() -> tuple[Tensor]:
        calls.append(1)
        cuda.take(50 * MIB if len(calls) == 1 else 8 * MIB)  # the first call looks for its kernels
        cuda.take(-cuda.allocated + 100 * MIB + (3 * MIB if calls[1:] else 0))  # and returns 3 MiB
        return (torch.ones(1),)

    cuda.take(100 * MIB)
    assert Device("cpu").extra_mib(call) == 5.0
    calls.clear()
    cuda.allocated = 100 * MIB
    assert Device("cpu").peak_mib(lambda: (call(), cuda.take(100 * MIB - cuda.allocated))) == 108.0


def test_a_call_that_writes_into_what_was_there_needs_nothing(cuda: FakeCuda) -> None:
    out = torch.ones(1000)
    assert Device("cpu").extra_mib(lambda: (out,)) == 0.0


def test_an_error_within_no_waiting_puts_the_mode_back(cuda: FakeCuda) -> None:
    cuda.mode = 1
    modes: list[int] = []

    def fails() -> None:
        with Device("cpu").without_waiting():
            modes.append(cuda.mode)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fails()
    assert (modes, cuda.mode) == ([2], 1)


SETTINGS = Settings("cpu", True, Path(), Path())


def fixed_mask(labels: Tensor, classes: int, kernel: int, size: tuple[int, int], **_: Any) -> Tensor:
    """Of operations whose sizes do not depend on the labels, as on a GPU."""
    small = labels[:, :: labels.shape[1] // size[0], :: labels.shape[2] // size[1]]
    return (small[:, None] == torch.arange(classes)[:, None, None]).float()


@pytest.mark.parametrize("item", [correct.graph, correct.streams, correct.waiting])
def test_items_that_need_graphs_and_streams(item: Any, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correct, "backend", lambda settings: "eager")  # operations that can be recorded
    monkeypatch.setattr(functions, "class_edges", fixed_mask)
    assert "failed" not in item(SETTINGS, 60)


def test_the_times_of_the_losses(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "use_backend", lambda path: contextlib.nullcontext())
    monkeypatch.setattr(Device, "copy_gb_s", lambda *_: 1.0)  # of half a GiB
    monkeypatch.setattr(device.gc, "collect", lambda: 0)  # looks at all that pytest holds, for every variant
    with use_backend("eager"):
        row = losses.timed(SETTINGS, 4, shape=losses.TINY_SHAPE, dtype="float32")
    assert row["without_graph"] == {}
    assert {r["device_ms"] for r in row["rows"].values()} == {0.25}
    assert {r["extra_mib"] for r in row["rows"].values()} == {0.0}
    assert len(set(map(id, cuda.pools))) == 1


def test_measuring_ends_in_time_though_the_first_calls_take_long(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def call() -> None:
        now[0] += 6.0 if now[0] < 12 else 0.5

    monkeypatch.setattr(device.time, "monotonic", lambda: now[0])
    settings = Settings("cuda", False, Path(), Path())
    monkeypatch.setattr(pairs, "Device", lambda name: Device("cpu"))
    row = pairs.timed(settings, 20.0, {"a": call, "b": call}, 8, "a")
    assert row["rounds"] >= 2
    assert now[0] <= 20.0
