"""Reuse of finished runs: a run in a folder is kept only if its config is the one of the new job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from bpkd.analysis.identity import difference
from bpkd.analysis.report import ALONE
from bpkd.config import get_bpkd_cfg, read_config, rename_tree, settled_record
from bpkd.distillers import DISTILLERS
from bpkd.engine.configure import load_config
from bpkd.engine.process_setup import is_automatic, precision_places
from bpkd.evaluation.identity import data_identity
from bpkd.paths import as_written

from .jobs import Job

# Keys of folders and of loading speed, which no result depends on.
PLACES = (
    "OUTPUT_DIR", "DATASETS.ROOT", "DATASETS.CHECK", "DATALOADER.NUM_WORKERS", "DATALOADER.EDGE_MASKS", "VERSION",
)  # fmt: skip
# Nodes that describe nothing while their NAME is empty.
OWN_DATA = ("DATASETS.FOLDER.", "DATASETS.COCO_FOLDER.")
# Prefixes of the keys that an evaluation of the teacher reads.
EVALUATION = ("DATASETS.", "INPUT.", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "TEACHER.", "TEST.")
TRACES = ("run.json", "last_checkpoint", "config.yaml", "inference_teacher/run.json")


class RunsExistError(ValueError):
    """The output folder holds runs, and ``resume`` is not set."""


class ConfigDifferenceError(ValueError):
    """A run in the output folder was made with another config; the message names the keys."""


def check_runs(jobs: Sequence[Job], *, resume: bool) -> None:
    """Compares the runs in the folder of the jobs with the jobs.

    Args:
        jobs: Jobs of one comparison; their folders lie side by side.
        resume: whether there may be runs; complete ones are kept, the others continued.

    Raises:
        RunsExistError: there are runs, and ``resume`` is False.
        ConfigDifferenceError: a run was made with another config.
    """
    root = jobs[0].output.parent
    found = sorted({p.relative_to(root).parts[0] for trace in TRACES for p in root.glob(f"*/{trace}")})
    if found and not resume:
        raise RunsExistError(
            f"{root} already holds runs ({', '.join(found[:6])}{', ...' if len(found) > 6 else ''}). Add --resume to "
            "keep what is complete and go on with the rest, or choose another --output."
        )
    complete = {job.name for job in jobs if job.record is not None}
    for job in jobs:
        if job.name in found:
            _check_run(job, complete)


def _check_run(job: Job, complete: set[str]) -> None:
    if job.late_opts and not complete.issuperset(job.after):
        missing = [name for name in job.after if name not in complete]
        raise ConfigDifferenceError(
            f"{job.output}: its iterations follow from {', '.join(missing)}, expected complete, got no record there. "
            "Remove this folder; it will be made anew."
        )
    recorded = recorded_config(job)
    if recorded is None:
        return
    # A complete run is not trained further, so its device does not matter.
    ignored = (*PLACES, "MODEL.DEVICE") if job.record else PLACES
    opts = ["OUTPUT_DIR", as_written(job.output), *job.opts]
    # "auto" names no precision: a run that is there keeps its own.
    automatic = [k for k, *place in precision_places(read_config(job.config_file, opts)) if is_automatic(*place)]
    wanted = yaml.safe_load(load_config(job.config_file, opts).dump())
    only = EVALUATION if job.evaluates else ()
    changed = differences(recorded, wanted, method=method(job), ignored=(*ignored, *automatic), only=only)
    if changed:
        shown = "; ".join(f"{k}: {a!r} there, {b!r} asked for" for k, (a, b) in list(changed.items())[:8])
        more = f"; and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise ConfigDifferenceError(
            f"{job.output} was made with another config ({shown}{more}). Ask for the same, remove this folder, or "
            "choose another --output."
        )
    _check_data(job, wanted["DATASETS"]["TEST"])


def _check_data(job: Job, test_sets: Sequence[str]) -> None:
    """Compares the data that a complete run was measured on with those that are there now, without reading labels."""
    recorded = (job.record or {}).get("data", {})
    if not test_sets or recorded.get("name") != test_sets[0]:
        return
    now = {k: v for k, v in data_identity(test_sets[0]).items() if k != "labels"}
    changed = difference(recorded, now)
    if changed:
        raise ConfigDifferenceError(
            f"{job.output} was measured on other data under the name {test_sets[0]}: they differ in the {changed}, "
            "there and here. Point DATASETS.ROOT to the same data, remove this folder, or choose another --output."
        )


def method(job: Job) -> str:
    """Returns DISTILL.METHOD of a job, "none" for the teacher."""
    pairs = dict(zip(job.fixed_opts[::2], job.fixed_opts[1::2], strict=True))
    return pairs.get("DISTILL.METHOD", ALONE)


def recorded_config(job: Job) -> dict[str, Any] | None:
    """Returns the config that a run was made with, None where nothing was written yet."""
    path = job.output / "config.yaml"
    if job.record is not None:
        return rename_tree(yaml.safe_load(job.record["config"]), warn=False)
    return rename_tree(yaml.safe_load(path.read_text()), warn=False) if path.is_file() else None


def differences(
    recorded: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    method: str,
    ignored: Sequence[str] = PLACES,
    only: Sequence[str] = (),
) -> dict[str, tuple[Any, Any]]:
    """Returns the keys whose values differ, of those that results depend on.

    A key that one side lacks has the default's value there: the run may be older than the key. Keys of data sets of
    one's own are compared where one has a name.

    Args:
        recorded: Config of the run, nested.
        wanted: Config of the new job.
        method: Method of the run; settings of other methods are not compared, nor the teacher's for "none".
        ignored: keys that are not compared.
        only: prefixes of the keys that are compared; empty: all.

    Returns:
        Dotted key -> (recorded, wanted).
    """
    default = flat(yaml.safe_load(get_bpkd_cfg().dump()))
    old, new = ({**default, **flat(settled_record(x))} for x in (recorded, wanted))
    others = tuple(f"DISTILL.{name}." for name in DISTILLERS if name not in method.split("+"))
    silent = (*others, "TEACHER.", "DISTILL.INSTANCE.") if method == ALONE and not only else others
    for side in (old, new):  # an older default, which says the same
        if side.get("DATASETS.FOLDER.IGNORE_INDEX") == -1:
            side["DATASETS.FOLDER.IGNORE_INDEX"] = 255
    keys = [k for k in sorted({*old, *new}) if k not in ignored and not k.startswith(silent)]
    unused = tuple(node for node in OWN_DATA if not (old[f"{node}NAME"] or new[f"{node}NAME"]))
    keys = [k for k in keys if not k.startswith(unused)]
    keys = [k for k in keys if not only or k.startswith(tuple(only))]
    return {k: (old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)}


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested config as {dotted key: value}, e.g. ``TEACHER.OTHERS[0].AMP`` for a list of mappings."""
    out: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            out.update(flat(value, f"{prefix}{key}."))
        elif isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            for i, entry in enumerate(value):
                out.update(flat(entry, f"{prefix}{key}[{i}]."))
        else:
            out[f"{prefix}{key}"] = value
    return out
