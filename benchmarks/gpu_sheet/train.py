"""Part 5: the paper's pair on CamVid from scratch, as many iterations as the time gives. And two processes as one."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.distillers import ALONE
from benchmarks.harness import in_turns

from .device import Device
from .items import Goal, Item, Part, Row, Settings
from .pairs import CONFIGS, SLIM, Pair, set_tf32
from .processes import ROOT

TEACHER, STUDENT = "teacher", "student alone"
PAPER, DEFAULT = "BPKD paper", "BPKD default"
# Run -> KEY VALUE pairs beside those of all.
RUNS: dict[str, list[Any]] = {
    TEACHER: [],
    STUDENT: ["DISTILL.METHOD", "none"],
    "CWD": ["DISTILL.METHOD", "CWD"],
    PAPER: ["DISTILL.METHOD", "BPKD", "DISTILL.BPKD.PRESET", "paper"],
    DEFAULT: ["DISTILL.METHOD", "BPKD"],
}
CAMVID = CONFIGS / "camvid" / "pspnet_r18__pspnet_r101__bpkd.yaml"
DRAWN = CONFIGS / "quickstart" / "pspnet__bpkd.yaml"
# Of a run beside its steps: start, two evaluations of 101 images, the checkpoint. An estimate, on the safe side.
SECONDS_BESIDE = 14.0
TEACHER_SHARE = 0.35
LEAST_SHARED = 2**30  # bytes; a worker that finds no room dies of a bus error, and the run with it
SHOWN = ("mIoU", "trimap_w3", "boundary_IoU")
PEERS_STEPS = 10


def pair_config(settings: Settings) -> Path:
    """The pair's config: CamVid where its files were given, else drawn scenes, to walk through the code.

    Raises:
        FileNotFoundError: the full training was asked for without data.
    """
    if settings.data is not None:
        return CAMVID
    if not settings.tiny:
        raise FileNotFoundError("--data: expected the folder that holds camvid/, got none. The training needs it.")
    return DRAWN


def data_options(settings: Settings) -> list[Any]:
    """KEY VALUE pairs that name the data."""
    if settings.data is not None:
        return ["DATASETS.ROOT", str(from_root(settings.data))]
    sets = ["DATASETS.TRAIN", ("procedural_train",), "DATASETS.TEST", ("procedural_val",)]
    return [*sets, "DATASETS.PROCEDURAL.NUM_TRAIN", 16, "DATASETS.PROCEDURAL.NUM_VAL", 2,
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 9]  # fmt: skip


def common_options(settings: Settings) -> list[Any]:
    """KEY VALUE pairs of every run."""
    precision = ["SOLVER.AMP.ENABLED", settings.device == "cuda", "SOLVER.AMP.DTYPE", settings.pick("bf16", "auto")]
    small = settings.pick([], [*SLIM, "SOLVER.IMS_PER_BATCH", 4, "INPUT.CROP_SIZE", [64, 64]])
    found = ["MODEL.DEVICE", settings.device, *data_options(settings), *precision, *small]
    return [*found, "DATALOADER.NUM_WORKERS", workers(settings), "SOLVER.LOG_PERIOD", settings.pick(20, 1)]


def workers(settings: Settings) -> int:
    """Returns the loader's workers: none where the shared memory that their batches pass through is too small."""
    shared = Path("/dev/shm")
    room = shutil.disk_usage(shared).free if shared.is_dir() else LEAST_SHARED
    return settings.pick(8, 0) if room >= LEAST_SHARED else 0


def plan(settings: Settings, seconds: float) -> Row:
    """Times a step of the teacher and of the students, and divides the time into iterations."""
    begin = time.monotonic()
    set_tf32(True)
    pair_config(settings)  # refuses at once where the data is missing
    shutil.rmtree(settings.work / "train", ignore_errors=True)  # runs of another plan
    amp, unit = settings.pick("bf16", "off"), Device(settings.device)
    pair = Pair(settings, "camvid", (360, 360), 16)
    teacher = pair.teacher("auto", amp)
    own = Pair(settings, "camvid teacher", (360, 360), 16)
    calls = {TEACHER: own.step(ALONE, teacher, amp), STUDENT: pair.step(ALONE, teacher, amp)}
    calls["distilled"] = pair.step("BPKD", teacher, amp)
    times = in_turns(calls, unit.call_ms, settings.pick(12, 1), seconds=15, least=settings.pick(4, 1))
    step = {name: sorted(spent)[len(spent) // 2] / 1e3 for name, spent in times.items()}
    left = seconds - (time.monotonic() - begin) - len(RUNS) * SECONDS_BESIDE
    iterations = share_out(left, step)
    if settings.tiny:
        iterations = {TEACHER: 2, STUDENT: 2}
    text = f"{iterations[TEACHER]} iterations of the teacher, {iterations[STUDENT]} of each student"
    row: Row = {"iterations": iterations, "step_seconds": step, "seconds": left, "line": text}
    return row if left > 0 else {**row, "failed": f"{seconds:.0f} s are too few: {text}"}


def share_out(seconds: float, step: dict[str, float]) -> dict[str, int]:
    """Returns the iterations of teacher and students that fit in the time, tens, at least ten."""
    others = step[STUDENT] + (len(RUNS) - 2) * step["distilled"]
    shares = {TEACHER: TEACHER_SHARE * seconds / step[TEACHER], STUDENT: (1 - TEACHER_SHARE) * seconds / others}
    return {name: max(10, int(count) // 10 * 10) for name, count in shares.items()}


def folder_of(settings: Settings, name: str) -> Path:
    """A run's OUTPUT_DIR."""
    return from_root(settings.work / "train" / name.replace(" ", "_"))


def from_root(path: Path) -> Path:
    """Returns a path inside the checkout relative to its root, where items run: records name no machine's folders."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def train(settings: Settings, seconds: float, *, name: str) -> Row:
    """Trains one run of the plan, or goes on with it, and keeps the student's weights in half precision.

    Raises:
        FileNotFoundError: the teacher's weights are not there any more.
    """
    del seconds
    from bpkd.config import read_config

    planned = json.loads((settings.out / f"{PART.name}.json").read_text())["items"]["plan"]["result"]["iterations"]
    count, folder = planned[TEACHER if name == TEACHER else STUDENT], folder_of(settings, name)
    config = pair_config(settings)
    opts = [*common_options(settings), "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", count]
    if name == TEACHER:
        config = Path(read_config(str(config)).TEACHER.CONFIG_FILE)
    elif name != STUDENT:
        weights = str(folder_of(settings, TEACHER) / "model_final.pth")
        if not Path(weights).is_file():
            raise FileNotFoundError(f"{weights}: the teacher's weights are gone. Train it again: --again {PART.name}.")
        opts += ["TEACHER.WEIGHTS", weights, "TEACHER.OPTIMIZE", "auto", "TEACHER.OPTS", settings.pick([], list(SLIM))]
    opts += ["TEST.EVAL_PERIOD", max(1, count // 2), "SOLVER.CHECKPOINT_PERIOD", max(1, count // 4), *RUNS[name]]
    run_engine(config, opts)
    record = json.loads((folder / "run.json").read_text())
    kept: Row = {}
    if name != TEACHER:
        kept = keep_weights(folder, record, settings.out / "students" / f"{name.replace(' ', '_')}.pth")
    scores = {key: record["metrics"][key] for key in SHOWN}
    text = ", ".join(f"{key} {value:.2f}" for key, value in scores.items())
    found: Row = {"run": record, "evaluations": evaluations(folder, count), "weights": kept}
    return {**found, "line": f"{count} iterations: {text}"}


def run_engine(config: Path, opts: list[Any]) -> None:
    """Runs or resumes a training in this process."""
    from bpkd.engine.launch import argument_parser, run

    arguments = ["--config-file", str(config), "--resume", *(str(x) for x in opts)]
    run(argument_parser().parse_args(arguments))


def evaluations(folder: Path, count: int) -> list[Row]:
    """Returns the scores of every evaluation of a run of ``count`` iterations, with how many it had behind it."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    keys = [f"sem_seg/{key}" for key in SHOWN]
    found = []
    for line in (line for line in lines if keys[0] in line):
        scores = {key.split("/")[1]: line[key] for key in keys if key in line}
        found.append({"iteration": min(line["iteration"] + 1, count), **scores})
    return found


def keep_weights(folder: Path, record: Row, target: Path) -> Row:
    """Writes a run's student with its numbers in half precision, and what it is beside them.

    The scores of the run are those of the float32 weights.

    Returns:
        The file's name and SHA-256.
    """
    state: dict[str, Tensor] = torch.load(folder / "model_final.pth", map_location="cpu", weights_only=True)["model"]
    about = {key: record[key] for key in ("method", "dataset", "seed", "iterations", "commit", "config")}
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": halves, "about": about}, target)
    return {"file": f"students/{target.name}", "sha256": hashlib.sha256(target.read_bytes()).hexdigest()}


def two_processes(settings: Settings, seconds: float) -> Row:
    """Trains the small pair in one process and in two that share the device (Gloo): the losses must be the same."""
    found, end = {}, time.monotonic() + seconds
    for world in (1, 2):
        folder = settings.work / "processes" / f"{world}"
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier call
        with tempfile.TemporaryDirectory() as meeting:
            context = multiprocessing.get_context("spawn")
            arguments = (settings, folder, f"file://{meeting}/processes", world)
            children: list[Any] = [context.Process(target=peer, args=(rank, *arguments)) for rank in range(world)]
            for child in children:
                child.start()
            for child in children:
                child.join(max(0.0, end - time.monotonic() - 1))
        if any(child.exitcode != 0 for child in children):  # None: it still runs
            return {"failed": f"of {world}, a process ended with status {[child.exitcode for child in children]}"}
        lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        found[world] = [line["total_loss"] for line in lines if "total_loss" in line]
    apart = max(abs(a / b - 1) for a, b in zip(found[1], found[2], strict=True))
    row: Row = {"losses": found, "largest_difference": apart, "line": f"losses differ by at most {apart:.1e}"}
    return row if apart <= 1e-3 else {**row, "failed": f"the losses of two processes differ by {apart:.1e}"}


def peer(rank: int, settings: Settings, folder: Path, url: str, world: int) -> None:
    """One of the processes that share the device."""
    import torch.distributed as dist
    from detectron2.utils import comm

    from bpkd.engine.launch import argument_parser, leave_group, main

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if world > 1:
        dist.init_process_group("gloo", init_method=url, world_size=world, rank=rank)
        comm.create_local_process_group(world)
    steps = settings.pick(PEERS_STEPS, 2)
    small = ["SOLVER.IMS_PER_BATCH", 4, "INPUT.CROP_SIZE", [64, 64], "DISTILL.METHOD", "none", "SOLVER.TF32", False]
    opts = ["MODEL.DEVICE", settings.device, *data_options(Settings(settings.device, True, folder, folder)), *SLIM]
    opts += [*small, "DATALOADER.NUM_WORKERS", 0, "SOLVER.LOG_PERIOD", 1, "TEST.EVAL_PERIOD", 0]
    opts += ["OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", steps, "MODEL.RESNET_V1C.NORM", "SyncBN"]
    opts += ["MODEL.SEM_SEG_HEAD.NORM", "SyncBN", "MODEL.SEM_SEG_HEAD.DROPOUT", 0.0]
    opts += ["TEACHER.WEIGHTS", "not used"]
    main(argument_parser().parse_args(["--config-file", str(DRAWN), *(str(x) for x in opts)]))
    if world > 1:
        leave_group()


def goals(rows: dict[str, Row]) -> list[Goal]:
    """The judged figures: the loader keeps up."""
    shares = {name: rows[name]["run"]["data_share"] for name in RUNS if name in rows}
    return [Goal(f"share of the time that {name} waits for data", share, 0.05) for name, share in shares.items()]


def items(settings: Settings) -> list[Item]:
    """The plan, then the runs in their order."""
    del settings
    found = [Item("plan", plan, 1e9), Item(TEACHER, partial(train, name=TEACHER), 1e9, needs=("plan",))]
    needs = ("plan", TEACHER)
    found += [Item(name, partial(train, name=name), 1e9, needs=needs if name != STUDENT else ("plan",))
              for name in list(RUNS)[1:]]  # fmt: skip
    return found


PART = Part("train", "Train", 0, items, goals)
