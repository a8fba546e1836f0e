"""Every config of the paper starts on the miniatures: data, a few iterations, evaluation, checkpoint.

What is changed is size alone: channels, crop, batch, number of iterations, and the weights to start from, which cannot
be part of a test. Depth, heads, recipe, distiller and protocol are the config's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from bpkd.analysis.complexity import count
from bpkd.engine import argument_parser, load_config, main
from bpkd.modeling import build_student
from tests.helpers.config_files import METHODS, PAIRS, RUNS, SETS
from tests.helpers.miniatures import write_ade20k, write_cityscapes, write_pascal_context

ROOT = Path(__file__).parents[2]
SMALL = """
MODEL:
  DEVICE: cpu
  BACKBONE: {{WEIGHTS: ""}}
  RESNET_V1C: {{WIDTH_MULTIPLIER: 0.125}}
  HRNET: {{WIDTH_MULTIPLIER: 0.25}}
  MOBILENET_V2: {{WIDTH_MULTIPLIER: 0.25}}
  SEM_SEG_HEAD: {{CHANNELS: 16, LOW_LEVEL_CHANNELS: 8, ATTENTION_CHANNELS: 8}}
  AUX_HEAD: {{CHANNELS: 8}}
DATASETS: {{ROOT: "{data}", SUBSET: True}}
DATALOADER: {{NUM_WORKERS: 0}}
INPUT: {{RESIZE_BOX: [0, 0], TEST_BOX: [0, 0], CROP_SIZE: [32, 32]}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 2, CHECKPOINT_PERIOD: 2, LOG_PERIOD: 1}}
TEST: {{SLIDE_CROP: [48, 48], SLIDE_STRIDE: [40, 40], TRIMAP_WIDTHS: [1]}}
"""
PAPER = [n.removeprefix("projects/BPKD/configs/") for n in RUNS if Path(n).parent.name in SETS and "projects" in n]
# One pair per set and method, every pair among them, and each set's student alone.
QUICK = [f"{s}/{PAIRS[(i + j) % 4]}__{m}_40k.yaml" for i, s in enumerate(SETS) for j, m in enumerate(METHODS)]
QUICK += [f"{s}/{PAIRS[i].split('__')[0]}_40k.yaml" for i, s in enumerate(SETS)]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On maps of 4x4 positions threads do nothing but wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with miniatures of the paper's three sets."""
    root = tmp_path_factory.mktemp("miniatures")
    write_ade20k(root, count=2)
    write_cityscapes(root, count=1)
    write_pascal_context(root, count=2, masks=True)
    return root


def start(name: str, data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trains a config of the paper made small, and returns its output."""
    monkeypatch.chdir(ROOT)
    counted = partial(count, size=(64, 64))  # 512x512 takes longer than the run
    monkeypatch.setattr("bpkd.engine.run_record.count", counted)
    small, base = SMALL.format(data=data), ROOT / "projects/BPKD/configs" / name
    student, opts = folder / "student.yaml", []
    student.write_text(f"_BASE_: {base}\n{small}OUTPUT_DIR: {folder / 'out'}\n")
    cfg = load_config(str(student))
    if cfg.DISTILL.METHOD != "none":
        teacher = folder / "teacher.yaml"
        teacher.write_text(f"_BASE_: {ROOT / cfg.TEACHER.CONFIG_FILE}\n{small}")
        torch.save({"model": build_student(load_config(str(teacher))).state_dict()}, folder / "teacher.pth")
        opts = ["TEACHER.CONFIG_FILE", str(teacher), "TEACHER.WEIGHTS", str(folder / "teacher.pth")]
    main(argument_parser().parse_args(["--config-file", str(student), *opts]))
    return folder / "out"


def check_run(name: str, data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = start(name, data, folder, monkeypatch)
    rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    terms = {key for row in rows for key in row if key.startswith("loss_")}
    assert "loss_ce" in terms
    assert any(key.startswith("loss_kd") for key in terms) == ("__" in name)
    record = json.loads((out / "run.json").read_text())
    assert record["iterations"] == 2
    assert 0 <= record["metrics"]["mIoU"] <= 100
    assert all(
        torch.isfinite(v).all() for v in torch.load(out / "model_final.pth", weights_only=True)["model"].values()
    )


@pytest.mark.parametrize("name", QUICK)
def test_a_config_of_the_paper_starts(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_run(name, data, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PAPER if n not in QUICK])
def test_every_other_config_of_the_paper_starts(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_run(name, data, tmp_path, monkeypatch)


def test_quick_runs_are_configs_of_the_paper() -> None:
    assert set(QUICK) < set(PAPER)
    assert {n.split("/")[1].rsplit("__", 1)[0] for n in QUICK if "__" in n} == set(PAIRS)
