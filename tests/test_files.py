"""Files are written whole or not at all, and hashed in one place."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bpkd.files import replacing, sha256_of, write_text


def test_the_hash_is_that_of_the_whole_file(tmp_path: Path) -> None:
    content = b"0123456789abcdef" * 200_000  # more than one block
    (tmp_path / "a.bin").write_bytes(content)
    assert sha256_of(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_an_error_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    write_text(target, "old")

    def fails() -> None:
        with replacing(target) as part:
            part.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_file_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "network.pt2"
    with replacing(target) as part:
        part.write_text("whole")
        assert not target.exists()
        assert part.suffix == ".pt2"  # writers that choose the format by the suffix see the right one
        assert part.parent == target.parent
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]
