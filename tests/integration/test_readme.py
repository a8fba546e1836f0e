"""What README promises exists and runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_run() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["student"].grad.isfinite().all()
    assert names["student"].grad.abs().sum() > 0


def test_files_that_it_names_exist() -> None:
    named = set(re.findall(r"\]\(([\w./-]+)\)", README)) | set(
        re.findall(r"(?:configs|projects|tools)/[\w./-]+\.\w+", README)
    )
    assert len(named) > 8
    missing = [n for n in named if not (ROOT / n).exists()]
    assert not missing
