"""Runs the parts: every item in a process of its own with a time limit, its result written at once."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bpkd.config.machine import usable_cores

from .items import Item, Part, Row, Settings
from .processes import probe_device, stop, work
from .records import RecordError, locked, read_record

NINE_MINUTES = 540.0
POLL_SECONDS = 0.05
PROBE_SECONDS = 90.0
Progress = Callable[[str], None]


@dataclass
class Running:
    """An item that is being run."""

    item: Item
    process: BaseProcess
    began: float
    ends: float
    answer: Path


class Sheet:
    """Runs the parts of the sheet in their order, each item with a time limit, and writes their records."""

    def __init__(
        self, settings: Settings, *, seconds: float, resume: bool, progress: Progress, again: Sequence[str] = ()
    ) -> None:
        """Prepares the folders.

        Args:
            settings: options of the command line.
            seconds: time limit of the whole call.
            resume: whether to keep the results of an earlier call and run the rest.
            progress: callback that receives each line of progress.
            again: names of parts and items that are run again even if they have passed.
        """
        self.settings, self.seconds, self.resume, self.progress = settings, seconds, resume, progress
        self.again, self.signal = set(again), 0
        self.ends = time.monotonic() + seconds
        self.limit_factor = 20 if settings.tiny else 1  # with --tiny, where nothing is timed, time limits are wide
        self.facts: Row = {}
        self.names: list[str] = []
        self.share = 1.0  # available seconds over the planned seconds of all parts
        self.context: BaseContext = multiprocessing.get_context("fork")
        for folder in (settings.out, settings.work):
            folder.mkdir(parents=True, exist_ok=True)

    def run(self, parts: Sequence[Part]) -> int:
        """Runs the parts in their order; returns 0 where every item passed, else 1."""
        self.names = [part.name for part in parts]
        planned = sum(part.seconds for part in parts)
        self.share = self.seconds / (planned if all(part.seconds for part in parts) else NINE_MINUTES)
        with self.signals(), locked(self.settings.out):
            self.facts = self.probe()
            for part in parts:
                self.check_record(part)
            if self.settings.tiny:
                self.progress(
                    "--tiny: sizes and steps are smaller than the names say; the figures are not measurements"
                )
            counts = [self.run_part(part, later=parts[i + 1 :]) for i, part in enumerate(parts)]
        passed, whole = (sum(c[i] for c in counts) for i in (0, 1))
        self.progress(f"{passed} of {whole} items passed; records: {self.settings.out}")
        return 0 if passed == whole else 1

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Stores SIGINT, SIGTERM and SIGHUP, which `pause` raises: raised anywhere else they may get lost."""

        def remember(number: int, frame: Any) -> None:
            self.signal = number

        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def pause(self) -> None:
        """Waits a moment.

        Raises:
            KeyboardInterrupt: a signal came.
        """
        time.sleep(POLL_SECONDS)
        if self.signal:
            raise KeyboardInterrupt(signal.Signals(self.signal).name)

    def where(self) -> Row:
        """Returns the device, size and hardware, which must be the same in all records of a folder."""
        hardware = self.facts["hardware"]
        place = ", ".join(hardware["gpus"]) if self.settings.device == "cuda" else hardware["cpu"]
        return {"device": self.settings.device, "tiny": self.settings.tiny, "hardware": place}

    def check_record(self, part: Part) -> None:
        """Checks that a part's earlier record can be continued.

        Raises:
            RecordError: it is damaged, or of another device, size or hardware.
        """
        path = self.settings.out / f"{part.name}.json"
        if not (self.resume and path.is_file()):
            return
        of = read_record(path)["where"]
        if of != self.where():
            raise RecordError(f"{path}: expected a record of {self.where()}, got one of {of}. Choose another OUT.")

    def probe(self) -> Row:
        """Returns the environment as a child process sees it; the parent must not touch the GPU before it forks.

        Raises:
            RecordError: no process can use the device.
        """
        reason = ""
        for method in ("fork", "spawn"):
            self.context = multiprocessing.get_context(method)
            item = Item("probe", probe_device, PROBE_SECONDS)
            state = self.run_alone("probe", item)
            if state["status"] == "passed":
                return {**state["result"], "start_method": method}
            reason = state.get("error", state["status"])
        advice = " Without a GPU: --device cpu --tiny." if self.settings.device == "cuda" else ""
        raise RecordError(f"--device {self.settings.device}: expected a device that computes, got: {reason}.{advice}")

    def run_alone(self, part: str, item: Item) -> Row:
        """Runs one item and returns its state."""
        running = self.start(part, item, time.monotonic() + item.seconds)
        try:
            while running.process.is_alive() and time.monotonic() < running.ends:
                self.pause()
        finally:
            state = self.finish(running)
        return state

    def limit_of(self, part: Part, later: Sequence[Part]) -> float:
        """Returns the time by which a part has to end: after its share of the time, or before the later parts."""
        if part.seconds:
            return min(self.ends, time.monotonic() + self.share * part.seconds)
        return self.ends - self.share * sum(p.seconds for p in later)

    def run_part(self, part: Part, later: Sequence[Part] = ()) -> tuple[int, int]:
        """Runs a part; returns how many of its items have passed, and how many it has."""
        began, ends = time.monotonic(), self.limit_of(part, later)
        record = self.record(part)
        try:
            items = part.items(self.settings)
        except Exception as error:
            items = [Item("part", partial(reraise, error), PROBE_SECONDS)]
        done: dict[str, Row] = record["items"]
        fresh = {name for name in done if {part.name, name} & self.again}
        waiting = [item for item in items if done.get(item.name, {}).get("status") != "passed" or item.name in fresh]
        for item in waiting:
            done.pop(item.name, None)
        running: list[Running] = []
        try:
            while waiting or running:
                self.start_more(part, waiting, running, done, ends)
                self.pause()
                for one in [r for r in running if not r.process.is_alive() or time.monotonic() > r.ends]:
                    running.remove(one)
                    done[one.item.name] = state = self.finish(one)
                    self.write(part, record, items, began)
                    self.progress(item_line(part.name, one.item.name, state))
        finally:
            for one in running:
                stop(one.process)
                done[one.item.name] = {"status": "stopped", "seconds": round(time.monotonic() - one.began, 1)}
            for item in waiting:
                done.setdefault(item.name, {"status": "not reached"})
            self.write(part, record, items, began)
        passed = sum(done[item.name]["status"] == "passed" for item in items)
        self.progress(
            f"{part.name}: {passed} of {len(items)} passed in {time.monotonic() - began:.0f} s{self.goals_met(part)}"
        )
        return passed, len(items)

    def start_more(
        self, part: Part, waiting: list[Item], running: list[Running], done: dict[str, Row], ends: float
    ) -> None:
        """Starts the items that can run now; those that can no longer run get their state."""
        most = self.processes(part)
        for item in list(waiting):
            now = time.monotonic()
            states = {name: done[name]["status"] for name in item.needs if name in done}
            lacking = [name for name, status in states.items() if status != "passed"]
            if now >= ends or lacking:
                why = f"needs {lacking[0]}" if lacking else "no time was left"
                waiting.remove(item)
                done[item.name] = {"status": "not reached", "error": why}
                self.progress(item_line(part.name, item.name, done[item.name]))
            elif len(running) < most and len(states) == len(item.needs):
                waiting.remove(item)
                running.append(self.start(part.name, item, min(ends, now + item.seconds * self.limit_factor)))

    def processes(self, part: Part) -> int:
        """Returns how many items of a part run at a time; with --tiny several, since nothing is timed."""
        if self.settings.tiny:
            return min(8, usable_cores())
        return max(1, min(12, usable_cores() * 3 // 4)) if part.parallel else 1

    def start(self, part: str, item: Item, ends: float) -> Running:
        """Starts one item in a process."""
        answer = self.settings.work / "answers" / f"{part}-{item.name.replace(' ', '_').replace('/', '_')}.json"
        answer.parent.mkdir(parents=True, exist_ok=True)
        answer.unlink(missing_ok=True)
        began = time.monotonic()
        arguments = (item.call, self.settings, ends - began, answer, f"{part}: {item.name}")
        process: Any = self.context.Process(target=work, args=arguments)  # type: ignore[attr-defined]
        process.start()
        return Running(item, process, began, ends, answer)

    def finish(self, running: Running) -> Row:
        """Ends an item's process and returns its state."""
        late = running.process.is_alive()
        stop(running.process)
        spent = time.monotonic() - running.began
        state: Row = {"status": "died", "error": f"its process ended with status {running.process.exitcode}"}
        if late:
            state = {"status": "too long", "error": f"stopped after {spent:.1f} s"}
        if running.answer.is_file():
            state = json.loads(running.answer.read_text())
        versions, date = self.facts.get("versions", {}), datetime.now(timezone.utc).isoformat(timespec="seconds")
        of = {"commit": self.facts.get("commit"), "torch": versions.get("torch"), "date": date}
        return {**state, "seconds": round(spent, 2), "of": of}

    def record(self, part: Part) -> Row:
        """Returns the part's record: an earlier call's items, this call's environment."""
        path = self.settings.out / f"{part.name}.json"
        before = read_record(path) if self.resume and path.is_file() else {"items": {}, "calls": []}
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        call = {"date": date, "commit": self.facts["commit"], "minutes": self.seconds / 60, "parts": self.names}
        head = {"part": part.name, "where": self.where(), "environment": self.facts}
        return {**head, "calls": [*before["calls"], call], "items": before["items"]}

    def write(self, part: Part, record: Row, items: Sequence[Item], began: float) -> None:
        """Writes the part's record, whole or not at all, its items in their order."""
        done: dict[str, Row] = record["items"]
        order = [item.name for item in items if item.name in done]
        rest = [name for name in done if name not in order]
        record["calls"][-1]["seconds"] = round(time.monotonic() - began, 1)
        whole = {**record, "goals": self.goals(part, done)}
        whole["items"] = {name: done[name] for name in (*order, *rest)}
        path = self.settings.out / f"{part.name}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(whole, indent=1) + "\n")
        temporary.replace(path)

    def goals(self, part: Part, done: dict[str, Row]) -> list[Row]:
        """Returns the goals, each with its figure and whether it is met; with --tiny there are none."""
        if self.settings.tiny:
            return []
        try:
            return [goal.row() for goal in part.goals(results(done))]
        except Exception:
            self.progress(f"  {part.name}: its goals cannot be compared: {traceback.format_exc()}")
            return []

    def goals_met(self, part: Part) -> str:
        """Returns how many goals were met, for the part's line."""
        goals = json.loads((self.settings.out / f"{part.name}.json").read_text())["goals"]
        return f"; {sum(g['met'] for g in goals)} of {len(goals)} goals met" if goals else ""


def results(done: dict[str, Row]) -> dict[str, Row]:
    """Returns what the passed items returned, by name."""
    return {name: state["result"] for name, state in done.items() if state["status"] == "passed"}


def item_line(part: str, name: str, state: Row) -> str:
    """Returns the line of progress about an item's outcome."""
    text = state.get("result", {}).get("line") if state["status"] == "passed" else state.get("error", "")
    return f"  {part}: {name}: {state['status']} ({state.get('seconds', 0):.1f} s){': ' + text if text else ''}"


def reraise(error: Exception, settings: Settings, seconds: float) -> Row:
    """Raises an error of building the items, so that it is recorded as an item's."""
    raise error
