"""Hooks that log gradient norms and shares of the loss terms, and warn when a distillation term dominates."""

from __future__ import annotations

import logging
from collections.abc import Collection, MutableMapping, Sequence
from typing import Any

import torch
from detectron2.engine.train_loop import HookBase
from detectron2.utils.events import CommonMetricPrinter, EventStorage, get_event_storage
from torch import Tensor

from bpkd.functional import gradient_norm
from bpkd.modeling import DistillationWrapper
from bpkd.structures import DISTILLATION_PREFIX

logger = logging.getLogger(__name__)

SHARE = "loss_share_"


class Patience:
    """Reports, once per name, that a value has exceeded its limit for a number of iterations in a row."""

    def __init__(self, *, limit: float, patience: int) -> None:
        """Takes the limit, and the iterations in a row for which a value may exceed it."""
        self.limit, self.patience = limit, patience
        self._since: dict[str, int] = {}
        self._warned: set[str] = set()

    def exceeded(self, name: str, value: float, iteration: int) -> int:
        """Returns for how many iterations the value has exceeded the limit if a warning is due now, else 0."""
        if value <= self.limit:
            self._since.pop(name, None)
            return 0
        lasted = iteration - self._since.setdefault(name, iteration)
        if lasted < self.patience or name in self._warned:
            return 0
        self._warned.add(name)
        return lasted


class GradientMonitor(HookBase):
    """Logs the norm of each term's gradient with respect to the logits, and warns when it exceeds the task loss's.

    ``gradient_norm_<term>`` is the norm, ``gradient_ratio_<term>`` the norm over that of the task's own terms
    together (``loss_ce``; of SOLOv2 its category and mask loss, at the maps that distillation terms look at).
    """

    PERIOD = 10

    def __init__(self, model: DistillationWrapper, *, limit: float, patience: int) -> None:
        """Watches ``model.gradient_probe``.

        Args:
            model: The wrapper, not inside DistributedDataParallel.
            limit: ratio above which a term counts as dominating.
            patience: iterations in a row above the limit before the warning.
        """
        self.model, self.limit = model, limit
        self.norms: dict[str, float] = {}
        self.task = 0.0
        self._patience = Patience(limit=limit, patience=patience)

    def before_step(self) -> None:
        """Measures in every tenth iteration: each measurement backpropagates every term to the logits."""
        due = self.trainer.iter % self.PERIOD == 0
        self.model.gradient_probe = self._measure if due else None

    def _measure(self, losses: dict[str, Tensor], logits: Tensor | Sequence[Tensor]) -> None:
        own = [n for n in losses if n in self.model.task_terms]
        names = [*own, *(n for n in losses if n.startswith(DISTILLATION_PREFIX))]
        values = [losses[n] for n in names]
        if len(own) > 1:
            values.append(torch.stack([losses[n] for n in own]).sum())
        norms = torch.stack([gradient_norm(v, logits) for v in values]).tolist()  # one wait for the device
        self.task = norms.pop() if len(own) > 1 else norms[0]
        # A term on features, or the critic's own, has no gradient at the logits: 0 would look like a measurement.
        self.norms = {n: norm for n, norm in zip(names, norms, strict=True) if norm or n in own}

    def after_step(self) -> None:
        """Writes norms and ratios and warns."""
        if self.model.gradient_probe is None:
            return
        for name, norm in self.norms.items():
            self.trainer.storage.put_scalar(name.replace("loss_", "gradient_norm_", 1), norm)
            if name in self.model.task_terms:
                continue
            ratio = norm / max(self.task, 1e-12)
            self.trainer.storage.put_scalar(name.replace("loss_", "gradient_ratio_", 1), ratio)
            lasted = self._patience.exceeded(name, ratio, self.trainer.iter)
            if lasted:
                logger.warning(
                    "%s: its gradient at the logits has been over %g times the task loss's for %d iterations "
                    "(now %.1f times). It may dominate the task loss: lower the weight of this term.",
                    name, self.limit, lasted, ratio,
                )  # fmt: skip


class ShareMonitor(HookBase):
    """Logs each term's share of the loss, and warns when a distillation term holds nearly all of it.

    The share is the absolute value of the term over the sum of all terms' absolute values, since an adversarial term
    may be negative. It is computed of the logged values, means over all processes, in the iterations that are logged.
    """

    def __init__(self, *, limit: float, patience: int, critic_terms: Collection[str] = ()) -> None:
        """Sets the warning.

        Args:
            limit: share that a distillation term may hold; 0: no warning.
            patience: iterations in a row above the limit before the warning.
            critic_terms: names of losses that train a critic and not the student; they are left out.
        """
        self.limit, self.critic_terms = limit, frozenset(critic_terms)
        self._patience = Patience(limit=limit, patience=patience)

    def after_step(self) -> None:
        """Writes the shares and warns."""
        storage, now = self.trainer.storage, self.trainer.iter
        sizes = {
            name: abs(value)
            for name, (value, at) in storage.latest().items()
            if at == now and name.startswith("loss_") and name not in self.critic_terms
        }
        total = sum(sizes.values())
        if not total:  # nothing was logged in this iteration
            return
        for name, size in sizes.items():
            share = size / total
            storage.put_scalar(name.replace("loss_", SHARE, 1), share)
            limited = self.limit and name.startswith(DISTILLATION_PREFIX)
            lasted = self._patience.exceeded(name, share, now) if limited else 0
            if lasted:
                logger.warning(
                    "%s: it has held more than %.0f %% of the loss for %d iterations (now %.1f %%). The student hardly "
                    "learns from the rest: lower the weight of this term (SOLVER.LOSS_SHARE_LIMIT sets the share).",
                    name, 100 * self.limit, lasted, 100 * share,
                )  # fmt: skip


class TermPrinter(CommonMetricPrinter):
    """Detectron2's console line, with the fraction of the time that was spent waiting for data.

    The terms' shares of the loss are left out; they are in metrics.json and TensorBoard.
    """

    def __init__(self, max_iter: int, window_size: int) -> None:
        """Prepares a logger that adds the fraction to Detectron2's line.

        Args:
            max_iter: Iterations of the run, for the ETA.
            window_size: iterations between two lines.
        """
        super().__init__(max_iter, window_size=window_size)
        self.logger: Any = _WithDataShare(logging.getLogger(CommonMetricPrinter.__module__))

    def write(self) -> None:
        """Prints the line."""
        with _WithoutShares(get_event_storage()):
            super().write()


class _WithDataShare(logging.LoggerAdapter):
    """Adds the last ``data_share`` to every line."""

    def __init__(self, base: logging.Logger) -> None:
        super().__init__(base, {})

    def process(self, msg: str, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        share = get_event_storage().latest().get("data_share")
        return (msg if share is None else f"{msg.rstrip()}  data_share: {share[0]:.1%}"), kwargs


class _WithoutShares(EventStorage):
    """A view of an event storage without the terms' shares of the loss."""

    def __init__(self, storage: EventStorage) -> None:
        self.__dict__ = storage.__dict__

    def histories(self) -> dict:
        return {name: history for name, history in super().histories().items() if not name.startswith(SHARE)}
