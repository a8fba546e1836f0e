"""Keys of the teacher and of every distiller, with their meaning above them."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

# Meta-architectures that train DISTILL.STUDENT with a teacher.
WRAPPERS = ("SemanticDistiller", "InstanceDistiller")


def add_distillation(cfg: CN) -> None:
    """Adds the nodes TEACHER and DISTILL."""
    _add_teacher(cfg)
    for add in (_add_kd, _add_skds, _add_ifvd, _add_bpkd, _add_cirkd, _add_instance):
        add(cfg)


def _add_teacher(cfg: CN) -> None:
    # The teacher is built from its own config file and weights; no other key of the student's config reaches it.
    cfg.TEACHER = CN()
    add_teacher_keys(cfg.TEACHER)
    # A folder that tools/cache_teacher.py recorded: the teachers' logits are read from it and no teacher is loaded.
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
    # Its node below holds exactly the keyword arguments of that distiller.
    cfg.DISTILL.METHOD = "none"
    # A factor for all terms of a distiller that teach the student, one per name of METHOD in its order; empty: 1 each.
    cfg.DISTILL.WEIGHTS = []


def add_teacher_keys(node: CN) -> None:
    """Adds the keys that describe one teacher."""
    node.CONFIG_FILE = ""
    node.WEIGHTS = ""
    # Instead of WEIGHTS: a TorchScript (.ts, .pt) or torch.export (.pt2) file, as tools/export_model.py writes them.
    # CONFIG_FILE may then stay empty if the file states its classes, pixel statistics and colour order.
    node.EXPORTED = ""
    # KEY VALUE pairs merged into the teacher's config.
    node.OPTS = []
    # Entry t is the student's class for the teacher's class t, or -1 to drop it; empty: the lists are the same.
    node.CLASS_MAP = []
    # Autocast type of the teacher's forward pass: "auto", "off", "bf16" or "fp16", as SOLVER.AMP.DTYPE.
    node.AMP = "off"
    # How else it is made faster (docs/methods.md, "A fast teacher"). "off": not. "auto": what is known to help on the
    # device: batch norm folded, channels-last, and AMP bf16 where AMP is off and the device computes in it. Or names
    # joined by "+": "fold", "channels_last", "compile" (torch.compile), "graphs" (the same with CUDA graphs), "stream"
    # (beside the student on a CUDA stream of its own).
    node.FAST = "off"


def _add_kd(cfg: CN) -> None:
    cfg.DISTILL.KD = CN()
    cfg.DISTILL.KD.WEIGHT = 1.0
    cfg.DISTILL.KD.TEMPERATURE = 1.0
    # Leave out the pixels whose label is ignored (the published methods distil them too).
    cfg.DISTILL.KD.MASK_IGNORED = False

    cfg.DISTILL.CWD = CN()
    cfg.DISTILL.CWD.WEIGHT = 5.0
    cfg.DISTILL.CWD.TEMPERATURE = 1.0
    # "logits" or a feature name of SegOutput.features.
    cfg.DISTILL.CWD.TAP = "logits"


def _add_skds(cfg: CN) -> None:
    # Structured knowledge distillation. "default": pixel 1, pair 0.5, adv 0.001; "author": 80, 0.5, 0.1 and SGD for
    # the critic (docs/methods.md). A preset fills only the keys left at -1 / ""; weight 0 leaves a term out.
    cfg.DISTILL.SKDS = CN()
    cfg.DISTILL.SKDS.PRESET = "default"
    cfg.DISTILL.SKDS.PIXEL_WEIGHT = -1.0
    cfg.DISTILL.SKDS.PAIR_WEIGHT = -1.0
    # Of the student's adversarial term; 0 builds no critic.
    cfg.DISTILL.SKDS.ADV_WEIGHT = -1.0
    # Feature whose places are compared: a name of SegOutput.features.
    cfg.DISTILL.SKDS.TAP = "decode"
    # Side of the max-pooled patches that are compared: a share of the map's, or positions where POOL_KERNEL is not 0.
    cfg.DISTILL.SKDS.POOL_SCALE = 0.5
    cfg.DISTILL.SKDS.POOL_KERNEL = 0
    # No gradient through the norms that features are divided by (the authors' code).
    cfg.DISTILL.SKDS.DETACH_NORM = True
    # "wgan-gp" or "hinge".
    cfg.DISTILL.SKDS.ADV_LOSS = "wgan-gp"
    # Of the critic's own term, and of the gradient penalty in it.
    cfg.DISTILL.SKDS.CRITIC_WEIGHT = -1.0
    cfg.DISTILL.SKDS.GP_WEIGHT = 10.0
    # What the critic does to the logits first: "batchnorm" or "tanh".
    cfg.DISTILL.SKDS.CRITIC_INPUT = "batchnorm"
    # The critic's own optimizer, "adam" (0.9, 0.99) or "sgd" (momentum 0.9, decay 5e-4); its rate decays to 0.
    cfg.DISTILL.SKDS.CRITIC_OPTIMIZER = ""
    cfg.DISTILL.SKDS.CRITIC_LR = 4e-4


def _add_ifvd(cfg: CN) -> None:
    # Intra-class feature variation distillation. "default": pixel 1, ifv 50, adv 0.001; "author": 10 over the number
    # of classes, 200, 0.001; "cirkd": 1, 20, 0.001 with hinge. Presets and weight 0 as above.
    cfg.DISTILL.IFVD = CN()
    cfg.DISTILL.IFVD.PRESET = "default"
    cfg.DISTILL.IFVD.PIXEL_WEIGHT = -1.0
    cfg.DISTILL.IFVD.IFV_WEIGHT = -1.0
    cfg.DISTILL.IFVD.ADV_WEIGHT = -1.0
    cfg.DISTILL.IFVD.TAP = "decode"
    # Divide the intra-class term by the pixels that are not ignored (the authors divide by all).
    cfg.DISTILL.IFVD.VALID_ONLY = False
    # As for SKDS.
    cfg.DISTILL.IFVD.ADV_LOSS = ""
    cfg.DISTILL.IFVD.CRITIC_WEIGHT = 0.1
    cfg.DISTILL.IFVD.GP_WEIGHT = 10.0
    cfg.DISTILL.IFVD.CRITIC_INPUT = "batchnorm"
    cfg.DISTILL.IFVD.CRITIC_OPTIMIZER = "adam"
    cfg.DISTILL.IFVD.CRITIC_LR = 4e-4


def _add_bpkd(cfg: CN) -> None:
    cfg.DISTILL.BPKD = CN()
    # "safe": a scale that trains from scratch; "instances": the same on the levels of a pyramid (docs/solov2.md);
    # "literal": the supplement's sums (edge 50, body 20) exactly; "paper": the same weights, the edge term averaged
    # over images, classes and cells (docs/methods.md).
    # A preset fills only the keys left at -1 / "".
    cfg.DISTILL.BPKD.PRESET = "safe"
    cfg.DISTILL.BPKD.EDGE_WEIGHT = -1.0
    cfg.DISTILL.BPKD.BODY_WEIGHT = -1.0
    # Class weights alpha_c of the edge term: one number for all classes, or one per class.
    cfg.DISTILL.BPKD.CLASS_WEIGHT = [2.0]
    cfg.DISTILL.BPKD.TEMPERATURE = 1.0
    # Edge width in label pixels (odd), and how often the window is applied.
    cfg.DISTILL.BPKD.KERNEL_SIZE = 7
    cfg.DISTILL.BPKD.ITERATIONS = 1
    # "opaque" or "transparent" (docs/methods.md).
    cfg.DISTILL.BPKD.IGNORE_MODE = "opaque"
    # What the edge sum is divided by: "positions" (n_c, the literal form), "classes" (n_c and the number of classes
    # that have an edge in the image), "weights" (the sum of the edge map, and the number of classes) or "average" (all
    # classes times all cells).
    cfg.DISTILL.BPKD.NORMALIZER = ""
    # Filter on the logits before the softmax: "soft" (times the mask), "hard" (times mask > 0) or "none".
    cfg.DISTILL.BPKD.PRE_MASK = ""
    # The edge weight grows linearly from 0 over this many iterations.
    cfg.DISTILL.BPKD.RAMP_ITERS = -1


def _add_cirkd(cfg: CN) -> None:
    cfg.DISTILL.CIRKD = CN()
    # "default": the authors' weights, queues below 1 GB; "author": the same, queues as long as the authors'.
    # A preset fills only the keys left at -1. A term of weight 0 is not computed.
    cfg.DISTILL.CIRKD.PRESET = "default"
    # Pixel KD on the logits; similarities within the batch; to the pixel queue; to the region queue.
    cfg.DISTILL.CIRKD.KD_WEIGHT = -1.0
    cfg.DISTILL.CIRKD.MINI_BATCH_WEIGHT = -1.0
    cfg.DISTILL.CIRKD.PIXEL_WEIGHT = -1.0
    cfg.DISTILL.CIRKD.REGION_WEIGHT = -1.0
    # A feature name of SegOutput.features.
    cfg.DISTILL.CIRKD.TAP = "decode"
    # Temperatures of the pixel KD, of all similarities, and of the memory terms' KL.
    cfg.DISTILL.CIRKD.TEMPERATURE = 1.0
    cfg.DISTILL.CIRKD.CONTRAST_TEMPERATURE = 0.1
    cfg.DISTILL.CIRKD.MEMORY_TEMPERATURE = 1.0
    # Maps with more positions are average-pooled for the mini-batch term.
    cfg.DISTILL.CIRKD.MAX_NODES = 8192
    # The mini-batch term pairs images of all processes, not only of its own.
    cfg.DISTILL.CIRKD.GATHER = False
    # Width of the projection head; 0: the teacher's channels.
    cfg.DISTILL.CIRKD.HIDDEN_CHANNELS = 0
    # Entries per class of the two queues, and pixels that one image adds to a class.
    cfg.DISTILL.CIRKD.PIXEL_QUEUE = 20000
    cfg.DISTILL.CIRKD.REGION_QUEUE = 2000
    cfg.DISTILL.CIRKD.PIXELS_PER_IMAGE = 16
    # Entries drawn per iteration, A // K + 1 of each of the K classes.
    cfg.DISTILL.CIRKD.PIXEL_ANCHORS = 4096
    cfg.DISTILL.CIRKD.REGION_ANCHORS = 1024
    # The queues' storage, "float32" or "float16", and their limit in 1e9 bytes (0: none); longer ones are shortened.
    cfg.DISTILL.CIRKD.STORAGE = "float32"
    cfg.DISTILL.CIRKD.MAX_GIGABYTES = -1.0
    # Seed of the queues' first entries and of every draw.
    cfg.DISTILL.CIRKD.SEED = 0
    # Fill the queues as CIRKD's published code does (any pixels, no ring); only for comparing numbers with it.
    cfg.DISTILL.CIRKD.LEGACY_ENQUEUE = False


def _add_instance(cfg: CN) -> None:
    # How `InstanceDistiller` applies DISTILL.METHOD (KD, CWD, BPKD) to the levels of SOLOv2 (docs/solov2.md).
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
