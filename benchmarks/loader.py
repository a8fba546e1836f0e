"""Time our training mapper beside mmsegmentation's pipeline on the same files: images per second of one core.

`python -m benchmarks.loader --peer-root SITE --cpu-time --json bench.json`; SITE is where mmsegmentation was installed
(docs/results/benchmarks_networks.md). Files are drawn scenes of each set's size and format, or with `--root` the
user's own. Both read
every file in every round, one after the other in turns; the ratio is the median of the rounds' own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from benchmarks import harness
from benchmarks.harness import ROOT, Row, pair_of, quartiles
from benchmarks.peers.mmseg_networks import import_mmseg
from benchmarks.peers.mmseg_pipeline import check_agreement, reduces_zero, their_item, their_pipeline
from bpkd.config import read_config
from bpkd.data import register_datasets
from bpkd.data.files import label_table
from bpkd.data.mapper import TrainMapper
from bpkd.data.procedural import make_scene

BASES = [str(ROOT / "configs" / p) for p in ("ade20k/Base-ADE20K.yaml", "cityscapes/Base-Cityscapes.yaml",
                                             "pascal_context59/Base-PascalContext59.yaml")]  # fmt: skip
# Beginning of a data set's name -> (height, width) and format of its usual image.
LIKE = {"ade20k": ((512, 683), ".jpg"), "cityscapes": ((1024, 2048), ".png"), "pascal": ((375, 500), ".jpg")}
OURS, THEIRS = "ours", "mmsegmentation"
COLUMNS = {
    "set": "{set}",
    "files": "{files}",
    "crop": "{crop[0]} x {crop[1]}",
    "ours images/s": "{ours_images_s:.1f}",
    "mmsegmentation images/s": "{mmsegmentation_images_s:.1f}",
    "ours / theirs": "{ratio:.2f}",
    "quartiles": pair_of("quartiles", ".2f"),
}
Item = dict[str, Any]


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
        row |= {"ratio": statistics.median(ratios), "quartiles": quartiles(ratios)}
    return {**row, "seconds": spent}


def describe(items: Sequence[Item], drawn: bool) -> str:
    """What the files are: drawn or the set's own, size and format of the first, mean KiB of an image."""
    height, width = cv2.imread(items[0]["file_name"]).shape[:2]
    kib = statistics.mean(os.path.getsize(item["file_name"]) for item in items) / 1024
    kind = "drawn" if drawn else "the set's own"
    return f"{len(items)} {kind}, {width} x {height} {Path(items[0]['file_name']).suffix[1:]}, {kib:.0f} KiB"


def benchmark(path: str, args: argparse.Namespace) -> Row:
    """The row of one config."""
    cfg = read_config(path, [*(["DATASETS.ROOT", str(args.root)] if args.root else []), *args.opts])
    with tempfile.TemporaryDirectory() as folder:
        items, mapper = prepare(cfg, args, Path(folder))
        spent = measure(sides(items, mapper, not args.no_rival), len(items), args.rounds, harness.clock_of(args))
        what = describe(items, not args.root)
    crop = list(mapper.augmentation.crop_size)
    return {"set": cfg.DATASETS.TRAIN[0], "files": what, "crop": crop, **summarise(spent, len(items))}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the arguments."""
    parser = harness.make_parser(__doc__, rounds=15, peers="folder in which mmsegmentation was installed")
    parser.set_defaults(threads=1)
    parser.add_argument("--config-file", nargs="+", default=BASES, help="whose training set and INPUT are taken")
    parser.add_argument("--root", type=Path, help="DATASETS.ROOT with your own files; else scenes are drawn")
    parser.add_argument("--no-rival", action="store_true", help="ours alone, without mmsegmentation")
    parser.add_argument("--files", type=int, default=12, help="files of each set")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the configs")
    args = harness.parse(parser, argv)
    if args.files < 1:
        parser.error("--files: expected at least 1")
    if not args.no_rival:
        try:
            import_mmseg(args.peer_root)
        except ImportError as error:
            parser.error(f"{error} Give that folder as --peer-root, or measure ours alone with --no-rival.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    args = parse(argv)
    cv2.setNumThreads(args.threads)
    np.random.seed(0)  # theirs
    names = () if args.no_rival else ("mmsegmentation", "mmengine", "mmcv-lite")
    record = harness.new_record(args, rival={name: version(name) for name in names})
    record["setting"]["opts"] = args.opts
    record["rows"] = [benchmark(path, args) for path in args.config_file]
    print(harness.table(COLUMNS, record["rows"]))
    harness.write_record(args.json, record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
