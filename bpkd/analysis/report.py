"""Tables from run records: mean and standard deviation over seeds, costs, and where the figures come from."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from bpkd.analysis.costs import batches, peak_memory
from bpkd.analysis.identity import absent_notes, check_one_set, nothing_notes, nothing_to_measure, unknown_data
from bpkd.analysis.task import Column, figures_of
from bpkd.text import csv_table, markdown_table

Record = Mapping[str, Any]

ALONE = "none"
TEACHER = "teacher"
NAMES = {ALONE: "student alone", TEACHER: "teacher"}
# Suffix of a method that was trained for as many iterations as fit into BPKD's training time.
EQUAL_TIME = "-equal-time"

COSTS = ("params_m", "flops_g", "ms_per_image", "seconds_per_iteration", "peak_memory_mb")
# Columns that older records lack; left out where no run has them.
LATER = ("ms_per_image", "peak_memory_mb")


def display_name(method: str) -> str:
    """Returns the words for a method in tables."""
    base = method.removesuffix(EQUAL_TIME)
    return NAMES.get(base, base) + (", BPKD's time" if base != method else "")


@dataclass(frozen=True)
class Summary:
    """One method's runs."""

    method: str
    runs: int
    values: dict[str, tuple[float, float]]
    """Metric -> (mean, standard deviation over runs; nan with one run)."""


def summarise(records: Iterable[Record], metrics: Sequence[str]) -> list[Summary]:
    """Groups records by method: the student alone first, the teacher last, the others by their first metric.

    Args:
        records: complete runs; ``method`` "teacher" marks the teacher's.
        metrics: names in ``record["metrics"]`` or of the record itself.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["method"], []).append(record)
    rows = [Summary(m, len(rs), {k: _spread([_value(r, k) for r in rs]) for k in metrics}) for m, rs in groups.items()]
    order = {ALONE: (0, 0.0), ALONE + EQUAL_TIME: (0, 1.0), TEACHER: (2, 0.0)}
    return sorted(rows, key=lambda s: order.get(s.method, (1, s.values[metrics[0]][0])))


def _value(record: Record, name: str) -> float:
    found = record["metrics"].get(name, record.get(name))
    return float("nan") if found is None else float(found)


def _spread(values: Sequence[float]) -> tuple[float, float]:
    average = mean(values)  # nan where a run did not measure it, of which stdev knows nothing
    return average, stdev(values) if len(values) > 1 and average == average else float("nan")


def table_rows(records: Sequence[Record], *, trimap_width: int) -> tuple[list[str], list[list[str]]]:
    """Makes the cells of the comparison table.

    Args:
        records: complete runs, all of one task.
        trimap_width: half-width of the trimap column, one that was measured.

    Returns:
        (header, rows). Scores are mean ± standard deviation over seeds where there are several.
    """
    check_one_set(records)
    columns, rows, score = _contents(records, trimap_width)
    empty = nothing_to_measure(records)
    teacher = next((r.values[score][0] for r in rows if r.method == TEACHER), float("nan"))
    header = ["method", "seeds", *(title for title, _, _ in columns), f"share of teacher's {score}"]
    lines = []
    for row in rows:
        cells = [_cell(*_shown(metric, *row.values[metric]), digits) for _, metric, digits in columns]
        cells = [
            "-" if not cell and (row.method, c[1]) in empty else cell for cell, c in zip(cells, columns, strict=True)
        ]
        share = 100 * row.values[score][0] / teacher if teacher else float("nan")
        lines.append([display_name(row.method), str(row.runs), *cells, "" if share != share else f"{share:.1f} %"])
    return header, lines


def _contents(records: Sequence[Record], trimap_width: int) -> tuple[list[Column], list[Summary], str]:
    figures = figures_of(records, trimap_width)
    records = _with_network_speed(records)
    columns = [c for c in figures.columns if c[1] not in LATER or any(r.get(c[1]) for r in records)]
    return columns, summarise(records, [metric for _, metric, _ in columns]), figures.score


def _with_network_speed(records: Sequence[Record]) -> list[Record]:
    """Gives all runs of one network the time per image of the fastest one: the others shared the machine."""
    fastest: dict[float | None, float] = {}  # by FLOPs, which tell student and teacher apart
    for record in (r for r in records if r.get("ms_per_image")):
        network = record.get("flops_g")
        fastest[network] = min(fastest.get(network, float("inf")), record["ms_per_image"])
    return [{**r, "ms_per_image": fastest[r.get("flops_g")]} if r.get("ms_per_image") else r for r in records]


def best_cells(records: Sequence[Record], *, trimap_width: int) -> set[tuple[int, int]]:
    """Returns (row, column) of the best students' cells in ``table_rows``: highest scores, lowest costs.

    Values are compared as they are shown. A column in which all students are level has no best cell.

    Args:
        records: complete runs, all of one task.
        trimap_width: half-width of the trimap column.
    """
    columns, rows, _ = _contents(records, trimap_width)
    found = set()
    for place, (_, metric, digits) in enumerate(columns, start=2):  # after method and seeds
        values = {i: round(r.values[metric][0], digits) for i, r in enumerate(rows) if r.method != TEACHER}
        values = {i: value for i, value in values.items() if value == value}
        if metric in COSTS:  # a longer run of the same method costs the same; what differs is the measurement
            values = {i: value for i, value in values.items() if not rows[i].method.endswith(EQUAL_TIME)}
        if len(set(values.values())) > 1:
            best = min(values.values()) if metric in COSTS else max(values.values())
            found |= {(i, place) for i, value in values.items() if value == best}
    return found


def table(records: Sequence[Record], *, trimap_width: int) -> tuple[str, str]:
    """Returns the comparison table, see ``table_rows``, as (Markdown, CSV)."""
    header, lines = table_rows(records, trimap_width=trimap_width)
    return markdown(header, lines), csv_text(header, lines)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table of plain texts, or of ``bpkd.text.Markup``."""
    return markdown_table(header, rows)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table as CSV text."""
    return csv_table(header, rows)


def _shown(metric: str, average: float, deviation: float) -> tuple[float, float]:
    """Leaves out the deviation of costs: they belong to the network or the method, not to the seed."""
    return average, float("nan") if metric in COSTS else deviation


def _cell(average: float, deviation: float, digits: int) -> str:
    if average != average:
        return ""
    text = f"{average:.{digits}f}"
    return text if deviation != deviation else f"{text} ± {deviation:.{digits}f}"


def findings(records: Sequence[Record], metric: str = "mIoU", *, name: str = "") -> list[str]:
    """Says how each method differs from the student alone, seed by seed, and from BPKD where it scores no lower.

    Args:
        records: complete runs.
        metric: name in ``record["metrics"]``.
        name: name of the figure in the sentences; by default ``metric``.
    """
    scores, name = by_seed(records, metric), name or metric
    scores.pop(TEACHER, None)
    lines = [_difference(scores, method, ALONE, name) for method in scores if method != ALONE]
    ours = scores.get("BPKD", {})
    for method, own in scores.items():
        seeds = [s for s in own if s in ours]  # only seeds that both methods have
        if method not in ("BPKD", ALONE) and seeds and round(mean(own[s] - ours[s] for s in seeds), 2) >= 0:
            lines.append(_difference(scores, method, "BPKD", name))
    return [line for line in lines if line]


def _difference(scores: Mapping[str, Mapping[int, float]], method: str, against: str, name: str) -> str:
    """Returns a sentence on two methods, seed by seed; "" where they have no seed in common."""
    own, other = scores[method], scores.get(against, {})
    gains = [own[s] - other[s] for s in own if s in other]
    if not gains:
        return ""
    each = f"; by seed: {', '.join(f'{g:+.2f}' for g in gains)}" if len(gains) > 1 else ""
    pair = f"{display_name(method)} over {display_name(against)}"
    return f"{pair}: {mean(gains):+.2f} {name} ({_consistency(gains)}{each})"


def by_seed(records: Iterable[Record], metric: str) -> dict[str, dict[int, float]]:
    """Returns {method: {seed: figure}}; runs that did not measure it are left out.

    Args:
        records: complete runs.
        metric: name in ``record["metrics"]``.
    """
    scores: dict[str, dict[int, float]] = {}
    for record in records:
        value = _value(record, metric)
        if value == value:
            scores.setdefault(record["method"], {})[record["seed"]] = value
    return scores


def _consistency(gains: Sequence[float]) -> str:
    if len(gains) == 1:
        return "one seed"
    if all(g > 0 for g in gains):
        return f"better on all {len(gains)} seeds"
    if all(g < 0 for g in gains):
        return f"worse on all {len(gains)} seeds"
    return f"better on {sum(g > 0 for g in gains)} of {len(gains)} seeds"


def provenance(records: Sequence[Record]) -> str:
    """Returns sentences on data set, iterations, hardware, versions and measured costs of the runs."""
    first = records[0]
    machines = "; ".join(dict.fromkeys(_machine(r) for r in records))
    commits = ", ".join(sorted({r["commit"] for r in records}))
    teacher = next((r["iterations"] for r in records if r["method"] == TEACHER), None)
    students = [r for r in records if r["method"] != TEACHER and not r["method"].endswith(EQUAL_TIME)] or records
    torches = ", ".join(dict.fromkeys(r["versions"]["torch"] for r in records))
    return (
        f"{first['dataset']}; {students[0]['iterations']} iterations (teacher {teacher or '-'}); {machines}; torch "
        f"{torches}; commit {commits}. FLOPs of one {_size(first)} image; s / iteration is the median step"
        + f"{batches([r for r in records if r['method'] == TEACHER], students)}."
        + "".join(f" {line}" for line in (*absent_notes(records), *unknown_data(records), *nothing_notes(records)))
        + _speed(records)
        + _longer(records)
        + _precision(records)
        + _memory(records)
    )


def _speed(records: Sequence[Record]) -> str:
    timed = any(r.get("ms_per_image") for r in records)
    return (
        " ms / image is the median of the last evaluation, one image at a time, in the fastest run of each network."
        if timed
        else ""
    )


def _size(record: Record) -> str:
    """Returns the size that FLOPs are of; older records have 512 and do not say so."""
    return "x".join(map(str, record.get("flops_size", (512, 512))))


def _machine(record: Record) -> str:
    machine = record["hardware"]
    return f"{machine['cpu']}, {machine['cores']} cores, {', '.join(machine['gpus']) or 'no GPU'}"


def _precision(records: Sequence[Record]) -> str:
    """Returns the precisions of the networks in words; older records do not hold them."""
    parts = []
    for role in ("student", "teacher"):
        names = dict.fromkeys(r["precision"][role] for r in records if role in r.get("precision", {}))
        if names:
            parts.append(f"{role} in {' and '.join('float32' if n == 'off' else n for n in names)}")
    return f" Trained with {', '.join(parts)}." if parts else ""


def _longer(records: Sequence[Record]) -> str:
    """Returns in words the iterations of the runs that had BPKD's training time."""
    found: dict[str, list[str]] = {}
    for record in records:
        if record["method"].endswith(EQUAL_TIME):
            found.setdefault(display_name(record["method"]), []).append(str(record["iterations"]))
    return "".join(f" {name}: {', '.join(counts)} iterations." for name, counts in found.items())


def _memory(records: Sequence[Record]) -> str:
    found = [(r["method"].removesuffix(EQUAL_TIME), r["peak_memory_of"]) for r in records if r.get("peak_memory_of")]
    return peak_memory([(display_name(method), kind) for method, kind in found])


def run_rows(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Returns (header, rows) of the runs behind a report: folder, seed, iterations, commit, machine."""
    rows = [
        [
            str(r.get("run") or f"{r['method']}-seed{r['seed']}"),
            *("-" if r[k] is None else str(r[k]) for k in ("seed", "iterations", "commit")),
            _machine(r),
        ]
        for r in records
    ]
    return ["run", "seed", "iterations", "commit", "machine"], rows


def __getattr__(name: str) -> Any:
    if name == "verdicts":
        warnings.warn("bpkd.analysis.report.verdicts is called findings now.", FutureWarning, stacklevel=2)
        return findings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
