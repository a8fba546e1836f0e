"""The time per image that an evaluation measures, and where it goes."""

from __future__ import annotations

import sys

import pytest

from bpkd.engine.evaluate import InferenceClock, without_classes


def test_time_per_image_is_the_median_of_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0.0, 9.0, 10.0, 10.002, 20.0, 20.004, 30.0, 30.003, 40.0, 40.001])  # the first call is slow
    monkeypatch.setattr(sys.modules[InferenceClock.__module__], "_now", lambda: next(readings))
    clock = InferenceClock()
    for _ in range(5):
        clock.callbacks["before_inference"]()
        clock.callbacks["after_inference"]()
    assert clock.ms_per_image() == pytest.approx(3.0)


def test_rows_of_metrics_have_neither_times_nor_classes() -> None:
    results = {"sem_seg": {"mIoU": 40.0}, "per_class": {"trimap_w3": {"sky": 1.0}}, "speed": {"ms_per_image": 3.0}}
    assert without_classes(results) == {"sem_seg": {"mIoU": 40.0}}
