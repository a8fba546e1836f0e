"""Classes that do not occur: what they count under either convention, which they are, and both figures in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bpkd.text import one_line_text

ABSENT = ("zero", "skip")
RULES = {
    "zero": "a class that is predicted but occurs in no label counts as IoU 0",
    "skip": "a class that occurs in no label is left out of the mean, predicted or not",
}
# Means that depend on the convention, in the order of tables; accuracies never count a class without a label.
TITLES = {"mIoU": "mIoU", "boundary_IoU": "Boundary IoU"}
# Names that a sentence shows.
SHOWN = 20


def other_rule(rule: str) -> str:
    """Returns the convention that was not chosen."""
    return next(one for one in ABSENT if one != rule)


def absent_facts(
    counts: Tensor, ignored: Tensor, rule: str, means: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Returns which classes do not occur, and the means that the other convention changes.

    Args:
        counts: [K, K] pixels; row = label, column = prediction.
        ignored: [K] ignored pixels by predicted class.
        rule: the convention that was chosen, "zero" or "skip".
        means: {convention: {name of a mean: value}} of both.

    Returns:
        ``rule``, ``in_no_label`` (ids), of these ``predicted`` (ids), ``never_predicted`` (ids that labels have),
        ``ignored_share`` in percent, ``other_rule``, and ``other``: the means that it changes.
    """
    labelled, predicted = (counts.sum(side) > 0 for side in (1, 0))
    own, other = means[rule], means[other_rule(rule)]
    all_pixels = int(counts.sum() + ignored.sum())
    return {
        "rule": rule,
        "in_no_label": _ids(~labelled),
        "predicted": _ids(~labelled & predicted),
        "never_predicted": _ids(labelled & ~predicted),
        "ignored_share": 100.0 * int(ignored.sum()) / all_pixels if all_pixels else float("nan"),
        "other_rule": other_rule(rule),
        "other": {k: v for k, v in other.items() if v != own[k] and not (v != v and own[k] != own[k])},
    }


def _ids(chosen: Tensor) -> list[int]:
    found: list[int] = chosen.nonzero().flatten().tolist()
    return found


def absent_lines(result: Mapping[str, Any], class_names: Sequence[str] = (), *, option: str = "--absent") -> list[str]:
    """Says in sentences which convention the figures follow, which classes do not occur, and what the other one gives.

    Args:
        result: figures of ``SegmentationMetrics.compute``.
        class_names: names of the classes; empty: their ids.
        option: how the convention is chosen where the sentences are read.
    """
    facts, number = result["absent"], result["protocol"]["num_classes"]
    names = [one_line_text(name) for name in class_names] or [str(i) for i in range(number)]
    rule, missing = facts["rule"], facts["in_no_label"]
    lines = [f"Convention for classes without a label: {option} {rule}: {RULES[rule]}; mAcc leaves it out."]
    if not missing:
        lines[0] += f" All {number} classes have labels."
    else:
        found = [names[i] for i in facts["predicted"]]
        rest = [names[i] for i in missing if i not in facts["predicted"]]
        parts = [f"{_listed(found)} predicted ({'IoU 0' if rule == 'zero' else 'left out'})"] if found else []
        parts += [f"{_listed(rest)} not predicted either (left out)"] if rest else []
        lines.append(f"{len(missing)} of {number} classes occur in no label: {'; '.join(parts)}.")
    if facts["never_predicted"]:
        lost = [names[i] for i in facts["never_predicted"]]
        lines.append(
            f"{len(lost)} of {number} classes occur in labels and are never predicted (IoU 0): {_listed(lost)}."
        )
    if facts["other"]:
        lines.append(other_line(facts, means_of(result), option=option))
    if result.get("images_without_label"):
        count = result["images_without_label"]
        lines.append(f"{count} of {result['protocol']['num_images']} images hold no labelled pixel and count nowhere.")
    return lines


def other_line(facts: Mapping[str, Any], own: Mapping[str, float | None], *, option: str = "--absent") -> str:
    """Returns a sentence with the figures of both conventions, where they differ.

    Args:
        facts: as ``absent_facts`` returns them.
        own: the means under the chosen convention.
        option: how the convention is chosen where the sentence is read.
    """
    pairs = [f"{title_of(k)} {_number(v)} (not {_number(own.get(k))})" for k, v in facts["other"].items()]
    counts = "count as IoU 0" if facts["other_rule"] == "zero" else "are left out"
    return f"Where classes that occur in no label {counts} ({option} {facts['other_rule']}): {', '.join(pairs)}."


def means_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Returns the means that depend on the convention by the names that run records have."""
    found = {k: result[k] for k in TITLES}
    for region in ("trimap", "body"):
        found.update({f"{region}_w{w}": v["mIoU"] for w, v in result[region].items()})
    found.update({f"boundary_F_t{t}": v["mF"] for t, v in result["boundary_F"].items()})
    return found


def title_of(mean: str) -> str:
    """Returns a mean's name in words.

    >>> title_of("trimap_w3"), title_of("mIoU")
    ('trimap mIoU w=3', 'mIoU')
    """
    for start, words in (("trimap_w", "trimap mIoU w="), ("body_w", "body mIoU w="), ("boundary_F_t", "boundary F t=")):
        if mean.startswith(start):
            return words + mean.removeprefix(start)
    return TITLES.get(mean, mean)


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.2f}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)})" if len(names) > SHOWN else "")
