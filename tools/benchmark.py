"""Time a whole distillation step, its teacher, and the student's inference: one process, interleaved and paired.

`python tools/benchmark.py --threads 1 --json bench.json DATASETS.ROOT data`; mmsegmentation's own modules take part
where it was installed (`--peer-path SITE`, docs/benchmarks.md). `--tables bench.json` prints the tables of records.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from benchmark_distillers import CPU_TIME, METHODS, PAIR, spread
from benchmark_networks import measure
from benchmark_parts import LOADING, NETWORKS, PARTS
from mmseg_networks import import_mmseg

from bpkd.analysis.records import environment
from bpkd.distillers import DISTILLERS

Row = dict[str, Any]
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
    clock = time.process_time if args.cpu_time else time.perf_counter
    times = measure(calls, args.rounds, torch.device(args.device).type == "cuda", clock=clock)
    rows = summarise(times, against, getattr(args, count) if count else 1)
    return [{"part": part, **row, "scores_apart": apart.get(row["variant"])} for row in rows]


def summarise(times: dict[str, list[Any]], against: str, images: int) -> list[Row]:
    """Rows of one part: median, 20th and 80th percentile, images per second, paired ratio, memory.

    Of the data loading the ratio is its share of its step: of the loading plus the step without it.
    """
    base = [t for t, _ in times.get(against, [])]
    rows = []
    for name, results in times.items():
        spent, memory = zip(*results, strict=True)
        median = statistics.median(spent)
        row: Row = {"variant": name, "median_ms": median, "spread_ms": spread(spent), "images_s": 1e3 * images / median}
        ratios = [a / (a + b if name == LOADING else b) for a, b in zip(spent, base, strict=True)] if base else []
        row |= {"against": against if base else None, "ratio": statistics.median(ratios) if base else None}
        row |= {"ratio_spread": spread(ratios) if base else None, "rounds": len(spent)}
        rows.append({**row, "peak_mib": None if memory[0] is None else max(memory)})
    return rows


def peaks(rows: list[Row], argv: list[str]) -> list[Row]:
    """The rows with the MiB that each variant needs at most, measured in a process of its own (on a CPU)."""
    for row in rows:
        command = [sys.executable, __file__, "--peak-of", row["part"], row["variant"], *argv]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row["peak_mib"] = float(output.splitlines()[-1])
    return rows


def own_peak(part: str, variant: str, args: argparse.Namespace) -> float:
    """What two calls of one variant need at most beyond what was there before, in MiB; for a process of its own."""
    call = PARTS[part][0](args)[variant]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what building has freed would be used again, unseen
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building
    call()
    call()
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return peak / 2**10 - before / 2**20


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
        lines += ["", f"**{part}** ({record['shapes'][part]})", "", *table(rows)]
        if not hardware["gpus"]:
            lines.append(f"| on a GPU | {NO_GPU} | | | | | |")
    return "\n".join(lines)


def table(rows: list[Row]) -> list[str]:
    """The rows of one part as lines of Markdown."""
    against = next((row["against"] for row in rows if row["against"]), "")
    lines = [f"| variant | median ms | 20 - 80 % | images/s | time / {against or 'other'} | 20 - 80 % | peak MiB |"]
    lines.append("|---|---:|---|---:|---:|---|---:|")
    for row in rows:
        cells = [row["variant"], f"{row['median_ms']:.1f}", "{:.1f} - {:.1f}".format(*row["spread_ms"])]
        cells.append(f"{row['images_s']:.1f}")
        if row["ratio"] is None:
            cells += ["", ""]
        elif row["variant"] == LOADING:
            cells += [f"share {100 * row['ratio']:.1f} %", "{:.3f} - {:.3f}".format(*row["ratio_spread"])]
        else:
            cells += [f"{row['ratio']:.3f}", "{:.3f} - {:.3f}".format(*row["ratio_spread"])]
        cells.append("" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def shapes(args: argparse.Namespace) -> dict[str, str]:
    """What each part runs on, in words."""
    root = PAIR.parents[4]
    config = Path(args.config_file).resolve()
    name = str(config.relative_to(root) if config.is_relative_to(root) else config.name)
    training = f"{args.batch} images of {args.size} x {args.size}"
    sizes = [training, training, training, "{} images of {} x {}".format(args.images, *args.image_size)]
    nets = [name, f"teacher of {name}", f"{NETWORKS[0]} from {NETWORKS[1]}", NETWORKS[0], NETWORKS[0]]
    sizes.append("1 image of {} x {}, windows of half its sides".format(*args.image_size))
    return {part: f"{net}, {size}" for part, net, size in zip(PARTS, nets, sizes, strict=True)}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads and checks the arguments."""
    shown = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=shown)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="what to time")
    parser.add_argument("--config-file", default=str(PAIR), help="a student's config with TEACHER.CONFIG_FILE")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=sorted(DISTILLERS), help="to time")
    parser.add_argument("--size", type=int, default=128, help="side of the training images")
    parser.add_argument("--batch", type=int, default=8, help="training images of a step")
    parser.add_argument("--classes", type=int, default=19, help="of the networks that only infer")
    parser.add_argument("--image-size", type=int, nargs=2, default=[256, 512], metavar=("H", "W"), help="to infer on")
    parser.add_argument("--images", type=int, default=1, help="that are inferred at once")
    parser.add_argument("--rounds", type=int, default=9, help="calls of each variant")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's choice")
    parser.add_argument("--device", default="auto", help="auto: a GPU where there is one")
    parser.add_argument("--peer-path", type=Path, help="folder in which mmsegmentation was installed")
    parser.add_argument("--compile", action="store_true", help="torch.compile's variants too")
    parser.add_argument("--memory", action="store_true", help="peak on a CPU (Linux), a process for each variant")
    parser.add_argument("--cpu-time", action="store_true", help=CPU_TIME)
    parser.add_argument("--json", type=Path, help="also write environment, settings and rows to this file")
    parser.add_argument("--tables", type=Path, nargs="+", help="print the tables of such files and measure nothing")
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config of the pair")
    args = parser.parse_args(argv)
    if args.rounds < 2 or args.batch < 2:
        parser.error("--rounds must be at least 2 (a spread needs two) and --batch too (batch norm over 1x1 maps)")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if (args.cpu_time or args.memory) and args.device != "cpu":
        parser.error("--cpu-time and --memory are for the CPU: a GPU's memory is measured anyway, its time is not seen")
    args.rival = args.peer_path is not None
    if args.rival:
        sys.path.append(str(args.peer_path))  # last: the environment's own packages stay what they are
        try:
            import_mmseg()
        except ImportError as error:
            parser.error(f"{error} Give that folder as --peer-path, or leave --peer-path out.")
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


def main(argv: list[str] | None = None) -> int:
    """Measures, prints and writes."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    if args.tables:
        print("\n\n".join(tables(read_record(path)) for path in args.tables))
        return 0
    torch.set_num_threads(args.threads or torch.get_num_threads())
    if args.peak_of:
        print(own_peak(*args.peak_of, args))
        return 0
    versions = {name: version(name) for name in ("mmsegmentation", "mmengine") if args.rival}
    left_out = ("json", "peer_path", "config_file", "tables", "peak_of", "opts")  # places; shapes names the config
    record: Row = {"environment": environment(), "rival": versions, "load": [round(x, 1) for x in os.getloadavg()]}
    setting = {k: v for k, v in vars(args).items() if k not in left_out}
    record |= {"setting": setting, "shapes": shapes(args), "rows": []}
    for part in args.parts:
        rows = benchmark(part, args)
        record["rows"] += peaks(rows, argv) if args.memory else rows
        if args.json:
            args.json.write_text(json.dumps(record, indent=1) + "\n")
    print(tables(record))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
