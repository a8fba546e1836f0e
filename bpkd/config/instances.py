"""Keys of the networks for instances."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_instances(cfg: CN) -> None:
    """Adds the node MODEL.SOLOV2."""
    node = cfg.MODEL.SOLOV2 = CN()
    _add_network(node)
    _add_training(node)
    _add_test(node)


def _add_network(node: CN) -> None:
    # `MODEL.META_ARCHITECTURE: SOLOv2` with `MODEL.BACKBONE.NAME: build_deform_resnet_fpn_backbone`, which reads
    # Detectron2's MODEL.RESNETS and MODEL.FPN.
    node.NUM_CLASSES = 80
    # Maps of the category and kernel branch, stride 4 first, and cells per side of each one's grid.
    node.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    node.NUM_GRIDS = [40, 36, 24, 16, 12]
    # Convolutions of either branch and their channels.
    node.NUM_CONVS = 4
    node.CHANNELS = 512
    # Maps of the mask branch, stride 4 first, and its channels.
    node.MASK_IN_FEATURES = ["p2", "p3", "p4", "p5"]
    node.MASK_CHANNELS = 128
    # Length of a cell's kernel, which is the number of mask features.
    node.KERNEL_CHANNELS = 256
    # Norm of the branches: Detectron2's name ("GN" has 32 groups), or "" for none.
    node.NORM = "GN"
    # Deformable convolutions in the category and kernel branch: "none", the "last" of each, or "all".
    node.DCN = "none"
    # Deformable convolutions in the mask branch.
    node.MASK_DCN = False
    # Train weight and bias of the backbone's frozen norms (mmdetection does); their statistics stay.
    node.BN_EVAL_AFFINE = False


def _add_training(node: CN) -> None:
    # An instance is learned at a level if sqrt(box area) in pixels of the input lies in the level's range.
    node.SCALE_RANGES = [[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]]
    # Size of the centre region whose cells learn an instance, over that of its box.
    node.SIGMA = 0.2
    node.FOCAL_ALPHA = 0.25
    node.FOCAL_GAMMA = 2.0
    node.CATEGORY_WEIGHT = 1.0
    node.MASK_WEIGHT = 3.0
    # The mask loss is a mean over "pairs" of cell and instance (the authors), or their sum over the number of
    # different cells ("per_cell", mmdetection).
    node.NORMALIZER = "pairs"


def _add_test(node: CN) -> None:
    # Cells whose category score is above this are candidates.
    node.SCORE_THRESHOLD = 0.1
    # The best of them, by category score, get masks: this bounds the memory. 0: all.
    node.MAX_CANDIDATES = 1000
    node.MASK_THRESHOLD = 0.5
    # Candidates that enter Matrix NMS, its decay ("gaussian" or "linear") and the gaussian's factor.
    node.NMS_PRE = 500
    node.NMS_KERNEL = "gaussian"
    node.NMS_SIGMA = 2.0
    # Scores after Matrix NMS below this are dropped; TEST.DETECTIONS_PER_IMAGE are kept at most.
    node.KEEP_THRESHOLD = 0.05
