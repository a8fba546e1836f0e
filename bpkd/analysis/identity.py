"""Whether records were measured on the same data in the same way: what tells two sets of one name apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from bpkd.analysis.task import figures_of

Record = Mapping[str, Any]

RULES = {"zero": "count as IoU 0 where they are predicted", "skip": "are left out of the means"}
# Prefixes of a figure per class in older records, which do not list the classes.
PER_CLASS = ("IoU-", "AP-")
SHOWN = 4


def data_of(record: Record) -> dict[str, Any]:
    """Returns what is known of the data and the protocol that a record's figures depend on.

    Args:
        record: a run's record; older ones hold no ``data``: their classes are those of their figures.
    """
    found: dict[str, Any] = {"name": record["dataset"], **record.get("data", {})}
    found["name"] = record["dataset"]  # of several test sets, the one that is tabled
    if "classes" not in found:
        prefix = next((p for p in PER_CLASS if any(k.startswith(p) for k in record["metrics"])), None)
        names = [k.removeprefix(prefix) for k in record["metrics"] if k.startswith(prefix)] if prefix else []
        found |= {"classes": names} if names else {}
    rule = absent_rule(record)
    return {**found, **({"rule": rule} if rule else {})}


def absent_rule(record: Record) -> str:
    """Returns the convention for classes that occur in no label; "" where a record is of objects or does not say it."""
    if "mIoU" not in record["metrics"]:
        return ""
    stated = re.search(r"^\s*ABSENT_CLASS: *['\"]?(\w+)", str(record.get("config", "")), re.MULTILINE)
    rule: str = record.get("absent", {}).get("rule") or (stated[1] if stated else "")
    return rule


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Says how the data of two records differ; "" where they agree in all that both of them state.

    Args:
        one: as ``data_of`` returns it.
        other: that of another record.
    """
    both = {key for key in one if key in other and one[key] != other[key]}
    if "name" in both:
        return f"data set ({one['name']} and {other['name']})"
    if "images" in both:
        return f"number of images ({one['images']} and {other['images']})"
    if "classes" in both:
        return f"classes ({_classes(one['classes'])} and {_classes(other['classes'])})"
    if "names" in both:
        return "names of the image files"
    if "labels" in both:
        return "labels (other annotations, other values in the masks or another ID_MAP)"
    if "rule" in both:
        return f"convention for classes without a label (TEST.ABSENT_CLASS {one['rule']} and {other['rule']})"
    return ""


def _classes(names: Sequence[str]) -> str:
    return f"{len(names)}: {', '.join(map(str, names[:SHOWN]))}{', ...' if len(names) > SHOWN else ''}"


def check_one_set(records: Sequence[Record]) -> None:
    """Checks that records can stand in one table.

    Args:
        records: complete runs.

    Raises:
        ValueError: two of them were measured on different data, or by different conventions; the message says how.
    """
    parts = one_set_each(records)
    if len(parts) > 1:
        (first, *_), (second, *_) = parts[:2]
        raise ValueError(
            f"expected records of one data set, got {name_of(first)} and {name_of(second)}, which differ in the "
            f"{difference(data_of(first), data_of(second))}. Compare them apart."
        )


def one_set_each(records: Sequence[Record]) -> list[list[Record]]:
    """Divides records into those that can stand in one table, in the order of the first of each.

    Args:
        records: complete runs; one that does not state its data goes to the first that it does not contradict.
    """
    parts: list[tuple[dict[str, Any], list[Record]]] = []
    for record in records:
        own = data_of(record)
        for known, members in parts:
            if not difference(known, own):
                known.update(own)
                members.append(record)
                break
        else:
            parts.append((own, [record]))
    return [members for _, members in parts]


def name_of(record: Record) -> str:
    """Returns a run's name in messages."""
    return str(record.get("run") or record.get("name") or f"{record['method']}-seed{record['seed']}")


def set_title(records: Sequence[Record], others: Sequence[Record]) -> str:
    """Returns a heading for the table of records that stand apart from others.

    Args:
        records: complete runs of one data set.
        others: those of another one.
    """
    own = data_of(records[0])
    facts = [f"{own['images']} images"] if "images" in own else []
    facts += [f"differs in the {difference(data_of(others[0]), own)}"] if others else []
    return f"{own['name']}{f' ({chr(59).join(facts)})' if facts else ''}".replace(";", "; ")


def unknown_data(records: Sequence[Record]) -> list[str]:
    """Returns a sentence on records that do not say which images and labels they were measured on."""
    silent = sum("data" not in r for r in records)
    if not silent or silent == len(records) == 1:
        return []
    return [f"{silent} of {len(records)} records are older and do not identify their images and labels."]


def absent_notes(records: Sequence[Record]) -> list[str]:
    """Returns sentences on the convention for classes without a label, and on the scores that the other one gives.

    Args:
        records: complete runs of one data set.
    """
    rule = next((rule for r in records if (rule := absent_rule(r))), "")
    if not rule:
        return []
    lines = [f"Classes that occur in no label {RULES.get(rule, rule)} (TEST.ABSENT_CLASS {rule})."]
    facts = [r["absent"] for r in records if r.get("absent", {}).get("in_no_label")]
    names: Sequence[str] = next((data_of(r).get("classes", []) for r in records if "classes" in data_of(r)), [])
    if facts:
        missing = [str(names[i]) if i < len(names) else str(i) for i in facts[0]["in_no_label"]]
        more = ", ..." if len(missing) > 20 else ""
        lines[0] = f"{lines[0][:-1]}: {len(missing)} here ({', '.join(missing[:20])}{more})."
    return [*lines, *_other_scores(records)]


def _other_scores(records: Sequence[Record]) -> list[str]:
    """Returns a sentence on the methods' mIoU under the other convention, means over all runs of each."""
    others = [r.get("absent", {}).get("other", {}).get("mIoU") for r in records]
    methods = dict.fromkeys(r["method"] for r, other in zip(records, others, strict=True) if other is not None)
    parts = []
    for method in methods:
        own = [(r["metrics"].get("mIoU"), o) for r, o in zip(records, others, strict=True) if r["method"] == method]
        scores = [score if other is None else other for score, other in own]
        parts.append(f"{method} {mean(s for s in scores if s is not None):.2f}")
    if not parts:
        return []
    rule = next(r["absent"]["other_rule"] for r in records if r.get("absent", {}).get("other"))
    return [f"mIoU under the other convention ({rule}), where it differs: {', '.join(parts)}."]


def nothing_to_measure(records: Iterable[Record]) -> set[tuple[str, str]]:
    """Returns (method, figure) of what was measured and has no value: no such label or object is in the data."""
    return {(r["method"], name) for r in records for name, value in r["metrics"].items() if _is_nothing(value)}


def _is_nothing(value: Any) -> bool:
    return value is None or value != value


def nothing_notes(records: Sequence[Record]) -> list[str]:
    """Returns a sentence on the figures that tables show as -."""
    titles = {key: title for title, key, _ in figures_of(records).columns}
    names = dict.fromkeys(titles[name] for _, name in sorted(nothing_to_measure(records)) if name in titles)
    return [f"-: {', '.join(names)}: no label or object that counts in the data set."] if names else []
