"""Loaders whose batches depend on the seed and the position only, not on workers, processes or interruptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch.utils.data import DataLoader, Dataset, Sampler

from bpkd.config import image_range, loader_workers
from bpkd.tasks import INSTANCE, SEMANTIC

from .batch import Batch
from .classes import check_class_count, check_same_classes, dataset_task
from .files import DatasetError
from .instances import InstanceEvalMapper, InstanceTrainMapper
from .mapper import Edges, EvalMapper, TrainMapper

TrainMap = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]
EvalMap = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def naming(item: dict[str, Any]) -> Iterator[None]:
    """Adds the name of the file to an error that does not hold it, such as one of a loader worker.

    Raises:
        DatasetError: anything went wrong with the item.
    """
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(f"{item['file_name']}: {type(error).__name__}: {error}") from error


class PositionSampler(Sampler[list[int]]):
    """Yields endless batches of positions in the training stream, from a given iteration on.

    Batch b holds the positions [b B, (b + 1) B); each of R processes takes B / R of them in the order of ranks.
    """

    def __init__(self, *, batch_size: int, start: int, rank: int, world_size: int) -> None:
        """Takes the total batch size B, the first batch, the rank and the number of processes.

        Raises:
            ValueError: B is not a multiple of the number of processes.
        """
        if batch_size % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH: expected a multiple of the {world_size} processes, got {batch_size}."
            )
        self.batch_size, self.start = batch_size, start
        self.share = batch_size // world_size
        self.offset = rank * self.share

    def __iter__(self) -> Iterator[list[int]]:
        """Yields this process's positions, batch after batch."""
        batch = self.start
        while True:
            first = batch * self.batch_size + self.offset
            yield list(range(first, first + self.share))
            batch += 1


class TrainStream(Dataset[dict[str, Any]]):
    """The training stream: position p is item p mod n of epoch p // n's permutation, augmented from (seed, p).

    With ``repeat`` the stream consists of the first ``repeat`` samples, again and again.
    """

    def __init__(self, items: list[dict[str, Any]], mapper: TrainMap, seed: int, *, repeat: int = 0) -> None:
        """Takes dataset dicts, mapper, seed, and the number of samples after which the stream repeats (0: never)."""
        self.items, self.mapper, self.seed, self.repeat = items, mapper, seed, repeat
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Returns the sample at a position, which it names as ``position``."""
        position = position % self.repeat if self.repeat else position
        epoch, place = divmod(position, len(self.items))
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, 1, epoch))
            self._epoch, self._order = epoch, rng.permutation(len(self.items))
        item = self.items[self._order[place]]
        with naming(item):
            sample = self.mapper(item, np.random.default_rng((self.seed, 2, position)))
        return {**sample, "position": position}


class EvalDataset(Dataset[dict[str, Any]]):
    """Test images of one process."""

    def __init__(self, items: list[dict[str, Any]], mapper: EvalMap) -> None:
        """Takes dataset dicts and mapper."""
        self.items, self.mapper = items, mapper

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns one image."""
        with naming(self.items[index]):
            return self.mapper(self.items[index])


def _one_thread(worker: int) -> None:
    # Workers are processes: with threads of their own they would compete for the cores.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def build_train_loader(
    cfg: CfgNode, *, start_iter: int = 0, rank: int = 0, world_size: int = 1, edges: Edges | None = None
) -> DataLoader[dict[str, Any]]:
    """Builds the endless training loader.

    Args:
        cfg: DATASETS.TRAIN, INPUT, SOLVER.IMS_PER_BATCH (over all processes), SOLVER.ACCUMULATE, SEED,
            DATALOADER.NUM_WORKERS (see `loader_workers`) and REPEAT.
        start_iter: Iteration to start at.
        rank: Rank of this process.
        world_size: Number of processes.
        edges: Function from augmented labels to their edges, called by the loader's workers (``edge_rows`` of the
            sample); None: edges are not computed.

    Returns:
        Loader of lists of dicts.

    Raises:
        ValueError: the batch does not divide, the training sets have different classes, or ``edges`` is given for
            instances.
        DatasetError: no image of the training sets has an instance.
    """
    items, mapper = TRAINING[dataset_task(cfg.DATASETS.TRAIN[0])](cfg, edges)
    sampler = PositionSampler(
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        start=start_iter * cfg.SOLVER.ACCUMULATE,
        rank=rank,
        world_size=world_size,
    )
    workers = loader_workers(cfg.DATALOADER.NUM_WORKERS, device=cfg.MODEL.DEVICE)
    return DataLoader(
        TrainStream(items, mapper, cfg.SEED, repeat=cfg.DATALOADER.REPEAT),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=Batch,
        worker_init_fn=_one_thread,
        persistent_workers=workers > 0,
        pin_memory=torch.device(cfg.MODEL.DEVICE).type == "cuda",
    )


def build_test_loader(cfg: CfgNode, name: str, *, rank: int = 0, world_size: int = 1) -> DataLoader[dict[str, Any]]:
    """Builds the loader of this process's share of a test set, one image per batch."""
    items = DatasetCatalog.get(name)[rank::world_size]
    mapper = EVALUATION[dataset_task(name)](cfg, name)
    return DataLoader(
        EvalDataset(items, mapper),
        batch_size=1,
        num_workers=loader_workers(cfg.DATALOADER.NUM_WORKERS, device=cfg.MODEL.DEVICE),
        collate_fn=Batch,
        worker_init_fn=_one_thread,
    )


def _semantic_training(cfg: CfgNode, edges: Edges | None) -> tuple[list[dict[str, Any]], TrainMap]:
    names = cfg.DATASETS.TRAIN
    items = [item for name in names for item in DatasetCatalog.get(name)]
    check_same_classes(names)
    tables = [MetadataCatalog.get(name).label_table for name in names]
    if any(table != tables[0] for table in tables):
        raise ValueError(f"DATASETS.TRAIN: expected sets with the same mask values, got {list(names)}.")
    return items, TrainMapper.from_config(cfg, list(tables[0]), edges=edges)


def _instance_training(cfg: CfgNode, edges: Edges | None) -> tuple[list[dict[str, Any]], TrainMap]:
    names = cfg.DATASETS.TRAIN
    items = [item for name in names for item in DatasetCatalog.get(name)]
    if edges is not None:
        raise ValueError(f"edges: expected data sets with {SEMANTIC.labels}, got {INSTANCE.labels} ({names[0]}).")
    check_same_classes(names)
    check_class_count(cfg, names[0], read=True)
    kept = [item for item in items if any(not one.get("iscrowd", 0) for one in item["annotations"])]
    if not kept:
        raise DatasetError(f"{', '.join(names)}: none of {len(items)} images has an instance.")
    return (kept if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else items), InstanceTrainMapper.from_config(cfg)


def _semantic_evaluation(cfg: CfgNode, name: str) -> EvalMap:
    box = (cfg.INPUT.TEST_BOX[0], cfg.INPUT.TEST_BOX[1])
    return EvalMapper(cfg.INPUT.FORMAT, MetadataCatalog.get(name).label_table, box, span=image_range(cfg))


def _instance_evaluation(cfg: CfgNode, name: str) -> EvalMap:
    check_class_count(cfg, name, read=True)
    return InstanceEvalMapper.from_config(cfg)


# What a loader reads and how an item becomes a sample, by the task of the data set.
TRAINING = {SEMANTIC: _semantic_training, INSTANCE: _instance_training}
EVALUATION = {SEMANTIC: _semantic_evaluation, INSTANCE: _instance_evaluation}
