"""The adversary: critic and terms at the golden values, both networks in one step, and what a run must survive."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

from bpkd.distillers import IFVD, SKDS
from bpkd.distillers.discriminator import Adversary, Discriminator, enlarge, spectral_conv
from bpkd.engine import DistillationTrainer, load_config
from bpkd.engine.hooks import SilentTermError, SilentTermGuard
from bpkd.engine.optim import JointOptimizer, own_optimizer, parameter_groups, poly_schedule
from bpkd.engine.step import StepTrainer, seed_iteration
from bpkd.functional import critic_loss, generator_loss, gradient_norm, gradient_penalty
from bpkd.structures import SegOutput
from tests.helpers.distiller_inputs import stop_power_iterations
from tests.helpers.engine_runs import TINY, largest_difference, losses, stop_after, train, weights
from tests.helpers.golden_distillers import entry, exact_norm, golden, golden_critic, gradient, names
from tests.helpers.processes import spawn, two_processes

K = 5


def pair(size: tuple[int, int] = (8, 8), count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(count, K, *size, generator=g) * 3 for _ in range(2))
    return student.requires_grad_(), teacher


def adversary(**options: Any) -> Adversary:
    torch.manual_seed(0)
    return Adversary(K, **{"adv_weight": 0.1, "critic_weight": 1.0, **options})


# Golden values


@pytest.mark.parametrize("name", names("disc/"))
def test_scores_terms_and_gradients_equal_the_golden_values(name: str) -> None:
    want, critic = entry(name), golden_critic()
    student, teacher = golden("disc_logits", "student").requires_grad_(), golden("disc_logits", "teacher")
    if "output" in want:
        scores = critic(teacher)
        assert list(scores.shape) == want["output_shape"]
        assert scores.flatten().tolist() == pytest.approx(want["output"], rel=1e-5)
        return
    if "adv_for_G" in name:
        value = generator_loss(critic(student))
        assert float(value.detach()) == pytest.approx(want["loss"], rel=1e-5)
        assert gradient(value, student) == pytest.approx(want["grad_norm_student"], rel=1e-5)
        return
    if "gradient_penalty" in name:
        value = want["hyper"]["lambda_gp"] * gradient_penalty(
            critic, student, teacher, golden("disc_logits", "gp_alpha")
        )
    else:
        value = critic_loss(critic(teacher), critic(student.detach()), want["hyper"]["adv_type"])
    assert float(value.detach()) == pytest.approx(want["loss"], rel=1e-5)
    value.backward()
    assert exact_norm(*(p.grad for p in critic.parameters())) == pytest.approx(want["grad_norm_D_all"], rel=1e-5)
    if "grad_norm_D_last" in want:
        assert exact_norm(critic.last.weight.grad) == pytest.approx(want["grad_norm_D_last"], rel=1e-5)
        first = critic.l1.parametrizations.weight.original.grad
        assert exact_norm(first) == pytest.approx(want["grad_norm_D_l1_unnormalised"], rel=1e-5)
    assert student.grad is None


def test_the_joint_terms_are_the_golden_terms() -> None:
    """What a run adds up, with weights 1 and hinge: generator and critic term of the golden critic."""
    module = Adversary(19, adv_weight=1.0, critic_weight=1.0, adv_loss="hinge")
    module.critic = golden_critic()
    terms = module(golden("disc_logits", "student"), golden("disc_logits", "teacher"))
    assert float(terms["adv"]) == pytest.approx(entry("disc/skds_adv_for_G")["loss"], rel=1e-5)
    assert float(terms["critic"].detach()) == pytest.approx(entry("disc/skds_adv_D_hinge")["loss"], rel=1e-5)


def test_the_critic_has_the_papers_size_and_an_identity_for_attention() -> None:
    assert sum(p.numel() for p in Discriminator(19).parameters()) == 3_191_721
    critic, x = Discriminator(K), torch.randn(1, 256, 4, 4)
    assert torch.equal(critic.attn1(x), x)


def test_spectral_norm_is_torchs() -> None:
    """Weights, singular vectors, gradients and the gradient's own gradient after several calls; the same draws."""
    found = []
    for build in (spectral_conv, lambda a, b: torch_spectral_norm(nn.Conv2d(a, b, 4, 2, 1))):
        torch.manual_seed(0)
        conv = build(6, 9)
        x = torch.randn(2, 6, 8, 8, requires_grad=True)
        outputs = [conv(x) for _ in range(3)]
        (slope,) = torch.autograd.grad(sum(y.square().sum() for y in outputs), x, create_graph=True)
        slope.square().sum().backward()
        norm = conv.parametrizations.weight
        found.append([*outputs, slope, norm.original.grad, norm[0]._u, norm[0]._v, conv.bias.grad])
        assert list(conv.state_dict()) == [
            "bias", "parametrizations.weight.original", "parametrizations.weight.0._u", "parametrizations.weight.0._v",
        ]  # fmt: skip
    for ours, theirs in zip(*found, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


# Sizes, numbers, options


@pytest.mark.parametrize(
    ("size", "want"),
    [((45, 45), (64, 64)), ((7, 5), (90, 64)), ((60, 120), (64, 128)), ((1, 3), (64, 192)), ((65, 64), (65, 64))],
)
def test_small_logits_are_enlarged(size: tuple[int, int], want: tuple[int, int]) -> None:
    student, teacher = pair(size)
    assert tuple(enlarge(student).shape[-2:]) == want
    terms = adversary()(student, teacher)
    sum(terms.values()).backward()
    assert all(v.isfinite() for v in terms.values())
    assert float(student.grad.abs().max()) > 0


def test_the_critic_itself_refuses_small_maps() -> None:
    with pytest.raises(ValueError, match="at least 64 positions a side"):
        Discriminator(K)(torch.zeros(1, K, 64, 63))


@pytest.mark.parametrize("options", [{}, {"critic_input": "tanh"}, {"adv_loss": "hinge"}])
def test_batch_size_does_not_change_the_terms(options: dict) -> None:
    student, teacher = pair((64, 64), count=1)
    alpha = torch.tensor([0.3]).view(1, 1, 1, 1)
    values = []
    for repeat in (1, 2):
        module = adversary(**options)
        s, t = student.detach().repeat(repeat, 1, 1, 1), teacher.repeat(repeat, 1, 1, 1)
        terms = module(s, t) if "adv_loss" in options else {}
        terms["penalty"] = gradient_penalty(adversary(**options).critic, s, t, alpha.repeat(repeat, 1, 1, 1))
        values.append({k: float(v.detach()) for k, v in terms.items()})
    if "critic_input" not in options:
        # batch norm: an image's slope runs through the others' too, which repeats change
        values = [{k: v for k, v in one.items() if k != "penalty"} for one in values]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_evaluated_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (x.detach().to(dtype) for x in pair())
    student.requires_grad_()
    results = []
    for enabled in (True, False):
        module = adversary()
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(module(student, teacher))
    for name in ("adv", "critic"):
        assert results[0][name].dtype == torch.float32
        assert torch.equal(results[0][name], results[1][name])


def test_penalty_is_one_where_the_critic_is_flat_and_alpha_is_drawn_per_image() -> None:
    student, teacher = pair(count=3)
    flat = gradient_penalty(lambda x: (x * 0).sum((1, 2, 3)), student, teacher)
    assert float(flat.detach()) == 1.0
    steep = gradient_penalty(lambda x: x.square().sum((1, 2, 3)) / 2, torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1))
    torch.manual_seed(0)
    drawn = gradient_penalty(lambda x: x.square().sum((1, 2, 3)) / 2, torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1))
    torch.manual_seed(0)
    assert float(drawn.detach()) == pytest.approx(float((torch.rand(3) - 1).square().mean()))
    assert float(steep.detach()) < 1


def test_wrong_options_say_what_to_change() -> None:
    for options, message in (
        ({"adv_loss": "lsgan"}, "adv_loss: expected one of"),
        ({"critic_input": "image"}, "critic_input: expected one of"),
        ({"critic_optimizer": "lion"}, "expected 'adam' or 'sgd'"),
        ({"critic_weight": 0.0}, "teaches noise"),
    ):
        with pytest.raises(ValueError, match=message):
            adversary(**options)
    with pytest.raises(ValueError, match="Give num_classes"):
        SKDS()
    with pytest.raises(ValueError, match="expected one of .*'hinge'"):
        critic_loss(torch.zeros(1), torch.zeros(1), "lsgan")
    with pytest.raises(ValueError, match="one shape"):
        gradient_penalty(lambda x: x, torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))


# Student and critic in one step


@pytest.mark.parametrize("adv_loss", ["wgan-gp", "hinge"])
def test_each_gradient_reaches_its_own_player_alone(adv_loss: str) -> None:
    module, (student, teacher) = adversary(adv_loss=adv_loss), pair()
    teacher.requires_grad_()
    terms = module(student, teacher)
    terms["adv"].backward(retain_graph=True)
    assert float(student.grad.abs().max()) > 0
    assert all(p.grad is None for p in module.parameters())
    student.grad = None
    terms["critic"].backward()
    assert student.grad is None
    assert teacher.grad is None
    assert all(p.grad is not None for p in module.parameters())  # DistributedDataParallel waits for each
    assert gradient_norm(terms["critic"], student) == 0


class Toy(nn.Module):
    """A one-layer student with a distiller, as the wrapper holds them."""

    def __init__(self, distiller: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Conv2d(3, K, 3, padding=1)
        self.distiller = distiller

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        images, logits = (torch.stack([item[key] for item in batch]) for key in ("image", "teacher"))
        output, answer = (SegOutput(x, None, {"decode": x}) for x in (self.student(images), logits))
        target = torch.stack([item["sem_seg"] for item in batch])
        self.seen = (output.logits, answer.logits)
        task = nn.functional.cross_entropy(output.logits, target)
        return {"loss_ce": task, **self.distiller(output, answer, target)}


def item(i: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(i)
    size = (8, 8)
    return {
        "image": torch.randn(3, *size, generator=g),
        "teacher": torch.randn(K, *size, generator=g) * 3,
        "sem_seg": torch.randint(0, K, size, generator=g),
    }


def loader(size: int, start: int = 0, step: int | None = None):  # noqa: ANN201
    while True:
        yield [item(start + i) for i in range(size)]
        start += step or size


def joint(model: nn.Module, lr: float = 0.05) -> JointOptimizer:
    prefix, options = next(iter(model.distiller.parameter_options().items()))
    prefix = f"distiller.{prefix}"
    groups = parameter_groups(model, lr=lr, weight_decay=0.0, weight_decay_norm=0.0, exclude=(prefix,))
    return JointOptimizer([torch.optim.SGD(groups, momentum=0.9), own_optimizer(model, prefix, options)])


def steps(trainer: StepTrainer, count: int) -> None:
    for trainer.iter in range(count):
        with EventStorage(trainer.iter):
            trainer.run_step()


@pytest.mark.parametrize(
    "options",
    [{}, {"adv_loss": "hinge"}, {"preset": "author_code", "pixel_weight": 1.0}],
    ids=["wgan-gp", "hinge", "sgd"],
)
def test_one_step_equals_the_authors_loop_of_two(options: dict) -> None:
    """6 steps against: student's backward and step, then the critic's on the logits from before."""
    torch.manual_seed(1)
    ours = Toy(SKDS(num_classes=K, **options))
    theirs, start = copy.deepcopy(ours), copy.deepcopy(ours.distiller.adversary.critic.state_dict())
    steps(StepTrainer(ours, loader(2), joint(ours)), 6)

    module: Adversary = theirs.distiller.adversary
    generator = torch.optim.SGD(theirs.student.parameters(), lr=0.05, momentum=0.9)
    keywords = module.optimizer_options()
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[keywords.pop("optimizer")]
    keywords.pop("min_lr")
    critic_optimizer = kind(module.critic.parameters(), **keywords)
    theirs.distiller.adversary, theirs.distiller.taps = None, {}  # the other terms
    for iteration, batch in zip(range(6), loader(2), strict=False):
        seed_iteration(0, iteration, 0)
        module.critic.requires_grad_(False)
        generator.zero_grad()
        terms = theirs(batch)
        fake, real = (enlarge(x) for x in theirs.seen)
        (sum(terms.values()) - module.adv_weight * module.critic(fake).mean()).backward()
        generator.step()
        module.critic.requires_grad_(True)
        critic_optimizer.zero_grad()
        fake = fake.detach()
        loss = critic_loss(module.critic(real), module.critic(fake), module.adv_loss)
        if module.adv_loss == "wgan-gp":
            loss = loss + 10 * gradient_penalty(module.critic, fake, real)
        (module.critic_weight * loss).backward()
        critic_optimizer.step()
    mine, other = ours.distiller.adversary.critic.state_dict(), module.critic.state_dict()
    # measured: 0.0
    assert largest_difference(ours.student.state_dict(), theirs.student.state_dict()) < 1e-7
    assert largest_difference(mine, other) < 1e-7
    assert largest_difference(mine, start) > 1e-3  # it has learned


def test_accumulated_batches_give_the_step_of_the_joint_batch() -> None:
    """Exact where an image's scores do not depend on the others: tanh, hinge, and no power iteration in between."""
    results = []
    for size, accumulate in ((4, 1), (2, 2)):
        torch.manual_seed(1)
        model = Toy(SKDS(num_classes=K, adv_loss="hinge", critic_input="tanh", critic_optimizer="sgd", adv_weight=0.1))
        trainer = StepTrainer(model, loader(size), joint(model), accumulate=accumulate)
        stop_power_iterations(model)
        steps(trainer, 3)
        results.append(model.state_dict())
    assert largest_difference(*results) < 1e-6


def test_loss_scaler_scales_both_losses_and_an_overflow_stops_both(monkeypatch: pytest.MonkeyPatch) -> None:
    off = torch.autocast("cpu", enabled=False)
    monkeypatch.setattr("bpkd.engine.step.autocast", lambda *args: off)  # the scaler alone
    results = []
    for amp in ("off", "fp16"):
        torch.manual_seed(1)
        model = Toy(SKDS(num_classes=K, critic_optimizer="sgd"))
        trainer = StepTrainer(model, loader(2), joint(model), amp=amp)
        steps(trainer, 2)
        results.append(copy.deepcopy(model.state_dict()))
    assert largest_difference(*results) < 1e-5
    model.student.weight.register_hook(lambda g: g * float("inf"))
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    steps(trainer, 1)
    after = {k: v.detach() for k, v in model.named_parameters()}
    assert largest_difference(before, after) == 0.0


def test_joint_optimizer_is_one_for_schedule_and_checkpoint() -> None:
    torch.manual_seed(1)
    model = Toy(IFVD(num_classes=K))
    optimizer = joint(model)
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 4e-4]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    schedule = poly_schedule(optimizer, max_iter=10, power=1.0, min_lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        sum(model(next(loader(2))).values()).backward()
        optimizer.step()
        schedule.step()
    saved = copy.deepcopy(optimizer.state_dict())
    model.seen = None  # a graph cannot be copied
    again = joint(copy.deepcopy(model))
    again_schedule = poly_schedule(again, max_iter=10, power=1.0, min_lr=0.01)
    again.load_state_dict(saved)
    again_schedule.load_state_dict(schedule.state_dict())
    assert [g["lr"] for g in again.optimizers[1].param_groups] == [4e-4 * 0.7]
    for _ in range(7):
        again.step()
        again_schedule.step()
    assert [one.param_groups[0]["lr"] for one in again.optimizers] == [0.01, 0.0]  # each its own floor
    assert again.optimizers[1].state_dict()["state"][0]["exp_avg"].abs().sum() > 0
    with pytest.raises(ValueError, match="state of 2 optimizers, got 1"):
        again.load_state_dict(torch.optim.SGD(model.parameters(), lr=1.0).state_dict())
    assert optimizer.step(lambda: 3.0) == 3.0
    extra = nn.Parameter(torch.zeros(1))
    again.add_param_group({"params": [extra], "lr": 1.0})
    extra.grad = torch.ones(1)
    again.step()
    assert float(extra.detach()) == -1.0
    with pytest.raises(ValueError, match="no trainable parameter"):
        own_optimizer(model, "nothing.", {"optimizer": "adam", "lr": 1.0, "min_lr": 0.0})
    with pytest.raises(ValueError, match="expected an optimizer of adam, sgd"):
        own_optimizer(model, "distiller.", {"optimizer": "lion", "lr": 1.0, "min_lr": 0.0})


# Processes


def replica(rank: int, folder: str, options: dict) -> None:
    """Trains one of two replicas on its half of the batches; leaves its weights and gradients in a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(1)
    model = Toy(SKDS(num_classes=K, **options))
    ddp = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    steps(StepTrainer(ddp, loader(2, start=2 * rank, step=4), joint(model)), 3)
    torch.save(model.state_dict(), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.parametrize("exact", [True, False])
def test_two_processes(exact: bool, tmp_path: Path) -> None:
    """Replicas stay equal. They equal one process where the critic has no batch norm and draws no numbers.

    With batch norm each process normalises by its own images, and the penalty's points are drawn per process: the
    gradient is then the mean of both processes' losses, not that of the joint batch, as with the authors' DataParallel.
    """
    options = {"adv_loss": "hinge", "critic_input": "tanh", "critic_optimizer": "sgd", "adv_weight": 0.1}
    options = options if exact else {}
    spawn(replica, (str(tmp_path), options), 2)
    states = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1)]
    # the critic's running statistics are each process's own; nothing reads them
    assert largest_difference(*({k: v for k, v in s.items() if "running" not in k} for s in states)) == 0.0
    if exact:
        torch.manual_seed(1)
        model = Toy(SKDS(num_classes=K, **options))
        steps(StepTrainer(model, loader(4), joint(model)), 3)
        assert largest_difference(model.state_dict(), states[0]) < 1e-6


# Whole runs


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pair.yaml (SKDS) and the teacher that it names."""
    from bpkd.data.procedural import CLASSES

    root = tmp_path_factory.mktemp("adversary")
    (root / "student.yaml").write_text(TINY % len(CLASSES))
    (root / "pair.yaml").write_text(
        "_BASE_: student.yaml\nMODEL: {META_ARCHITECTURE: SemanticDistiller}\nDISTILL: {METHOD: SKDS}\n"
        f"TEACHER: {{CONFIG_FILE: {root}/student.yaml, WEIGHTS: {root}/teacher/model_final.pth}}\n"
    )
    train(root / "student.yaml", root / "teacher", "SEED", "7", "SOLVER.MAX_ITER", "1")
    return root


def state(path: Path) -> dict[str, Any]:
    return torch.load(path / "model_final.pth", weights_only=True)


def test_resume_equals_no_interruption(tiny: Path, tmp_path: Path) -> None:
    whole = train(tiny / "pair.yaml", tmp_path / "whole")
    cfg = load_config(str(tiny / "pair.yaml"), ["OUTPUT_DIR", str(tmp_path / "parts")])
    (tmp_path / "parts").mkdir()
    first = DistillationTrainer(cfg)
    first.resume_or_load(resume=False)
    first.after_step = stop_after(first, 2)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.train()
    parts = train(tiny / "pair.yaml", tmp_path / "parts", resume=True)
    a, b = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert largest_difference(a["model"], b["model"]) == 0.0
    assert largest_difference(a["distiller"], b["distiller"]) == 0.0
    moments = [s["trainer"]["_trainer"]["optimizer"]["optimizers"][1]["state"] for s in (a, b)]
    for key in moments[0]:
        assert largest_difference(moments[0][key], moments[1][key]) == 0.0
    assert [g["lr"] for g in whole.optimizer.param_groups] == [g["lr"] for g in parts.optimizer.param_groups]
    # a plain student, and a critic beside it that has learned
    assert a["model"].keys() == weights(tiny / "teacher").keys()
    assert all(k.startswith("adversary.critic.") for k in a["distiller"])
    assert {"loss_kd_pixel", "loss_kd_pair", "loss_kd_adv", "loss_kd_critic"} <= losses(tmp_path / "whole")[-1].keys()


@pytest.mark.parametrize(("method", "dtype"), [("SKDS", "fp16"), ("IFVD", "bf16")])
def test_mixed_precision_trains_both_networks(tiny: Path, tmp_path: Path, method: str, dtype: str) -> None:
    opts = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype, "TEACHER.AMP", dtype, "DISTILL.METHOD", method)
    trainer = train(tiny / "pair.yaml", tmp_path, *opts, "SOLVER.MAX_ITER", "2", "SOLVER.OPTIMIZER", "adamw")
    saved = state(tmp_path)
    assert all(v.isfinite().all() for part in ("model", "distiller") for v in saved[part].values())
    assert isinstance(trainer.optimizer, JointOptimizer)
    assert [type(o).__name__ for o in trainer.optimizer.optimizers] == ["AdamW", "Adam"]
    assert trainer.optimizer.optimizers[1].state_dict()["state"]  # it has stepped


def test_processes_equal_one_process(tiny: Path, tmp_path: Path) -> None:
    opts = ("MODEL.SEM_SEG_HEAD.DROPOUT", "0.0", "SOLVER.MAX_ITER", "2", "DATASETS.CHECK", "off")
    opts += ("DISTILL.SKDS.ADV_LOSS", "hinge", "DISTILL.SKDS.CRITIC_INPUT", "tanh")
    opts += ("DISTILL.SKDS.CRITIC_OPTIMIZER", "sgd", "DISTILL.SKDS.ADV_WEIGHT", "0.1")
    train(tiny / "pair.yaml", tmp_path / "one", *opts)
    two_processes(tiny / "pair.yaml", tmp_path / "two", *opts)
    for a, b in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    one, other = state(tmp_path / "one"), state(tmp_path / "two")
    for part in ("model", "distiller"):
        assert largest_difference(one[part], other[part]) < 1e-4


def test_without_adversary_a_run_has_one_plain_optimizer(tiny: Path, tmp_path: Path) -> None:
    cfg = load_config(str(tiny / "pair.yaml"), ["OUTPUT_DIR", str(tmp_path), "DISTILL.SKDS.ADV_WEIGHT", "0.0"])
    assert isinstance(DistillationTrainer(cfg).optimizer, torch.optim.SGD)


def test_an_unknown_tap_is_found_before_training(tiny: Path, tmp_path: Path) -> None:
    cfg = load_config(str(tiny / "pair.yaml"), ["OUTPUT_DIR", str(tmp_path), "DISTILL.SKDS.TAP", "layer9"])
    with pytest.raises(ValueError, match=r"DISTILL.SKDS, term 'pair': expected a tap that the student has.*'layer9'"):
        DistillationTrainer(cfg)


# Silent terms


def guarded(values: list[float], start: int = 0, guard: SilentTermGuard | None = None) -> SilentTermGuard:
    step = SimpleNamespace(values={})
    guard = guard or SilentTermGuard(step, {"pair": "decode"})
    guard.step = step
    for i, value in enumerate(values):
        guard.trainer = SimpleNamespace(iter=start + i)
        step.values = {"loss_ce": 0.0, "loss_kd_pair": value, "loss_kd_pixel": 1.0}
        guard.after_step()
    return guard


def test_a_term_that_is_zero_for_20_iterations_is_an_error() -> None:
    guarded([0.0] * 19)
    with pytest.raises(SilentTermError, match=r"loss_kd_pair \(tap 'decode'\): exactly 0.*labels"):
        guarded([0.0] * 20)
    guarded([0.0] * 19 + [1e-30] + [0.0] * 50)
    guarded([0.0] * 50, start=20)  # a run that goes on
    guarded([1.0] * 20 + [0.0] * 50)


def test_a_resumed_run_is_checked_over_all_its_iterations() -> None:
    for first, raises in ((0.0, True), (1.0, False)):
        saved = guarded([first] * 5).state_dict()
        guard = SilentTermGuard(SimpleNamespace(values={}), {})
        guard.load_state_dict(saved)
        guarded([0.0] * 14, start=5, guard=guard)
        if raises:
            with pytest.raises(SilentTermError):
                guarded([0.0], start=19, guard=guard)
        else:
            guarded([0.0], start=19, guard=guard)


def test_a_run_stops_at_a_silent_term(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SilentTermGuard, "ITERATIONS", 2)
    monkeypatch.setattr("bpkd.distillers.ifvd.intra_class_variation", lambda s, t, y, **kw: s.sum() * 0)
    with pytest.raises(SilentTermError, match=r"loss_kd_ifv \(tap 'decode'\)"):
        train(tiny / "pair.yaml", tmp_path, "DISTILL.METHOD", "IFVD", "DISTILL.IFVD.ADV_WEIGHT", "0.0")
    assert not (tmp_path / "last_checkpoint").exists()
