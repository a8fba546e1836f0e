"""The two tasks: what a config, a network and a data set say about them agrees."""

from __future__ import annotations

import pytest
from detectron2.modeling import META_ARCH_REGISTRY

import bpkd.modeling  # noqa: F401  (registers the meta-architectures)
from bpkd.cli.drawing import DRAWINGS
from bpkd.cli.export import WRITERS
from bpkd.config import WRAPPERS, get_bpkd_cfg
from bpkd.data import dataset_task, register_datasets
from bpkd.data.loader import EVALUATION, TRAINING
from bpkd.engine.predict import PREDICTORS
from bpkd.experiments.html import LAYERS
from bpkd.experiments.pictures import PREDICTIONS
from bpkd.experiments.report import PANELS
from bpkd.modeling import DistillationWrapper, task_of
from bpkd.tasks import INSTANCE, SEMANTIC, TASKS, Task


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_floor_has_a_part_for_every_task(task: Task) -> None:
    for table in (TRAINING, EVALUATION, PREDICTORS, PREDICTIONS, PANELS, LAYERS, DRAWINGS, WRITERS):
        assert task in table
    wrapper = META_ARCH_REGISTRY.get(task.wrapper)
    assert issubclass(wrapper, DistillationWrapper)
    assert task.wrapper in WRAPPERS
    cfg = get_bpkd_cfg()
    assert task.num_classes(cfg) > 0


def test_the_task_of_a_network_is_that_of_its_class() -> None:
    cfg = get_bpkd_cfg()
    assert task_of(cfg) is SEMANTIC
    cfg.MODEL.META_ARCHITECTURE = "SOLOv2"
    assert task_of(cfg) is INSTANCE
    cfg.MODEL.META_ARCHITECTURE, cfg.DISTILL.STUDENT = "InstanceDistiller", "SOLOv2"
    assert task_of(cfg) is INSTANCE
    cfg.DISTILL.STUDENT = "NoSuchNetwork"
    assert task_of(cfg) is SEMANTIC


def test_the_task_of_a_data_set() -> None:
    register_datasets(get_bpkd_cfg())
    assert dataset_task("procedural_train") is SEMANTIC
    assert dataset_task("procedural_objects_train") is INSTANCE
