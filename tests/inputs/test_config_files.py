"""YAML files as people write them: read rightly, or refused in one line that names the cause."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bpkd.cli.main import main
from bpkd.config import read_config

HEAD = "DATASETS: {TRAIN: [procedural_train], TEST: [procedural_val]}\n"
# What is written -> what the line says. {c}: the file.
REFUSED = {
    # Keys given twice.
    "a setting copied twice": ("SOLVER:\n  BASE_LR: 0.1\n  MAX_ITER: 4\n  BASE_LR: 0.01\n",
                               "line 4: SOLVER.BASE_LR is given twice, in line 2 and in line 4"),
    "a block added at the end": ("SOLVER: {MAX_ITER: 4}\nSEED: 1\n\nSOLVER:\n  BASE_LR: 0.1\n",
                                 "SOLVER is given twice, in line 1 and in line 4"),
    "quoted and plain": ("SEED: 1\n'SEED': 2\n", "SEED is given twice, in line 1 and in line 2"),
    "below two nodes": ("MODEL:\n  SEM_SEG_HEAD:\n    CHANNELS: 8\n    DROPOUT: 0.0\n    CHANNELS: 16\n",
                        "MODEL.SEM_SEG_HEAD.CHANNELS is given twice, in line 3 and in line 5"),
    "in a teacher of a list": ("TEACHER:\n  OTHERS:\n  - {WEIGHTS: a.pth, CONFIG_FILE: a.yaml, WEIGHTS: b.pth}\n",
                               r"TEACHER.OTHERS\[0\].WEIGHTS is given twice, in line 3 and in line 3"),
    "two bases": ("_BASE_: a.yaml\n_BASE_: b.yaml\n", "_BASE_ is given twice, in line 1 and in line 2"),
    "two merges": ("TEACHER: &t {AMP: bf16}\nTEST:\n  <<: {FLIP: true}\n  <<: {MODE: slide}\n", "<< is given twice"),
    "two values by one merge": ("TEST:\n  <<: [{FLIP: true}, {FLIP: false}]\n",
                                "line 2: TEST.FLIP is given twice, with different values"),
    "twice inside a merge": ("TEST:\n  <<: {FLIP: true, MODE: slide, FLIP: false}\n", "TEST.FLIP is given twice"),
    # Files that are something else.
    "a list": ("- SEED: 1\n- SOLVER: {MAX_ITER: 4}\n", "expected keys with values, got a list"),
    "a JSON list": ('[{"SEED": 1}]', "expected keys with values, got a list"),
    "a number": ("42\n", "expected keys with values"),
    "comments alone": ("# SEED: 1\n", "expected keys with values, got a file without any"),
    "a Python file": ("import torch\nlr = 0.1\n", "expected keys with values"),
    "tabs": ("SOLVER:\n\tMAX_ITER: 4\n", "line 2.*tab"),
    "two documents": ("SEED: 1\n---\nSEED: 2\n", "line 2.*second document"),
    "an object": ("OUTPUT_DIR: !!python/object/apply:os.system ['touch {d}/made']\n", "line 1.*could not determine"),
    "a class of one's own": ("SOLVER: !Solver {MAX_ITER: 4}\n", "line 1.*!Solver"),
    "no space after the colon": ("SEED:1\nOUTPUT_DIR:x\n", "expected keys with values"),
    # Keys that are no names.
    "a number as a key": ("SOLVER:\n  4: MAX_ITER\n", "line 2: expected a key that is a text, got 4"),
    "on as a key": ("on: {push: 1}\n", "line 1: expected a key that is a text, got on, which YAML reads as bool"),
    "null as a key": ("SEED: 1\n~: 2\n", "line 2: expected a key that is a text, got ~"),
    "a dotted key": ("SEED: 1\nSOLVER.MAX_ITER: 4\n", "line 2.*SOLVER.MAX_ITER as one key.*SOLVER: {MAX_ITER: ...}"),
    "lower case": ("solver: {MAX_ITER: 4}\n", r"Did you mean SOLVER\?"),
    "lower case below": ("SOLVER: {max_iter: 4}\n", r"line 2.*Did you mean SOLVER.MAX_ITER\?"),
    # Values that YAML reads as something else.
    "classes no and yes": ("DATASETS: {FOLDER: {CLASSES: [no, yes]}}\n", "CLASSES.*got .False, True.*quotes.*'no'"),
    "classes that are numbers": ("DATASETS: {FOLDER: {CLASSES: [007, 008]}}\n",
                                 "line 1: .* got 007, which YAML reads as 7. .*'007' in quotes"),
    "classes that are other numbers": ("DATASETS: {FOLDER: {CLASSES: [7, 0x10, 1.5]}}\n", "CLASSES.*in quotes"),
    "an octal number": ("SOLVER:\n  MAX_ITER: 0100\n", "line 2: .*got 0100, which YAML reads as 64"),
    "a time of day": ("DATASETS: {FOLDER: {NAME: 12:30}}\n", "line 1: .*got 12:30, which YAML reads as 750"),
    "a class that is a date": ("DATASETS: {FOLDER: {CLASSES: [sky, 2026-01-01]}}\n",
                             "CLASSES.*got .'sky', 2026-1-1.*'2026-01-01'"),
    "a class null": ("DATASETS: {FOLDER: {CLASSES: [sky, null]}}\n", "CLASSES: expected a list"),
    "a class of spaces": ("DATASETS: {FOLDER: {CLASSES: [sky, '  ']}}\n", "CLASSES: expected a list"),
    "a class twice": ("DATASETS: {FOLDER: {CLASSES: [sky, road, 'sky ']}}\n",
                      "CLASSES: expected different names, got 'sky' twice, for the ids 0 and 2"),
    "classes in one text": ("DATASETS: {FOLDER: {CLASSES: 'sky, road'}}\n", r"CLASSES.*\['sky', 'road'\]"),
    "a node left empty": ("SOLVER:\n  # MAX_ITER: 4\n", "line 1: SOLVER: expected keys with values below it, got noth"),
    "a value left empty": ("SOLVER:\n  MAX_ITER:\n", "SOLVER.MAX_ITER: expected a whole number.*got nothing"),
    "keys below a value": ("SEED: {VALUE: 1}\n", "SEED: expected a whole number"),
    # _BASE_.
    "a base that is missing": ("_BASE_: nowhere.yaml\n", "line 1: its _BASE_ cannot be read: .*nowhere.yaml does not"),
    "a base that is a folder": ("_BASE_: .\n", "line 1: its _BASE_ cannot be read: .* is a folder"),
    "a base that is empty": ("SEED: 1\n_BASE_:\n", "line 2: _BASE_: expected a file or a list of files, got nothing"),
    "a base that is a number": ("_BASE_: 3\n", "_BASE_: expected a file or a list of files, got 3"),
    "bases of no file": ("_BASE_: []\n", "_BASE_: expected a file or a list of files, got"),
    "a base below a node": ("SOLVER:\n  _BASE_: a.yaml\n", "line 2: _BASE_ is expected at the top of a file"),
    "a base that is itself": ("_BASE_: ./c.yaml\n", "leads back to the file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, line = REFUSED[name]
    path = tmp_path / "c.yaml"
    head = HEAD if name == "lower case below" else ""
    path.write_text(head + text.replace("{d}", str(tmp_path)))
    assert main(["check-data", "--config-file", str(path), "--draw", "0"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert "c.yaml" in said[0]
    assert re.search(line, said[0]), said[0]
    assert not (tmp_path / "made").exists()


def test_two_files_that_are_each_others_base(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml\nSEED: 1\n")
    (tmp_path / "b.yaml").write_text("SEED: 2\n_BASE_: a.yaml\n")
    with pytest.raises(ValueError, match=r"b.yaml: line 2: a _BASE_ that leads back to the file: .*a.yaml -> .*b.yaml"):
        read_config(str(tmp_path / "a.yaml"))


def test_a_key_given_twice_in_a_base(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml\nSEED: 1\n")
    (tmp_path / "b.yaml").write_text("_BASE_: c.yaml\n")
    (tmp_path / "c.yaml").write_text("TEST: {FLIP: true}\nTEST: {MODE: slide}\n")
    with pytest.raises(ValueError, match=r"_BASE_ .*c.yaml: line 2: TEST is given twice, in line 1 and in line 2"):
        read_config(str(tmp_path / "a.yaml"))


def test_a_value_of_a_base_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml\nSEED: 1\n")
    (tmp_path / "b.yaml").write_text("SOLVER:\n  MAX_ITER: -4\n")
    with pytest.raises(ValueError, match=r"a.yaml, its _BASE_ .*b.yaml, line 2: SOLVER.MAX_ITER: expected"):
        read_config(str(tmp_path / "a.yaml"))


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


READ: dict[str, tuple[bytes, dict[str, Any]]] = {
    "a byte order mark": ("\ufeffSEED: 3\n".encode(), {"SEED": 3}),
    "UTF-16 of Windows' editor": ("SEED: 3\nOUTPUT_DIR: größe\n".encode("utf-16"), {"SEED": 3, "OUTPUT_DIR": "größe"}),
    "Windows' line ends": (b"SOLVER:\r\n  MAX_ITER: 4\r\nSEED: 3\r\n", {"SOLVER.MAX_ITER": 4, "SEED": 3}),
    "JSON": (b'{"SEED": 3, "SOLVER": {"BASE_LR": 0.1}}', {"SEED": 3, "SOLVER.BASE_LR": 0.1}),
    "one document with its mark": (b"---\nSEED: 3\n...\n", {"SEED": 3}),
    "1e-3 without a dot": (b"SOLVER: {BASE_LR: 1e-3, MIN_LR: 1e-5}\n", {"SOLVER.BASE_LR": 1e-3, "SOLVER.MIN_LR": 1e-5}),
    "1e-1 in a list": (b"TEST: {SCALES: [5e-1, 1, 2.0]}\n", {"TEST.SCALES": [0.5, 1, 2.0]}),
    "1e3 iterations": (b"SOLVER: {MAX_ITER: 1e3}\n", {"SOLVER.MAX_ITER": 1000}),
    "numbers in quotes": (
        b"SOLVER: {MAX_ITER: '20', BASE_LR: '0.1'}\n", {"SOLVER.MAX_ITER": 20, "SOLVER.BASE_LR": 0.1}
    ),
    "a folder named by a year": (b"OUTPUT_DIR: '2026'\n", {"OUTPUT_DIR": "2026"}),
    "names in quotes": (b"DATASETS: {FOLDER: {CLASSES: ['no', 'yes', '007', '1e3']}}\n",
                        {"DATASETS.FOLDER.CLASSES": ["no", "yes", "007", "1e3"]}),
    "off without quotes": (b"DATASETS: {CHECK: off}\nTEACHER: {AMP: off, OPTIMIZE: 'off'}\n",
                           {"DATASETS.CHECK": "off", "TEACHER.AMP": "off"}),
    "a merge with a change": (b"TEST:\n  <<: &a {FLIP: true, MODE: slide}\n  MODE: whole\n",
                              {"TEST.FLIP": True, "TEST.MODE": "whole"}),
    "the same value by two merges": (b"TEST:\n  <<: [{FLIP: true}, {FLIP: true, MODE: slide}]\n",
                                     {"TEST.FLIP": True, "TEST.MODE": "slide"}),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_read_as_meant(name: str, tmp_path: Path) -> None:
    content, expected = READ[name]
    (tmp_path / "c.yaml").write_bytes(content)
    found = flat(read_config(str(tmp_path / "c.yaml")))
    got = {key: found[key] for key in expected}
    assert got == expected
    assert [type(value) for value in got.values()] == [type(value) for value in expected.values()]


def test_of_several_bases_the_later_wins_and_the_file_over_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "a.yaml").write_text("SEED: 1\nSOLVER: {MAX_ITER: 10, BASE_LR: 0.1}\n")
    (tmp_path / "below" / "b.yaml").write_text("_BASE_: ../a.yaml\nSEED: 2\nSOLVER: {MAX_ITER: 20}\n")
    (tmp_path / "c.yaml").write_text("_BASE_: [a.yaml, $BELOW/b.yaml]\nSOLVER: {BASE_LR: 0.2}\n")
    monkeypatch.setenv("BELOW", "below")
    cfg = read_config(str(tmp_path / "c.yaml"))
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (2, 20, 0.2)


def test_aliases_of_aliases_end(tmp_path: Path) -> None:
    lines = ["A: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"A{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="aliases of aliases"):
        read_config(str(tmp_path / "c.yaml"))
