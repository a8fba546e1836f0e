"""Hooks of the training loop that Detectron2 does not have."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from bpkd.structures import DISTILLATION_PREFIX

from .step import StepTrainer

logger = logging.getLogger(__name__)


class RunClock(HookBase):
    """Measures the time of training steps and of waiting for data; a resumed run continues the sums.

    Attributes:
        seconds: Seconds of all steps together.
        steps: seconds of the last thousand steps; their median is not affected by start-up and short disturbances.
        waits: seconds of the same steps in which the step waited for data.
    """

    def __init__(self, step: StepTrainer) -> None:
        """Starts at zero.

        Args:
            step: The trainer of single steps.
        """
        self.step = step
        self.seconds = 0.0
        self.steps: deque[float] = deque(maxlen=1000)
        self.waits: deque[float] = deque(maxlen=1000)
        self._start = 0.0

    def before_step(self) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Stops the clock."""
        self.steps.append(time.perf_counter() - self._start)
        self.waits.append(self.step.waited)
        self.seconds += self.steps[-1]

    def data_share(self) -> float | None:
        """Returns the fraction of the last thousand steps' time that was spent waiting for data; None: not known.

        It is the largest of all processes, each of which has to call this: the others wait for its gradients.
        """
        if not self.waits:  # all steps are of an older version, which did not note it
            return None
        known = list(self.steps)[-len(self.waits) :]
        return max(comm.all_gather(sum(self.waits) / sum(known)))

    def state_dict(self) -> dict[str, Any]:
        """Returns the seconds so far."""
        return {"seconds": self.seconds, "steps": list(self.steps), "waits": list(self.waits)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from saved seconds."""
        self.seconds = state_dict["seconds"]
        self.steps.extend(state_dict["steps"])
        self.waits.extend(state_dict.get("waits", ()))


class StopOnSignal(HookBase):
    """Ends a run on SIGINT or SIGTERM after the step, with a checkpoint; the same signal again ends it at once."""

    # Iterations between two collectives in which all processes agree to stop at the same iteration.
    AGREE_PERIOD = 10

    def __init__(self, checkpointer: Any) -> None:
        """Stores the checkpointer."""
        self.checkpointer = checkpointer
        self._received = 0
        self._previous: dict[int, Any] = {}

    def before_train(self) -> None:
        """Installs the signal handlers."""
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        except ValueError:
            logger.debug("Not in the main thread: signals are left alone.")

    def _receive(self, number: int, frame: Any) -> None:
        # A terminal's Ctrl-C reaches a run and its parent, which then asks the run to end: that is one request.
        if self._received == number:
            raise KeyboardInterrupt
        self._received = self._received or number
        logger.warning("Signal %d: saving after this iteration. Again to stop at once.", number)

    def after_step(self) -> None:
        """Saves and stops if a signal came."""
        stop = bool(self._received)
        if comm.get_world_size() > 1:
            if (self.trainer.iter + 1) % self.AGREE_PERIOD:
                return
            stop = any(comm.all_gather(stop))
        if stop and self.trainer.iter + 1 < self.trainer.max_iter:
            self.checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
            comm.synchronize()
            raise KeyboardInterrupt(f"after iteration {self.trainer.iter}")

    def after_train(self) -> None:
        """Restores the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class SilentTermError(RuntimeError):
    """A distillation term was exactly 0 in all first iterations; the message names it."""


class SilentTermGuard(HookBase):
    """Stops a run in which a distillation term is exactly zero in each of the first iterations, on all processes."""

    ITERATIONS = 20

    def __init__(self, step: StepTrainer, taps: Mapping[str, str]) -> None:
        """Watches ``step.values``.

        Args:
            step: The trainer of single steps.
            taps: the map that each distillation term compares, by term, for the message.
        """
        self.step, self.taps = step, taps
        self.watched = 0
        self.alive: dict[str, bool] = {}

    def after_step(self) -> None:
        """Records which terms were not 0, and checks them once, after ITERATIONS.

        Raises:
            SilentTermError: a term was 0 in all of them.
        """
        if self.trainer.iter != self.watched or self.watched >= self.ITERATIONS:
            return
        self.watched += 1
        for name, value in self.step.values.items():
            if name.startswith(DISTILLATION_PREFIX):
                self.alive[name] = self.alive.get(name, False) or value != 0
        if self.watched == self.ITERATIONS:
            everywhere = comm.all_gather(self.alive)  # a term may have nothing to do on one process alone
            silent = [name for name in self.alive if not any(one.get(name) for one in everywhere)]
            if silent:
                raise SilentTermError(self._message(silent))

    def _message(self, silent: list[str]) -> str:
        taps = [f"{name} (tap {self.taps.get(name.removeprefix(DISTILLATION_PREFIX), 'unknown')!r})" for name in silent]
        return (
            f"{', '.join(taps)}: exactly 0 in each of the first {self.ITERATIONS} iterations, so nothing is distilled "
            "through it. Check that the labels are not all ignored or of one class (bpkd visualize "
            "shows them), that TEACHER.WEIGHTS are not the student's own, and that the tapped maps differ. "
            "A term that you do not want has weight 0."
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns the iterations checked so far, and which terms were not 0."""
        return {"watched": self.watched, "alive": dict(self.alive)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of an interrupted run."""
        self.watched, self.alive = state_dict["watched"], dict(state_dict["alive"])


class MaskLossHint(HookBase):
    """Warns once that the masks of a network for instances do not learn, and says what usually helps."""

    AFTER, MEAN_OVER = 2000, 200

    def __init__(self, step: StepTrainer, weight: float) -> None:
        """Watches ``step.values["loss_mask"]``.

        Args:
            step: The trainer of single steps.
            weight: weight of the mask loss, which is its value where no predicted mask overlaps its instance.
        """
        self.step, self.limit = step, 2.8 / 3 * weight
        self.recent: deque[float] = deque(maxlen=self.MEAN_OVER)
        self.warned = False

    def after_step(self) -> None:
        """Compares the mean of the last iterations with the limit."""
        if "loss_mask" in self.step.values:
            self.recent.append(self.step.values["loss_mask"])
        if self.warned or self.trainer.iter + 1 < self.AFTER or len(self.recent) < self.MEAN_OVER:
            return
        mean = sum(self.recent) / len(self.recent)
        if mean > self.limit:
            self.warned = True
            logger.warning(
                "loss_mask is still %.2f after %d iterations, near its start. Usual causes: a learning rate too high "
                "for the batch (SOLVER.BASE_LR is meant for IMS_PER_BATCH 16: lower it in proportion), no ImageNet "
                "weights (MODEL.BACKBONE.WEIGHTS), instances that MODEL.SOLOV2.SCALE_RANGES or NUM_GRIDS do not fit "
                "(bpkd suggest-grids), wrong annotations (bpkd check-data).",
                mean,
                self.trainer.iter + 1,
            )
