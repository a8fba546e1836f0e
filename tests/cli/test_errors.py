"""Which errors end in one line, what that line says, and names that are near."""

from __future__ import annotations

import pytest
import torch

from bpkd.config import read_config
from bpkd.config.check import check_values
from bpkd.errors import RunFailedError, UserError, did_you_mean, exit_status, for_parent, from_child, nearest, one_line
from bpkd.metrics import SegmentationMetrics
from tests.conftest import REPO

STUDENT = str(REPO / "configs" / "camvid" / "small_student.yaml")


def caught(function: object, *arguments: object, **options: object) -> Exception:
    try:
        function(*arguments, **options)  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("expected an error")


def test_a_check_of_the_package_is_a_mistake_and_a_librarys_error_is_not() -> None:
    assert exit_status(caught(SegmentationMetrics, 3, absent="never")) == 2
    assert exit_status(caught(int, "x")) is None
    assert exit_status(caught(torch.zeros(2).view, 3)) is None
    assert exit_status(caught({}.__getitem__, "key")) is None
    assert exit_status(AttributeError("x")) is None


def test_missing_packages_are_mistakes_but_missing_modules_of_ours_are_not() -> None:
    assert exit_status(ModuleNotFoundError("No module named 'onnx'", name="onnx")) == 2
    assert exit_status(ImportError("cannot import", name="bpkd.engine")) is None


def test_a_check_in_a_worker_of_the_loader_is_a_mistake() -> None:
    ours = caught(SegmentationMetrics, 3, absent="never")
    trace = ours.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    frame = f'  File "{trace.tb_frame.f_code.co_filename}", line {trace.tb_lineno}, in __init__\n    raise ValueError('
    text = f"Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n{frame}\n"
    assert exit_status(ValueError(text + "ValueError: 3.png: damaged\n")) == 2
    assert one_line(ValueError(text + "ValueError: 3.png: damaged\n")) == "3.png: damaged"
    other = text.replace(trace.tb_frame.f_code.co_filename, torch.__file__)
    assert exit_status(ValueError(other + "ValueError: 3.png: damaged\n")) is None


def test_the_items_of_a_list_stay_apart_in_one_line() -> None:
    error = ValueError("2 of 5 images are unusable:\n  a.png: missing\n  b.png: damaged.\nRepair them.")
    assert one_line(error) == "2 of 5 images are unusable: a.png: missing; b.png: damaged. Repair them."


def test_a_childs_line_reaches_the_parent() -> None:
    line = for_parent(caught(SegmentationMetrics, 3, absent="never"))
    assert isinstance(line, UserError)
    text = f"\n-- Process 1 terminated with the following error:\nTraceback ...\nbpkd.errors.UserError: {line}\n\n"
    assert str(from_child(text)) == str(line)
    failed = for_parent(FloatingPointError("loss is\nnan"))
    assert isinstance(failed, RunFailedError)
    assert str(from_child(f"Traceback ...\nbpkd.errors.RunFailedError: {failed}\n")) == "loss is nan"
    fault = AttributeError("x")
    assert for_parent(fault) is fault
    assert from_child("Traceback ...\nAttributeError: x\n") is None


def test_near_names_come_first_and_far_ones_not_at_all() -> None:
    assert nearest("SOLVER.MAX_ITR", ["SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.MIN_LR"]) == ["SOLVER.MAX_ITER"]
    assert nearest("cdw", ["CWD", "BPKD", "KD"]) == ["CWD"]
    assert nearest("zebra", ["CWD", "BPKD"]) == []
    assert nearest("x", []) == []
    assert did_you_mean("compair", ["compare", "search"]) == " Did you mean compare?"
    assert did_you_mean("zebra", ["compare", "search"]) == ""


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("DISTILL.METHOD: expected one of none, BPKD, CWD, or several joined by +, got 'CDW'.", "CWD"),
        ("preset: expected one of ['literal', 'safe'], got 'saef'.", "safe"),
        ("DATASETS: expected one of camvid_train, camvid_val, got 'camvid_trian'. Your own data ...", "camvid_train"),
        ("MODE: expected one of ('opaque', 'transparent'), got 'opaqe'.", "opaque"),
    ],
)
def test_a_refused_name_is_answered_with_the_nearest(message: str, hint: str) -> None:
    assert one_line(ValueError(message)) == f"{message} Did you mean {hint}?"


def test_a_message_that_has_its_own_hint_gets_no_other() -> None:
    text = "expected one of a1, b2, got 'a2'. Did you mean a1?"
    assert one_line(ValueError(text)) == text


# Config files


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.MAX_ITR", "4"], r"Non-existent key: SOLVER.MAX_ITR. Did you mean SOLVER.MAX_ITER\? Known keys there"),
        (["SEDE", "4"], r"Did you mean SEED\?"),
        (["SOLVER.MAX_ITER", "abc"], r"MAX_ITER: expected a whole number of at least 1, got 'abc' \(a text\)\."),
        (
            ["DATASETS.TRAIN", "camvid_train"],
            r"DATASETS.TRAIN: expected a list.*, got 'camvid_train' \(a text\)\.",
        ),
    ],
)
def test_wrong_pairs_are_named(opts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(STUDENT, opts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MODEL:\n  A: [1\nB: {\n", r"expected YAML; line 3, column 2: expected ',' or '\]'"),
        (b"just text\n", "expected keys with values"),
        (b"", "expected keys with values"),
        (b"\x00\x01\x02\xff", "expected YAML, got a file that is no text"),
        (b"_BASE_: nope.yaml\nSEED: 1\n", "its _BASE_ cannot be read"),
        (b"_BASE_: c.yaml\nSEED: 1\n", "a _BASE_ that leads back to the file"),
        (b"SEED: 'x'\n", "line 1: SEED: expected a whole number from 0 to .*, got 'x'"),
        (b"SOLVER:\n  MAX_ITR: 3\n", r"Did you mean SOLVER.MAX_ITER\?"),
    ],
)
def test_wrong_files_are_one_line(content: bytes, message: str, tmp_path: object) -> None:
    path = tmp_path / "c.yaml"  # type: ignore[operator]
    path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught_error:
        read_config(str(path))
    assert exit_status(caught_error.value) == 2


def test_paths_that_are_no_files_are_named(tmp_path: object) -> None:
    (tmp_path / "student.yaml").write_text("SEED: 1\n")  # type: ignore[operator]
    with pytest.raises(FileNotFoundError, match="got the folder"):
        read_config(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*student.yaml\?"):
        read_config(f"{tmp_path}/studnt.yaml")
    with pytest.raises(FileNotFoundError, match="expected a YAML file, got none"):
        read_config("")


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.MAX_ITER", 0], "SOLVER.MAX_ITER: expected a whole number of at least 1, got 0."),
        (["SOLVER.CHECKPOINT_PERIOD", 0], "SOLVER.CHECKPOINT_PERIOD: expected a whole number of at least 1, got 0."),
        (["INPUT.CROP_SIZE", [0, 64]], r"INPUT.CROP_SIZE: expected two whole numbers of at least 1, got \[0, 64\]."),
        (["DATASETS.TRAIN", "[mine_trian]"], r"got '\[mine_trian\]' \(a text\). Write \"\['mine_trian'\]\"."),
    ],
)
def test_values_that_would_fail_late_are_refused(opts: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(read_config(STUDENT, opts))
