"""Part 3: masks, losses and cross entropy against plain PyTorch, torch.compile and mmrazor's form: time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Times, in_turns
from benchmarks.scenes import (
    literal_boundary_kd,
    literal_channel_kd,
    literal_cross_entropy,
    literal_edge_mask,
    make_labels,
)
from benchmarks.targets import PRESETS as RATED
from bpkd.functional import (
    boundary_kd,
    channel_kd,
    class_edge_mask,
    class_edges,
    pixel_kd,
    upsampled_cross_entropy,
    use_backend,
)

from .correct import as_reference
from .device import Device
from .functions import IGNORE, KERNEL, STRIDE, Shape
from .items import Goal, Item, Part, Row, Settings

SHAPES: tuple[Shape, ...] = ((4, 150, 64, 64), (8, 19, 128, 256), (8, 150, 128, 128))
TINY_SHAPE: Shape = (2, 5, 8, 8)
OURS, EAGER, LITERAL, MMRAZOR = "ours", "PyTorch", "as written", "mmrazor's form"
# Presets of bpkd.distillers.bpkd.
PRESETS = {**RATED, "paper": {"pre_mask": "soft", "normalizer": "average", "weights": (50.0, 20.0)}}
TRAFFIC = "traffic: both maps read, one written"
Step = Callable[[], Sequence[Tensor]]


class Maps:
    """Labels and both maps of one shape on a device, and the calls that are timed on them."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        """Draws them, seeded."""
        n, k, h, w = shape
        generator = torch.Generator().manual_seed(0)
        labels = make_labels(n, STRIDE * max(h, w), k, device=device)  # on a CPU they would take seconds
        self.labels = labels[:, : STRIDE * h, : STRIDE * w].contiguous()
        teacher = 3 * torch.randn(shape, generator=generator)
        student = teacher + 2 * torch.randn(shape, generator=generator)
        self.teacher, self.student = teacher.to(device, dtype), student.to(device, dtype).requires_grad_()
        self.classes, self.size, self.out = k, (h, w), torch.empty_like(self.teacher)
        self.mask, self.edges = self.make_mask(), self.make_edges()

    def make_mask(self, path: str = "auto") -> Tensor:
        """The edge masks at the maps' size."""
        with use_backend(path):
            return class_edge_mask(self.labels, self.classes, KERNEL, self.size, ignore_index=IGNORE)

    def make_edges(self) -> Any:
        """The same in the form that the distiller hands to the loss."""
        return class_edges(self.labels, self.classes, KERNEL, self.size, ignore_index=IGNORE)

    def literal_mask(self) -> Tensor:
        """The same, each class's mask dilated and eroded."""
        return literal_edge_mask(self.labels, self.classes, KERNEL, self.size)

    def step(self, loss: Callable[[], Tensor], path: str = "auto") -> Step:
        """A loss, forward and backward; returns loss and gradient."""

        def call() -> Sequence[Tensor]:
            with use_backend(path):
                value = loss()
                return value.detach(), torch.autograd.grad(value, self.student)[0]

        return call

    def boundary(self, preset: str, mask: Callable[[], Any], path: str = "auto") -> Step:
        """Both terms of BPKD on masks that are ready, or are made in the step."""
        options = PRESETS[preset]
        return self.step(lambda: sum(boundary_kd(self.student, self.teacher, mask(), **options)), path)  # type: ignore

    def traffic(self) -> Sequence[Tensor]:
        """What no loss can be faster than: both maps are read and a gradient is written."""
        return (torch.add(self.student.detach(), self.teacher, out=self.out),)


def mmrazor_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """The KLDivergence of mmrazor at temperature 1: PyTorch's own over the classes, its mean over the pixels."""
    pixels = student.numel() // student.shape[1]
    return F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="sum") / pixels


def variants(x: Maps) -> dict[str, Step]:
    """Everything that is timed at one shape: "what, how"."""
    s, t, labels = x.student, x.teacher, x.labels
    found: dict[str, Step] = {f"masks, {OURS}": lambda: (x.make_mask(),)}
    found[f"masks, {EAGER}"] = lambda: (x.make_mask("eager"),)
    found[f"masks, {LITERAL}"] = lambda: (x.literal_mask(),)
    for preset in PRESETS:
        whole, ready = f"masks + BPKD {preset}", f"BPKD {preset}"
        found[f"{whole}, {OURS}"] = x.boundary(preset, x.make_edges)
        found[f"{whole}, {EAGER}"] = x.boundary(preset, partial(x.make_mask, "eager"), "eager")
        found[f"{ready}, {OURS}"] = x.boundary(preset, lambda: x.edges)
        found[f"{ready}, {EAGER}"] = x.boundary(preset, lambda: x.mask, "eager")
    found[f"masks + BPKD literal, {LITERAL}"] = x.step(
        lambda: literal_boundary_kd(s.float(), t.float(), x.literal_mask())
    )
    found[f"BPKD literal, {LITERAL}"] = x.step(lambda: literal_boundary_kd(s.float(), t.float(), x.mask))
    for path, name in (("auto", OURS), ("eager", EAGER)):
        found[f"CWD, {name}"] = x.step(lambda: channel_kd(s, t), path)
        found[f"KD, {name}"] = x.step(lambda: pixel_kd(s, t), path)
        found[f"cross entropy, {name}"] = x.step(lambda: upsampled_cross_entropy(s, labels), path)
    found[f"CWD, {MMRAZOR}"] = x.step(lambda: literal_channel_kd(s, t))
    found[f"KD, {MMRAZOR}"] = x.step(lambda: mmrazor_kl(s, t))
    found[f"cross entropy, {LITERAL}"] = x.step(lambda: literal_cross_entropy(s, labels.long()))
    found[TRAFFIC] = x.traffic
    return found


def compiled_variants(x: Maps, backend: str = "inductor") -> dict[str, Step]:
    """The same formulas through torch.compile, beside ours."""
    s, t, labels = x.student, x.teacher, x.labels.long()
    boundary, channel, pixel, entropy = (
        torch.compile(function, dynamic=False, backend=backend)
        for function in (literal_boundary_kd, literal_channel_kd, mmrazor_kl, literal_cross_entropy)
    )
    kept = ("BPKD literal", "CWD", "KD", "cross entropy")
    found = {name: call for name, call in variants(x).items() if name in {f"{k}, {OURS}" for k in kept}}
    found["BPKD literal, torch.compile"] = x.step(lambda: boundary(s.float(), t.float(), x.mask))
    found["CWD, torch.compile"] = x.step(lambda: channel(s, t))
    found["KD, torch.compile"] = x.step(lambda: pixel(s, t))
    found["cross entropy, torch.compile"] = x.step(lambda: entropy(s, labels))
    return {**found, TRAFFIC: x.traffic}


def check_same(found: dict[str, Step], dtype: torch.dtype) -> None:
    """Makes sure that the variants of one loss compute the same, before a time is compared.

    Raises:
        RuntimeError: two values differ by more than rounding.
    """
    limit, values = 1e-3 if dtype == torch.float32 else 5e-2, {}
    for name, call in found.items():
        what = name.rsplit(",", 1)[0]
        value = call()[0].float()
        first = values.setdefault(what, value)
        apart = float((value - first).abs().max() / first.abs().max().clamp(min=1e-12))
        if not apart <= limit:
            raise RuntimeError(f"{name}: differs by {apart:.1e} from {what} in its first form: the times mean nothing")


def timed(settings: Settings, seconds: float, *, shape: Shape, dtype: str, compiled: bool = False) -> Row:
    """Times every variant at a shape: called as it is, and on the device alone from a CUDA graph where that works.

    "device_ms" is what the device works on it with cold caches; "call_ms" what a program waits for one call.
    """
    end = time.monotonic() + seconds
    as_reference()
    unit, kind = Device(settings.device), getattr(torch, dtype)
    shape = settings.pick(shape, TINY_SHAPE)
    x = Maps(shape, kind, unit.device)
    # A C++ compiler takes a minute for what is only to be walked through.
    calls = compiled_variants(x, settings.pick("inductor", "aot_eager")) if compiled else variants(x)
    check_same(calls, kind)
    memory = {name: unit.extra_mib(call) for name, call in calls.items()}
    replays: dict[str, Callable[[], object]] = {}
    without_graph: dict[str, str] = {}
    for name, call in calls.items():
        try:
            replays[name] = unit.graphed(call, keep=False)[0]
        except Exception as error:
            if unit.cuda and "illegal" in str(error):
                raise
            without_graph[name] = str(error).strip().splitlines()[0][:200]
            replays[name] = call
    left = end - time.monotonic() - 2  # what was warmed up and captured has taken its time
    most, least = settings.pick((31, 3), (2, 2))
    on_device = Times(in_turns(replays, unit.device_ms, most, seconds=0.6 * left, least=least))
    left = end - time.monotonic() - 2
    whole = in_turns(calls, unit.call_ms, settings.pick(11, 2), seconds=0.7 * left, least=2)
    moved, copied = 3 * x.out.numel() * x.out.element_size(), unit.copy_gb_s(settings.pick(2**28, 2**12), 5)
    rows = {}
    for name in calls:
        median = statistics.median(on_device.ms[name])
        rows[name] = {
            "device_ms": median,
            "call_ms": statistics.median(whole[name]),
            "rounds": len(on_device.ms[name]),
            "times_ms": on_device.ms[name],
            "extra_mib": memory[name],
            "gb_s": moved / median / 1e6,
            "share_of_copy": moved / median / 1e6 / copied,
            "over_traffic": on_device.ratio(name, TRAFFIC),
        }
    ratios = {f"{a} over {b}": on_device.ratio(a, b) for a, b in pairs(calls)}
    row: Row = {"shape": list(shape), "label_size": list(x.labels.shape[1:]), "seed": 0, "dtype": dtype}
    row |= {"rows": rows, "ratios": ratios, "without_graph": without_graph}
    return {**row, "line": summary(rows)}


def pairs(calls: dict[str, Any]) -> list[tuple[str, str]]:
    """Ours beside every other form of the same."""
    found = []
    for name in calls:
        what, _, how = name.rpartition(", ")
        if what and how != OURS:
            found.append((f"{what}, {OURS}", name))
    return [pair for pair in found if pair[0] in calls]


def summary(rows: dict[str, Row]) -> str:
    """The times that matter most, in one line."""
    wanted = [
        name for name in (f"masks + BPKD literal, {OURS}", f"CWD, {OURS}", f"cross entropy, {OURS}") if name in rows
    ]
    return "; ".join(f"{name.rsplit(',', 1)[0]} {rows[name]['device_ms']:.3f} ms" for name in wanted)


def goals(rows: dict[str, Row]) -> list[Goal]:
    """The judged figures."""
    found = []
    name, literal = f"masks + BPKD literal, {OURS}", f"masks + BPKD literal, {LITERAL}"
    first = rows.get(title(SHAPES[0], "float32"))
    if first:
        how = "not captured in a CUDA graph" if name in first["without_graph"] else "in a CUDA graph"
        found.append(Goal(f"masks + BPKD {how}, ms at 4x150x64x64", first["rows"][name]["device_ms"], 0.1))
        faster = 1 / first["ratios"][f"{name} over {literal}"]
        found.append(Goal("masks + BPKD, times faster than the literal form", faster, 35, at_least=True))
    last = rows.get(title(SHAPES[2], "float32"))
    if last:
        for preset in PRESETS:
            value = last["rows"][f"BPKD {preset}, {OURS}"]["over_traffic"]
            found.append(Goal(f"BPKD {preset} over the memory traffic at 8x150x128x128", value, 1.5))
        found.append(
            Goal("CWD over the memory traffic at 8x150x128x128", last["rows"][f"CWD, {OURS}"]["over_traffic"], 1.5)
        )
    for shape in SHAPES:
        row = rows.get(title(shape, "float32"))
        if row:
            ours, other = f"cross entropy, {OURS}", f"cross entropy, {LITERAL}"
            size = "x".join(map(str, shape))
            found.append(Goal(f"cross entropy over torch's, time at {size}", row["ratios"][f"{ours} over {other}"], 1))
            memory = [row["rows"][name]["extra_mib"] for name in (ours, other)]
            if all(value is not None for value in memory):
                found.append(Goal(f"cross entropy over torch's, memory at {size}", memory[0] / memory[1], 0.1))
    return found


def title(shape: Shape, dtype: str) -> str:
    """The item's name."""
    return f"{'x'.join(map(str, shape))} {dtype}"


def items(settings: Settings) -> list[Item]:
    """In order of worth: float32, bf16 at the largest and the first shape, torch.compile, the rest."""
    del settings
    found = [Item(title(s, "float32"), partial(timed, shape=s, dtype="float32"), 30) for s in SHAPES]
    halves = [Item(title(s, "bfloat16"), partial(timed, shape=s, dtype="bfloat16"), 25) for s in SHAPES]
    compiled: Any = partial(timed, shape=SHAPES[0], dtype="float32", compiled=True)
    last = Item(f"torch.compile at {title(SHAPES[0], 'float32')}", compiled, 50)
    return [*found, halves[2], halves[0], last, halves[1]]


PART = Part("losses", "Losses", 85, items, goals)
