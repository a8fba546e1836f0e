"""Time a whole distillation step, its teacher, and the student's inference: one process, in turns and paired.

`python -m benchmarks.step --threads 1 --json bench.json DATASETS.ROOT data`; mmsegmentation's own modules take part
where it was installed (`--peer-root SITE`, docs/results/benchmarks_networks.md). `--tables bench.json` prints the
tables of records.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from benchmarks.distillers import METHODS, PAIR
from benchmarks.harness import Row, Times, pair_of, spread
from benchmarks.parts import LOADING, NETWORKS, PARTS
from benchmarks.peers.mmseg_networks import import_mmseg
from bpkd.distillers import DISTILLERS

NO_GPU = "not measured: no accelerator was at hand"


def scores_apart(calls: dict[str, Any], against: str) -> dict[str, float]:
    """Largest difference of each call's scores to those of ``against``, over their standard deviation.

    Raises:
        RuntimeError: a call in float32 is above 1e-3, one in bf16 above 0.2: the times would compare different things.
    """
    with torch.no_grad():
        found = {name: call().detach().float() for name, call in calls.items()}
    want = found.get(against, next(iter(found.values())))
    apart = {name: float((scores - want).abs().max() / want.std()) for name, scores in found.items()}
    for name, value in apart.items():
        if not value <= (0.2 if "bf16" in name else 1e-3):
            raise RuntimeError(f"{name}: expected the scores of {against}, differ by {value:.1e} of their deviation.")
    return apart


def benchmark(part: str, args: argparse.Namespace) -> list[Row]:
    """All rows of one part."""
    build, against, scores, count = PARTS[part]
    calls = build(args)
    apart = scores_apart(calls, against) if scores else {}
    times = harness.measure(calls, args.rounds, harness.is_cuda(args), clock=harness.clock_of(args))
    rows = summarise(times, against, getattr(args, count) if count else 1)
    return [{"part": part, **row, "scores_apart": apart.get(row["variant"])} for row in rows]


def summarise(times: Times, against: str, images: int) -> list[Row]:
    """Rows of one part: median, 20th and 80th percentile, images per second, paired ratio, memory.

    The ratio of the data loading is its share of its step: of the loading plus the step without it.
    """
    rows = []
    for name, spent in times.ms.items():
        row = {"variant": name, **times.row(name), "spread_ms": spread(spent)}
        row |= {"images_s": 1e3 * images / row["median_ms"], "against": None, "ratio": None, "ratio_spread": None}
        if against in times.ms:
            ratios = times.ratios(name, against)
            ratios = [r / (1 + r) for r in ratios] if name == LOADING else ratios
            row |= {"against": against, "ratio": statistics.median(ratios), "ratio_spread": spread(ratios)}
        rows.append(row)
    return rows


def peaks(rows: list[Row], argv: Sequence[str]) -> list[Row]:
    """The rows with the MiB that each variant needs at most, measured in a process of its own (on a CPU)."""
    for row in rows:
        row["peak_mib"] = harness.peak_in_child("benchmarks.step", ["--peak-of", row["part"], row["variant"], *argv])
    return rows


def tables(record: Row) -> str:
    """A record as Markdown: where it comes from, then a table of each part."""
    facts, setting = record["environment"], record["setting"]
    hardware, versions = facts["hardware"], facts["versions"] | record["rival"]
    device = setting["device"] if setting["device"] == "cpu" else ", ".join(hardware["gpus"])
    named = ", ".join(f"{k} {versions[k]}" for k in ("torch", "mmsegmentation") if k in versions)
    clock = "processor time" if setting["cpu_time"] else "clock"
    lines = [
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} threads, device {device}; {named}; "
        f"commit {facts['commit']}; {setting['rounds']} rounds, {clock}; load at the start {record['load']}."
    ]
    for part in dict.fromkeys(row["part"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["part"] == part]
        lines += ["", f"**{part}** ({record['shapes'][part]})", "", table(rows)]
        if not hardware["gpus"]:
            lines.append(f"| on a GPU | {NO_GPU} | | | | | |")
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    """The rows of one part as Markdown."""
    against = next((row["against"] for row in rows if row["against"]), "other")
    columns = {
        "variant": "{variant}",
        "median ms": "{median_ms:.1f}",
        "20 - 80 %": pair_of("spread_ms", ".1f"),
        "images/s": "{images_s:.1f}",
        f"time / {against}": "{shown:>}",  # text beside numbers: to the right as well
        "ratio, 20 - 80 %": pair_of("ratio_spread", ".3f"),
        "peak MiB": "{peak_mib:.0f}",
    }
    return harness.table(columns, [{**row, "shown": shown_ratio(row)} for row in rows])


def shown_ratio(row: Row) -> str:
    """The ratio of a row; of the data loading as a share."""
    if row["ratio"] is None:
        return ""
    return f"share {100 * row['ratio']:.1f} %" if row["variant"] == LOADING else f"{row['ratio']:.3f}"


def shapes(args: argparse.Namespace) -> dict[str, str]:
    """What each part runs on, in words."""
    name = harness.shown_path(args.config_file)
    training = f"{args.batch} images of {args.size} x {args.size}"
    sizes = [training, training, training, "{} images of {} x {}".format(args.images, *args.image_size)]
    nets = [name, f"teacher of {name}", f"{NETWORKS[0]} from {NETWORKS[1]}", NETWORKS[0], NETWORKS[0]]
    sizes.append("1 image of {} x {}, windows of half its sides".format(*args.image_size))
    return {part: f"{net}, {size}" for part, net, size in zip(PARTS, nets, sizes, strict=True)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the arguments."""
    parser = harness.make_parser(__doc__, rounds=9, device="auto", peers="folder in which mmsegmentation was installed")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="what to time")
    parser.add_argument("--config-file", default=str(PAIR), help="a student's config with TEACHER.CONFIG_FILE")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=sorted(DISTILLERS), help="distillers")
    parser.add_argument("--size", type=int, default=128, help="height and width of the training images")
    parser.add_argument("--batch", type=int, default=8, help="training images of a step")
    parser.add_argument("--classes", type=int, default=19, help="number of classes of the networks that only infer")
    parser.add_argument("--image-size", type=int, nargs=2, default=[256, 512], metavar=("H", "W"), help="to infer on")
    parser.add_argument("--images", type=int, default=1, help="images that are inferred at once")
    parser.add_argument("--compile", action="store_true", help="torch.compile's variants too")
    parser.add_argument("--memory", action="store_true", help="peak on a CPU (Linux), a process for each variant")
    parser.add_argument("--tables", type=Path, nargs="+", help="print the tables of such files and measure nothing")
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config of the pair")
    args = harness.parse(parser, argv)
    if args.batch < 2:
        parser.error("--batch: expected at least 2 (batch norm over 1x1 maps)")
    if args.memory and args.device != "cpu":
        parser.error("--memory: expected --device cpu with it; a GPU's memory is measured anyway")
    args.rival = args.peer_root is not None
    if args.rival:
        try:
            import_mmseg(args.peer_root)
        except ImportError as error:
            parser.error(f"{error} Give that folder as --peer-root, or leave --peer-root out.")
    return args


def read_record(path: Path) -> Row:
    """A record that --json wrote.

    Raises:
        SystemExit: there is no such file, or another tool wrote it.
    """
    try:
        record: Row = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: expected a record of --json ({error}).") from error
    if not isinstance(record, dict) or "shapes" not in record:
        raise SystemExit(f"{path}: expected a record of this tool's --json, got another file.")
    return record


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    if args.tables:
        print("\n\n".join(tables(read_record(path)) for path in args.tables))
        return 0
    if args.peak_of:
        part, variant = args.peak_of
        print(harness.peak_mib(PARTS[part][0](args)[variant]))
        return 0
    versions = {name: version(name) for name in ("mmsegmentation", "mmengine") if args.rival}
    load = [round(x, 1) for x in os.getloadavg()]
    record = harness.new_record(args, rival=versions, load=load, shapes=shapes(args))
    for part in args.parts:
        rows = benchmark(part, args)
        record["rows"] += peaks(rows, argv) if args.memory else rows
        harness.write_record(args.json, record)
    print(tables(record))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
