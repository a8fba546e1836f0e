"""What `benchmarks.step` times: each part is a dict of calls that are compared with the first named `against`."""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from detectron2.data import DatasetCatalog
from torch import Tensor, nn

from benchmarks.distillers import BASE, freeze, pair, step, steps
from benchmarks.harness import ROOT, Call
from benchmarks.peers.mmseg_networks import build_mmseg, build_ours, mmseg_logits, random_state_dict
from benchmarks.scenes import literal_channel_kd, literal_cross_entropy, make_batch
from bpkd.config import read_config
from bpkd.data import build_train_loader, register_datasets
from bpkd.engine.edges import loader_edges
from bpkd.export.student import Scores
from bpkd.modeling import SemanticDistiller
from bpkd.modeling.build_distiller import build_distiller
from bpkd.modeling.inference import predict_logits
from bpkd.modeling.precision import AMP_DTYPES
from bpkd.modeling.teachers.acceleration import Optimizations, optimize_for_inference
from bpkd.modeling.teachers.cached import LOGITS, CachedTeacher, CacheFolder, rows_of
from bpkd.modeling.teachers.frozen import FrozenTeacher

LOADING, RIVAL, RECORDED = "data loading", "mmsegmentation", "BPKD, recorded teacher"
PREPARED = "BPKD, masks in the workers"
GRAPH, PLAIN = "graph recorded", "no_grad, float32"
WHOLE, SLIDE = "whole image", "sliding window"
Calls = dict[str, Call]
# The pair whose networks mmsegmentation has too, under its names.
NETWORK_PAIR = ROOT / "projects" / "BPKD" / "configs" / "cityscapes" / "pspnet_r18__pspnet_r101.yaml"
NETWORKS = ("pspnet_r18", "pspnet_r101")


def step_calls(args: argparse.Namespace) -> Calls:
    """The training step alone, with a teacher, with each distiller; BPKD with masks or logits made beforehand.

    Loading its images is there too, where the config's training set is.
    """
    calls: Calls = dict(steps(args))
    cfg, student, teacher = pair(args)
    batch = make_batch(args.batch, (args.size, args.size), student.num_classes)
    calls[PREPARED] = step("BPKD", cfg, student, teacher, with_rows(batch, cfg, student, teacher))
    with tempfile.TemporaryDirectory() as folder:  # stays mapped after it is gone
        calls[RECORDED] = step("BPKD", cfg, student, recorded(teacher, batch, folder), batch)
    return calls | loading_call(args)


def with_rows(batch: list[dict[str, Any]], cfg: Any, student: Any, teacher: FrozenTeacher) -> list[dict[str, Any]]:
    """The batch as the loader's workers would deliver it with DATALOADER.EDGE_MASKS workers."""
    cfg.DATALOADER.EDGE_MASKS, cfg.DISTILL.METHOD = "workers", "BPKD"
    model = SemanticDistiller(student=student, teacher=teacher, distiller=build_distiller(cfg, student, teacher))
    find = loader_edges(cfg, model)
    assert find is not None  # it is asked for above
    return [{**item, "edge_rows": find(item["sem_seg"])} for item in batch]


def recorded(teacher: FrozenTeacher, batch: list[dict[str, Any]], path: str) -> CachedTeacher:
    """The teacher's logits of the batch in the form that TEACHER.CACHE reads."""
    for position, item in enumerate(batch):
        item["position"] = position
    size = (int(batch[0]["image"].shape[1]), int(batch[0]["image"].shape[2]))
    logits = teacher(batch, size, teacher.model.device).logits
    folder = CacheFolder(path)
    (folder.path / LOGITS).write_bytes(rows_of(batch, logits, "uint8").tobytes())
    folder.write({"of": {}, "format": "uint8", "shape": list(logits.shape[1:]), "count": len(batch)})
    return CachedTeacher(path, of={}, samples=len(batch))


def loading_call(args: argparse.Namespace) -> Calls:
    """The next batch of the config's training set, loaded and augmented in this process; nothing without its files."""
    cfg = read_config(args.config_file, ["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", args.batch, *args.opts])
    cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.CROP_SIZE = 0, [args.size, args.size]
    register_datasets(cfg)
    try:
        found = all(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)
    except (OSError, ValueError):
        found = False
    if not found:
        return {}
    batches = iter(build_train_loader(cfg))
    return {LOADING: lambda: next(batches)}


def teacher_calls(args: argparse.Namespace) -> Calls:
    """The teacher's forward pass, from plain to fast; `FrozenTeacher` runs in inference mode."""
    cfg, _, first = plain_pair(args)
    network, size, device = first.model, (args.size, args.size), torch.device(args.device)
    network.load_state_dict(random_state_dict(network))
    batch = make_batch(args.batch, size, network.num_classes)
    plain = unchanged_layout(network)
    recording = copy.deepcopy(plain).requires_grad_(True)
    calls: Calls = {
        GRAPH: lambda: recording.scores(recording.images(batch, size)).logits,
        PLAIN: lambda: torch.no_grad()(plain.scores)(plain.images(batch, size)).logits,
    }
    forms = [("inference_mode", "off", "off"), ("channels_last", "channels_last", "off"), ("fold", "fold", "off"),
             ("fold+channels_last", "fold+channels_last", "off"), ("bf16", "off", "bf16"),
             ("fold+channels_last+bf16", "fold+channels_last", "bf16")]  # fmt: skip
    if args.compile:
        forms.append(("fold+channels_last+compile+bf16", "fold+channels_last+compile", "bf16"))
    for name, fast, amp in forms:
        teacher = freeze(copy.deepcopy(plain), fast, amp, args)
        calls[name] = lambda teacher=teacher: teacher(batch, size, device).logits
    return calls


def plain_pair(args: argparse.Namespace) -> tuple[Any, nn.Module, FrozenTeacher]:
    """The pair with a teacher in float32, whatever the config says."""
    opts = [*args.opts, "TEACHER.OPTIMIZE", "off", "TEACHER.AMP", "off"]
    return pair(argparse.Namespace(**{**vars(args), "opts": opts}))


def unchanged_layout(network: Any) -> Any:
    """A copy with its weights in PyTorch's own layout, whatever its config says."""
    copied = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    copied._memory_format = torch.contiguous_format
    return copied


def rival_calls(args: argparse.Namespace) -> Calls:
    """Our whole step beside mmsegmentation's modules in a plain loop in mmrazor's form."""
    args = argparse.Namespace(**{**vars(args), "config_file": str(NETWORK_PAIR)})
    cfg, student, plain = plain_pair(args)
    batch = make_batch(args.batch, (args.size, args.size), student.num_classes)
    quick = freeze(copy.deepcopy(plain.model), "auto", "off", args)
    calls: Calls = {}
    if args.rival:
        networks = [build_mmseg(name, student.num_classes) for name in NETWORKS]
        calls[RIVAL] = plain_loop(*networks, mmseg_logits, batch, torch.device(args.device))
    variants: list[tuple[str, FrozenTeacher]] = [("TEACHER.OPTIMIZE off", plain), ("TEACHER.OPTIMIZE auto", quick)]
    for name, teacher in variants:
        calls[f"BPKD, {name}"] = step("BPKD", cfg, student, teacher, batch)
    return calls


def plain_loop(
    student: nn.Module,
    teacher: nn.Module,
    logits: Callable[..., Any],
    batch: list[dict[str, Tensor]],
    device: torch.device,
    amp: str = "off",
) -> Call:
    """One training step in mmrazor's form, in plain PyTorch.

    The teacher's logits without gradient in the student's autocast, cross entropy of both heads at label size,
    channel-wise distillation, SGD. The teacher's own losses, which mmrazor computes too, are left out.
    """
    student, teacher = student.to(device).train(), teacher.to(device).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        images = torch.stack([item["image"] for item in batch]).to(device).sub(120.0).div(57.0)
        labels = torch.stack([item["sem_seg"] for item in batch]).to(device).long()
        with torch.autocast(device.type, AMP_DTYPES[amp], enabled=amp != "off"):
            decode, aux = logits(student, images)
            with torch.no_grad():
                target, _ = logits(teacher, images)
        loss = literal_cross_entropy(decode.float(), labels) + 3.0 * literal_channel_kd(decode.float(), target.float())
        if aux is not None:
            loss = loss + 0.4 * literal_cross_entropy(aux.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def inference_calls(args: argparse.Namespace) -> Calls:
    """The student's logits: eager, compiled, exported, optimised as teachers are; and of mmsegmentation's network."""
    ours, state = student_of(args)
    images = torch.randn(args.images, 3, *args.image_size, generator=torch.Generator().manual_seed(0)).to(args.device)
    calls: Calls = {}
    if args.rival:
        theirs = rival_network(state, args)
        calls[RIVAL] = _quiet(lambda: mmseg_logits(theirs, images)[0])
    calls["eager"] = _quiet(lambda: ours.predict(images).logits)
    program = torch.export.export(Scores(ours), (images,)).module()
    calls["exported (torch.export)"] = _quiet(lambda: program(images))
    if args.compile:
        compiled = torch.compile(Scores(ours))
        calls["compiled"] = _quiet(lambda: compiled(images))
    for way in ("fold", "auto"):
        plan = Optimizations.choose(way, "off", torch.device(args.device))
        calls[str(plan)] = _quiet(quick_call(ours, plan, images))
    return calls


def quick_call(model: Any, plan: Optimizations, images: Tensor) -> Callable[[], Tensor]:
    """Returns a call of a copy of the network with a teacher's inference optimisations."""
    quick = copy.deepcopy(model)
    optimize_for_inference(quick, plan, lambda: images[:1])
    if "channels_last" in plan.names:
        images = images.contiguous(memory_format=torch.channels_last)

    def call() -> Tensor:
        kind = images.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=plan.amp == "bf16", cache_enabled=False):
            return quick.predict(images).logits

    return call


def slide_calls(args: argparse.Namespace) -> Calls:
    """Sliding windows over one image, one and several at a time, at the image's size."""
    ours, state = student_of(args)
    size, (crop, stride) = tuple(args.image_size), windows(args)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(args.device)
    calls: Calls = {}
    if args.rival:
        theirs = rival_network(state, args)
        theirs.test_cfg = SimpleNamespace(mode="slide", crop_size=crop, stride=stride)
        calls[RIVAL] = _quiet(lambda: theirs.slide_inference(image, [{"img_shape": size}]))
    for count in (1, 4):
        options: dict[str, Any] = {"mode": "slide", "crop": crop, "stride": stride, "windows": count}
        calls[f"{count} at a time"] = _quiet(
            lambda options=options: predict_logits(lambda x: ours.predict(x).logits, image, size, **options)
        )
    return calls


def windows(args: argparse.Namespace) -> tuple[tuple[int, int], tuple[int, int]]:
    """Windows of half the image's sides, a third of a side apart."""
    height, width = args.image_size
    return (height // 2, width // 2), (height // 3, width // 3)


def student_of(args: argparse.Namespace) -> tuple[Any, dict[str, Tensor]]:
    """The student as it is deployed, and its weights."""
    ours = build_ours(NETWORKS[0], args.classes, device=args.device).eval().requires_grad_(False)
    ours.drop_auxiliary()
    state = random_state_dict(ours)
    ours.load_state_dict(state)
    return ours, state


def rival_network(state: dict[str, Tensor], args: argparse.Namespace) -> Any:
    """The student of mmsegmentation with the same weights; its auxiliary head keeps its own."""
    theirs = build_mmseg(NETWORKS[0], args.classes).to(args.device).eval().requires_grad_(False)
    theirs.load_state_dict({**theirs.state_dict(), **state})
    return theirs


def _quiet(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.inference_mode():
            return call()

    return run


# Name -> the calls, what ratios are to, whether the calls return scores that must agree, images per call.
PARTS: dict[str, tuple[Callable[[argparse.Namespace], Calls], str, bool, str]] = {
    "training step": (step_calls, BASE, False, "batch"),
    "teacher": (teacher_calls, PLAIN, True, "batch"),
    "mmrazor's form": (rival_calls, RIVAL, False, "batch"),
    WHOLE: (inference_calls, RIVAL, True, "images"),
    SLIDE: (slide_calls, RIVAL, True, ""),
}
