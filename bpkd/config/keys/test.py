"""Keys of evaluation."""

from __future__ import annotations

from bpkd.config.kinds import ABOVE_0, COUNT, COUNT_OR_0, FLAG, TEXTS, Choice, ListOf, Number
from bpkd.ranges import Range

from .data import PAIR_OF_PIXELS
from .key import DETECTRON2, Key

SLIDE = ("TEST.MODE", ("slide",))
PRECISE = ("TEST.PRECISE_BN.ENABLED", (True,))

KEYS = (
    Key("TEST.EVAL_PERIOD", DETECTRON2, COUNT_OR_0, "Iterations between evaluations during training. 0: at the end."),
    Key("TEST.MODE", "whole", Choice(("whole", "slide")),
        'What the network sees of a test image: the "whole", or windows that "slide" over it.'),
    Key("TEST.SLIDE_CROP", [512, 512], PAIR_OF_PIXELS, "(height, width) of a window in pixels.", SLIDE),
    Key("TEST.SLIDE_STRIDE", [341, 341], PAIR_OF_PIXELS,
        "(height, width) between two windows in pixels, SLIDE_CROP at most.", SLIDE),
    Key("TEST.SLIDE_WINDOWS", 4, COUNT,
        "Windows of one image that the network sees at once. More is faster on a GPU and takes more memory.", SLIDE),
    Key("TEST.SCALES", [1.0], ListOf(ABOVE_0, least=1), "Factors on the test size, whose scores are averaged."),
    Key("TEST.FLIP", False, FLAG, "Whether mirrored images are averaged in."),
    Key("TEST.TRIMAP_WIDTHS", [1, 3, 5, 9, 15], ListOf(COUNT),
        "Half-widths in pixels of the trimap bands. Width w is the (2w+1) x (2w+1) window."),
    Key("TEST.BOUNDARY_RATIO", 0.02, Number(Range(above=0, high=1)),
        "Boundary IoU's band as a share of the image's diagonal."),
    Key("TEST.BOUNDARY_TOLERANCES", [3], ListOf(COUNT),
        "Boundary F: distances in pixels at which two contours still match."),
    Key("TEST.CITYSCAPES_OFFICIAL", True, FLAG,
        "Cityscapes: also the official figures, by cityscapesscripts (needs gtFine's labelIds)."),
    Key("TEST.COCO_BACKEND", "auto", Choice(("auto", "pycocotools", "faster-coco-eval")),
        'Program that computes the mask AP of instances. "faster-coco-eval" has the same figures, sooner; "auto" takes '
        "it where it is installed."),
    Key("TEST.COCO_MAX_DETECTIONS", 100, COUNT,
        "Detections of an image that count in AP. 100 is COCO's. TEST.DETECTIONS_PER_IMAGE is what the network keeps."),
    Key("TEST.DETECTIONS_PER_IMAGE", DETECTRON2, COUNT, "Detections of an image that the network keeps at most."),
    Key("TEST.ABSENT_CLASS", "zero", Choice(("zero", "skip")),
        'How a class counts that is predicted but occurs in no label. "zero": as IoU 0 (OpenMMLab); "skip": not at all '
        "(Detectron2)."),
    Key("TEST.METRICS", [], TEXTS,
        "Further metrics of label maps beside mIoU, trimap, Boundary IoU and boundary F. Names of classes that "
        "bpkd.metrics.register_metric has registered (examples/my_metric)."),
    Key("TEST.PRECISE_BN.ENABLED", DETECTRON2, FLAG,
        "Whether batch norm's statistics are measured anew before an evaluation."),
    Key("TEST.PRECISE_BN.NUM_ITER", DETECTRON2, COUNT, "Batches that they are measured over.", PRECISE),
)  # fmt: skip
