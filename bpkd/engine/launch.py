"""From command line to a run: arguments, config, processes."""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from bpkd.analysis.records import environment
from bpkd.config import check_values, read_config
from bpkd.convert import load_strict
from bpkd.data import check_dataset, register_datasets
from bpkd.functional.backends import native
from bpkd.functional.backends.settings import requested_backend
from bpkd.modeling import (
    build_instance_teacher_model,
    build_student,
    build_teacher_model,
    predicts_instances,
    student_architecture,
)

from .evaluate import evaluate
from .process_setup import limit_threads, settle_precision, share_cores
from .run_record import origin, peak_memory, run_record, write_record
from .trainer import DistillationTrainer, method_of

logger = logging.getLogger(__name__)


def argument_parser() -> argparse.ArgumentParser:
    """Returns Detectron2's parser with bpkd's options."""
    parser = default_argument_parser(
        epilog="KEY VALUE pairs at the end change the config, e.g. SOLVER.BASE_LR 0.005 DISTILL.METHOD CWD."
    )
    parser.add_argument(
        "--evaluate",
        choices=("student", "teacher"),
        default="student",
        help="with --eval-only: which of the two networks to evaluate",
    )
    return parser


def load_config(config_file: str, opts: Sequence[str] = (), *, resume: bool = False) -> CfgNode:
    """Reads a config (see ``read_config``), chooses device and precision, registers the data sets and freezes.

    Args:
        config_file: YAML file.
        opts: KEY VALUE pairs.
        resume: a run that is in OUTPUT_DIR goes on in the precision that it began with, where "auto" is asked for.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a key is unknown, a value has the wrong type, a distiller is named where nothing is distilled, or
            BPKD_BACKEND or BPKD_NATIVE_LEVEL names what is not to be had here.
    """
    cfg = read_config(config_file, opts)
    check_values(cfg)
    requested_backend()
    native.check_level()
    try:
        kind = torch.device(cfg.MODEL.DEVICE).type
    except RuntimeError:
        message = f"MODEL.DEVICE: expected cpu, cuda or cuda:N, got {cfg.MODEL.DEVICE!r}."
        raise ValueError(message) from None
    if kind == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    settle_precision(cfg, resume=resume)
    register_datasets(cfg)
    check_data_sets(cfg)
    check_classes(cfg)
    cfg.freeze()
    return cfg


def check_data_sets(cfg: CfgNode) -> None:
    """Makes sure that DATASETS.TRAIN and DATASETS.TEST name sets that can be read.

    Raises:
        ValueError: both are empty, or a data set is unknown.
    """
    if not cfg.DATASETS.TRAIN and not cfg.DATASETS.TEST:
        raise ValueError(
            "DATASETS.TRAIN, DATASETS.TEST: expected a data set, got none. The files of configs/networks describe "
            "networks alone: use the one of a data set (configs/camvid, ...), or name both."
        )
    known = [n for n in DatasetCatalog.list() if {"label_table", "published"} & MetadataCatalog.get(n).as_dict().keys()]
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name in known:
            continue
        raise ValueError(
            f"DATASETS: expected one of {', '.join(known)}, got {name!r}. Your own data needs DATASETS.FOLDER.NAME "
            "or, with objects, DATASETS.COCO_FOLDER.NAME."
        )


def check_classes(cfg: CfgNode) -> None:
    """Compares the configured data sets with the network.

    Classes of objects that only the COCO file names are compared when it is read.

    Raises:
        ValueError: a data set has another number of classes than the network, or holds objects where label maps are
            needed, or the other way round.
    """
    objects = predicts_instances(cfg)
    key = "MODEL.SOLOV2.NUM_CLASSES" if objects else "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
    wanted = cfg.MODEL.SOLOV2.NUM_CLASSES if objects else cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        meta = MetadataCatalog.get(name)
        if (meta.get("evaluator_type") == "coco") != objects:
            have, need = ("label maps", "objects") if objects else ("objects", "label maps")
            network = student_architecture(cfg)
            key = "MODEL.META_ARCHITECTURE" if network == cfg.MODEL.META_ARCHITECTURE else "DISTILL.STUDENT"
            raise ValueError(f"DATASETS: {name} holds {have}; {key} {network} needs {need}.")
        names = meta.get("thing_classes" if objects else "stuff_classes", ())
        if names and len(names) != wanted:
            raise ValueError(
                f"{key} is {wanted}, but {name} has {len(names)} classes "
                f"({', '.join(names[:4])}, ...). Set it to {len(names)}."
            )


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Runs training or evaluation in this process; every process of a launch calls it."""
    cfg = load_config(args.config_file, args.opts, resume=args.resume)
    needed = "TEST" if args.eval_only else "TRAIN"
    if not cfg.DATASETS[needed]:
        raise ValueError(f"DATASETS.{needed}: expected a data set, got none: there is nothing to do.")
    setup(cfg)
    if args.eval_only:
        return evaluate_only(cfg, args.evaluate)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if comm.is_main_process():  # a refused run or an evaluation leaves the config of the run that is there alone
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        with open(path + ".tmp", "w") as f:
            f.write(cfg.dump())
        os.replace(path + ".tmp", path)  # whole or not at all
    if comm.is_main_process() and cfg.DATASETS.CHECK != "off":
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            check_dataset(name, mode=cfg.DATASETS.CHECK, subset=cfg.DATASETS.SUBSET)
    comm.synchronize()
    return trainer.train()


def _process(args: argparse.Namespace) -> None:
    main(args)
    if comm.get_world_size() > 1:
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


def setup(cfg: CfgNode) -> None:
    """Makes OUTPUT_DIR with its log, and sets torch's global switches."""
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    for name in ("fvcore", "detectron2", "bpkd"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name, abbrev_name=name)
    facts = environment()
    logger.info("Commit %s, %s, %s", facts["commit"], facts["versions"], facts["hardware"])
    limit_threads()
    torch.backends.cuda.matmul.allow_tf32 = cfg.SOLVER.TF32
    torch.backends.cudnn.allow_tf32 = cfg.SOLVER.TF32
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def evaluate_only(cfg: CfgNode, which: str) -> dict[str, Any]:
    """Evaluates the student (MODEL.WEIGHTS, else the last checkpoint in OUTPUT_DIR) or the teacher.

    The record goes into ``inference_<which>/run.json`` below OUTPUT_DIR.

    Raises:
        FileNotFoundError: there are no weights to evaluate.
    """
    model: Any
    if which == "teacher":
        model = build_instance_teacher_model(cfg) if predicts_instances(cfg) else build_teacher_model(cfg)
        weights = cfg.TEACHER.WEIGHTS
    else:
        weights = student_weights(cfg)
        model = build_student(cfg)
        load_strict(model, weights)
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
            f"--eval-only: expected MODEL.WEIGHTS or a checkpoint in OUTPUT_DIR ({cfg.OUTPUT_DIR}), got "
            "neither. Add MODEL.WEIGHTS path/to/model_final.pth."
        )
    with open(pointer) as f:
        return os.path.join(cfg.OUTPUT_DIR, f.read().strip())


def cli(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status (130 after Ctrl-C, with the run saved)."""
    args = argument_parser().parse_args(argv)
    try:
        run(args)
    except KeyboardInterrupt as stop:
        logger.warning("Stopped %s. The same command with --resume goes on.", stop)
        return 130
    return 0


def run(args: argparse.Namespace) -> None:
    """Starts ``args.num_gpus`` processes on this machine (GPUs, or CPU processes with gloo) and runs ``main``.

    Raises:
        KeyboardInterrupt: the run was stopped; its processes have saved it and ended.
    """
    if args.num_gpus > 1:
        share_cores(args.num_gpus)
    with contextlib.ExitStack() as stack:
        url = args.dist_url
        if args.num_gpus > 1:
            stack.enter_context(forwarded_stops())
            if args.num_machines == 1 and url in ("auto", argument_parser().get_default("dist_url")):
                # A file, not a port: the default port is the same for every run, and a free one may be taken meanwhile.
                url = f"file://{stack.enter_context(tempfile.TemporaryDirectory(prefix='bpkd-'))}/processes"
        launch(
            _process,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=url,
            args=(args,),
        )


@contextlib.contextmanager
def forwarded_stops() -> Iterator[None]:
    """Passes SIGINT and SIGTERM on to the child processes, which save the run, and waits for them.

    Without it a SIGTERM would end the parent at once, and whoever started it would take the run for saved.

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
