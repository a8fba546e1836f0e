"""Keys of optimisation and of the run."""

from __future__ import annotations

from bpkd.config.kinds import (
    ABOVE_0,
    COUNT,
    COUNT_OR_0,
    FLAG,
    SHARE_OF,
    WEIGHT,
    Choice,
    FilePath,
    ListOf,
    Number,
    Text,
    whole,
)
from bpkd.ranges import Range

from .key import DETECTRON2, Key

AMP_NAMES = ("off", "bf16", "fp16")
AMP_CHOICES = ("auto", *AMP_NAMES)
STEPPED = ("WarmupMultiStepLR", "WarmupStepWithFixedGammaLR")
OF_DETECTRON2 = (*STEPPED, "WarmupCosineLR")
SCHEDULES = ("PolyLR", "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
SCHEDULE, POLY = "SOLVER.LR_SCHEDULER_NAME", ("SOLVER.LR_SCHEDULER_NAME", ("PolyLR",))
CLIPPED = ("SOLVER.CLIP_GRADIENTS.ENABLED", (True,))

# The paper's recipe: SGD, poly schedule with a floor, no warm-up, weight decay on every parameter.
OPTIMIZER = (
    Key("SOLVER.OPTIMIZER", "sgd", Choice(("sgd", "adamw")), "Optimizer of the student."),
    Key("SOLVER.BASE_LR", 0.01, ABOVE_0, "Learning rate of the backbone at the start."),
    Key("SOLVER.MOMENTUM", 0.9, Number(Range(0, below=1)), "Momentum of SGD.", ("SOLVER.OPTIMIZER", ("sgd",))),
    Key("SOLVER.WEIGHT_DECAY", 5e-4, WEIGHT, "Weight decay of convolutions and biases."),
    Key("SOLVER.WEIGHT_DECAY_NORM", 5e-4, WEIGHT, "Weight decay of normalisation layers."),
    Key("SOLVER.HEAD_LR_MULTIPLIER", 1.0, ABOVE_0,
        "Learning rate of decode and auxiliary head over that of the backbone."),
    Key("SOLVER.CLIP_GRADIENTS.ENABLED", DETECTRON2, FLAG, "Whether gradients are clipped."),
    Key("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model", Choice(("value", "norm", "full_model")),
        'What is clipped. "value" or "norm" (of each parameter alone), as in Detectron2, or "full_model": the norm of '
        "all gradients together is CLIP_VALUE at most.", CLIPPED),
    Key("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", DETECTRON2, ABOVE_0, "Limit of the gradients.", CLIPPED),
    Key("SOLVER.CLIP_GRADIENTS.NORM_TYPE", DETECTRON2, ABOVE_0, "Order of the norm that is clipped; 2: Euclidean.",
        CLIPPED),
)  # fmt: skip

SCHEDULE_KEYS = (
    Key(SCHEDULE, "PolyLR", Choice(SCHEDULES), "Learning-rate schedule. PolyLR is the paper's."),
    Key("SOLVER.MAX_ITER", DETECTRON2, COUNT, "Iterations of the run."),
    Key("SOLVER.MIN_LR", 1e-4, WEIGHT, "Learning rate that the poly schedule ends at.", POLY),
    Key("SOLVER.POLY_POWER", 0.9, WEIGHT,
        "Power of the poly schedule. 1: linear; 0: constant until the last iteration.", POLY),
    Key("SOLVER.WARMUP_ITERS", 0, COUNT_OR_0, "Iterations over which the learning rate rises to its value."),
    Key("SOLVER.WARMUP_FACTOR", DETECTRON2, SHARE_OF, "Factor on the learning rate at the start of the warm-up."),
    Key("SOLVER.WARMUP_METHOD", DETECTRON2, Choice(("linear", "constant")),
        "How the factor rises to 1 in the warm-up; PolyLR's is linear.", (SCHEDULE, OF_DETECTRON2)),
    Key("SOLVER.STEPS", DETECTRON2, ListOf(COUNT), "Iterations at which the learning rate is multiplied by GAMMA.",
        (SCHEDULE, ("WarmupMultiStepLR",))),
    Key("SOLVER.GAMMA", DETECTRON2, ABOVE_0, "Factor on the learning rate at each step.", (SCHEDULE, STEPPED)),
    Key("SOLVER.NUM_DECAYS", DETECTRON2, COUNT, "Number of steps.", (SCHEDULE, ("WarmupStepWithFixedGammaLR",))),
    Key("SOLVER.BASE_LR_END", DETECTRON2, WEIGHT, "Learning rate that the cosine ends at.",
        (SCHEDULE, ("WarmupCosineLR",))),
    Key("SOLVER.RESCALE_INTERVAL", DETECTRON2, FLAG, "Whether the schedule is squeezed behind the warm-up.",
        (SCHEDULE, OF_DETECTRON2)),
)  # fmt: skip

RUN = (
    Key("SOLVER.IMS_PER_BATCH", DETECTRON2, COUNT, "Images of a batch, over all processes."),
    Key("SOLVER.ACCUMULATE", 1, COUNT,
        "Batches whose gradients are added up before a step. IMS_PER_BATCH counts one of them."),
    Key("SOLVER.AMP.ENABLED", DETECTRON2, FLAG, "Whether the student is trained in mixed precision."),
    Key("SOLVER.AMP.DTYPE", "auto", Choice(AMP_CHOICES),
        'Autocast type of the student when SOLVER.AMP.ENABLED. "bf16", "fp16" (with a loss scaler), "off" (float32), '
        'or "auto": bf16, else fp16 on GPUs, where the device has instructions for it, else float32.'),
    Key("SOLVER.CHECKPOINT_PERIOD", DETECTRON2, COUNT, "Iterations between checkpoints."),
    Key("SOLVER.KEEP_CHECKPOINTS", 2, COUNT_OR_0, "Checkpoints kept beside the last one. 0: all."),
    Key("SOLVER.LOG_PERIOD", 20, COUNT, "Iterations between lines of the log and rows of metrics.json."),
    Key("SOLVER.GRADIENT_RATIO_LIMIT", 10.0, WEIGHT,
        "Multiple of the task loss's gradient (at the logits, measured every tenth iteration) that one distillation "
        "term may reach before a warning is printed. 0 switches the measurement off."),
    Key("SOLVER.GRADIENT_RATIO_PATIENCE", 50, COUNT,
        "Iterations on end for which a term may exceed GRADIENT_RATIO_LIMIT or LOSS_SHARE_LIMIT."),
    Key("SOLVER.LOSS_SHARE_LIMIT", 0.9, SHARE_OF,
        "Share of the loss (its size over the sum of all terms' sizes, a critic's own left out) that one distillation "
        "term may hold, over GRADIENT_RATIO_PATIENCE iterations, before a warning is printed. 0: no warning."),
    Key("SOLVER.TF32", True, FLAG, "Whether fp32 matrix products are computed in TF32 on GPUs that have it."),
    Key("SEED", 0, whole(0, 2**63 - 1),
        "Seed of initial weights, order, augmentation and dropout. Detectron2's -1 (a random one) is refused: every "
        "run of bpkd can be repeated."),
    Key("OUTPUT_DIR", DETECTRON2, FilePath(filled=True), "Folder of the run."),
    Key("CUDNN_BENCHMARK", DETECTRON2, FLAG, "Whether cuDNN tries its algorithms and keeps the fastest."),
    Key("IMPORTS", [], ListOf(Text(filled=True)),
        "Modules outside of bpkd, [package.module, ...], imported before the rest of a config is read. They register "
        "distillers, heads, backbones, data sets. Python has to find them (installed, or in PYTHONPATH)."),
    Key("VERSION", DETECTRON2, Choice((2,)), "Version of Detectron2's keys."),
)  # fmt: skip

KEYS = OPTIMIZER + SCHEDULE_KEYS + RUN
