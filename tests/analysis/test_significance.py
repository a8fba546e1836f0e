"""The paired test against values worked out by hand, and its words."""

from __future__ import annotations

import math

import pytest

from bpkd.analysis.significance import T975, conclude, interval, paired_tests
from bpkd.analysis.statement import report_text
from tests.helpers.run_records import run, runs


def test_interval_against_hand_values() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, t(2) 4.303, half 4.303 / sqrt(3) = 2.4843.
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, -0.4843, 4.4843), abs=1e-4)
    # Two seeds 1, 2: mean 1.5, deviation 0.7071, half 12.706 * 0.7071 / 1.4142 = 6.353.
    assert interval([1.0, 2.0]) == pytest.approx((1.5, -4.853, 7.853), abs=1e-3)
    assert interval([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)
    middle, low, high = interval([0.7])
    assert middle == 0.7
    assert math.isnan(low)
    assert math.isnan(high)


def test_the_quantiles_are_student_s() -> None:
    # P(|T| < t) = 95 %, by integrating the density.
    for freedom in range(1, 31):
        scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
        steps, t = 4000, T975[freedom - 1]
        middles = ((i + 0.5) * t / steps for i in range(steps))
        inside = 2 * sum(scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2) for x in middles) * t / steps
        assert inside == pytest.approx(0.95, abs=5e-5), freedom


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 5.0, "gain"),
        (-0.2, 0.49, "no gain"),
        (-3.0, -1.0, "no gain"),
        (-0.2, 0.6, "inconclusive"),
        (math.nan, math.nan, "one seed: not tested"),
    ],
)
def test_words(low: float, high: float, words: str) -> None:
    assert conclude(low, high, margin=0.5) == words


def test_every_method_is_tested_against_the_student_alone_and_bpkd_against_every_rival() -> None:
    records = runs(none=[40.0, 42.0, 41.0], KD=[40.0, 42.1, 41.1], BPKD=[43.0, 44.9, 44.1], teacher=[60.0])
    tests = {(t.method, t.against): t for t in paired_tests(records, ["mIoU"], margin=0.5)}
    assert set(tests) == {("KD", "none"), ("BPKD", "none"), ("BPKD", "KD")}
    assert tests["KD", "none"].verdict == "no gain"
    assert tests["BPKD", "none"].verdict == "gain"
    # 3.0, 2.8, 3.0: mean 2.9333, deviation 0.11547, half 4.303 * 0.11547 / sqrt(3) = 0.28687
    found = tests["BPKD", "KD"]
    assert (found.mean, found.low, found.high) == pytest.approx((2.9333, 2.6465, 3.2202), abs=1e-3)
    assert found.row() == ["BPKD over KD", "mIoU", "3", "+2.93", "+2.65 .. +3.22", "gain"]


def test_only_seeds_that_both_have_and_measured_count() -> None:
    records = [*runs(none=[40.0, 42.0], CWD=[41.0]), run("CWD", 1, float("nan"))]
    (test,) = paired_tests(records, ["mIoU"])
    assert (test.seeds, test.verdict) == (1, "one seed: not tested")
    assert test.row()[4] == ""
    assert paired_tests(records, ["trimap_w15"]) == []


def test_equal_time_runs_are_rivals_too() -> None:
    records = [*runs(none=[40.0, 41.0], BPKD=[41.0, 42.5]), *(run("none-equal-time", s, 40.5) for s in (0, 1))]
    rows = [t.row()[0] for t in paired_tests(records, ["mIoU"])]
    assert rows == ["BPKD over student alone", "student alone, BPKD's time over student alone",
                    "BPKD over student alone, BPKD's time"]  # fmt: skip


def test_the_report_states_the_test_and_its_margin() -> None:
    text = report_text(runs(none=[40.0, 41.0], BPKD=[41.0, 42.5]), trimap_width=3, margin=0.7)
    assert "95 % confidence interval by Student's t" in text
    assert "ends below 0.7 points" in text
    assert "| BPKD over student alone | mIoU | 2 | +1.25 | -1.93 .. +4.43 | inconclusive |" in text
    assert "one seed: not tested" in report_text(runs(none=[40.0], BPKD=[41.0]), trimap_width=3)
    assert "Paired test" not in report_text(runs(none=[40.0]), trimap_width=3)


def test_without_bpkd_every_pair_is_tested_once() -> None:
    rows = [t.row()[0] for t in paired_tests(runs(none=[40.0], KD=[41.0], DIST=[43.0], teacher=[50.0]), ["mIoU"])]
    assert rows == ["KD over student alone", "DIST over student alone", "DIST over KD"]
