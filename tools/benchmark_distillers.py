"""Time the training step of a student alone, with a teacher, and with each distiller: one process, interleaved.

Every round runs one step of each variant (forward, backward, optimizer; the trainer's own step), in an order that
rotates and turns round. What a distiller costs is the median of the rounds' own differences to the step of student and
teacher without a distiller. `python tools/benchmark_distillers.py --threads 1 --repeats 41 --json bench.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from benchmark_losses import make_labels
from benchmark_networks import measure
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from bpkd.analysis.records import environment
from bpkd.config import read_config
from bpkd.distillers import DISTILLERS
from bpkd.engine import DistillationTrainer
from bpkd.engine.step import StepTrainer
from bpkd.modeling import DenseModel, SemanticDistiller, build_student
from bpkd.modeling.distillation import build_distiller
from bpkd.modeling.teachers.acceleration import Plan, make_fast
from bpkd.modeling.teachers.combined import OneTeacher
from bpkd.modeling.teachers.frozen import FrozenTeacher

PAIR = Path(__file__).resolve().parents[1] / "projects" / "BPKD" / "configs" / "camvid" / "small__bpkd.yaml"
CPU_TIME = "processor time of this process, not the clock's: where other programs take turns on the CPU"
ALONE, BASE = "student alone", "student + teacher"
METHODS = ("KD", "CWD", "SKDS", "IFVD", "CIRKD", "BPKD")
Row = dict[str, Any]


class NoTerms(nn.Module):
    """Stands where a distiller would: the teacher answers, nothing is compared."""

    def forward(self, *_: object) -> dict[str, Tensor]:
        """Returns no term."""
        return {}

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """Returns nothing: it has no parameters."""
        return {}


def make_batch(args: argparse.Namespace, num_classes: int) -> list[dict[str, Tensor]]:
    """What the loader would deliver: seeded noise and scene-like labels."""
    labels = make_labels(args.batch, args.size, num_classes)
    generator = torch.Generator().manual_seed(0)
    shape = (3, args.size, args.size)
    images = [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for _ in labels]
    return [{"image": image, "sem_seg": label} for image, label in zip(images, labels, strict=True)]


def pair(args: argparse.Namespace) -> tuple[CfgNode, nn.Module, FrozenTeacher]:
    """The config and its two networks, weights random: a teacher's answer takes its time whatever it has learned."""
    size = ["INPUT.CROP_SIZE", [args.size, args.size]]  # what training images are padded to
    cfg = read_config(args.config_file, ["MODEL.DEVICE", args.device, *size, *args.opts])
    teacher_cfg = read_config(cfg.TEACHER.CONFIG_FILE, ["MODEL.DEVICE", args.device, *cfg.TEACHER.OPTS])
    torch.manual_seed(0)
    student, teacher = build_student(cfg), build_student(teacher_cfg)
    student.accelerate(channels_last=cfg.MODEL.CHANNELS_LAST)
    teacher.drop_auxiliary()
    teacher.accelerate(channels_last=teacher_cfg.MODEL.CHANNELS_LAST)
    return cfg, student, freeze(teacher, cfg.TEACHER.FAST, cfg.TEACHER.AMP, args)


def freeze(model: DenseModel, fast: str, amp: str, args: argparse.Namespace) -> FrozenTeacher:
    """The teacher as TEACHER.FAST and AMP would run it."""
    plan = Plan.choose(fast, amp, torch.device(args.device))
    make_fast(model.eval(), plan, lambda: torch.randn(1, 3, args.size, args.size, device=args.device))
    return FrozenTeacher(model, amp=plan.amp, stream="stream" in plan.ways)


def steps(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """One training step of every variant; all start from the same student and see the same batch."""
    cfg, first, teacher = pair(args)
    batch = make_batch(args, first.num_classes)
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
    """The same batch for ever."""
    while True:
        yield batch


def runner(trainer: StepTrainer) -> Callable[[], None]:
    """The trainer's next step; its gradients are freed, so that no other variant runs beside them."""
    trainer.iter = 0

    def run() -> None:
        with EventStorage(trainer.iter):
            trainer.run_step()
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.iter += 1

    return run


def summarise(times: dict[str, list[Any]]) -> list[Row]:
    """Rows of the table: the step, and what it takes beyond that of student and teacher."""
    base = [t for t, _ in times[BASE]]
    rows = []
    for name, results in times.items():
        spent, memory = zip(*results, strict=True)
        row = {"variant": name, "median_ms": statistics.median(spent), "spread_ms": spread(spent), "rounds": len(spent)}
        extra = [a - b for a, b in zip(spent, base, strict=True)]
        row["extra_ms"], row["extra_spread_ms"] = statistics.median(extra), spread(extra)
        row["extra_percent"] = 100 * statistics.median(a / b - 1 for a, b in zip(spent, base, strict=True))
        rows.append({**row, "peak_mib": None if memory[0] is None else max(memory)})
    return rows


def spread(values: Any) -> list[float]:
    """The 20th and the 80th percentile."""
    cuts = statistics.quantiles(values, n=5, method="inclusive")
    return [cuts[0], cuts[-1]]


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| training step | median ms | 20 - 80 % | extra ms | 20 - 80 % | extra % | peak MiB |"]
    lines.append("|---|---:|---|---:|---|---:|---:|")
    for row in rows:
        cells = [row["variant"], f"{row['median_ms']:.1f}", "{:.1f} - {:.1f}".format(*row["spread_ms"])]
        if row["variant"] == BASE:
            cells += ["0", "", "0"]
        else:
            cells += [f"{row['extra_ms']:.1f}", "{:.1f} - {:.1f}".format(*row["extra_spread_ms"])]
            cells += [f"{row['extra_percent']:.1f}"]
        cells.append("" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default=str(PAIR), help="a student's config with TEACHER.CONFIG_FILE")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=sorted(DISTILLERS))
    parser.add_argument("--size", type=int, default=128, help="side of the images")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=21, help="timed steps of each variant")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's choice")
    parser.add_argument("--device", default="auto", help="auto: a GPU where there is one")
    parser.add_argument("--cpu-time", action="store_true", help=CPU_TIME)
    parser.add_argument("--json", type=Path, help="also write environment, setting and rows to this file")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config changes")
    args = parser.parse_args(argv)
    if args.repeats < 2 or args.batch < 2:
        parser.error("--repeats must be at least 2 (a spread needs two) and --batch too (batch norm over 1x1 maps)")
    if args.cpu_time and args.device != "cpu":
        parser.error("--cpu-time needs --device cpu: it does not see what a GPU does")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(args.threads or torch.get_num_threads())
    config = Path(args.config_file).resolve()
    root = PAIR.parents[4]
    shown = str(config.relative_to(root) if config.is_relative_to(root) else config.name)
    setting = {k: v for k, v in vars(args).items() if k != "json"} | {"config_file": shown}
    record: Row = {"environment": environment(), "setting": setting}
    clock = time.process_time if args.cpu_time else time.perf_counter
    cuda = torch.device(args.device).type == "cuda"
    record["rows"] = summarise(measure(steps(args), args.repeats, cuda, clock=clock))
    print(table(record["rows"]))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
