"""Keys of the teacher and of distillation; those of each distiller are its constructor's arguments."""

from __future__ import annotations

from bpkd.config.kinds import COUNT, FLAG, PATH, WEIGHT, Choice, Entries, Kind, ListOf, Number, Text, whole
from bpkd.ranges import Range

from .key import Key
from .solver import AMP_CHOICES

FILLED = Text(filled=True)

# Keys that describe one teacher, of TEACHER and of every entry of TEACHER.OTHERS.
TEACHER_KEYS = (
    Key("CONFIG_FILE", "", PATH,
        "The teacher's own config file. No other key of the student's config reaches the teacher."),
    Key("WEIGHTS", "", PATH, "The teacher's checkpoint."),
    Key("EXPORTED", "", PATH,
        "Instead of WEIGHTS: a TorchScript (.ts, .pt) or torch.export (.pt2) file, as bpkd export writes them. "
        "CONFIG_FILE may then stay empty if the file states its classes, pixel statistics and colour order."),
    Key("OPTS", [], Entries(), "KEY VALUE pairs merged into the teacher's config."),
    Key("CLASS_MAP", [], ListOf(whole(-1)),
        "Student's class of each of the teacher's classes. Entry t is the student's class for the teacher's class t, "
        "or -1 to drop it. Empty: the lists are the same."),
    Key("AMP", "off", Choice(AMP_CHOICES), "Autocast type of the teacher's forward pass, as SOLVER.AMP.DTYPE."),
    Key("OPTIMIZE", "off", FILLED,
        'Inference optimisations (docs/how_to/teachers.md, "A fast teacher"). "off": none. "auto": what is known to '
        "help on the device: batch norm folded, channels-last, and AMP bf16 where AMP is off and the device computes "
        'in it. Or names joined by "+": "fold", "channels_last", "compile" (torch.compile), "graphs" (the same with '
        'CUDA graphs), "stream" (beside the student on a CUDA stream of its own).'),
)  # fmt: skip

TEACHERS = (
    Key("TEACHER.CACHE", "", PATH,
        "A folder that bpkd cache-teacher recorded. The teachers' logits are read from it and no teacher is loaded. "
        "CONFIG_FILE and WEIGHTS stay, to tell whether it is theirs."),
    Key("TEACHER.OTHERS", [], Entries(),
        "More teachers: a list of mappings with the keys of TEACHER, such as [{CONFIG_FILE: b.yaml, WEIGHTS: b.pth}]."),
    Key("TEACHER.SHARES", [], ListOf(WEIGHT),
        "What each teacher counts, TEACHER first, then OTHERS, divided by their sum. Empty: all the same. A teacher "
        "with the share 0 is not loaded."),
    Key("TEACHER.COMBINE", "probabilities", Choice(("probabilities", "losses")),
        'How several teachers teach. By the mean of their class "probabilities", or by the mean of the "losses" that '
        "the distiller has with each of them."),
)  # fmt: skip

METHOD = (
    Key("DISTILL.STUDENT", "BPKDSemanticSegmentor", FILLED,
        "Meta-architecture of the student. MODEL.META_ARCHITECTURE SemanticDistiller (InstanceDistiller for SOLOv2) "
        "wraps it and the teacher."),
    Key("DISTILL.METHOD", "none", FILLED,
        'Distiller. "none" trains the student alone; else a name of bpkd.distillers.DISTILLERS, or several joined by '
        '"+" ("CWD+IFVD"). Its node `DISTILL.<NAME>` holds that distiller\'s keyword arguments in upper case, with '
        'their defaults; null means "from the preset". `help(bpkd.distillers.BPKD)` says what each of them does.'),
    Key("DISTILL.WEIGHTS", [], ListOf(Number(Range(above=0))),
        "A factor for all terms of a distiller that teach the student, one per name of METHOD in its order. Empty: 1 "
        "each."),
)  # fmt: skip


def _instance(name: str, default: object, kind: Kind, meaning: str) -> Key:
    return Key(f"DISTILL.INSTANCE.{name}", default, kind, meaning)


# How `InstanceDistiller` applies DISTILL.METHOD (KD, CWD, BPKD) to the levels of SOLOv2
# (docs/reference/solov2_distillation.md).
INSTANCE = (
    _instance("INPUT", "same", Choice(("same", "same_ranges", "own_size")),
              'Which images the networks see. "same": one size, each its own SCALE_RANGES. "same_ranges": one size, '
              'and both models have equal SCALE_RANGES. "own_size": the teacher gets the picture at TEACHER_SIZE.'),
    _instance("TEACHER_SIZE", [800, 1333], ListOf(COUNT, length=2),
              '"own_size": shorter side of the teacher\'s picture in pixels, and the most that its longer side may '
              "have."),
    _instance("CATEGORY_WEIGHT", 1.0, WEIGHT, "Factor of all category terms. 0 leaves them out."),
    _instance("MASK_WEIGHT", 1.0, WEIGHT, "Factor of all mask terms. 0 leaves them out."),
    _instance("CATEGORY_EDGES", "boundary", Choice(("boundary", "grid")),
              'What an edge is on the category grids. The "boundary" of the level\'s instances, or "grid": cells of '
              "the label grid whose neighbours have another label."),
    _instance("PER_CLASS", False, FLAG,
              'One edge map per class (the maximum within the class) instead of one for all; only with "boundary".'),
    _instance("DIVERGENCE", "sigmoid", Choice(("sigmoid", "softmax")),
              'The classes of a cell: "sigmoid" (each its own, as SOLOv2 trains them) or "softmax" over them.'),
    _instance("MASK_TERM", "mask_logits", Choice(("mask_logits", "mask_towers", "mask_features")),
              'What represents the masks. "mask_logits" (of the same instances), "mask_towers" (the four maps that are '
              'summed) or "mask_features" (their sum after the last convolution).'),
    _instance("MATCH", "cell", Choice(("cell", "score")),
              '"mask_logits": which of the teacher\'s masks of the same instance teaches. "cell": that of the same '
              'level and cell, where it has none the one with its highest score; "score": always the latter.'),
    _instance("MAX_PAIRS", 64, COUNT,
              '"mask_logits": pairs of student and teacher masks per image; more are drawn from at random.'),
    _instance("BOX_REGION", 0.0, WEIGHT,
              '"mask_logits": compare only inside the instance\'s box enlarged by this factor (e.g. 1.5). 0: '
              "everywhere."),
)  # fmt: skip

KEYS = (
    *(Key(f"TEACHER.{key.name}", key.default, key.kind, key.meaning) for key in TEACHER_KEYS),
    *TEACHERS,
    *METHOD,
    *INSTANCE,
)
