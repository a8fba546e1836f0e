"""Time the whole check of objects in COCO's format, as training and `bpkd check-data` make it, and its peak memory.

`python -m benchmarks.check_objects --images 5000 --objects 50000 --json bench.json`. Images are JPEG files of 640 x 480,
outlines polygons of 8 to 60 points and, one in ten, run lengths; all are drawn from a seed into a temporary folder. The
check runs in a process of its own, whose seconds include Python's and the libraries' start, and whose peak memory is
that of the process and its children.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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
        f"DATASETS: {{TRAIN: [many_train], TEST: [], COCO_FOLDER: {{NAME: many, ROOT: {folder}}}}}\n"
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
    """Runs `bpkd check-data` on a config in a process of its own; returns seconds and peak memory in MiB.

    Args:
        config: config of the set.

    Raises:
        RuntimeError: the check found an error.
    """
    command = [sys.executable, "-m", "benchmarks.check_objects", "--check", str(config)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"check-data: expected no error, got {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": seconds, **found}


def check(config: str) -> int:
    """Checks a config's sets and prints this process's peak memory and processor time as the last line.

    Args:
        config: config of the set.
    """
    from bpkd.cli.main import run

    status = run("check-data", ["--config-file", config, "--draw", "0"])
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    used = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    print(json.dumps({"cpu_seconds": used, "peak_mib": (own.ru_maxrss + children.ru_maxrss) / 1024}))
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
    print(harness.table([row], COLUMNS))
    harness.write_record(args.json, {"setting": {"seed": args.seed}, "rows": [row]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
