"""The figures of two folders of label maps as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bpkd.text import markdown_table

from .absent import absent_lines, other_rule


def describe(result: Mapping[str, Any], class_names: Sequence[str] = ()) -> str:
    """Returns the figures of ``SegmentationMetrics.compute``: two Markdown tables, the whole and per class, and notes.

    Args:
        result: figures of ``SegmentationMetrics.compute``.
        class_names: names of the classes; empty: their ids.
    """
    rules = result["protocol"]
    names = list(class_names) or [str(i) for i in range(rules["num_classes"])]
    rows: list[tuple[str, float]] = [(k, result[k]) for k in ("mIoU", "mAcc", "aAcc")]
    for w in rules["widths"]:
        edge, body = result["trimap"][w], result["body"][w]
        share = number(edge["share"], 1)
        rows.append((f"mIoU within {w} px of an edge ({share} % of the pixels)", edge["mIoU"]))
        rows.append((f"mIoU elsewhere (body, w={w})", body["mIoU"]))
    rows.append(("Boundary IoU", result["boundary_IoU"]))
    rows += [(f"boundary F, {t} px", v["mF"]) for t, v in result["boundary_F"].items()]
    columns = [result["IoU"], *(result["trimap"][w]["IoU"] for w in rules["widths"]), result["boundary_IoU_per_class"]]
    columns += [v["F"] for v in result["boundary_F"].values()]
    heads = ["class", "IoU", *(f"w={w}" for w in rules["widths"]), "Boundary IoU"]
    heads += [f"F {t} px" for t in rules["tolerances"]]
    classes = [[name, *map(number, values)] for name, *values in zip(names, *columns, strict=True)]
    whole = markdown_table(["figure", "%"], [[title, number(value)] for title, value in rows])
    return "\n".join([whole, "", markdown_table(heads, classes), "", *absent_lines(result, class_names)])


def image_rows(images: Mapping[str, Mapping[str, Any]], *, width: int, rule: str) -> str:
    """Returns a Markdown table of a row per image, the worst mIoU first, those without a labelled pixel last.

    Args:
        images: figures of ``SegmentationMetrics.compute`` by image.
        width: half-width of the trimap column.
        rule: the convention for classes that occur in no label of the image.
    """
    other, rows = other_rule(rule), []
    for name, own in sorted(images.items(), key=lambda item: _last_without(item[1]["mIoU"])):
        changed = own["absent"]["other"].get("mIoU", own["mIoU"])
        figures = own["mIoU"], own["trimap"][width]["mIoU"], own["boundary_IoU"], changed
        rows.append([name, *map(number, figures)])
    heads = ["image", f"mIoU ({rule})", f"mIoU w={width}", "Boundary IoU", f"mIoU ({other})"]
    text = (
        f"Of each image by itself; a class that occurs in no label of the image: {rule}, in the last column {other}. "
        "-: no labelled pixel, or none near an edge."
    )
    return f"{markdown_table(heads, rows)}\n\n{text}"


def _last_without(value: float) -> tuple[bool, float]:
    return value != value, value if value == value else 0.0


def number(value: float | None, digits: int = 2) -> str:
    """Returns a figure, "-" where there was nothing to measure."""
    return "-" if value is None or value != value else f"{value:.{digits}f}"
