"""Argument parser of every command: KEY VALUE pairs at the end, one-line errors, old spellings."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bpkd import files
from bpkd.errors import MISTAKE, UserError, did_you_mean
from bpkd.files import json_text
from bpkd.paths import expanded
from bpkd.ranges import Range

NODES = (
    "DATALOADER", "DATASETS", "DISTILL", "GLOBAL", "INPUT", "MODEL", "SOLVER", "TEACHER", "TEST",
)  # fmt: skip
KEYS = ("CUDNN_BENCHMARK", "FLOAT32_PRECISION", "IMPORTS", "OUTPUT_DIR", "SEED", "VERSION", "VIS_PERIOD")
KEY = re.compile(rf"(?:(?:{'|'.join(NODES)})\.[^\s=]+|{'|'.join(KEYS)})(?:=.*)?", re.DOTALL)
# Keys stand at the end of the usage line; argparse itself never sees them.
PAIRS = " [KEY VALUE ...]"


class Parser(argparse.ArgumentParser):
    """Reads the arguments of one command; mistakes end in one line and status 2.

    Args:
        prog: command as a user types it.
        usage: arguments that the usage line names, without those that every command has.
        description: text of ``--help``.
        overrides: whether KEY VALUE pairs that change the config may follow.
        renamed: old spelling of an option -> its new one; the old one is accepted with a warning.
    """

    def __init__(
        self,
        prog: str,
        usage: str,
        description: str | None,
        *,
        overrides: bool = True,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        """Sets up the options that every command has."""
        line = f"{prog} {usage} [options]{PAIRS if overrides else ''}"
        look = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, usage=line, description=description, formatter_class=look, allow_abbrev=False)
        self.takes_overrides = overrides
        self.renamed = dict(renamed or {})
        self.flags_with_file: set[str] = set()
        self.add_argument("--traceback", action="store_true", help="show where in the program an error arose")

    def add_json(self, help_text: str) -> None:
        """Adds ``--json FILE``; the old flag without a file prints and warns.

        Args:
            help_text: what the file holds.
        """
        self.add_argument(
            "--json", type=file_arg, metavar="FILE", help=f"{help_text}; a name that ends in .json, or - to print it"
        )
        self.flags_with_file.add("--json")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Returns the options as attributes; ``opts`` holds the KEY VALUE pairs.

        Args:
            args: words of the command line; None: those of this process.
            namespace: object that receives the attributes.
        """
        words = self._current(list(sys.argv[1:] if args is None else args))
        self._refuse_unknown(words)
        opts: list[str] = []
        if self.takes_overrides:
            words, opts = self._split(words)
        found, rest = self.parse_known_args(words, namespace)
        if rest and (not self.takes_overrides or rest[0].startswith("-")):
            self.error(f"unexpected argument {rest[0]!r}.")
        if self.takes_overrides:
            found.opts = [*rest, *opts]
            self._refuse_equals(found.opts[::2])
            note_repeated(found.opts)
            if len(found.opts) % 2:
                word = found.opts[-1]
                config = f" Did you mean --config-file {word}?" if word.endswith((".yaml", ".yml")) else ""
                self.error(f"KEY VALUE: expected pairs, got {word!r} without a value.{config}")
        return found

    def error(self, message: str) -> NoReturn:
        """Ends the command with one line.

        Args:
            message: argparse's, or one of a command's own checks.
        """
        text = re.sub(r"^argument ", "", message)
        text = text.replace("the following arguments are required:", "expected")
        text = re.sub(r"invalid (?:int|whole) value: (.*)", r"expected a whole number, got \1", text)
        text = re.sub(r"one of the arguments (.*) is required", r"expected one of \1", text)
        text = re.sub(r"invalid float value: (.*)", r"expected a number, got \1", text)
        self.exit(MISTAKE, f"error: {text if text[-1:] in '.?' else f'{text}.'} See {self.prog} --help.\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(one) for one in action.choices]
            message = f"expected one of {', '.join(known)}, got {str(value)!r}.{did_you_mean(str(value), known)}"
            raise argparse.ArgumentError(action, message)

    def _current(self, words: list[str]) -> list[str]:
        """Replaces old spellings, and gives an old flag that now takes a file the value that it meant."""
        found: list[str] = []
        for i, word in enumerate(words):
            name, equals, value = word.partition("=")
            if name in self.renamed:
                warn(f"{name} is now {self.renamed[name]}")
                found.append(self.renamed[name] + equals + value)
                continue
            found.append(word)
            after = words[i + 1] if i + 1 < len(words) else ""
            if word in self.flags_with_file and after != "-" and not after.endswith(".json"):
                warn(f"{word} without a file is now {word} -")
                found.append("-")
        return found

    def _refuse_unknown(self, words: Iterable[str]) -> None:
        known = self._option_string_actions
        for word in words:
            if word == "--":
                return
            name = word.partition("=")[0]
            if not name.startswith("--") or name in known or (name == "--opts" and self.takes_overrides):
                continue
            self.error(f"unknown option {name}.{did_you_mean(name, known)}")

    def _refuse_equals(self, keys: Iterable[str]) -> None:
        for word in keys:
            key, equals, value = word.partition("=")
            if equals:
                self.error(f"KEY VALUE: expected two words, got {word!r}: write {key} {shlex.quote(value)}.")

    def _split(self, words: list[str]) -> tuple[list[str], list[str]]:
        """Takes the KEY VALUE pairs out of the words: they begin at a key and end at an option or the end."""
        rest: list[str] = []
        opts: list[str] = []
        i = 0
        while i < len(words):
            word = words[i]
            begins = KEY.fullmatch(word) and not (i and self._takes_one(words[i - 1]))
            if word == "--opts":
                warn("--opts is no longer needed: KEY VALUE pairs stand at the end")
            elif not begins:
                rest.append(word)
                i += 1
                continue
            i += word == "--opts"
            while i < len(words) and not words[i].startswith("-"):
                opts += words[i : i + 2]
                i += 2
        return rest, opts

    def _takes_one(self, word: str) -> bool:
        action = self._option_string_actions.get(word)
        return action is not None and action.nargs is None


def note_repeated(pairs: Sequence[str]) -> None:
    """Warns of keys that are given twice with different values; the last one counts.

    Args:
        pairs: keys and values in turn.
    """
    given: dict[str, list[str]] = {}
    for key, value in zip(pairs[::2], pairs[1::2], strict=False):
        given.setdefault(key, []).append(value)
    for key, values in given.items():
        if len(set(values)) > 1:
            shown = ", ".join(values)
            warn(f"KEY VALUE: {key} is given {len(values)} times ({shown}): the last, {values[-1]}, counts")


def warn(text: str) -> None:
    """Prints one line of warning on the standard error stream.

    Args:
        text: what is out of date, and what to write instead.
    """
    print(f"warning: {text}.", file=sys.stderr)


class whole:  # noqa: N801 - a type of argparse, which prints the name
    """Parses a whole number of at least ``least``.

    Args:
        least: smallest number that is accepted.
    """

    def __init__(self, least: int) -> None:
        """Keeps the bound."""
        self.least = least
        self.__name__ = "whole"

    def __call__(self, text: str) -> int:
        """Returns the number; raises argparse.ArgumentTypeError for anything else."""
        try:
            value = int(text)
        except ValueError:
            value = self.least - 1
        if value < self.least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {self.least}, got {text!r}")
        return value


class number:  # noqa: N801 - a type of argparse, which prints the name
    """Parses a finite number of a range.

    Args:
        range: what is accepted.
    """

    def __init__(self, range: Range) -> None:  # noqa: A002 - as in `bpkd.config.kinds.Number`
        """Keeps the range."""
        self.range = range
        self.__name__ = "number"

    def __call__(self, text: str) -> float:
        """Returns the number; raises argparse.ArgumentTypeError for anything else."""
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if value not in self.range:
            raise argparse.ArgumentTypeError(f"expected a number {self.range}, got {text!r}")
        return value


def path_arg(text: str) -> Path:
    """Parses a path: ``~`` and environment variables are replaced.

    Args:
        text: word of the command line; argparse's message for an error names the option.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one (a variable that the shell has not set?)")
    return Path(file_arg(text))


def file_arg(text: str) -> str:
    """Parses a path as `path_arg` does, and leaves it text; "" stays.

    Args:
        text: word of the command line.
    """
    try:
        return expanded(text, "path")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("path: ")) from None


def say(line: str) -> None:
    """Prints a line at once.

    Args:
        line: text of the line.
    """
    print(line, flush=True)


def stop_on_sigterm() -> None:
    """Lets a scheduler's SIGTERM stop the command as Ctrl-C does, so that the runs under way are saved."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def write_json(content: Any, path: str) -> None:
    """Writes JSON to a file; "-" prints it.

    Args:
        content: plain values.
        path: argument of ``--json``.
    """
    if path == "-":
        print(json_text(content))
        return
    files.write_json(path, content)
    print(f"wrote {path}")
