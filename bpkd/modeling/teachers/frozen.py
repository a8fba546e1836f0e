"""FrozenTeacher: a trained network that is only asked, never trained, saved or synchronised."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from bpkd.config import read_config
from bpkd.convert import load_strict
from bpkd.distillers.adapters import map_classes
from bpkd.modeling.base import DenseModel
from bpkd.modeling.build import build_dense
from bpkd.modeling.precision import AMP_DTYPES
from bpkd.modeling.teachers.acceleration import Plan, make_fast
from bpkd.modeling.teachers.exported import ExportedInfo, load_exported
from bpkd.structures import SegOutput

logger = logging.getLogger(__name__)

Answer = Callable[[], SegOutput]
Taps = frozenset[str] | None


class FrozenTeacher:
    """Answers a raw batch with detached scores.

    Deliberately no nn.Module: as a plain object it enters neither the student's parameters, nor its checkpoint, nor
    DistributedDataParallel. It normalises the raw images with its own statistics and colour order.
    """

    def __init__(self, model: DenseModel, *, amp: str = "off", no_features: str = "", stream: bool = False) -> None:
        """Freezes ``model``.

        Args:
            model: with its weights loaded.
            amp: autocast type of the forward pass, "off", "bf16" or "fp16".
            no_features: why it gives logits alone, for messages; empty: it gives features.
            stream: run it on a CUDA stream of its own.

        Raises:
            ValueError: ``amp`` is unknown.
        """
        if amp not in AMP_DTYPES:
            raise ValueError(f"TEACHER.AMP: expected one of {', '.join(AMP_DTYPES)}, got {amp!r}.")
        self.model, self.amp, self.no_features = model.eval().requires_grad_(False), amp, no_features
        self._stream = torch.cuda.Stream(model.device) if stream else None

    def feature_channels(self) -> dict[str, int]:
        """Returns the channels of the teacher's features by name."""
        return self.model.feature_channels()

    def __call__(self, batch: Sequence[dict[str, Any]], size: tuple[int, int], device: torch.device) -> SegOutput:
        """Runs the teacher.

        Args:
            batch: what the loader delivers, uint8 images.
            size: (height, width) that the student's images were padded to.
            device: where the student is.

        Returns:
            Its output in float32, without graph.
        """
        return self.ask(batch, size, device)()

    def ask(
        self, batch: Sequence[dict[str, Any]], size: tuple[int, int], device: torch.device, *, taps: Taps = None
    ) -> Answer:
        """Starts the teacher and returns what waits for its answer.

        Only with a stream of its own is there anything to wait for.

        Args:
            batch: as for a call, like ``size`` and ``device``.
            size: see there.
            device: see there.
            taps: the features that will be looked at; the others are not kept. None: all are.
        """
        if self.model.device != device:
            self.model.to(device)
        self.model.eval()  # whoever called train() on it, it is asked in eval mode
        stream = self._stream
        if stream is None:
            output = self._run(batch, size, taps)
            return lambda: output
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            output = self._run(batch, size, taps)

        def wait() -> SegOutput:
            current = torch.cuda.current_stream(device)
            current.wait_stream(stream)
            for tensor in (output.logits, *output.features.values()):
                tensor.record_stream(current)
            return output

        return wait

    @torch.no_grad()
    def _run(self, batch: Sequence[dict[str, Any]], size: tuple[int, int], taps: Taps) -> SegOutput:
        kind = self.model.device.type
        autocast = torch.autocast(kind, AMP_DTYPES[self.amp], enabled=self.amp != "off", cache_enabled=False)
        # Inference mode, not just no_grad: no code of the network can switch the recording of a graph on again.
        with torch.inference_mode(), autocast:
            output = self.model.scores(self.model.images(batch, size))
        # Copied, outside of it: the losses' graphs refuse to hold tensors of inference mode.
        kept = output.features if taps is None else taps & output.features.keys()
        features = {name: output.features[name].to(torch.float32, copy=True) for name in kept}
        return SegOutput(output.logits.to(torch.float32, copy=True), None, features)


def build_teacher(cfg: CfgNode, node: CfgNode | None = None, key: str = "TEACHER") -> FrozenTeacher:
    """Builds a frozen teacher with its weights, as fast as its node says.

    The arguments are those of `build_teacher_model`.
    """
    node = cfg.TEACHER if node is None else node
    device, exported = torch.device(cfg.MODEL.DEVICE), bool(node.EXPORTED)
    plan = Plan.choose(node.FAST, node.AMP, device, exported=exported, key=key)
    model = build_teacher_model(cfg, node, key)
    height, width = cfg.INPUT.CROP_SIZE
    generator = torch.Generator().manual_seed(0)
    make_fast(model, plan, lambda: torch.randn(1, 3, height, width, generator=generator).to(device))
    logger.info("%s runs: %s", key, plan)
    reason = f"a teacher of {key}.EXPORTED gives logits alone" if exported else ""
    return FrozenTeacher(model, amp=plan.amp, no_features=reason, stream="stream" in plan.ways)


def build_teacher_model(cfg: CfgNode, node: CfgNode | None = None, key: str = "TEACHER") -> DenseModel:
    """Builds a teacher's network: from its own config file with strictly loaded weights, or from an exported file.

    Args:
        cfg: the student's config. Only device, image order, crop size and classes are used.
        node: describes the teacher; None: cfg.TEACHER.
        key: where the node stands in the config, for messages.

    Raises:
        FileNotFoundError: config file or weights do not exist.
        ValueError: no weights are given, keys are missing or left over, or the classes differ and no class map says
            how they correspond.
    """
    node = cfg.TEACHER if node is None else node
    model, names = _exported_network(cfg, node, key) if node.EXPORTED else _own_network(cfg, node, key)
    _match_classes(model, cfg, teacher_names=names, class_map=list(node.CLASS_MAP), key=key)
    model.source_format = cfg.INPUT.FORMAT
    return model.eval().requires_grad_(False)


def _own_network(cfg: CfgNode, node: CfgNode, key: str) -> tuple[DenseModel, Sequence[str] | None]:
    check_weights(node, key)
    teacher_cfg = load_teacher_cfg(cfg, node, key)
    with torch.random.fork_rng(devices=[]):  # the student's random numbers do not depend on the teacher
        model = build_dense(teacher_cfg)
    model.drop_auxiliary()
    info = load_strict(model, node.WEIGHTS, source=f"{key}.WEIGHTS", drop=("auxiliary_head.",))
    model.accelerate(channels_last=teacher_cfg.MODEL.CHANNELS_LAST, compiled=teacher_cfg.MODEL.COMPILE)
    return model, info.classes or class_names(teacher_cfg)


def _exported_network(cfg: CfgNode, node: CfgNode, key: str) -> tuple[DenseModel, Sequence[str] | None]:
    if node.WEIGHTS:
        raise ValueError(f"{key}: expected WEIGHTS or EXPORTED, got both. An exported file holds its weights.")
    if node.OPTS and not node.CONFIG_FILE:
        raise ValueError(f"{key}.OPTS: expected a CONFIG_FILE that they change, got none.")
    stated = None
    if node.CONFIG_FILE:
        teacher_cfg = load_teacher_cfg(cfg, node, key)
        stated = ExportedInfo.of_cfg(teacher_cfg, class_names(teacher_cfg))
    size = (cfg.INPUT.CROP_SIZE[0], cfg.INPUT.CROP_SIZE[1])
    model, info = load_exported(node.EXPORTED, stated, device=torch.device(cfg.MODEL.DEVICE), size=size, key=key)
    return model, info.classes


def load_teacher_cfg(cfg: CfgNode, node: CfgNode | None = None, key: str = "TEACHER") -> CfgNode:
    """Reads a teacher's own config: its CONFIG_FILE and OPTS over the defaults, on the student's device.

    The arguments are those of `build_teacher_model`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it holds an unknown key or a value of the wrong type.
    """
    node = cfg.TEACHER if node is None else node
    teacher_cfg = read_config(node.CONFIG_FILE, node.OPTS, source=f"{key}.CONFIG_FILE")
    teacher_cfg.MODEL.DEVICE = cfg.MODEL.DEVICE
    teacher_cfg.freeze()
    return teacher_cfg


def class_names(cfg: CfgNode) -> tuple[str, ...] | None:
    """Returns the class names of the training set, None where it is not registered or has none."""
    if not cfg.DATASETS.TRAIN:
        return None
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("stuff_classes")
    return tuple(names) if names else None


def _match_classes(
    model: DenseModel, cfg: CfgNode, *, teacher_names: Sequence[str] | None, class_map: list[int], key: str
) -> None:
    """Installs the class map, or makes sure that none is needed."""
    count, student_names = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, class_names(cfg)
    if class_map:
        model.output_map = partial(_mapped, class_map=class_map, num_classes=count)
        model.output_map(torch.zeros(1, model.num_classes, 1, 1))  # refuses a wrong map now
        return
    if model.num_classes != count:
        raise ValueError(
            f"Teacher and student: expected the same classes, got {model.num_classes} and {count}. Give "
            f"{key}.CLASS_MAP, a list of {model.num_classes} entries: entry t is the student's class for the "
            "teacher's class t, or -1."
        )
    advice = f"Give {key}.CLASS_MAP, or train the teacher on the same classes."
    check_class_names(teacher_names, student_names, advice=advice)


def check_weights(node: CfgNode, key: str = "TEACHER") -> None:
    """Makes sure that a teacher has weights.

    Raises:
        ValueError: it has none.
    """
    if not node.WEIGHTS:
        raise ValueError(
            f"{key}.WEIGHTS: expected a checkpoint, got nothing. A teacher with random weights teaches noise: train "
            f"one with {key}.CONFIG_FILE first and name its model_final.pth."
        )


def check_class_names(teacher_names: Sequence[str] | None, student_names: Sequence[str] | None, *, advice: str) -> None:
    """Compares the class lists of teacher and student, where both are known.

    Raises:
        ValueError: they differ; the message names the differences and the advice.
    """
    if not teacher_names or not student_names:
        logger.warning("Class names of teacher or student are unknown: only their number was compared.")
        return
    different = [
        f"{i}: {a!r} / {b!r}"
        for i, (a, b) in enumerate(zip(teacher_names, student_names, strict=False))
        if a.strip().lower() != b.strip().lower()  # OpenMMLab's ADE20K has 'bed '
    ]
    if different or len(teacher_names) != len(student_names):
        shown = ", ".join(different[:8]) or f"{len(teacher_names)} / {len(student_names)} names"
        raise ValueError(
            f"Teacher and student: expected the same class list, got differences (teacher / student): {shown}. {advice}"
        )


def _mapped(logits: Tensor, *, class_map: list[int], num_classes: int) -> Tensor:
    return map_classes(logits, class_map, num_classes)
