"""Time the losses and the edge masks: interleaved rounds in one process, median and spread.

Every round runs each variant once, in an order that rotates, so that drift of the machine hits
all alike; a ratio is the median of the rounds' own ratios. `make bench-losses`, or
`python tools/benchmark_losses.py --classes 19 150 --rounds 9 --json bench.json`. With --targets the speed targets
instead (tools/fast_targets.py), those against mmrazor where --peer-root names the folder of its clone.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from bpkd.functional import (
    boundary_kd,
    channel_kd,
    class_edge_mask,
    class_edges,
    native,
    pixel_kd,
    upsampled_cross_entropy,
    use_path,
)
from bpkd.functional.paths import PATHS

IGNORE = 255
LITERAL = "edge mask, one-hot max-pool (literal)"
Variants = dict[str, Callable[[], None]]


def make_labels(
    batch: int, size: int, num_classes: int, seed: int = 0, *, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Scene-like labels [N,H,W]: a dozen overlapping boxes and discs per image, some ignored; alike on every device."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*(torch.arange(size, device=device) for _ in range(2)), indexing="ij")
    labels = torch.zeros(batch, size, size, dtype=torch.long, device=device)
    for image in labels:
        for _ in range(14):
            cy, cx, h, w = (torch.rand(4, generator=generator) * size).tolist()
            inside = ((y - cy).abs() < h / 3) & ((x - cx).abs() < w / 3)
            if torch.rand(1, generator=generator) < 0.5:
                inside = (y - cy) ** 2 + (x - cx) ** 2 < (h / 3) ** 2
            image.masked_fill_(inside, int(torch.randint(num_classes, (1,), generator=generator)))
        image[: size // 40, : size // 3] = IGNORE
    return labels


def literal_edge_mask(labels: torch.Tensor, num_classes: int, k: int, size: int) -> torch.Tensor:
    """The definition as it is written: per class, dilation minus erosion of the one-hot mask.

    One image at a time, for memory: with 150 classes a batch of 4 would need gigabytes.
    """
    masks = []
    for image in labels:
        planes = (image[None] == torch.arange(num_classes, device=image.device)[:, None, None]).float()[None]
        dilated = F.max_pool2d(planes, k, 1, k // 2)
        eroded = -F.max_pool2d(-planes, k, 1, k // 2)
        masks.append(F.adaptive_avg_pool2d(dilated - eroded, size))
    return torch.cat(masks)


def variants(args: argparse.Namespace, num_classes: int) -> Variants:
    """The functions to time for one number of classes, on every path that is asked for.

    Raises:
        RuntimeError: when a fast mask is not the literal one: its time would mean nothing.
    """
    labels = make_labels(args.batch, args.size, num_classes)
    size, k = (args.size // 8, args.size // 8), args.kernel_size
    literal = literal_edge_mask(labels, num_classes, k, size[0])
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(literal.shape, generator=generator).requires_grad_()
    teacher = 3 * torch.randn(literal.shape, generator=generator)

    def mask() -> torch.Tensor:
        return class_edge_mask(labels, num_classes, k, size, ignore_index=IGNORE)

    def step(loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def forward_backward() -> None:
            student.grad = None
            loss().backward()

        return forward_backward

    masks = {LITERAL: lambda: void(literal_edge_mask(labels, num_classes, k, size[0]))}
    losses: Variants = {}
    for path in args.paths:
        with use_path(path):
            edges = class_edges(labels, num_classes, k, size, ignore_index=IGNORE)
            if not torch.equal(mask(), literal):
                raise RuntimeError(f"class_edge_mask on {path} differs from the literal form ({num_classes} classes)")
        masks[f"edge mask, {path}"] = use_path(path)(lambda: void(mask()))
        calls = {
            "boundary_kd": lambda edges=edges: sum(boundary_kd(student, teacher, edges)),
            "channel_kd": lambda: channel_kd(student, teacher),
            "pixel_kd": lambda: pixel_kd(student, teacher),
            "upsampled_cross_entropy": lambda: upsampled_cross_entropy(student, labels, ignore_index=IGNORE),
        }
        if path == "compiled":
            del calls["upsampled_cross_entropy"]  # it has no such path
        losses |= {f"{name}, {path}": use_path(path)(step(call)) for name, call in calls.items()}
    return masks | dict(sorted(losses.items(), key=lambda item: item[0].split(",")[0]))


def void(_: object) -> None:
    """Drop a result."""


def measure(functions: Variants, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every variant in every round, after one round that is thrown away."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for index in range(-1, rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            functions[name]()
            if index >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def summarise(times: dict[str, list[float]], num_classes: int) -> list[dict[str, object]]:
    """Rows of the table: median, quartiles and the paired ratio to the first variant of the same function."""
    rows: list[dict[str, object]] = []
    first: dict[str, list[float]] = {}
    for name, values in times.items():
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        base = first.setdefault(name.split(",")[0], values)
        rows.append(
            {
                "what": name,
                "classes": num_classes,
                "median_ms": statistics.median(values),
                "quartiles_ms": [low, high],
                "rounds": len(values),
                "times_faster_than_first": statistics.median(a / b for a, b in zip(base, values, strict=True)),
            }
        )
    return rows


def environment() -> dict[str, object]:
    """What a number depends on."""
    git = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        commit = "unknown"
    return {
        "commit": commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "extension": extension(),
        "machine": f"{platform.system()} {platform.machine()}, {cpu_name()}",
    }


def extension() -> str:
    """The instruction set of the C++ functions and that of torch, which ratios between the two depend on."""
    return f"{native.level() or native.unavailable()} (torch {torch.backends.cpu.get_cpu_capability()})"


def cpu_name() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), "unknown")


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown."""
    lines = [
        f"| what, C++ on {extension()} | classes | median ms | quartiles ms | first / this |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row["quartiles_ms"]
        cells = [row["what"], row["classes"], f"{row['median_ms']:.2f}", f"{low:.2f} - {high:.2f}"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{row['times_faster_than_first']:.1f}"])) + " |")
    return "\n".join(lines)


def targets(args: argparse.Namespace) -> int:
    """Measures the speed targets, says which are met."""
    import fast_targets
    from peer_projects import sources

    torch.set_num_threads(args.threads or 2)
    peers = {"mmrazor": sources(args.peer_root)["mmrazor"]} if args.peer_root else {}
    record = {"environment": {**environment(), **fast_targets.versions()}, "peers": peers}
    print("  ".join(f"{k} {v}" for k, v in record["environment"].items()))
    print(f"\n{fast_targets.head(extension())}", flush=True)
    rows = fast_targets.run(args.peer_root, args.rounds, lambda line: print(line, flush=True))
    if args.json:
        args.json.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    shown = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=shown)
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 150], help="of the maps, in turns")
    parser.add_argument("--batch", type=int, default=4, help="images")
    parser.add_argument("--size", type=int, default=512, help="label size; logits are an eighth")
    parser.add_argument("--kernel-size", type=int, default=7, help="edge width in label pixels")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each variant")
    parser.add_argument("--paths", nargs="+", default=["eager", "auto"], choices=PATHS, help="implementations to time")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's choice")
    parser.add_argument("--targets", action="store_true", help="measure the speed targets instead (2 threads)")
    parser.add_argument("--peer-root", type=Path, help="with --targets: folder that holds a clone of mmrazor")
    parser.add_argument("--json", type=Path, help="also write environment and rows to this file")
    args = parser.parse_args(argv)
    if args.rounds < 2 or args.size < 8:
        parser.error("--rounds must be at least 2 (a spread needs two) and --size at least 8")
    if "triton" in args.paths and not torch.cuda.is_available():
        parser.error("--paths: expected a GPU for triton, got none: another path would be timed under its name")
    if args.peer_root and not (args.peer_root / "mmrazor").is_dir():
        parser.error(f"--peer-root: expected a folder with a clone of mmrazor, got {args.peer_root}")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.targets:
        return targets(args)
    setting = {key: getattr(args, key) for key in ("batch", "size", "kernel_size", "rounds", "paths")}
    record = {"environment": environment(), "setting": setting}
    print("  ".join(f"{k} {v}" for part in record.values() for k, v in part.items()), flush=True)
    rows: list[dict[str, object]] = []
    for num_classes in args.classes:
        rows += summarise(measure(variants(args, num_classes), args.rounds), num_classes)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
