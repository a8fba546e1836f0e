"""Part 2: kernels, golden networks and short trainings on the device, against plain PyTorch and the goldens."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bpkd.functional import use_backend
from bpkd.functional.backends import dispatch, triton

from .device import Device
from .functions import CASES, FUNCTIONS, KINDS, Inputs, Shape, whole_step
from .items import Item, Part, Row, Settings

ROOT = Path(__file__).resolve().parents[2]
# Of student and teacher. Under autocast the teacher's logits are float32.
TYPES = {
    "float32": (torch.float32, torch.float32),
    "float16": (torch.float16, torch.float16),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float16, float32": (torch.float16, torch.float32),
    "bfloat16, float32": (torch.bfloat16, torch.float32),
}
SHAPES: tuple[Shape, ...] = ((2, 2, 33, 47), (4, 19, 64, 64), (2, 150, 31, 65))
TINY_SHAPES: tuple[Shape, ...] = ((1, 3, 3, 5),)
# Largest relative distance of a gradient, or of the values, to plain PyTorch's; half precision rounds the gradient.
TOLERANCE = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 2e-2}
# The reference's own float32 rounding: the 150 masked logits of a cell are nearly all 0, and at T = 4 its edge term is
# 3e-5 from the same in float64, where the kernels are 2e-6 from it.
LEAST_TOLERANCE = {"boundary_kd": 5e-5}
GOLDEN_FACTOR = 4  # a GPU's convolutions sum in another order than the CPU's, for which the tolerance was determined
STEPS = 100
FIRST_STEPS = 8  # rounding grows with every step: a thousandfold in 15


def as_reference() -> None:
    """Disables TF32 and cuDNN's choice of kernels, so that float32 is computed in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def distance(found: Tensor, want: Tensor) -> float:
    """Returns the norm of the difference over that of ``want``; NaN where shape or type differ or a value is NaN."""
    if found.shape != want.shape or found.dtype != want.dtype:
        return float("nan")
    apart, size = (float(torch.linalg.vector_norm(x.double())) for x in (found - want, want))
    return apart / size if size else apart


def kernels(settings: Settings, seconds: float, *, function: str, dtype: str) -> Row:
    """Compares a function's kernels with plain PyTorch: every shape, kind of labels and option, value and gradient."""
    del seconds
    if triton.unavailable_reason():
        return {"failed": triton.unavailable_reason()}
    if settings.device == "cpu":
        from tests.helpers.interpreter import prepare

        prepare()
    as_reference()
    device, counted, worst, where = torch.device(settings.device), 0, 0.0, ""
    exact = function == "class_edge_mask"
    limit = max(TOLERANCE[dtype.split(",")[0]], LEAST_TOLERANCE.get(function, 0.0)) * (not exact)
    for shape in settings.pick(SHAPES, TINY_SHAPES):
        for kind in settings.pick(KINDS, KINDS[:1]):
            x = Inputs.draw(shape, kind, device, *TYPES[dtype])
            for (case, found), want in zip(
                cases(settings, function, x, "triton"), cases(settings, function, x, "eager"), strict=True
            ):
                for index, pair in enumerate(zip(found, want[1], strict=True)):
                    apart = 0.0 if exact and torch.equal(*pair) else distance(*pair)
                    counted += 1
                    if not apart <= worst:  # NaN too
                        worst, where = apart, f"{tuple(shape)}, {kind}, {case}, result {index}"
    fell_back = [c.reason for c in dispatch.choices() if "triton was asked for, but" in c.reason]
    row: Row = {"compared": counted, "worst": worst, "allowed": limit, "where": where}
    if fell_back:
        row["failed"] = f"the kernels did not run: {fell_back[0]}"
    elif not worst <= limit:
        row["failed"] = f"differs by {worst:.2e} of PyTorch's, allowed are {limit:.0e}: {where}"
    return {**row, "line": f"{counted} results, largest difference {worst:.1e}"}


def cases(settings: Settings, function: str, x: Inputs, path: str) -> Iterator[tuple[str, list[Tensor]]]:
    """Yields a function's cases on one backend; a few with --tiny."""
    found = CASES[function](x)
    for _ in range(settings.pick(1000, 2)):
        with use_backend(path):  # for this case only: the generator of the other backend runs in between
            one = next(found, None)
        if one is None:
            return
        yield one


def backend(settings: Settings) -> str:
    """Returns the backend that is tested on the device."""
    return "auto" if settings.device == "cpu" else "triton"


def streams(settings: Settings, seconds: float) -> Row:
    """Checks that two CUDA streams at once give the same bits as one stream."""
    del seconds
    unit = Device(settings.device)
    xs = [Inputs.draw(shape, "scene", unit.device) for shape in settings.pick(SHAPES[:2], TINY_SHAPES * 2)]
    with use_backend(backend(settings)):
        want = [whole_step(x) for x in xs]
        unit.wait()
        for turn in range(settings.pick(10, 2)):
            for a, b in zip(unit.beside([partial(whole_step, x) for x in xs]), want, strict=True):
                if not all(torch.equal(*pair) for pair in zip(a, b, strict=True)):
                    return {"failed": f"turn {turn}: the results are not the same bits as of one stream"}
    return {"line": "the same bits as one stream"}


def graph(settings: Settings, seconds: float) -> Row:
    """Checks that a replayed CUDA graph of masks, losses and gradient equals plain calls, for other inputs too."""
    del seconds
    as_reference()
    unit, worst = Device(settings.device), 0.0
    first, second = (
        Inputs.draw(settings.pick(SHAPES[1], TINY_SHAPES[0]), kind, unit.device) for kind in ("scene", "all edge")
    )
    second.student.mul_(0.5)
    with use_backend(backend(settings)):
        wants = [whole_step(x) for x in (first, second)]
        replay, outputs = unit.graphed(lambda: whole_step(first))
        for x, want in zip((first, second), wants, strict=True):
            first.student.copy_(x.student)
            first.labels.copy_(x.labels)
            for out in outputs:
                out.zero_()
            replay()
            unit.wait()
            worst = max([worst, *(distance(a, b) for a, b in zip(outputs, want, strict=True))])
    row: Row = {"worst": worst, "line": f"largest difference {worst:.1e}"}
    return row if worst <= 1e-6 else {**row, "failed": f"a replay differs by {worst:.1e}"}


def waiting(settings: Settings, seconds: float) -> Row:
    """Checks that masks, losses and gradient do not synchronise with the GPU."""
    del seconds
    unit = Device(settings.device)
    x = Inputs.draw(settings.pick(SHAPES[1], TINY_SHAPES[0]), "scene", unit.device)
    with use_backend(backend(settings)):
        whole_step(x)  # compiles
        unit.wait()
        with unit.without_waiting():
            whole_step(x)
    return {"line": "no call waits"}


def golden_network(settings: Settings, seconds: float, *, name: str) -> Row:
    """Compares a network of the paper with the golden outputs of its original code, TF32 off."""
    from bpkd.config import read_config
    from bpkd.modeling import build_student
    from tests.helpers.golden_networks import TOLERANCE as ALLOWED
    from tests.helpers.golden_networks import differences, fill

    del seconds
    as_reference()
    opts = ["MODEL.DEVICE", settings.device, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 19]
    model = build_student(read_config(str(ROOT / "configs" / "networks" / f"{name}.yaml"), opts)).eval()
    fill(model, name)
    apart, other = differences(model, name, settings.device)
    return compared(max(apart.values()), ALLOWED * GOLDEN_FACTOR, {"apart": apart, "other_classes": other})


def golden_solov2(settings: Settings, seconds: float, *, name: str) -> Row:
    """Compares the maps of SOLOv2 with mmdetection's, TF32 off."""
    from tests.helpers.golden_solov2 import filled_network, forward_differences

    del seconds
    as_reference()
    model = filled_network(name).to(settings.device)
    apart, _ = forward_differences(model, name, settings.device)
    return compared(max(apart.values()), GOLDEN_FACTOR, {"share_of_tolerance": apart})


def compared(value: float, limit: float, row: Row) -> Row:
    """Returns a row with a value and its limit, failed where the value is above it or NaN."""
    row = {**row, "worst": value, "allowed": limit, "line": f"largest difference {value:.1e} (allowed {limit:.0e})"}
    return row if value <= limit else {**row, "failed": f"differs by {value:.2e}, allowed are {limit:.0e}"}


def curves(settings: Settings, seconds: float) -> Row:
    """Trains a small student with BPKD on every backend from the same weights and compares the losses.

    A second run of plain PyTorch shows the effect of rounding alone. On a GPU bf16 and fp16 are run too, which must
    end near float32.
    """
    del seconds
    as_reference()
    steps, fast = settings.pick(STEPS, 3), "triton" if settings.device == "cuda" else "cpp"
    runs = {"eager": ("eager", "off"), "eager again": ("eager", "off"), fast: (fast, "off")}
    runs |= {f"{fast} {amp}": (fast, amp) for amp in ("bf16", "fp16") if settings.device == "cuda"}
    found = {name: loss_curve(settings, *run, steps=steps) for name, run in runs.items()}
    base = found["eager"]
    begin, end = min(FIRST_STEPS, steps), max(1, steps // 5)
    early = {k: max(abs(a / b - 1) for a, b in zip(c[:begin], base[:begin], strict=True)) for k, c in found.items()}
    late = {k: abs(sum(c[-end:]) / sum(base[-end:]) - 1) for k, c in found.items()}
    row: Row = {"curves": found, "steps": steps, "first_steps_apart": early, "end_apart": late}
    # Rounding errors grow with the steps: first losses are compared one by one, last ones by their mean.
    bad = [] if early[fast] <= max(1e-3, 3 * early["eager again"]) else [f"{fast} begins otherwise"]
    bad += [f"{name} ends elsewhere" for name, apart in late.items() if not apart <= 0.1]
    row["line"] = f"{fast} over eager: first {begin} steps {early[fast]:.1e}, end {late[fast]:.1e} apart"
    return {**row, "failed": f"{', '.join(bad)}; {row['line']}"} if bad else row


def loss_curve(settings: Settings, path: str, amp: str, *, steps: int) -> list[float]:
    """Returns the total loss of every step of the small CamVid pair on procedural scenes."""
    from argparse import Namespace

    from detectron2.utils.events import EventStorage

    from benchmarks.distillers import pair
    from bpkd.data.procedural import make_scene
    from bpkd.engine import DistillationTrainer
    from bpkd.engine.step import StepTrainer
    from bpkd.modeling import SemanticDistiller
    from bpkd.modeling.build_distiller import build_distiller

    from .pairs import PAIRS

    size = settings.pick(128, 64)
    opts = ["DISTILL.METHOD", "BPKD", "TEACHER.AMP", "off", "TEACHER.OPTIMIZE", "off"]
    arguments = {"config_file": str(PAIRS["small"]), "device": settings.device, "size": size, "opts": opts}
    with use_backend(path):
        cfg, student, teacher = pair(Namespace(**arguments))
        scenes = (make_scene(0, i, size, size) for i in range(8 * 4))
        samples = [
            {"image": torch.from_numpy(s.image).permute(2, 0, 1).contiguous(), "sem_seg": torch.from_numpy(s.labels)}
            for s in scenes
        ]
        batches = [samples[i : i + 8] for i in range(0, len(samples), 8)]
        model = SemanticDistiller(student=student, teacher=teacher, distiller=build_distiller(cfg, student, teacher))
        endless = (batches[i % len(batches)] for i in range(steps))
        optimizer = DistillationTrainer.build_optimizer(cfg, model.train())
        trainer, values = StepTrainer(model, endless, optimizer, amp=amp), []
        for trainer.iter in range(steps):
            with EventStorage(trainer.iter):
                trainer.run_step()
            values.append(sum(trainer.values.values()))
    return values


def marked_files() -> list[Path]:
    """Returns the files with tests marked gpu, except the one whose tests are items of this part."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [p for p in files if "mark.gpu" in p.read_text() and p.name != "test_cuda_losses.py"]


def marked_tests(settings: Settings, seconds: float, *, file: str) -> Row:
    """Runs a file's tests marked gpu with pytest; on a CPU all are skipped."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-ra", file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    print(done.stdout[-6000:], done.stderr[-2000:])
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)}
    needed = "passed" if settings.device == "cuda" else "skipped"
    row: Row = {"counts": counts, "line": last}
    if done.returncode or not counts.get(needed):
        row["failed"] = f"pytest ended with status {done.returncode}: {last}"
    return row


def items(settings: Settings) -> list[Item]:
    """Returns the items, the longest first since they run in parallel; then kernels, then whole networks."""
    from tests.helpers.golden_networks import EIGHT
    from tests.helpers.golden_solov2 import FORWARDS

    from .train import two_processes

    found = [
        Item(f"gpu tests of {p.stem}", partial(marked_tests, file=str(p.relative_to(ROOT))), 120)
        for p in marked_files()
    ]
    found.append(Item(f"{settings.pick(STEPS, 3)} steps on every implementation", curves, 90))
    found.append(Item("two processes", two_processes, 120))
    for function in sorted(FUNCTIONS, key=lambda name: name != "boundary_kd"):
        names = list(TYPES) if function.endswith("_kd") else list(TYPES)[:3]  # no teacher
        for dtype in names if function != "class_edge_mask" else names[:1]:
            call: Any = partial(kernels, function=function, dtype=dtype)
            found.append(Item(f"{function} {dtype}", call, 120))
    found += [Item("two streams", streams, 60), Item("CUDA graph", graph, 60), Item("no waiting", waiting, 60)]
    eight, solov2 = (tuple(islice(names, settings.pick(99, 1))) for names in (reversed(EIGHT), FORWARDS))
    found += [Item(f"golden {name}", partial(golden_network, name=name), 90) for name in eight]
    return found + [Item(f"golden solov2_{name}", partial(golden_solov2, name=name), 90) for name in solov2]


PART = Part("correct", "Correct", 70, items, parallel=True)
