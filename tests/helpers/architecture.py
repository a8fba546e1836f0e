"""Tests that every architecture passes: a subclass names its configs and inherits the tests."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.torch_version import TorchVersion

from bpkd.analysis.complexity import count
from bpkd.analysis.paper import TABLE2
from bpkd.config import read_config
from bpkd.convert import load_strict
from bpkd.export import to_exported_program, to_onnx, to_torchscript
from bpkd.modeling import SemanticSegmentor, build_student
from bpkd.modeling.base import CAPABILITIES
from tests.helpers.golden_networks import GOLDEN, TOLERANCE, differences, fill

SIZE = (96, 80)  # several windows of ISANet, with padding
CONFIGS = Path(__file__).parents[2] / "configs" / "networks"


def network(name: str, *opts: Any, classes: int = 5) -> SemanticSegmentor:
    torch.manual_seed(0)
    fixed = ("MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes)
    return build_student(read_config(str(CONFIGS / f"{name}.yaml"), [*fixed, *opts]))


class ArchitectureSuite:
    """Tests of one architecture.

    Attributes:
        config: its config in configs/networks, and ``small``: KEY VALUE pairs that make it fast on a CPU.
        stride: image size over logits size.
        golden: config -> (golden name, gain of the filled batch norms) of the paper's networks of this architecture.
        lacks: names of CAPABILITIES that must fail; all others must work.
    """

    config: ClassVar[str]
    small: ClassVar[tuple[Any, ...]]
    stride: ClassVar[int]
    golden: ClassVar[dict[str, tuple[str, float]]]
    lacks: ClassVar[frozenset[str]] = frozenset({"script"})

    def build(self, *opts: Any, random_weights: bool = True) -> SemanticSegmentor:
        model = network(self.config, *self.small, *opts)
        if random_weights:  # zero-initialised branches and a classifier near zero would hide differences
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if parameter.dim() == 1 and name.endswith("weight"):
                        parameter.uniform_(0.5, 1.5)
                model.decode_head.conv_seg.weight.normal_(std=0.3)
        return model

    @staticmethod
    def images(*size: int) -> torch.Tensor:
        return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))

    @pytest.mark.parametrize("size", [(64, 64), (33, 47), (97, 65)])
    def test_maps_at_odd_sizes(self, size: tuple[int, int]) -> None:
        model = self.build().eval()
        with torch.no_grad():
            output = model.predict(self.images(*size))
        assert output.logits.shape == (2, 5, *(math.ceil(n / self.stride) for n in size))
        assert output.aux is None
        assert {k: v.shape[1] for k, v in output.features.items()} == model.feature_channels()
        for name, shape in model.backbone.output_shape().items():
            assert output.features[name].shape[2:] == tuple(math.ceil(n / shape.stride) for n in size)

    def test_backward_reaches_every_parameter(self) -> None:
        model = self.build().train()
        target = torch.randint(0, 5, (2, *SIZE), generator=torch.Generator().manual_seed(2))
        losses = model.losses(model.predict(self.images(*SIZE)), target)
        assert list(losses) == ["loss_ce", "loss_aux"] if model.auxiliary_head else ["loss_ce"]
        sum(losses.values()).backward()
        silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not silent
        assert all(float(p.grad.abs().sum()) > 0 for p in model.decode_head.parameters())

    def test_auxiliary_loss_is_the_configs(self) -> None:
        weight = 0.25
        model = self.build("MODEL.AUX_HEAD.LOSS_WEIGHT", weight, *self.auxiliary()).train()
        target = torch.zeros(2, *SIZE, dtype=torch.int64)
        output = model.predict(self.images(*SIZE))
        losses = model.losses(output, target)
        torch.testing.assert_close(losses["loss_aux"], weight * model.pixel_loss(output.aux, target))
        alone = self.build("MODEL.AUX_HEAD.LOSS_WEIGHT", 0.0).train()
        assert alone.predict(self.images(*SIZE)).aux is None
        assert not any("auxiliary" in key for key in alone.state_dict())

    def auxiliary(self) -> tuple[Any, ...]:
        """Returns KEY VALUE pairs that add an auxiliary head to a network that has none."""
        return ()

    def test_evaluation_has_no_dropout(self) -> None:
        model = self.build("MODEL.SEM_SEG_HEAD.DROPOUT", 0.5)
        images = self.images(*SIZE)
        with torch.no_grad():
            for training in (False, True):
                torch.manual_seed(3)
                first, second = (model.train(training).predict(images).logits for _ in range(2))
                assert torch.equal(first, second) is not training

    def test_half_precision(self) -> None:
        model, images = self.build("MODEL.SEM_SEG_HEAD.DROPOUT", 0.0).eval(), self.images(*SIZE)
        with torch.no_grad():
            full = model.predict(images).logits
            with torch.autocast("cpu", torch.bfloat16):
                cast = model.predict(images).logits
            half = copy.deepcopy(model).to(torch.bfloat16).predict(images.bfloat16()).logits
        for logits in (cast, half):
            assert logits.dtype == torch.bfloat16
            assert float((logits.float() - full).pow(2).mean().sqrt() / full.std()) < 0.1
        with torch.autocast("cpu", torch.bfloat16):
            sum(model.train().losses(model.predict(images), torch.zeros(2, *SIZE).long()).values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())

    def test_checkpoint_round_trip(self, tmp_path: Path) -> None:
        model, other = self.build(), self.build(random_weights=False)
        torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
        load_strict(other, str(tmp_path / "weights.pth"))
        images = self.images(33, 47)
        with torch.no_grad():
            assert torch.equal(model.eval().predict(images).logits, other.eval().predict(images).logits)

    def test_keys_and_logits_equal_openmmlabs(self) -> None:
        if not self.golden:
            pytest.skip("no golden network")
        for config in self.golden:
            model = network(config, classes=19).eval()
            fill(model, config)
            apart, other = differences(model, config)
            assert max(apart.values()) <= TOLERANCE, (config, apart)
            assert max(other.values()) <= 2, (config, other)  # ties

    def test_cost_equals_the_papers(self) -> None:
        if not self.golden:
            pytest.skip("no golden network")
        golden = json.loads((GOLDEN / "params_flops.json").read_text())["networks"]
        for config, (name, _) in self.golden.items():
            if config not in TABLE2:
                continue
            cost, want = count(network(config, classes=150)), golden[name]["150"]
            assert (cost.params, cost.flops) == (want["params_total"], want["flops_512x512_fvcore"])
            assert cost.flops_by_operator == want["flops_by_operator"]
            assert (round(cost.params / 1e6, 2), round(cost.flops / 1e9, 2)) == TABLE2[config]

    def test_flags_name_what_is_lacking(self) -> None:
        model = self.build()
        assert {c for c in CAPABILITIES if not model.supports(c)} == self.lacks
        with pytest.raises(ValueError, match="capability: expected one of"):
            model.supports("fly")

    def test_channels_last_computes_the_same(self) -> None:
        model, images = self.build("MODEL.SEM_SEG_HEAD.DROPOUT", 0.0).double(), self.images(*SIZE).double()
        other = copy.deepcopy(model)
        other.accelerate(channels_last=True)
        weights = [p for p in other.parameters() if p.dim() == 4]
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
        others = images.to(memory_format=torch.channels_last)
        for training in (True, False):
            self.compare(model.train(training), other.train(training), images, others)

    def test_compiled_computes_the_same(self, backend: str = "aot_eager") -> None:
        """The whole network is one graph, forward and backward."""
        model, images = self.build("MODEL.SEM_SEG_HEAD.DROPOUT", 0.0).double(), self.images(*SIZE).double()
        other = copy.deepcopy(model)
        compiled = torch.compile(other.predict, fullgraph=True, backend=backend)
        for training in (True, False):
            self.compare(model.train(training), other.train(training), images, images, compiled)
        torch._dynamo.reset()

    @pytest.mark.slow
    def test_generated_code_computes_the_same(self) -> None:
        self.test_compiled_computes_the_same(backend="inductor")

    @staticmethod
    def compare(
        model: SemanticSegmentor, other: SemanticSegmentor, images: torch.Tensor, others: torch.Tensor, run: Any = None
    ) -> None:
        """Logits, and in training gradients, of two copies agree.

        In float64: in float32 rounding alone moves values over the ReLUs' kinks, which shows in single gradients.
        """
        run = run or other.predict
        with torch.set_grad_enabled(model.training):
            want, got = model.predict(images).logits, run(others).logits
        assert want.dtype == got.dtype == torch.float64
        assert float((want - got).detach().abs().max() / want.detach().std()) < 1e-8
        if not model.training:
            return
        for logits in (want, got):
            logits.square().mean().backward()
        scale = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
        for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
            if a.grad is not None:
                assert float((a.grad - b.grad).abs().max()) < 1e-8 * scale, name

    def test_torchscript_trace(self, tmp_path: Path) -> None:
        assert to_torchscript(self.build(), str(tmp_path / "net.ts"), (64, 80)) < 1e-4
        assert [p.name for p in tmp_path.iterdir()] == ["net.ts"]

    def test_torchscript_script_is_refused(self) -> None:
        with pytest.raises(Exception, match=r"Tensor|not supported|annotation"):
            torch.jit.script(self.build())

    @pytest.mark.skipif(TorchVersion(torch.__version__) < "2.7", reason="bpkd writes ONNX files from torch 2.7 on")
    def test_onnx_of_one_size(self, tmp_path: Path) -> None:
        assert to_onnx(self.build(), str(tmp_path / "net.onnx"), (64, 80)) < 1e-4

    def test_exported_program_of_one_size(self, tmp_path: Path) -> None:
        assert to_exported_program(self.build(), str(tmp_path / "net.pt2"), (64, 80)) < 1e-4

    @pytest.mark.slow
    def test_exported_program_of_any_size(self, tmp_path: Path) -> None:
        path = str(tmp_path / "net.pt2")
        if "export_any_size" not in self.lacks:
            assert to_exported_program(self.build(), path, (64, 80), any_size=True) < 1e-4
            return
        with pytest.raises(ValueError, match="does not support 'export_any_size'"):
            to_exported_program(self.build(), path, (64, 80), any_size=True)

    @pytest.mark.slow
    def test_onnx_of_any_size(self, tmp_path: Path) -> None:
        model, path = self.build(), tmp_path / "net.onnx"
        if "onnx_any_size" not in self.lacks:
            assert to_onnx(model, str(path), (64, 80), any_size=True) < 1e-4
            return
        with pytest.raises(ValueError, match="does not support 'onnx_any_size'"):
            to_onnx(model, str(path), (64, 80), any_size=True)
        model.decode_head.unsupported = frozenset()  # without the flag: the file is wrong, and not handed out
        with pytest.raises(Exception, match="node_|differ"):
            to_onnx(model, str(path), (64, 80), any_size=True)
        assert not list(tmp_path.iterdir())
