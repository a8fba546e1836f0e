"""KEY VALUE pairs, old spellings and one-line mistakes of the parser."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from bpkd.cli import COMMANDS
from bpkd.cli.parser import KEYS, NODES, Parser, whole


def parsed(command: str, *words: str) -> Any:
    return import_module(f"bpkd.cli.{command.replace('-', '_')}").parser(f"bpkd {command}").parse_args(list(words))


def refused(capsys: pytest.CaptureFixture[str], command: str, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        parsed(command, *words)
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


# KEY VALUE pairs


def test_pairs_end_a_list_of_values() -> None:
    args = parsed("compare", "--config-file", "p.yaml", "--methods", "none", "KD", "DATASETS.ROOT", "data", "SEED", "3")
    assert args.methods == ["none", "KD"]
    assert args.opts == ["DATASETS.ROOT", "data", "SEED", "3"]


def test_options_may_follow_pairs_and_values_may_begin_with_a_dash() -> None:
    args = parsed("train", "--config-file", "c.yaml", "SOLVER.BASE_LR", "-1", "MODEL.WEIGHTS", "", "--resume")
    assert args.opts == ["SOLVER.BASE_LR", "-1", "MODEL.WEIGHTS", ""]
    assert args.resume


def test_pairs_and_files_stand_in_any_order() -> None:
    first = parsed("export", "a.onnx", "--config-file", "c", "--weights", "w", "--size", "18", "24", "MODEL.X", "1")
    second = parsed("export", "--config-file", "c", "--weights", "w", "a.onnx", "MODEL.X", "1", "--size", "18", "24")
    assert vars(first) == vars(second)
    assert (first.output, first.size, first.opts) == ("a.onnx", [18, 24], ["MODEL.X", "1"])


def test_a_key_that_is_the_value_of_an_option_stays_there() -> None:
    args = parsed("train", "--config-file", "MODEL.yaml", "OUTPUT_DIR", "SEED")
    assert args.config_file == "MODEL.yaml"
    assert args.opts == ["OUTPUT_DIR", "SEED"]


def test_a_value_may_hold_an_equals_sign() -> None:
    args = parsed("train", "--config-file", "a=b.yaml", "OUTPUT_DIR", "lr=0.1", "MODEL.WEIGHTS", "lr=0.1/a.pth")
    assert args.opts == ["OUTPUT_DIR", "lr=0.1", "MODEL.WEIGHTS", "lr=0.1/a.pth"]


def test_a_misspelt_key_without_a_node_is_still_a_pair() -> None:
    assert parsed("train", "--config-file", "c.yaml", "SEDE", "3", "SOLVER.MAX_ITER", "4").opts[:2] == ["SEDE", "3"]


def test_a_key_without_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, "train", "--config-file", "c.yaml", "SOLVER.MAX_ITER")
    assert "KEY VALUE: expected pairs, got 'SOLVER.MAX_ITER' without a value." in text


def test_commands_without_a_config_take_no_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, "metrics", "a", "b", "--num-classes", "3", "SOLVER.MAX_ITER", "4")
    assert "unexpected argument 'SOLVER.MAX_ITER'" in text


def test_the_parser_knows_every_node_and_key_of_the_config() -> None:
    from bpkd.config import get_bpkd_cfg

    cfg = get_bpkd_cfg()
    nodes = {key for key, value in cfg.items() if isinstance(value, dict)}
    assert nodes == set(NODES)
    assert set(cfg) - nodes <= set(KEYS)


# Old spellings


OLD = [
    ("compare", ["--config-file", "p", "--methods", "none", "--opts", "SEED", "3"], "opts", ["SEED", "3"]),
    ("compare", ["--config-file", "p", "--methods", "none", "--trimap-width", "5"], "widths", 5),
    ("compare", ["--config-file", "p", "--methods", "none", "--images", "1", "2"], "positions", [1, 2]),
    ("search", ["s.yaml", "--output", "o", "--opts", "SEED", "3"], "opts", ["SEED", "3"]),
    ("visualize", ["--images", "a", "--labels", "b", "--width", "5"], "widths", 5),
    ("export", ["a.ts", "--config-file", "c", "--weights", "w", "--opts", "SEED", "3"], "opts", ["SEED", "3"]),
    ("convert", ["a", "b", "--opts", "SEED", "3", "--force"], "opts", ["SEED", "3"]),
    ("metrics", ["a", "b", "--num-classes", "2", "--ignore", "0"], "ignore_index", 0),
    ("metrics", ["a", "b", "--num-classes", "2", "--ignore=0"], "ignore_index", 0),
    ("metrics", ["a", "b", "--num-classes", "2", "--pred-suffix", "_p.png"], "prediction_suffix", "_p.png"),
    ("metrics", ["a", "b", "--num-classes", "2", "--gt-suffix", "_g.png"], "label_suffix", "_g.png"),
    ("metrics", ["--json", "a", "b", "--num-classes", "2"], "json", "-"),
    ("analyze", ["--config-file", "c", "--json", "--opts", "SEED", "3"], "json", "-"),
    ("analyze", ["--table2", "--json"], "json", "-"),
    ("suggest-grids", ["--config-file", "c", "--images", "7"], "samples", 7),
    ("report", ["r.json", "--trimap-width", "5"], "widths", 5),
    ("gpu-sheet", ["o", "--peers", "."], "peers", "."),
]


@pytest.mark.parametrize(("command", "words", "name", "value"), OLD)
def test_old_spellings_work_and_warn_in_one_line(
    command: str, words: list[str], name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = getattr(parsed(command, *words), name)
    assert (str(found) if name == "peers" else found) == value
    shown = capsys.readouterr().err.splitlines()
    assert shown
    assert all(line.startswith("warning: --") for line in shown)
    assert len(shown) == 1 + (command == "analyze" and "--opts" in words)


@pytest.mark.parametrize("name", COMMANDS)
def test_old_spellings_are_not_in_the_help(name: str) -> None:
    parser: Parser = import_module(f"bpkd.cli.{name.replace('-', '_')}").parser()
    words = set(parser.format_help().replace("[", " ").replace("]", " ").split())
    assert not words & {*parser.renamed, "--opts"}


def test_json_takes_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed("metrics", "a", "b", "--num-classes", "2", "--json", "f.json").json == "f.json"
    assert parsed("metrics", "a", "b", "--num-classes", "2", "--json", "-").json == "-"
    assert capsys.readouterr().err == ""


# Mistakes


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", ["--confg-file", "x"], "unknown option --confg-file. Did you mean --config-file?"),
        ("train", ["--config-file"], "--config-file: expected one argument."),
        ("train", ["--num-gpus", "x"], "--num-gpus: expected a whole number of at least 0, got 'x'."),
        ("eval", ["--evaluate", "techer"], "expected one of student, teacher, got 'techer'. Did you mean teacher?"),
        ("train", ["SOLVER.MAX_ITER=3"], "expected two words, got 'SOLVER.MAX_ITER=3': write SOLVER.MAX_ITER 3."),
        ("train", ["SEED", "1", "SOLVER.STEPS=[1, 2]", "SEED", "2"], "write SOLVER.STEPS '[1, 2]'."),
        ("train", ["--resum"], "unknown option --resum. Did you mean --resume?"),
        ("train", ["mine.yaml"], "without a value. Did you mean --config-file mine.yaml?"),
        ("train", ["SEDE=1"], "got 'SEDE=1': write SEDE 1."),
        ("compare", ["--config-file", "p", "--methods", "none", "SEED=3"], "write SEED 3."),
        ("eval", ["--resume"], "unknown option --resume."),
        ("compare", ["--config-file", "p"], "expected --methods."),
        ("compare", ["--config-file", "p", "--methods", "none", "--seeds", "0"], "of at least 1, got '0'."),
        (
            "compare",
            ["--config-file", "p", "--methods", "none", "--margin", "x"],
            "--margin: expected a number of at least 0, got",
        ),
        ("convert", ["a", "b", "--source", "mmsg"], "got 'mmsg'. Did you mean mmseg?"),
        ("prepare-data", ["citscapes", "r"], "SET: expected one of ade20k, cityscapes"),
        ("analyze", [], "expected one of --config-file --table2 --table4."),
    ],
)
def test_a_mistake_is_one_line(
    command: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(capsys, command, *words)
    assert message in text
    assert text.endswith(f" See bpkd {command} --help.\n")


def test_whole_numbers_have_a_bound() -> None:
    assert whole(1)("4") == 4
    with pytest.raises(Exception, match="at least 1, got '0'"):
        whole(1)("0")


# Names that the parsers hold so that nothing heavy is imported for them


def test_choices_are_those_of_the_modules_that_use_them() -> None:
    from bpkd.cli import cache_teacher, convert, gpu_sheet, prepare_data
    from bpkd.convert import SOURCES
    from bpkd.data.prepare import PREPARATIONS
    from bpkd.modeling.teachers.cached import FORMATS

    assert convert.SOURCES == SOURCES
    assert set(prepare_data.SETS) == set(PREPARATIONS)
    assert cache_teacher.FORMATS == FORMATS
    if (gpu_sheet.CHECKOUT / "benchmarks").is_dir():
        sheet = import_module("benchmarks.gpu_sheet.cli")
        assert sheet.PARTS == gpu_sheet.PARTS
