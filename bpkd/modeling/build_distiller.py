"""Builds the distiller that a config names, and its target: labels with their edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from bpkd.distillers import DISTILLERS, CombinedDistiller, DistillationModule, Distiller, PerTeacher, Target, arguments
from bpkd.functional import SparseEdgeMask
from bpkd.modeling.base import DenseModel
from bpkd.modeling.preprocessing import file_names
from bpkd.modeling.teachers.combined import OneTeacher, TeacherPanel, Teachers


def with_edges(batch: Sequence[dict[str, Any]], labels: Tensor) -> Target:
    """Returns a target of the batch's labels, with the edges that the data loader computed, if any.

    Raises:
        ValueError: only some of the samples have edges.
    """
    rows = [item["edge_rows"] for item in batch if "edge_rows" in item]
    if not rows:
        return Target(labels)
    if len(rows) < len(batch):
        names = [n for item, n in zip(batch, file_names(batch), strict=True) if "edge_rows" not in item]
        raise ValueError(f"edge_rows: expected of every sample or of none, got none of {', '.join(names)}.")
    return Target(labels, SparseEdgeMask.cat(rows))


def check_method(method: str) -> list[str]:
    """Returns the distillers that a method is made of, "CWD+IFVD" or a single name; none for "none".

    Raises:
        ValueError: a name is unknown or occurs twice.
    """
    names = [] if method == "none" else method.split("+")
    unknown = [name for name in names if name not in DISTILLERS]
    if unknown:
        raise ValueError(f"DISTILL.METHOD: {DISTILLERS.unknown(unknown[0])}")
    if len(set(names)) != len(names):
        raise ValueError(f"DISTILL.METHOD: expected each distiller once, got {method!r}.")
    return names


def method_names(cfg: CfgNode) -> list[str]:
    """Returns the distillers of DISTILL.METHOD in their order.

    Raises:
        ValueError: see `check_method`, or DISTILL.WEIGHTS is not one positive number per name.
    """
    names, weights = check_method(cfg.DISTILL.METHOD), list(cfg.DISTILL.WEIGHTS)
    wrong = [w for w in weights if isinstance(w, bool) or not isinstance(w, int | float) or not 0 < w < float("inf")]
    if wrong or len(weights) not in (0, len(names)):
        raise ValueError(
            f"DISTILL.WEIGHTS: expected nothing, or one number above 0 per name of DISTILL.METHOD "
            f"({cfg.DISTILL.METHOD!r}: {len(names)}), got {weights}. A method that you do not want is not named."
        )
    return names


def build_distiller(cfg: CfgNode, student: DenseModel, teacher: Teachers) -> DistillationModule:
    """Builds the distillers of DISTILL.METHOD from their config nodes and the networks' feature channels.

    Raises:
        ValueError: a distiller compares a feature that a network lacks, of those known before the first forward pass.
    """
    if isinstance(teacher, TeacherPanel):
        return PerTeacher([_distiller(cfg, student, one) for one in teacher.teachers], teacher.shares)
    return _distiller(cfg, student, teacher)


def _distiller(cfg: CfgNode, student: DenseModel, teacher: OneTeacher) -> Distiller:
    distiller = distiller_of_config(
        cfg,
        num_classes=student.num_classes,
        ignore_index=student.ignore_index,
        student_channels=student.feature_channels(),
        teacher_channels=teacher.feature_channels(),
        features_unavailable_reason=teacher.features_unavailable_reason,
    )
    parts = distiller.distillers() if isinstance(distiller, CombinedDistiller) else [distiller]
    for name, part in zip(method_names(cfg), parts, strict=True):
        _check_taps(name, part, student, teacher)
    return distiller


def distiller_of_config(cfg: CfgNode, **common: Any) -> Distiller:
    """Returns the distillers of DISTILL.METHOD, with the options of their config nodes, as one distiller.

    Args:
        cfg: Config of the run.
        **common: Arguments of `bpkd.distillers.Distiller` that all of them get.

    Raises:
        ValueError: a distiller's node is missing, or a value has the wrong type.
    """
    parts = {name: DISTILLERS[name](**_options(cfg.DISTILL, name), **common) for name in method_names(cfg)}
    if len(parts) == 1 and not cfg.DISTILL.WEIGHTS:
        return next(iter(parts.values()))
    return CombinedDistiller(parts, cfg.DISTILL.WEIGHTS)


def _options(node: CfgNode, name: str) -> dict[str, Any]:
    if name not in node:
        raise ValueError(
            f"DISTILL.METHOD: expected a node DISTILL.{name}, got none: {name} was registered after this config was "
            "made. Name its module in IMPORTS, or import it before get_bpkd_cfg()."
        )
    known, options = {a.name.upper(): a for a in arguments(DISTILLERS[name]).values()}, {}
    for key, value in node[name].items():
        argument = known.get(key)
        try:
            options[argument.name if argument else key.lower()] = argument.check(value) if argument else value
        except ValueError as error:
            raise ValueError(f"DISTILL.{name}.{key}: {error}.") from None
    return options


def _check_taps(name: str, distiller: DistillationModule, student: DenseModel, teacher: OneTeacher) -> None:
    for term, tap in distiller.taps.items():
        if tap == "logits":
            continue
        reason = teacher.features_unavailable_reason
        if reason:
            raise ValueError(f"DISTILL.{name}, term {term!r} compares the feature {tap!r}, but {reason}.")
        for role, known in (("student", student.feature_channels()), ("teacher", teacher.feature_channels())):
            if known and tap not in known:
                raise ValueError(
                    f"DISTILL.{name}, term {term!r}: expected a tap that the {role} has, logits or one of "
                    f"{', '.join(known)}, got {tap!r}."
                )
