"""The search: equal budgets, what is chosen, what its table says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bpkd.engine.configure import load_config
from bpkd.experiments import search
from bpkd.experiments.jobs import Job
from bpkd.experiments.search import main_effects, read_search, run_search, search_table

ROOT = Path(__file__).parents[2]
PAIR = ROOT / "projects/BPKD/configs/quickstart/pspnet__bpkd.yaml"
TRIALS = "{KD: [{}, {WEIGHT: 3.0}], CWD: [{}, {WEIGHT: 2.0}]}"
TEXT = f"config: {PAIR}\nopts: [SOLVER.MAX_ITER, 9]\ntrials: {TRIALS}\n"


def finish(job: Job, score: float, *, names: tuple[str, str] = ("mIoU", "trimap_w3")) -> None:
    job.output.mkdir(parents=True, exist_ok=True)
    seed = int(job.name[-1])
    metrics = dict(zip(names, (score, score / 2), strict=True))
    facts: dict[str, Any] = dict.fromkeys(("dataset", "iterations", "commit", "versions", "hardware"), "x")
    facts["config"] = load_config(job.config_file, ["OUTPUT_DIR", str(job.output), *job.opts]).dump()
    (job.output / "run.json").write_text(json.dumps({"metrics": metrics, "seed": seed, **facts}))
    rows = [{"iteration": i, "gradient_ratio_kd_term": r} for i, r in ((10, 1.0), (20, 5.0), (30, 2.0))]
    (job.output / "metrics.json").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_best_candidate_is_the_best_mean_of_those_that_ran_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # KD's candidate 1 has the best single run, but loses it with the second seed.
    scores = {"KD-0-seed0": 50.0, "KD-1-seed0": 52.0, "KD-0-seed1": 51.0, "KD-1-seed1": 40.0}
    started: list[Job] = []

    def run(jobs: list[Job], **_: Any) -> None:
        for job in jobs:
            started.append(job)
            finish(job, scores.get(job.name, 30.0 - int(job.name.split("-")[1])))

    monkeypatch.setattr(search, "run_jobs", run)
    path = tmp_path / "search.yaml"
    path.write_text(TEXT)
    rows = run_search(path, tmp_path / "out", finalists=2, opts=["TEST.EVAL_PERIOD", "7"], progress=print)
    chosen = {(row["method"], row["candidate"]) for row in rows if row["chosen"]}
    assert chosen == {("KD", 0), ("CWD", 0)}
    assert sorted(job.name for job in started) == sorted(
        f"{m}-{i}-seed{s}" for m in ("KD", "CWD") for i in (0, 1) for s in (0, 1)
    )
    job = next(job for job in started if job.name == "KD-1-seed1")
    assert job.opts == ("SEED", "1", "DISTILL.METHOD", "KD", "SOLVER.MAX_ITER", "9", "TEST.EVAL_PERIOD", "7",
                        "DISTILL.KD.WEIGHT", "3.0")  # fmt: skip
    table = search_table(rows)
    assert "| KD | **defaults** | 50.00 / 51.00 | 25.00 / 25.50 | term 2 |" in table
    assert "| KD | WEIGHT 3.0 | 52.00 / 40.00 |" in table


def test_one_finalist_is_chosen_among_those_with_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(jobs: list[Job], **_: Any) -> None:
        for job in jobs:
            finish(job, 40.0 if job.name.endswith("seed0") and "-1-" in job.name else 30.0)

    monkeypatch.setattr(search, "run_jobs", run)
    path = tmp_path / "search.yaml"
    path.write_text(TEXT)
    rows = run_search(path, tmp_path / "out", finalists=1, opts=[], progress=print)
    assert [row["candidate"] for row in rows if row["chosen"]] == [1, 1]
    assert [len(row["seeds"]) for row in rows] == [1, 2, 1, 2]


def test_instances_are_judged_by_mask_ap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of another node goes by its full name."""
    started: list[Job] = []

    def run(jobs: list[Job], **_: Any) -> None:
        started.extend(jobs)
        for job in jobs:
            finish(job, 20.0 + int(job.name.split("-")[1]), names=("AP", "boundary_AP"))

    monkeypatch.setattr(search, "run_jobs", run)
    pair = ROOT / "projects/BPKD/configs/nuclei/tiny__bpkd.yaml"
    path = tmp_path / "search.yaml"
    listed = "[{DISTILL.INSTANCE.MASK_WEIGHT: 1.0, WEIGHT: 1.0}, {DISTILL.INSTANCE.MASK_WEIGHT: 0.1, WEIGHT: 1.0}]"
    path.write_text(f"config: {pair}\nopts: []\ntrials: {{CWD: {listed}}}\n")
    rows = run_search(path, tmp_path / "out", finalists=1, opts=[], progress=print)
    assert [row["candidate"] for row in rows if row["chosen"]] == [1]
    assert started[0].opts[4:] == ("DISTILL.INSTANCE.MASK_WEIGHT", "1.0", "DISTILL.CWD.WEIGHT", "1.0")
    table = search_table(rows)
    assert table.startswith("| method | settings | mask AP | Boundary AP | gradient of the terms / the task's |")
    assert "| 21.00 / 21.00 | 10.50 / 10.50 |" in table
    assert "| CWD | DISTILL.INSTANCE.MASK_WEIGHT | 1.0: 20.00 (1 runs); 0.1: 21.00 (1 runs) |" in main_effects(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("{WEIGHT: 3.0}, ", "").replace(", {WEIGHT: 3.0}", ""), "as many candidates .* got .*'KD': 1"),
        ("config: a\ntrials: {}\n", "expected the keys config, opts, trials, got .*'config', 'trials'"),
        ("- 1\n", "expected keys with values, got a list"),
    ],
)
def test_files_that_are_no_fair_search(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_search(path)


@pytest.mark.parametrize("path", sorted(ROOT.glob("projects/BPKD/search/*.yaml")), ids=lambda p: p.stem)
def test_searches_of_the_project_name_keys_that_exist(path: Path) -> None:
    from bpkd.config import read_config

    config, opts, trials = read_search(path)
    for listed in trials.values():
        for number, trial in enumerate(listed):
            job = trial.job(number, 0, config_file=str(ROOT / config), opts=opts, output=Path("x"))
            cfg = read_config(job.config_file, job.opts)
            assert trial.method == cfg.DISTILL.METHOD


def test_runs_of_another_search_are_not_taken_for_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "run_jobs", lambda jobs, **_: [finish(job, 40.0) for job in jobs])
    path, out = tmp_path / "search.yaml", tmp_path / "out"
    path.write_text(TEXT)
    rows = run_search(path, out, finalists=1, opts=[], progress=print)
    with pytest.raises(ValueError, match="already holds runs .* Add --resume"):
        run_search(path, out, finalists=1, opts=[], progress=print)
    assert run_search(path, out, finalists=1, opts=[], progress=print, resume=True) == rows
    path.write_text(TEXT.replace("WEIGHT: 3.0", "WEIGHT: 99.0"))
    with pytest.raises(
        ValueError, match=r"KD-1-seed0 was made with another config \(DISTILL.KD.WEIGHT: 3.0 there, 99.0"
    ):
        run_search(path, out, finalists=1, opts=[], progress=print, resume=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{WEIGHT: 2.0}", "{WEIGTH: 2.0}", "Non-existent key: DISTILL.CWD.WEIGTH"),
        ("CWD:", "CDW:", "expected one of none, .* got 'CDW'"),
        ("[{}, {WEIGHT: 2.0}]", "[null, {WEIGHT: 2.0}]", "trials: expected method"),
        (str(PAIR), "nothere.yaml", "nothere.yaml"),
    ],
)
def test_a_wrong_candidate_is_found_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    monkeypatch.setattr(search, "run_jobs", lambda jobs, **_: pytest.fail("a run was started"))
    path = tmp_path / "search.yaml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_search(path, tmp_path / "out", finalists=1, opts=[], progress=print)


def test_main_effects_are_the_means_of_levels() -> None:
    def row(method: str, miou: float, **settings: Any) -> dict[str, Any]:
        return {"method": method, "settings": settings, "mIoU": [miou, 99.0]}

    found = [row("BPKD", 10, A="x", B=1), row("BPKD", 20, A="x", B=2), row("BPKD", 40, A="y", B=1),
             row("BPKD", 50, A="y", B=2), row("KD", 1), row("KD", 2, W=3)]  # fmt: skip
    assert main_effects(found).splitlines()[2:] == [
        "| BPKD | A | x: 15.00 (2 runs); y: 45.00 (2 runs) |",
        "| BPKD | B | 1: 25.00 (2 runs); 2: 35.00 (2 runs) |",
    ]
    assert main_effects(found[4:]) == ""
