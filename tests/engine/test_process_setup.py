"""Cores, threads and loader workers of a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bpkd.config import get_bpkd_cfg, loader_workers, machine, usable_cores
from bpkd.engine import process_setup as resources
from bpkd.modeling.build_distiller import distiller_of_config


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000\n", 8), ("200000 100000\n", 2), ("50000 100000\n", 1), ("", 8)]
)
def test_a_quota_counts_as_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cpu.max")
    assert usable_cores() == 8
    machine.CGROUP.write_text(text)
    assert usable_cores() == expected


@pytest.mark.parametrize(
    ("device", "cores", "processes", "expected"),
    [("cpu", 2, 1, 0), ("cpu", 4, 1, 1), ("cpu", 4, 2, 0), ("cpu", 64, 2, 1),
     ("cuda", 2, 1, 1), ("cuda", 16, 1, 4), ("cuda:0", 16, 8, 1), ("cuda", 1, 2, 1)],
)  # fmt: skip
def test_loader_workers_fit_the_machine(
    monkeypatch: pytest.MonkeyPatch, device: str, cores: int, processes: int, expected: int
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    monkeypatch.setattr(machine, "local_processes", lambda: processes)
    assert loader_workers(-1, device=device) == expected
    assert loader_workers(3, device=device) == 3


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "usable_cores", lambda: 6)
    for asked, expected in ((None, "2"), ("5", "5")):
        for name in (resources.THREADS, resources.WAITING):
            monkeypatch.setenv(name, "")  # restored at the end, whatever is set below
            monkeypatch.delenv(name)
        if asked:
            monkeypatch.setenv(resources.THREADS, asked)
        resources.share_cores(3)
        assert os.environ[resources.THREADS] == expected
        assert os.environ[resources.WAITING] == "PASSIVE"


def test_threads_stay_within_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(resources, "usable_cores", lambda: 1)
    try:
        torch.set_num_threads(2)
        monkeypatch.setenv(resources.THREADS, "2")
        resources.limit_threads()
        assert torch.get_num_threads() == 2
        monkeypatch.delenv(resources.THREADS)
        resources.limit_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("opts", "named"),
    [
        (("DISTILL.METHOD", "KD+CIRKD"), "means over images: CIRKD."),
        (("DISTILL.METHOD", "SKDS"), "means over images: SKDS."),
        (("DISTILL.METHOD", "IFVD", "DISTILL.IFVD.ADV_WEIGHT", "0.0"), ""),
        (("DISTILL.METHOD", "IFVD", "DISTILL.IFVD.ADV_WEIGHT", "0.0", "DISTILL.IFVD.VALID_ONLY", "True"), ": IFVD."),
        (("DISTILL.METHOD", "KD", "DISTILL.KD.MASK_IGNORED", "True"), "means over images: KD."),
        (("DISTILL.METHOD", "BPKD"), ""),
        (("MODEL.SEM_SEG_HEAD.LOSS_DENOMINATOR", "valid"), "images: MODEL.SEM_SEG_HEAD.LOSS_DENOMINATOR valid."),
        (("MODEL.META_ARCHITECTURE", "SOLOv2"), "means over images: SOLOv2 (divided by the batch's objects)."),
    ],
)
def test_accumulation_warns_of_losses_of_the_joint_batch(
    caplog: pytest.LogCaptureFixture, opts: tuple[str, ...], named: str
) -> None:
    for count in (1, 4):
        caplog.clear()
        cfg = get_bpkd_cfg()
        cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", "2", "SOLVER.ACCUMULATE", str(count), *opts])
        channels = {f"{role}_channels": {"decode": 8} for role in ("student", "teacher")}
        distiller = distiller_of_config(cfg, num_classes=3, **channels) if cfg.DISTILL.METHOD != "none" else None
        resources.warn_of_joint_losses(cfg, distiller)
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("bpkd")]
        assert len(lines) == (count > 1 and bool(named))
        if lines:
            assert "gradients of 4 batches of 2 images are not those of one batch of 8" in lines[0]
            assert lines[0].endswith(named)
