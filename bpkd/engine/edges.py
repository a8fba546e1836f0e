"""Edge masks that are made in the data loader instead of the training step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn

from bpkd.distillers import Distiller
from bpkd.functional import SparseEdgeMask
from bpkd.modeling import DistillationWrapper
from bpkd.tasks import SEMANTIC

logger = logging.getLogger(__name__)

Edges = Callable[[Tensor], SparseEdgeMask]


def loader_edges(cfg: CfgNode, model: nn.Module) -> Edges | None:
    """Returns a function that finds a sample's edges in the loader; None: DATALOADER.EDGE_MASKS is "step".

    The masks have the size of the teacher's logits.

    Args:
        cfg: Config; DATALOADER.EDGE_MASKS, INPUT.CROP_SIZE and SOLVER.IMS_PER_BATCH are read.
        model: The network to train, with its distiller.

    Raises:
        ValueError: the model compares no edges of labels, or edges of several kinds or sizes.
    """
    if cfg.DATALOADER.EDGE_MASKS == "step":
        return None
    parts = [part for part in model.modules() if isinstance(part, Distiller)]
    rules = {part.edge_rule for part in parts if part.edge_rule is not None}
    if not isinstance(model, DistillationWrapper) or len(rules) != 1:
        raise ValueError(
            f"DATALOADER.EDGE_MASKS workers: expected a DISTILL.METHOD that reads edges of {SEMANTIC.labels} (BPKD), "
            f"of one kind, got {cfg.DISTILL.METHOD!r} with {len(rules)} kinds. Set DATALOADER.EDGE_MASKS step."
        )
    crop = (cfg.INPUT.CROP_SIZE[0], cfg.INPUT.CROP_SIZE[1])
    sizes = model.compared_sizes(crop, count=max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()))
    if len(sizes) != 1:
        raise ValueError(
            f"DATALOADER.EDGE_MASKS workers: expected teachers with logits of one size, got {sorted(sizes)}. Set "
            "DATALOADER.EDGE_MASKS step."
        )
    size = sizes.pop()
    logger.info("Edge masks are made in the data loader, from %dx%d to logits of %dx%d.", *crop, *size)
    return partial(rules.pop().sample_mask, num_classes=model.student.num_classes, canvas=crop, size=size)
