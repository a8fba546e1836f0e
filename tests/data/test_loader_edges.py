"""Edge masks that the loader makes: the loss and the gradient to the last bit, or a plain refusal."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import nn

from bpkd.distillers import BPKD, KD, LabelledEdges
from bpkd.engine import DistillationTrainer, load_config
from bpkd.engine.cache_teacher import record_teacher
from bpkd.engine.edges import loader_edges
from bpkd.functional import EdgeRule, SparseEdgeMask, class_edges, edges, use_backend
from bpkd.functional.backends.native import loader
from bpkd.modeling import SemanticDistiller, build_student
from bpkd.structures import SegOutput
from tests.helpers.engine_runs import largest_difference, stop_after, train, weights
from tests.helpers.golden_solov2 import REPO
from tests.helpers.label_maps import scenes
from tests.helpers.miniatures import blocks, photo, save_mask, save_photo
from tests.helpers.processes import spawn

CROP = (48, 48)
# Larger than the crop, smaller on one side, smaller on both.
SIZES = ((64, 80), (40, 90), (30, 36), (48, 48))
TEXT = """
VERSION: 2
MODEL:
  DEVICE: cpu
  RESNET_V1C: {{DEPTH: 18, WIDTH_MULTIPLIER: 0.125}}
  SEM_SEG_HEAD: {{CHANNELS: 16, NUM_CLASSES: 3, DROPOUT: 0.1}}
  AUX_HEAD: {{CHANNELS: 8}}
DATASETS:
  FOLDER: {{NAME: edged, ROOT: {root}, CLASSES: [a, b, c]}}
  TRAIN: [edged_train]
  TEST: [edged_val]
DATALOADER: {{NUM_WORKERS: 0}}
INPUT: {{CROP_SIZE: [48, 48], SCALE_RANGE: [0.75, 1.25], PHOTOMETRIC: False}}
SOLVER: {{IMS_PER_BATCH: 4, MAX_ITER: 3, CHECKPOINT_PERIOD: 2, LOG_PERIOD: 1, BASE_LR: 0.02}}
"""
WORKERS = ("DATALOADER.EDGE_MASKS", "workers")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pair.yaml of a student, a random teacher, and pictures of `SIZES` with ignored pixels, one ignored whole."""
    root, rng = tmp_path_factory.mktemp("edged"), np.random.default_rng(0)
    (root / "out").mkdir()
    for split in ("train", "val"):
        for i, size in enumerate(SIZES):
            label = blocks(rng, [0, 1, 2, 255], size) if i < 3 else np.full(size, 255, np.uint8)
            save_photo(root / split / "images" / f"{i}.png", photo(rng, label))
            save_mask(root / split / "masks" / f"{i}.png", label)
    (root / "student.yaml").write_text(TEXT.format(root=root))
    (root / "pair.yaml").write_text(
        "_BASE_: student.yaml\nMODEL: {META_ARCHITECTURE: SemanticDistiller}\nDISTILL: {METHOD: BPKD}\n"
        f"TEACHER: {{CONFIG_FILE: {root}/student.yaml, WEIGHTS: {root}/teacher.pth}}\n"
    )
    torch.manual_seed(7)
    torch.save({"model": build_student(load_config(str(root / "student.yaml"))).state_dict()}, root / "teacher.pth")
    return root / "pair.yaml"


def config(path: Path, *opts: str) -> CfgNode:
    return load_config(str(path), ["OUTPUT_DIR", str(path.parent / "out"), *opts])


def steps(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Losses and gradients of two batches, as the trainer would see them."""
    trainer, found = DistillationTrainer(cfg), []
    for batch in islice(trainer._trainer._data_loader_iter, 2):
        made = [item["edge_rows"].shape for item in batch if "edge_rows" in item]
        with monkeypatch.context() as patch:
            if cfg.DATALOADER.EDGE_MASKS == "workers":
                assert made == [(1, 3, 6, 6)] * 4
                patch.setattr(edges, "class_edges", lambda *_, **__: pytest.fail("looked for edges in the step"))
            else:
                assert not made
            trainer.model.zero_grad()
            torch.manual_seed(0)  # dropout
            losses = trainer.model(batch)
            sum(losses.values()).backward()
        found.append({**losses, **{n: p.grad.clone() for n, p in trainer.model.named_parameters()}})
    assert {tuple(item["sem_seg"].shape) == CROP for item in batch} == {True, False}  # padded ones are among them
    return found


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("opts", [(), ("DISTILL.METHOD", "CWD+BPKD", "DISTILL.BPKD.IGNORE_MODE", "transparent")])
def test_loss_and_gradient_are_those_of_masks_made_in_the_step(
    pair: Path, opts: tuple[str, ...], built: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not built:
        monkeypatch.setattr(loader, "_load", lambda: (None, "not built"))
    want, got = steps(config(pair, *opts), monkeypatch), steps(config(pair, *WORKERS, *opts), monkeypatch)
    for a, b in zip(want, got, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), [n for n in a if not torch.equal(a[n], b[n])]
        edge = next(v for k, v in a.items() if k.startswith("loss_kd") and k.endswith("edge"))
        assert float(edge.detach()) > 0


def test_two_workers_hand_over_the_same_rows(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = steps(config(pair, *WORKERS), monkeypatch)
    got = steps(config(pair, *WORKERS, "DATALOADER.NUM_WORKERS", "2"), monkeypatch)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(want, got, strict=True) for name in a)


def test_rows_of_one_sample_are_those_of_its_batch() -> None:
    """Any size up to the canvas's, cells of equal size or not; joined, pickled, with the extension and without."""
    rule = EdgeRule(5, 2, 3, "transparent")
    for size in ((6, 8), (7, 5)):
        images = [x[..., : 48 - 5 * i, : 64 - 7 * i] for i, x in enumerate(scenes(3, 48, 64).values())]
        images = [torch.where(x == 255, 3, x.long())[0] for x in images]
        batch = torch.full((len(images), 48, 64), 3)
        for whole, part in zip(batch, images, strict=True):
            whole[: part.shape[0], : part.shape[1]] = part
        want = class_edges(batch, 3, 5, size, iterations=2, ignore_index=3, ignore_mode="transparent")
        want = want.dense() if isinstance(want, SparseEdgeMask) else want
        for path in ("auto", "compiled", "eager"):
            with use_backend(path):
                rows = [rule.sample_mask(x, num_classes=3, canvas=(48, 64), size=size) for x in images]
            joined = SparseEdgeMask.cat([pickle.loads(pickle.dumps(one)) for one in rows])
            assert joined.shape == want.shape
            assert torch.equal(joined.dense(), want)
            assert len(joined.crow) == 3 * len(images) + 1
            assert (joined.index.dtype, joined.value.dtype) == (torch.int32, torch.float32)
    with pytest.raises(ValueError, match=r"expected at most the canvas \(48, 63\), got \(48, 64\)"):
        rule.sample_mask(batch[0], num_classes=3, canvas=(48, 63), size=(6, 6))
    with pytest.raises(ValueError, match=r"equal \[K, h, w\], got \[\(3, 6, 8\), \(3, 7, 5\)\]"):
        SparseEdgeMask.cat([rows[0], rule.sample_mask(images[0], num_classes=3, canvas=(48, 64), size=(6, 8))])
    with pytest.raises(ValueError, match="got none"):
        SparseEdgeMask.cat([])


def test_rows_are_read_off_a_map_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_load", lambda: (None, "not built"))
    mask = torch.rand(2, 3, 5, 7) * (torch.rand(2, 3, 5, 7) < 0.2)
    mask[0, 1] = mask[1, 2] = 0
    rows = SparseEdgeMask.of(mask)
    assert torch.equal(rows.dense(), mask)
    assert rows.crow.tolist() == [0, *mask.flatten(2).gt(0).sum(2).flatten().cumsum(0).tolist()]
    assert not len(SparseEdgeMask.of(torch.zeros(1, 2, 3, 3)).index)


def test_a_run_ends_at_the_same_weights(pair: Path, tmp_path: Path) -> None:
    """Recorded teacher, samples that come again, precise batch norm's own loader; broken off and resumed."""
    record_teacher(config(pair, "SOLVER.IMS_PER_BATCH", "2"), tmp_path / "recorded", samples=8)
    opts = ("TEACHER.CACHE", str(tmp_path / "recorded"), "DATALOADER.REPEAT", "8", "TEST.PRECISE_BN.ENABLED", "True")
    opts = (*opts, "TEST.PRECISE_BN.NUM_ITER", "2")
    train(pair, tmp_path / "step", *opts)
    (tmp_path / "workers").mkdir()
    first = DistillationTrainer(config(pair, "OUTPUT_DIR", str(tmp_path / "workers"), *opts, *WORKERS))
    first.resume_or_load(resume=False)
    first.after_step = stop_after(first, 2)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.train()
    train(pair, tmp_path / "workers", *opts, *WORKERS, resume=True)
    assert largest_difference(weights(tmp_path / "step"), weights(tmp_path / "workers")) == 0.0


def process(rank: int, path: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.set_num_threads(1)
    states = []
    for more in ((), (*WORKERS, "DATALOADER.NUM_WORKERS", "1")):
        trainer = DistillationTrainer(config(Path(path), *more))
        with EventStorage():
            for trainer._trainer.iter in range(2):
                trainer._trainer.run_step()
        states.append(trainer.student.state_dict())
    torch.save(states, f"{folder}/{rank}.pth")
    torch.distributed.destroy_process_group()


def test_two_processes_step_to_the_same_weights(pair: Path, tmp_path: Path) -> None:
    spawn(process, (str(pair), str(tmp_path)), 2)
    for rank in (0, 1):
        step, workers = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        assert largest_difference(step, workers) == 0.0


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("DATALOADER.EDGE_MASKS", "worker"), "EDGE_MASKS: expected one of step, workers, got 'worker'"),
        ((*WORKERS, "DISTILL.METHOD", "none"), r"expected a DISTILL.METHOD that reads edges \(BPKD\) .* got 'none'"),
        (
            (*WORKERS, "DISTILL.METHOD", "none", "MODEL.META_ARCHITECTURE", "BPKDSemanticSegmentor"),
            "got 'none' in BPKDSemanticSegmentor. Set DATALOADER.EDGE_MASKS step",
        ),
        (
            (*WORKERS, "INPUT.CROP_SIZE", "[0, 48]"),
            r"INPUT.CROP_SIZE: expected two whole numbers .*, got \[0, 48\]",
        ),
    ],
)
def test_a_config_without_use_for_them_is_refused(pair: Path, opts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(pair, *opts)


def test_methods_without_edges_are_refused(pair: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a DISTILL.METHOD that reads edges .* got 'CWD\+KD' with 0 kinds"):
        DistillationTrainer(config(pair, *WORKERS, "DISTILL.METHOD", "CWD+KD"))


def test_instances_are_refused() -> None:
    message = "expected semantic segmentation labels .* got InstanceDistiller: .* Set DATALOADER.EDGE_MASKS"
    with pytest.raises(ValueError, match=message):
        load_config(str(REPO / "projects/BPKD/configs/nuclei/tiny__bpkd.yaml"), [*WORKERS])


def test_teachers_of_different_sizes_are_refused(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"CONFIG_FILE": str(pair.parent / "student.yaml"), "WEIGHTS": str(pair.parent / "teacher.pth")}
    several = ("TEACHER.OTHERS", str([entry]), "TEACHER.COMBINE", "losses")
    cfg = config(pair, *WORKERS, *several)
    trainer = DistillationTrainer(cfg)
    assert trainer._edges is not None
    losses = trainer.model(next(trainer._trainer._data_loader_iter))
    assert float(losses["loss_kd_edge"].detach()) > 0
    second = trainer.model._teacher.teachers[1].model
    predict = second.predict
    monkeypatch.setattr(second, "predict", lambda x: SegOutput(nn.functional.avg_pool2d(predict(x).logits, 2)))
    with pytest.raises(ValueError, match=r"teachers with logits of one size, got \[\(3, 3\), \(6, 6\)\]"):
        loader_edges(cfg, trainer.model)


def batch_of(trainer: DistillationTrainer) -> list[dict[str, Any]]:
    return next(trainer._trainer._data_loader_iter)


def test_rows_that_do_not_fit_stop_the_step(pair: Path) -> None:
    trainer = DistillationTrainer(config(pair, *WORKERS))
    assert isinstance(trainer.model, SemanticDistiller)
    batch = batch_of(trainer)
    other = [{**item, "edge_rows": replace(item["edge_rows"], shape=(1, 3, 4, 9))} for item in batch]
    with pytest.raises(
        ValueError, match=r"logits' shape \(4, 3, 6, 6\), got \(4, 3, 4, 9\) from the data loader. DATAL"
    ):
        trainer.model(other)
    del batch[1]["edge_rows"]
    with pytest.raises(ValueError, match=r"of every sample or of none, got none of .*\.png"):
        trainer.model(batch)


def test_methods_that_read_labels_read_them_beside_edges() -> None:
    options = {"kernel_size": 5, "iterations": 2, "ignore_index": 3, "ignore_mode": "transparent"}
    assert BPKD(num_classes=3, **options).edge_rule == EdgeRule(5, 2, 3, "transparent")
    labels = torch.randint(0, 3, (2, 16, 16))
    labels[0, :8] = 255
    logits = [SegOutput(torch.randn(2, 3, 4, 4)) for _ in range(2)]
    for part in (KD(mask_ignored=True, num_classes=3), BPKD(num_classes=3)):
        rows = BPKD(num_classes=3).edge_rule.edges(labels, 3, (4, 4))
        rows = rows if isinstance(rows, SparseEdgeMask) else SparseEdgeMask.of(rows)
        plain, beside = part(*logits, labels), part(*logits, LabelledEdges(labels, rows))
        assert plain.keys() == beside.keys()
        assert all(torch.equal(plain[name], beside[name]) for name in plain)
