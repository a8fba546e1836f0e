"""Cityscapes' and COCO's evaluation beside the official code, and all evaluators over several processes."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bpkd.config import get_bpkd_cfg
from bpkd.config.check import check_values
from bpkd.engine.launch import leave_group
from bpkd.evaluation import CityscapesEvaluator, InstanceEvaluator, SemanticEvaluator, build_evaluator
from bpkd.evaluation.cityscapes import in1d, official_scripts
from tests.helpers.evaluation import NAMES, WIDTHS, pairs
from tests.helpers.label_maps import published_boundary
from tests.helpers.processes import spawn

official = official_scripts()

Pairs = list[tuple[dict[str, Any], dict[str, Any]]]
PERSON, CAR = 24, 26
THINGS = ("cat", "dog", "tree")
CATEGORIES = (3, 7, 20)
SIZE = (60, 80)


def write_cityscapes(root: Path, count: int = 5) -> Pairs:
    """Writes gtFine files of ``count`` images, and returns dataset dicts with scores that are often right."""
    rng, rows = np.random.default_rng(0), []
    known = np.array([label.id for label in official.labels if label.id >= 0])
    train_ids = {label.id: label.trainId for label in official.labels}
    folder = root / "gtFine" / "val" / "ulm"
    folder.mkdir(parents=True)
    for i in range(count):
        label = np.kron(rng.choice(known, (6, 8 + i)), np.ones((8, 8))).astype(np.uint8)
        instances = label.astype(np.uint16)
        for thing in (PERSON, CAR):
            instances[10 * i % 40 :][:6, 5 + thing : 15 + thing] = 1000 * thing + i
            label[10 * i % 40 :][:6, 5 + thing : 15 + thing] = thing
        stem = f"ulm_{i:06d}_000019"
        trained = np.vectorize(lambda v: train_ids[v] % 256)(label).astype(np.uint8)
        Image.fromarray(label).save(folder / f"{stem}_gtFine_labelIds.png")
        Image.fromarray(trained).save(folder / f"{stem}_gtFine_labelTrainIds.png")
        Image.fromarray(instances).save(folder / f"{stem}_gtFine_instanceIds.png")
        guess = np.where((trained < 19) & (rng.random(label.shape) < 0.7), trained, rng.integers(0, 19, label.shape))
        scores = torch.nn.functional.one_hot(torch.from_numpy(guess).long(), 19).permute(2, 0, 1).float()
        name = folder / f"{stem}_gtFine_{'labelTrainIds' if i % 2 else 'labelIds'}.png"
        rows.append(({"file_name": f"{stem}_leftImg8bit.png", "sem_seg_file_name": str(name)}, {"sem_seg": scores}))
    return rows


def write_coco(path: Path, count: int = 5) -> Pairs:
    """Writes a COCO file of ``count`` images with discs and boxes, one a crowd, and returns moved instances."""
    rng, rows, annotations = np.random.default_rng(1), [], []
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for i in range(count):
        masks, scores, classes = [], [], []
        for j in range(5):
            cy, cx, r = rng.integers(0, SIZE[0]), rng.integers(0, SIZE[1]), rng.integers(4, 22)
            mask = (y - cy) ** 2 + (x - cx) ** 2 < r * r if j % 2 else (abs(y - cy) < r) & (abs(x - cx) < r // 2 + 1)
            encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": 100 + i, "category_id": CATEGORIES[j % 2],
                    "iscrowd": int(j == 4), "area": int(mask.sum()), "bbox": rle.toBbox(encoded).tolist(),
                    "segmentation": {"size": list(SIZE), "counts": encoded["counts"].decode()},
                }
            )  # fmt: skip
            for shift in (rng.integers(0, 3), 9):
                masks.append(np.roll(mask, shift, axis=1))
                scores.append(rng.integers(1, 20) / 20)  # equal ones among them
                classes.append(j % 2)
        masks[-1][:] = False  # a network may predict nothing at all
        found = Instances(SIZE, pred_masks=torch.tensor(np.stack(masks)), scores=torch.tensor(scores).float())
        found.pred_classes = torch.tensor(classes)
        rows.append(({"file_name": f"{i}.jpg", "image_id": 100 + i}, {"instances": found}))
    images = [{"id": 100 + i, "height": SIZE[0], "width": SIZE[1], "file_name": f"{i}.jpg"} for i in range(count)]
    categories = [{"id": c, "name": n} for c, n in zip(CATEGORIES, THINGS, strict=True)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return rows


def run(evaluator: DatasetEvaluator, rows: Pairs) -> Any:
    evaluator.reset()
    for item, output in rows:
        evaluator.process([item], [output])
    return evaluator.evaluate()


def evaluators(folder: Path) -> list[DatasetEvaluator]:
    return [
        SemanticEvaluator(class_names=NAMES, widths=WIDTHS, output_dir=str(folder / "semantic")),
        CityscapesEvaluator(str(folder / "cityscapes")),
        InstanceEvaluator(json_file=str(folder.parent / "coco.json"), class_names=THINGS, backend="pycocotools"),
    ]


def _worker(rank: int, root: Path, rows: Sequence[Pairs], count: int, world: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{root}/rendezvous{count}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    folder = root / f"machine{rank}"  # no common folder
    got = [run(one, part[:count][rank::world]) for one, part in zip(evaluators(folder), rows, strict=True)]
    assert all((g is None) == (rank > 0) for g in got)
    if rank == 0:
        (root / f"got{count}.json").write_text(json.dumps(got))
    leave_group()


def test_three_processes_equal_one(tmp_path: Path) -> None:
    """5 images over 3 processes, and 2: the third has none."""
    rows = (pairs(), write_cityscapes(tmp_path), write_coco(tmp_path / "coco.json"))
    for count in (5, 2):
        spawn(_worker, (tmp_path, rows, count, 3), 3)
        got = json.loads((tmp_path / f"got{count}.json").read_text())
        want = [run(one, part[:count]) for one, part in zip(evaluators(tmp_path / "one"), rows, strict=True)]
        # Counts are whole numbers: exact. Sums of the instances' weights differ in the last digit by their order.
        assert json.dumps(got[::2]) == json.dumps([want[0], want[2]])
        assert got[1]["cityscapes"] == pytest.approx(want[1]["cityscapes"], rel=1e-12, nan_ok=True)
    assert json.loads((tmp_path / "machine0/semantic/metrics.json").read_text())["protocol"]["num_images"] == 2
    assert len(list(tmp_path.glob("machine*/cityscapes/*_pred.png"))) == 5


def test_cityscapes_equals_the_official_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_cityscapes(tmp_path)
    got = run(CityscapesEvaluator(str(tmp_path / "pred")), rows)["cityscapes"]
    for key, value in {"predictionPath": str(tmp_path / "pred"), "predictionWalk": None, "evalInstLevelScore": True,
                       "JSONOutput": False, "quiet": True}.items():  # fmt: skip
        monkeypatch.setattr(official.args, key, value)
    truth = sorted(str(p) for p in tmp_path.rglob("*_gtFine_labelIds.png"))
    # The script finds our files by its own search, so the server would too.
    want = official.evaluateImgLists([official.getPrediction(official.args, t) for t in truth], truth, official.args)
    assert got["IoU"] == pytest.approx(100 * want["averageScoreClasses"], rel=1e-12)
    assert got["iIoU"] == pytest.approx(100 * want["averageScoreInstClasses"], rel=1e-12)
    assert got["IoU_sup"] == pytest.approx(100 * want["averageScoreCategories"], rel=1e-12)
    assert got["iIoU_sup"] == pytest.approx(100 * want["averageScoreInstCategories"], rel=1e-12)
    assert got["IoU-car"] == pytest.approx(100 * want["classScores"]["car"])
    assert got["IoU_sup-vehicle"] == pytest.approx(100 * want["categoryScores"]["vehicle"])
    assert 10 < got["IoU"] < 90
    trained = SemanticEvaluator(class_names=[f"{i}" for i in range(19)])
    for item, output in rows:
        label = np.array(Image.open(item["sem_seg_file_name"].replace("labelIds", "labelTrainIds")))
        trained.process([{"sem_seg": torch.from_numpy(label)}], [output])
    assert trained.evaluate()["sem_seg"]["mIoU"] == pytest.approx(got["IoU"])


@pytest.mark.parametrize("invert", [False, True])
def test_membership_on_a_numpy_without_in1d(invert: bool) -> None:
    values = np.array([[3, 1, 4], [1, 5, 9]], np.uint8)
    want = [(v in (1, 9)) != invert for v in values.ravel().tolist()]
    assert in1d(values, [1, 9], invert=invert).tolist() == want
    assert not hasattr(np, "in1d") or not isinstance(official.np, SimpleNamespace)  # numpy's own where it has one


def test_cityscapes_without_instance_files_leaves_iiou_out(tmp_path: Path) -> None:
    rows = write_cityscapes(tmp_path, 2)
    for path in tmp_path.rglob("*_instanceIds.png"):
        path.unlink()
    got = run(CityscapesEvaluator(), rows)["cityscapes"]
    assert "iIoU" not in got
    assert got["IoU"] > 0


def test_cityscapes_errors_name_the_file(tmp_path: Path) -> None:
    item, output = write_cityscapes(tmp_path, 1)[0]
    evaluator = CityscapesEvaluator()
    with pytest.raises(ValueError, match=r"ulm_000000_000019_leftImg8bit.png: expected 'sem_seg_file_name' to end"):
        evaluator.process([{**item, "sem_seg_file_name": "x.png"}], [output])
    with pytest.raises(ValueError, match=r"labelIds.png: \(64, 48\).*\(64, 40\)"):
        evaluator.process([item], [{"sem_seg": output["sem_seg"][:, :40]}])
    Path(item["sem_seg_file_name"]).unlink()
    with pytest.raises(ValueError, match=r"labelIds.png: no such file.*gtFine"):
        evaluator.process([item], [output])


def coco_stats(evaluator: COCOeval) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return 100 * evaluator.stats


def as_results(rows: Pairs) -> list[dict[str, Any]]:
    results = []
    for item, output in rows:
        found = output["instances"]
        for mask, score, c in zip(found.pred_masks.numpy(), found.scores.tolist(), found.pred_classes, strict=True):
            encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            results.append({"image_id": item["image_id"], "category_id": CATEGORIES[c], "score": score,
                            "segmentation": encoded})  # fmt: skip
    return results


class LoopBoundary(COCOeval):
    """Boundary AP with every overlap counted on pixels, the boundary by the published definition."""

    ratio = 0.02

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not truth and not found:
            return []
        found = sorted(found, key=lambda d: -d["score"])
        table = np.zeros((len(found), len(truth)))
        for i, j in np.ndindex(table.shape):
            d, g = found[i], truth[j]
            a, b = (rle.decode(o["segmentation"]).astype(bool) for o in (d, g))
            shares = []
            for p, q in ((a, b), (published_boundary(a, self.ratio), published_boundary(b, self.ratio))):
                either = p.sum() if g["iscrowd"] else (p | q).sum()
                shares.append((p & q).sum() / either if either else 0.0)
            table[i, j] = min(shares)
        return table


def test_ap_and_boundary_ap_equal_cocos(tmp_path: Path) -> None:
    rows = write_coco(tmp_path / "coco.json")
    got = run(InstanceEvaluator(json_file=str(tmp_path / "coco.json"), class_names=THINGS, backend="pycocotools"), rows)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "coco.json"))
        found = truth.loadRes(as_results(rows))
    want = coco_stats(COCOeval(truth, found, "segm"))
    keys = ("AP", "AP50", "AP75", "APs")
    assert [got["segm"][k] for k in keys] == pytest.approx(want[:4].tolist(), rel=1e-12)
    edge = coco_stats(LoopBoundary(truth, found, "segm"))
    assert [got["boundary"][k] for k in keys] == pytest.approx(edge[:4].tolist(), rel=1e-12)
    assert 0 < got["boundary"]["AP"] < got["segm"]["AP"] < 100
    assert got["segm"]["AP"] == pytest.approx((got["segm"]["AP-cat"] + got["segm"]["AP-dog"]) / 2)
    assert np.isnan(got["segm"]["AP-tree"])  # no label
    assert np.isnan(got["segm"]["APl"])  # no large one


def test_faster_coco_eval_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    rows, options = write_coco(tmp_path / "coco.json"), {"json_file": str(tmp_path / "coco.json")}
    slow, fast = (
        run(InstanceEvaluator(**options, class_names=THINGS, backend=b), rows)
        for b in ("pycocotools", "faster-coco-eval")
    )
    assert fast["segm"] == pytest.approx(slow["segm"], rel=1e-12, nan_ok=True)


def test_instances_nothing_predicted_and_part_of_the_set(tmp_path: Path) -> None:
    rows = write_coco(tmp_path / "coco.json")
    evaluator = InstanceEvaluator(
        json_file=str(tmp_path / "coco.json"), class_names=THINGS, backend="pycocotools", output_dir=str(tmp_path)
    )
    nothing = [(item, {"instances": output["instances"][:0]}) for item, output in rows]
    assert run(evaluator, nothing)["boundary"]["AP"] == 0
    right = rows[:1]
    truth = [a for a in evaluator.truth.imgToAnns[100] if not a["iscrowd"]]
    perfect = Instances(SIZE, scores=torch.ones(len(truth)))
    perfect.pred_masks = torch.from_numpy(np.stack([evaluator.truth.annToMask(a) for a in truth])).bool()
    perfect.pred_classes = torch.tensor([CATEGORIES.index(a["category_id"]) for a in truth])
    result = run(evaluator, [(right[0][0], {"instances": perfect})])  # the other four images do not count as missed
    assert (result["segm"]["AP"], result["boundary"]["AP"]) == (pytest.approx(100), pytest.approx(100))
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert set(written[0]) == {"image_id", "category_id", "score", "segmentation"}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.truth.loadRes(written)


def test_images_with_more_objects_than_cocos_limit(tmp_path: Path) -> None:
    masks = torch.zeros(150, 60, 80, dtype=torch.bool)
    for i, mask in enumerate(masks):
        mask[i // 15 * 6 : i // 15 * 6 + 4, i % 15 * 5 : i % 15 * 5 + 4] = True
    labels = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 16, "bbox": rle.toBbox(code).tolist(),
         "segmentation": {"size": [60, 80], "counts": code["counts"].decode()}}
        for i, code in enumerate(rle.encode(np.asfortranarray(m.numpy().astype(np.uint8))) for m in masks)
    ]  # fmt: skip
    image = {"id": 1, "file_name": "0.jpg", "height": 60, "width": 80}
    path = tmp_path / "coco.json"
    path.write_text(
        json.dumps({"images": [image], "annotations": labels, "categories": [{"id": 1, "name": "cell"}], "info": {}})
    )
    found = Instances(
        (60, 80), pred_masks=masks, scores=torch.linspace(1, 0.5, 150), pred_classes=torch.zeros(150, dtype=torch.long)
    )
    rows = [({"image_id": 1, "file_name": "0.jpg"}, {"instances": found})]
    for limit, most in ((100, 100 * 67 / 101), (150, 100.0)):  # recalls 0, 0.01, .. 2/3 of COCO's 101
        evaluator = InstanceEvaluator(
            json_file=str(path), class_names=["cell"], backend="pycocotools", max_detections=limit
        )
        result = run(evaluator, rows)
        assert [result[k]["AP"] for k in ("segm", "boundary", "bbox")] == pytest.approx([most] * 3)
    with pytest.raises(ValueError, match="max_detections: expected at least 1, got 0"):
        InstanceEvaluator(json_file=str(path), class_names=["cell"], max_detections=0)


def test_instance_errors(tmp_path: Path) -> None:
    (item, output), path = write_coco(tmp_path / "coco.json", 1)[0], str(tmp_path / "coco.json")
    evaluator = InstanceEvaluator(json_file=path, class_names=THINGS)
    with pytest.raises(ValueError, match=r"0.jpg: image_id 9 is not in"):
        evaluator.process([{**item, "image_id": 9}], [output])
    small = Instances((30, 80), pred_masks=torch.zeros(1, 30, 80), scores=torch.ones(1), pred_classes=torch.zeros(1))
    with pytest.raises(ValueError, match=r"0.jpg: expected masks of the original size 60 x 80, got 30 x 80"):
        evaluator.process([item], [{"instances": small}])
    with pytest.raises(ValueError, match="expected a category for each of 4 classes"):
        InstanceEvaluator(json_file=path, class_names=(*THINGS, "cloud"))
    with pytest.raises(ValueError, match=r"backend: expected one of.*'coco'"):
        InstanceEvaluator(json_file=path, class_names=THINGS, backend="coco")


def register(name: str, **meta: Any) -> str:
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(**meta)
    return name


def test_the_data_set_says_which_evaluators(tmp_path: Path) -> None:
    cfg = get_bpkd_cfg()
    classes = {"stuff_classes": ["a"] * 19, "ignore_label": 255}
    name = register("tiny_cityscapes", evaluator_type="cityscapes_sem_seg", **classes)
    both = build_evaluator(cfg, name, str(tmp_path))
    assert [type(e) for e in both._evaluators] == [SemanticEvaluator, CityscapesEvaluator]
    cfg.TEST.CITYSCAPES_OFFICIAL = False
    assert type(build_evaluator(cfg, name)) is SemanticEvaluator
    write_coco(tmp_path / "coco.json")
    ids = {c: i for i, c in enumerate(CATEGORIES)}
    things = {"thing_classes": list(THINGS), "thing_dataset_id_to_contiguous_id": ids}
    name = register("tiny_instances", evaluator_type="coco", json_file=str(tmp_path / "coco.json"), **things)
    evaluator = build_evaluator(cfg, name)
    assert isinstance(evaluator, InstanceEvaluator)
    assert evaluator.ids == dict(enumerate(CATEGORIES))


def test_a_set_of_dicts_gets_its_file(tmp_path: Path) -> None:
    name = "tiny_dicts"
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    box = {"bbox": [1, 1, 8, 8], "bbox_mode": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]]}
    item = {"file_name": "0.png", "image_id": 0, "height": 20, "width": 20, "annotations": [box]}
    DatasetCatalog.register(name, lambda: [item])
    register(name, evaluator_type="coco", thing_classes=list(THINGS))
    with pytest.raises(ValueError, match="tiny_dicts: expected metadata 'json_file'"):
        build_evaluator(get_bpkd_cfg(), name)
    evaluator = build_evaluator(get_bpkd_cfg(), name, str(tmp_path))
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[:, 1:9, 1:9] = True
    found = Instances((20, 20), pred_masks=mask, scores=torch.ones(1), pred_classes=torch.tensor([1]))
    assert run(evaluator, [(item, {"instances": found})])["segm"]["AP-dog"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SLIDE_WINDOWS", 0),
        ("SCALES", [1.0, 0.0]),
        ("SCALES", []),
        ("BOUNDARY_TOLERANCES", [0]),
        ("COCO_BACKEND", "x"),
        ("COCO_MAX_DETECTIONS", 0),
    ],
)
def test_wrong_test_settings_are_refused_at_the_start(key: str, value: Any) -> None:
    cfg = get_bpkd_cfg()
    cfg.TEST[key] = value
    with pytest.raises(ValueError, match=f"TEST.{key}: expected"):
        check_values(cfg)
