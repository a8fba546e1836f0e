"""tools/compare.py: which runs it makes, when it refuses, and its report, with runs of four iterations."""

from __future__ import annotations

import csv
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpkd.cli.compare import parser
from bpkd.config import get_bpkd_cfg
from bpkd.experiments.compare import comparison_jobs, equal_time_iterations
from bpkd.experiments.jobs import Job
from bpkd.experiments.reuse import ConfigDifferenceError, RunsExistError, check_runs, differences
from tests.helpers import comparison_pages
from tests.helpers.comparisons import ROOT
from tests.helpers.engine_runs import TINY, losses

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bpkd.data.procedural import CLASSES

    root = tmp_path_factory.mktemp("pair")
    (root / "net.yaml").write_text(TINY % len(CLASSES))
    (root / "pair.yaml").write_text(
        "_BASE_: net.yaml\nMODEL: {META_ARCHITECTURE: SemanticDistiller}\nDISTILL: {METHOD: BPKD}\n"
        f"TEACHER: {{CONFIG_FILE: {root}/net.yaml, OPTS: [SEED, 7]}}\n"
    )
    return root / "pair.yaml"


def jobs_of(pair: Path, output: Path, **options: Any) -> list[Job]:
    return comparison_jobs(str(pair), output, **{"methods": ["none", "BPKD"], "seeds": [0], **options})


# Which runs


def test_methods_share_seed_and_schedule(pair: Path, tmp_path: Path) -> None:
    teacher, alone, distilled = jobs_of(pair, tmp_path, seeds=[3], opts=["SOLVER.MAX_ITER", "9"])
    shared = ("SEED", "3", "SOLVER.MAX_ITER", "9")
    assert alone.opts == (*shared, "DISTILL.METHOD", "none")
    assert distilled.opts == (*shared, "DISTILL.METHOD", "BPKD", "TEACHER.WEIGHTS", str(teacher.weights))
    assert alone.config_file == distilled.config_file == str(pair)
    assert distilled.after == ("teacher",)
    assert alone.after == ()
    assert distilled.output == tmp_path / "BPKD-seed3"


def test_the_teacher_is_trained_from_its_own_config(pair: Path, tmp_path: Path) -> None:
    opts = [
        "SOLVER.MAX_ITER",
        "9",
        "MODEL.SEM_SEG_HEAD.CHANNELS",
        "8",
        "MODEL.DEVICE",
        "cpu",
        "DISTILL.CWD.WEIGHT",
        "1",
    ]
    teacher = jobs_of(pair, tmp_path, opts=opts)[0]
    assert teacher.config_file == str(pair.with_name("net.yaml"))
    assert teacher.opts == ("SEED", "7", "SOLVER.MAX_ITER", "9", "MODEL.DEVICE", "cpu")
    assert not teacher.evaluates


def test_the_teacher_is_loaded_where_weights_are_there(pair: Path, tmp_path: Path) -> None:
    weights = tmp_path / "teacher.pth"
    opts = ["TEACHER.WEIGHTS", str(weights)]
    assert not jobs_of(pair, tmp_path / "out", opts=opts)[0].evaluates  # named, but not there: trained
    weights.write_bytes(b"")
    teacher, _, distilled = jobs_of(pair, tmp_path / "out", opts=opts)
    assert teacher.evaluates == str(weights)
    assert distilled.opts[-2:] == ("TEACHER.WEIGHTS", str(weights))
    # The weights of the comparison's own teacher are not somebody else's.
    own = tmp_path / "out" / "teacher" / "model_final.pth"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"")
    assert not jobs_of(pair, tmp_path / "out", opts=["TEACHER.WEIGHTS", str(own)])[0].evaluates


def record(iterations: int, seconds: float) -> dict[str, Any]:
    return {"iterations": iterations, "seconds_per_iteration": seconds}


def test_equal_time_iterations() -> None:
    assert equal_time_iterations(record(300, 0.2), record(300, 0.5)) == 750
    assert equal_time_iterations(record(300, 0.36), record(300, 0.5)) == 417
    assert equal_time_iterations(record(4, 0.5), record(4, 0.01)) == 4  # timings that noise has turned round


def test_equal_time_runs_follow_from_the_same_seed(pair: Path, tmp_path: Path) -> None:
    jobs = jobs_of(pair, tmp_path, methods=["none", "KD", "CWD", "BPKD"], seeds=[0, 1], equal_time=True)
    extra = {job.name: job for job in jobs[9:]}
    assert list(extra) == [f"{m}-equal-time-seed{s}" for s in (0, 1) for m in ("none", "KD")]
    job = extra["KD-equal-time-seed1"]
    assert job.method == "KD-equal-time"
    assert job.after == ("teacher", "KD-seed1", "BPKD-seed1")
    for name, seconds in (("KD-seed1", 0.2), ("BPKD-seed1", 0.5), ("BPKD-seed0", 9.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(record(4, seconds)))
    assert job.opts[-2:] == ("SOLVER.MAX_ITER", "10")
    base = next(j for j in jobs if j.name == "KD-seed1")
    assert job.opts[:-2] == base.opts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["none", "Magic"]}, "DISTILL.METHOD: expected one of none, .*got 'Magic'"),
        ({"methods": ["none", "CWD"], "equal_time": True}, "--equal-time: expected BPKD and none or KD .*none, CWD"),
        ({"methods": ["CWD", "BPKD"], "equal_time": True}, "--equal-time: expected BPKD and none or KD"),
        ({"opts": ["TEACHER.CONFIG_FILE", ""]}, "expected a teacher-student pair"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(pair: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jobs_of(pair, tmp_path, **options)


# What is there already


def nested(**changes: Any) -> dict[str, Any]:
    cfg = get_bpkd_cfg()
    cfg.merge_from_list([x for key, value in changes.items() for x in (key.replace("__", "."), value)])
    config: dict[str, Any] = yaml.safe_load(cfg.dump())
    return config


def test_settings_that_a_run_does_not_read_do_not_matter() -> None:
    old = nested()
    other = nested(DISTILL__CWD__WEIGHT=9.0, TEACHER__AMP="bf16", OUTPUT_DIR="x", DATASETS__ROOT="y")
    assert differences(old, other, method="none") == {}
    assert differences(old, other, method="BPKD") == {"TEACHER.AMP": ("off", "bf16")}
    assert differences(old, other, method="KD+CWD") == {
        "DISTILL.CWD.WEIGHT": (5.0, 9.0),
        "TEACHER.AMP": ("off", "bf16"),
    }
    assert differences(old, nested(SOLVER__MAX_ITER=7), method="none") == {"SOLVER.MAX_ITER": (40000, 7)}
    one, two = (nested(TEACHER__OTHERS=[{"AMP": amp, "CONFIG_FILE": "b.yaml"}]) for amp in ("bf16", "off"))
    assert differences(one, two, method="BPKD") == {"TEACHER.OTHERS[0].AMP": ("bf16", "off")}
    assert differences(one, two, method="BPKD", ignored=("TEACHER.OTHERS[0].AMP",)) == {}
    del old["MODEL"]["COMPILE"]  # a run that is older than the key
    assert differences(old, nested(), method="none") == {}
    assert differences(old, nested(MODEL__COMPILE=True), method="none") == {"MODEL.COMPILE": (False, True)}


def test_a_folder_that_has_no_name_is_not_compared() -> None:
    """The default of IMAGE_SUFFIXES was another one; runs on published sets are still the same."""
    key, old = "DATASETS.FOLDER.IMAGE_SUFFIXES", [".jpg", ".jpeg", ".png"]
    assert differences(nested(DATASETS__FOLDER__IMAGE_SUFFIXES=old), nested(), method="none") == {}
    named = {"DATASETS__FOLDER__NAME": "mine"}
    changed = differences(nested(DATASETS__FOLDER__IMAGE_SUFFIXES=old, **named), nested(**named), method="none")
    assert changed == {key: (old, [])}


def written(job: Job, *, complete: bool, **changes: Any) -> None:
    job.output.mkdir(parents=True, exist_ok=True)
    from bpkd.engine import load_config

    more = [x for key, value in changes.items() for x in (key.replace("__", "."), str(value))]
    text = load_config(job.config_file, ["OUTPUT_DIR", str(job.output), *job.opts, *more]).dump()
    (job.output / "config.yaml").write_text(text)
    if complete:
        (job.output / "run.json").write_text(json.dumps({**record(4, 0.5), "config": text}))


def test_runs_are_kept_only_on_request(pair: Path, tmp_path: Path) -> None:
    jobs = jobs_of(pair, tmp_path)
    check_runs(jobs, resume=False)  # nothing there
    check_runs(jobs, resume=True)
    written(jobs[1], complete=False)
    with pytest.raises(RunsExistError, match=r"already holds runs \(none-seed0\). Add --resume"):
        check_runs(jobs, resume=False)
    check_runs(jobs, resume=True)


@pytest.mark.parametrize("complete", [True, False])
def test_a_run_with_another_config_is_named(pair: Path, tmp_path: Path, complete: bool) -> None:
    jobs = jobs_of(pair, tmp_path)
    written(jobs[2], complete=complete, SOLVER__BASE_LR=0.5, DISTILL__BPKD__EDGE_WEIGHT=3.0)
    keys = r"EDGE_WEIGHT: 3.0 there, None asked for; SOLVER.BASE_LR: 0.5 there, 0.02 asked for"
    with pytest.raises(ConfigDifferenceError, match=rf"BPKD-seed0 was made with another config .*{keys}"):
        check_runs(jobs, resume=True)


def test_a_run_keeps_the_precision_that_auto_gave_it(pair: Path, tmp_path: Path) -> None:
    jobs = jobs_of(pair, tmp_path, opts=["TEACHER.AMP", "auto"])
    for complete in (True, False):
        for precision in ("bf16", "off"):  # as machines with and without such instructions would choose
            written(jobs[2], complete=complete, TEACHER__AMP=precision)
            check_runs(jobs, resume=True)
        (jobs[2].output / "run.json").unlink(missing_ok=True)


def test_an_equal_time_run_without_its_source_is_refused(pair: Path, tmp_path: Path) -> None:
    jobs = jobs_of(pair, tmp_path, equal_time=True)
    for job in jobs[:3]:
        written(job, complete=True)
    written(jobs[3], complete=True)
    check_runs(jobs, resume=True)
    (jobs[2].output / "run.json").unlink()
    with pytest.raises(ConfigDifferenceError, match="its iterations follow from BPKD-seed0, expected complete"):
        check_runs(jobs, resume=True)


# The command


def test_the_whole_comparison(
    pair: Path, tmp_path: Path, started: list[str], compare: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ["--config-file", pair, "--methods", "none", "BPKD", "--seeds", 2, "--output", out, "--images", 0, 2]
    assert compare(*asked, "--equal-time") == 0
    text = capsys.readouterr().out
    runs = [f"{m}-seed{s}" for s in (0, 1) for m in ("none", "BPKD")]
    extra = [f"none-equal-time-seed{s}" for s in (0, 1)]
    assert started == [runs[0], "teacher", *runs[1:], *extra]  # the student alone needs no teacher
    assert f"teacher: trained here ({pair.with_name('net.yaml')})" in text

    report = out / "report"
    rows = json.loads((report / "results.json").read_text())
    assert [r["run"] for r in rows] == ["teacher", *runs, *extra]
    for row in rows:
        made = json.loads((out / row["run"] / "run.json").read_text())
        assert row["metrics"] == made["metrics"]
        assert {"config", "seed", "commit", "versions", "hardware", "peak_memory_mb", "peak_memory_of"} <= row.keys()
        assert 50 < row["peak_memory_mb"] < 1e5
        assert row["peak_memory_of"] == "resident set of the largest process"
        assert 0 < row["ms_per_image"] < 1e5
    by_run = {r["run"]: r for r in rows}
    assert [by_run[name]["iterations"] for name in (*runs, *extra)] == [4, 4, 4, 4, 6, 6]
    assert len(losses(out / extra[0])) == 6

    table = list(csv.reader((report / "table.csv").open()))
    assert table[0][-5:-1] == ["FLOPs G", "ms / image", "s / iteration", "peak memory MB"]
    assert table[0][-1] == "share of teacher's mIoU"
    assert {r[0]: r[1] for r in table[1:]} == {
        "student alone": "2", "student alone, BPKD's time": "2", "BPKD": "2", "teacher": "1"
    }  # fmt: skip
    assert all(float(r[-2]) > 50 for r in table[1:])
    classes = list(csv.reader((report / "classes_trimap.csv").open()))
    assert classes[0] == ["class", *(r[0] for r in table[1:])]
    assert classes[-1][0] == "mean"
    whole = (report / "table.md").read_text()
    last = by_run[extra[1]]
    assert whole.splitlines()[-1].startswith(f"| {extra[1]} | 1 | {last['iterations']} | {last['commit']} | ")
    assert "BPKD over student alone, BPKD's time" in (report / "tests.csv").read_text()
    for name in ("curves", "trimap", "classes_iou", "classes_trimap", "edge_body", "panels"):
        assert (report / f"{name}.png").stat().st_size > 5000, name
    page = (report / "report.html").read_text()
    assert f"report.html: {len(page.encode()) / 1e6:.1f} MB" in text
    assert page.count("<table>") == 5  # means, tests, classes near edges and everywhere, runs
    assert page.count("<figure>") == 6
    assert all(name in page for name in ("image", "ground truth", "errors of BPKD", *started))

    assert re.search(r'class="lead">BPKD (kept|reached) ', page)
    links = re.findall(r'href="(\.\./[^"]+)"', page)
    assert links[:3] == ["../teacher/", "../teacher/config.yaml", "../teacher/run.json"]
    assert len(links) == 3 * len(rows)
    assert all((report / link).exists() for link in links)

    # The same again: refused without --resume; with it nothing is trained, and one more method is.
    assert compare(*asked, "--equal-time") == 2
    assert "Add --resume to keep what is complete" in capsys.readouterr().err
    del started[:]
    asked[asked.index("BPKD") : asked.index("BPKD") + 1] = ["BPKD", "CWD"]
    assert compare(*asked, "--resume") == 0
    assert started == ["CWD-seed0", "CWD-seed1"]
    assert compare(*asked, "--resume", "--opts", "SOLVER.BASE_LR", "0.5") == 2
    assert "SOLVER.BASE_LR: 0.02 there, 0.5 asked for" in capsys.readouterr().err


def test_a_teacher_that_is_there_is_evaluated_once(
    pair: Path, tmp_path: Path, started: list[str], compare: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--config-file", pair, "--methods", "none", "--seeds", 1, "--images", 0]
    assert compare(*asked, "--output", tmp_path / "a") == 0
    weights = tmp_path / "a" / "teacher" / "model_final.pth"
    capsys.readouterr()
    other = [*asked, "--output", tmp_path / "b", "--opts", "TEACHER.WEIGHTS", weights]
    assert compare(*other) == 0
    text = capsys.readouterr().out
    assert f"teacher: {weights}" in text
    trained, loaded = (json.loads((tmp_path / x / "report" / "results.json").read_text())[0] for x in "ab")
    assert loaded["metrics"] == pytest.approx(trained["metrics"], nan_ok=True)
    assert loaded["weights"] == str(weights)
    page = (tmp_path / "b" / "report" / "report.html").read_text()
    assert 'href="../teacher/inference_teacher/run.json"' in page
    assert len(loaded["weights_sha256"]) == 64
    assert (loaded["method"], loaded["iterations"]) == ("teacher", 4)
    assert not (tmp_path / "b" / "teacher" / "model_final.pth").exists()
    del started[:]
    assert compare(*other, "--resume") == 0
    assert started == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--widths", 4], r"--widths: expected one of TEST.TRIMAP_WIDTHS \[1, 3\], got 4"),
        (["--images", 0, 99], r"--positions: expected positions 0 .. \d+ of \w+, got 99"),
        (["--opts", "SOLVER.BASELR", "1"], "Non-existent"),
    ],
)
def test_what_would_fail_late_is_refused_at_once(
    pair: Path, tmp_path: Path, compare: Callable[..., int], capsys: pytest.CaptureFixture[str],
    flags: list[Any], message: str,
) -> None:  # fmt: skip
    assert compare("--config-file", pair, "--methods", "none", "--output", tmp_path / "out", *flags) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("full", [True, False])
def test_the_quick_start_is_a_comparison_that_trains_its_own_teacher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, full: bool
) -> None:
    monkeypatch.chdir(tmp_path)  # it may be called from anywhere
    asked: list[Any] = []
    monkeypatch.setattr("bpkd.cli.run", lambda name, argv: asked.append(parser(name).parse_args(argv)) or 0)
    monkeypatch.setattr("sys.argv", ["quickstart.py", *(["--full"] if full else [])])
    assert runpy.run_path(str(ROOT / "tools" / "quickstart.py"))["main"]() == 0
    (args,) = asked
    assert args.resume
    jobs = comparison_jobs(args.config_file, tmp_path, methods=args.methods, seeds=range(args.seeds), opts=args.opts)
    methods, seeds = (("none", "KD", "CWD", "BPKD"), 3) if full else (("none", "CWD", "BPKD"), 1)
    assert [j.name for j in jobs] == ["teacher", *(f"{m}-seed{s}" for s in range(seeds) for m in methods)]
    assert not jobs[0].evaluates
    assert Path(jobs[0].config_file).resolve() == ROOT / "configs" / "quickstart" / "teacher.yaml"


@pytest.mark.parametrize(
    ("case", "title"), [("one seed", "One seed"), ("three seeds", "Mean ± standard deviation over seeds")]
)
def test_the_tables_heading_speaks_of_a_mean_where_there_are_several_seeds(
    case: str, title: str, tmp_path: Path
) -> None:
    page = comparison_pages.write(case, tmp_path / "report").read_text()
    assert re.findall("<h3>(One seed|Mean ±.*)</h3>", page) == [title]
    assert ("by seed: " in page) == (case != "one seed")
