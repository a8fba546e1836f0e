"""Old public names of `bpkd.modeling`: they work for one release, with a warning."""

from __future__ import annotations

import warnings
from typing import Any


def old_name(name: str) -> Any:
    """Returns the object that an old name of `bpkd.modeling` refers to.

    Raises:
        AttributeError: the name is unknown.
    """
    # Imported here: the package imports this module first.
    from bpkd.functional import upsampled_cross_entropy
    from bpkd.tasks import INSTANCE

    from .build import task_of
    from .teachers.build import build_teacher_model

    known: dict[str, tuple[Any, str]] = {
        "build_instance_teacher_model": (build_teacher_model, "build_teacher_model"),
        "predicts_instances": (lambda cfg: task_of(cfg) is INSTANCE, "task_of(cfg) is bpkd.tasks.INSTANCE"),
        "segmentation_loss": (upsampled_cross_entropy, "bpkd.functional.upsampled_cross_entropy"),
    }
    if name not in known:
        raise AttributeError(f"module 'bpkd.modeling' has no attribute {name!r}")
    value, new = known[name]
    warnings.warn(f"bpkd.modeling.{name} is now {new}.", DeprecationWarning, stacklevel=2)
    return value
