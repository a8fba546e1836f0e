"""Search for distillers' settings with equally many runs per method: every candidate once, the best ones twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from bpkd.analysis.identity import absent_notes, check_one_set
from bpkd.analysis.report import markdown
from bpkd.analysis.task import figures_of, figures_of_scores
from bpkd.config.yaml_file import read_mapping
from bpkd.engine.configure import load_config
from bpkd.modeling.build_distiller import check_method
from bpkd.paths import expanded
from bpkd.text import Markup, markdown_cell

from .jobs import Job, run_jobs
from .resources import divide, visible_gpus
from .reuse import check_runs

KEYS = ("config", "opts", "trials")
RATIO = "gradient_ratio_kd_"


@dataclass(frozen=True)
class Trial:
    """A candidate: a distiller with values for keys of its node, or for other keys by their full names."""

    method: str
    settings: tuple[tuple[str, Any], ...]

    @property
    def text(self) -> str:
        """The settings as text: ``WEIGHT 3, TEMPERATURE 2``."""
        return ", ".join(f"{key} {value}" for key, value in self.settings) or "defaults"

    def job(self, number: int, seed: int, *, config_file: str, opts: Iterable[str], output: Path) -> Job:
        """Returns the run of this candidate with a seed."""
        changes = ["SEED", str(seed), "DISTILL.METHOD", self.method, *opts]
        for key, value in self.settings:
            changes += [key if "." in key else f"DISTILL.{self.method}.{key}", str(value)]
        name = f"{self.method}-{number}-seed{seed}"
        return Job(name, config_file, output / name, tuple(changes))


def read_search(path: Path) -> tuple[str, list[str], dict[str, list[Trial]]]:
    """Reads a search: ``config`` (a pair), ``opts`` for every run, ``trials`` (method -> list of settings).

    Returns:
        (config file, opts, candidates by method).

    Raises:
        ValueError: a key is missing or unknown, or methods have unequal numbers of candidates.
    """
    try:
        found = read_mapping(str(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(found, dict) or sorted(found) != sorted(KEYS):
        got = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{path}: expected the keys {', '.join(KEYS)}, got {got}.")
    try:
        trials = {m: [Trial(m, tuple(s.items())) for s in listed] for m, listed in found["trials"].items()}
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path}: trials: expected method: [{{KEY: value}}, ...], got {found['trials']!r}.") from error
    counts = {method: len(listed) for method, listed in trials.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"{path}: expected as many candidates for every method, got {counts}.")
    return expanded(str(found["config"]), f"{path}: config"), [str(o) for o in found["opts"]], trials


def run_search(
    path: Path,
    output: Path,
    *,
    finalists: int,
    opts: Sequence[str],
    progress: Callable[[str], None],
    workers: int = 0,
    resume: bool = False,
) -> list[dict[str, Any]]:
    """Runs every candidate with seed 0 and each method's best ``finalists`` with seed 1 too; complete runs stay.

    Args:
        path: file of the search.
        output: folder of the runs.
        finalists: candidates per method that get a second run.
        opts: KEY VALUE pairs for every run, after the file's own.
        progress: callback that receives each line of progress.
        workers: runs at a time; 0: one per GPU, without GPUs one per core.
        resume: whether the folder may hold runs of this search.

    Returns:
        One row per candidate, see `rows`.

    Raises:
        FileNotFoundError: the file or its config does not exist.
        ValueError: the search is wrong, or the folder holds runs of another one (or any, without ``resume``).
    """
    config_file, shared, trials = read_search(path)

    def job(trial: Trial, number: int, seed: int) -> Job:
        return trial.job(number, seed, config_file=config_file, opts=[*shared, *opts], output=output)

    machine = divide(gpus=visible_gpus(), workers=workers)
    runs = {(m, i): [job(t, i, 0)] for m, listed in trials.items() for i, t in enumerate(listed)}
    first = [jobs[0] for jobs in runs.values()]
    for method, one in zip((m for m, _ in runs), first, strict=True):
        check_method(method)
        load_config(one.config_file, one.opts)  # a wrong key of the last candidate is found before the first runs
    check_runs(first, resume=resume)
    run_jobs(first, progress=progress, machine=machine)
    for method, listed in trials.items():
        ranked = sorted(range(len(listed)), key=lambda i: -_score(runs[method, i][0]))
        for i in ranked[:finalists]:
            runs[method, i].append(job(listed[i], i, 1))
    again = [jobs[1] for jobs in runs.values() if len(jobs) > 1]
    if again:
        check_runs(again, resume=True)
    run_jobs(again, progress=progress, machine=machine)
    return rows({(m, i): (trials[m][i], jobs) for (m, i), jobs in runs.items()})


def _score(job: Job) -> float:
    record = job.record
    assert record is not None  # run_jobs has raised otherwise
    score = record["metrics"][figures_of([record]).score]
    return -math.inf if score is None else float(score)  # nothing that counts is in the data


def rows(runs: Mapping[tuple[str, int], tuple[Trial, Sequence[Job]]]) -> list[dict[str, Any]]:
    """Returns a row per candidate; ``chosen`` marks each method's best mean score among those that ran most often."""
    found = []
    check_one_set([r for _, jobs in runs.values() for j in jobs if (r := j.record) is not None])
    figures = figures_of(r for _, jobs in runs.values() for r in (j.record for j in jobs) if r is not None)
    for (method, number), (trial, jobs) in runs.items():
        records = [r for r in (j.record for j in jobs) if r is not None]
        found.append(
            {
                "method": method,
                "candidate": number,
                "settings": dict(trial.settings),
                "text": trial.text,
                "runs": [j.name for j in jobs],
                "seeds": [r["seed"] for r in records],
                **{key: [r["metrics"][key] for r in records] for key in figures.tested},
                "gradient_ratios": _ratios(jobs[0]),
                "absent_notes": absent_notes(records),
                **{k: records[0][k] for k in ("dataset", "iterations", "commit", "versions", "hardware")},
            }
        )
    for method in {row["method"] for row in found}:
        mine = [row for row in found if row["method"] == method]
        best = max(mine, key=lambda row: (len(row["seeds"]), _mean(row[figures.score])))
        for row in mine:
            row["chosen"] = row is best
    return found


def _mean(scores: Sequence[float | None]) -> float:
    return mean(-math.inf if score is None else score for score in scores)


def _ratios(job: Job) -> dict[str, float]:
    """Returns the ratio of each term's gradient to the task loss's, the median over the run."""
    found: dict[str, list[float]] = {}
    for line in (job.output / "metrics.json").read_text().splitlines():
        for name, value in json.loads(line).items():
            if name.startswith(RATIO):
                found.setdefault(name.removeprefix(RATIO), []).append(value)
    return {name: round(median(values), 3) for name, values in found.items()}


def search_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns the candidates as Markdown, the chosen ones in bold."""
    lines, figures = [], figures_of_scores(found)
    for row in found:
        name = Markup(f"**{markdown_cell(row['text'])}**") if row["chosen"] else row["text"]
        scores = [" / ".join("-" if v is None else f"{v:.2f}" for v in row[k]) for k in figures.tested]
        ratios = ", ".join(f"{k} {v:.2g}" for k, v in row["gradient_ratios"].items())
        lines.append([row["method"], name, *scores, ratios])
    titles = [title for title, key, _ in figures.columns if key in figures.tested]
    table = markdown(["method", "settings", *titles, "gradient of the terms / the task's"], lines)
    notes = dict.fromkeys(note for row in found for note in row.get("absent_notes", ()))
    return "\n\n".join([table, *([markdown_cell(" ".join(notes))] if notes else [])])


def main_effects(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns the mean score of seed 0 at each level of each key as Markdown; "" where there is no such design.

    In an orthogonal array each level of a key is combined equally often with the levels of every other key, so the
    means are comparable. A table is returned for methods in which every candidate sets the same two or more keys.
    """
    lines, score = [], figures_of_scores(found).score
    for method in dict.fromkeys(row["method"] for row in found):
        mine = [row for row in found if row["method"] == method]
        keys = list(mine[0]["settings"])
        if len(keys) < 2 or any(list(row["settings"]) != keys for row in mine):
            continue
        for key in keys:
            levels: dict[Any, list[float]] = {}
            for row in mine:
                levels.setdefault(row["settings"][key], []).append(_mean(row[score][:1]))
            cells = [f"{level}: {mean(scores):.2f} ({len(scores)} runs)" for level, scores in levels.items()]
            lines.append([method, key, "; ".join(cells)])
    return markdown(["method", "key", f"mean {score} at each level"], lines) if lines else ""
