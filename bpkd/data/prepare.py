"""Makes files that a downloaded data set lacks, in several processes; an interrupted call can be repeated."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from bpkd.files import replacing, write_text
from bpkd.listing import is_hidden

from .files import DatasetError
from .sets import ade20k, cityscapes, coco, pascal_context

Job = tuple[Path, Any]
"""The file to make, and what it is made from."""


def prepare(name: str, root: Path, workers: int) -> str:
    """Prepares a published data set below ``root``.

    Args:
        name: one of ``PREPARATIONS``.
        root: the folder that holds the data sets, as DATASETS.ROOT.
        workers: number of processes; 0: this one.

    Returns:
        A sentence that says what was done.

    Raises:
        DatasetError: the data set is not there, or a file of it is wrong.
    """
    return PREPARATIONS[name](root, workers)


def _cityscapes(root: Path, workers: int) -> str:
    where = cityscapes.place(root)
    where.check()
    jobs = []
    found = (where.folder / "gtFine").glob("*/*/*_gtFine_polygons.json")
    for polygons in sorted(path for path in found if not is_hidden(path.name)):
        stem = polygons.name.removesuffix("_gtFine_polygons.json")
        jobs.append((polygons.with_name(stem + cityscapes.TRAIN_LABEL), polygons))
    if not jobs:
        raise DatasetError(
            f"Cityscapes: expected polygons in {where.folder}/gtFine/<split>/<city>/*_gtFine_polygons.json, got none. "
            "They are in gtFine_trainvaltest.zip."
        )
    made = make_files(jobs, _draw_train_ids, workers)
    return (
        f"Cityscapes: {_counted(made, jobs)} *{cityscapes.TRAIN_LABEL}, for other programs: here labelIds are read as "
        "they are."
    )


def _draw_train_ids(polygons: Path, part: Path) -> None:
    """Draws the labelTrainIds of a file of polygons as Cityscapes' own createTrainIdLabelImgs does."""
    try:
        from cityscapesscripts.preparation.json2labelImg import json2labelImg
    except ImportError as error:
        raise DatasetError(
            "Cityscapes' scripts are needed to draw labelTrainIds: pip install cityscapesscripts"
        ) from error
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            json2labelImg(str(polygons), str(part), "trainIds")
    except (SystemExit, KeyError, TypeError, ValueError) as error:  # it exits where a label is unknown
        raise DatasetError(f"{polygons}: cannot be drawn ({said.getvalue().strip() or error}).") from error


def _pascal_context(root: Path, workers: int) -> str:
    where = pascal_context.place(root)
    where.check()
    annotated = list(pascal_context.read_annotations(where.folder / pascal_context.ANNOTATIONS))
    folder = where.folder / pascal_context.MASKS
    jobs: list[Job] = []
    splits: dict[str, list[str]] = {split: [] for split in pascal_context.PUBLISHED}
    for image, regions in annotated:
        if regions:
            stem = Path(image["file_name"]).stem
            jobs.append((folder / f"{stem}.png", (image, regions)))
            splits[image["phase"]].append(stem)
    folder.mkdir(exist_ok=True)
    made = make_files(jobs, _paint, workers)
    for split, names in splits.items():
        _write_list(where.folder / pascal_context.LISTS / f"{split}.txt", sorted(names))
    bare = (
        f"; {len(annotated) - len(jobs)} images without annotations are left out" if len(annotated) > len(jobs) else ""
    )
    counts = ", ".join(f"{len(names)} in {split}" for split, names in splits.items())
    return f"Pascal Context: {_counted(made, jobs)} masks in {folder} ({counts}{bare})."


def _paint(source: tuple[dict[str, Any], list[dict[str, Any]]], part: Path) -> None:
    Image.fromarray(pascal_context.paint(*source)).save(part)


def _write_list(path: Path, names: Sequence[str]) -> None:
    if path.is_file():
        if sorted(pascal_context.stems(path)) != list(names):
            raise DatasetError(
                f"{path}: exists with other images than the annotations name. Remove it to have it made."
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{name}\n" for name in names))


def _nothing_to_do(place: Callable[[Path], Any], why: str, root: Path, workers: int) -> str:
    where = place(root)
    where.check()
    return f"{where.title} in {where.folder}: nothing to prepare. {why}"


def make_files(jobs: Sequence[Job], make: Callable[[Any, Path], None], workers: int) -> int:
    """Makes the files that do not exist yet.

    A file gets its name when it is complete, so files of an interrupted call are complete and are kept.

    Args:
        jobs: files to make, with their sources.
        make: picklable function that writes the PNG of one job, from its source to a path.
        workers: number of processes; 0: this one.

    Returns:
        Number of files made.

    Raises:
        DatasetError: a source is wrong.
    """
    open_jobs = [job for job in jobs if not job[0].exists()]
    work = partial(_make_one, make)
    with contextlib.ExitStack() as stack:
        done: Iterable[None] = map(work, open_jobs)
        if workers and open_jobs:
            pool = ProcessPoolExecutor(max_workers=workers)
            stack.callback(pool.shutdown, cancel_futures=True)
            done = pool.map(work, open_jobs, chunksize=8)
        for _ in tqdm(done, "files", len(jobs), initial=len(jobs) - len(open_jobs), unit="file"):
            pass
    return len(open_jobs)


def _make_one(make: Callable[[Any, Path], None], job: Job) -> None:
    target, source = job
    with replacing(target) as part:
        make(source, part)


def _counted(made: int, jobs: Sequence[Job]) -> str:
    return f"made {made} and kept {len(jobs) - made} of {len(jobs)}"


PREPARATIONS: dict[str, Callable[[Path, int], str]] = {
    "ade20k": partial(
        _nothing_to_do, ade20k.place, "The release's annotations are read as they are: 0 is ignored, k becomes k - 1."
    ),
    "cityscapes": _cityscapes,
    "pascal_context": _pascal_context,
    "coco": partial(_nothing_to_do, coco.place, "The JSON files are read as they are."),
}
