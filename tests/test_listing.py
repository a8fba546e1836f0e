from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpkd.errors import UserError
from bpkd.listing import ending, kinds, output_file, output_names, trouble, visible, walk


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


def found(root: Path, **options: object) -> list[str]:
    return [path.relative_to(root).as_posix() for path in walk(root, **options).files]  # type: ignore[arg-type]


def test_hidden_and_system_files_are_skipped_below_the_folder_alone(tmp_path: Path) -> None:
    root = tree(
        tmp_path / ".cache" / "data",
        "b.png",
        "a/c.png",
        "._b.png",
        "b.png:Zone.Identifier",
        "Thumbs.db",
        "@eaDir/b.png",
        ".git/x.png",
    )
    assert found(root) == ["a/c.png", "b.png"]
    assert visible(root / "a/c.png", root)
    assert not visible(root / "@eaDir/b.png", root)


def test_links(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", "a.png")
    tree(tmp_path / "far", "b.png")
    (root / "far").symlink_to(tmp_path / "far")
    (root / "dead.png").symlink_to("gone")
    for name, target in (("self", root), ("up", tmp_path), ("far/back", root)):
        (root / name).symlink_to(target)
    listing = walk(root)
    assert found(root) == ["a.png", "dead.png", "far/b.png"]
    assert [path.relative_to(root).as_posix() for path in listing.loops] == ["far/back", "self", "up"]
    assert "3 links lead back" in listing.notes()[0]
    assert found(root, without=[tmp_path / "far"]) == ["a.png", "dead.png"]


def test_what_keeps_a_file_from_being_read(tmp_path: Path) -> None:
    tree(tmp_path, "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("gone.png")
    assert trouble(tmp_path / "good.png") == ""
    assert trouble(tmp_path / "gone.png") == "missing"
    assert trouble(tmp_path / "link.png") == "a link to gone.png, which does not exist"
    assert trouble(tmp_path / "empty.png") == "an empty file (0 bytes)"
    assert trouble(tmp_path / "folder.png") == "expected a file, got a folder"
    assert trouble(tmp_path / "pipe.png") == "expected a file, got a device or pipe"
    assert trouble(tmp_path / "good.PNG") == "missing; there is good.png"
    (tmp_path / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert trouble(tmp_path / "lfs.png").startswith("a pointer of git-lfs")
    assert "too long" in trouble(tmp_path / ("n" * 300))


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe4.png")).touch()
    with pytest.raises(UserError, match=r"UTF-8, got \\xe4.png"):
        walk(tmp_path)


def test_endings_and_kinds() -> None:
    assert ending("A.JPG", (".png", ".jpg")) == ".JPG"
    assert ending("a_rgb.png", ("_RGB.png", ".png")) == "_rgb.png"
    assert ending("a.gif", (".png", "")) == ""
    assert kinds([Path("a.GIF"), Path("b.gif"), Path("c"), Path("d.heic")]) == ".gif (2), .heic (1), no suffix (1)"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["x/a.png", "y/a.png"], ["x/a", "y/a"]),
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg", "a.jpg.png", "a.png"]),
        (["A.png", "a.png"], ["A.png", "a.png_2"]),
        (["u\N{COMBINING DIAERESIS}.png", "\N{LATIN SMALL LETTER U WITH DIAERESIS}.jpg"],
         ["u\N{COMBINING DIAERESIS}.png", "\N{LATIN SMALL LETTER U WITH DIAERESIS}.jpg"]),
    ],
)  # fmt: skip
def test_outputs_have_names_of_their_own(paths: list[str], names: list[str]) -> None:
    assert list(output_names({path: Path(path) for path in paths})) == names


def test_long_names_are_cut_and_stay_different(tmp_path: Path) -> None:
    one, two = (output_file(tmp_path, f"sub/{'ü' * 120}{end}", "_edges.png") for end in "12")
    assert one != two
    assert one.parent == tmp_path / "sub"
    one.parent.mkdir()
    one.touch()
    assert len(one.name.encode()) <= 220
    assert output_file(tmp_path, "a", "_edges.png") == tmp_path / "a_edges.png"
