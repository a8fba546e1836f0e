"""The Markdown files: width, links, and the files and commands that they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from bpkd.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
WIDTH = 100
FOLDERS = ("docs", "projects", "examples", ".github")
FILES = sorted([*ROOT.glob("*.md"), *(f for folder in FOLDERS for f in (ROOT / folder).rglob("*.md"))])
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path below one of the repository's folders, as prose and commands write it.
PATH = re.compile(r"(?<![\w/.<-])(?:configs|projects|tools|benchmarks|dev|tests|docs|bpkd|examples)/[\w./-]*\w")


def lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """(number, line, language of the fence around it or "")."""
    fence = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if match := re.match(r"\s*```(\w*)", line):
            fence = "" if fence else match[1] or "plain"
            yield number, "", fence
        else:
            yield number, line, fence


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a file's headings."""
    found: set[str] = set()
    for _, line, fence in lines(path):
        if not fence and (match := re.match(r"#+ (.*)", line)):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
            found.add(re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-"))
    return found


def commands(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the last line, words after ``bpkd``) of every command line in a fence."""
    joined = ""
    for number, line, fence in lines(path):
        if fence == "bash":
            joined += line.removesuffix("\\") + " "
            if not line.endswith("\\"):
                words = shlex.split(joined, comments=True) if "bpkd " in joined else []
                joined = ""
                while words and re.match(r"\w+=", words[0]):  # variables of the environment
                    words = words[1:]
                if words[:1] == ["bpkd"]:
                    yield number, words[1:]


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_lines_are_short(path: Path) -> None:
    """At most 100 columns, but for tables, pictures, printed output and what has no blank to break at."""
    long = [
        number
        for number, line, fence in lines(path)
        if len(line) > WIDTH
        and fence != "text"
        and not line.lstrip().startswith(("|", "![", "#"))
        and " " in line.strip()[:WIDTH]
    ]
    assert not long


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_links_resolve(path: Path) -> None:
    wrong = []
    for number, line, fence in lines(path):
        for target in () if fence else LINK.findall(line):
            if re.match(r"https?:|mailto:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            if not file.exists() or (anchor and anchor not in anchors(file)):
                wrong.append((number, target))
    assert not wrong


@pytest.mark.parametrize("path", [f for f in FILES if f.name != "changelog.md"], ids=ids)
def test_files_that_it_names_exist(path: Path) -> None:
    """Whole paths alone: with a suffix, and not with a placeholder behind."""
    named = {
        (number, match[0])
        for number, line, _ in lines(path)
        for match in PATH.finditer(line)
        if re.search(r"\.(py|md|yaml|sh|json|png)$", match[0]) and "*" not in line[match.end() : match.end() + 1]
    }
    assert not sorted((number, name) for number, name in named if not (ROOT / name).exists())


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_commands_parse(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command line is understood by the command's own parser; every command in prose exists."""
    named = {verb for _, line, fence in lines(path) if not fence for verb in re.findall(r"`bpkd ([a-z][\w-]*)", line)}
    assert named <= COMMANDS.keys() | {"help"}
    for number, (verb, *words) in commands(path):
        parser = import_module(f"bpkd.cli.{verb.replace('-', '_')}").parser(f"bpkd {verb}")
        for variable in re.findall(r"\$\{?(\w+)", " ".join(words)):  # the shell of the example has set it
            monkeypatch.setenv(variable, "value")
        try:
            parser.parse_args(words)
        except SystemExit as stop:
            pytest.fail(f"{path.name}, line {number}: bpkd {shlex.join([verb, *words])} ends with {stop.code}")


@pytest.mark.parametrize("path", [f for f in FILES if f.name != "changelog.md"], ids=ids)
def test_verbs_and_modules_that_it_names_exist(path: Path) -> None:
    """Verbs of make and modules of this repository that are run by Python."""
    code: list[str] = []
    for _, line, fence in lines(path):
        code += [line.partition("#")[0]] if fence == "bash" else re.findall("`[^`]*`", line)
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"\bmake((?: [a-z][a-z-]*\b(?!=))+)", "\n".join(code))
    assert {verb for words in named for verb in words.split()} <= verbs
    modules = re.findall(r"python -m ((?:bpkd|benchmarks)[\w.]*)", "\n".join(code))
    assert not [name for name in modules if find_spec(name) is None]


def test_the_reference_lists_every_command() -> None:
    page = (ROOT / "docs/reference/command_line.md").read_text()
    assert re.findall(r"^\| `bpkd ([\w-]+)` \|", page, re.MULTILINE) == list(COMMANDS)


def test_pages_that_code_names_exist() -> None:
    """In messages, comments and configs."""
    wrong = []
    for suffix in ("py", "sh", "yaml", "cpp", "h", "toml"):
        for folder in (".", "bpkd", "benchmarks", "configs", "dev", "examples", "projects", "tests", "tools"):
            for path in (ROOT / folder).glob(f"*.{suffix}") if folder == "." else (ROOT / folder).rglob(f"*.{suffix}"):
                for page in re.findall(r"(?<![\w/])docs/[\w/]+\.md", path.read_text()):
                    if not (ROOT / page).is_file():
                        wrong.append((ids(path), page))
    assert not sorted(set(wrong))


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {f.relative_to(ROOT / "docs").as_posix() for f in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert pages == {target for target in LINK.findall(index) if target.endswith(".md") and not target.startswith("..")}


def test_every_page_says_what_it_is_for() -> None:
    """A heading, then a sentence: neither a list nor a table nor another heading."""
    for path in (ROOT / "docs").rglob("*.md"):
        heading, blank, first, *_ = path.read_text().splitlines()
        assert heading.startswith("# "), path
        assert not blank, path
        assert re.match(r"[A-Z]", first), path
