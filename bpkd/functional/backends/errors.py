"""Error handling that both backends share."""

from __future__ import annotations

import torch


def refuse_second_derivative(backend: str) -> None:
    """Raises an error in the backward of a precomputed gradient if a second derivative is requested.

    Raises:
        RuntimeError: create_graph is on: the precomputed gradient would silently be treated as a constant.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"expected no create_graph, got it: the backend {backend} has no second derivative. use_backend('eager')."
        )


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, else its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
