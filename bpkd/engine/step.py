"""One training step: mixed precision, gradient accumulation, and a check of the losses before the weights change."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.engine.train_loop import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from bpkd.modeling.precision import autocast, check_amp

CLIPS = ("full_model", "norm", "value")


class NonFiniteLossError(FloatingPointError):
    """A loss term is NaN or infinite; the message names term, iteration and files."""


def seed_iteration(seed: int, step: int, rank: int) -> None:
    """Seeds torch for one step, so that dropout depends on (seed, step, rank) alone and a resumed run repeats it."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))


def clip_gradients(optimizer: torch.optim.Optimizer, kind: str, limit: float, norm: float = 2.0) -> None:
    """Clips the gradients of an optimizer.

    Joined optimizers are clipped each by itself, so that a critic's gradients do not scale the student's.

    Args:
        optimizer: Optimizer whose parameters have gradients.
        kind: "full_model" (the norm of all gradients together), or Detectron2's "norm" (of each parameter alone) or
            "value" (of each number).
        limit: Largest norm or absolute value.
        norm: Order of the norm, 2 for the Euclidean one.
    """
    for one in getattr(optimizer, "optimizers", [optimizer]):
        parameters = [p for group in one.param_groups for p in group["params"] if p.grad is not None]
        if kind == "value":
            nn.utils.clip_grad_value_(parameters, limit)
            continue
        for together in [parameters] if kind == "full_model" else [[p] for p in parameters]:
            nn.utils.clip_grad_norm_(together, limit, norm_type=norm)


class StepTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with autocast, a loss scaler for fp16, and ``accumulate`` batches per step.

    Every term is checked before the weights change, on every iteration.

    Attributes:
        values: loss terms of the last step on this process.
        waited: seconds that the last step waited for data.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        accumulate: int = 1,
        amp: str = "off",
        seed: int = 0,
        clip: tuple[str, float, float] | None = None,
        log_period: int = 20,
    ) -> None:
        """Sets up the step.

        Args:
            model: returns a dict of scalar losses for a batch.
            data_loader: endless iterable of batches.
            optimizer: optimizer of the model's parameters.
            accumulate: batches whose gradients are averaged before a step.
            amp: "off", "bf16" or "fp16".
            seed: Seed of the step's random numbers.
            clip: kind of gradient clipping, limit and norm, see `clip_gradients`; None: none.
            log_period: iterations between two means over all processes that are logged.

        Raises:
            ValueError: ``amp`` or the kind of clipping is unknown, or ``accumulate`` is below 1.
        """
        check_amp(amp, key="SOLVER.AMP.DTYPE")
        if accumulate < 1:
            raise ValueError(f"SOLVER.ACCUMULATE: expected at least 1, got {accumulate}.")
        if clip is not None and clip[0] not in CLIPS:
            raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE: expected one of {', '.join(CLIPS)}, got {clip[0]!r}.")
        super().__init__(model, data_loader, optimizer, gather_metric_period=log_period)
        self.clip = clip
        self.accumulate, self.amp, self.seed = accumulate, amp, seed
        self.values: dict[str, float] = {}
        self.waited = 0.0
        self._since_log = [0.0, 0.0]  # seconds waited, seconds of all steps
        self.device = next(model.parameters()).device
        # bf16 has float32's range: only fp16 needs scaling.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")

    def run_step(self) -> None:
        """Runs one optimizer step."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        self.waited, begin = 0.0, time.perf_counter()
        for micro in range(self.accumulate):
            start = time.perf_counter()
            batch = next(self._data_loader_iter)
            self.waited += time.perf_counter() - start
            seed_iteration(self.seed, self.iter * self.accumulate + micro, comm.get_rank())
            with self._sync(last=micro + 1 == self.accumulate):
                with autocast(self.device, self.amp):
                    losses = self.model(batch)
                values = self._check(losses, batch)
                self.scaler.scale(sum(losses.values()) / self.accumulate).backward()
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value / self.accumulate
        self.scaler.unscale_(self.optimizer)
        if self.clip is not None:
            clip_gradients(self.optimizer, *self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.values = sums
        self._since_log[0] += self.waited
        self._since_log[1] += time.perf_counter() - begin
        self._log(sums)

    def _sync(self, *, last: bool) -> contextlib.AbstractContextManager:
        if last or not hasattr(self.model, "no_sync"):
            return contextlib.nullcontext()
        return self.model.no_sync()  # DDP adds gradients up locally until the last batch

    def _check(self, losses: Mapping[str, Tensor], batch: list[dict[str, Any]]) -> dict[str, float]:
        names = sorted(losses)
        numbers = torch.stack([losses[n].detach().float() for n in names]).tolist()
        values = dict(zip(names, numbers, strict=True))
        bad = [n for n in names if not np.isfinite(values[n])]
        if bad:
            files = ", ".join(str(d.get("file_name", "?")) for d in batch)
            raise NonFiniteLossError(
                f"{', '.join(bad)} became non-finite at iteration {self.iter} (terms: {values}); files of the batch: "
                f"{files}. The weights were not changed by this batch. Lower SOLVER.BASE_LR or the term's weight, "
                "or set SOLVER.AMP.ENABLED False, and continue from the last checkpoint with --resume."
            )
        return values

    def _log(self, values: dict[str, float]) -> None:
        storage = get_event_storage()
        if (self.iter + 1) % self.gather_metric_period and self.iter:
            return
        waited, spent = self._since_log
        self._since_log = [0.0, 0.0]
        gathered = comm.gather((values, self.waited, waited / spent))
        if comm.is_main_process():
            terms, times, shares = zip(*gathered, strict=True)
            mean = {k: float(np.mean([one[k] for one in terms])) for k in terms[0]}
            # The slowest loader's: the other processes wait for that one's gradients.
            storage.put_scalars(data_time=max(times), data_share=max(shares))
            storage.put_scalar("total_loss", sum(mean.values()))
            storage.put_scalars(**mean)

    def state_dict(self) -> dict[str, Any]:
        """Returns optimizer and loss scaler."""
        return {**super().state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores optimizer and loss scaler."""
        state = dict(state_dict)
        self.scaler.load_state_dict(state.pop("scaler"))
        super().load_state_dict(state)
