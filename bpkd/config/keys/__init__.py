"""Every config key that bpkd adds to Detectron2's or reads of them, declared once.

A key is one entry: `Key(name, default, kind, meaning)` in the module of its node. Defaults, checks, messages and
docs/reference/settings.md come from it (`python dev/settings_page.py` writes the page).
"""

from __future__ import annotations

from . import data, distillation, instances, model, solver, test
from .key import DETECTRON2, Key

KEYS: dict[str, Key] = {
    key.name: key for key in (*data.KEYS, *model.KEYS, *instances.KEYS, *solver.KEYS, *test.KEYS, *distillation.KEYS)
}

__all__ = ["DETECTRON2", "KEYS", "Key"]
