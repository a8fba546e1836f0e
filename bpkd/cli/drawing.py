"""Draws the pictures of `bpkd visualize`: edges, predictions of checkpoints side by side, errors at boundaries."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bpkd.analysis.instances import instance_edge_levels, instance_panels
from bpkd.analysis.overlays import edge_levels, side_by_side
from bpkd.analysis.plots import panels
from bpkd.data.annotations import dataset_dicts, read_objects
from bpkd.data.files import DatasetError, check_sizes, read_image, read_label, read_raw_label
from bpkd.data.instances import label_masks
from bpkd.engine.predict import InstancePredictor, Predictor, list_images, predictor
from bpkd.files import replacing
from bpkd.functional.edges import window_side
from bpkd.listing import IMAGE_FORMATS, output_file, output_names, some
from bpkd.metrics.folders import pair_files
from bpkd.tasks import INSTANCE, SEMANTIC, Task

# File suffix of --labels -> their task; all others are folders of label maps.
LABELS = {".json": INSTANCE}
FORMATS = {SEMANTIC: "label maps", INSTANCE: "COCO's JSON"}


def draw_all(args: Any) -> int:
    """Draws every image; returns how many there were.

    Args:
        args: arguments of `bpkd visualize`.

    Raises:
        ValueError: images, labels and networks do not fit.
    """
    networks = load(args)
    args.kernel_size = args.kernel_size or edge_width(networks)
    return DRAWINGS[drawn_task(args, networks)](args, networks)


def draw_semantic(args: Any, networks: dict[str, Predictor]) -> int:
    """Draws every image of semantic segmentation; returns how many there were."""
    if args.labels:
        ends = {"prediction_suffix": args.image_suffix, "label_suffix": args.label_suffix}
        pairs = pair_files(args.images, args.labels, what="image", extensions=IMAGE_FORMATS, **ends)
        files = {n: {"file_name": str(i), "sem_seg_file_name": str(t)} for n, i, t in pairs}
    else:
        images = output_names(list_images(args.images, without=[args.output]))
        files = {name: {"file_name": str(path)} for name, path in images.items()}
    for name, own in files.items():
        try:
            draw(args, networks, name, own)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return len(files)


def load(args: Any) -> dict[str, Any]:
    """Returns the networks by name: their runs' folders, counted where two are the same.

    Raises:
        ValueError: some are for instances and others are not.
    """
    configs = args.config_file or [""]
    configs = configs * len(args.weights) if len(configs) == 1 else configs
    networks: dict[str, Predictor | InstancePredictor] = {}
    for weights, config in zip(args.weights, configs, strict=True):
        network = predictor(weights, config, args.opts)
        name = network.name if network.name not in networks else f"{network.name}_{len(networks) + 1}"
        networks[name] = network
    if len({n.task for n in networks.values()}) > 1:
        raise ValueError("--weights: expected networks of one task, got some for instances and some for label maps.")
    return networks


def edge_width(networks: dict[str, Any]) -> int:
    """Returns the side of the window that the first network's config has for BPKD's edges."""
    first = next(iter(networks.values()), None)
    if first is None:
        return 7
    node = first.cfg.DISTILL.BPKD
    return window_side(node.KERNEL_SIZE, node.ITERATIONS)


def drawn_task(args: Any, networks: dict[str, Any]) -> Task:
    """Returns the task of the pictures: that of the networks and of the labels.

    Raises:
        ValueError: networks and labels do not fit.
    """
    labels = LABELS.get(args.labels.suffix.lower(), SEMANTIC) if args.labels else None
    network: Task | None = next((n.task for n in networks.values()), None)
    if network and labels and network is not labels:
        raise ValueError(f"--labels: expected {FORMATS[network]} for these --weights, got {FORMATS[labels]}.")
    return labels or network or SEMANTIC


def labelled(args: Any) -> dict[str, dict[str, Any]]:
    """Returns the dataset dicts of the images that are there, by the names of their outputs.

    Raises:
        ValueError: none is.
    """
    folder = args.images.parent if args.images.is_file() else args.images
    try:
        objects = read_objects(args.labels, folder)
    except DatasetError as error:
        raise ValueError(f"--labels: {error}") from error
    for note in objects.notes:
        print(f"note: {note}")
    items = dataset_dicts(objects, folder)
    paths = [Path(item["file_name"]) for item in items]
    wanted = {p for p in paths if p.is_file() and (folder == args.images or p.name == args.images.name)}
    if not wanted:
        first = f", the first is {paths[0].name}" if paths else ""
        raise ValueError(
            f"--images {args.images}: expected images that {args.labels} names ({len(paths)}{first}), got none."
        )
    if twice := [str(path) for path, count in Counter(paths).items() if count > 1 and path in wanted]:
        raise ValueError(f"--labels {args.labels}: expected each image once, got {some(twice)} more than once.")
    # A file_name may lead out of the folder, an output's does not.
    names = {os.path.relpath(path, folder).replace("..", "up"): path for path in paths if path in wanted}
    return _named(names, items)


def _named(files: dict[str, Path], items: Iterable[dict[str, Any]] = ()) -> dict[str, dict[str, Any]]:
    """Returns the dataset dicts of files, new ones where there are none, by the names of their outputs.

    Args:
        files: path inside the folder -> file.
        items: dataset dicts that are known.
    """
    known = {item["file_name"]: item for item in items}
    return {name: known.get(str(path), {"file_name": str(path)}) for name, path in output_names(files).items()}


def draw_instances(args: Any, networks: dict[str, InstancePredictor]) -> int:
    """Draws every image of instance segmentation; returns how many there were."""
    items = labelled(args) if args.labels else _named(list_images(args.images, without=[args.output]))
    for name, item in items.items():
        image = picture(item["file_name"], networks)
        row = {"image": image.transpose(2, 0, 1), "predictions": {}}
        if args.labels:
            check_sizes(item, image.shape[:2], (item["height"], item["width"]), "in the JSON")
            item["annotations"] = [{**one, "category_id": 0} for one in item["annotations"]]  # the class is not drawn
            row["truth"] = label_masks(item)
            draw_levels(args, networks, item, name)
        if networks:
            row["predictions"] = {key: network(item["file_name"], args.score) for key, network in networks.items()}
            instance_panels([row], output_file(args.output, name, "_predictions.png"))
    return len(items)


def picture(name: str, networks: dict[str, Any]) -> NDArray[np.uint8]:
    """Returns an image RGB [H, W, 3], as the first network reads it."""
    first = next(iter(networks.values()), None)
    bgr = first.read(name) if first else read_image({"file_name": name})
    return np.ascontiguousarray(bgr[..., ::-1])


def draw_levels(args: Any, networks: dict[str, InstancePredictor], item: Any, name: str) -> None:
    """Draws the edges of an image's objects."""
    if networks:
        image, levels, canvas = next(iter(networks.values())).levels(item)
    else:
        image, masks, step = picture(item["file_name"], networks), label_masks(item), max(args.strides)
        canvas = tuple(-(-side // step) * step for side in image.shape[:2])
        levels = [(f"edge at 1/{s}", masks, (canvas[0] // s, canvas[1] // s)) for s in args.strides]
    options = {"canvas": canvas, "kernel_size": args.kernel_size, "iterations": 1}
    instance_edge_levels(image, levels, output_file(args.output, name, "_edges.png"), **options)


def draw(args: Any, networks: dict[str, Predictor], name: str, files: dict[str, str]) -> None:
    """Draws one image."""
    image = picture(files["file_name"], networks)
    first = next(iter(networks.values()), None)
    ignored = 255 if first else args.ignore_index
    label = None
    if "sem_seg_file_name" in files:
        label = (
            read_label(files, first.label_table) if first else read_raw_label(files)
        ).copy()  # torch wants to write
        check_sizes(files, image.shape[:2], label.shape, "labels")
        rules = {"ignore_index": ignored, "ignore_mode": args.ignore_mode}
        path = output_file(args.output, name, "_edges.png")
        edge_levels(image, label, path, kernel_size=args.kernel_size, strides=args.strides, **rules)
    if first is None:
        return
    found = {key: network(files["file_name"]) for key, network in networks.items()}
    for key, ids in found.items():
        path = output_file(args.output, name, f"_{key}_ids.png")
        with replacing(path) as part:
            Image.fromarray(ids.astype(np.uint8)).save(part)
    path = output_file(args.output, name, "_predictions.png")
    if label is None:
        side_by_side(image, found, path, colors=first.colors, class_names=first.class_names)
        return
    row = {"image": image.transpose(2, 0, 1), "label": label, "predictions": found}
    panels([row], list(found), path, colors=first.colors, class_names=first.class_names, width=args.widths)


DRAWINGS: dict[Task, Callable[[Any, dict[str, Any]], int]] = {SEMANTIC: draw_semantic, INSTANCE: draw_instances}
