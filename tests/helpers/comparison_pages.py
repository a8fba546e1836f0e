"""Pages of made-up comparisons: from one run to 150 classes, long names and missing values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bpkd.analysis.records import environment
from bpkd.experiments.html import comparison_page
from bpkd.experiments.report import draw_figures

Records = list[dict[str, Any]]
PALETTE = [(70, 130, 180), (128, 64, 128), (107, 142, 35), (220, 20, 60)]
LONG = "a_name_without_a_single_space_in_it_that_goes_on_for_quite_a_while"
AP = ("AP", "AP50", "AP75", "APs", "APm", "APl", "boundary_AP", "bbox_AP")


def run(method: str, seed: int, score: float, classes: int = 3, **more: Any) -> dict[str, Any]:
    """The record of a run for label maps; ``None`` in ``more`` takes a key away."""
    names = [f"class {i}" for i in range(classes)]
    metrics = {"mIoU": score, "mAcc": score + 10, "trimap_w3": score - 20, "body_w3": score + 4, "boundary_IoU": 30.0}
    small = method != "teacher"
    record = {
        "dataset": "toy_val",
        "method": method,
        "seed": seed,
        "metrics": {**metrics, **{f"IoU-{n}": score + i % 7 for i, n in enumerate(names)}},
        "per_class": {"trimap_w3": {n: score - 20 + i % 7 for i, n in enumerate(names)}},
        "config": "SEED: 0",
        "iterations": 500,
        "seconds": 5.0,
        "seconds_per_iteration": 0.5,
        "params_m": 0.25 if small else 4.0,
        "flops_g": 1.03 if small else 16.0,
        "ms_per_image": 2.5 if small else 21.0,
        "peak_memory_mb": 876.0,
        "peak_memory_of": "resident set of the largest process",
        **environment(),
        "commit": "0123456789ab",
    }
    return {k: v for k, v in {**record, **more}.items() if v is not None}


def runs(classes: int = 3, **scores: list[float]) -> Records:
    """Records of several methods, a score per seed."""
    return [run(m, seed, value, classes) for m, own in scores.items() for seed, value in enumerate(own)]


def instances() -> Records:
    """Records of networks for instances, two seeds."""
    scores = {"none": [18.0, 17.5], "CWD": [18.1, 15.3], "BPKD": [19.7, 20.7], "teacher": [28.0]}
    found = runs(**scores)
    for record in found:
        score = record["metrics"]["mIoU"]
        record["metrics"] = dict.fromkeys(AP, score) | {"APl": None, "AP-cell": score, "boundary_AP-cell": score - 5}
        del record["per_class"]
    return found


def long_names() -> Records:
    """150 classes, names that do not break, a method of five, old runs without later keys, a figure that is nan."""
    five = "KD+CWD+IFVD+CIRKD+SKDS"
    found = runs(
        150, **{"none": [30.0], "BPKD": [35.0], five: [34.0], f"none{'-equal-time'}": [36.0], "teacher": [40.0]}
    )
    found = [{**r, "dataset": LONG, "run": f"{LONG}-{r['method']}"} for r in found]
    del found[0]["ms_per_image"], found[0]["peak_memory_mb"]
    found[1]["metrics"] |= {"boundary_IoU": None, "IoU-class 7": None}
    for i, record in enumerate(found):  # a class that one run alone predicted
        record["metrics"] |= {f"IoU-{LONG}": 12.0 if i == 2 else None}
    return found


SEED = {"none": [57.3], "CWD": [61.6], "BPKD": [62.4], "teacher": [70.1]}
SEEDS = {"none": [57.6, 59.2, 59.9], "KD": [57.3, 61.4, 60.9], "BPKD": [61.4, 64.3, 63.2], "teacher": [70.2]}
CASES: dict[str, Callable[[], Records]] = {
    "one run": lambda: runs(none=[57.3]),
    "a method alone": lambda: runs(BPKD=[62.4, 61.0]),
    "one seed": lambda: runs(**SEED),
    "three seeds": lambda: runs(**SEEDS, **{"none-equal-time": [60.0, 61.0, 60.5]}),
    "no teacher": lambda: runs(none=[57.3, 58.0], BPKD=[62.4, 61.0]),
    "instances": instances,
    "long names": long_names,
}


def picture(records: Records) -> dict[str, Any]:
    """A test picture with every method's prediction, of label maps or of instances."""
    methods, image = dict.fromkeys(r["method"] for r in records), np.full((3, 48, 64), 120, np.uint8)
    label = np.zeros((48, 64), np.int64)
    label[10:30, 12:40] = 1
    if "AP" in records[0]["metrics"]:
        return {
            "name": "cells",
            "image": image,
            "truth": label[None] > 0,
            "predictions": dict.fromkeys(methods, label[None] > 0),
        }
    label[:4] = 255
    return {
        "name": records[0]["dataset"],
        "image": image,
        "label": label,
        "predictions": {m: label.clip(0, 3) for m in methods},
    }


def write(case: str, folder: Path) -> Path:
    """Writes a case's page with its figures and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    records = CASES[case]()
    draw_figures(records, folder, trimap_width=3)
    classes = (
        []
        if case == "instances"
        else [(LONG if case == "long names" else f"class {i}", c) for i, c in enumerate(PALETTE)]
    )
    comparison_page(records, [picture(records)], folder, classes=classes, trimap_width=3, margin=0.5)
    return folder / "report.html"
