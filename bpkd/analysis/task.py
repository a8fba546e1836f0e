"""Which figures a comparison shows and tests: those of semantic or of instance segmentation."""

from __future__ import annotations

import re
import warnings
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bpkd.tasks import INSTANCE, SEMANTIC, Task

Column = tuple[str, str, int]
"""(title, metric, decimals) of a table's column."""

COST_COLUMNS: tuple[Column, ...] = (
    ("params M", "params_m", 2),
    ("FLOPs G", "flops_g", 2),
    ("ms / image", "ms_per_image", 1),
    ("s / iteration", "seconds_per_iteration", 3),
    ("peak memory MB", "peak_memory_mb", 0),
)

# Figures that every record of semantic segmentation has.
STANDARD = re.compile(r"mIoU|mAcc|aAcc|boundary_IoU|(trimap|body)_w\d+|boundary_F_t\d+")


@dataclass(frozen=True)
class Figures:
    """Figures of a segmentation task."""

    task: Task

    edge: str
    """The score near edges, which is tested beside the task's own."""

    columns: tuple[Column, ...]
    """Columns of the comparison table: scores, then costs."""

    class_score: str
    """Name of the figures per class."""

    per_class: Mapping[str, tuple[str, str]]
    """File name -> (title, figure that is there per class)."""

    @property
    def score(self) -> str:
        """The figure that methods are ordered by and tested on."""
        return self.task.score

    @property
    def tested(self) -> tuple[str, str]:
        """The figures that are tested."""
        return self.score, self.edge

    def title(self, metric: str) -> str:
        """Returns a figure's name as tables show it."""
        return next((title for title, key, _ in self.columns if key == metric), metric)


INSTANCES = Figures(
    task=INSTANCE,
    edge="boundary_AP",
    columns=(
        ("mask AP", "AP", 2),
        *((name, name, 2) for name in ("AP50", "AP75", "APs", "APm", "APl")),
        ("Boundary AP", "boundary_AP", 2),
        ("box AP", "bbox_AP", 2),
        *COST_COLUMNS,
    ),
    class_score="AP",
    per_class={
        "classes_ap": ("Mask AP per class", "AP"),
        "classes_boundary": ("Boundary AP per class", "boundary_AP"),
    },
)


def semantic_figures(trimap_width: int) -> Figures:
    """Returns the figures of semantic segmentation, with the trimap of this half-width."""
    return Figures(
        task=SEMANTIC,
        edge=f"trimap_w{trimap_width}",
        columns=(
            ("mIoU", "mIoU", 2),
            ("mAcc", "mAcc", 2),
            (f"Trimap mIoU (w={trimap_width})", f"trimap_w{trimap_width}", 2),
            ("Boundary IoU", "boundary_IoU", 2),
            *COST_COLUMNS,
        ),
        class_score="IoU",
        per_class={
            "classes_iou": ("IoU per class", "IoU"),
            "classes_trimap": (f"Trimap IoU per class (w={trimap_width})", f"trimap_w{trimap_width}"),
        },
    )


def figures_of(records: Iterable[Mapping[str, Any]], trimap_width: int = 3) -> Figures:
    """Returns the figures of the task that records belong to, those of further metrics (TEST.METRICS) among them.

    Args:
        records: complete runs.
        trimap_width: half-width of the trimap (semantic segmentation).

    Raises:
        ValueError: the records are of both tasks.
    """
    metrics = [r["metrics"] for r in records]
    figures = figures_of_scores(metrics, trimap_width)
    if figures.task is INSTANCE:
        return figures
    more = tuple((name, name, 2) for name in further_figures(metrics))
    return replace(figures, columns=(*figures.columns[: -len(COST_COLUMNS)], *more, *COST_COLUMNS)) if more else figures


def figures_of_scores(scores: Iterable[Container[str]], trimap_width: int = 3) -> Figures:
    """Returns the figures of the task whose score is there: mIoU, or without it mask AP.

    Args:
        scores: names of the figures of each run.
        trimap_width: half-width of the trimap (semantic segmentation).

    Raises:
        ValueError: the runs are of both tasks.
    """
    found = {INSTANCE.score in one and SEMANTIC.score not in one for one in scores}
    if len(found) > 1:
        raise ValueError("expected records of one task, got mask AP in some and not in others. Compare them apart.")
    return INSTANCES if True in found else semantic_figures(trimap_width)


def further_figures(metrics: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the figures, those per class left out, that further metrics (TEST.METRICS) have measured.

    Args:
        metrics: figures of each run of semantic segmentation.
    """
    names = dict.fromkeys(k for one in metrics for k in one if "-" not in k)
    return [name for name in names if not STANDARD.fullmatch(name)]


def __getattr__(name: str) -> Any:
    """Returns what an old name of this module stands for, with a warning."""
    old: dict[str, Any] = {"Task": Figures, "label_maps": semantic_figures, "task_of": figures_of}
    if name not in old:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now {old[name].__name__}.", DeprecationWarning, stacklevel=2)
    return old[name]
