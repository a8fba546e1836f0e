"""SemanticEvaluator: exact counts, whoever counted them, and a result file that says how it was made."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from bpkd.config import get_bpkd_cfg
from bpkd.engine.evaluate import progress
from bpkd.evaluation import build_evaluator
from bpkd.metrics import SegmentationMetrics
from tests.helpers.evaluation import NAMES, WIDTHS, make_evaluator, pairs


def test_figures_are_the_metrics_of_the_argmax() -> None:
    metrics, evaluator = SegmentationMetrics(4, widths=WIDTHS), make_evaluator()
    evaluator.reset()
    for item, output in pairs():
        metrics.update(output["sem_seg"].argmax(0), item["sem_seg"])
        evaluator.process([item], [output])
    want, results = metrics.compute(), evaluator.evaluate()
    assert results is not None
    got = results["sem_seg"]
    assert 0 < got["mIoU"] < 100
    for key in ("mIoU", "mAcc", "aAcc", "boundary_IoU"):
        assert got[key] == want[key]
    for w in WIDTHS:
        assert got[f"trimap_w{w}"] == want["trimap"][w]["mIoU"]
        assert got[f"body_w{w}"] == want["body"][w]["mIoU"]
    assert [got[f"IoU-{n}"] for n in NAMES[:3]] == want["IoU"][:3]
    assert math.isnan(got["IoU-unseen"])


def test_reset_forgets() -> None:
    evaluator = make_evaluator()
    evaluator.process(*([x] for x in pairs(1)[0]))
    evaluator.reset()
    rows = pairs(2)[1:]
    evaluator.process([r[0] for r in rows], [r[1] for r in rows])
    once = evaluator.evaluate()
    other = make_evaluator()
    other.process([r[0] for r in rows], [r[1] for r in rows])
    assert str(once) == str(other.evaluate())


def test_result_file_is_valid_json_with_the_protocol(tmp_path: Path) -> None:
    MetadataCatalog.pop("tiny_evaluation", None)
    MetadataCatalog.get("tiny_evaluation").set(
        stuff_classes=list(NAMES), ignore_label=255, evaluator_type="bpkd_sem_seg"
    )
    cfg = get_bpkd_cfg()
    cfg.merge_from_list(["TEST.MODE", "slide", "TEST.SLIDE_CROP", [8, 8], "TEST.TRIMAP_WIDTHS", [2]])
    cfg.merge_from_list(["TEST.SLIDE_STRIDE", [4, 4], "TEST.ABSENT_CLASS", "skip"])
    evaluator = build_evaluator(cfg, "tiny_evaluation", str(tmp_path))
    evaluator.reset()
    evaluator.process(*([x] for x in pairs(1)[0]))
    evaluator.evaluate()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    result = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert result["classes"] == list(NAMES)
    assert result["IoU"][3] is None
    assert list(result["trimap"]) == ["2"]
    rules = result["protocol"]
    assert (rules["dataset"], rules["mode"], rules["crop"], rules["stride"]) == (
        "tiny_evaluation",
        "slide",
        [8, 8],
        [4, 4],
    )
    assert (rules["absent_class"], rules["widths"], rules["num_images"]) == ("skip", [2], 1)


def test_other_kinds_of_data_set_are_refused() -> None:
    MetadataCatalog.pop("tiny_lvis", None)
    MetadataCatalog.get("tiny_lvis").set(evaluator_type="lvis")
    with pytest.raises(ValueError, match=r"tiny_lvis: expected.*bpkd_sem_seg.*'lvis'"):
        build_evaluator(get_bpkd_cfg(), "tiny_lvis")


def test_errors_name_the_file() -> None:
    evaluator = make_evaluator()
    item, output = pairs(1)[0]
    with pytest.raises(ValueError, match=r"0\.png: expected a label map under 'sem_seg'"):
        evaluator.process([{"file_name": "0.png"}], [output])
    with pytest.raises(ValueError, match=r"0\.png: expected prediction and label of one shape"):
        evaluator.process([{**item, "sem_seg": item["sem_seg"][:-1]}], [output])
    with pytest.raises(ValueError, match=r"0\.png: label: expected ids 0\.\.3"):
        evaluator.process([{**item, "sem_seg": item["sem_seg"] * 0 + 4}], [output])


def test_a_bar_where_a_terminal_watches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    loader = [1, 2, 3]
    with progress(loader, "tiny_val") as images:
        assert images is loader
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress(loader, "tiny_val") as images:
        assert len(images) == 3  # Detectron2's loop asks
        assert list(images) == loader
    shown = capsys.readouterr().err
    assert "tiny_val" in shown
    assert "3/3" in shown
