"""Figures printed in the paper, for comparison with ours; nothing is computed from them."""

from __future__ import annotations

from typing import Any

# BPKD supplement, Table 2: network -> parameters in millions, FLOPs in billions (150 classes, 512 x 512).
TABLE2: dict[str, tuple[float, float]] = {
    "pspnet_r101": (68.07, 256.89),
    "pspnet_r18": (12.82, 54.53),
    "hrnet_w48": (65.95, 95.64),
    "hrnet_w18s": (3.97, 10.49),
    "deeplabv3plus_r101": (62.68, 255.67),
    "deeplabv3plus_mv2": (15.35, 69.60),
    "isanet_r101": (56.80, 228.21),
    "isanet_r18": (12.46, 54.33),
}


def table2_rows(costs: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Returns one row per network of Table 2 with the paper's figures beside ours.

    Args:
        costs: network -> (parameters in millions, FLOPs in billions), for every network of `TABLE2`.
    """
    return [
        {
            "network": name,
            "params M": costs[name][0],
            "params M (paper)": params,
            "FLOPs G": costs[name][1],
            "FLOPs G (paper)": flops,
        }
        for name, (params, flops) in TABLE2.items()
    ]


# BPKD supplement, Table 4 (COCO val, mask): the networks of its teacher and student, and of candidates for the teacher.
TABLE4 = ("solov2_light_r18", "solov2_x101_dcn", "solov2_r101_dcn", "solov2_r50")
