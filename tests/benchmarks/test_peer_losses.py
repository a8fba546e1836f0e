"""benchmarks/peer_losses.py and stand-ins of two peers: unchanged import, equal gradients or no time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import peer_losses as tool
from benchmarks.harness import Times
from benchmarks.peers import projects

# As the peers' files are: they import what is not installed, and each other; their sums are not ours.
CHANNEL = """
import torch, scipy.ndimage as nd
from tensorboardX import SummaryWriter
{imports}
class {name}(torch.nn.Module):
    def __init__(self, *args):
        super().__init__()
    def forward(self, s, t):
        p, q = t.flatten(2).softmax(2), s.flatten(2).log_softmax(2)
        return -{factor} * (p * q).sum() / s.shape[0] / s.shape[1]
"""
DECORATED = "from mmrazor.registry import MODELS\nregister = MODELS.register_module()\n@register"
RELATIVE = "from .utils import WIDTH\nfrom ..builder import LOSSES\n@LOSSES.register_module()"


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "TorchDistiller/SemSeg-distill/utils/criterion.py": CHANNEL.format(imports="", name="CriterionCWD", factor=1),
        "mmrazor/mmrazor/models/losses/cwd.py": CHANNEL.format(
            imports=DECORATED, name="ChannelWiseDivergence", factor=1
        ),
        "mmsegmentation-distiller/mmseg/distillation/losses/cwd.py": CHANNEL.format(
            imports=RELATIVE, name="ChannelWiseDivergence", factor=1
        ),
        "mmsegmentation-distiller/mmseg/distillation/losses/utils.py": "WIDTH = 1",
        "mmsegmentation-distiller/mmseg/distillation/builder.py": "import mmcv.utils\nLOSSES = mmcv.utils.Registry()",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("peer_"):
            del sys.modules[name]


def run(root: Path, *options: str) -> int:
    return tool.main(
        ["--peer-root", str(root), "--shapes", "2,5,8,8", "1,3,6,4", "--terms", "channel", "--rounds", "2", *options]
    )


def test_record_holds_every_peer_at_every_shape(peers: Path, tmp_path: Path, capsys) -> None:  # noqa: ANN001
    before = set(sys.modules)
    assert run(peers, "--json", str(tmp_path / "peers.json"), "--cpu-time") == 0
    record = json.loads((tmp_path / "peers.json").read_text())
    names = ["TorchDistiller", "mmrazor", "mmsegmentation-distiller"]
    assert [(r["shape"], r["peer"]) for r in record["rows"]] == [
        (shape, name) for shape in ([2, 5, 8, 8], [1, 3, 6, 4]) for name in names
    ]
    for row in record["rows"]:
        assert row["term"] == "channel"
        assert row["rounds"] == 2
        assert row["gradient_apart"] < 1e-5
    assert record["peers"]["mmrazor"]["licence"] == "Apache-2.0"
    assert record["peers"].keys() == projects.PEERS.keys()
    assert "peer_root" not in record["setting"]
    assert record["environment"].keys() == {"commit", "versions", "hardware"}
    assert capsys.readouterr().out.count("channel") == 6
    assert not {"scipy", "mmcv", "mmrazor", "tensorboardX", "utils"} & {
        n.split(".")[0] for n in set(sys.modules) - before
    }


def test_a_peer_with_another_gradient_is_not_timed(peers: Path) -> None:
    path = peers / "mmrazor/mmrazor/models/losses/cwd.py"
    path.write_text(path.read_text().replace("-1 *", "-1.01 *"))
    with pytest.raises(RuntimeError, match=r"channel, mmrazor: expected our gradient x 1, differs by 1.0e-02"):
        run(peers)


def test_a_missing_clone_is_named_with_its_address(peers: Path) -> None:
    (peers / "TorchDistiller/SemSeg-distill/utils/criterion.py").unlink()
    with pytest.raises(FileNotFoundError, match="git clone https://github.com/irfanICMLL/TorchDistiller"):
        run(peers)


def test_every_term_of_ours_has_a_step_that_gives_a_gradient() -> None:
    x = tool.Inputs.draw((2, 3, 64, 64), "cpu")
    terms = tool.ours(x)
    assert terms.keys() == tool.THEIRS.keys()
    for leaf, step in terms.values():
        x.student.grad = x.student_map.grad = None
        assert float(tool.gradient_of(leaf, step).norm()) > 0


def test_ratios_are_paired() -> None:
    a, b = tool.summarise(Times({tool.OURS: [5.0, 60.0], "a": [10.0, 120.0], "b": [5.0, 30.0]}))
    assert (a["peer"], a["ratio"], a["ratio_quartiles"]) == ("a", 0.5, [0.5, 0.5])
    assert (b["peer"], b["ratio"], b["ratio_quartiles"]) == ("b", 1.5, [1.25, 1.75])
    assert (b["ours_median_ms"], b["peer_median_ms"], b["rounds"]) == (32.5, 17.5, 2)


def test_the_gradients_factor_is_applied() -> None:
    leaf = torch.ones(3, requires_grad=True)
    own = (leaf, tool._step(leaf, lambda: leaf.square().sum()))
    others = {"four": (4.0, tool._step(leaf, lambda: 4 * leaf.square().sum())), "random": (None, own[1])}
    assert tool.check_gradients("term", own, others) == {"four": 0.0, "random": None}
