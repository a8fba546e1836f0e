"""ADE20K-150: the scene parsing benchmark (release ADEChallengeData2016)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bpkd.data.files import IGNORE

from .base import Items, Place, SemanticSet, folder_pairs, hex_colors, misplaced, words

# The first synonym of each class, in the order and the words of OpenMMLab's checkpoints; Detectron2 has the same order.
CLASSES = words("""
    wall; building; sky; floor; tree; ceiling; road; bed; windowpane; grass; cabinet; sidewalk; person; earth;
    door; table; mountain; plant; curtain; chair; car; water; painting; sofa; shelf; house; sea; mirror; rug;
    field; armchair; seat; fence; desk; rock; wardrobe; lamp; bathtub; railing; cushion; base; box; column;
    signboard; chest of drawers; counter; sand; sink; skyscraper; fireplace; refrigerator; grandstand; path;
    stairs; runway; case; pool table; pillow; screen door; stairway; river; bridge; bookcase; blind; coffee table;
    toilet; flower; book; hill; bench; countertop; stove; palm; kitchen island; computer; swivel chair; boat; bar;
    arcade machine; hovel; bus; towel; light; truck; tower; chandelier; awning; streetlight; booth; television
    receiver; airplane; dirt track; apparel; pole; land; bannister; escalator; ottoman; bottle; buffet; poster;
    stage; van; ship; fountain; conveyer belt; canopy; washer; plaything; swimming pool; stool; barrel; basket;
    waterfall; tent; bag; minibike; cradle; oven; ball; food; step; tank; trade name; microwave; pot; animal;
    bicycle; lake; dishwasher; screen; blanket; sculpture; hood; sconce; vase; traffic light; tray; ashcan; fan;
    pier; crt screen; plate; monitor; bulletin board; shower; radiator; glass; clock; flag
""")
# OpenMMLab's colours; classes 6 and 48 share one.
COLORS = hex_colors("""
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33
    ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
    08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff
    eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
    0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad
    0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
    00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa
    8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
    ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff
    00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
""")
MARKS = {"train": ("ADE_train_",), "val": ("ADE_val_",)}
SPLITS = {"train": ("training", 20_210), "val": ("validation", 2_000)}
LARGEST = len(CLASSES)
MANY = 1_000  # images among which the rarest class is never missing


def ade20k_sets(root: Path) -> list[SemanticSet]:
    """Returns ``ade20k_sem_seg_{train,val}``.

    The release's ``annotations`` are read where they are: 0 ("other") is ignored and k becomes k - 1. Only without
    them ``annotations_detectron2``, which holds the same already reduced.
    """
    return [_split(place(root), split) for split in SPLITS]


def place(root: Path) -> Place:
    """Returns where the data set may lie."""
    release = "ADEChallengeData2016"
    layouts = {"Detectron2's": release, "mmsegmentation's": f"ade/{release}"}
    return Place("ADE20K", root, layouts, "images", _hint)


def _hint(root: Path) -> str:
    full = next((p for p in ("ADE20K_2021_17_01", "ADE20K_2016_07_26", "index_ade20k.pkl") if (root / p).exists()), "")
    if not full:
        return ""
    return f" {root / full} is of the full ADE20K, with other classes; the benchmark's is ADEChallengeData2016."


def _split(where: Place, split: str) -> SemanticSet:
    folder, published = SPLITS[split]
    raw, reduced = (where.folder / name / folder for name in ("annotations", "annotations_detectron2"))
    is_raw = raw.is_dir() or not reduced.is_dir()
    return SemanticSet(
        name=f"ade20k_sem_seg_{split}",
        load=partial(_items, where, folder, raw if is_raw else reduced),
        classes=CLASSES,
        colors=COLORS,
        ids={0: IGNORE, **{k: k - 1 for k in range(1, LARGEST + 1)}} if is_raw else {},
        evaluator="sem_seg",
        published=(published, published),
        audit=partial(_audit, split, raw if is_raw else None),
    )


def _items(where: Place, folder: str, masks: Path) -> Items:
    where.check()
    return folder_pairs(where.folder / "images" / folder, masks, (".jpg", ".png"))


def _audit(split: str, raw: Path | None, items: Items, values: NDArray[np.int64]) -> list[str]:
    """Finds swapped splits, and reduced masks in the release's folder: a second reduction raises no error."""
    faults = misplaced(items, MARKS, split)
    seen = f"the value {IGNORE} and" if values[IGNORE] else f"{len(items)} images and"
    if raw and values.any() and (values[IGNORE] or len(items) >= MANY) and not values[LARGEST]:
        faults.append(
            f"{raw} holds {seen} never {LARGEST}: these masks have been reduced already (0..149, 255), "
            "and read as the release's every class would be one too low. Put them into annotations_detectron2/, and "
            "the release's into annotations/."
        )
    return faults
