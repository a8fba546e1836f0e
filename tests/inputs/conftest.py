"""Fixtures of the tests of inputs."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_loggers(own_loggers: None) -> None:
    """Every test here may run a command in this process."""
