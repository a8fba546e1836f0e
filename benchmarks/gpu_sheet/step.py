"""Part 4: whole training steps of the paper's pairs: alone, with the teacher, with each distiller, each way to run."""

from __future__ import annotations

import copy
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmark_distillers import ALONE, BASE, METHODS, NoTerms, endless, freeze, runner, step
from benchmark_losses import make_labels
from benchmark_parts import channel_wise
from fast_targets import literal_cross_entropy
from torch import Tensor, nn

from bpkd.config import read_config
from bpkd.engine import DistillationTrainer
from bpkd.engine.step import StepTrainer
from bpkd.modeling import build_student
from bpkd.modeling.precision import AMP_DTYPES
from bpkd.modeling.teacher import FrozenTeacher

from .device import Call, Device, in_turns, ratio
from .items import Goal, Item, Part, Row, Settings
from .machine import installed

CONFIGS = Path(__file__).resolve().parents[2] / "projects" / "BPKD" / "configs"
PAIRS = {
    "pspnet": CONFIGS / "ade20k" / "pspnet_r18__pspnet_r101.yaml",
    "hrnet": CONFIGS / "ade20k" / "hrnet_w18s__hrnet_w48.yaml",
    "cityscapes": CONFIGS / "cityscapes" / "pspnet_r18__pspnet_r101.yaml",
    "small": CONFIGS / "camvid" / "small__bpkd.yaml",
    "camvid": CONFIGS / "camvid" / "pspnet_r18__pspnet_r101__bpkd.yaml",
    "camvid teacher": CONFIGS.parents[2] / "configs" / "camvid" / "pspnet_r101.yaml",  # a network alone
    "solov2": CONFIGS / "coco" / "solov2_light_r18__solov2_x101_dcn__bpkd_1x.yaml",
}
RIVAL, RIVAL_NETWORKS = "mmrazor's form", "mmrazor's form, mmsegmentation's networks"
SLIM = ("MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 0.0625, "MODEL.SEM_SEG_HEAD.CHANNELS", 16, "MODEL.AUX_HEAD.CHANNELS", 8)
SLIM_HRNET = ("MODEL.HRNET.WIDTH_MULTIPLIER", 0.125, "MODEL.SEM_SEG_HEAD.CHANNELS", 16)
Size = tuple[int, int]


class Pair:
    """A student, a teacher with random weights and a batch; weights do not change a time."""

    def __init__(self, settings: Settings, name: str, size: Size, batch: int, *, opts: tuple[Any, ...] = ()) -> None:
        """Builds both networks of a pair.

        Args:
            settings: device, and whether everything is to be small.
            name: of `PAIRS`.
            size: height and width of the images.
            batch: images.
            opts: KEY VALUE pairs for both configs.
        """
        self.size, batch = settings.pick(size, (64, 64)), settings.pick(batch, 2)
        slim = settings.pick((), SLIM_HRNET if name == "hrnet" else SLIM)
        opts = ("MODEL.DEVICE", settings.device, *slim, *opts)
        self.cfg = read_config(str(PAIRS[name]), ["INPUT.CROP_SIZE", list(self.size), *opts])
        torch.manual_seed(0)
        self.student, self.network = build_student(self.cfg), nn.Identity()
        self.student.accelerate(channels_last=self.cfg.MODEL.CHANNELS_LAST, compiled=self.cfg.MODEL.COMPILE)
        if self.cfg.TEACHER.CONFIG_FILE:
            self.network = build_student(read_config(self.cfg.TEACHER.CONFIG_FILE, [*self.cfg.TEACHER.OPTS, *opts]))
            self.network.drop_auxiliary()
        self.batch = draw_batch(batch, self.size, self.student.num_classes)
        self.device = settings.device

    def teacher(self, fast: str, amp: str) -> FrozenTeacher:
        """The teacher as TEACHER.FAST and TEACHER.AMP would run it."""
        arguments = Namespace(device=self.device, size=max(self.size))
        return freeze(copy.deepcopy(self.network), fast, amp, arguments)

    def step(self, method: str, teacher: FrozenTeacher, amp: str) -> Call:
        """The trainer's own step of a method."""
        return step(method, self.cfg, self.student, teacher, self.batch, amp=amp)


def draw_batch(count: int, size: Size, classes: int) -> list[dict[str, Tensor]]:
    """Seeded noise and scene-like labels, as the loader would deliver them."""
    labels = make_labels(count, max(size), classes)[:, : size[0], : size[1]].contiguous()
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for _ in labels]
    return [{"image": image, "sem_seg": label} for image, label in zip(images, labels, strict=True)]


def timed(settings: Settings, seconds: float, calls: dict[str, Call], images: int, against: str) -> Row:
    """Times the calls in turns: milliseconds, images per second, ratio to one of them, peak memory."""
    unit, end = Device(settings.device), time.monotonic() + seconds
    memory = {name: unit.peak_mib(call) for name, call in calls.items()}  # the first calls: they take their time
    begin = time.monotonic()
    times = in_turns(
        calls, unit.call_ms, rounds=settings.pick(21, 2), seconds=end - begin - 2, least=settings.pick(3, 2)
    )
    rows = {}
    for name, spent in times.items():
        median = statistics.median(spent)
        rows[name] = {
            "ms": median,
            "times_ms": spent,
            "images_s": 1e3 * images / median,
            "ratio": ratio(times, name, against),
            "peak_mib": memory[name],
        }
    found: Row = {"rows": rows, "against": against, "rounds": len(times[against]), "images_per_step": images}
    found["inputs"] = "weights random (seed 0), images noise; two calls before the first round"
    found["measured_seconds"] = time.monotonic() - begin
    return {**found, "line": "; ".join(f"{name} {row['ms']:.1f} ms" for name, row in list(rows.items())[:4])}


def steps(
    settings: Settings,
    seconds: float,
    *,
    name: str,
    size: Size,
    batch: int,
    amp: str,
    methods: tuple[str, ...],
    fast: str = "auto",
    tf32: bool = True,
    benchmark: bool = False,
    opts: tuple[Any, ...] = (),
) -> Row:
    """Times the step of a pair: the student alone, with the teacher, and with each distiller."""
    begin = time.monotonic()
    set_tf32(tf32, benchmark=benchmark)
    pair = Pair(settings, name, size, batch, opts=opts)
    teacher = pair.teacher(fast, amp if amp != "off" else "off")
    calls = {method: pair.step(method, teacher, amp) for method in (ALONE, BASE, *methods)}
    left = seconds - (time.monotonic() - begin)
    row = timed(settings, left, calls, len(pair.batch), BASE)
    row |= {"amp": amp, "tf32": tf32, "cudnn_benchmark": benchmark, "size": list(pair.size)}
    return row | {"teacher": f"{fast}, {teacher.amp}", "preset": pair.cfg.DISTILL.BPKD.PRESET}


def set_tf32(on: bool, *, benchmark: bool = False) -> None:
    """Lets float32 products and convolutions run in TF32, as the configs do, or not.

    Args:
        on: whether.
        benchmark: cuDNN times its kernels for every new shape, seconds to minutes, and takes the fastest; off as in
            the configs (CUDNN_BENCHMARK).
    """
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
    torch.backends.cudnn.benchmark = benchmark


def rival(settings: Settings, seconds: float, *, amp: str) -> Row:
    """BPKD's step as this project runs it, beside the same pair's in mmrazor's form, in the same precision.

    mmrazor's form: the teacher without gradient in the student's autocast, cross entropy of both heads at label size,
    channel-wise distillation, all in plain PyTorch; also with mmsegmentation's networks where they were given.
    """
    begin = time.monotonic()
    set_tf32(True)
    pair = Pair(settings, "cityscapes", (512, 512), 8)
    calls = {
        "BPKD": pair.step("BPKD", pair.teacher("auto", amp), amp),
        "CWD": pair.step("CWD", pair.teacher("auto", amp), amp),
        RIVAL: plain_loop(pair, pair.student, pair.network, our_logits, amp),
    }
    peers: Row = {}
    if settings.peers is not None:
        try:
            calls[RIVAL_NETWORKS] = mmseg_loop(settings, pair, amp)
            peers = {name: installed(name) for name in ("mmsegmentation", "mmengine", "mmcv-lite")}
        except ImportError as error:  # ours is measured without it
            peers = {"error": str(error)}
    left = seconds - (time.monotonic() - begin)
    row = timed(settings, left, calls, len(pair.batch), RIVAL)
    return row | {"amp": amp, "tf32": True, "size": list(pair.size), "peers": peers}


def our_logits(model: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits of the decode and of the auxiliary head."""
    output = model.predict(images)
    return output.logits, output.aux


def mmseg_loop(settings: Settings, pair: Pair, amp: str) -> Call:
    """The plain loop over mmsegmentation's own networks."""
    import sys

    from mmseg_networks import build_mmseg, import_mmseg, mmseg_logits

    sys.path.append(str(settings.peers))
    import_mmseg()
    classes = pair.student.num_classes
    networks = [build_mmseg(name, classes).to(settings.device) for name in ("pspnet_r18", "pspnet_r101")]
    return plain_loop(pair, *networks, mmseg_logits, amp)


def plain_loop(pair: Pair, student: nn.Module, teacher: nn.Module, logits: Callable[..., Any], amp: str) -> Call:
    """One step in mmrazor's form, of copies of the networks."""
    student, teacher = copy.deepcopy(student).train(), copy.deepcopy(teacher).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4)
    device = torch.device(pair.device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        images = torch.stack([item["image"] for item in pair.batch]).to(device).sub(120.0).div(57.0)
        labels = torch.stack([item["sem_seg"] for item in pair.batch]).to(device).long()
        with torch.autocast(device.type, AMP_DTYPES[amp], enabled=amp != "off"):
            decode, aux = logits(student, images)
            with torch.no_grad():
                target, _ = logits(teacher, images)
        loss = literal_cross_entropy(decode.float(), labels) + 3.0 * channel_wise(decode.float(), target.float())
        if aux is not None:
            loss = loss + 0.4 * literal_cross_entropy(aux.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def teachers(settings: Settings, seconds: float, *, ways: tuple[tuple[str, str], ...]) -> Row:
    """Times BPKD's step with every way to run the teacher: (TEACHER.FAST, TEACHER.AMP)."""
    begin = time.monotonic()
    set_tf32(True)
    pair = Pair(settings, "pspnet", (512, 512), 8)
    calls, refused = {}, {}
    for fast, amp in ways:
        name = f"FAST {fast}, AMP {amp}"
        try:
            calls[name] = pair.step("BPKD", pair.teacher(fast, amp), "bf16")
        except ValueError as error:  # needs a GPU
            refused[name] = str(error)
    left = seconds - (time.monotonic() - begin)
    row = timed(settings, left, calls, len(pair.batch), next(iter(calls)))
    return row | {"amp": "bf16", "tf32": True, "size": list(pair.size), "refused": refused}


def layouts(settings: Settings, seconds: float, *, compiled: bool) -> Row:
    """Times BPKD's step with the student in each memory layout, or compiled."""
    begin = time.monotonic()
    set_tf32(True)
    switches: dict[str, tuple[Any, ...]] = {"as it is": ()}
    if compiled:
        switches["compiled"] = ("MODEL.COMPILE", settings.device == "cuda")
    else:
        switches["channels_last"] = ("MODEL.CHANNELS_LAST", True)
    calls: dict[str, Call] = {}
    for name, opts in switches.items():
        pair = Pair(settings, "pspnet", (512, 512), 8, opts=opts)
        calls[name] = pair.step("BPKD", pair.teacher("auto", "bf16"), "bf16")
    left = seconds - (time.monotonic() - begin)
    row = timed(settings, left, calls, len(pair.batch), "as it is")
    return row | {"amp": "bf16", "tf32": True, "size": list(pair.size)}


def profile(settings: Settings, seconds: float) -> Row:
    """Looks into five steps of BPKD: the kernels that take longest, and how much of the time the device works."""
    del seconds
    set_tf32(True)
    unit, pair = Device(settings.device), Pair(settings, "pspnet", (512, 512), 8)
    call = pair.step("BPKD", pair.teacher("auto", "bf16"), "bf16")
    for _ in range(settings.pick(5, 1)):
        call()
    unit.wait()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if unit.cuda:
        activities = [torch.profiler.ProfilerActivity.CUDA]  # of the CPU's nothing: recording it slows the launches
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


def solov2(settings: Settings, seconds: float) -> Row:
    """Times SOLOv2 light's step: alone, with its X101 teacher, and with KD, CWD and BPKD."""
    from benchmark_solov2 import make_instances

    from bpkd.modeling import InstanceDistiller
    from bpkd.modeling.solov2.distillation import build_instance_terms
    from bpkd.modeling.solov2.teacher import FrozenSOLOv2

    begin = time.monotonic()
    set_tf32(True)
    size, count = settings.pick((448, 672), (64, 96)), settings.pick(8, 2)
    opts = ["MODEL.DEVICE", settings.device]
    small = ["MODEL.SOLOV2.CHANNELS", 32, "MODEL.SOLOV2.NUM_CONVS", 1, "MODEL.SOLOV2.MASK_CHANNELS", 32]
    cfg = read_config(str(PAIRS["solov2"]), [*opts, *settings.pick([], small)])
    teacher_cfg = read_config(cfg.TEACHER.CONFIG_FILE, [*cfg.TEACHER.OPTS, *opts])
    torch.manual_seed(0)
    first = build_student(cfg)
    network = copy.deepcopy(first) if settings.tiny else build_student(teacher_cfg)
    generator = torch.Generator().manual_seed(0)
    batch = [
        {
            "image": torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8),
            "instances": make_instances(7, size, seed),
        }
        for seed in range(count)
    ]
    amp = settings.pick("bf16", "off")
    calls: dict[str, Call] = {}
    for name in settings.pick((ALONE, BASE, "KD", "CWD", "BPKD"), (ALONE, BASE, "BPKD")):
        student, parts = copy.deepcopy(first), {}
        if name != ALONE:
            teacher = FrozenSOLOv2(network, inputs="same_ranges", amp=amp)
            cfg.DISTILL.METHOD = name if name != BASE else "BPKD"
            terms = build_instance_terms(cfg, student, teacher)
            parts = {"teacher": teacher, "distiller": NoInstanceTerms() if name == BASE else terms}
        model = InstanceDistiller(student=student, **parts).train()
        optimizer = DistillationTrainer.build_optimizer(cfg, model)
        calls[name] = runner(StepTrainer(model, endless(batch), optimizer, amp=amp))
    left = seconds - (time.monotonic() - begin)
    return timed(settings, left, calls, count, BASE) | {"amp": amp, "tf32": True, "size": list(size)}


class NoInstanceTerms(NoTerms):
    """Stands where the terms of instances would: the teacher answers, nothing is compared."""

    def forward(self, *_: object, **__: object) -> Any:
        """Returns no term and no level."""
        return {}, {}


def loader(settings: Settings, seconds: float) -> Row:
    """Counts the images that the training loader delivers with eight workers on CamVid or drawn scenes."""
    from bpkd.data import build_train_loader, register_datasets

    from .train import data_options, workers

    cfg = read_config(str(PAIRS["small"]), [*data_options(settings), "MODEL.DEVICE", settings.device])
    cfg.DATALOADER.NUM_WORKERS = settings.pick(workers(settings), 1)
    register_datasets(cfg)
    batches, count = iter(build_train_loader(cfg)), 0
    for _ in range(2 * max(1, cfg.DATALOADER.NUM_WORKERS)):
        next(batches)  # the workers begin
    begin, end = time.monotonic(), settings.pick(min(5.0, seconds / 2), 0.5)
    while time.monotonic() < begin + end:
        count += len(next(batches))
    rate = count / (time.monotonic() - begin)
    row = {"images_s": rate, "workers": cfg.DATALOADER.NUM_WORKERS, "crop": list(cfg.INPUT.CROP_SIZE)}
    return row | {"line": f"{rate:.0f} images/s with {row['workers']} workers"}


def goals(rows: dict[str, Row]) -> list[Goal]:
    """The judged figures."""
    found = []
    first = rows.get(FIRST)
    if first:
        text = f"BPKD's step (preset {first['preset']}) over student + teacher, bf16"
        found.append(Goal(text, first["rows"]["BPKD"]["ratio"], 1.02))
    for name in ("bf16", "TF32"):
        row = rows.get(f"{RIVAL}, {name}")
        if row:
            faster = 1 / row["rows"]["BPKD"]["ratio"]
            found.append(Goal(f"BPKD's throughput over {RIVAL}, {name}", faster, 1.3, at_least=True))
    if "profile" in rows:
        found.append(Goal("share of time in which the GPU works", rows["profile"]["busy"], 0.95, at_least=True))
    return found


FIRST = "pspnet 512x512 batch 8 bf16"
FEW = ("CWD", "BPKD")


def items(settings: Settings) -> list[Item]:
    """In order of worth."""
    square: dict[str, Any] = {"name": "pspnet", "size": (512, 512), "batch": 8}
    wide: dict[str, Any] = {"name": "cityscapes", "size": (512, 1024), "batch": 2}
    hrnet: dict[str, Any] = {"name": "hrnet", "size": (512, 512), "batch": 8}
    methods = settings.pick(METHODS, FEW)
    full: dict[str, Any] = {**square, "amp": "off", "fast": "off", "methods": methods}
    ways = (("off", "off"), ("off", "bf16"), ("fold", "bf16"), ("fold+channels_last", "bf16"), ("auto", "off"),
            ("fold+channels_last+stream", "bf16"))  # fmt: skip
    graphs = (("auto", "off"), ("fold+channels_last+graphs", "bf16"))
    return [
        Item(FIRST, partial(steps, **square, amp="bf16", methods=methods), 30),
        Item(f"{RIVAL}, bf16", partial(rival, amp="bf16"), 25),
        Item("profile", profile, 25),
        Item("teacher", partial(teachers, ways=ways), 25),
        Item("pspnet 512x1024 batch 2 bf16", partial(steps, **wide, amp="bf16", methods=methods), 20),
        Item("pspnet 512x512 batch 8 TF32", partial(steps, **full), 25),
        Item(f"{RIVAL}, TF32", partial(rival, amp="off"), 20),
        Item("channels_last", partial(layouts, compiled=False), 20),
        Item("solov2 light 448x672 batch 8", solov2, 25),
        Item("loader", loader, 12),
        Item("hrnet 512x512 batch 8 bf16", partial(steps, **hrnet, amp="bf16", methods=methods), 25),
        Item("teacher in CUDA graphs", partial(teachers, ways=graphs), 90),
        Item("compiled student", partial(layouts, compiled=True), 90),
        Item("pspnet 512x512 batch 8 float32", partial(steps, **full, tf32=False), 25),
        Item(f"{FIRST}, cuDNN benchmark", partial(steps, **square, amp="bf16", methods=("BPKD",), benchmark=True), 60),
    ]


PART = Part("step", "The step", 115, items, goals)
