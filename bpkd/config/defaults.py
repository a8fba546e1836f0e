"""Every configuration key that bpkd adds to Detectron2's, with its meaning above it."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from .distillation import add_distillation
from .instances import add_instances


def add_bpkd_config(cfg: CN) -> None:
    """Adds bpkd's keys to a Detectron2 config, and sets the paper's recipe where Detectron2's default breaks it."""
    # Modules outside of bpkd, [package.module, ...], imported before the rest of a config is read: they register
    # distillers, heads, backbones, data sets. Python has to find them (installed, or in PYTHONPATH).
    cfg.IMPORTS = []
    _add_data(cfg)
    _add_model(cfg)
    _add_head(cfg)
    add_instances(cfg)
    add_distillation(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def _add_data(cfg: CN) -> None:
    # Folder that holds the published data sets (camvid/, cityscapes/, ...; docs/reference/datasets.md). Empty:
    # $DETECTRON2_DATASETS, else ./datasets.
    cfg.DATASETS.ROOT = ""

    # Your own data, from YAML alone: images in one folder, masks (single-channel PNG of ids) in another.
    # A non-empty NAME registers `<NAME>_train` and `<NAME>_val`; use these in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.FOLDER = CN()
    cfg.DATASETS.FOLDER.NAME = ""
    # Root of the four folders below; empty: DATASETS.ROOT.
    cfg.DATASETS.FOLDER.ROOT = ""
    cfg.DATASETS.FOLDER.TRAIN_IMAGES = "train/images"
    cfg.DATASETS.FOLDER.TRAIN_MASKS = "train/masks"
    cfg.DATASETS.FOLDER.VAL_IMAGES = "val/images"
    cfg.DATASETS.FOLDER.VAL_MASKS = "val/masks"
    # An image belongs to the mask whose path is the same after these suffixes are cut off; their case does not matter.
    # IMAGE_SUFFIXES empty: every image format that is read (bpkd.listing.IMAGE_FORMATS). The check names what is left
    # out.
    cfg.DATASETS.FOLDER.IMAGE_SUFFIXES = []
    cfg.DATASETS.FOLDER.MASK_SUFFIX = ".png"
    # Class names in the order of the trained ids 0..K-1.
    cfg.DATASETS.FOLDER.CLASSES = []
    # Mask value that means "ignore", beside 255 which does unless ID_MAP makes it a class. -1: 255 alone, and the check
    # refuses masks in which it looks like a class. 255: it is to be ignored, whatever it looks like.
    cfg.DATASETS.FOLDER.IGNORE_INDEX = -1
    # Pairs [mask value, trained id]; empty: mask values are trained ids. A trained id of 255 ignores the value.
    cfg.DATASETS.FOLDER.ID_MAP = []

    # Your own objects in COCO's JSON format. A non-empty NAME registers `<NAME>_train` and `<NAME>_val`.
    cfg.DATASETS.COCO_FOLDER = CN()
    cfg.DATASETS.COCO_FOLDER.NAME = ""
    # Root of the paths below; empty: DATASETS.ROOT.
    cfg.DATASETS.COCO_FOLDER.ROOT = ""
    # The annotations, and the folder that the file names in them are relative to.
    cfg.DATASETS.COCO_FOLDER.TRAIN_JSON = "instances_train.json"
    cfg.DATASETS.COCO_FOLDER.TRAIN_IMAGES = "train"
    cfg.DATASETS.COCO_FOLDER.VAL_JSON = "instances_val.json"
    cfg.DATASETS.COCO_FOLDER.VAL_IMAGES = "val"

    # Built-in scenes `procedural_train` and `procedural_val`: drawn from a seed, no download.
    cfg.DATASETS.PROCEDURAL = CN()
    # (height, width) of a scene in pixels.
    cfg.DATASETS.PROCEDURAL.SIZE = [96, 128]
    # Number of scenes per split.
    cfg.DATASETS.PROCEDURAL.NUM_TRAIN = 512
    cfg.DATASETS.PROCEDURAL.NUM_VAL = 96
    cfg.DATASETS.PROCEDURAL.SEED = 0

    # Files of the training and test sets are checked before the first iteration: "full" decodes every mask and
    # image, "fast" checks that partners exist, "off" checks nothing.
    cfg.DATASETS.CHECK = "full"
    # The check refuses a published data set that is not as large as published: a part of an archive is missing. True:
    # a part is meant.
    cfg.DATASETS.SUBSET = False
    # Objects of your own COCO files that cannot be used (no outline, an outline outside the image, damaged run lengths,
    # an unknown category): False refuses the file and names them, True leaves them out and says how many.
    cfg.DATASETS.DROP_UNUSABLE_OBJECTS = False

    # Worker processes of each training process; -1: what fits the machine (on a CPU none below four cores, else one; on
    # a GPU up to four).
    cfg.DATALOADER.NUM_WORKERS = -1
    # After so many training samples the same ones, with the same augmentation, come again; 0: every epoch draws anew.
    cfg.DATALOADER.REPEAT = 0
    # Where the edge masks of label maps are made (DISTILL.METHOD BPKD): in the training "step", or by the "workers"
    # that load the samples, so that no step waits for them (docs/reference/methods.md). The masks have the same bits.
    cfg.DATALOADER.EDGE_MASKS = "step"

    # Images above 8 bits a channel: the values [low, high] that become 0 and 255, linearly between; [0, 4095] for 12
    # bits in 16. [0, 0]: the whole range of 16 bits; other types are then refused. 8 bits are taken as they are.
    cfg.INPUT.IMAGE_RANGE = [0, 0]
    # The paper's augmentation. Resize: the image is fitted into RESIZE_BOX (width, height) times a factor drawn
    # from U(SCALE_RANGE), aspect kept. [0, 0] means the image's own size.
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.RESIZE_BOX = [0, 0]
    cfg.INPUT.SCALE_RANGE = [0.5, 2.0]
    # Crop (height, width). Training pads to exactly this size.
    cfg.INPUT.CROP_SIZE = [512, 512]
    # A crop is redrawn, ten times at most, while one class holds this share of its valid pixels, or more.
    cfg.INPUT.CROP_MAX_CLASS_SHARE = 0.75
    cfg.INPUT.FLIP_PROB = 0.5
    # Photometric distortion (brightness, contrast, saturation, hue).
    cfg.INPUT.PHOTOMETRIC = True
    # Test images are fitted into this (width, height) box, aspect kept; [0, 0] means the image's own size.
    cfg.INPUT.TEST_BOX = [0, 0]


def _add_model(cfg: CN) -> None:
    cfg.MODEL.META_ARCHITECTURE = "BPKDSemanticSegmentor"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_v1c_backbone"
    # ImageNet weights of the backbone, where a run starts without MODEL.WEIGHTS (docs/how_to/checkpoints.md): a
    # converted file or one as OpenMMLab, torchvision, timm or HRNet publish it. Empty: from scratch (the supplement's
    # Table 1).
    cfg.MODEL.BACKBONE.WEIGHTS = ""
    # Where a file of weights states other pixel statistics, another colour order or other class names than this config
    # has: "refuse" it, or "warn" and load it (MODEL.WEIGHTS, MODEL.BACKBONE.WEIGHTS; a teacher's in its own config).
    cfg.MODEL.FILE_STATEMENTS = "refuse"
    # Memory layout with the channels of a pixel side by side: faster on GPUs with mixed precision, and on CPUs.
    cfg.MODEL.CHANNELS_LAST = False
    # Run the network through torch.compile: long first iterations, then faster ones.
    cfg.MODEL.COMPILE = False
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]

    # Dilated ResNet of OpenMMLab's segmentation networks (`build_resnet_v1c_backbone`).
    cfg.MODEL.RESNET_V1C = CN()
    # 18, 34, 50, 101 or 152.
    cfg.MODEL.RESNET_V1C.DEPTH = 50
    # All channel counts times this; 1.0 is the paper's network, less gives small ones for CPUs and tests.
    cfg.MODEL.RESNET_V1C.WIDTH_MULTIPLIER = 1.0
    # True: three 3x3 convolutions ("V1c"); False: one 7x7 (OpenMMLab's "r18b").
    cfg.MODEL.RESNET_V1C.DEEP_STEM = True
    # 8 or 16 or 32.
    cfg.MODEL.RESNET_V1C.OUTPUT_STRIDE = 8
    # "BN", "SyncBN" or "FrozenBN".
    cfg.MODEL.RESNET_V1C.NORM = "BN"
    # Start each residual block at the identity (last BN weight 0) where no weights are loaded.
    cfg.MODEL.RESNET_V1C.ZERO_INIT_RESIDUAL = True

    # HRNet (`build_hrnet_backbone`): "w18s", "w18", "w32", "w40" or "w48".
    cfg.MODEL.HRNET = CN()
    cfg.MODEL.HRNET.VARIANT = "w48"
    cfg.MODEL.HRNET.WIDTH_MULTIPLIER = 1.0
    cfg.MODEL.HRNET.NORM = "BN"

    # MobileNetV2 (`build_mobilenet_v2_backbone`); channels times the multiplier are rounded to multiples of 8.
    cfg.MODEL.MOBILENET_V2 = CN()
    cfg.MODEL.MOBILENET_V2.WIDTH_MULTIPLIER = 1.0
    cfg.MODEL.MOBILENET_V2.OUTPUT_STRIDE = 8
    cfg.MODEL.MOBILENET_V2.NORM = "BN"


def _add_head(cfg: CN) -> None:
    # "PSPHead", "FCNHead", "DeepLabV3PlusHead" or "ISAHead".
    cfg.MODEL.SEM_SEG_HEAD.NAME = "PSPHead"
    # Backbone stages that enter the decode head. PSP, ISA: the last. FCN: any, joined at the first one's size.
    # DeepLabV3+: the low-level one, then the last.
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["layer4"]
    cfg.MODEL.SEM_SEG_HEAD.CHANNELS = 512
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 19
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255
    cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    cfg.MODEL.SEM_SEG_HEAD.DROPOUT = 0.1
    cfg.MODEL.SEM_SEG_HEAD.ALIGN_CORNERS = False
    # PSPHead: sides of the pooling grids.
    cfg.MODEL.SEM_SEG_HEAD.POOL_SCALES = [1, 2, 3, 6]
    # FCNHead: side of the one convolution.
    cfg.MODEL.SEM_SEG_HEAD.KERNEL_SIZE = 3
    # DeepLabV3PlusHead: dilations of the pyramid, and channels that the low-level stage is reduced to.
    cfg.MODEL.SEM_SEG_HEAD.ASPP_RATES = [1, 12, 24, 36]
    cfg.MODEL.SEM_SEG_HEAD.LOW_LEVEL_CHANNELS = 48
    # ISAHead: channels of queries and keys, and window (height, width) in positions of the stage.
    cfg.MODEL.SEM_SEG_HEAD.ATTENTION_CHANNELS = 256
    cfg.MODEL.SEM_SEG_HEAD.WINDOW = [8, 8]
    # Mean of the pixel cross entropy over "all" pixels, ignored ones included (OpenMMLab, the paper's numbers),
    # or over the "valid" ones (torch's own mean).
    cfg.MODEL.SEM_SEG_HEAD.LOSS_DENOMINATOR = "all"

    # Auxiliary FCN head, used in training only. Weight 0 builds none.
    cfg.MODEL.AUX_HEAD = CN()
    cfg.MODEL.AUX_HEAD.LOSS_WEIGHT = 0.4
    cfg.MODEL.AUX_HEAD.IN_FEATURE = "layer3"
    cfg.MODEL.AUX_HEAD.CHANNELS = 256

    # `ModuleSegmentor`: any torch.nn.Module that maps [N, 3, H, W] to logits (a tensor, a dict with "out", or a
    # SegOutput), as "package.module:callable" with keyword arguments as pairs [name, value].
    cfg.MODEL.MODULE = CN()
    cfg.MODEL.MODULE.FACTORY = ""
    cfg.MODEL.MODULE.KWARGS = []


def _add_solver(cfg: CN) -> None:
    # The paper's recipe: SGD, poly schedule with a floor, no warm-up, weight decay on every parameter. Detectron2's
    # "WarmupMultiStepLR" and "WarmupCosineLR" work too.
    cfg.SOLVER.LR_SCHEDULER_NAME = "PolyLR"
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.MIN_LR = 1e-4
    cfg.SOLVER.POLY_POWER = 0.9
    cfg.SOLVER.MOMENTUM = 0.9
    cfg.SOLVER.WEIGHT_DECAY = 5e-4
    cfg.SOLVER.WEIGHT_DECAY_NORM = 5e-4
    cfg.SOLVER.WARMUP_ITERS = 0
    # Detectron2's node; CLIP_TYPE is its "value" or "norm" (of each parameter alone), or "full_model": the norm of all
    # gradients together is CLIP_VALUE at most.
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    # "sgd" or "adamw".
    cfg.SOLVER.OPTIMIZER = "sgd"
    # Learning rate of decode and auxiliary head over that of the backbone.
    cfg.SOLVER.HEAD_LR_MULTIPLIER = 1.0
    # Batches whose gradients are added up before a step; IMS_PER_BATCH counts one of them.
    cfg.SOLVER.ACCUMULATE = 1
    # Autocast type of the student when SOLVER.AMP.ENABLED: "bf16", "fp16" (with a loss scaler), "off" (float32), or
    # "auto": bf16, else fp16 on GPUs, where the device has instructions for it, else float32.
    cfg.SOLVER.AMP.DTYPE = "auto"
    # Checkpoints kept beside the last one; 0 keeps all.
    cfg.SOLVER.KEEP_CHECKPOINTS = 2
    # Iterations between lines of the log and rows of metrics.json.
    cfg.SOLVER.LOG_PERIOD = 20
    # Multiple of the task loss's gradient (at the logits, measured every tenth iteration) that one distillation term
    # may reach, and for how many iterations on end, before a warning is printed. 0 switches the measurement off.
    cfg.SOLVER.GRADIENT_RATIO_LIMIT = 10.0
    cfg.SOLVER.GRADIENT_RATIO_PATIENCE = 50
    # Share of the loss (its size over the sum of all terms' sizes, a critic's own left out) that one distillation term
    # may hold, over GRADIENT_RATIO_PATIENCE iterations, before a warning is printed. 0: no warning.
    cfg.SOLVER.LOSS_SHARE_LIMIT = 0.9
    # fp32 matrix products in TF32 on GPUs that have it.
    cfg.SOLVER.TF32 = True
    cfg.SEED = 0


def _add_test(cfg: CN) -> None:
    # "whole" image or "slide" (windows of SLIDE_CROP at SLIDE_STRIDE, both (height, width)).
    cfg.TEST.MODE = "whole"
    cfg.TEST.SLIDE_CROP = [512, 512]
    cfg.TEST.SLIDE_STRIDE = [341, 341]
    # Windows of one image that the network sees at once: more is faster on a GPU and takes more memory.
    cfg.TEST.SLIDE_WINDOWS = 4
    # Scales of multi-scale testing and whether mirrored images are averaged in.
    cfg.TEST.SCALES = [1.0]
    cfg.TEST.FLIP = False
    # Half-widths in pixels of the trimap bands: width w is the (2w+1) x (2w+1) window.
    cfg.TEST.TRIMAP_WIDTHS = [1, 3, 5, 9, 15]
    # Boundary IoU band as a share of the image's diagonal.
    cfg.TEST.BOUNDARY_RATIO = 0.02
    # Cityscapes: also the official figures, by cityscapesscripts (needs gtFine's labelIds).
    cfg.TEST.CITYSCAPES_OFFICIAL = True
    # Instances' mask AP: "pycocotools", "faster-coco-eval" (the same figures, sooner), or "auto": the latter where it
    # is installed.
    cfg.TEST.COCO_BACKEND = "auto"
    # Detections of an image that count in AP: 100 is COCO's. TEST.DETECTIONS_PER_IMAGE is what the network keeps.
    cfg.TEST.COCO_MAX_DETECTIONS = 100
    # Boundary F: distances in pixels at which two contours still match.
    cfg.TEST.BOUNDARY_TOLERANCES = [3]
    # A class that is predicted but occurs in no label: "zero" counts it as IoU 0 (OpenMMLab), "skip" leaves it out
    # (Detectron2).
    cfg.TEST.ABSENT_CLASS = "zero"
    # Further metrics of label maps beside mIoU, trimap, Boundary IoU and boundary F: names of classes that
    # bpkd.metrics.register_metric has registered (examples/my_metric).
    cfg.TEST.METRICS = []
