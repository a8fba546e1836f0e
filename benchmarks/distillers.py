"""Time the training step of a student alone, with a teacher, and with each distiller: one process, in turns.

Every round runs one step of each variant (forward, backward, optimizer; the trainer's own step). What a distiller costs
is the median of the rounds' own differences to the step of student and teacher without a distiller.
`python -m benchmarks.distillers --threads 1 --rounds 41 --json bench.json`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from benchmarks import harness
from benchmarks.harness import ROOT, Row, Times, pair_of, spread
from benchmarks.scenes import make_batch
from bpkd.config import read_config
from bpkd.distillers import DISTILLERS, DistillationModule
from bpkd.engine import DistillationTrainer
from bpkd.engine.step import StepTrainer
from bpkd.modeling import DenseModel, SemanticDistiller, build_student
from bpkd.modeling.build_distiller import build_distiller
from bpkd.modeling.teachers.acceleration import Optimizations, optimize_for_inference
from bpkd.modeling.teachers.combined import OneTeacher
from bpkd.modeling.teachers.frozen import FrozenTeacher

PAIR = ROOT / "projects" / "BPKD" / "configs" / "camvid" / "small__bpkd.yaml"
ALONE, BASE = "student alone", "student + teacher"
METHODS = ("KD", "CWD", "SKDS", "IFVD", "CIRKD", "BPKD")
COLUMNS = {
    "training step": "{variant}",
    "median ms": "{median_ms:.1f}",
    "20 - 80 %": pair_of("spread_ms", ".1f"),
    "extra ms": "{extra_ms:.1f}",
    "extra, 20 - 80 %": pair_of("extra_spread_ms", ".1f"),
    "extra %": "{extra_percent:.1f}",
    "peak MiB": "{peak_mib:.0f}",
}


class NoTerms(DistillationModule):
    """Distiller without loss terms: the teacher runs, nothing is compared."""

    def forward(self, *_: object) -> dict[str, Tensor]:
        """Returns no term."""
        return {}

    def compared_features(self) -> frozenset[str]:
        """Returns none, so that the teacher's features are not kept."""
        return frozenset()


def pair(args: argparse.Namespace) -> tuple[CfgNode, nn.Module, FrozenTeacher]:
    """The config and its two networks, with random weights, since a teacher's time does not depend on them."""
    size = ["INPUT.CROP_SIZE", [args.size, args.size]]  # what training images are padded to
    cfg = read_config(args.config_file, ["MODEL.DEVICE", args.device, *size, *args.opts])
    teacher_cfg = read_config(cfg.TEACHER.CONFIG_FILE, ["MODEL.DEVICE", args.device, *cfg.TEACHER.OPTS])
    torch.manual_seed(0)
    student, teacher = build_student(cfg), build_student(teacher_cfg)
    student.accelerate(channels_last=cfg.MODEL.CHANNELS_LAST)
    teacher.drop_auxiliary()
    teacher.accelerate(channels_last=teacher_cfg.MODEL.CHANNELS_LAST)
    return cfg, student, freeze(teacher, cfg.TEACHER.OPTIMIZE, cfg.TEACHER.AMP, args)


def freeze(model: DenseModel, fast: str, amp: str, args: argparse.Namespace) -> FrozenTeacher:
    """Returns the frozen teacher with the config's TEACHER.OPTIMIZE and AMP."""
    plan = Optimizations.choose(fast, amp, torch.device(args.device))
    optimize_for_inference(model.eval(), plan, lambda: torch.randn(1, 3, args.size, args.size, device=args.device))
    return FrozenTeacher(model, amp=plan.amp, stream="stream" in plan.names)


def steps(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """One training step of every variant; all start from the same student and see the same batch."""
    cfg, first, teacher = pair(args)
    batch = make_batch(args.batch, (args.size, args.size), first.num_classes)
    return {name: step(name, cfg, first, teacher, batch) for name in (ALONE, BASE, *args.methods)}


def step(
    name: str,
    cfg: CfgNode,
    first: nn.Module,
    teacher: OneTeacher,
    batch: list[dict[str, Tensor]],
    *,
    amp: str = "off",
) -> Callable[[], None]:
    """The trainer's own step of one variant, from a copy of the student, which computes in ``amp``."""
    student = copy.deepcopy(first)
    cfg.DISTILL.METHOD = name if name in DISTILLERS else "none"
    parts: dict[str, Any] = {}
    if name != ALONE:
        distiller = build_distiller(cfg, student, teacher) if name in DISTILLERS else NoTerms()
        parts = {"teacher": teacher, "distiller": distiller.to(student.device)}
    model = SemanticDistiller(student=student, **parts).train()
    return runner(StepTrainer(model, endless(batch), DistillationTrainer.build_optimizer(cfg, model), amp=amp))


def endless(batch: list[dict[str, Tensor]]) -> Iterator[list[dict[str, Tensor]]]:
    """Yields the same batch endlessly."""
    while True:
        yield batch


def runner(trainer: StepTrainer) -> Callable[[], None]:
    """Returns a function that runs the trainer's next step and frees its gradients."""
    trainer.iter = 0

    def run() -> None:
        with EventStorage(trainer.iter):
            trainer.run_step()
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.iter += 1

    return run


def summarise(times: Times) -> list[Row]:
    """Rows of the table: the step, and what it takes beyond that of student and teacher."""
    base, rows = times.ms[BASE], []
    for name, spent in times.ms.items():
        extra = [a - b for a, b in zip(spent, base, strict=True)]
        row = {"variant": name, **times.row(name), "spread_ms": spread(spent)}
        row |= {"extra_ms": statistics.median(extra), "extra_spread_ms": spread(extra)}
        rows.append({**row, "extra_percent": 100 * statistics.median(r - 1 for r in times.ratios(name, BASE))})
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the arguments."""
    parser = harness.make_parser(__doc__, rounds=21, device="auto")
    parser.add_argument("--config-file", default=str(PAIR), help="a student's config with TEACHER.CONFIG_FILE")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=sorted(DISTILLERS), help="distillers")
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=8, help="images of a step")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config")
    args = harness.parse(parser, argv)
    if args.batch < 2:
        parser.error("--batch: expected at least 2 (batch norm over 1x1 maps)")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    args = parse(argv)
    record = harness.new_record(args)
    record["setting"] |= {"config_file": harness.shown_path(args.config_file), "opts": args.opts}
    clock = harness.clock_of(args)
    record["rows"] = summarise(harness.measure(steps(args), args.rounds, harness.is_cuda(args), clock=clock))
    print(harness.table(COLUMNS, record["rows"]))
    harness.write_record(args.json, record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
