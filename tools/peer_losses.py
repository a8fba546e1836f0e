"""Time our losses against other projects' own, on the same tensors: one process, interleaved, forward and backward.

The peers' files are imported unchanged from clones beside each other in one folder (docs/benchmarks.md says which):
`python tools/peer_losses.py --peer-root ../peers --threads 1 --rounds 41 --json peers.json`. A peer whose gradient is not
ours times the known factor between the two normalisers is an error: its time would mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import json
import statistics
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmark_losses import make_labels
from benchmark_networks import measure
from torch import Tensor

from bpkd.analysis.records import environment
from bpkd.distillers.discriminator import Adversary
from bpkd.functional import channel_kd, intra_class_variation, pairwise_affinity, pixel_kd

# Folder in --peer-root -> owner on GitHub, licence, folder inside the repository. Only projects with a free licence.
PEERS = {
    "structure_knowledge_distillation": ("irfanICMLL", "BSD-2-Clause", "."),
    "IFVD": ("YukangWang", "BSD-2-Clause", "."),
    "TorchDistiller": ("irfanICMLL", "BSD-2-Clause", "SemSeg-distill"),
    "mmrazor": ("open-mmlab", "Apache-2.0", "."),
    "mmsegmentation-distiller": ("pppppM", "Apache-2.0", "."),
    "torchdistill": ("yoshitomo-matsubara", "MIT", "."),
}
# Imported by the peers' files, not used by their losses: each becomes a module of names.
UNUSED = ("scipy", "tensorboardX", "mmcv", "mmrazor")
CHANNELS, STRIDE = (128, 512), 8  # of the student's and the teacher's features; label size over map size
ADV_WEIGHT = 0.1
Step = Callable[[], None]
Row = dict[str, Any]


class _Name:
    """Anything that a stand-in holds: has every attribute, and as a decorator returns the class."""

    def __getattr__(self, name: str) -> _Name:
        return _Name()

    def __call__(self, *args: object, **_: object) -> object:
        return args[0] if len(args) == 1 and isinstance(args[0], type) else _Name()


class _StandIn(types.ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> _Name:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name()


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers the import of the packages in `UNUSED`."""

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] in UNUSED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Has nothing to run."""


def load(root: Path, peer: str, file: str) -> Any:
    """Imports one file of a peer, unchanged, without its packages' own ``__init__``.

    Raises:
        FileNotFoundError: it is not below ``root``; the message says where to get it.
    """
    owner, _, inside = PEERS[peer]
    base = root / peer / inside
    if not (base / file).is_file():
        raise FileNotFoundError(
            f"{base / file}: expected a clone of {peer}; git clone https://github.com/{owner}/{peer} {root / peer}"
        )
    *folders, name = ("peer_" + peer.replace("-", "_"), *Path(file).with_suffix("").parts)
    for depth in range(1, len(folders) + 1):
        package = types.ModuleType(".".join(folders[:depth]))
        package.__path__ = [str(base.joinpath(*folders[1:depth]))]
        sys.modules.setdefault(package.__name__, package)
    before = set(sys.modules)
    with mock.patch.object(sys, "meta_path", [_StandIns(), *sys.meta_path]), mock.patch.object(
        sys, "path", [str(base), *sys.path]
    ):
        module = importlib.import_module(".".join([*folders, name]))
    for key in set(sys.modules) - before:  # two peers have a package `utils`
        if key.split(".")[0] in (*UNUSED, "utils"):
            del sys.modules[key]
    return module


@dataclass(frozen=True)
class Inputs:
    """The tensors of one shape, the same for all."""

    student: Tensor  # logits [N, K, h, w], a leaf
    teacher: Tensor
    student_map: Tensor  # features [N, 128, h, w], a leaf
    teacher_map: Tensor  # [N, 512, h, w]
    labels: Tensor  # [N, 8 h, 8 w]

    @classmethod
    def draw(cls, shape: Sequence[int], device: str) -> Inputs:
        """Seeded maps and scene-like labels."""
        n, k, h, w = shape
        generator = torch.Generator().manual_seed(0)
        maps = [torch.randn(n, c, h, w, generator=generator).to(device) for c in (k, k, *CHANNELS)]
        labels = make_labels(n, STRIDE * max(h, w), k)[:, : STRIDE * h, : STRIDE * w]
        return cls(maps[0].requires_grad_(), 3 * maps[1], maps[2].requires_grad_(), maps[3], labels.to(device))


def ours(x: Inputs) -> dict[str, tuple[Tensor, Step]]:
    """Term -> the leaf whose gradient it gives, and the step."""
    k = x.student.shape[1]
    adversary = Adversary(k, adv_weight=ADV_WEIGHT, critic_weight=ADV_WEIGHT).to(x.student.device)

    def critic_step() -> None:
        x.student.grad = None
        adversary.zero_grad(set_to_none=True)
        sum(adversary(x.student, x.teacher).values()).backward()

    def ifv() -> Tensor:
        return intra_class_variation(x.student_map, x.teacher_map, x.labels, num_classes=k)

    return {
        "pixel": (x.student, _step(x.student, lambda: pixel_kd(x.student, x.teacher))),
        "channel": (x.student, _step(x.student, lambda: channel_kd(x.student, x.teacher))),
        "pair-wise": (x.student_map, _step(x.student_map, lambda: pairwise_affinity(x.student_map, x.teacher_map))),
        "intra-class": (x.student_map, _step(x.student_map, ifv)),
        "adversary": (x.student, critic_step),
    }


def theirs(root: Path, x: Inputs) -> dict[str, dict[str, tuple[float | None, Step]]]:
    """Term -> peer -> factor of its gradient over ours (None: it draws random numbers), and the step."""
    n, k, h, w = x.student.shape
    logits, maps = (x.student, x.teacher), (x.student_map, x.teacher_map)
    skds, ifvd, cwd = (
        load(root, peer, "utils/criterion.py")
        for peer in ("structure_knowledge_distillation", "IFVD", "TorchDistiller")
    )
    razor_kl = load(root, "mmrazor", "mmrazor/models/losses/kl_divergence.py").KLDivergence()
    razor_cwd = load(root, "mmrazor", "mmrazor/models/losses/cwd.py").ChannelWiseDivergence()
    other_cwd = load(root, "mmsegmentation-distiller", "mmseg/distillation/losses/cwd.py")
    mid_level = load(root, "torchdistill", "torchdistill/losses/mid_level.py")
    torchdistill = mid_level.KDLoss("logits", "output", "logits", "output", temperature=1.0, alpha=0.0)
    pixelwise, kd, ifv = skds.CriterionPixelWise(), ifvd.CriterionKD(), ifvd.CriterionIFV(k)
    pairwise = skds.CriterionPairWiseforWholeFeatAfterPool(0.5, 0)
    channelwise = cwd.CriterionCWD("channel", "kl", 1.0)
    plain_cwd = other_cwd.ChannelWiseDivergence(k, k, "logits")
    wrapped = [{"logits": {"output": z}} for z in logits]
    on_logits: dict[str, dict[str, tuple[float, Callable[[], Tensor]]]] = {
        "pixel": {
            "structure_knowledge_distillation": (n, lambda: pixelwise(*[[z] for z in logits])),
            "IFVD": (1 / k, lambda: kd(*[[z] for z in logits])),
            "mmrazor": (h * w, lambda: razor_kl(*logits)),
            "torchdistill": (h * w, lambda: torchdistill(*wrapped)),
        },
        "channel": {
            "TorchDistiller": (1, lambda: channelwise(*logits)),
            "mmrazor": (1, lambda: razor_cwd(*logits)),
            "mmsegmentation-distiller": (1, lambda: plain_cwd(*logits)),
        },
    }
    found: dict[str, dict[str, tuple[float | None, Step]]] = {
        term: {peer: (factor, _step(x.student, call)) for peer, (factor, call) in calls.items()}
        for term, calls in on_logits.items()
    }
    pair_step = _step(x.student_map, lambda: pairwise(*[[m] for m in maps]))
    ifv_step = _step(x.student_map, lambda: ifv(*[[None, None, m] for m in maps], x.labels))
    return {
        **found,
        "pair-wise": {"structure_knowledge_distillation": (1, pair_step)},
        "intra-class": {"IFVD": (1, ifv_step)},
        "adversary": {"structure_knowledge_distillation": (None, _their_critic_step(root, skds, x))},
    }


def _their_critic_step(root: Path, criteria: Any, x: Inputs) -> Step:
    """The authors' two backward passes, student's term and critic's, without the optimizers."""
    models = load(root, "structure_knowledge_distillation", "networks/sagan_models.py")
    critic = models.Discriminator(1, x.student.shape[1], len(x.student), 65, 64).to(x.student.device)
    for_student, for_critic = criteria.CriterionAdvForG("wgan-gp"), criteria.CriterionAdv("wgan-gp")
    penalty = criteria.CriterionAdditionalGP(critic, 10.0)

    def step() -> None:
        x.student.grad = None
        scores = critic(x.student)
        (ADV_WEIGHT * for_student(scores, scores)).backward()
        critic.zero_grad(set_to_none=True)
        real, fake = critic(x.teacher.detach()), critic(x.student.detach())
        loss = ADV_WEIGHT * for_critic(fake, real) + ADV_WEIGHT * penalty([x.student], [x.teacher])
        loss.backward()

    return step


def _step(leaf: Tensor, loss: Callable[[], Tensor]) -> Step:
    def forward_backward() -> None:
        leaf.grad = None
        loss().backward()

    return forward_backward


def gradient_of(leaf: Tensor, step: Step) -> Tensor:
    """The leaf's gradient after one step."""
    step()
    assert leaf.grad is not None
    return leaf.grad.clone()


def benchmark(root: Path, shape: Sequence[int], args: argparse.Namespace) -> list[Row]:
    """All rows of one shape.

    Raises:
        RuntimeError: a gradient is not ours times the factor.
    """
    x = Inputs.draw(shape, args.device)
    own, others = ours(x), theirs(root, x)
    rows = []
    for term in args.terms:
        leaf, step = own[term]
        want, apart = gradient_of(leaf, step), {}
        for peer, (factor, call) in others[term].items():
            got = gradient_of(leaf, call)
            apart[peer] = None if factor is None else float((got / factor - want).norm() / want.norm())
            if apart[peer] is not None and not apart[peer] <= 1e-3:
                raise RuntimeError(f"{term}, {peer}: expected our gradient times {factor:g}, differs by {apart[peer]:.1e}.")
        calls = {"ours": step, **{peer: call for peer, (_, call) in others[term].items()}}
        times = measure(calls, args.rounds, torch.device(args.device).type == "cuda")
        rows += summarise(times, {"term": term, "shape": list(shape)}, apart)
    return rows


def summarise(times: dict[str, list[Any]], common: Row, apart: dict[str, float | None]) -> list[Row]:
    """One row per peer: both medians, and median and quartiles of the rounds' own ratios ours / theirs."""
    mine = [t for t, _ in times["ours"]]
    rows = []
    for peer in times.keys() - {"ours"} if not apart else apart:
        other = [t for t, _ in times[peer]]
        low, ratio, high = statistics.quantiles(
            [a / b for a, b in zip(mine, other, strict=True)], n=4, method="inclusive"
        )
        medians = {"ours_median_ms": statistics.median(mine), "peer_median_ms": statistics.median(other)}
        spread = {"ratio": ratio, "ratio_quartiles": [low, high], "rounds": len(mine)}
        rows.append({**common, "peer": peer, **medians, **spread, "gradient_apart": apart[peer]})
    return rows


def sources(root: Path) -> dict[str, dict[str, str]]:
    """Address, licence and the clone's commit of every peer."""
    found = {}
    for peer, (owner, licence, _) in PEERS.items():
        git = ["git", "-C", str(root / peer), "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
        found[peer] = {"url": f"https://github.com/{owner}/{peer}", "licence": licence, "commit": commit}
    return found


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| term | maps | peer | ours ms | peer ms | ours / peer | quartiles |", "|---|---|---|---:|---:|---:|---|"]
    for row in rows:
        low, high = row["ratio_quartiles"]
        cells = [row["term"], " x ".join(map(str, row["shape"])), row["peer"], f"{row['ours_median_ms']:.2f}"]
        cells += [f"{row['peer_median_ms']:.2f}", f"{row['ratio']:.3f}", f"{low:.3f} - {high:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


TERMS = ("pixel", "channel", "pair-wise", "intra-class", "adversary")


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-root", type=Path, required=True, help="folder of the clones")
    parser.add_argument("--shapes", nargs="+", default=["4,19,64,64", "4,150,64,64", "2,19,128,128"], metavar="N,K,H,W")
    parser.add_argument("--terms", nargs="+", default=list(TERMS), choices=TERMS)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write environment, setting and rows to this file")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    shapes = [[int(v) for v in text.split(",")] for text in args.shapes]
    setting = {key: value for key, value in vars(args).items() if key not in ("json", "peer_root")}
    record: Row = {"environment": environment(), "peers": sources(args.peer_root), "setting": setting, "rows": []}
    stay = mock.patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self)  # a peer sends its maps to a GPU
    with warnings.catch_warnings(), stay if torch.device(args.device).type == "cpu" else warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers' old calls
        for shape in shapes:
            record["rows"] += benchmark(args.peer_root, shape, args)
            if args.json:
                args.json.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record["rows"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
