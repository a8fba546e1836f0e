"""Command line: `bpkd COMMAND`. Nothing heavy is imported before the arguments are read."""

from .main import COMMANDS, main, run

__all__ = ["COMMANDS", "main", "run"]
