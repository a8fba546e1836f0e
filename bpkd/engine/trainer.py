"""DistillationTrainer: Detectron2's DefaultTrainer with a teacher, a distiller and hooks that watch their terms."""

from __future__ import annotations

import logging
import os
import weakref
from statistics import median
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from bpkd import __version__
from bpkd.analysis.records import environment
from bpkd.config import WRAPPERS
from bpkd.data import build_train_loader
from bpkd.distillers import DistillationModule, Distiller
from bpkd.modeling import DistillationWrapper, task_of
from bpkd.modeling.build import Network
from bpkd.modeling.precision import choose_precision
from bpkd.structures import DISTILLATION_PREFIX
from bpkd.tasks import INSTANCE

from .checkpoint import StudentCheckpointer
from .edges import Edges, loader_edges
from .evaluate import evaluate, without_classes
from .hooks import MaskLossHint, RunClock, SilentTermGuard, StopOnSignal
from .monitors import GradientMonitor, ShareMonitor, TermPrinter
from .optim import JointOptimizer, build_optimizer, own_optimizer, parameter_groups, poly_schedule
from .process_setup import report_resources, warn_of_joint_losses
from .run_record import peak_memory, run_record, write_record
from .start import load_start
from .step import StepTrainer
from .writers import StrictJSONWriter, TaggedWriter

logger = logging.getLogger(__name__)


def student_of(model: nn.Module) -> nn.Module:
    """Returns the network that is deployed: the student of a distillation wrapper, else the model itself."""
    return getattr(model, "student", model)


def distiller_of(model: nn.Module) -> DistillationModule | None:
    """Returns what gives the distillation terms; None where the student trains alone."""
    return model.distiller if isinstance(model, DistillationWrapper) else None


def method_of(cfg: CfgNode) -> str:
    """Returns the distiller's name, "none" for plain training."""
    return cfg.DISTILL.METHOD if cfg.MODEL.META_ARCHITECTURE in WRAPPERS else "none"


def ddp_options(model: nn.Module) -> dict[str, Any]:
    """Returns DistributedDataParallel's options; the local rank is no device on a CPU, nor on a shared GPU."""
    device = next(model.parameters()).device
    return {"broadcast_buffers": False, "device_ids": None if device.type == "cpu" else [device]}


def gradient_clip(cfg: CfgNode) -> tuple[str, float, float] | None:
    """Returns kind, limit and norm of SOLVER.CLIP_GRADIENTS; None where it is off."""
    node = cfg.SOLVER.CLIP_GRADIENTS
    return (node.CLIP_TYPE, node.CLIP_VALUE, node.NORM_TYPE) if node.ENABLED else None


def student_precision(cfg: CfgNode) -> str:
    """Returns what the student computes in: "off" (float32), "bf16" or "fp16"."""
    device = torch.device(cfg.MODEL.DEVICE)
    return choose_precision(cfg.SOLVER.AMP.DTYPE, device, key="SOLVER.AMP.DTYPE") if cfg.SOLVER.AMP.ENABLED else "off"


def settings(distiller: nn.Module) -> dict[str, Any]:
    """Returns a distiller's plain attributes, presets resolved, for the log."""
    plain = (bool, int, float, str, list, tuple, dict)
    return {k: v for k, v in vars(distiller).items() if isinstance(v, plain) and k[0] != "_" and k != "training"}


class DistillationTrainer(DefaultTrainer):
    """Detectron2's DefaultTrainer for a student with or without a teacher, on GPUs or CPU processes."""

    def __init__(self, cfg: CfgNode) -> None:
        """Builds model, optimizer, loader, checkpointer and hooks from a config."""
        TrainerBase.__init__(self)  # DefaultTrainer's own assembly is replaced as a whole
        self.cfg = cfg
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        model = self.build_model(cfg)
        self.student = student_of(model)
        self.distiller = distiller_of(model)
        self._wrapper = model if isinstance(model, DistillationWrapper) else None
        self._edges = loader_edges(cfg, model)
        self._precision = {"student": student_precision(cfg)}
        if self._wrapper is not None and self._wrapper.teacher_precision:
            self._precision["teacher"] = self._wrapper.teacher_precision
        report_resources(cfg, self._precision)
        warn_of_joint_losses(cfg, self.distiller)
        optimizer = self.build_optimizer(cfg, model)
        ddp = create_ddp_model(model, **ddp_options(model))
        self._trainer = StepTrainer(
            ddp,
            self.build_train_loader(cfg, edges=self._edges),
            optimizer,
            accumulate=cfg.SOLVER.ACCUMULATE,
            amp=self._precision["student"],
            seed=cfg.SEED,
            clip=gradient_clip(cfg),
            log_period=cfg.SOLVER.LOG_PERIOD,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        parts = {} if self.distiller is None else {"distiller": self.distiller}
        self.checkpointer = StudentCheckpointer(
            self.student, cfg.OUTPUT_DIR, metadata=checkpoint_metadata(cfg), trainer=weakref.proxy(self), **parts
        )
        self.clock = RunClock(self._trainer)
        self._environment = environment()  # of the code that runs, whatever the checkout becomes meanwhile
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Builds the meta-architecture; the student's initial weights depend on cfg.SEED alone."""
        torch.manual_seed(cfg.SEED)
        model = build_model(cfg)
        student = student_of(model)
        if isinstance(student, Network):
            student.accelerate(channels_last=cfg.MODEL.CHANNELS_LAST, compiled=cfg.MODEL.COMPILE)
        parameters = sum(p.numel() for p in student.parameters())
        logger.info("Student: %.2f M parameters; method: %s", parameters / 1e6, method_of(cfg))
        distiller = distiller_of(model)
        for name, part in distiller.named_modules() if distiller is not None else ():
            if not name or isinstance(part, Distiller):  # those inside a combination too
                kind = type(part).__name__ + (f" ({name})" if name else "")
                logger.info("%s: weights and options of the terms: %s", kind, settings(part))
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Builds the optimizer over the student and the distiller's parts; a critic has one of its own inside it."""
        distiller = distiller_of(model)
        options = {} if distiller is None else distiller.parameter_options()
        own = {f"distiller.{prefix}": keywords for prefix, keywords in options.items()}
        groups = parameter_groups(
            model,
            lr=cfg.SOLVER.BASE_LR,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            head_lr_multiplier=cfg.SOLVER.HEAD_LR_MULTIPLIER,
            exclude=own,
        )
        main = build_optimizer(groups, name=cfg.SOLVER.OPTIMIZER, lr=cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM)
        if not own:
            return main
        return JointOptimizer([main, *(own_optimizer(model, prefix, keywords) for prefix, keywords in own.items())])

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Builds the poly schedule, or one of Detectron2's."""
        if cfg.SOLVER.LR_SCHEDULER_NAME != "PolyLR":
            return build_lr_scheduler(cfg, optimizer)
        return poly_schedule(
            optimizer,
            max_iter=cfg.SOLVER.MAX_ITER,
            power=cfg.SOLVER.POLY_POWER,
            min_lr=cfg.SOLVER.MIN_LR,
            warmup_iters=cfg.SOLVER.WARMUP_ITERS,
            warmup_factor=cfg.SOLVER.WARMUP_FACTOR,
        )

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iter: int = 0, edges: Edges | None = None) -> Any:
        """Builds the endless loader, positioned at ``start_iter``; ``edges`` as `loader_edges` returns it."""
        place = {"rank": comm.get_rank(), "world_size": comm.get_world_size()}
        return build_train_loader(cfg, start_iter=start_iter, edges=edges, **place)

    def build_hooks(self) -> list[Any]:
        """Lists the hooks in the order in which they act."""
        cfg = self.cfg
        chain: list[Any] = [hooks.IterationTimer(warmup_iter=0), self.clock, hooks.LRScheduler()]
        if self._wrapper is not None and self.distiller is not None:
            chain += self._term_hooks(self._wrapper, self.distiller)
        if task_of(cfg) is INSTANCE:
            chain.append(MaskLossHint(self._trainer, cfg.MODEL.SOLOV2.MASK_WEIGHT))
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            loader = self.build_train_loader(cfg, edges=self._edges)
            n = cfg.TEST.PRECISE_BN.NUM_ITER
            chain.append(hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, n))
        if comm.is_main_process():
            keep = cfg.SOLVER.KEEP_CHECKPOINTS or None
            chain.append(hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=keep))
        chain.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate))
        if comm.is_main_process():
            chain.append(hooks.PeriodicWriter(self.build_writers(), period=cfg.SOLVER.LOG_PERIOD))
        chain.append(StopOnSignal(self.checkpointer))
        return chain

    def _term_hooks(self, wrapper: DistillationWrapper, distiller: DistillationModule) -> list[Any]:
        solver = self.cfg.SOLVER
        patience = solver.GRADIENT_RATIO_PATIENCE
        critic = {f"{DISTILLATION_PREFIX}{term}" for term in distiller.critic_terms}
        chain: list[Any] = [SilentTermGuard(self._trainer, distiller.taps)]
        if solver.GRADIENT_RATIO_LIMIT > 0:
            chain.append(GradientMonitor(wrapper, limit=solver.GRADIENT_RATIO_LIMIT, patience=patience))
        chain.append(ShareMonitor(limit=solver.LOSS_SHARE_LIMIT, patience=patience, critic_terms=critic))
        return chain

    def build_writers(self) -> list[Any]:
        """Console with ETA, metrics.json and TensorBoard."""
        out = self.cfg.OUTPUT_DIR
        period = self.cfg.SOLVER.LOG_PERIOD
        return [
            TermPrinter(self.max_iter, window_size=period),
            StrictJSONWriter(os.path.join(out, "metrics.json"), window_size=period),
            TaggedWriter(out, window_size=period),
        ]

    def _evaluate(self) -> dict[str, Any]:
        self._last_eval_results = evaluate(self.cfg, self.student)
        return without_classes(self._last_eval_results)

    def resume_or_load(self, resume: bool = True) -> None:
        """Continues the run in OUTPUT_DIR, or starts one from MODEL.WEIGHTS, MODEL.BACKBONE.WEIGHTS or from scratch.

        Raises:
            RuntimeError: OUTPUT_DIR holds a run and ``resume`` is False, or the checkpoint does not fit.
            ValueError: the weights do not fit, or the network has no backbone that could be given any.
        """
        if self.checkpointer.has_checkpoint():
            if not resume:
                raise RuntimeError(
                    f"{self.cfg.OUTPUT_DIR} already holds a run ({self.checkpointer.get_checkpoint_file()}). "
                    "Pass --resume to continue it, or choose another OUTPUT_DIR."
                )
            self.checkpointer.resume(self.max_iter)
            self.start_iter = self.iter + 1
            self._trainer.reset_data_loader(
                lambda: self.build_train_loader(self.cfg, start_iter=self.start_iter, edges=self._edges)
            )
        else:
            load_start(self.cfg, self.student)

    def train(self) -> dict[str, Any]:
        """Trains to the end, evaluates, and writes ``run.json``, the record that tables are made from.

        Returns:
            The last evaluation's results; empty on all but the main process.
        """
        if self.start_iter >= self.max_iter:
            logger.info("The run is complete at iteration %d.", self.max_iter)
            self._evaluate()
        else:
            TrainerBase.train(self, self.start_iter, self.max_iter)
            if not hasattr(self, "_last_eval_results"):
                self._evaluate()
        memory, of_what = peak_memory(self.cfg.MODEL.DEVICE)
        data_share = self.clock.data_share()
        if comm.is_main_process():
            facts = {
                "method": method_of(self.cfg),
                "seed": self.cfg.SEED,
                "iterations": self.max_iter,
                "seconds": self.clock.seconds,
                "seconds_per_iteration": median(self.clock.steps),
                "data_share": data_share,
                "peak_memory_mb": memory,
                "peak_memory_of": of_what,
                "processes": comm.get_world_size(),
                "precision": self._precision,
                **self._environment,
            }
            write_record(self.cfg.OUTPUT_DIR, run_record(self.cfg, self.student, self._last_eval_results, **facts))
        return self._last_eval_results


def checkpoint_metadata(cfg: CfgNode) -> dict[str, Any]:
    """Returns what a checkpoint says about itself; plain values only, so that it loads without pickle."""
    meta = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    return {
        "version": __version__,
        "method": method_of(cfg),
        "classes": task_of(cfg).class_names(meta),
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "input_format": cfg.INPUT.FORMAT,
    }
