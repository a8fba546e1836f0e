"""Time our networks against mmsegmentation's own modules: same weights, same input, one process, in turns.

Every round runs each variant once, forward and training step; a ratio is the median of the rounds' own ratios.
`python -m benchmarks.networks --networks pspnet_r18 --rounds 9`; without mmsegmentation
(docs/results/benchmarks_networks.md says how to install it) `--no-rival` times ours alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import Row, Times, pair_of, quartiles
from benchmarks.peers.mmseg_networks import (
    NETWORKS,
    build_mmseg,
    build_ours,
    import_mmseg,
    mmseg_logits,
    our_logits,
    random_state_dict,
)
from bpkd.functional import upsampled_cross_entropy

RIVAL, OURS, LAST, RIVAL_LAST = "mmsegmentation", "ours", "ours, channels-last", "mmsegmentation, channels-last"
FORWARD, STEP = "forward", "training step"
OWN = (OURS, LAST)
EIGHT = list(NETWORKS)[:8]
COLUMNS = {
    "network": "{network}",
    "step": "{step}",
    "variant": "{variant}",
    "median ms": "{median_ms:.1f}",
    "quartiles ms": pair_of("quartiles_ms", ".1f"),
    "ratio to mmsegmentation": "{ratio:.3f}",
    "peak MiB": "{peak_mib:.0f}",
}


class Variant:
    """A network of one project and memory layout, with the forward pass and the training step that are timed."""

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
        loss = upsampled_cross_entropy(decode, self.labels)
        if aux is not None:
            loss = loss + 0.4 * upsampled_cross_entropy(aux, self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # here, so that no other variant runs beside these gradients


def check_agreement(found: dict[str, Variant], name: str) -> dict[str, float]:
    """Gives all the same weights; returns the logits' largest difference to the first variant's, over their std.

    Raises:
        RuntimeError: it is above 1e-4: the times would compare different things.
    """
    first = next(iter(found.values()))
    state = random_state_dict(first.model)
    for one in found.values():
        one.model.load_state_dict(state)
    want = first.forward()
    apart = {v: float((c.forward() - want).abs().max() / want.std()) for v, c in found.items()}
    for variant, value in apart.items():
        if not value <= 1e-4:
            raise RuntimeError(f"{name}, {variant}: expected the logits of {next(iter(found))}, differ by {value:.1e}.")
    return apart


def summarise(times: Times) -> list[Row]:
    """Rows of the table: median, quartiles, ratio to mmsegmentation, memory."""
    rows = []
    for key, spent in times.ms.items():
        step, variant = key
        row = {"step": step, "variant": variant, **times.row(key), "quartiles_ms": quartiles(spent), "times_ms": spent}
        paired = variant != RIVAL and (step, RIVAL) in times.ms
        rows.append({**row, "ratio": times.ratio(key, (step, RIVAL)) if paired else None})
    return rows


def benchmark(name: str, variants: Sequence[str], args: argparse.Namespace) -> list[Row]:
    """All rows of one network."""
    found = {variant: Variant(variant, name, args) for variant in variants}
    apart = check_agreement(found, name)
    calls = {(FORWARD, v): c.forward for v, c in found.items()} | {(STEP, v): c.step for v, c in found.items()}
    times = harness.measure(calls, args.rounds, harness.is_cuda(args), clock=harness.clock_of(args))
    return [{"network": name, **row, "logits_apart": apart[row["variant"]]} for row in summarise(times)]


def child_peak(name: str, variant: str, args: argparse.Namespace) -> float:
    """MiB that two training steps need at most beyond the built network, in a process that does nothing else."""
    argv = ["--networks", name, "--peak-of", variant, "--size", *args.size]
    for key in ("batch", "classes", "threads"):
        argv += [f"--{key}", getattr(args, key)]
    return harness.peak_in_child(
        "benchmarks.networks", argv + (["--peer-root", args.peer_root] if args.peer_root else [])
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    args = parse(argv)
    variants, versions = [*OWN], {}
    try:
        if not args.no_rival and args.peak_of in (None, RIVAL, RIVAL_LAST):
            import_mmseg(args.peer_root)
            versions = {package: version(package) for package in ("mmsegmentation", "mmengine")}
            variants = [RIVAL, *variants, *([RIVAL_LAST] if args.rival_channels_last else [])]
    except ImportError as error:
        print(f"error: {error}\n--no-rival times ours alone.", file=sys.stderr)
        return 2
    if args.peak_of:
        print(harness.peak_mib(Variant(args.peak_of, args.networks[0], args).step))
        return 0
    record = harness.new_record(args, rival=versions)
    for name in args.networks:
        rows = benchmark(name, variants, args)
        for row in rows:
            if args.memory and row["step"] == STEP:
                row["peak_mib"] = child_peak(name, row["variant"], args)
        record["rows"] += rows
        harness.write_record(args.json, record)
    print(harness.table(COLUMNS, record["rows"]))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the arguments."""
    parser = harness.make_parser(__doc__, rounds=9, device="cpu", peers="folder in which mmsegmentation was installed")
    parser.add_argument(
        "--networks", nargs="+", default=EIGHT, choices=list(NETWORKS), metavar="NAME", help="%(choices)s"
    )
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], metavar=("H", "W"), help="of the images")
    parser.add_argument("--batch", type=int, default=2, help="images of a call")
    parser.add_argument("--classes", type=int, default=19, help="number of classes")
    parser.add_argument("--no-rival", action="store_true", help="time ours alone")
    parser.add_argument("--rival-channels-last", action="store_true", help="time mmsegmentation in that layout too")
    parser.add_argument("--memory", action="store_true", help="peak on the CPU (Linux), a child process each")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = harness.parse(parser, argv)
    if args.batch < 2:
        parser.error("--batch: expected at least 2 (batch norm over 1x1 maps)")
    if args.memory and (harness.is_cuda(args) or not sys.platform.startswith("linux")):
        parser.error("--memory: expected the CPU, on Linux; on a GPU memory is measured anyway")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
