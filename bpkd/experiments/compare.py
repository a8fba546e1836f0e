"""The runs of a comparison of distillers: one teacher, then every method with the same seeds and schedule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from bpkd.analysis.report import ALONE, EQUAL_TIME, TEACHER
from bpkd.config import WRAPPERS
from bpkd.engine.configure import load_config
from bpkd.modeling.build_distiller import check_method
from bpkd.paths import as_written

from .jobs import Job

REFERENCE = "BPKD"
# Methods that are trained again for the wall-clock time of a BPKD run.
CHEAP = (ALONE, "KD")
# Keys that describe the student and its distillation; the teacher has TEACHER.OPTS.
STUDENT_ONLY = ("MODEL.", "DISTILL.", "TEACHER.")


def comparison_jobs(
    config_file: str,
    output: Path,
    *,
    methods: Iterable[str],
    seeds: Iterable[int],
    opts: Iterable[str] = (),
    equal_time: bool = False,
) -> list[Job]:
    """Lists the teacher's run and one student run per seed and method.

    Args:
        config_file: Config of a teacher-student pair; the methods differ in DISTILL.METHOD only.
        output: folder of the runs: ``teacher``, ``<method>-seed<seed>``, ``<method>-equal-time-seed<seed>``.
        methods: "none" for the student alone, or names of distillers.
        seeds: Seeds of initial weights, sample order and augmentation; the same for every method.
        opts: KEY VALUE pairs for every run; the teacher's gets none of ``STUDENT_ONLY`` but MODEL.DEVICE.
        equal_time: adds runs of the methods in ``CHEAP`` with as many iterations as take BPKD's time.

    Returns:
        Jobs, the teacher's first; those of students with a teacher wait for it.

    Raises:
        FileNotFoundError: the config or the teacher's does not exist.
        ValueError: the config is no pair, a method is unknown, or ``equal_time`` lacks the methods that it needs.
    """
    shared, methods, seeds = tuple(opts), list(dict.fromkeys(methods)), list(seeds)
    check_methods(methods, equal_time=equal_time)
    cfg = load_config(config_file, [*shared])
    if cfg.MODEL.META_ARCHITECTURE not in WRAPPERS or not cfg.TEACHER.CONFIG_FILE:
        raise ValueError(
            f"--config-file {config_file}: expected a teacher-student pair (MODEL.META_ARCHITECTURE SemanticDistiller "
            f"or InstanceDistiller, and TEACHER.CONFIG_FILE), got {cfg.MODEL.META_ARCHITECTURE} with "
            f"TEACHER.CONFIG_FILE {cfg.TEACHER.CONFIG_FILE!r}. projects/BPKD/configs/ holds some."
        )
    teacher = teacher_job(config_file, cfg, output, opts=shared)
    students = [_student(config_file, teacher, method, seed=seed, opts=shared) for seed in seeds for method in methods]
    if equal_time:
        students += [_longer(job, students) for job in students if job.method in CHEAP]
    return [teacher, *students]


def check_methods(methods: Sequence[str], *, equal_time: bool) -> None:
    """Checks that every method exists, and that ``equal_time`` has BPKD and a method of ``CHEAP``.

    Raises:
        ValueError: a method is unknown or missing.
    """
    for method in methods:
        if method != ALONE:
            check_method(method)
    if equal_time and (REFERENCE not in methods or not set(CHEAP) & set(methods)):
        raise ValueError(
            f"--equal-time: expected {REFERENCE} and none or KD among --methods, got {', '.join(methods)}. The student "
            f"alone and KD are given {REFERENCE}'s time."
        )


def teacher_job(config_file: str, cfg: CfgNode, output: Path, *, opts: Sequence[str]) -> Job:
    """Returns the job that evaluates TEACHER.WEIGHTS where the file exists, else the one that trains the teacher.

    Args:
        config_file: Config file of the pair.
        cfg: The config in it.
        output: Folder of the runs.
        opts: KEY VALUE pairs for every run.

    Raises:
        ValueError: TEACHER.WEIGHTS is a folder.
    """
    if cfg.TEACHER.WEIGHTS and Path(cfg.TEACHER.WEIGHTS).is_dir():
        raise ValueError(
            f"TEACHER.WEIGHTS: expected a file, got the folder {cfg.TEACHER.WEIGHTS}. Give the file in it."
        )
    own = Path(cfg.TEACHER.WEIGHTS).resolve() == (output / TEACHER / "model_final.pth").resolve()
    if Path(cfg.TEACHER.WEIGHTS).is_file() and not own:
        return Job(TEACHER, config_file, output / TEACHER, tuple(opts), evaluates=cfg.TEACHER.WEIGHTS)
    pairs = zip(opts[::2], opts[1::2], strict=True)
    reaching = [x for k, v in pairs if not k.startswith(STUDENT_ONLY) or k == "MODEL.DEVICE" for x in (k, v)]
    return Job(TEACHER, cfg.TEACHER.CONFIG_FILE, output / TEACHER, (*map(str, cfg.TEACHER.OPTS), *reaching))


def _student(config_file: str, teacher: Job, method: str, *, seed: int, opts: Sequence[str]) -> Job:
    name = f"{method}-seed{seed}"
    changes = ["SEED", str(seed), *opts, "DISTILL.METHOD", method]
    if method != ALONE:
        changes += ["TEACHER.WEIGHTS", as_written(teacher.weights)]
    after = () if method == ALONE else (TEACHER,)
    return Job(name, config_file, teacher.output.with_name(name), tuple(changes), after=after)


def start_order(jobs: Sequence[Job]) -> list[Job]:
    """Returns the jobs with the first student alone before the teacher, so that the first result comes early."""
    return sorted(jobs, key=lambda job: job is not next((j for j in jobs if not j.after and j.method == ALONE), None))


def _longer(job: Job, jobs: Sequence[Job]) -> Job:
    """Returns the job again, with as many iterations as take BPKD's time; known when both runs are complete."""
    reference = next(j for j in jobs if j.name == job.name.replace(job.method, REFERENCE, 1))
    name = job.name.replace(job.method, job.method + EQUAL_TIME, 1)

    def iterations() -> tuple[str, ...]:
        assert job.record is not None
        assert reference.record is not None
        return ("SOLVER.MAX_ITER", str(equal_time_iterations(job.record, reference.record)))

    after = (TEACHER, job.name, reference.name)
    return Job(name, job.config_file, job.output.with_name(name), job.fixed_opts, after=after, late_opts=iterations)


def equal_time_iterations(record: dict[str, Any], reference: dict[str, Any]) -> int:
    """Returns the iterations of ``record``'s method that take as long as ``reference``'s run, at least its own."""
    ratio = reference["seconds_per_iteration"] / record["seconds_per_iteration"]
    return max(record["iterations"], round(reference["iterations"] * ratio))
