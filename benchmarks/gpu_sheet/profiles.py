"""Profile of BPKD's training step: longest kernels, gaps, and the share of time in which the device is busy."""

from __future__ import annotations

import torch

from .device import Device
from .items import Row, Settings
from .pairs import Pair, set_tf32


def profile(settings: Settings, seconds: float) -> Row:
    """Profiles five steps of BPKD: the longest kernels, and the share of time in which the device is busy."""
    del seconds
    set_tf32(True)
    unit, pair = Device(settings.device), Pair(settings, "pspnet", (512, 512), 8)
    call = pair.step("BPKD", pair.teacher("auto", "bf16"), "bf16")
    for _ in range(settings.pick(5, 1)):
        call()
    unit.wait()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if unit.cuda:
        activities = [torch.profiler.ProfilerActivity.CUDA]  # no CPU events: recording them slows the launches
    count = settings.pick(5, 1)
    with torch.profiler.profile(activities=activities) as recorded:
        for _ in range(count):
            call()
        unit.wait()
    kind = torch.autograd.DeviceType.CUDA if unit.cuda else torch.autograd.DeviceType.CPU
    # Annotations span many kernels and the gaps between them.
    events = [e for e in recorded.events() if e.device_type == kind and not getattr(e, "is_user_annotation", False)]
    spans = [(e.time_range.start, e.time_range.end, e.name) for e in events]
    busy, span, gaps = busy_share(spans)
    row: Row = {"busy": busy, "span_ms": span / 1e3 / count, "gaps": gaps, "kernels": longest(spans)}
    largest = gaps[0]["ms"] if gaps else 0.0
    row["line"] = f"busy {100 * busy:.1f} % of {row['span_ms']:.1f} ms a step, largest gap {largest:.2f} ms"
    return row if spans else {**row, "failed": "the profiler saw no kernel"}


def busy_share(spans: list[tuple[float, float, str]], count: int = 10) -> tuple[float, float, list[Row]]:
    """Returns the share of time in which at least one span runs, the whole time, and the largest gaps between them.

    Args:
        spans: begin and end in microseconds, and name.
        count: gaps to return, in milliseconds, with the names of the spans around them.
    """
    if not spans:
        return 0.0, 0.0, []
    ordered = sorted(spans)
    first, reached, worked, last = ordered[0][0], ordered[0][0], 0.0, ""
    gaps: list[Row] = []
    for start, end, name in ordered:
        if start > reached:
            gaps.append({"ms": (start - reached) / 1e3, "after": last[:120], "before": name[:120]})
        worked += max(0.0, end - max(start, reached))
        last = name if end > reached else last
        reached = max(reached, end)
    gaps.sort(key=lambda gap: -gap["ms"])
    return worked / max(reached - first, 1e-9), reached - first, gaps[:count]


def longest(spans: list[tuple[float, float, str]], count: int = 10) -> list[Row]:
    """Returns the names with the largest sums: their share of all sums, and how often they ran."""
    sums: dict[str, list[float]] = {}
    for start, end, name in spans:
        sums.setdefault(name, []).append(end - start)
    whole = sum(sum(values) for values in sums.values())
    order = sorted(sums, key=lambda name: -sum(sums[name]))[:count]
    return [
        {"kernel": name[:160], "share": sum(sums[name]) / max(whole, 1e-9), "calls": len(sums[name])} for name in order
    ]
