"""Paired t-test over seeds of the difference between two methods."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, stdev
from typing import Any

from bpkd.analysis.report import ALONE, TEACHER, Record, by_seed, display_name

# 97.5 % quantiles of Student's t with 1 .. 30 degrees of freedom.
# Source: NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.2.
T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
OURS = "BPKD"
HEADER = ("difference", "figure", "seeds", "mean", "95 % interval", "verdict")


@dataclass(frozen=True)
class PairedTest:
    """A paired test of one method against another on one figure."""

    method: str
    against: str
    metric: str
    seeds: int
    mean: float
    low: float
    high: float
    """Ends of the 95 % interval of the mean; nan with one seed."""
    verdict: str
    """"gain", "no gain", "inconclusive" or "one seed: not tested"."""

    def row(self, name: str = "") -> list[str]:
        """Returns the cells of a table's row, in the order of ``HEADER``.

        Args:
            name: name of the figure; by default the metric's.
        """
        interval = "" if math.isnan(self.low) else f"{self.low:+.2f} .. {self.high:+.2f}"
        pair = f"{display_name(self.method)} over {display_name(self.against)}"
        return [pair, name or self.metric, str(self.seeds), f"{self.mean:+.2f}", interval, self.verdict]


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Returns mean and ends of the 95 % confidence interval of paired differences, by Student's t.

    Args:
        differences: one per seed; with one the ends are nan. Beyond 31 the quantile of 30 degrees of freedom is
            taken: an interval that is a little too wide.
    """
    middle = mean(differences)
    if len(differences) < 2:
        return middle, math.nan, math.nan
    quantile = T975[min(len(differences) - 1, len(T975)) - 1]
    half = quantile * stdev(differences) / math.sqrt(len(differences))
    return middle, middle - half, middle + half


def conclude(low: float, high: float, margin: float) -> str:
    """Returns in words what a confidence interval shows.

    Args:
        low: lower end; nan where there was one seed.
        high: upper end.
        margin: the smallest gain that would matter.

    Returns:
        "gain" if the whole interval is above 0, "no gain" if it ends below the margin, else "inconclusive".
    """
    if math.isnan(low):
        return "one seed: not tested"
    if low > 0:
        return "gain"
    return "no gain" if high < margin else "inconclusive"


def paired_tests(records: Sequence[Record], metrics: Iterable[str], *, margin: float = 0.5) -> list[PairedTest]:
    """Tests every method against the student alone, then BPKD against every other one, on the seeds both have.

    Without BPKD every pair of the other methods is tested, the later one against the earlier.

    Args:
        records: complete runs.
        metrics: names in ``record["metrics"]``.
        margin: the smallest gain that would matter, in percentage points.
    """
    tests = []
    for metric in metrics:
        scores = by_seed(records, metric)
        scores.pop(TEACHER, None)
        others = [m for m in scores if m not in (OURS, ALONE)]
        pairs = [(m, ALONE) for m in scores if m != ALONE]
        pairs += [(OURS, m) for m in others] if OURS in scores else [(b, a) for a, b in combinations(others, 2)]
        tests += [t for a, b in pairs if (t := paired_test(scores, a, b, metric=metric, margin=margin))]
    return tests


def paired_test(
    scores: Mapping[str, Mapping[int, float]], method: str, against: str, *, metric: str, margin: float
) -> PairedTest | None:
    """Tests one method against another on the seeds that both have; None where they have none in common.

    Args:
        scores: {method: {seed: figure}}, see `by_seed`.
        method: the one whose gain is tested.
        against: the one that it is compared with.
        metric: name of the figure.
        margin: the smallest gain that would matter, in percentage points.
    """
    one, other = scores.get(method, {}), scores.get(against, {})
    differences = [one[s] - other[s] for s in one if s in other]
    differences = [d for d in differences if not math.isnan(d)]
    if not differences:
        return None
    middle, low, high = interval(differences)
    verdict = conclude(low, high, margin)
    return PairedTest(method, against, metric, len(differences), middle, low, high, verdict)


def explanation(margin: float) -> str:
    """Returns a sentence that describes the test."""
    return (
        "Paired test: mean of the differences seed by seed and its 95 % confidence interval by Student's t, which "
        'supposes that they are normally distributed. "gain": the interval lies above 0; "no gain": it ends below '
        f'{margin:g} points; "inconclusive": neither. Many rows are tested, without correction for that.'
    )


def __getattr__(name: str) -> Any:
    if name == "judge":
        warnings.warn("bpkd.analysis.significance.judge is called conclude now.", FutureWarning, stacklevel=2)
        return conclude
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
