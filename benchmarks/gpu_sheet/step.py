"""Part 4: whole training steps of the paper's pairs: alone, with the teacher, with each distiller, each way to run."""

from __future__ import annotations

import copy
import time
from functools import partial
from typing import Any

import torch

from benchmarks.distillers import ALONE, BASE, METHODS, NoTerms, endless, runner
from bpkd.config import read_config
from bpkd.engine import DistillationTrainer
from bpkd.engine.step import StepTrainer
from bpkd.modeling import build_student

from .device import Call
from .items import Goal, Item, Part, Row, Settings
from .pairs import PAIRS, Pair, Size, as_loaded, set_tf32, timed
from .profiles import profile
from .rivals import RIVAL, rival


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
) -> Row:
    """Times the step of a pair: the student alone, with the teacher, and with each distiller."""
    begin = time.monotonic()
    set_tf32(tf32, benchmark=benchmark)
    pair = Pair(settings, name, size, batch)
    teacher = pair.teacher(fast, amp)
    calls = {method: pair.step(method, teacher, amp) for method in (ALONE, BASE, *methods)}
    left = seconds - (time.monotonic() - begin)
    row = timed(settings, left, calls, len(pair.batch), BASE)
    row |= {"amp": amp, "tf32": tf32, "cudnn_benchmark": benchmark, "size": list(pair.size)}
    return row | {"teacher": f"{fast}, {teacher.amp}", "preset": pair.cfg.DISTILL.BPKD.PRESET}


def teachers(settings: Settings, seconds: float, *, ways: tuple[tuple[str, str], ...]) -> Row:
    """Times BPKD's step with every way to run the teacher: (TEACHER.OPTIMIZE, TEACHER.AMP)."""
    begin = time.monotonic()
    set_tf32(True)
    pair = Pair(settings, "pspnet", (512, 512), 8)
    calls, refused, precision = {}, {}, {}
    for fast, amp in ways:
        name = f"OPTIMIZE {fast}, AMP {amp}"
        try:
            teacher = pair.teacher(fast, amp)
            calls[name], precision[name] = pair.step("BPKD", teacher, "bf16"), teacher.amp
        except ValueError as error:  # needs a GPU
            refused[name] = str(error)
    left = seconds - (time.monotonic() - begin)
    row = timed(settings, left, calls, len(pair.batch), next(iter(calls)))
    return row | {"amp": "bf16", "tf32": True, "size": list(pair.size), "teacher_runs": precision, "refused": refused}


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


def solov2(settings: Settings, seconds: float) -> Row:
    """Times SOLOv2 light's step: alone, with its X101 teacher, and with KD, CWD and BPKD."""
    from benchmarks.scenes import make_instances
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
    batch = as_loaded(batch, settings)
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
    """Distiller of instances without loss terms: the teacher runs, nothing is compared."""

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
