"""Time our losses against other projects' own, on the same tensors: one process, in turns, forward and backward.

The peers' files are imported unchanged from clones in one folder (docs/results/benchmarks_losses.md says which):
`python -m benchmarks.peer_losses --peer-root ../peers --threads 1 --json peers.json`. A peer whose gradient is not ours
times the known factor between the two normalisers is an error: its time would mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import Row, Times, pair_of, quartiles
from benchmarks.peers.projects import load, sources
from benchmarks.scenes import make_labels
from bpkd.distillers.discriminator import Adversary
from bpkd.functional import channel_kd, intra_class_variation, pairwise_affinity, pixel_kd

COLUMNS = {
    "term": "{term}",
    "maps": "{maps}",
    "peer": "{peer}",
    "ours ms": "{ours_median_ms:.2f}",
    "peer ms": "{peer_median_ms:.2f}",
    "ours / peer": "{ratio:.3f}",
    "quartiles": pair_of("ratio_quartiles", ".3f"),
}
CHANNELS, STRIDE = (128, 512), 8  # of the student's and the teacher's features; label size over map size
ADV_WEIGHT = 0.1
OURS = "ours"
Step = Callable[[], None]
# Peer -> factor of its gradient over ours (None: both draw random numbers), and the step.
Others = dict[str, tuple[float | None, Step]]


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


def pixel_peers(root: Path, x: Inputs) -> Others:
    """Divergence over the classes: sums and means of several kinds."""
    n, k, h, w = x.student.shape
    logits = (x.student, x.teacher)
    skds = load(root, "structure_knowledge_distillation", "utils/criterion.py").CriterionPixelWise()
    ifvd = load(root, "IFVD", "utils/criterion.py").CriterionKD()
    mmrazor = load(root, "mmrazor", "mmrazor/models/losses/kl_divergence.py").KLDivergence()
    mid_level = load(root, "torchdistill", "torchdistill/losses/mid_level.py")
    torchdistill = mid_level.KDLoss("logits", "output", "logits", "output", temperature=1.0, alpha=0.0)
    wrapped = [{"logits": {"output": z}} for z in logits]
    return {
        "structure_knowledge_distillation": (n, _step(x.student, lambda: skds(*[[z] for z in logits]))),
        "IFVD": (1 / k, _step(x.student, lambda: ifvd(*[[z] for z in logits]))),
        "mmrazor": (h * w, _step(x.student, lambda: mmrazor(*logits))),
        "torchdistill": (h * w, _step(x.student, lambda: torchdistill(*wrapped))),
    }


def channel_peers(root: Path, x: Inputs) -> Others:
    """Divergence over the positions of a channel."""
    k = x.student.shape[1]
    criteria = load(root, "TorchDistiller", "utils/criterion.py")
    mmrazor = load(root, "mmrazor", "mmrazor/models/losses/cwd.py")
    other = load(root, "mmsegmentation-distiller", "mmseg/distillation/losses/cwd.py")
    modules = {
        "TorchDistiller": criteria.CriterionCWD("channel", "kl", 1.0),
        "mmrazor": mmrazor.ChannelWiseDivergence(),
        "mmsegmentation-distiller": other.ChannelWiseDivergence(k, k, "logits"),
    }
    return {
        peer: (1, _step(x.student, lambda module=module: module(x.student, x.teacher)))
        for peer, module in modules.items()
    }


def pair_peers(root: Path, x: Inputs) -> Others:
    """Similarities between patches."""
    criteria = load(root, "structure_knowledge_distillation", "utils/criterion.py")
    pairwise = criteria.CriterionPairWiseforWholeFeatAfterPool(0.5, 0)
    step = _step(x.student_map, lambda: pairwise([x.student_map], [x.teacher_map]))
    return {"structure_knowledge_distillation": (1, step)}


def intra_class_peers(root: Path, x: Inputs) -> Others:
    """Similarities to the class's centre."""
    intra = load(root, "IFVD", "utils/criterion.py").CriterionIFV(x.student.shape[1])
    outputs = [[None, None, m] for m in (x.student_map, x.teacher_map)]
    return {"IFVD": (1, _step(x.student_map, lambda: intra(*outputs, x.labels)))}


def adversary_peers(root: Path, x: Inputs) -> Others:
    """The authors' two backward passes, student's term and critic's, without the optimizers."""
    criteria = load(root, "structure_knowledge_distillation", "utils/criterion.py")
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

    return {"structure_knowledge_distillation": (None, step)}


THEIRS: dict[str, Callable[[Path, Inputs], Others]] = {
    "pixel": pixel_peers,
    "channel": channel_peers,
    "pair-wise": pair_peers,
    "intra-class": intra_class_peers,
    "adversary": adversary_peers,
}


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


def check_gradients(term: str, own: tuple[Tensor, Step], others: Others) -> Row:
    """Each peer's relative distance to our gradient times the factor; None where both draw random numbers.

    Raises:
        RuntimeError: it is above 1e-3 (float32; the pair-wise term subtracts near-equal numbers).
    """
    want, apart = gradient_of(*own), {}
    for peer, (factor, call) in others.items():
        got = gradient_of(own[0], call)
        apart[peer] = None if factor is None else float((got / factor - want).norm() / want.norm())
        if factor is not None and not apart[peer] <= 1e-3:
            raise RuntimeError(f"{term}, {peer}: expected our gradient x {factor:g}, differs by {apart[peer]:.1e}.")
    return apart


def benchmark(shape: Sequence[int], args: argparse.Namespace) -> list[Row]:
    """All rows of one shape."""
    x = Inputs.draw(shape, args.device)
    own, rows = ours(x), []
    for term in args.terms:
        others = THEIRS[term](args.peer_root, x)
        apart = check_gradients(term, own[term], others)
        calls = {OURS: own[term][1], **{peer: call for peer, (_, call) in others.items()}}
        times = harness.measure(calls, args.rounds, harness.is_cuda(args), clock=harness.clock_of(args))
        for row in summarise(times):
            rows.append({"term": term, "shape": list(shape), **row, "gradient_apart": apart[row["peer"]]})
    return rows


def summarise(times: Times) -> list[Row]:
    """One row per peer: both medians, and median and quartiles of the rounds' own ratios ours / theirs."""
    rows = []
    for peer in times.ms:
        if peer == OURS:
            continue
        ratios = times.ratios(OURS, peer)
        medians = {f"{key}_median_ms": statistics.median(times.ms[k]) for key, k in (("ours", OURS), ("peer", peer))}
        ratio = {"ratio": times.ratio(OURS, peer), "ratio_quartiles": quartiles(ratios), "rounds": len(ratios)}
        rows.append({"peer": peer, **medians, **ratio})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = harness.make_parser(__doc__, rounds=21, device="cpu", peers="folder of the clones (required)")
    parser.add_argument("--shapes", nargs="+", default=["4,19,64,64", "4,150,64,64", "2,19,128,128"], metavar="N,K,H,W",
                        help="shapes of the logits")  # fmt: skip
    parser.add_argument("--terms", nargs="+", default=list(THEIRS), choices=list(THEIRS), help="losses to time")
    args = harness.parse(parser, argv)
    if args.peer_root is None:
        parser.error("--peer-root: expected the folder of the clones, got none")
    record = harness.new_record(args, peers=sources(args.peer_root))
    stay = mock.patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self)  # a peer sends its maps to a GPU
    with warnings.catch_warnings(), warnings.catch_warnings() if harness.is_cuda(args) else stay:
        warnings.simplefilter("ignore")  # of the peers' old calls
        for shape in ([int(v) for v in text.split(",")] for text in args.shapes):
            record["rows"] += benchmark(shape, args)
            harness.write_record(args.json, record)
    shown = [{**row, "maps": " x ".join(map(str, row["shape"]))} for row in record["rows"]]
    print(harness.table(COLUMNS, shown))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
