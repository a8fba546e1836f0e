"""The speed targets of masks, losses and cross entropy: each is a ratio of two calls, timed in turns in one process.

`python -m benchmarks.losses --targets --peer-root peers --json fast.json`; docs/results/benchmarks_losses.md explains
the table.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import Call, Row, Times, in_turns, pair_of, quartiles, timed
from benchmarks.peers.projects import load, sources
from benchmarks.scenes import literal_boundary_kd, literal_cross_entropy, literal_edge_mask, make_labels
from bpkd.functional import boundary_kd, channel_kd, class_edge_mask, class_edges, pixel_kd, use_backend
from bpkd.functional import upsampled_cross_entropy as fast_cross_entropy

STRIDE = 8
MOST_SECONDS, CALLS = 20.0, 20  # of a target; calls to a round
LOSS_SHAPES = ((4, 19, 64, 64), (2, 19, 128, 256), (4, 150, 64, 64), (2, 150, 128, 256))
# Presets of bpkd.distillers.bpkd: the paper's sums, and the default.
PRESETS: dict[str, dict[str, Any]] = {
    "literal": {"pre_mask": "soft", "normalizer": "positions", "weights": (50.0, 20.0)},
    "safe": {"pre_mask": "none", "normalizer": "classes", "weights": (1.0, 2.0)},
}


@dataclass(frozen=True)
class Target:
    """``ours`` against ``other``: their ratio, or the inverse where ``at_least`` says how much faster ours is."""

    name: str
    ours: Call
    other: Call
    limit: float
    at_least: bool = False
    memory: bool = False


class Inputs:
    """Labels, both maps and their calls at one shape."""

    def __init__(self, shape: Sequence[int], peers: Path | None) -> None:
        """Draws seeded tensors."""
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

    def mask(self, labels: Tensor, kernel_size: int = 7, backend: str = "cpp", form: Any = class_edge_mask) -> Call:
        """Edge masks at the logits' size."""

        def call() -> None:
            with use_backend(backend):
                form(labels, self.shape[1], kernel_size, self.shape[2:])

        return call

    def step(self, loss: Callable[[], Tensor]) -> Call:
        """Forward and backward."""

        def call() -> None:
            self.student.grad = None
            loss().backward()

        return call

    def boundary(self, preset: str, rows: Any = None) -> Call:
        """Both terms of BPKD with the C++ functions; ``rows`` makes the mask in the step too."""
        options = PRESETS[preset]
        return self.step(
            lambda: sum(boundary_kd(self.student, self.teacher, rows() if rows else self.rows, **options))  # type: ignore
        )

    def whole(self) -> Call:
        """Masks from the labels, then the loss."""
        return self.boundary("literal", lambda: class_edges(self.labels, self.shape[1], 7, self.shape[2:]))

    def literal_whole(self) -> Call:
        """The same as the formulas are written."""
        return self.step(lambda: literal_boundary_kd(self.student, self.teacher, self.literal_mask()))


def mask_targets(x: Inputs) -> list[Target]:
    """Masks against the literal form."""
    many = x.shape[1] > 100
    literal: Call = x.literal_mask
    with_rows = x.mask(x.labels, form=class_edges)
    targets = [
        Target("mask, extension", x.mask(x.labels), literal, 2000 if many else 400, at_least=True),
        Target("mask as rows, extension", with_rows, literal, 2000 if many else 400, at_least=True),
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


def time_row(target: Target, rounds: int) -> Row:
    """Both calls in turns, call by call, so that neither finds its data in the cache.

    The ratio is the median of the rounds' own ratios. There are 20 calls to a round, fewer where they take long.
    """
    calls = {"ours": target.ours, "other": target.other}
    times = Times(in_turns(calls, lambda call: timed(call)[0], CALLS * rounds, seconds=MOST_SECONDS))
    above, below = ("other", "ours") if target.at_least else ("ours", "other")
    row = {"ratio": times.ratio(above, below), "quartiles": quartiles(times.ratios(above, below))}
    row |= {"ratio_of_minima": min(times.ms[above]) / min(times.ms[below])}
    medians = {name: statistics.median(spent) for name, spent in times.ms.items()}
    return {**row, **medians, "unit": "ms", "rounds": len(times.ms["ours"])}


def memory_row(shape: Sequence[int], index: int, peers: Path | None) -> Row:
    """Each call's peak in a process of its own, whose allocator gives freed blocks back at once.

    The call frees the last call's gradient before it makes its own, so the gradient itself is not counted.
    """
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    sides = [json.dumps([list(shape), index, side, str(peers or "")]) for side in ("ours", "other")]
    ours, other = (harness.peak_in_child("benchmarks.targets", [side], **settings) for side in sides)
    return {"ratio": ours / other, "ours": ours, "other": other, "unit": "MiB"}


def child(text: str) -> None:
    """Prints the peak of one call."""
    shape, index, side, peers = json.loads(text)
    torch.set_num_threads(2)
    target = targets_of(tuple(shape), Path(peers) if peers else None)[index]
    print(harness.peak_mib(getattr(target, side), warm_up=True))


def run(peers: Path | None, rounds: int, progress: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """All rows; ``progress`` gets each as it is measured."""
    rows = []
    for shape in LOSS_SHAPES:
        for index, target in enumerate(targets_of(shape, peers)):
            found = memory_row(shape, index, peers) if target.memory else time_row(target, rounds)
            met = found["ratio"] >= target.limit if target.at_least else found["ratio"] <= target.limit
            head = {"what": target.name, "shape": list(shape), "limit": target.limit, "at_least": target.at_least}
            rows.append({**head, **found, "met": bool(met), "load": os.getloadavg()[0]})
            progress(rows[-1])
    return rows


def table(rows: list[Row], extension: str) -> str:
    """The rows as Markdown; ``extension`` names the instruction set of the C++ functions."""
    columns = {
        f"what, C++ on {extension}": "{what}",
        "logits": "{logits}",
        "unit": "{unit}",
        "ours": "{ours:.3g}",
        "other": "{other:.4g}",
        "ratio": "{ratio:.3g}",
        "quartiles": pair_of("quartiles", ".3g"),
        "of minima": "{ratio_of_minima:.3g}",
        "target": "{sign} {limit:g}",
        "": "{verdict}",
    }
    words = {"sign": ("<=", ">="), "verdict": ("**missed**", "met")}
    shown = [
        {**row, "logits": " x ".join(map(str, row["shape"])), "sign": words["sign"][row["at_least"]],
         "verdict": words["verdict"][row["met"]]}
        for row in rows
    ]  # fmt: skip
    return harness.table(columns, shown)


def main(peers: Path | None, rounds: int, threads: int, json_file: Path | None, extension: str) -> int:
    """Measures the targets, prints which are met, writes the record."""
    torch.set_num_threads(threads)
    facts = {"peers": {"mmrazor": sources(peers)["mmrazor"]} if peers else {}, "extension": extension}
    facts |= {"wait": os.environ.get("OMP_WAIT_POLICY", "")}
    record = {"environment": harness.environment(), **facts}
    rows = run(peers, rounds, lambda row: print(f"{row['what']}: {row['ratio']:.3g}", file=sys.stderr, flush=True))
    print(table(rows, extension))
    harness.write_record(json_file, {**record, "rows": rows})
    return 0


if __name__ == "__main__":
    child(sys.argv[1])
