"""Starts the processes of a run, one per GPU or several on a CPU, each of which trains or evaluates."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessRaisedException

from bpkd.analysis.records import environment
from bpkd.config import image_range
from bpkd.convert import load_strict
from bpkd.data import check_dataset, shared_images
from bpkd.errors import for_parent, from_child
from bpkd.files import write_text
from bpkd.modeling import build_student, build_teacher_model
from bpkd.modeling.teachers.classes import class_names

from .configure import load_config
from .evaluate import evaluate
from .process_setup import limit_threads, share_cores
from .run_record import origin, peak_memory, run_record, write_record
from .trainer import DistillationTrainer, method_of

logger = logging.getLogger(__name__)


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Runs training or evaluation in this process; every process of a launch calls it.

    Args:
        args: options as ``bpkd train`` reads them.

    Raises:
        ValueError: the config names no data set for what is to be done.
    """
    cfg = load_config(args.config_file, args.opts, resume=args.resume)
    needed = "TEST" if args.eval_only else "TRAIN"
    if not cfg.DATASETS[needed]:
        raise ValueError(f"DATASETS.{needed}: expected a data set, got none: there is nothing to do.")
    setup(cfg, traceback=getattr(args, "traceback", False))
    if args.eval_only:
        check_files(cfg, [name for name in cfg.DATASETS.TEST if MetadataCatalog.get(name).get("from_folder")])
        return evaluate_only(cfg, args.evaluate)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if comm.is_main_process():  # a refused run or an evaluation leaves the config of the run that is there alone
        write_text(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), cfg.dump())
    check_files(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    if comm.is_main_process() and cfg.DATASETS.CHECK != "off":
        for note in shared_images(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST):
            logger.warning(note)
    return trainer.train()


def check_files(cfg: CfgNode, names: Sequence[str]) -> None:
    """Checks the files of data sets as DATASETS.CHECK says, in the main process; the others wait.

    Args:
        cfg: frozen config.
        names: data sets.

    Raises:
        DatasetError: files are wrong.
    """
    if comm.is_main_process() and cfg.DATASETS.CHECK != "off":
        for name in names:
            check_dataset(name, cfg.DATASETS.CHECK, subset=cfg.DATASETS.SUBSET, span=image_range(cfg))
    comm.synchronize()


def _process(args: argparse.Namespace) -> None:
    if comm.get_world_size() == 1:
        main(args)
        return
    try:
        main(args)
    except Exception as error:
        raise for_parent(error) from error
    leave_group()


def leave_group() -> None:
    """Leaves the process group, all processes together; a group that lives until the exit may abort its process."""
    last = None
    if torch.distributed.get_backend() == "gloo":
        # Held until the group is gone. Otherwise Gloo's thread may be the one that frees it and the tensors of what ran
        # before: it needs the GIL for that, which the group's destructor holds while it waits for the thread.
        last = torch.distributed.barrier(async_op=True)
        last.wait()
    else:
        comm.synchronize()
    comm._get_global_gloo_group.cache_clear()  # it would keep the group
    torch.distributed.destroy_process_group()
    del last


def setup(cfg: CfgNode, *, traceback: bool = False) -> None:
    """Creates OUTPUT_DIR and the log files, and sets torch's global options (threads, TF32, cuDNN).

    Args:
        cfg: frozen config.
        traceback: whether the console shows the frames above an error; the log file always does.
    """
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    for name in ("fvcore", "detectron2", "bpkd"):
        log = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name, abbrev_name=name)
        for handler in log.handlers:
            if getattr(handler, "stream", None) is sys.stdout and not traceback:  # not the log file's
                handler.addFilter(_without_traceback)
    facts = environment()
    logger.info("Commit %s, %s, %s", facts["commit"], facts["versions"], facts["hardware"])
    limit_threads()
    torch.backends.cuda.matmul.allow_tf32 = cfg.SOLVER.TF32
    torch.backends.cudnn.allow_tf32 = cfg.SOLVER.TF32
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def _without_traceback(record: logging.LogRecord) -> bool:
    """Keeps records of errors off the console, where the command ends with one line about them."""
    return not record.exc_info


def evaluate_only(cfg: CfgNode, which: str) -> dict[str, Any]:
    """Evaluates the student (MODEL.WEIGHTS, else the last checkpoint in OUTPUT_DIR) or the teacher.

    The record goes into ``inference_<which>/run.json`` below OUTPUT_DIR.

    Raises:
        FileNotFoundError: there are no weights to evaluate.
    """
    model: Any
    if which == "teacher":
        model = build_teacher_model(cfg)
        weights = cfg.TEACHER.WEIGHTS
    else:
        weights = student_weights(cfg)
        model = build_student(cfg)
        load_strict(model, weights, classes=class_names(cfg, "TEST"), statements=cfg.MODEL.FILE_STATEMENTS)
        model.accelerate(channels_last=cfg.MODEL.CHANNELS_LAST, compiled=cfg.MODEL.COMPILE)
    folder = f"inference_{which}"
    results = evaluate(cfg, model, folder=folder)
    memory, of_what = peak_memory(cfg.MODEL.DEVICE)
    if comm.is_main_process():
        facts = {"method": "teacher" if which == "teacher" else method_of(cfg), **origin(weights), **environment()}
        facts |= {"peak_memory_mb": memory, "peak_memory_of": f"{of_what}, evaluation only"}
        write_record(os.path.join(cfg.OUTPUT_DIR, folder), run_record(cfg, model, results, **facts))
    return results


def student_weights(cfg: CfgNode) -> str:
    """Returns MODEL.WEIGHTS, else the path of the last checkpoint in OUTPUT_DIR.

    Raises:
        FileNotFoundError: there is neither.
    """
    pointer = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if cfg.MODEL.WEIGHTS:
        return cfg.MODEL.WEIGHTS
    if not os.path.isfile(pointer):
        raise FileNotFoundError(
            f"MODEL.WEIGHTS: expected weights, or a checkpoint in OUTPUT_DIR ({cfg.OUTPUT_DIR}), got "
            "neither. Add MODEL.WEIGHTS path/to/model_final.pth."
        )
    with open(pointer) as f:
        return os.path.join(cfg.OUTPUT_DIR, f.read().strip())


def check_processes(args: argparse.Namespace) -> None:
    """Checks that the number of machines, the rank and the URL fit together.

    Args:
        args: options as ``bpkd train`` reads them.

    Raises:
        ValueError: they do not.
    """
    if args.machine_rank >= args.num_machines:
        raise ValueError(
            f"--machine-rank: expected 0 .. {args.num_machines - 1} with --num-machines {args.num_machines}, got "
            f"{args.machine_rank}."
        )
    gpus = torch.cuda.device_count()
    if args.num_gpus > 1 and gpus and args.num_gpus > gpus:
        raise ValueError(f"--num-gpus: expected at most the {gpus} GPUs of this machine, got {args.num_gpus}.")
    url = args.dist_url or "auto"
    if url != "auto" and not url.startswith(("tcp://", "file://", "env://")):
        raise ValueError(f"--dist-url: expected tcp://HOST:PORT, file://PATH, env:// or auto, got {url!r}.")
    if args.dist_url == "auto" and args.num_machines > 1:
        raise ValueError("--dist-url: expected tcp://HOST:PORT, which all machines reach, got auto.")


def run(args: argparse.Namespace) -> None:
    """Starts ``args.num_gpus`` processes on this machine (GPUs, or CPU processes with gloo) and runs `main`.

    Args:
        args: options as ``bpkd train`` reads them.

    Raises:
        KeyboardInterrupt: the run was stopped; its processes have saved a checkpoint and ended.
        UserError: a process ended with an error of the user's; the message is its line.
        RunFailedError: a process failed during the run; the message is its line.
    """
    check_processes(args)
    if args.num_gpus > 1:
        share_cores(args.num_gpus)
    with contextlib.ExitStack() as stack:
        if args.num_gpus > 1:
            stack.enter_context(forwarded_stops())
        try:
            launch(
                _process,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=meeting_place(args, stack),
                args=(args,),
            )
        except ProcessRaisedException as error:
            line = from_child(str(error))
            if line is None:
                raise
            raise line from error


def meeting_place(args: argparse.Namespace, stack: contextlib.ExitStack) -> str:
    """Returns the URL by which the processes of a run form their process group.

    Args:
        args: options as ``bpkd train`` reads them.
        stack: exit stack that removes the file of that URL after the run.
    """
    if args.num_machines == 1 and args.dist_url in (None, "auto"):
        # A file, not a port: a port that is free now may be taken meanwhile.
        return f"file://{stack.enter_context(tempfile.TemporaryDirectory(prefix='bpkd-'))}/processes"
    # Detectron2's own default: the same port for all runs of a user.
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14
    return args.dist_url or f"tcp://127.0.0.1:{port}"


@contextlib.contextmanager
def forwarded_stops() -> Iterator[None]:
    """Forwards SIGINT and SIGTERM to the child processes, which save a checkpoint, and waits for them.

    Without it SIGTERM would end the parent before the checkpoint is written.

    Raises:
        KeyboardInterrupt: at the end, if a signal came.
    """
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        for child in multiprocessing.active_children():
            child.terminate()

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if received:
            raise KeyboardInterrupt(f"by signal {received[0]}")


def __getattr__(name: str) -> Any:
    """Returns functions that moved to `bpkd.cli.train`, under their old names, with a warning."""
    new = {"argument_parser": "parser", "cli": "main"}.get(name)
    if new is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"bpkd.engine.{name} is now bpkd.cli.train.{new}", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module("bpkd.cli.train"), new)
