"""Which runs make a comparison of distillers: one teacher, then every method from the same seeds and schedule."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .matrix import Job

TEACHER = "teacher"


def comparison_jobs(
    teacher_config: str,
    student_config: str,
    output: Path,
    *,
    methods: Iterable[str],
    seeds: Iterable[int],
    opts: Iterable[str] = (),
) -> list[Job]:
    """Lists the teacher's run and one student run per seed and method.

    Args:
        teacher_config: plain config of the teacher.
        student_config: plain config of the student; the methods differ from it in DISTILL and TEACHER only.
        output: folder of the runs: ``teacher``, ``<method>-seed<seed>``.
        methods: "none" for the student alone, or names of distillers.
        seeds: of initial weights, sample order and augmentation; the same for every method.
        opts: KEY VALUE pairs for every run.

    Returns:
        Jobs; the distilled ones wait for the teacher.
    """
    shared = tuple(opts)
    teacher = Job(TEACHER, teacher_config, output / TEACHER, shared)
    jobs = [teacher]
    for seed in seeds:
        for method in methods:
            name = f"{method}-seed{seed}"
            changes = ["SEED", str(seed), *shared]
            if method != "none":
                changes += ["MODEL.META_ARCHITECTURE", "SemanticDistiller", "DISTILL.METHOD", method]
                changes += ["TEACHER.CONFIG_FILE", teacher_config, "TEACHER.WEIGHTS", str(teacher.weights)]
            jobs.append(Job(name, student_config, output / name, tuple(changes), after=(TEACHER,)))
    return jobs
