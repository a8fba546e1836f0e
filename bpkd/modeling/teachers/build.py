"""Builds teachers: read the config, build or open the network, load weights, match classes, optimise, freeze."""

from __future__ import annotations

import logging

import torch
from detectron2.config import CfgNode

from bpkd.config import teacher_nodes, teacher_shares
from bpkd.convert import load_strict
from bpkd.modeling.base import DenseModel
from bpkd.modeling.build import Network, build_student, task_of
from bpkd.tasks import INSTANCE

from .acceleration import Optimizations, optimize_for_inference
from .cached import CachedTeacher, recorded_for, samples_needed
from .classes import Names, class_names, match_classes
from .combined import Teachers, combine
from .config import load_teacher_cfg
from .exported import ExportedInfo, load_exported
from .frozen import FrozenTeacher

logger = logging.getLogger(__name__)

# Keys of a teacher's node that only semantic segmentation has.
SEMANTIC_KEYS = ("EXPORTED", "CLASS_MAP", "OTHERS", "CACHE")


def build_teachers(cfg: CfgNode) -> Teachers:
    """Builds every teacher with a weight and combines them by TEACHER.COMBINE, or opens TEACHER.CACHE.

    Raises:
        FileNotFoundError: config file or weights of a teacher, or the cache, do not exist.
        ValueError: TEACHER.OTHERS or SHARES is wrong, or a teacher or the cache does not fit the config.
    """
    if cfg.TEACHER.CACHE:
        return CachedTeacher(cfg.TEACHER.CACHE, of=recorded_for(cfg), samples=samples_needed(cfg))
    named = zip(teacher_nodes(cfg).items(), teacher_shares(cfg), strict=True)
    chosen = [(build_teacher(cfg, node, key), share) for (key, node), share in named if share]
    return combine([teacher for teacher, _ in chosen], [share for _, share in chosen], cfg.TEACHER.COMBINE)


def build_teacher(cfg: CfgNode, node: CfgNode | None = None, key: str = "TEACHER") -> FrozenTeacher:
    """Builds a frozen teacher of a dense network, with the inference optimisations of its node.

    The arguments are those of `build_teacher_model`.
    """
    node = cfg.TEACHER if node is None else node
    device, exported = torch.device(cfg.MODEL.DEVICE), bool(node.EXPORTED)
    chosen = Optimizations.choose(node.OPTIMIZE, node.AMP, device, exported=exported, key=key)
    model = build_teacher_model(cfg, node, key)
    if not isinstance(model, DenseModel):
        raise TypeError(f"{key}: expected a teacher for semantic segmentation, got {type(model).__name__}.")
    height, width = cfg.INPUT.CROP_SIZE
    generator = torch.Generator().manual_seed(0)
    optimize_for_inference(model, chosen, lambda: torch.randn(1, 3, height, width, generator=generator).to(device))
    logger.info("%s runs: %s", key, chosen)
    reason = f"a teacher of {key}.EXPORTED gives logits alone" if exported else None
    return FrozenTeacher(model, amp=chosen.amp, features_unavailable_reason=reason, stream="stream" in chosen.names)


def build_teacher_model(cfg: CfgNode, node: CfgNode | None = None, key: str = "TEACHER") -> Network:
    """Builds a teacher's network, for either task: from its own config file and weights, or from an exported file.

    Args:
        cfg: The student's config. Only device, image order, crop size, data set and classes are used.
        node: Config node of the teacher; None: cfg.TEACHER.
        key: Key of the teacher's node in the config, for messages.

    Returns:
        The network in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: config file or weights do not exist.
        ValueError: no weights are given, keys of the state dict are missing or unexpected, the classes differ and there
            is no class map, or a key is set that the task does not have.
    """
    node = cfg.TEACHER if node is None else node
    check_keys(cfg, node, key)
    model, names = open_exported(cfg, node, key) if node.EXPORTED else build_and_load(cfg, node, key)
    match_classes(model, cfg, names, class_map=list(node.CLASS_MAP), key=key)
    model.source_format = cfg.INPUT.FORMAT
    return model.eval().requires_grad_(False)


def check_keys(cfg: CfgNode, node: CfgNode, key: str) -> None:
    """Checks that a teacher has one source of weights, and no key of another task.

    Raises:
        ValueError: it has no or two sources of weights, or such a key.
    """
    if task_of(cfg) is INSTANCE:
        _refuse_semantic_keys(node, key)
    if node.EXPORTED and node.WEIGHTS:
        raise ValueError(f"{key}: expected WEIGHTS or EXPORTED, got both. An exported file holds its weights.")
    if node.EXPORTED and node.OPTS and not node.CONFIG_FILE:
        raise ValueError(f"{key}.OPTS: expected a CONFIG_FILE that they change, got none.")
    if not node.EXPORTED and not node.WEIGHTS:
        raise ValueError(
            f"{key}.WEIGHTS: expected a checkpoint, got nothing. A teacher with random weights teaches noise: train "
            f"one with {key}.CONFIG_FILE first and name its model_final.pth."
        )


def _refuse_semantic_keys(node: CfgNode, key: str) -> None:
    given = [name for name in SEMANTIC_KEYS if node[name]]
    if given:
        raise ValueError(
            f"{key}.{given[0]}: expected nothing for InstanceDistiller, which has one teacher, with the student's "
            f"classes, from CONFIG_FILE and WEIGHTS; got {node[given[0]]!r}."
        )
    if node.OPTIMIZE != "off":
        raise ValueError(
            f"{key}.OPTIMIZE: expected off for InstanceDistiller, got {node.OPTIMIZE!r}. {key}.AMP bf16 or fp16 makes "
            "its teacher faster."
        )


def build_and_load(cfg: CfgNode, node: CfgNode, key: str) -> tuple[Network, Names]:
    """Builds the network of a teacher's own config and loads its weights strictly; returns it with its class names."""
    teacher_cfg = load_teacher_cfg(cfg, node, key)
    if (task := task_of(cfg)) is not task_of(teacher_cfg):
        raise ValueError(
            f"{key}.CONFIG_FILE: expected a network for {task.labels}, as the student's is, got "
            f"{teacher_cfg.MODEL.META_ARCHITECTURE}."
        )
    with torch.random.fork_rng(devices=[]):  # the student's random numbers do not depend on the teacher
        model = build_student(teacher_cfg)
    model.drop_auxiliary()
    info = load_strict(
        model,
        node.WEIGHTS,
        source=f"{key}.WEIGHTS",
        drop=("auxiliary_head.",),
        role="teacher",
        statements=teacher_cfg.MODEL.FILE_STATEMENTS,
    )
    model.accelerate(channels_last=teacher_cfg.MODEL.CHANNELS_LAST, compiled=teacher_cfg.MODEL.COMPILE)
    return model, info.classes or class_names(teacher_cfg)


def open_exported(cfg: CfgNode, node: CfgNode, key: str) -> tuple[Network, Names]:
    """Opens the file of an exported teacher; returns its network and class names."""
    stated = None
    if node.CONFIG_FILE:
        teacher_cfg = load_teacher_cfg(cfg, node, key)
        stated = ExportedInfo.of_cfg(teacher_cfg, class_names(teacher_cfg))
    size = (cfg.INPUT.CROP_SIZE[0], cfg.INPUT.CROP_SIZE[1])
    model, info = load_exported(node.EXPORTED, stated, device=torch.device(cfg.MODEL.DEVICE), size=size, key=key)
    return model, info.classes
