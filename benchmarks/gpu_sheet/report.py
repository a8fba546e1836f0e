"""The sheet's records as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .items import Part, Row
from .records import read_record


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
    return "\n\n".join(chapter(part, record) for part, record in there) + "\n"


def chapter(part: Part, record: Row) -> str:
    """Returns one part: where it was measured, its items, its goals, its tables."""
    where, of = record["where"], [state["of"] for state in record["items"].values() if "of" in state]
    commits, torches = (", ".join(dict.fromkeys(str(one[key]) for one in of)) for key in ("commit", "torch"))
    seconds, date = sum(call.get("seconds", 0) for call in record["calls"]), record["calls"][-1]["date"]
    head = f"{where['hardware']}; torch {torches}; commit {commits}; {seconds:.0f} s, until {date}"
    if where["tiny"]:
        head += "; a walk through the code in small: sizes are not those of the names, no figure means anything"
    lines = [f"## {part.title}", "", head + ".", "", "| item | outcome | s | |", "|---|---|---:|---|"]
    for name, state in record["items"].items():
        text = state.get("error") or state.get("result", {}).get("line", "")
        text = text.replace("|", "/").replace("\n", " ")
        lines.append(f"| {name} | {state['status']} | {state.get('seconds', 0):.1f} | {text} |")
    if record["goals"]:
        lines += ["", "| goal | figure | aimed at | |", "|---|---:|---|---|"]
        lines += [
            f"| {g['goal']} | {g['value']:.3g} | {g['limit']} | {'met' if g['met'] else '**missed**'} |"
            for g in record["goals"]
        ]
    for name, state in record["items"].items():
        if state["status"] == "passed" and part.name in TABLES:
            lines += TABLES[part.name](name, state["result"])
    return "\n".join(lines)


def loss_table(name: str, result: Row) -> list[str]:
    """Returns the times of one shape."""
    lines = [
        "",
        f"**{name}**",
        "",
        "| what | on the device, ms | one call, ms | over traffic | share of a copy's rate | extra MiB |",
    ]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for what, row in result["rows"].items():
        extra = "" if row["extra_mib"] is None else f"{row['extra_mib']:.1f}"
        shown = f"{what} (not captured)" if what in result["without_graph"] else what
        cells = [shown, f"{row['device_ms']:.3f}", f"{row['call_ms']:.3f}", f"{row['over_traffic']:.2f}"]
        cells += [f"{100 * row['share_of_copy']:.0f} %", extra]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def step_table(name: str, result: Row) -> list[str]:
    """Returns the steps of one item, or the longest kernels of the profile."""
    if "kernels" in result:
        lines = ["", "**longest kernels of BPKD's step**", "", "| kernel | share | calls |", "|---|---:|---:|"]
        lines += [f"| `{k['kernel']}` | {100 * k['share']:.1f} % | {k['calls']} |" for k in result["kernels"]]
        lines += ["", "| gap ms | after | before |", "|---:|---|---|"]
        return lines + [f"| {g['ms']:.3f} | `{g['after']}` | `{g['before']}` |" for g in result["gaps"]]
    if "rows" not in result:
        return []
    lines = ["", f"**{name}**", "", f"| step | ms | images/s | time / {result['against']} | peak MiB |"]
    lines.append("|---|---:|---:|---:|---:|")
    for what, row in result["rows"].items():
        peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        cells = [what, f"{row['ms']:.1f}", f"{row['images_s']:.1f}", f"{row['ratio']:.3f}", peak]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def run_table(name: str, result: Row) -> list[str]:
    """Returns the evaluations of one training."""
    if "run" not in result:
        return []
    run = result["run"]
    lines = ["", f"**{name}**: {run['iterations']} iterations, {run['seconds_per_iteration']:.3f} s each", ""]
    lines += ["| iteration | mIoU | trimap mIoU (w = 3) | Boundary IoU |", "|---:|---:|---:|---:|"]
    for row in result["evaluations"]:
        scores = (f"{row[key]:.2f}" for key in ("mIoU", "trimap_w3", "boundary_IoU"))
        lines.append(f"| {row['iteration']} | " + " | ".join(scores) + " |")
    return lines


TABLES: dict[str, Callable[[str, Row], list[str]]] = {"losses": loss_table, "step": step_table, "train": run_table}
