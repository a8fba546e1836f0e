"""Warnings of other libraries about their own insides, which a user of the commands can do nothing about."""

from __future__ import annotations

import logging
import re
import sys
import warnings

from bpkd.errors import PACKAGE

# Beginning of the message, category, module that it points at.
NOISE: tuple[tuple[str, type[Warning], str], ...] = (
    ("`torch.jit.", FutureWarning, "torch.jit"),
    ("`torch.jit.", DeprecationWarning, "torch.jit"),
    ("pkg_resources is deprecated", UserWarning, ""),
    ("torch.meshgrid", UserWarning, "torch.functional"),
    ("`broadcast_buffers` is deprecated", FutureWarning, "detectron2.engine"),
)


def silence_libraries() -> None:
    """Ignores the warnings of `NOISE`, here and in processes that this one starts; ``python -W`` turns that off.

    What bpkd itself warns about old names becomes one line without the place in the program.
    """
    warnings.formatwarning = _one_line
    # "Terminating process N via signal SIGTERM": the error that ends the command says why.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    if sys.warnoptions:
        return
    for message, category, module in NOISE:
        start = rf"{re.escape(module)}(\.|$)" if module else ""
        warnings.filterwarnings("ignore", re.escape(message), category, start)
        # Started processes read these; a message in them is a plain beginning, a module would be a whole name.
        sys.warnoptions.append(f"ignore:{message}:{category.__name__}")


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if category in (FutureWarning, DeprecationWarning, UserWarning) and filename.startswith(str(PACKAGE)):
        return f"warning: {message}\n"
    return _FORMAT(message, category, filename, lineno, line)


_FORMAT = warnings.formatwarning
