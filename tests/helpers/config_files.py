"""The repository's config files, by their purpose."""

from __future__ import annotations

import functools
from pathlib import Path

from detectron2.config import CfgNode

from bpkd.config import read_config
from bpkd.distillers import DISTILLERS

ROOT = Path(__file__).parents[2]
FILES = {
    str(p.relative_to(ROOT)): p
    for p in sorted([*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("projects/**/configs/**/*.yaml")])
}
SETS = ("ade20k", "cityscapes", "pascal_context59")
PAIRS = ("pspnet_r18__pspnet_r101", "hrnet_w18s__hrnet_w48", "deeplabv3plus_mv2__deeplabv3plus_r101",
         "isanet_r18__isanet_r101")  # fmt: skip
NARROW = "deeplabv3plus_mv2_c128__deeplabv3plus_r101"  # of Cityscapes
SET_PAIRS = [*((s, p) for s in SETS for p in PAIRS), ("cityscapes", NARROW)]
TEACHERS = tuple(p.split("__")[1] for p in PAIRS)

# Those of the paper's tables that exist: a new distiller is in the tables when its files are there.
METHODS = tuple(m.lower() for m in ("SKDS", "IFVD", "CIRKD", "CWD", "BPKD") if m in DISTILLERS)
BASES = {name for name, path in FILES.items() if path.name.startswith(("Base-", "schedule_"))}
BASES |= {f"projects/BPKD/configs/{s}/{p}.yaml" for s, p in SET_PAIRS}

# A comparison's pair: holds the settings of several methods, and runs with one of them.
COMPARISONS = [name for name in FILES if name.endswith("_compare.yaml")]
RUNS = [name for name in FILES if name not in BASES and name not in COMPARISONS]
PAPER = [name for name in RUNS if Path(name).parent.name in SETS]


@functools.cache
def config(name: str) -> CfgNode:
    """Reads a config file, once for all tests; the config is frozen."""
    cfg = read_config(name)
    cfg.freeze()
    return cfg
