"""The weights that a run starts from."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import nn

from bpkd.convert import check_classes, load_backbone, load_strict
from bpkd.modeling.teachers.classes import class_names


def load_start(cfg: CfgNode, student: nn.Module) -> None:
    """Loads MODEL.WEIGHTS or MODEL.BACKBONE.WEIGHTS into a network; without either it stays as it is.

    Raises:
        ValueError: the weights do not fit, or the network has no backbone that could be given any.
    """
    statements = cfg.MODEL.FILE_STATEMENTS
    if cfg.MODEL.WEIGHTS:
        found = load_strict(student, cfg.MODEL.WEIGHTS, statements=statements)
        # Other classes may be a start too.
        check_classes(found.classes, class_names(cfg), f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}", policy="warn")
    elif cfg.MODEL.BACKBONE.WEIGHTS:
        backbone = getattr(student, "backbone", None)
        if backbone is None:
            raise ValueError(
                f"MODEL.BACKBONE.WEIGHTS: expected a network with a backbone, got {type(student).__name__}. Give "
                "MODEL.WEIGHTS, or let MODEL.MODULE.KWARGS load the weights."
            )
        bottom = getattr(backbone, "bottom_up", backbone)  # below a feature pyramid, which no ImageNet file has
        load_backbone(bottom, cfg.MODEL.BACKBONE.WEIGHTS, network=student, statements=statements)
