"""Keys of the networks for instances."""

from __future__ import annotations

from bpkd.config.kinds import (
    ABOVE_0,
    COUNT,
    COUNT_OR_0,
    FLAG,
    SHARE_OF,
    TEXT,
    WEIGHT,
    Choice,
    Kind,
    ListOf,
    Text,
)

from .key import Key

FILLED = Text(filled=True)


def _key(name: str, default: object, kind: Kind, meaning: str) -> Key:
    return Key(f"MODEL.SOLOV2.{name}", default, kind, meaning)


# `MODEL.META_ARCHITECTURE: SOLOv2` with `MODEL.BACKBONE.NAME: build_deform_resnet_fpn_backbone`, which reads
# Detectron2's MODEL.RESNETS and MODEL.FPN.
KEYS = (
    _key("NUM_CLASSES", 80, COUNT, "Number of classes of instances."),
    _key("IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"], ListOf(FILLED, least=3),
         "Maps of the category and kernel branch, stride 4 first."),
    _key("NUM_GRIDS", [40, 36, 24, 16, 12], ListOf(COUNT, least=3), "Cells per side of each map's grid."),
    _key("NUM_CONVS", 4, COUNT, "Convolutions of the category and of the kernel branch."),
    _key("CHANNELS", 512, COUNT, "Channels of the category and of the kernel branch."),
    _key("MASK_IN_FEATURES", ["p2", "p3", "p4", "p5"], ListOf(FILLED, least=1),
         "Maps of the mask branch, stride 4 first."),
    _key("MASK_CHANNELS", 128, COUNT, "Channels of the mask branch."),
    _key("KERNEL_CHANNELS", 256, COUNT, "Length of a cell's kernel, which is the number of mask features."),
    _key("NORM", "GN", TEXT, 'Norm of the branches. Detectron2\'s name ("GN" has 32 groups), or "" for none.'),
    _key("DCN", "none", Choice(("none", "last", "all")),
         'Deformable convolutions in the category and kernel branch: "none", the "last" of each, or "all".'),
    _key("MASK_DCN", False, FLAG, "Deformable convolutions in the mask branch."),
    _key("BN_EVAL_AFFINE", False, FLAG,
         "Train weight and bias of the backbone's frozen norms (mmdetection does). Their statistics stay."),
    # Training.
    _key("SCALE_RANGES", [[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]], ListOf(ListOf(WEIGHT, length=2)),
         "Pairs [low, high], one per level. An instance is learned at a level if sqrt(box area) in pixels of the input "
         "lies in the level's range."),
    _key("SIGMA", 0.2, SHARE_OF,
         "Size of the centre region whose cells learn an instance, over that of its box."),
    _key("FOCAL_ALPHA", 0.25, SHARE_OF, "Weight of the positive cells in the focal loss; that of the others is 1 less "
         "it."),
    _key("FOCAL_GAMMA", 2.0, WEIGHT, "Exponent of the focal loss."),
    _key("CATEGORY_WEIGHT", 1.0, WEIGHT, "Factor on the category loss."),
    _key("MASK_WEIGHT", 3.0, WEIGHT, "Factor on the mask loss."),
    _key("NORMALIZER", "pairs", Choice(("pairs", "per_cell")),
         'What the mask loss is a mean over. "pairs" of cell and instance (the authors), or their sum over the number '
         'of different cells ("per_cell", mmdetection).'),
    # Test.
    _key("SCORE_THRESHOLD", 0.1, SHARE_OF, "Category score above which cells are candidates."),
    _key("MAX_CANDIDATES", 1000, COUNT_OR_0,
         "Candidates that get masks, the best by category score. This bounds the memory. 0: all."),
    _key("MASK_THRESHOLD", 0.5, SHARE_OF, "Probability above which a pixel belongs to a mask."),
    _key("NMS_PRE", 500, COUNT, "Candidates that enter Matrix NMS."),
    _key("NMS_KERNEL", "gaussian", Choice(("gaussian", "linear")), "Decay of Matrix NMS."),
    _key("NMS_SIGMA", 2.0, ABOVE_0, "Factor of the gaussian decay."),
    _key("KEEP_THRESHOLD", 0.05, SHARE_OF,
         "Score after Matrix NMS below which a detection is dropped. TEST.DETECTIONS_PER_IMAGE are kept at most."),
)  # fmt: skip
