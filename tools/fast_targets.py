"""The speed targets of masks, losses and cross entropy: each is a ratio of two calls, timed in turns in one process.

`python tools/benchmark_losses.py --targets --peer-root peers --json fast.json`; docs/benchmarks.md explains the table.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peer_projects import load
from torch import Tensor

from bpkd.functional import boundary_kd, channel_kd, class_edge_mask, class_edges, pixel_kd, use_path
from bpkd.functional import upsampled_cross_entropy as fast_cross_entropy

STRIDE, IGNORE = 8, 255
MOST_SECONDS = 20.0  # per target; three rounds are always kept
LOSS_SHAPES = ((4, 19, 64, 64), (2, 19, 128, 256), (4, 150, 64, 64), (2, 150, 128, 256))
# Presets of bpkd.distillers.bpkd: the paper's sums, and the default.
PRESETS: dict[str, dict[str, Any]] = {
    "literal": {"pre_mask": "soft", "normalizer": "cells", "weights": (50.0, 20.0)},
    "safe": {"pre_mask": "none", "normalizer": "classes", "weights": (1.0, 2.0)},
}
Call = Callable[[], object]
Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """``ours`` against ``other``: their ratio, or the inverse where ``at_least`` says how much faster ours is."""

    name: str
    ours: Call
    other: Call
    limit: float
    at_least: bool = False
    memory: bool = False


def literal_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """50 edge + 20 body as the formulas are written, the positions' KL repeated over the classes."""
    n, k, h, w = student.shape
    p, q = (F.log_softmax(x * mask, 1) for x in (teacher, student))
    repeated = (p.exp() * (p - q)).sum(1, keepdim=True).repeat(1, k, 1, 1) * mask
    edge = (2.0 * repeated.sum((2, 3)) / (mask > 0).sum((2, 3)).clamp(min=1)).sum(1).mean()
    p, q = (F.log_softmax((x * (1 - mask)).reshape(n * k, h * w), 1) for x in (teacher, student))
    return 50 * edge + 20 / (n * k) * (p.exp() * (p - q)).sum()


def literal_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Resize, then torch's cross entropy."""
    big = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(big, labels, ignore_index=IGNORE, reduction="sum") / labels.numel()


class Inputs:
    """Labels, both maps and their calls at one shape."""

    def __init__(self, shape: Sequence[int], peers: Path | None) -> None:
        """Draws seeded tensors."""
        from benchmark_losses import literal_edge_mask, make_labels

        n, k, h, w = self.shape = tuple(shape)
        g = torch.Generator().manual_seed(0)
        self.labels = make_labels(n, STRIDE * max(h, w), k)[:, : STRIDE * h, : STRIDE * w].contiguous()
        self.noise = torch.randint(0, k, self.labels.shape, generator=g)
        self.teacher = 3 * torch.randn(self.shape, generator=g)
        self.student = (self.teacher + 2 * torch.randn(self.shape, generator=g)).requires_grad_()
        self.rows, self.out = class_edges(self.labels, k, 7, (h, w)), torch.empty(self.shape)
        self.literal_mask = lambda: literal_edge_mask(self.labels, k, 7, h)
        self.peer: dict[str, Any] = {}
        if peers:
            losses = {"cwd": ("cwd.py", "ChannelWiseDivergence"), "kl": ("kl_divergence.py", "KLDivergence")}
            for key, (file, name) in losses.items():
                self.peer[key] = getattr(load(peers, "mmrazor", f"mmrazor/models/losses/{file}"), name)()

    def mask(self, labels: Tensor, kernel_size: int = 7, path: str = "cpp", form: Any = class_edge_mask) -> Call:
        """Edge masks at the logits' size."""

        def call() -> None:
            with use_path(path):
                form(labels, self.shape[1], kernel_size, self.shape[2:])

        return call

    def step(self, loss: Callable[[], Tensor]) -> Call:
        """Forward and backward."""

        def call() -> None:
            self.student.grad = None
            loss().backward()

        return call

    def boundary(self, preset: str, rows: Any = None) -> Call:
        """Both terms of BPKD on the extension's path; ``rows`` makes the mask in the step too."""
        options = PRESETS[preset]
        return self.step(
            lambda: sum(boundary_kd(self.student, self.teacher, rows() if rows else self.rows, **options))  # type: ignore
        )

    def whole(self) -> Call:
        """Masks from the labels, then the loss."""
        return self.boundary("literal", lambda: class_edges(self.labels, self.shape[1], 7, self.shape[2:]))

    def literal_whole(self) -> Call:
        """The same as the formulas are written."""
        return self.step(lambda: literal_loss(self.student, self.teacher, self.literal_mask()))


def mask_targets(x: Inputs) -> list[Target]:
    """Masks against the literal form."""
    many = x.shape[1] > 100
    literal: Call = x.literal_mask
    with_rows = x.mask(x.labels, form=class_edges)
    targets = [
        Target("mask, extension", x.mask(x.labels), literal, 2000 if many else 400, at_least=True),
        Target("mask as rows, extension", with_rows, literal, 2000 if many else 400, at_least=True),
        Target("mask, no compiler", x.mask(x.labels, path="compiled"), literal, 400 if many else 80, at_least=True),
        Target("mask, k = 15 over k = 3", x.mask(x.labels, 15), x.mask(x.labels, 3), 1.5),
        Target("mask, noise over scene", x.mask(x.noise), x.mask(x.labels), 2.5),
        Target("mask + loss from labels", x.whole(), x.literal_whole(), 800 if many else 300, at_least=True),
    ]
    if many:
        targets.append(Target("mask", x.mask(x.labels), literal, 0.1, memory=True))
    return targets


def loss_targets(x: Inputs) -> list[Target]:
    """Forward and backward against mmrazor's losses and against the memory traffic (two maps read, one written)."""
    floor: Call = lambda: torch.add(x.student.detach(), x.teacher, out=x.out)  # noqa: E731
    over_floor = 6 if x.shape[1] == 19 else 3
    ours = {f"boundary_kd, {name}": x.boundary(name) for name in PRESETS}
    ours["channel_kd"] = x.step(lambda: channel_kd(x.student, x.teacher))
    kd = x.step(lambda: pixel_kd(x.student, x.teacher))
    targets = [Target(f"{name} over traffic", call, floor, over_floor) for name, call in ours.items()]
    if x.peer:
        cwd = x.step(lambda: x.peer["cwd"](x.student, x.teacher))
        kl = x.step(lambda: x.peer["kl"](x.student, x.teacher))
        targets += [Target(f"{name} over mmrazor's CWD", call, cwd, 0.5) for name, call in ours.items()]
        targets += [Target("pixel_kd over mmrazor's KL", kd, kl, 0.5)]
        targets += [
            Target(f"{name} over mmrazor's CWD, extra", call, cwd, 0.2, memory=True) for name, call in ours.items()
        ]
    return targets


def entropy_targets(x: Inputs) -> list[Target]:
    """Cross entropy at label size."""
    ours = x.step(lambda: fast_cross_entropy(x.student, x.labels))
    other = x.step(lambda: literal_cross_entropy(x.student, x.labels))
    name = "upsampled cross entropy"
    return [Target(name, ours, other, 8, at_least=True), Target(name, ours, other, 1 / 50, memory=True)]


def targets_of(shape: Sequence[int], peers: Path | None) -> list[Target]:
    """All targets of one shape."""
    x = Inputs(shape, peers)
    square = shape[2:] == (64, 64)
    return [*(mask_targets(x) if square else []), *loss_targets(x), *(entropy_targets(x) if square else [])]


def timed(calls: Sequence[Call], seconds: float) -> list[float]:
    """Median milliseconds of each call. They alternate call by call, so that none finds its data in the cache.

    As many turns as the time allows, 20 at most.
    """
    times: list[list[float]] = []
    end = time.perf_counter() + seconds
    while not times or (len(times) < 20 and time.perf_counter() < end):
        times.append([])
        for call in calls:
            start = time.perf_counter()
            call()
            times[-1].append(1e3 * (time.perf_counter() - start))
    return [statistics.median(column) for column in zip(*times, strict=True)]


def time_row(target: Target, rounds: int) -> Row:
    """Both calls in turns; the ratio is the median of the rounds' own ratios."""
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + MOST_SECONDS
    for index in range(-1, rounds):
        if len(pairs) >= 3 and time.perf_counter() > end:
            break
        if index % 2:
            ours, other = timed((target.ours, target.other), 0.1)
        else:
            other, ours = timed((target.other, target.ours), 0.1)
        if index >= 0:
            pairs.append((ours, other))
    ratios = [b / a if target.at_least else a / b for a, b in pairs]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
    ours, other = zip(*pairs, strict=True)
    best = min(other) / min(ours) if target.at_least else min(ours) / min(other)
    return {
        "ratio": ratio, "quartiles": [low, high], "ratio_of_minima": best, "ours": statistics.median(ours),
        "other": statistics.median(other), "unit": "ms", "rounds": len(pairs),
    }  # fmt: skip


def peak_mib(call: Call) -> float:
    """Peak memory of the process during a call over what it had before (Linux); freed blocks must be given back.

    The call frees the last call's gradient before it makes its own, so the gradient itself is not counted.
    """
    call()

    def read(field: str) -> float:
        line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(field))
        return int(line.split()[1]) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present size
    before = read("VmRSS")
    call()
    return max(0.0, read("VmHWM") - before)


def memory_row(shape: Sequence[int], index: int, peers: Path | None) -> Row:
    """Each call's peak in a process of its own, whose allocator gives freed blocks back at once."""
    peaks = []
    for side in ("ours", "other"):
        command = [sys.executable, __file__, json.dumps([list(shape), index, side, str(peers or "")])]
        settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **settings})
        peaks.append(float(done.stdout.split()[-1]))
    return {"ratio": peaks[0] / peaks[1], "ours": peaks[0], "other": peaks[1], "unit": "MiB"}


def child(text: str) -> None:
    """Prints the peak of one call."""
    shape, index, side, peers = json.loads(text)
    torch.set_num_threads(2)
    target = targets_of(tuple(shape), Path(peers) if peers else None)[index]
    print(peak_mib(getattr(target, side)))


def run(peers: Path | None, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """All rows; ``say`` gets each as it is measured."""
    rows = []
    for shape in LOSS_SHAPES:
        for index, target in enumerate(targets_of(shape, peers)):
            found = memory_row(shape, index, peers) if target.memory else time_row(target, rounds)
            met = found["ratio"] >= target.limit if target.at_least else found["ratio"] <= target.limit
            head = {"what": target.name, "shape": list(shape), "limit": target.limit, "at_least": target.at_least}
            rows.append({**head, **found, "met": bool(met), "load": os.getloadavg()[0]})
            say(line(rows[-1]))
    return rows


def head(extension: str) -> str:
    """The table's first two rows."""
    names = f"| what, C++ on {extension} | logits | unit | ours | other | ratio | quartiles | of minima | target | |"
    return f"{names}\n|---|---|---|---:|---:|---:|---|---:|---:|---|"


def line(row: Row) -> str:
    """One row of the table."""
    ends = row.get("quartiles")
    spread = f"{ends[0]:.3g} - {ends[1]:.3g}" if ends else ""
    best = f"{row['ratio_of_minima']:.3g}" if ends else ""
    sign = ">=" if row["at_least"] else "<="
    cells = [row["what"], " x ".join(map(str, row["shape"])), row["unit"], f"{row['ours']:.3g}", f"{row['other']:.4g}"]
    cells += [f"{row['ratio']:.3g}", spread, best, f"{sign} {row['limit']:g}", "met" if row["met"] else "**missed**"]
    return "| " + " | ".join(cells) + " |"


def versions() -> Row:
    """What was measured."""
    return {"wait": os.environ.get("OMP_WAIT_POLICY", "")}


if __name__ == "__main__":
    child(sys.argv[1])
