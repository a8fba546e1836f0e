"""Keys of data sets, loaders and augmentation."""

from __future__ import annotations

from bpkd.config.kinds import (
    ABOVE_0,
    ANY_NUMBER,
    COUNT,
    COUNT_OR_0,
    FLAG,
    PATH,
    SHARE_OF,
    TEXT,
    TEXTS,
    Choice,
    ListOf,
    Text,
    whole,
)

from .key import DETECTRON2, Key

PAIR_OF_PIXELS = ListOf(COUNT, length=2)
PAIR_OR_0 = ListOf(COUNT_OR_0, length=2)
FILLED = Text(filled=True)
MASK_VALUE = whole(0, 255)
PYRAMID = ("MODEL.META_ARCHITECTURE", ("SOLOv2", "InstanceDistiller"))

DATA_SETS = (
    Key("DATASETS.TRAIN", DETECTRON2, TEXTS, "Names of the data sets that are trained on."),
    Key("DATASETS.TEST", DETECTRON2, TEXTS, "Names of the data sets that are evaluated on."),
    Key("DATASETS.ROOT", "", PATH,
        "Folder that holds the published data sets (camvid/, cityscapes/, ...; docs/reference/datasets.md). Empty: "
        "$DETECTRON2_DATASETS, else ./datasets."),
    # Your own data, from YAML alone.
    Key("DATASETS.FOLDER.NAME", "", TEXT,
        "Name of your own data: images in one folder, masks (single-channel PNG of ids) in another. A name registers "
        "`<NAME>_train` and `<NAME>_val`; use these in DATASETS.TRAIN and DATASETS.TEST."),
    Key("DATASETS.FOLDER.ROOT", "", PATH, "Root of the four folders below. Empty: DATASETS.ROOT."),
    Key("DATASETS.FOLDER.TRAIN_IMAGES", "train/images", PATH, "Folder of the training images."),
    Key("DATASETS.FOLDER.TRAIN_MASKS", "train/masks", PATH, "Folder of the training masks."),
    Key("DATASETS.FOLDER.VAL_IMAGES", "val/images", PATH, "Folder of the validation images."),
    Key("DATASETS.FOLDER.VAL_MASKS", "val/masks", PATH, "Folder of the validation masks."),
    Key("DATASETS.FOLDER.IMAGE_SUFFIXES", [], ListOf(FILLED),
        "Ends of the images' names, in any case. An image belongs to the mask whose path is the same after these "
        "suffixes are cut off. Empty: every image format that is read. The check names what is left out."),
    Key("DATASETS.FOLDER.MASK_SUFFIX", ".png", FILLED, "End of the masks' names."),
    Key("DATASETS.FOLDER.CLASSES", [], TEXTS, "Class names in the order of the trained ids 0..K-1."),
    Key("DATASETS.FOLDER.IGNORE_INDEX", -1, whole(-1, 255),
        'Mask value that means "ignore", beside 255 which does unless ID_MAP makes it a class. -1: 255 alone, and the '
        "check refuses masks in which it looks like a class. 255: it is to be ignored, whatever it looks like."),
    Key("DATASETS.FOLDER.ID_MAP", [], ListOf(ListOf(MASK_VALUE, length=2)),
        "Pairs [mask value, trained id]. Empty: mask values are trained ids. A trained id of 255 ignores the value."),
    # Your own objects in COCO's JSON format.
    Key("DATASETS.COCO_FOLDER.NAME", "", TEXT,
        "Name of your own objects in COCO's JSON format. A name registers `<NAME>_train` and `<NAME>_val`."),
    Key("DATASETS.COCO_FOLDER.ROOT", "", PATH, "Root of the paths below. Empty: DATASETS.ROOT."),
    Key("DATASETS.COCO_FOLDER.TRAIN_JSON", "instances_train.json", PATH, "File of the training annotations."),
    Key("DATASETS.COCO_FOLDER.TRAIN_IMAGES", "train", PATH,
        "Folder that the file names in the training annotations are relative to."),
    Key("DATASETS.COCO_FOLDER.VAL_JSON", "instances_val.json", PATH, "File of the validation annotations."),
    Key("DATASETS.COCO_FOLDER.VAL_IMAGES", "val", PATH,
        "Folder that the file names in the validation annotations are relative to."),
    # Built-in scenes `procedural_train` and `procedural_val`: drawn from a seed, no download.
    Key("DATASETS.PROCEDURAL.SIZE", [96, 128], PAIR_OF_PIXELS, "(height, width) of a built-in scene in pixels."),
    Key("DATASETS.PROCEDURAL.NUM_TRAIN", 512, COUNT, "Number of scenes of `procedural_train`."),
    Key("DATASETS.PROCEDURAL.NUM_VAL", 96, COUNT, "Number of scenes of `procedural_val`."),
    Key("DATASETS.PROCEDURAL.SEED", 0, COUNT_OR_0, "Seed that the scenes are drawn from."),
    Key("DATASETS.CHECK", "full", Choice(("full", "fast", "off")),
        'How the files of the training and test sets are checked before the first iteration. "full" decodes every mask '
        'and image, "fast" checks that partners exist, "off" checks nothing.'),
    Key("DATASETS.SUBSET", False, FLAG,
        "Whether a part of a published data set is meant. Else the check refuses one that is not as large as "
        "published: a part of an archive is missing."),
    Key("DATASETS.DROP_UNUSABLE_OBJECTS", False, FLAG,
        "Whether objects of your own COCO files that cannot be used are left out, with their number (no outline, an "
        "outline outside the image, damaged run lengths, an unknown category). Else the file is refused and they are "
        "named."),
)  # fmt: skip

LOADER = (
    Key("DATALOADER.NUM_WORKERS", -1, whole(-1),
        "Worker processes of each training process. -1: what fits the machine (on a CPU none below four cores, else "
        "one; on a GPU up to four)."),
    Key("DATALOADER.REPEAT", 0, COUNT_OR_0,
        "Number of training samples after which the same ones, with the same augmentation, come again. 0: every epoch "
        "draws anew."),
    Key("DATALOADER.EDGE_MASKS", "step", Choice(("step", "workers")),
        'Where the edge masks of label maps are made (DISTILL.METHOD BPKD). In the training "step", or by the "workers"'
        " that load the samples, so that no step waits for them (docs/reference/methods.md). The masks have the same "
        "bits."),
    Key("DATALOADER.FILTER_EMPTY_ANNOTATIONS", DETECTRON2, FLAG,
        "Instances: whether training images without an object are left out.", only=PYRAMID),
)  # fmt: skip

INPUT = (
    Key("INPUT.FORMAT", "RGB", Choice(("RGB", "BGR")), "Colour order of the images that the network sees."),
    # The paper's augmentation.
    Key("INPUT.RESIZE_BOX", [0, 0], PAIR_OR_0,
        "(width, height) that a training image is fitted into, times a factor drawn from U(SCALE_RANGE), aspect kept. "
        "[0, 0]: the image's own size."),
    Key("INPUT.SCALE_RANGE", [0.5, 2.0], ListOf(ABOVE_0, length=2),
        "Least and greatest factor on a training image's size."),
    Key("INPUT.CROP_SIZE", [512, 512], PAIR_OF_PIXELS,
        "(height, width) of the training crop in pixels. Training pads to exactly this size."),
    Key("INPUT.CROP_MAX_CLASS_SHARE", 0.75, SHARE_OF,
        "Share of a crop's valid pixels that one class may not reach. While it does, the crop is redrawn, ten times at "
        "most. 1: never."),
    Key("INPUT.FLIP_PROB", 0.5, SHARE_OF, "Probability that a training image is mirrored."),
    Key("INPUT.PHOTOMETRIC", True, FLAG, "Photometric distortion (brightness, contrast, saturation, hue)."),
    Key("INPUT.IMAGE_RANGE", [0, 0], ListOf(ANY_NUMBER, length=2),
        "[low, high]: values of images above 8 bits a channel that become 0 and 255, linearly between; [0, 4095] for "
        "12 bits in 16. [0, 0]: the whole range of 16 bits; other types are then refused."),
    Key("INPUT.TEST_BOX", [0, 0], PAIR_OR_0,
        "(width, height) that test images are fitted into, aspect kept. [0, 0]: the image's own size."),
    # Instances: Detectron2's augmentation.
    Key("INPUT.MIN_SIZE_TRAIN", DETECTRON2, ListOf(COUNT_OR_0, least=1),
        "Instances: lengths in pixels of the shorter side, of which training draws one. 0: not resized.", PYRAMID),
    Key("INPUT.MIN_SIZE_TRAIN_SAMPLING", DETECTRON2, Choice(("choice", "range")),
        'Instances: how the shorter side is drawn from MIN_SIZE_TRAIN. "choice": one of them; "range": any length '
        "between the two.", PYRAMID),
    Key("INPUT.MAX_SIZE_TRAIN", DETECTRON2, COUNT, "Instances: most pixels of the longer side in training.", PYRAMID),
    Key("INPUT.MIN_SIZE_TEST", DETECTRON2, COUNT_OR_0,
        "Instances: pixels of the shorter side in a test. 0: not resized.", PYRAMID),
    Key("INPUT.MAX_SIZE_TEST", DETECTRON2, COUNT, "Instances: most pixels of the longer side in a test.", PYRAMID),
    Key("INPUT.CROP.ENABLED", DETECTRON2, FLAG, "Instances: whether training images are cropped.", PYRAMID),
    Key("INPUT.CROP.TYPE", DETECTRON2, Choice(("absolute", "relative", "relative_range", "absolute_range")),
        'Instances: what CROP.SIZE is: pixels ("absolute") or shares of the image ("relative"). Detectron2\'s other '
        "two are refused where CROP.ENABLED is True.", PYRAMID),
    Key("INPUT.CROP.SIZE", DETECTRON2, ListOf(ABOVE_0, length=2), "Instances: (height, width) of the crop.", PYRAMID),
)  # fmt: skip

KEYS = DATA_SETS + LOADER + INPUT
