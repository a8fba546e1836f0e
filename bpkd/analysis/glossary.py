"""Explanations of the figures and methods that a comparison shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bpkd.analysis.report import ALONE, EQUAL_TIME, TEACHER, Record, display_name, table_rows

FIGURES: dict[str, str] = {
    "mIoU": "Intersection over union (IoU) of prediction and label, mean over classes, in %.",
    "mAcc": "Share of a class's pixels that are predicted as that class, mean over classes, in %.",
    "Trimap mIoU": "mIoU inside the trimap alone: the band of pixels at most w pixels from an edge between classes.",
    "Boundary IoU": "IoU of the inner boundary bands of prediction and label, mean over classes, in %. The band's "
    "width is a share of the image's diagonal; large interiors do not count (Cheng et al., CVPR 2021).",
    "mask AP": "Average precision of instance masks, mean over IoU thresholds 0.50 to 0.95 and classes (COCO), in %. "
    "AP50 and AP75 are for one threshold; APs, APm and APl for small, medium and large objects.",
    "Boundary AP": "Mask AP in which the overlap of two masks is at most their Boundary IoU: the IoU of the bands "
    "along their contours (Cheng et al., CVPR 2021).",
    "box AP": "Average precision of the masks' bounding boxes, in %.",
    "params": "Parameters of the network in millions. The headline's \"size\" is this number.",
    "FLOPs": "Multiply-adds of one image in evaluation, in billions.",
    "ms / image": "Time of the network on one test image, the median of a run's last evaluation. Shown is the "
    "fastest run of each network: all methods train the same student, and runs beside each other slow each other down.",
    "s / iteration": "Median time of a training step.",
    "peak memory": "Most memory that one process of the run has held.",
    "share of teacher's": "A method's mean score over the teacher's.",
}  # fmt: skip
ROLES: dict[str, str] = {
    ALONE: "The small network, trained on the labels without a teacher.",
    TEACHER: "The large network that the students are trained to imitate; it is frozen meanwhile.",
    EQUAL_TIME: "Trained for as many iterations as fit into BPKD's training time.",
}
METHODS: dict[str, str] = {
    "KD": "Knowledge distillation, pixel by pixel: the KL divergence of the class probabilities (Hinton et al., 2015).",
    "SKDS": "Structured knowledge distillation: pixels, similarities of pairs of positions, and a discriminator "
    "(Liu et al., CVPR 2019).",
    "IFVD": "Intra-class feature variation distillation: similarity of features to their class's mean "
    "(Wang et al., ECCV 2020).",
    "CIRKD": "Cross-image relational knowledge distillation: similarities of pixels across images and to a memory "
    "(Yang et al., CVPR 2022).",
    "CWD": "Channel-wise distillation: the KL divergence of each channel's distribution over positions "
    "(Shu et al., ICCV 2021).",
    "BPKD": "Boundary privileged knowledge distillation: separate losses for edge and body of each class "
    "(Liu et al., WACV 2024).",
}  # fmt: skip
UNKNOWN = "A method from outside of bpkd; the module that registers it was not imported for this report."
SEEDS = (
    "Runs that differ in initial weights, order of images and augmentation. ± is the standard deviation over "
    "them; one seed has none, and no test."
)


def glossary(
    records: Sequence[Record], *, trimap_width: int, outside: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """Returns (term, explanation) of what the comparison table shows: figures, then methods.

    Args:
        records: complete runs, all of one task.
        trimap_width: half-width of the trimap column.
        outside: explanations by name of methods from outside of this package.
    """
    header, _ = table_rows(records, trimap_width=trimap_width)
    found = [("seeds", SEEDS)]
    for title in header:
        text = next((text for start, text in FIGURES.items() if title.startswith(start)), None)
        if text:
            found.append((title, text))
    methods = dict.fromkeys(r["method"] for r in records)
    found += [(display_name(role), ROLES[role]) for role in (ALONE, TEACHER) if role in methods]
    if any(m.endswith(EQUAL_TIME) for m in methods):
        found.append(("BPKD's time", ROLES[EQUAL_TIME]))
    parts = dict.fromkeys(part for m in methods for part in m.removesuffix(EQUAL_TIME).split("+"))
    others = [part for part in parts if part not in (*METHODS, ALONE, TEACHER)]
    found += [(name, text) for name, text in METHODS.items() if name in parts]
    return found + [(name, (outside or {}).get(name, UNKNOWN)) for name in others]
