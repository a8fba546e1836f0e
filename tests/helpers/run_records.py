"""Records of made-up runs."""

from __future__ import annotations

from typing import Any

from bpkd.analysis.records import environment


def run(method: str, seed: int, miou: float, **more: Any) -> dict[str, Any]:
    metrics = {"mIoU": miou, "mAcc": miou + 10, "trimap_w3": miou - 20, "boundary_IoU": miou - 15}
    record = {
        "dataset": "toy",
        "method": method,
        "seed": seed,
        "metrics": metrics,
        "config": "SEED: 0",
        "iterations": 10,
        "seconds": 5.0,
        "seconds_per_iteration": 0.5,
        "params_m": 12.816,
        "flops_g": 54.53,
        **environment(),
    }
    return {**record, **more}


def runs(**scores: list[float]) -> list[dict[str, Any]]:
    return [run(m, seed, value) for m, values in scores.items() for seed, value in enumerate(values)]
