"""Finds the command by its name, parses its arguments and runs it."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from bpkd import __version__
from bpkd.errors import FAILURE, INTERRUPTED, MISTAKE, did_you_mean, exit_status, one_line

from .quiet import silence_libraries

# Command -> what it does; its module has the same name with underscores.
COMMANDS = {
    "train": "train a network, with or without a teacher",
    "eval": "evaluate a student or a teacher",
    "compare": "train students by several methods from the same seeds, and report",
    "search": "search distillers' settings with the same budget for every method",
    "report": "remake a comparison's report from its runs, or print tables of records",
    "visualize": "draw edges, predictions and errors",
    "export": "write a network as ONNX, TorchScript or torch.export program",
    "convert": "convert a checkpoint of another project, or one of ours into OpenMMLab's",
    "check-data": "check a config's data sets before training",
    "prepare-data": "make the files that a data set's download lacks",
    "metrics": "measure predicted label maps: IoU, trimap IoU, Boundary IoU, boundary F",
    "analyze": "count parameters, FLOPs and activations; time a pass",
    "suggest-grids": "suggest SOLOv2's grids and scale ranges for a data set",
    "cache-teacher": "record a teacher's logits, to train without the teacher",
    "gpu-sheet": "check and measure the project on a GPU (needs a checkout)",
}
EXAMPLES = """examples:
  bpkd train --config-file configs/camvid/small_teacher.yaml DATASETS.ROOT data
  bpkd compare --config-file projects/BPKD/configs/camvid/small__bpkd.yaml --methods none CWD BPKD
  bpkd COMMAND --help          options and examples of a command
  bpkd help SOLVER.MAX_ITER    default, range and meaning of a setting"""


def main(argv: list[str] | None = None) -> int:
    """Runs ``bpkd COMMAND ...`` and returns its exit status.

    Args:
        argv: words after ``bpkd``; None: those of this process.
    """
    words = sys.argv[1:] if argv is None else argv
    name = words[0] if words else ""
    if name in COMMANDS:
        return run(name, words[1:], prog=f"bpkd {name}")
    if name == "help" and words[1:]:
        name = words[1]
        if name in COMMANDS:
            return run(name, ["--help"], prog=f"bpkd {name}")
        if name.isupper():
            return help_of_key(words[1])
    if name in ("-h", "--help", "help"):
        with written_out():
            print(overview())
        return 0
    if name == "--version":
        print(f"bpkd {__version__}")
        return 0
    got = f"got {name!r}.{did_you_mean(name, [*COMMANDS, '--help', '--version'])}" if name else "got none."
    print(f"error: expected a command, {got} See bpkd --help.", file=sys.stderr)
    return MISTAKE


def help_of_key(key: str) -> int:
    """Prints default, accepted values and meaning of a config key; returns the exit status.

    Args:
        key: dotted name.
    """
    from bpkd.config.keys import KEYS
    from bpkd.config.reference import describe

    text = describe(key)
    if text:
        print(text)
        return 0
    print(f"error: expected a setting, got {key!r}.{did_you_mean(key, KEYS)}", file=sys.stderr)
    return MISTAKE


def overview() -> str:
    """Returns the text of ``bpkd --help``."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    head = "Boundary privileged knowledge distillation for segmentation networks."
    more = f"  {'help':<{width}}  show the help of a command, or what a setting means"
    return f"usage: bpkd COMMAND [options]\n\n{head}\n\ncommands:\n{rows}\n{more}\n\n{EXAMPLES}"


def run(name: str, argv: list[str] | None = None, *, prog: str | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 (failed), 2 (a mistake in the command) or 130 (interrupted).

    Args:
        name: key of `COMMANDS`.
        argv: words of the command line; None: those of this process.
        prog: name for help and messages; None: that of the running file.
    """
    module: Any = import_module(f"bpkd.cli.{name.replace('-', '_')}")
    parser = module.parser(prog or os.path.basename(sys.argv[0]))
    with written_out():  # --help
        args = parser.parse_args(argv)
    fault = module.mistake(args) if hasattr(module, "mistake") else ""
    if fault:
        parser.error(fault)
    silence_libraries()
    return guarded(module.run, args)


def guarded(function: Callable[[Any], int], args: Any) -> int:
    """Calls a command; a user's mistake ends in one line, other errors are raised.

    Args:
        function: command, called with the arguments.
        args: parsed arguments; ``traceback`` asks for the frames above the line.
    """
    try:
        with written_out():
            return function(args)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        status = exit_status(error)
        if status is None:
            raise
        if args.traceback:
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return status


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Flushes the output; ends the program without an error if a pipe was closed (``bpkd report ... | head``)."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again as it ends
        sys.exit(FAILURE)
