"""The sheet's records as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.harness import table

from .items import Part, Row
from .records import read_record

ITEMS = {"item": "{item}", "outcome": "{outcome}", "s": "{s:.1f}", "": "{text}"}
GOALS = {"goal": "{goal}", "figure": "{value:.3g}", "aimed at": "{limit}", "": "{verdict}"}


def report(folder: Path, parts: Sequence[Part]) -> str:
    """Returns the tables of every part whose record is there.

    Raises:
        FileNotFoundError: there is none.
        RecordError: one is damaged.
    """
    found = [(part, folder / f"{part.name}.json") for part in parts]
    there = [(part, read_record(path)) for part, path in found if path.is_file()]
    if not there:
        raise FileNotFoundError(f"{folder}: expected records of the sheet ({', '.join(p.name for p in parts)}.json).")
    return "\n\n".join(section(part, record) for part, record in there) + "\n"


def section(part: Part, record: Row) -> str:
    """Returns one part: where it was measured, its items, its goals, its tables."""
    where, of = record["where"], [state["of"] for state in record["items"].values() if "of" in state]
    commits, torches = (", ".join(dict.fromkeys(str(one[key]) for one in of)) for key in ("commit", "torch"))
    seconds, date = sum(call.get("seconds", 0) for call in record["calls"]), record["calls"][-1]["date"]
    head = f"{where['hardware']}; torch {torches}; commit {commits}; {seconds:.0f} s, until {date}"
    if where["tiny"]:
        head += "; with --tiny: sizes are smaller than the names say; the figures are not measurements"
    items = table(ITEMS, [item_row(*item) for item in record["items"].items()])
    lines = [f"## {part.title}", "", head + ".", "", items]
    if record["goals"]:
        lines += ["", table(GOALS, [{**g, "verdict": "met" if g["met"] else "**missed**"} for g in record["goals"]])]
    for name, state in record["items"].items():
        if state["status"] == "passed" and part.name in TABLES:
            lines += TABLES[part.name](name, state["result"])
    return "\n".join(lines)


def item_row(name: str, state: Row) -> Row:
    """Returns an item as a row: its outcome, how long it took, and the line that it printed or its error."""
    text = state.get("error") or state.get("result", {}).get("line", "")
    text = text.replace("|", "/").replace("\n", " ")
    return {"item": name, "outcome": state["status"], "s": state.get("seconds", 0), "text": text}


def loss_table(name: str, result: Row) -> list[str]:
    """Returns the times of one shape."""
    rows = [
        {**row, "what": f"{what} (not captured)" if what in result["without_graph"] else what}
        for what, row in result["rows"].items()
    ]
    columns = {
        "what": "{what}",
        "on the device, ms": "{device_ms:.3f}",
        "one call, ms": "{call_ms:.3f}",
        "over traffic": "{over_traffic:.2f}",
        "share of a copy's rate": "{share_of_copy:.0%}",
        "extra MiB": "{extra_mib:.1f}",
    }
    return ["", f"**{name}**", "", table(columns, rows)]


def step_table(name: str, result: Row) -> list[str]:
    """Returns the steps of one item, or the longest kernels of the profile."""
    if "kernels" in result:
        kernels = {"kernel": "`{kernel}`", "share": "{share:.1%}", "calls": "{calls:d}"}
        gaps = {"gap ms": "{ms:.3f}", "after": "`{after}`", "before": "`{before}`"}
        lines = ["", "**longest kernels of BPKD's step**", "", table(kernels, result["kernels"])]
        return [*lines, "", table(gaps, result["gaps"])]
    if "rows" not in result:
        return []
    columns = {
        "step": "{step}",
        "ms": "{ms:.1f}",
        "images/s": "{images_s:.1f}",
        f"time / {result['against']}": "{ratio:.3f}",
        "peak MiB": "{peak_mib:.0f}",
    }
    return ["", f"**{name}**", "", table(columns, [{"step": step, **row} for step, row in result["rows"].items()])]


def run_table(name: str, result: Row) -> list[str]:
    """Returns the evaluations of one training."""
    if "run" not in result:
        return []
    run = result["run"]
    head = f"**{name}**: {run['iterations']} iterations, {run['seconds_per_iteration']:.3f} s each"
    columns = {
        "iteration": "{iteration:d}",
        "mIoU": "{mIoU:.2f}",
        "trimap mIoU (w = 3)": "{trimap_w3:.2f}",
        "Boundary IoU": "{boundary_IoU:.2f}",
    }
    return ["", head, "", table(columns, result["evaluations"])]


TABLES: dict[str, Callable[[str, Row], list[str]]] = {"losses": loss_table, "step": step_table, "train": run_table}
