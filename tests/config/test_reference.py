"""The reference page of the settings is current, and single keys are explained on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bpkd.cli.main import main
from bpkd.config.keys import KEYS
from bpkd.config.reference import settings_page
from bpkd.distillers import DISTILLERS, arguments

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "dev/settings_page.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_holds_every_key_once() -> None:
    text = settings_page()
    own = [f"DISTILL.{name}.{key.upper()}" for name, one in DISTILLERS.items() for key in arguments(one)]
    for key in (*KEYS, *own):
        assert text.count(f"- `{key}` (default ") == 1, key


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("SOLVER.MAX_ITER", "SOLVER.MAX_ITER (default 40000): a whole number of at least 1. Iterations of the run."),
        ("DISTILL.KD.WEIGHT", "DISTILL.KD.WEIGHT (default 1.0): a number of at least 0. Factor on the loss."),
    ],
)
def test_help_of_a_key(key: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", key]) == 0
    assert " ".join(capsys.readouterr().out.split()) == said


def test_help_of_a_key_that_is_misspelt(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "SOLVER.MAX_ITR"]) == 2
    assert capsys.readouterr().err.strip().endswith("got 'SOLVER.MAX_ITR'. Did you mean SOLVER.MAX_ITER?")
