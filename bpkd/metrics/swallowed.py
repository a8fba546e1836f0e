"""An ignored label that looks like a class: masks of 0 and 255, of which 255 would count nowhere."""

from __future__ import annotations

from .ignored import IgnoredRegions
from .segmentation import SegmentationMetrics


def swallowed_class(metrics: SegmentationMetrics, *, explicit: bool, regions: IgnoredRegions) -> tuple[str, bool]:
    """Returns a sentence on an ignored label that may be a class ("" without one), and whether figures are worthless.

    They are where labels hold one class beside ignored pixels, where a class occurs in many maps but never beside
    regions of ignored pixels, and where one class occurs in no label that most ignored pixels are predicted as, or that
    is the last one, while ignored pixels cover regions.

    Args:
        metrics: counts of the whole set.
        explicit: whether the ignored label was chosen by hand, which ends all doubt.
        regions: the maps in which ignored pixels cover more than borders, with the classes beside them.
    """
    labelled = metrics.counts.sum(1) > 0
    absent = (~labelled).nonzero().flatten().tolist()
    ignored, total = int(metrics.ignored.sum()), int(metrics.ignored.sum() + metrics.counts.sum())
    if explicit or not ignored:
        return "", False
    if not absent:
        return _in_a_part(metrics.ignore_index, regions)
    index, share, first = metrics.ignore_index, 100 * ignored / total, absent[0]
    if int(labelled.sum()) > 1 and len(absent) > 1:
        return "", False
    last = regions.regions > 0 and first == metrics.num_classes - 1
    worthless = last or int(labelled.sum()) == 1 or 2 * int(metrics.ignored[first]) > ignored
    classes = ", ".join(map(str, labelled.nonzero().flatten().tolist()))
    seen = f"the labels hold class {classes} and, on {share:.1f} % of the pixels, {index}, which is ignored"
    ways = f"If {index} is class {first}: --id-map {index}:{first}; if it is to be ignored: --ignore-index {index}."
    return f"{seen}; class {', '.join(map(str, absent[:5]))} occurs in no label. {ways}", worthless


def _in_a_part(index: int, regions: IgnoredRegions) -> tuple[str, bool]:
    """Returns the sentence, and that figures are worthless, where a class and ignored regions share no label map."""
    found = regions.suspicion()
    if found is None:
        return "", False
    (one,) = found.classes
    return (
        f"{index}, which is ignored, seems to be class {one} in a part of the labels: {found.maps} with regions of "
        f"{index} ({found.example}) never hold it, others ({found.other}) do. If {index} is class {one}: --id-map "
        f"{index}:{one}; if it is to be ignored: --ignore-index {index}."
    ), True
