"""The sentences that a report begins with, and its glossary."""

from __future__ import annotations

import pytest

from bpkd.analysis import report, significance
from bpkd.analysis.glossary import METHODS, UNKNOWN, glossary
from bpkd.analysis.headline import compared, headline
from bpkd.analysis.task import INSTANCES
from bpkd.distillers import DISTILLERS, Distiller
from bpkd.experiments.html import outside_methods
from tests.helpers.comparison_pages import SEED, Records, instances, run, runs


def test_one_seed_has_no_verdict() -> None:
    assert headline(runs(**SEED)) == (
        "CWD and BPKD compared: BPKD kept 89.0 % of the teacher's mIoU at 1/16 of its size; +5.10 mIoU over the "
        "student alone; one seed: no verdict."
    )


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([43.0, 44.0, 43.5], "+3.50 mIoU over the student alone; 3 seeds: a gain (95 % interval +2.26 .. +4.74)."),
        ([40.0, 40.1, 40.05], "+0.05 mIoU over the student alone; 3 seeds: no gain (95 % interval -0.07 .. +0.17)."),
        ([39.0, 46.0, 41.0], "3 seeds: inconclusive (95 % interval -6.96 .. +10.96)."),
    ],
)  # fmt: skip
def test_several_seeds_are_tested(scores: list[float], verdict: str) -> None:
    assert headline(runs(none=[40.0] * 3, BPKD=scores)).endswith(verdict)


def test_a_method_with_a_higher_mean_is_named_with_its_verdict() -> None:
    text = headline(runs(none=[40.0], CWD=[45.5], KD=[41.0], BPKD=[43.0], teacher=[50.0]))
    assert text.startswith("KD, BPKD and CWD compared: BPKD kept")
    assert text.endswith("one seed: no verdict; higher mean: CWD by 2.50 (one seed: no verdict).")
    tested = headline(runs(none=[40.0] * 3, CWD=[45.5, 45.0, 46.0], BPKD=[43.0, 43.1, 43.2]))
    assert tested.endswith("; higher mean: CWD by 2.40 (3 seeds: a gain).")
    worse = headline(runs(none=[40.0], BPKD=[39.0]))
    assert worse == "BPKD reached 39.00 mIoU; -1.00 mIoU over the student alone; one seed: no verdict."


def test_without_bpkd_the_highest_mean_is_said_to_be_chosen() -> None:
    text = headline(runs(none=[40.0], CWD=[45.0], KD=[41.0], teacher=[50.0]))
    assert text.startswith("KD and CWD compared: CWD, whose mean is the highest, kept 90.0 % of the teacher's mIoU")
    assert text.endswith("one seed: no verdict; +4.00 over KD (one seed: no verdict).")
    close = headline(runs(none=[40.0] * 3, DIST=[42.0, 44.0, 43.0], CWD=[39.0, 39.1, 39.2], KD=[43.0, 42.0, 43.5]))
    assert close.startswith("CWD, KD and DIST compared: DIST, whose mean is the highest, reached 43.00 mIoU")
    assert close.endswith("; +0.17 over KD (3 seeds: inconclusive).")
    assert headline(runs(none=[40.0], KD=[41.0])).startswith("KD reached 41.00 mIoU; +1.00 mIoU")


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ({"none": [40.0]}, "The student alone reached 40.00 mIoU; one seed."),
        ({"none": [40.0, 42.0], "teacher": [50.0]},
         "The student alone kept 82.0 % of the teacher's mIoU at 1/16 of its size; mean of 2 seeds."),
        ({"teacher": [50.0]}, "The teacher reached 50.00 mIoU; one seed."),
        ({"BPKD": [40.0]}, "BPKD reached 40.00 mIoU; there is no student alone to compare it with."),
        ({"BPKD": [55.0], "teacher": [50.0]},
         "BPKD reached 110.0 % of the teacher's mIoU at 1/16 of its size; there is no student alone to compare it "
         "with."),
    ],
)  # fmt: skip
def test_what_there_is_to_say_of_few_runs(scores: dict[str, list[float]], text: str) -> None:
    assert headline(runs(**scores)) == text


def test_unknown_figures_are_left_out() -> None:
    teacher, student = run("teacher", 0, 50.0), run("BPKD", 0, 40.0)
    student["params_m"] = 2.0
    assert "at 50 % of its size" in headline([teacher, student])
    del student["params_m"]
    assert "size" not in headline([teacher, student])
    student["metrics"]["mIoU"] = None
    assert headline([teacher, student]) == "The teacher reached 50.00 mIoU; one seed."
    assert headline([student]) == ""


def test_instances_are_compared_by_mask_ap() -> None:
    found = instances()
    text = headline(found)
    assert text.startswith(
        "CWD and BPKD compared: BPKD kept 72.1 % of the teacher's mask AP at 1/16 of its size; +2.45 mask AP over"
    )
    assert "2 seeds: inconclusive" in text
    assert compared(found).startswith(
        "Instance segmentation on toy_val: the student alone, CWD and BPKD, each with seeds 0 and 1"
    )


def test_what_was_compared() -> None:
    found = runs(none=[40.0, 41.0], BPKD=[42.0, 43.0], teacher=[50.0])
    found.append(run("none-equal-time", 0, 41.0, iterations=700))
    assert compared(found) == (
        "Semantic segmentation on toy_val: the student alone and BPKD, each with seeds 0 and 1, 500 iterations; "
        "student alone also for BPKD's time with seed 0, 700 iterations; the teacher with seed 0, 500 iterations."
    )
    assert "with 1 to 2 seeds, not the same ones" in compared(runs(none=[40.0, 41.0], BPKD=[42.0]))
    bare = {**run("teacher", 0, 50.0), "seed": None, "iterations": None}  # weights from elsewhere
    assert compared([bare]) == "Semantic segmentation on toy_val: the teacher."


def terms(records: Records) -> list[str]:
    return [term for term, _ in glossary(records, trimap_width=3)]


def test_the_glossary_explains_what_the_table_shows() -> None:
    found = terms(runs(**SEED, **{"KD+CIRKD": [3.0], "my_method": [1.0], "none-equal-time": [2.0]}))
    assert found[:5] == ["seeds", "mIoU", "mAcc", "Trimap mIoU (w=3)", "Boundary IoU"]
    assert found[-8:] == ["student alone", "teacher", "BPKD's time", "KD", "CIRKD", "CWD", "BPKD", "my_method"]
    assert "ms / image" in found
    assert "mask AP" not in found
    assert terms(runs(none=[1.0]))[-1] == "student alone"
    assert {"mask AP", "Boundary AP", "box AP"} < set(terms(instances()))
    titles = {title for title, _, _ in INSTANCES.columns} - {"AP50", "AP75", "APs", "APm", "APl"}  # with mask AP
    assert titles - {"ms / image", "peak memory MB"} < set(terms(instances()))


def test_every_distiller_is_in_the_glossary() -> None:
    assert set(DISTILLERS) == set(METHODS)


def test_a_method_from_outside_is_explained_by_its_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    class Documented(Distiller):
        """weight * distance of the logits.

        More of it.
        """

    class Bare(Distiller):
        pass

    monkeypatch.setattr(DISTILLERS, "_classes", {**DISTILLERS._classes, "DOC": Documented, "BARE": Bare})
    records = runs(**{"none": [1.0], "KD+DOC": [2.0], "BARE-equal-time": [2.0], "GONE": [3.0]})
    found = dict(glossary(records, trimap_width=3, outside=outside_methods()))
    assert list(found)[-4:] == ["KD", "DOC", "BARE", "GONE"]
    assert found["DOC"] == "weight * distance of the logits."
    assert found["BARE"] == f"Method registered by {__name__}."
    assert found["GONE"] == UNKNOWN
    assert found["KD"] == METHODS["KD"]


def test_old_names_warn() -> None:
    with pytest.warns(FutureWarning, match="findings"):
        assert report.verdicts is report.findings
    with pytest.warns(FutureWarning, match="conclude"):
        assert significance.judge is significance.conclude
    with pytest.raises(AttributeError):
        report.nothing_like_it  # noqa: B018
