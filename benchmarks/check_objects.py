"""Time the whole check of objects in COCO's format, as training and `bpkd check-data` make it, and its peak memory.

`python -m benchmarks.check_objects --images 5000 --objects 50000 --json bench.json`. Images are JPEG files of 640 x
480, outlines polygons of 8 to 60 points and, one in ten, run lengths; all are drawn from a seed into a temporary
folder. The check runs in a process of its own, whose seconds include Python's and the libraries' start, and whose peak
memory is that of the process and its children.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from benchmarks import harness
from benchmarks.harness import ROOT

HEIGHT, WIDTH, PICTURES = 480, 640, 32
COLUMNS = {
    "images": "{images}",
    "objects": "{objects}",
    "seconds": "{seconds:.1f}",
    "of which processor time": "{cpu_seconds:.1f}",
    "peak memory, MiB": "{peak_mib:.0f}",
    "cores": "{cores}",
}


def outline(rng: np.random.Generator) -> list[float]:
    """Draws a star-shaped polygon inside the image, of COCO's usual sizes.

    Args:
        rng: source of the draw.
    """
    radius = float(np.exp(rng.uniform(np.log(5), np.log(150))))
    corners = int(rng.integers(8, 61))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = radius * rng.uniform(0.6, 1, corners)
    x = np.clip(rng.uniform(radius, WIDTH - radius) + radii * np.cos(angles), 0, WIDTH)
    y = np.clip(rng.uniform(radius, HEIGHT - radius) + radii * np.sin(angles), 0, HEIGHT)
    points: list[float] = np.stack([x, y], 1).round(2).ravel().tolist()
    return points


def annotation(number: int, image: int, rng: np.random.Generator) -> dict[str, Any]:
    """Draws an object; every tenth has compressed run lengths.

    Args:
        number: its id.
        image: id of its image.
        rng: source of the draw.
    """
    polygon = outline(rng)
    encoded = rle.merge(rle.frPyObjects([polygon], HEIGHT, WIDTH))
    xs, ys = polygon[::2], polygon[1::2]
    mask: Any = [polygon]
    if number % 10 == 0:
        mask = {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}
    return {
        "id": number, "image_id": image, "category_id": int(rng.integers(1, 11)), "iscrowd": 0, "segmentation": mask,
        "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], "area": int(rle.area(encoded)),
    }  # fmt: skip


def write_set(folder: Path, images: int, objects: int, seed: int) -> Path:
    """Writes images, annotations and a config that names them; returns the config.

    Args:
        folder: empty folder.
        images: number of images.
        objects: number of objects.
        seed: seed of all draws.
    """
    rng = np.random.default_rng(seed)
    (folder / "train").mkdir()
    pictures = [_picture(rng) for _ in range(min(PICTURES, images))]
    rows = []
    for i in range(images):
        (folder / "train" / f"{i:06d}.jpg").write_bytes(pictures[i % len(pictures)])
        rows.append({"id": i + 1, "file_name": f"{i:06d}.jpg", "height": HEIGHT, "width": WIDTH})
    found = [annotation(k + 1, k % images + 1, rng) for k in range(objects)]
    classes = [{"id": i, "name": f"class {i}"} for i in range(1, 11)]
    text = json.dumps({"images": rows, "annotations": found, "categories": classes})
    (folder / "instances_train.json").write_text(text)
    config = folder / "config.yaml"
    config.write_text(
        f"_BASE_: {ROOT}/configs/nuclei/solov2_tiny.yaml\n"
        "DATASETS:\n  TRAIN: [many_train]\n  TEST: []\n"
        f"  COCO_FOLDER: {{NAME: many, ROOT: {folder}, TRAIN_JSON: instances_train.json, TRAIN_IMAGES: train}}\n"
        "MODEL: {SOLOV2: {NUM_CLASSES: 10}}\n"
    )
    return config


def _picture(rng: np.random.Generator) -> bytes:
    """Returns a JPEG file of a photo's size and about a photo's detail."""
    coarse = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noisy = np.clip(picture + rng.integers(-12, 13, picture.shape), 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def measure(config: Path) -> dict[str, float]:
    """Runs `bpkd check-data` on a config in a process of its own; returns seconds and the peak memory in MiB.

    Args:
        config: config of the set.

    Raises:
        RuntimeError: the check found an error.
    """
    command = [sys.executable, "-m", "benchmarks.check_objects", "--check", str(config)]
    start, peak = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        while child.poll() is None:
            peak = max(peak, tree_mib(child.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if child.returncode:
        raise RuntimeError(f"check-data: expected no error, got {text[-500:]}")
    found: dict[str, float] = json.loads(text.splitlines()[-1])
    return {"seconds": seconds, **found, "peak_mib": max(peak, found["peak_mib"])}


def tree_mib(pid: int) -> float:
    """Returns the resident memory of a process and all its descendants in MiB; 0 where it has ended.

    Args:
        pid: number of the process.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0) / 1024
    return own + sum(tree_mib(int(child)) for child in children)


def check(config: str) -> int:
    """Checks a config's sets and prints this process's peak memory and processor time as the last line.

    Args:
        config: config of the set.
    """
    from bpkd.cli.main import run

    status = run("check-data", ["--config-file", config, "--draw", "0"])
    used = time.process_time()
    print(json.dumps({"cpu_seconds": used, "peak_mib": harness.status_mib("VmHWM")}))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; ``argv`` is the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000, help="number of images (default 5000)")
    parser.add_argument("--objects", type=int, default=50_000, help="number of objects (default 50000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write environment, setting and rows to it")
    parser.add_argument("--check", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.check:
        return check(args.check)
    with tempfile.TemporaryDirectory(prefix="bpkd-") as folder:
        config = write_set(Path(folder), args.images, args.objects, args.seed)
        row = {"images": args.images, "objects": args.objects, **measure(config), "cores": os.cpu_count()}
    record = {**harness.new_record(args), "rows": [row]}
    print(harness.table(COLUMNS, record["rows"]))
    harness.write_record(args.json, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
