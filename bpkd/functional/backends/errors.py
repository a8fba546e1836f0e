"""What both backends do with errors."""

from __future__ import annotations

import torch


def refuse_second_derivative(backend: str) -> None:
    """To be called in a backward that hands on a finished gradient.

    Raises:
        RuntimeError: create_graph is on: the finished gradient would count as a constant, silently.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"expected no create_graph, got it: the backend {backend} has no second derivative. use_backend('eager')."
        )


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, else its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
