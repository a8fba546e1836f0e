"""Figures of a comparison: training curves, trimap curves, picture panels."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bpkd.analysis.report import ALONE, EQUAL_TIME, TEACHER, display_name
from bpkd.extras import need
from bpkd.files import replacing
from bpkd.functional import edge_band
from bpkd.structures import DISTILLATION_PREFIX
from bpkd.text import label as drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {
    ALONE: "#7f7f7f", "KD": "#2ca02c", "SKDS": "#8c564b", "IFVD": "#ff7f0e", "CIRKD": "#9467bd", "CWD": "#1f77b4",
    "BPKD": "#d62728", TEACHER: "#000000", ALONE + EQUAL_TIME: "#c7c7c7", "KD" + EQUAL_TIME: "#98df8a",
}  # fmt: skip
WRONG_EDGE = (255, 0, 60)
WRONG_BODY = (255, 190, 0)
BAND = (60, 90, 160)
VAL_MIOU = "sem_seg/mIoU"
VAL_AP = "segm/AP"
# The task's own loss in metrics.json, of label maps or of instances: (keys that are added, words).
TASK_LOSSES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("loss_ce",), "cross entropy"),
    (("loss_category", "loss_mask"), "category and mask loss"),
)
Image = NDArray[np.uint8]


def pyplot() -> Any:
    """Returns matplotlib.pyplot, which draws into files."""
    need("Drawing figures", "matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def finish(figure: Any, path: Path) -> None:
    """Writes a figure to a file and closes it."""
    with warnings.catch_warnings(), replacing(path) as part:
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box
        figure.savefig(part, dpi=110, bbox_inches="tight")
    pyplot().close(figure)


def training_rows(folder: Path) -> list[dict[str, float]]:
    """Reads a run's metrics.json: one dict per logged iteration, the later one where a resume repeated it."""
    return _rows(folder, *(keys[0] for keys, _ in TASK_LOSSES))


def evaluation_rows(folder: Path) -> list[dict[str, float]]:
    """Reads the evaluations in a run's metrics.json, like ``training_rows``."""
    return _rows(folder, VAL_MIOU, VAL_AP)


def _rows(folder: Path, *keys: str) -> list[dict[str, float]]:
    path = folder / "metrics.json"
    lines = path.read_text().splitlines() if path.is_file() else []
    # A run that was cut off may have left half a line.
    whole = (json.loads(line) for line in lines if line.startswith("{") and line.endswith("}"))
    rows = {row["iteration"]: row for row in whole if not row.keys().isdisjoint(keys)}
    return [{k: math.nan if v is None else v for k, v in rows[i].items()} for i in sorted(rows)]


def curves(folders: Mapping[str, Path], path: Path) -> None:
    """Draws over iterations the task loss, each run's distillation terms, and mIoU or AP where it was measured.

    Args:
        folders: method -> run folder.
        path: PNG to write.
    """
    scores = {m: evaluation_rows(folder) for m, folder in folders.items()}
    measured = any(len(rows) > 1 for rows in scores.values())
    count, named = 2 + measured, TASK_LOSSES[0]
    figure, axes = pyplot().subplots(1, count, figsize=(5.2 * count, 3.8), layout="constrained")
    for method, folder in folders.items():
        rows = training_rows(folder)
        x = [r["iteration"] for r in rows]
        color = COLORS.get(method)
        named = next((found for found in TASK_LOSSES if rows and found[0][0] in rows[0]), named)
        point = "o" if len(rows) == 1 else ""  # a run that logged once has no line
        losses = [sum(r[k] for k in named[0]) for r in rows]
        axes[0].plot(x, losses, marker=point, label=drawn(display_name(method)), color=color)
        for style, name in zip(("-", "--", ":", "-."), _terms(rows), strict=False):
            term = name.removeprefix(DISTILLATION_PREFIX)
            words = display_name(method)
            label = words if term == method.removesuffix(EQUAL_TIME).lower() else f"{words} {term}"
            y = [r.get(name, float("nan")) for r in rows]
            axes[1].plot(x, y, style, marker=point, color=color, label=drawn(label))
        if measured:
            x = [r["iteration"] for r in scores[method]]
            y = [r[VAL_MIOU] if VAL_MIOU in r else r[VAL_AP] for r in scores[method]]
            axes[2].plot(x, y, "o-", ms=4, color=color, label=drawn(display_name(method)))
    _style(axes[0], named[1], "iteration", "loss")
    _style(axes[1], "distillation terms (weighted)", "iteration", "loss")
    if axes[1].lines:
        axes[1].set_yscale("log")
    if measured:
        _style(axes[2], "validation", "iteration", "mIoU in %" if named is TASK_LOSSES[0] else "mask AP in %")
    finish(figure, path)


def _terms(rows: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted(k for k in (rows[-1] if rows else {}) if k.startswith(DISTILLATION_PREFIX))


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
    figure, axes = pyplot().subplots(figsize=(5.5, 4), layout="constrained")
    for method, curve in scores.items():
        widths = sorted(curve)
        axes.plot(widths, [curve[w] for w in widths], "o-", color=COLORS.get(method), label=drawn(display_name(method)))
    _style(axes, "mIoU inside the trimap band", "half-width of the band in pixels", "mIoU in %")
    finish(figure, path)


def colored(labels: NDArray[Any], colors: Sequence[Sequence[int]], ignore_index: int = 255) -> Image:
    """Returns a label map [H, W] as RGB [H, W, 3]; ignored pixels are black."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = colors
    palette[ignore_index] = 0
    out: Image = palette[np.asarray(labels)]
    return out


def trimap_band(target: NDArray[Any], width: int, ignore_index: int = 255) -> NDArray[np.bool_]:
    """Returns the trimap band of half-width ``width`` of a label map [H, W], the same band that is measured."""
    labels = torch.as_tensor(np.asarray(target)).long()
    band: NDArray[np.bool_] = edge_band(labels, 2 * width + 1, ignore_index=ignore_index).numpy()
    return band


def dimmed(image: Image) -> Image:
    """Returns an RGB image in pale grey, the background for strong colours."""
    grey: Image = (150 + 0.35 * image.mean(2, keepdims=True).repeat(3, 2)).astype(np.uint8)
    return grey


def errors(pred: NDArray[Any], target: NDArray[Any], image: Image, *, width: int, ignore_index: int = 255) -> Image:
    """Draws wrong pixels over the dimmed image: red inside the trimap band of half-width ``width``, amber outside."""
    out = dimmed(image)
    band = trimap_band(target, width, ignore_index)
    wrong = (pred != target) & (target != ignore_index)
    out[wrong & band] = WRONG_EDGE
    out[wrong & ~band] = WRONG_BODY
    return out


def wrong_share(pred: NDArray[Any], target: NDArray[Any], *, width: int, ignore_index: int = 255) -> float:
    """Returns the share of the trimap band's pixels that are predicted wrong, in percent; nan without a band."""
    band = trimap_band(target, width, ignore_index)
    return 100.0 * float((pred != target)[band].mean()) if band.any() else float("nan")


def panels(
    rows: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    path: Path,
    *,
    colors: Sequence[Sequence[int]],
    class_names: Sequence[str],
    width: int,
    ignore_index: int = 255,
) -> None:
    """Draws image, ground truth and each method's prediction, with the edge band and the errors below.

    Args:
        rows: per picture ``image`` [3, h, w] RGB of any size, ``label`` [H, W] and ``predictions`` {method: [H, W]}.
        methods: columns after image and ground truth.
        path: PNG to write.
        colors: RGB per class.
        class_names: for the legend, which shows the classes that occur.
        width: half-width of the band whose errors are red.
        ignore_index: label drawn black, never an error.
    """
    count = len(methods) + 2
    height, wide = rows[0]["label"].shape
    size = (2.6 * count, 2 * len(rows) * (2.6 * height / wide + 0.2) + 0.7)
    figure, grid = pyplot().subplots(2 * len(rows), count, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    for axes in grid.flat:
        axes.axis("off")
    for row, top, below in zip(rows, grid[::2], grid[1::2], strict=True):
        _draw_row(row, methods, top, below, colors, width, ignore_index)
    titles = ["image", "ground truth", *(display_name(m) for m in methods)]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(drawn(title), fontsize=11)
    maps = [m for row in rows for m in (row["label"], *row["predictions"].values())]
    seen = sorted({int(c) for m in maps for c in np.unique(m)} - {ignore_index})
    handles = [swatch(colors[c], class_names[c]) for c in seen]
    handles += [swatch(WRONG_EDGE, f"wrong, within {width} px of an edge"), swatch(WRONG_BODY, "wrong elsewhere")]
    handles += [swatch(BAND, f"within {width} px of an edge")]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, 2 + count), frameon=False, fontsize=9)
    finish(figure, path)


def _draw_row(
    row: Mapping[str, Any],
    methods: Sequence[str],
    top: Sequence[Axes],
    below: Sequence[Axes],
    colors: Sequence[Sequence[int]],
    width: int,
    ignore_index: int,
) -> None:
    label = row["label"]
    image = fitted(row["image"], label.shape)
    band = dimmed(image)
    band[trimap_band(label, width, ignore_index)] = BAND
    top[0].imshow(image)
    top[1].imshow(colored(label, colors, ignore_index))
    below[1].imshow(band)
    below[0].text(0.98, 0.5, "edge band,\nand errors:", ha="right", va="center", transform=below[0].transAxes)
    for method, above, under in zip(methods, top[2:], below[2:], strict=True):
        pred = row["predictions"][method]
        above.imshow(colored(pred, colors, ignore_index))
        under.imshow(errors(pred, label, image, width=width, ignore_index=ignore_index))
        share = wrong_share(pred, label, width=width, ignore_index=ignore_index)
        words = f"{share:.0f} % of the band wrong" if share == share else "no edge, no band"
        under.set_title(words, fontsize=8, pad=2)


def fitted(image: Any, size: Sequence[int]) -> Image:
    """Returns [3, h, w] as [H, W, 3]: a network may see another size than the labels have."""
    x = torch.as_tensor(np.asarray(image))
    if tuple(x.shape[1:]) != tuple(size):
        x = F.interpolate(x[None].float(), size=tuple(size), mode="bilinear").round()[0].to(torch.uint8)
    return np.ascontiguousarray(x.permute(1, 2, 0).numpy())


def swatch(color: Sequence[int], label: str) -> Any:
    """Returns a legend entry: a colour with its label."""
    from matplotlib.patches import Patch

    red, green, blue = (v / 255 for v in color)
    return Patch(color=(red, green, blue), label=drawn(label))
