"""What distillation needs beside its keys: the meta-architectures that wrap a student, and the keys of one teacher."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from bpkd.tasks import TASKS

from .defaults import add_keys
from .distillers import add_distillers
from .keys.distillation import KEYS, TEACHER_KEYS

# Meta-architectures that train DISTILL.STUDENT with a teacher.
WRAPPERS = tuple(task.wrapper for task in TASKS)


def add_distillation(cfg: CN) -> None:
    """Adds the nodes TEACHER and DISTILL."""
    add_keys(cfg, KEYS)
    add_distillers(cfg)


def add_teacher_keys(node: CN) -> None:
    """Adds the keys that describe one teacher."""
    add_keys(node, TEACHER_KEYS)
