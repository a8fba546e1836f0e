"""Keys of the teacher and of every distiller, with their meaning above them."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from bpkd.tasks import TASKS

from .distillers import add_distillers

# Meta-architectures that train DISTILL.STUDENT with a teacher.
WRAPPERS = tuple(task.wrapper for task in TASKS)


def add_distillation(cfg: CN) -> None:
    """Adds the nodes TEACHER and DISTILL."""
    _add_teacher(cfg)
    add_distillers(cfg)
    _add_instance(cfg)


def _add_teacher(cfg: CN) -> None:
    # The teacher is built from its own config file and weights; no other key of the student's config reaches it.
    cfg.TEACHER = CN()
    add_teacher_keys(cfg.TEACHER)
    # A folder that bpkd cache-teacher recorded: the teachers' logits are read from it and no teacher is loaded.
    # CONFIG_FILE and WEIGHTS stay, to tell whether it is theirs.
    cfg.TEACHER.CACHE = ""
    # More teachers: a list of mappings with the keys above, e.g. [{CONFIG_FILE: b.yaml, WEIGHTS: b.pth}].
    cfg.TEACHER.OTHERS = []
    # What each teacher counts, the one above first, then OTHERS; divided by their sum. Empty: all the same. A teacher
    # with the share 0 is not loaded.
    cfg.TEACHER.SHARES = []
    # How several teachers teach: by the mean of their class "probabilities", or by the mean of the "losses" that the
    # distiller has with each of them.
    cfg.TEACHER.COMBINE = "probabilities"

    # `MODEL.META_ARCHITECTURE: SemanticDistiller` (InstanceDistiller for SOLOv2) wraps the student below and the
    # teacher above.
    cfg.DISTILL = CN()
    # Meta-architecture of the student.
    cfg.DISTILL.STUDENT = "BPKDSemanticSegmentor"
    # "none" trains the student alone; else a name of bpkd.distillers.DISTILLERS, or several joined by "+" ("CWD+IFVD").
    # Its node DISTILL.<NAME> holds that distiller's keyword arguments in upper case, with their defaults; null means
    # "from the preset". `help(bpkd.distillers.BPKD)` says what each of them does.
    cfg.DISTILL.METHOD = "none"
    # A factor for all terms of a distiller that teach the student, one per name of METHOD in its order; empty: 1 each.
    cfg.DISTILL.WEIGHTS = []


def add_teacher_keys(node: CN) -> None:
    """Adds the keys that describe one teacher."""
    node.CONFIG_FILE = ""
    node.WEIGHTS = ""
    # Instead of WEIGHTS: a TorchScript (.ts, .pt) or torch.export (.pt2) file, as bpkd export writes them.
    # CONFIG_FILE may then stay empty if the file states its classes, pixel statistics and colour order.
    node.EXPORTED = ""
    # KEY VALUE pairs merged into the teacher's config.
    node.OPTS = []
    # Entry t is the student's class for the teacher's class t, or -1 to drop it; empty: the lists are the same.
    node.CLASS_MAP = []
    # Autocast type of the teacher's forward pass: "auto", "off", "bf16" or "fp16", as SOLVER.AMP.DTYPE.
    node.AMP = "off"
    # Inference optimisations (docs/how_to/teachers.md, "A fast teacher"). "off": none. "auto": what is known to help
    # on the
    # device: batch norm folded, channels-last, and AMP bf16 where AMP is off and the device computes in it. Or names
    # joined by "+": "fold", "channels_last", "compile" (torch.compile), "graphs" (the same with CUDA graphs), "stream"
    # (beside the student on a CUDA stream of its own).
    node.OPTIMIZE = "off"


def _add_instance(cfg: CN) -> None:
    # How `InstanceDistiller` applies DISTILL.METHOD (KD, CWD, BPKD) to the levels of SOLOv2
    # (docs/reference/solov2_distillation.md).
    cfg.DISTILL.INSTANCE = CN()
    # Which images the networks see. "same": one size, each its own SCALE_RANGES. "same_ranges": one size, and both
    # models have equal SCALE_RANGES. "own_size": the teacher gets the picture at TEACHER_SIZE.
    cfg.DISTILL.INSTANCE.INPUT = "same"
    # "own_size": shorter side of the teacher's picture, and the most that its longer side may have.
    cfg.DISTILL.INSTANCE.TEACHER_SIZE = [800, 1333]
    # Factors of all category terms and of all mask terms; 0 leaves them out.
    cfg.DISTILL.INSTANCE.CATEGORY_WEIGHT = 1.0
    cfg.DISTILL.INSTANCE.MASK_WEIGHT = 1.0
    # What an edge is on the category grids: the "boundary" of the level's instances, or "grid": cells of the label
    # grid whose neighbours have another label.
    cfg.DISTILL.INSTANCE.CATEGORY_EDGES = "boundary"
    # One edge map per class (the maximum within the class) instead of one for all; only with "boundary".
    cfg.DISTILL.INSTANCE.PER_CLASS = False
    # The classes of a cell: "sigmoid" (each its own, as SOLOv2 trains them) or "softmax" over them.
    cfg.DISTILL.INSTANCE.DIVERGENCE = "sigmoid"
    # What represents the masks: "mask_logits" (of the same instances), "mask_towers" (the four maps that are summed)
    # or "mask_features" (their sum after the last convolution).
    cfg.DISTILL.INSTANCE.MASK_TERM = "mask_logits"
    # "mask_logits": which of the teacher's masks of the same instance teaches: "cell": that of the same level and cell,
    # where it has none the one with its highest score; "score": always the latter.
    cfg.DISTILL.INSTANCE.MATCH = "cell"
    # "mask_logits": pairs of student and teacher masks per image; more are drawn from at random.
    cfg.DISTILL.INSTANCE.MAX_PAIRS = 64
    # "mask_logits": compare only inside the instance's box enlarged by this factor (e.g. 1.5); 0: everywhere.
    cfg.DISTILL.INSTANCE.BOX_REGION = 0.0
