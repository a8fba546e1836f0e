"""The two tasks, semantic and instance segmentation: what differs between them below the mathematics.

What differs in a layer of the package is in a table from a task to its own part: `bpkd.data.loader` (data sets and
mappers), `bpkd.evaluation.build` (evaluators), `bpkd.analysis.task` (figures), `bpkd.engine.predict` (predictors),
`bpkd.experiments` (predictions, panels, layers of the page), `bpkd.cli.drawing` (pictures) and `bpkd.cli.export`
(files). Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """A kind of segmentation: where configs, data sets and results keep what belongs to it."""

    name: str
    labels: str
    """What its data sets hold, for messages."""

    class_key: str
    """Config key of the number of classes."""

    metadata: str
    """Beginning of a data set's metadata keys: ``<metadata>_classes`` and ``<metadata>_colors``."""

    wrapper: str
    """Meta-architecture that trains a student with a teacher."""

    score: str
    """The figure that methods are ordered by."""

    def num_classes(self, cfg: Any) -> int:
        """Returns the number of classes of the network that a config describes."""
        node = cfg
        for part in self.class_key.split("."):
            node = node[part]
        return int(node)

    def class_names(self, metadata: Any) -> list[str]:
        """Returns the class names that a data set's metadata holds; empty where they are not known (yet)."""
        return list(metadata.get(f"{self.metadata}_classes") or ())


SEMANTIC = Task(
    name="semantic",
    labels="semantic segmentation labels",
    class_key="MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    metadata="stuff",
    wrapper="SemanticDistiller",
    score="mIoU",
)
INSTANCE = Task(
    name="instance",
    labels="instances",
    class_key="MODEL.SOLOV2.NUM_CLASSES",
    metadata="thing",
    wrapper="InstanceDistiller",
    score="AP",
)
TASKS = (SEMANTIC, INSTANCE)
