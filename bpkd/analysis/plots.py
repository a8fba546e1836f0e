"""Figures of a comparison: training curves, trimap curves, picture panels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bpkd.analysis.report import ALONE, TEACHER, display_name
from bpkd.functional import edge_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {ALONE: "#7f7f7f", "KD": "#2ca02c", "CWD": "#1f77b4", "BPKD": "#d62728", TEACHER: "#000000"}
WRONG_EDGE = (255, 0, 60)
WRONG_BODY = (255, 190, 0)
Image = NDArray[np.uint8]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _finish(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    _pyplot().close(figure)


def training_rows(folder: Path) -> list[dict[str, float]]:
    """Reads a run's metrics.json, one dict per logged iteration; after a resume the later row of an iteration counts."""
    path = folder / "metrics.json"
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = {row["iteration"]: row for row in map(json.loads, lines) if "loss_ce" in row}
    return [rows[i] for i in sorted(rows)]


def curves(folders: Mapping[str, Path], path: Path) -> None:
    """Draws the task loss and each run's distillation terms over iterations.

    Args:
        folders: method -> run folder.
        path: PNG to write.
    """
    figure, (left, right) = _pyplot().subplots(1, 2, figsize=(11, 3.8))
    for method, folder in folders.items():
        rows = training_rows(folder)
        x = [r["iteration"] for r in rows]
        color = COLORS.get(method)
        left.plot(x, [r["loss_ce"] for r in rows], label=display_name(method), color=color)
        for style, name in zip(("-", "--"), _terms(rows), strict=False):
            label = f"{method} {name.removeprefix('loss_kd_')}"
            right.plot(x, [r[name] for r in rows], style, color=color, label=label)
    for axes, title in ((left, "cross entropy"), (right, "distillation terms (weighted)")):
        _style(axes, title, "iteration", "loss")
    right.set_yscale("log")
    _finish(figure, path)


def _terms(rows: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted(k for k in (rows[-1] if rows else {}) if k.startswith("loss_kd_"))


def _style(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def trimap_curves(scores: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Draws trimap mIoU over the band's half-width.

    Args:
        scores: method -> {half-width in pixels: mIoU in percent}.
        path: PNG to write.
    """
    figure, axes = _pyplot().subplots(figsize=(5.5, 4))
    for method, curve in scores.items():
        widths = sorted(curve)
        axes.plot(widths, [curve[w] for w in widths], "o-", color=COLORS.get(method), label=display_name(method))
    _style(axes, "Trimap IoU", "half-width of the band in pixels", "mIoU in %")
    _finish(figure, path)


def colored(labels: NDArray[Any], colors: Sequence[Sequence[int]], ignore_index: int = 255) -> Image:
    """Returns a label map [H, W] as RGB [H, W, 3]; ignored pixels are black."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = colors
    palette[ignore_index] = 0
    return palette[np.asarray(labels)]


def errors(pred: NDArray[Any], target: NDArray[Any], image: Image, *, width: int, ignore_index: int = 255) -> Image:
    """Draws wrong pixels over the dimmed image: red inside the trimap band of half-width ``width``, amber outside."""
    gray = image.mean(2, keepdims=True).repeat(3, 2)
    out = (120 + 0.45 * gray).astype(np.uint8)
    labels = torch.as_tensor(np.asarray(target)).long()
    band = edge_band(labels, 2 * width + 1, ignore_index=ignore_index).numpy()
    wrong = (pred != target) & (target != ignore_index)
    out[wrong & band] = WRONG_EDGE
    out[wrong & ~band] = WRONG_BODY
    return out


def panels(
    rows: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    path: Path,
    *,
    colors: Sequence[Sequence[int]],
    class_names: Sequence[str],
    width: int,
) -> None:
    """Draws image, ground truth and each method's prediction, with its errors below.

    Args:
        rows: per picture ``image`` [3, H, W] RGB, ``label`` [H, W] and ``predictions`` {method: [H, W]}.
        methods: columns after image and ground truth.
        path: PNG to write.
        colors: RGB per class.
        class_names: for the legend.
        width: half-width of the band whose errors are red.
    """
    plt = _pyplot()
    count = len(methods) + 2
    height, wide = rows[0]["label"].shape
    figure, grid = plt.subplots(
        2 * len(rows), count, figsize=(2.6 * count, 2 * len(rows) * 2.6 * height / wide + 0.9), squeeze=False
    )
    for axes in grid.flat:
        axes.axis("off")
    for r, row in enumerate(rows):
        image = np.ascontiguousarray(np.asarray(row["image"]).transpose(1, 2, 0))
        grid[2 * r, 0].imshow(image)
        grid[2 * r, 1].imshow(colored(row["label"], colors))
        for c, method in enumerate(methods, start=2):
            pred = row["predictions"][method]
            grid[2 * r, c].imshow(colored(pred, colors))
            grid[2 * r + 1, c].imshow(errors(pred, row["label"], image, width=width))
    titles = ["image", "ground truth", *(display_name(m) for m in methods)]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=11)
    handles = [_swatch(c, n) for c, n in zip(colors, class_names, strict=True)]
    handles += [_swatch(WRONG_EDGE, f"wrong, within {width} px of an edge"), _swatch(WRONG_BODY, "wrong, body")]
    figure.subplots_adjust(wspace=0.03, hspace=0.03)
    figure.legend(handles=handles, loc="lower center", ncols=6, frameon=False, bbox_to_anchor=(0.5, 0.0), fontsize=9)
    _finish(figure, path)


def _swatch(color: Sequence[int], label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=[v / 255 for v in color], label=label)
