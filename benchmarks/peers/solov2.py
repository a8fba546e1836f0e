"""mmdetection's light SOLOv2 R-18, imported unchanged: for comparisons only. The library needs none of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.projects import replace_operators
from bpkd.convert.instances import MMDET_SOLOV2
from bpkd.convert.rules import RuleSet, rename
from bpkd.modeling.solov2 import SOLOv2, image_instances


def _config(model: SOLOv2) -> dict[str, Any]:
    """The light R-18 in mmdetection's words, with this network's grids, ranges and thresholds."""
    grids, detection = model.ins_head.num_grids, model.detection
    ranges = [tuple(int(v) for v in pair) for pair in model.assigner.scale_ranges]
    norm = {"type": "GN", "num_groups": 32, "requires_grad": True}
    return {
        "type": "mmdet.SOLOv2",
        "data_preprocessor": {"type": "mmdet.DetDataPreprocessor", "pad_size_divisor": 32, "pad_mask": True},
        "backbone": {
            "type": "mmdet.ResNet", "depth": 18, "num_stages": 4, "out_indices": (0, 1, 2, 3), "frozen_stages": 1,
            "norm_cfg": {"type": "BN", "requires_grad": True}, "style": "pytorch",
        },
        "neck": {"type": "mmdet.FPN", "in_channels": [64, 128, 256, 512], "out_channels": 256, "start_level": 0,
                 "num_outs": 5},
        "mask_head": {
            "type": "mmdet.SOLOV2Head", "num_classes": model.num_classes, "in_channels": 256, "feat_channels": 256,
            "stacked_convs": 2, "strides": list(model.strides), "scale_ranges": ranges, "pos_scale": 0.2,
            "num_grids": list(grids), "cls_down_index": 0,
            "mask_feature_head": {"feat_channels": 128, "start_level": 0, "end_level": 3, "out_channels": 128,
                                  "mask_stride": 4, "norm_cfg": norm},
            "loss_mask": {"type": "mmdet.DiceLoss", "use_sigmoid": True, "loss_weight": 3.0},
            "loss_cls": {"type": "mmdet.FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25,
                         "loss_weight": 1.0},
        },
        "test_cfg": {
            "nms_pre": detection.nms_pre, "score_thr": detection.score_threshold,
            "mask_thr": detection.mask_threshold, "filter_thr": detection.keep_threshold,
            "kernel": detection.nms_kernel, "sigma": detection.nms_sigma, "max_per_img": detection.max_per_image,
        },
    }  # fmt: skip


class PeerSOLOv2:
    """Trains and tests on the same batches as ours, with the same weights."""

    def __init__(self, folder: Path, model: SOLOv2) -> None:
        """Imports mmdetection from ``folder`` and copies our weights.

        Raises:
            ImportError: mmdetection or what it needs is not there.
            ValueError: the weights do not fit.
        """
        sys.path.insert(0, str(folder))
        replace_operators()
        import mmdet.models  # noqa: F401 - registers the parts
        from mmdet.registry import MODELS
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        from mmengine.config import ConfigDict
        from mmengine.structures import InstanceData

        self._sample, self._masks, self._data = DetDataSample, BitmapMasks, InstanceData
        self.ours = model
        self.model = MODELS.build(ConfigDict(_config(model)))
        theirs = self.model.state_dict()
        names = rename(theirs, RuleSet("mmdet", "mmdetection's SOLOv2", (), MMDET_SOLOV2)).mapped
        ours = model.state_dict()
        if set(names.values()) != set(ours):
            raise ValueError("expected the weights of the light R-18, got another network's.")
        self.model.load_state_dict({k: ours[names[k]] if k in names else v for k, v in theirs.items()})

    def _inputs(self, items: list[dict[str, Any]]) -> tuple[torch.Tensor, list[Any]]:
        images = self.ours.preprocess(items)
        canvas, samples = tuple(images.tensor.shape[-2:]), []
        for item, (height, width) in zip(items, images.image_sizes, strict=True):
            size = (int(height), int(width))
            meta = {"img_shape": size, "ori_shape": size, "batch_input_shape": canvas, "scale_factor": (1.0, 1.0)}
            sample = self._sample(metainfo=meta)
            labels = image_instances(item["instances"], images.tensor.device)
            padded = torch.zeros(len(labels.masks), *canvas, dtype=torch.uint8)
            padded[:, : size[0], : size[1]] = labels.masks
            boxes, classes = labels.boxes.clone(), labels.classes
            sample.gt_instances = self._data(bboxes=boxes, labels=classes, masks=self._masks(padded.numpy(), *canvas))
            samples.append(sample)
        return images.tensor, samples

    def assign(self, instances: Any, canvas: tuple[int, int]) -> Any:
        """Their targets of one image."""
        head = self.model.mask_head
        labels = image_instances(instances, torch.device("cpu"))
        padded = torch.zeros(len(labels.masks), *canvas, dtype=torch.uint8)
        padded[:, : labels.masks.shape[1], : labels.masks.shape[2]] = labels.masks
        given = self._data(bboxes=labels.boxes, labels=labels.classes, masks=self._masks(padded.numpy(), *canvas))
        return head._get_targets_single(given, featmap_sizes=(canvas[0] // 4, canvas[1] // 4))

    def losses(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Their losses of a batch."""
        self.model.train()
        images, samples = self._inputs(items)
        found: dict[str, torch.Tensor] = self.model.loss(images, samples)
        return found

    def train_step(self, items: list[dict[str, Any]]) -> None:
        """Losses and gradients."""
        sum(self.losses(items).values()).backward()
        self.model.zero_grad(set_to_none=True)

    def inference(self, items: list[dict[str, Any]]) -> Any:
        """Their instances of a batch."""
        self.model.eval()
        images, samples = self._inputs(items)
        return self.model.predict(images, samples)
