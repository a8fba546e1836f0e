"""Optimizer and learning-rate schedule of the paper's recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
) -> list[dict]:
    """Groups the trainable parameters by learning rate and weight decay.

    Args:
        model: network; a parameter whose name holds one of ``head_prefixes`` belongs to a head.
        lr: learning rate of the backbone.
        weight_decay: of convolutions and biases.
        weight_decay_norm: of normalisation layers.
        head_lr_multiplier: learning rate of the heads over that of the backbone.
        head_prefixes: where the heads live.

    Returns:
        Parameter groups in a stable order, as torch optimizers take them.
    """
    prefixes = tuple(head_prefixes)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        decay = weight_decay_norm if isinstance(module, NORMS) else weight_decay
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            full = f"{module_name}.{name}"
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

    The floor is absolute, so groups with different base rates end at the same rate. A linear warm-up multiplies
    the first ``warmup_iters`` iterations.
    """

    def factor(base: float) -> Callable[[int], float]:
        def at(t: int) -> float:
            decay = (1 - min(t, max_iter) / max_iter) ** power
            value = ((base - min_lr) * decay + min_lr) / base
            if t < warmup_iters:
                value *= warmup_factor + (1 - warmup_factor) * t / warmup_iters
            return value

        return at

    return LambdaLR(optimizer, [factor(group["lr"]) for group in optimizer.param_groups])
