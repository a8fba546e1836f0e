"""Data sets, augmentation and loaders."""

from bpkd.extras import need_detectron2

need_detectron2(__name__)

from .catalog import register_datasets
from .check import Survey, check_dataset, survey_dataset
from .classes import check_class_count, dataset_task
from .files import DatasetError
from .loader import build_test_loader, build_train_loader
from .overlap import shared_images

__all__ = [
    "DatasetError",
    "Survey",
    "build_test_loader",
    "build_train_loader",
    "check_class_count",
    "check_dataset",
    "dataset_task",
    "register_datasets",
    "shared_images",
    "survey_dataset",
]
