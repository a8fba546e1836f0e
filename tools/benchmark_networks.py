"""Time our networks against mmsegmentation's own modules: same weights, same input, one process, interleaved.

Every round runs each variant once, forward and training step, in an order that rotates and turns round; a ratio is the
median of the rounds' own ratios. `python tools/benchmark_networks.py --networks pspnet_r18 --rounds 9`; without
mmsegmentation (docs/benchmarks.md says how to install it) `--no-rival` times ours alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mmseg_networks import NETWORKS, build_mmseg, build_ours, import_mmseg, lively_state, mmseg_logits, our_logits
from torch import Tensor

from bpkd.analysis.records import environment
from bpkd.modeling import segmentation_loss

RIVAL, OURS, LAST, RIVAL_LAST = "mmsegmentation", "ours", "ours, channels-last", "mmsegmentation, channels-last"
FORWARD, STEP = "forward", "training step"
OWN = (OURS, LAST)
EIGHT = list(NETWORKS)[:8]
Row = dict[str, Any]


class Contender:
    """One variant of a network with its optimizer and the two things that are timed."""

    def __init__(self, variant: str, name: str, args: argparse.Namespace) -> None:
        """Builds network and batch, the same for every variant but for the weights."""
        mmseg = variant in (RIVAL, RIVAL_LAST)
        layout = torch.channels_last if variant in (LAST, RIVAL_LAST) else torch.contiguous_format
        model = build_mmseg(name, args.classes) if mmseg else build_ours(name, args.classes, device=args.device)
        self.model: Any = model.to(args.device, memory_format=layout)
        self.scores = mmseg_logits if mmseg else our_logits
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(args.batch, 3, *args.size, generator=generator)
        labels = torch.randint(args.classes, (args.batch, *args.size), generator=generator)
        labels[:, : args.size[0] // 16] = 255
        self.images, self.labels = images.to(args.device, memory_format=layout), labels.to(args.device)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    @torch.no_grad()
    def forward(self) -> Tensor:
        """Logits in evaluation mode."""
        return self.scores(self.model.eval(), self.images)[0]

    def step(self) -> None:
        """Forward, decode and auxiliary cross entropy at label size, backward, SGD."""
        decode, aux = self.scores(self.model.train(), self.images)
        loss = segmentation_loss(decode, self.labels)
        if aux is not None:
            loss = loss + 0.4 * segmentation_loss(aux, self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # here, so that no other variant runs beside these gradients


def check_agreement(found: dict[str, Contender], name: str) -> dict[str, float]:
    """Gives all the same weights; returns the logits' largest difference to the first variant's, over their std.

    Raises:
        RuntimeError: it is above 1e-4: the times would compare different things.
    """
    first = next(iter(found.values()))
    state = lively_state(first.model)
    for contender in found.values():
        contender.model.load_state_dict(state)
    want = first.forward()
    apart = {v: float((c.forward() - want).abs().max() / want.std()) for v, c in found.items()}
    for variant, value in apart.items():
        if not value <= 1e-4:
            raise RuntimeError(f"{name}, {variant}: expected the logits of {next(iter(found))}, differ by {value:.1e}.")
    return apart


def timed(
    call: Callable[[], object], cuda: bool, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float | None]:
    """Milliseconds of one call and, on a GPU, the MiB that it needed at most beyond what was there before."""
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else 0
    start = clock()
    call()
    if cuda:
        torch.cuda.synchronize()
    spent = 1e3 * (clock() - start)
    return spent, (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else None


def measure(
    calls: dict[Any, Callable[[], object]],
    rounds: int,
    cuda: bool = False,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Any, list[Any]]:
    """What `timed` says of every call in every round, after one round that is thrown away."""
    found: dict[Any, list[Any]] = {key: [] for key in calls}
    keys = list(calls)
    for index in range(-1, rounds):
        turn = index % len(keys)
        for key in (keys[turn:] + keys[:turn])[:: -1 if index % 2 else 1]:  # nobody always follows the same one
            result = timed(calls[key], cuda, clock)
            if index >= 0:
                found[key].append(result)
    return found


def summarise(found: dict[Any, list[Any]]) -> list[Row]:
    """Rows of the table: median, quartiles, ratio to mmsegmentation, memory."""
    rows = []
    for (step, variant), results in found.items():
        times, memory = zip(*results, strict=True)
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        base = [t for t, _ in found.get((step, RIVAL), [])] if variant != RIVAL else []
        row: Row = {"step": step, "variant": variant, "median_ms": median, "quartiles_ms": [low, high]}
        row["ratio"] = statistics.median(a / b for a, b in zip(times, base, strict=True)) if base else None
        rows.append({**row, "peak_mib": None if memory[0] is None else max(memory), "times_ms": times})
    return rows


def benchmark(name: str, variants: Sequence[str], args: argparse.Namespace) -> list[Row]:
    """All rows of one network."""
    found = {variant: Contender(variant, name, args) for variant in variants}
    apart = check_agreement(found, name)
    calls = {(FORWARD, v): c.forward for v, c in found.items()} | {(STEP, v): c.step for v, c in found.items()}
    rows = summarise(measure(calls, args.rounds, torch.device(args.device).type == "cuda"))
    return [{"network": name, **row, "logits_apart": apart[row["variant"]]} for row in rows]


def child_peak(name: str, variant: str, args: argparse.Namespace) -> float:
    """MiB that two training steps need at most beyond the built network, in a process that does nothing else."""
    command = [sys.executable, __file__, "--networks", name, "--peak-of", variant, "--size", *map(str, args.size)]
    for key in ("batch", "classes", "threads"):
        command += [f"--{key}", str(getattr(args, key))]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def own_peak(name: str, variant: str, args: argparse.Namespace) -> float:
    """What `child_peak` returns, in the child."""
    contender = Contender(variant, name, args)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    contender.step()
    contender.step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| network | step | variant | median ms | quartiles ms | ratio to mmsegmentation | peak MiB |"]
    lines.append("|---|---|---|---:|---:|---:|---:|")
    for row in rows:
        low, high = row["quartiles_ms"]
        cells = [row["network"], row["step"], row["variant"], f"{row['median_ms']:.1f}", f"{low:.1f} - {high:.1f}"]
        cells.append("" if row["ratio"] is None else f"{row['ratio']:.3f}")
        cells.append("" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    args = parse(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    variants, versions = [*OWN], {}
    try:
        if not args.no_rival and args.peak_of in (None, RIVAL, RIVAL_LAST):
            import_mmseg()
            versions = {package: version(package) for package in ("mmsegmentation", "mmengine")}
            variants = [RIVAL, *variants, *([RIVAL_LAST] if args.rival_channels_last else [])]
    except ImportError as error:
        print(f"benchmark_networks: {error}\n--no-rival times ours alone.", file=sys.stderr)
        return 2
    if args.peak_of:
        print(own_peak(args.networks[0], args.peak_of, args))
        return 0
    setting = {key: value for key, value in vars(args).items() if key not in ("json", "peak_of")}
    record: Row = {"environment": environment(), "rival": versions, "setting": setting, "rows": []}
    print("  ".join(f"{k} {v}" for key in list(record)[:3] for k, v in record[key].items()), flush=True)
    # First of all: a child's peak starts at that of its parent, which is small as yet.
    peaks = {(n, v): child_peak(n, v, args) for n in args.networks for v in variants if args.memory}
    for name in args.networks:
        for row in benchmark(name, variants, args):
            peak = peaks.get((name, row["variant"])) if row["step"] == STEP else None
            record["rows"].append(row if peak is None else {**row, "peak_mib": peak})
        if args.json:
            args.json.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record["rows"]))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads and checks the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--networks", nargs="+", default=EIGHT, choices=list(NETWORKS), metavar="NAME", help="%(choices)s"
    )
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write environment, setting and rows to this file")
    parser.add_argument("--no-rival", action="store_true", help="time ours alone")
    parser.add_argument("--rival-channels-last", action="store_true", help="time mmsegmentation in that layout too")
    parser.add_argument("--memory", action="store_true", help="peak on the CPU (Linux), a child process each")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rounds < 2 or args.batch < 2:
        parser.error("--rounds must be at least 2 (a spread needs two) and --batch too (batch norm over 1x1 maps)")
    if args.memory and (torch.device(args.device).type != "cpu" or not sys.platform.startswith("linux")):
        parser.error("--memory is for the CPU, on Linux; on a GPU memory is measured anyway")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
