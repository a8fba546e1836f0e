"""Time the losses and the edge masks, forward and backward, in turns in one process.

`make bench-losses`, or `python -m benchmarks.losses --classes 19 150 --rounds 9 --json bench.json`. `--targets`
measures the speed targets instead (benchmarks/targets.py), with those against mmrazor where `--peer-root` names the
folder of its clone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch

from benchmarks import harness, targets
from benchmarks.harness import Row, Times, pair_of, quartiles
from benchmarks.scenes import IGNORE, literal_edge_mask, make_labels
from bpkd.functional import (
    BACKENDS,
    boundary_kd,
    channel_kd,
    class_edge_mask,
    class_edges,
    pixel_kd,
    upsampled_cross_entropy,
    use_backend,
)
from bpkd.functional.backends import native

LITERAL = "edge mask, one-hot max-pool (literal)"
Variants = dict[str, Callable[[], object]]


def variants(args: argparse.Namespace, num_classes: int) -> Variants:
    """The functions to time for one number of classes, on every chosen backend.

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

    masks: Variants = {LITERAL: lambda: literal_edge_mask(labels, num_classes, k, size[0])}
    losses: Variants = {}
    for backend in args.backends:
        with use_backend(backend):
            edges = class_edges(labels, num_classes, k, size, ignore_index=IGNORE)
            if not torch.equal(mask(), literal):
                raise RuntimeError(
                    f"class_edge_mask on {backend} differs from the literal form ({num_classes} classes)"
                )
        masks[f"edge mask, {backend}"] = use_backend(backend)(mask)
        calls = {
            "boundary_kd": lambda edges=edges: sum(boundary_kd(student, teacher, edges)),
            "channel_kd": lambda: channel_kd(student, teacher),
            "pixel_kd": lambda: pixel_kd(student, teacher),
            "upsampled_cross_entropy": lambda: upsampled_cross_entropy(student, labels, ignore_index=IGNORE),
        }
        losses |= {f"{name}, {backend}": use_backend(backend)(step(call)) for name, call in calls.items()}
    return masks | dict(sorted(losses.items(), key=lambda item: item[0].split(",")[0]))


def summarise(times: Times, num_classes: int) -> list[Row]:
    """Rows of the table: median, quartiles and the paired ratio to the first variant of the same function."""
    rows: list[Row] = []
    first: dict[str, str] = {}
    for name, spent in times.ms.items():
        base = first.setdefault(name.split(",")[0], name)
        row = {"what": name, "classes": num_classes, **times.row(name), "quartiles_ms": quartiles(spent)}
        rows.append({**row, "times_faster_than_first": times.ratio(base, name)})
    return rows


def extension() -> str:
    """The instruction set of the C++ functions and that of torch, which ratios between the two depend on."""
    return f"{native.level() or native.unavailable_reason()} (torch {torch.backends.cpu.get_cpu_capability()})"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the arguments."""
    parser = harness.make_parser(__doc__, rounds=7, peers="with --targets: folder that holds a clone of mmrazor")
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 150], help="numbers of classes of the maps")
    parser.add_argument("--batch", type=int, default=4, help="images")
    parser.add_argument("--size", type=int, default=512, help="label size; logits are an eighth")
    parser.add_argument("--kernel-size", type=int, default=7, help="edge width in label pixels")
    parser.add_argument(
        "--backends", "--paths", nargs="+", default=["eager", "auto"], choices=BACKENDS, help="backends to time"
    )
    parser.add_argument("--targets", action="store_true", help="measure the speed targets instead (2 threads)")
    args = harness.parse(parser, argv)
    if args.size < 8:
        parser.error("--size: expected at least 8")
    if "triton" in args.backends and not torch.cuda.is_available():
        parser.error("--backends: expected a GPU for triton, got none: another backend would be timed under its name")
    if args.peer_root and not (args.peer_root / "mmrazor").is_dir():
        parser.error(f"--peer-root: expected a folder with a clone of mmrazor, got {args.peer_root}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    args = parse(argv)
    if args.targets:
        return targets.main(args.peer_root, args.rounds, args.threads or 2, args.json, extension())
    record = harness.new_record(args, extension=extension())
    for num_classes in args.classes:
        times = harness.measure(variants(args, num_classes), args.rounds, clock=harness.clock_of(args))
        record["rows"] += summarise(times, num_classes)
    columns = {
        f"what, C++ on {extension()}": "{what}",
        "classes": "{classes:d}",
        "median ms": "{median_ms:.2f}",
        "quartiles ms": pair_of("quartiles_ms", ".2f"),
        "first / this": "{times_faster_than_first:.1f}",
    }
    print(harness.table(columns, record["rows"]))
    harness.write_record(args.json, record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
