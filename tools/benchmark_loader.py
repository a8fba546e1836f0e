"""Time our training mapper beside mmsegmentation's pipeline on the same files: images per second of one core.

`python tools/benchmark_loader.py --peer-path SITE --cpu-time --json bench.json`; SITE is where mmsegmentation was
installed (docs/benchmarks.md). Files are drawn scenes of each set's size and format, or with `--root` the user's own.
Both read every file in every round, one after the other in turns; the ratio is the median of the rounds' own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from mmseg_networks import import_mmseg
from mmseg_pipeline import check_agreement, reduces_zero, their_item, their_pipeline

from bpkd.analysis.records import environment
from bpkd.config import read_config
from bpkd.data import register_datasets
from bpkd.data.files import label_table
from bpkd.data.mapper import TrainMapper
from bpkd.data.procedural import make_scene

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BASES = [str(CONFIGS / p) for p in ("ade20k/Base-ADE20K.yaml", "cityscapes/Base-Cityscapes.yaml",
                                    "pascal_context59/Base-PascalContext59.yaml")]  # fmt: skip
# Beginning of a data set's name -> (height, width) and format of its usual image.
LIKE = {"ade20k": ((512, 683), ".jpg"), "cityscapes": ((1024, 2048), ".png"), "pascal": ((375, 500), ".jpg")}
CPU_TIME = "count the processor time of this process: for a machine on which other programs take turns"
OURS, THEIRS = "ours", "mmsegmentation"
Item = dict[str, Any]
Row = dict[str, Any]


def draw_files(folder: Path, name: str, count: int, table: Sequence[int]) -> list[Item]:
    """Writes scenes as a data set stores its images, a corner of the labels ignored.

    Raises:
        ValueError: the set's usual image is not known.
    """
    like = next((LIKE[key] for key in LIKE if name.startswith(key)), None)
    if like is None:
        raise ValueError(f"{name}: expected a set like {', '.join(LIKE)}. Give your own files with --root.")
    (height, width), suffix = like
    items = []
    for i in range(count):
        scene = make_scene(0, i, height, width)
        stored = scene.labels + 1 if reduces_zero(table) else scene.labels.copy()
        stored[: height // 8, : width // 8] = 0 if reduces_zero(table) else 255
        image, mask = folder / f"{name}_{i}{suffix}", folder / f"{name}_{i}_label.png"
        cv2.imwrite(str(image), scene.image[..., ::-1])
        cv2.imwrite(str(mask), stored)
        items.append({"file_name": str(image), "sem_seg_file_name": str(mask)})
    return items


def real_files(name: str, count: int) -> list[Item]:
    """The set's first files. Cityscapes' labelTrainIds stand for labelIds, which mmsegmentation does not read.

    Raises:
        ValueError: there is none.
    """
    keys = ("file_name", "sem_seg_file_name")
    items = [{key: item[key].replace("_labelIds.", "_labelTrainIds.") for key in keys}
             for item in DatasetCatalog.get(name)[:count]]  # fmt: skip
    if not items:
        raise ValueError(f"{name}: expected images, found none.")
    return items


def prepare(cfg: CfgNode, args: argparse.Namespace, folder: Path) -> tuple[list[Item], TrainMapper]:
    """Files and our mapper for a config's training set."""
    register_datasets(cfg)
    name = cfg.DATASETS.TRAIN[0]
    found = MetadataCatalog.get(name)
    table = label_table({}, len(found.stuff_classes)) if name.startswith("cityscapes") else list(found.label_table)
    items = real_files(name, args.files) if args.root else draw_files(folder, name, args.files, table)
    return items, TrainMapper.from_config(cfg, table)


def sides(items: Sequence[Item], mapper: TrainMapper, rival: bool) -> dict[str, Callable[[int, int], object]]:
    """What is timed: (position in the stream, file) -> one sample; the same settings for both.

    Raises:
        ValueError: mmsegmentation has no such setting.
    """
    found: dict[str, Callable[[int, int], object]] = {
        OURS: lambda at, i: mapper(items[i], np.random.default_rng((0, 2, at)))
    }
    if rival:
        if not all(mapper.augmentation.resize_box):
            raise ValueError("INPUT.RESIZE_BOX: expected (width, height), which mmsegmentation's RandomResize needs.")
        check_agreement(items, mapper)
        pipeline = their_pipeline(mapper.augmentation, reduce_zero=reduces_zero(mapper.table))
        found[THEIRS] = lambda at, i: pipeline(their_item(items[i], mapper.table))
    return found


def measure(
    calls: dict[str, Callable[[int, int], object]], files: int, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every round for each side; they take turns at every file, and a first round is thrown away."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(-1, rounds):
        total = dict.fromkeys(calls, 0.0)
        for i in range(files):
            for name in list(calls)[:: 1 if (index + i) % 2 else -1]:
                start = clock()
                calls[name]((index + 1) * files + i, i)
                total[name] += clock() - start
        if index >= 0:
            for name, seconds in total.items():
                spent[name].append(seconds)
    return spent


def summarise(spent: dict[str, list[float]], files: int) -> Row:
    """Images per second of both, ratio (above 1: ours is faster) and its quartiles."""
    row: Row = {f"{name}_images_s": files / statistics.median(times) for name, times in spent.items()}
    if THEIRS in spent:
        ratios = [b / a for a, b in zip(spent[OURS], spent[THEIRS], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        row |= {"ratio": median, "quartiles": [low, high]}
    return {**row, "seconds": spent}


def table_of(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| set | files | crop | ours images/s | mmsegmentation images/s | ours / theirs | quartiles |"]
    lines.append("|---|---|---|---:|---:|---:|---|")
    for row in rows:
        cells = [row["set"], row["files"], "{} x {}".format(*row["crop"]), f"{row[f'{OURS}_images_s']:.1f}"]
        if "ratio" in row:
            cells += [f"{row[f'{THEIRS}_images_s']:.1f}", f"{row['ratio']:.2f}"]
            cells.append("{:.2f} - {:.2f}".format(*row["quartiles"]))
        else:
            cells += [""] * 3
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe(items: Sequence[Item], drawn: bool) -> str:
    """What the files are: drawn or the set's own, size and format of the first, mean KiB of an image."""
    height, width = cv2.imread(items[0]["file_name"]).shape[:2]
    kib = statistics.mean(os.path.getsize(item["file_name"]) for item in items) / 1024
    kind = "drawn" if drawn else "the set's own"
    return f"{len(items)} {kind}, {width} x {height} {Path(items[0]['file_name']).suffix[1:]}, {kib:.0f} KiB"


def benchmark(path: str, args: argparse.Namespace) -> Row:
    """The row of one config."""
    cfg = read_config(path, [*(["DATASETS.ROOT", str(args.root)] if args.root else []), *args.opts])
    clock = time.process_time if args.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        items, mapper = prepare(cfg, args, Path(folder))
        spent = measure(sides(items, mapper, not args.no_rival), len(items), args.rounds, clock)
        what = describe(items, not args.root)
    crop = list(mapper.augmentation.crop_size)
    return {"set": cfg.DATASETS.TRAIN[0], "files": what, "crop": crop, **summarise(spent, len(items))}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", nargs="+", default=BASES, help="whose training set and INPUT are taken")
    parser.add_argument("--root", type=Path, help="DATASETS.ROOT with your own files; else scenes are drawn")
    parser.add_argument("--peer-path", type=Path, help="folder in which mmsegmentation was installed")
    parser.add_argument("--no-rival", action="store_true", help="ours alone, without mmsegmentation")
    parser.add_argument("--files", type=int, default=12, help="of each set")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true", help=CPU_TIME)
    parser.add_argument("--json", type=Path, help="also write environment, setting and rows to this file")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs that override the configs")
    args = parser.parse_args(argv)
    if args.rounds < 2 or args.files < 1:
        parser.error("--rounds must be at least 2, since a spread needs two, and --files at least 1")
    if args.peer_path:
        sys.path.append(str(args.peer_path))  # last: the environment's own packages stay what they are
    if not args.no_rival:
        try:
            import_mmseg()
        except ImportError as error:
            parser.error(f"{error} Give that folder as --peer-path, or measure ours alone with --no-rival.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measures and prints."""
    args = parse(argv)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    np.random.seed(0)  # theirs
    left_out = ("json", "peer_path", "root", "config_file")  # places; the rows name the sets
    record: Row = {"environment": environment()}
    if not args.no_rival:
        record["rival"] = {name: version(name) for name in ("mmsegmentation", "mmengine", "mmcv-lite")}
    record["setting"] = {key: value for key, value in vars(args).items() if key not in left_out}
    record["rows"] = [benchmark(path, args) for path in args.config_file]
    print(table_of(record["rows"]))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
