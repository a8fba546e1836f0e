"""Which figures a comparison shows and tests: those of semantic or of instance segmentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bpkd.tasks import INSTANCE, SEMANTIC

Column = tuple[str, str, int]
"""(title, metric, decimals) of a table's column."""

COST_COLUMNS: tuple[Column, ...] = (
    ("params M", "params_m", 2),
    ("FLOPs G", "flops_g", 2),
    ("ms / image", "ms_per_image", 1),
    ("s / iteration", "seconds_per_iteration", 3),
    ("peak memory MB", "peak_memory_mb", 0),
)

# Figures that every record of label maps has.
STANDARD = re.compile(r"mIoU|mAcc|aAcc|boundary_IoU|(trimap|body)_w\d+|boundary_F_t\d+")


@dataclass(frozen=True)
class Task:
    """Figures of a segmentation task."""

    instances: bool
    score: str
    """The figure that methods are ordered by and tested on."""

    edge: str
    """The score near edges, which is tested too."""

    columns: tuple[Column, ...]
    """Columns of the comparison table: scores, then costs."""

    per_class: Mapping[str, tuple[str, str]]
    """File name -> (title, figure that is there per class)."""

    def title(self, metric: str) -> str:
        """Returns a figure's name as tables show it."""
        return next((title for title, key, _ in self.columns if key == metric), metric)

    @property
    def tested(self) -> tuple[str, str]:
        """The figures that are tested."""
        return self.score, self.edge


INSTANCES = Task(
    instances=True,
    score=INSTANCE.score,
    edge="boundary_AP",
    columns=(
        ("mask AP", "AP", 2),
        *((name, name, 2) for name in ("AP50", "AP75", "APs", "APm", "APl")),
        ("Boundary AP", "boundary_AP", 2),
        ("box AP", "bbox_AP", 2),
        *COST_COLUMNS,
    ),
    per_class={
        "classes_ap": ("Mask AP per class", "AP"),
        "classes_boundary": ("Boundary AP per class", "boundary_AP"),
    },
)


def label_maps(trimap_width: int) -> Task:
    """Returns the figures of semantic segmentation, with the trimap of this half-width."""
    return Task(
        instances=False,
        score=SEMANTIC.score,
        edge=f"trimap_w{trimap_width}",
        columns=(
            ("mIoU", "mIoU", 2),
            ("mAcc", "mAcc", 2),
            (f"Trimap mIoU (w={trimap_width})", f"trimap_w{trimap_width}", 2),
            ("Boundary IoU", "boundary_IoU", 2),
            *COST_COLUMNS,
        ),
        per_class={
            "classes_iou": ("IoU per class", "IoU"),
            "classes_trimap": (f"Trimap IoU per class (w={trimap_width})", f"trimap_w{trimap_width}"),
        },
    )


def task_of(records: Iterable[Mapping[str, Any]], trimap_width: int = 3) -> Task:
    """Returns the task of records, by the figures that they hold.

    Args:
        records: complete runs.
        trimap_width: half-width of the trimap (semantic segmentation).

    Raises:
        ValueError: the records are of both tasks.
    """
    records = list(records)
    found = {"AP" in r["metrics"] and "mIoU" not in r["metrics"] for r in records}
    if len(found) > 1:
        raise ValueError("expected records of one task, got mask AP in some and not in others. Compare them apart.")
    if True in found:
        return INSTANCES
    task = label_maps(trimap_width)
    more = tuple((name, name, 2) for name in further_figures(records))
    return replace(task, columns=(*task.columns[: -len(COST_COLUMNS)], *more, *COST_COLUMNS)) if more else task


def further_figures(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the figures, those per class left out, that further metrics (TEST.METRICS) have measured.

    Args:
        records: complete runs of label maps.
    """
    names = dict.fromkeys(k for r in records for k in r["metrics"] if "-" not in k)
    return [name for name in names if not STANDARD.fullmatch(name)]
