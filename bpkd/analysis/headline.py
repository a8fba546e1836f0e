"""A comparison in two sentences: the headline, and what was compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

from bpkd.analysis.report import ALONE, EQUAL_TIME, TEACHER, Record, Summary, by_seed, display_name, summarise
from bpkd.analysis.significance import OURS, PairedTest, paired_test, paired_tests
from bpkd.analysis.task import Figures, figures_of

VERDICTS = {"gain": "a gain"}


def headline(records: Sequence[Record], *, margin: float = 0.5) -> str:
    """Sums a comparison up: share of the teacher's score, gain over the student alone, and how sure that is.

    The sentence names the distillers that were compared. It is about BPKD; without it about the distiller with the
    highest mean score, or the student alone. Methods that score higher than BPKD on the seeds of both are named, or the
    one that comes next; each difference between two methods stands beside what its test says.

    Args:
        records: complete runs, all of one task.
        margin: the smallest gain that would matter, in percentage points.

    Returns:
        A sentence, or "" where nothing was scored.
    """
    figures = figures_of(records)
    scored = summarise(records, [figures.score, "params_m"])
    rows = {s.method: s for s in scored if s.values[figures.score][0] == s.values[figures.score][0]}
    method, choice = _subject(rows, figures.score)
    if not method:
        return ""
    parts = [_against_teacher(rows, method, choice, figures)]
    if method not in (ALONE, TEACHER):
        parts += _against_alone(records, method, figures, margin)
        parts += _others(by_seed(records, figures.score), method, margin)
    else:
        parts.append(f"mean of {rows[method].runs} seeds" if rows[method].runs > 1 else "one seed")
    sentence = _compared_methods(rows) + "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _subject(rows: Mapping[str, Summary], score: str) -> tuple[str, str]:
    """Returns the method that the headline is about, and words that say so where it was chosen by its score."""
    if OURS in rows:
        return OURS, ""
    distilled = _distilled(rows)
    if distilled:
        highest = max(distilled, key=lambda m: rows[m].values[score][0])
        return highest, ", whose mean is the highest," if len(distilled) > 1 else ""
    return next((m for m in (ALONE, *rows) if m in rows), ""), ""


def _distilled(methods: Iterable[str]) -> list[str]:
    return [m for m in methods if m not in (ALONE, TEACHER) and not m.endswith(EQUAL_TIME)]


def _compared_methods(methods: Iterable[str]) -> str:
    """Returns the beginning of the sentence, which names the distillers; "" where there is no choice of them."""
    names = [display_name(m) for m in _distilled(methods)]
    return f"{listed(names)} compared: " if len(names) > 1 else ""


def _against_teacher(rows: Mapping[str, Summary], method: str, choice: str, figures: Figures) -> str:
    subject = display_name(method) if method not in (ALONE, TEACHER) else f"the {display_name(method)}"
    value, params = (rows[method].values[k][0] for k in (figures.score, "params_m"))
    teacher, teacher_params = rows[TEACHER].values.values() if TEACHER in rows else ((0.0,), (0.0,))
    if method == TEACHER or not teacher[0]:
        return f"{subject}{choice} reached {value:.2f} {figures.title(figures.score)}"
    share = 100 * value / teacher[0]
    verb = "reached" if share > 100 else "kept"
    size = _size(params, teacher_params[0])
    return f"{subject}{choice} {verb} {share:.1f} % of the teacher's {figures.title(figures.score)}{size}"


def _size(own: float, teacher: float) -> str:
    """Returns in words the ratio of a network's parameters to the teacher's; "" if one is unknown or they are equal."""
    if own != own or teacher != teacher or own == teacher or not own:
        return ""
    ratio = teacher / own
    return f" at 1/{ratio:.0f} of its size" if ratio >= 3 else f" at {100 / ratio:.0f} % of its size"


def _against_alone(records: Sequence[Record], method: str, figures: Figures, margin: float) -> list[str]:
    tests = paired_tests(records, [figures.score], margin=margin)
    test = next((t for t in tests if (t.method, t.against) == (method, ALONE)), None)
    if test is None:
        return ["there is no student alone to compare it with"]
    gain = f"{test.mean:+.2f} {figures.title(figures.score)} over the student alone"
    interval = f" (95 % interval {test.low:+.2f} .. {test.high:+.2f})" if test.seeds > 1 else ""
    return [gain, f"{_verdict(test)}{interval}"]


def _verdict(test: PairedTest) -> str:
    if test.seeds == 1:
        return "one seed: no verdict"
    return f"{test.seeds} seeds: {VERDICTS.get(test.verdict, test.verdict)}"


def _others(scores: Mapping[str, Mapping[int, float]], method: str, margin: float) -> list[str]:
    """Returns a part on the methods with a higher mean than BPKD, or on the next one below the highest.

    Args:
        scores: {method: {seed: score}}.
        method: BPKD, or the one with the highest mean.
        margin: the smallest gain that would matter, in percentage points.
    """
    others = [m for m in scores if m not in (method, ALONE, TEACHER)]
    if method != OURS:
        others = sorted(_distilled(others), key=lambda m: -mean(scores[m].values()))[:1]
        found = (paired_test(scores, method, m, metric="", margin=margin) for m in others)
        return [f"{t.mean:+.2f} over {display_name(t.against)} ({_verdict(t)})" for t in found if t]
    tests = (paired_test(scores, m, method, metric="", margin=margin) for m in others)
    higher = [t for t in tests if t and round(t.mean, 2) > 0]
    names = [f"{display_name(t.method)} by {t.mean:.2f} ({_verdict(t)})" for t in higher]
    return [f"higher mean: {listed(names)}"] if names else []


def compared(records: Sequence[Record]) -> str:
    """Says what was compared: task, data set, methods, seeds and iterations.

    Args:
        records: complete runs, all of one task.
    """
    figures = figures_of(records)
    order = [s.method for s in summarise(records, [figures.score])]
    students = [r for r in records if r["method"] != TEACHER and not r["method"].endswith(EQUAL_TIME)]
    names = [f"{'the ' if m == ALONE else ''}{display_name(m)}" for m in order if m in {r["method"] for r in students}]
    parts = [f"{listed(names)}{', each' if len(names) > 1 else ''}{_runs(students)}"] if students else []
    longer = [r for r in records if r["method"].endswith(EQUAL_TIME)]
    if longer:
        bases = {m: display_name(m.removesuffix(EQUAL_TIME)) for m in order if m.endswith(EQUAL_TIME)}
        parts.append(f"{listed(list(bases.values()))} also for BPKD's time{_runs(longer)}")
    if TEACHER in order:
        parts.append(f"the teacher{_runs([r for r in records if r['method'] == TEACHER])}")
    return f"{figures.task.name.capitalize()} segmentation on {records[0]['dataset']}: {'; '.join(parts)}."


def _runs(records: Iterable[Record]) -> str:
    """Returns seeds and iterations in words, which are unknown for weights of other projects."""
    seeds: dict[str, set[int]] = {}
    for record in records:
        if record["seed"] is not None:
            seeds.setdefault(record["method"], set()).add(record["seed"])
    own = sorted(next(iter(seeds.values()), ()))
    if len({frozenset(other) for other in seeds.values()}) > 1:
        counts = [len(other) for other in seeds.values()]
        text = f" with {min(counts)} to {max(counts)} seeds, not the same ones"
    else:
        text = f" with seed{'s' if len(own) > 1 else ''} {listed([str(s) for s in own])}" if own else ""
    counts = sorted({r["iterations"] for r in records if r["iterations"] is not None})
    if not counts:
        return text
    return text + (f", {counts[0]} iterations" if len(counts) == 1 else f", {counts[0]} to {counts[-1]} iterations")


def listed(words: Sequence[str]) -> str:
    """Joins words to "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
