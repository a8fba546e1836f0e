#!/usr/bin/env python3
"""Draw what BPKD calls edge: the band around all boundaries, and the pooled masks of every class at each level.

python tools/visualize_edges.py --image street.png --mask street_ids.png --kernel-size 7 --output edges.png
"""

import argparse
import sys

import matplotlib
import numpy as np
import torch

from bpkd.data.files import DatasetError, read_image, read_raw_label
from bpkd.functional import class_edge_mask, edge_band


def main() -> int:
    """Draws one image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True)
    parser.add_argument("--mask", required=True, help="single-channel image of class ids")
    parser.add_argument("--ignore-index", type=int, default=255)
    parser.add_argument("--kernel-size", type=int, default=7, help="edge width in pixels, odd")
    parser.add_argument("--ignore-mode", choices=("opaque", "transparent"), default="opaque")
    parser.add_argument("--strides", type=int, nargs="+", default=[4, 8, 16], help="levels to pool to")
    parser.add_argument("--output", default="edges.png")
    args = parser.parse_args()
    rules = {"ignore_index": args.ignore_index, "ignore_mode": args.ignore_mode}
    files = {"file_name": args.image, "sem_seg_file_name": args.mask}
    try:
        image, label = read_image(files)[..., ::-1], torch.from_numpy(read_raw_label(files)).long()[None]
        if image.shape[:2] != label.shape[1:]:
            raise DatasetError(f"expected image and mask of one size, got {image.shape[:2]}, {tuple(label.shape[1:])}.")
        band = edge_band(label, args.kernel_size, **rules)[0].numpy()
        height, width = band.shape
        sizes = [(-(-height // s), -(-width // s)) for s in args.strides]
        levels = class_edge_mask(label, int(label.max()) + 1, args.kernel_size, sizes, **rules)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 1 + len(levels), figsize=(4.5 * (1 + len(levels)), 4.5 * height / width + 0.4))
    axes[0].imshow(np.where(band[..., None], np.uint8((255, 0, 60)), image))
    axes[0].set_title(f"edge band, k = {args.kernel_size}: {100 * band.mean():.0f} % of the pixels")
    for panel, stride, mask in zip(axes[1:], args.strides, levels, strict=True):
        panel.imshow(mask[0].amax(0), vmin=0, vmax=1, cmap="magma")
        panel.set_title(f"pooled to 1/{stride}, largest class")
    for panel in axes:
        panel.axis("off")
    figure.savefig(args.output, dpi=110, bbox_inches="tight")
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
