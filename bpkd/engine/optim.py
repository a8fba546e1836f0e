"""Optimizer and learning-rate schedule of the paper's recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    weight_decay_norm: float,
    head_lr_multiplier: float = 1.0,
    head_prefixes: Iterable[str] = ("decode_head.", "auxiliary_head."),
    exclude: Iterable[str] = (),
) -> list[dict]:
    """Groups the trainable parameters by learning rate and weight decay.

    Args:
        model: network; a parameter whose name holds one of ``head_prefixes`` belongs to a head.
        lr: learning rate of the backbone.
        weight_decay: Weight decay of convolutions and biases.
        weight_decay_norm: Weight decay of normalisation layers.
        head_lr_multiplier: learning rate of the heads over that of the backbone.
        head_prefixes: Parts of parameter names that mark a head.
        exclude: prefixes of the names of parameters that have an optimizer of their own.

    Returns:
        Parameter groups in a stable order, as torch optimizers take them.
    """
    prefixes, others = tuple(head_prefixes), tuple(exclude)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        decay = weight_decay_norm if isinstance(module, NORMS) else weight_decay
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            full = f"{module_name}.{name}"
            if full.startswith(others):
                continue
            factor = head_lr_multiplier if any(p in full for p in prefixes) else 1.0
            groups.setdefault((lr * factor, decay), []).append(parameter)
    return [{"params": p, "lr": key[0], "weight_decay": key[1]} for key, p in groups.items()]


def build_optimizer(groups: list[dict], *, name: str, lr: float, momentum: float) -> torch.optim.Optimizer:
    """Makes the optimizer ``name`` ("sgd" or "adamw") over ``groups``.

    Raises:
        ValueError: ``name`` is unknown.
    """
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    raise ValueError(f"SOLVER.OPTIMIZER: expected 'sgd' or 'adamw', got {name!r}.")


def own_optimizer(model: nn.Module, prefix: str, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Makes the optimizer of the parameters whose names start with ``prefix``.

    Args:
        model: Module that holds the parameters.
        prefix: e.g. "distiller.adversary.".
        options: Optimizer and its arguments, see `bpkd.distillers.Distiller.parameter_options`; "min_lr" is where its
            poly schedule ends.

    Raises:
        ValueError: the optimizer is unknown, or no trainable parameter has the prefix.
    """
    parameters = [p for name, p in model.named_parameters() if name.startswith(prefix) and p.requires_grad]
    if not parameters:
        raise ValueError(f"parameter_options: no trainable parameter's name starts with {prefix!r}.")
    known: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    keywords = dict(options)
    name, min_lr = keywords.pop("optimizer"), keywords.pop("min_lr")
    if name not in known:
        raise ValueError(f"parameter_options: expected an optimizer of {', '.join(known)}, got {name!r}.")
    return known[name]([{"params": parameters, "min_lr": min_lr}], **keywords)


class JointOptimizer(torch.optim.Optimizer):
    """Several optimizers of different kinds that step as one.

    Its parameter groups are those of its members, so that a schedule, a loss scaler and ``zero_grad`` act on all of
    them. With a loss scaler all members take the step or, where one gradient overflowed, none.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Joins optimizers that share no parameter."""
        self.optimizers = list(optimizers)
        super().__init__([group for one in self.optimizers for group in one.param_groups], {})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; a new one joins the first optimizer."""
        if not any(param_group is group for one in self.optimizers for group in one.param_groups):
            self.optimizers[0].add_param_group(param_group)
        super().add_param_group(param_group)

    def step(self, closure: Any = None) -> Any:
        """Steps all of them; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for one in self.optimizers:
            one.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of each."""
        return {"optimizers": [one.state_dict() for one in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of each.

        Raises:
            ValueError: the state is of another number of optimizers.
        """
        states = state_dict.get("optimizers", [state_dict])
        if len(states) != len(self.optimizers):
            raise ValueError(
                f"expected the state of {len(self.optimizers)} optimizers, got {len(states)}: the run was started with "
                "other terms (a critic more or less). Resume with the config it was started with."
            )
        for one, state in zip(self.optimizers, states, strict=True):
            one.load_state_dict(state)
        self.param_groups = [group for one in self.optimizers for group in one.param_groups]  # loading replaced them


def poly_schedule(
    optimizer: torch.optim.Optimizer,
    *,
    max_iter: int,
    power: float,
    min_lr: float,
    warmup_iters: int = 0,
    warmup_factor: float = 1e-3,
) -> LambdaLR:
    """Polynomial decay to a floor: lr(t) = (base - min) (1 - t/T)^power + min, per iteration and group.

    The floor is absolute, so groups with different base rates end at the same rate; a group's own "min_lr" comes
    first. A linear warm-up multiplies the first ``warmup_iters`` iterations.
    """

    def factor(base: float, floor: float) -> Callable[[int], float]:
        def at(t: int) -> float:
            decay = (1 - min(t, max_iter) / max_iter) ** power
            value = ((base - floor) * decay + floor) / base
            if t < warmup_iters:
                value *= warmup_factor + (1 - warmup_factor) * t / warmup_iters
            return value

        return at

    return LambdaLR(optimizer, [factor(g["lr"], g.get("min_lr", min_lr)) for g in optimizer.param_groups])
