"""Time, memory, CUDA graphs and streams of a device; on a CPU the calls are run without them."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Call

FLUSH_BYTES = 256 * 2**20  # several times the second level's cache of an H100 (50 MB) or H200 (60 MB)


class Device:
    """Measures calls on a device."""

    def __init__(self, name: str) -> None:
        """Takes the name of a device."""
        self.device = torch.device(name)
        self.cuda = self.device.type == "cuda"
        self._pool: Any = None  # of graphs whose results are not read
        self._flush = torch.empty(FLUSH_BYTES if self.cuda else 1, dtype=torch.int8, device=self.device)

    def wait(self) -> None:
        """Synchronises with the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def call_ms(self, call: Call) -> float:
        """Returns the wall-clock milliseconds of a call, kernel launches included."""
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return 1e3 * (time.perf_counter() - start)

    def device_ms(self, call: Call) -> float:
        """Returns the device's milliseconds of a call, measured by events with a cold cache."""
        if not self.cuda:
            return self.call_ms(call)
        self._flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    def copy_gb_s(self, count: int, rounds: int) -> float:
        """GB/s of the fastest of some copies of ``count`` bytes, bytes read and written."""
        source, target = (torch.randint(256, (count,), dtype=torch.uint8, device=self.device) for _ in range(2))
        return 2 * count / min(self.device_ms(lambda: target.copy_(source)) for _ in range(rounds)) / 1e6

    def graphed(self, call: Callable[[], Sequence[Tensor]], *, keep: bool = True) -> tuple[Call, Sequence[Tensor]]:
        """Captures a call in a CUDA graph.

        Args:
            call: reads and writes the same memory each time; it is run three times before.
            keep: whether the results are read. Otherwise graphs share one memory pool, so that dozens of them fit.

        Returns:
            A function that replays the graph, and the tensors that each replay writes.

        Raises:
            RuntimeError: the call synchronises with the GPU, which cannot be captured.
        """
        if not self.cuda:
            outputs = call()

            def repeat() -> None:
                for old, new in zip(outputs, call(), strict=True):
                    old.copy_(new)

            return repeat, outputs
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                call()
            with self.without_waiting():  # a capture that breaks would leave the allocator broken
                call()
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(stream)
        if not keep and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=None if keep else self._pool):
                outputs = call()
        except BaseException:
            torch.cuda.set_stream(current)  # torch.cuda.graph does not, where ending the capture fails
            raise
        return graph.replay, outputs

    def beside(self, calls: Sequence[Callable[[], Sequence[Tensor]]]) -> list[Sequence[Tensor]]:
        """Runs every call on a stream of its own, at the same time, and returns what they return."""
        if not self.cuda:
            return [call() for call in calls]
        streams = [torch.cuda.Stream(self.device) for _ in calls]
        for stream in streams:
            stream.wait_stream(torch.cuda.current_stream(self.device))
        found = []
        for call, stream in zip(calls, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(call())
        self.wait()
        return found

    @contextlib.contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Makes every call that would wait for the GPU an error."""
        if not self.cuda:
            yield
            return
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def extra_mib(self, call: Callable[[], Sequence[Tensor]]) -> float | None:
        """MiB that a call needs at most beside what it returns and what was there before; None on a CPU."""
        if not self.cuda:
            return None
        call()
        gc.collect()
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        outputs = call()
        self.wait()
        most, after = torch.cuda.max_memory_allocated(self.device), torch.cuda.memory_allocated(self.device)
        del outputs
        return (most - max(before, after)) / 2**20

    def peak_mib(self, call: Call) -> float | None:
        """MiB that are allocated at most during a call after the first, everything counted; None on a CPU."""
        call()
        if not self.cuda:
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) / 2**20
