"""Draw images: what BPKD calls edge and body, predictions of checkpoints side by side, their errors at boundaries.

Examples:
  bpkd visualize --images street.png --labels street_ids.png --output drawn
  bpkd visualize --images DIR --weights output/mine/student/model_final.pth --output drawn
  bpkd visualize --images DIR --labels DIR --weights A/model_final.pth B/model_final.pth --output drawn

Per image: NAME_edges.png (with labels), NAME_predictions.png (with weights; with labels also the errors, red within
--widths pixels of an edge) and NAME_<run>_ids.png (class ids). A checkpoint's config is config.yaml beside it, else
--config-file; KEY VALUE pairs at the end change it. NAME is the image's path inside its folder without the suffix, and
with it where two images differ in nothing else. Labels have the mask values of the data set, or any ids without
weights.

Instances: --labels is a file in COCO's format, and --images the folder that it names its images in, a folder with some
of them, or one of them. NAME_edges.png shows the edges of the instances that the first network learns at each level,
without weights those of all; NAME_predictions.png every network's masks that score at least --score, coloured by the
labelled instance they lie on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bpkd.ranges import SHARE

from .parser import Parser, file_arg, number, path_arg, whole


def parser(prog: str = "bpkd visualize") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "--images PATH [--labels PATH] [--weights FILE ...]", __doc__, renamed={"--width": "--widths"})
    out.add_argument("--images", required=True, type=path_arg, metavar="PATH", help="image, or folder of images")
    out.add_argument(
        "--labels",
        type=path_arg,
        metavar="PATH",
        help="label map, folder with one of the same name per image, or JSON in COCO's format",
    )
    out.add_argument("--image-suffix", default="", metavar="END", help="end of the images' file names")
    out.add_argument("--label-suffix", default="", metavar="END", help="end of the labels' file names")
    out.add_argument("--weights", nargs="+", type=file_arg, default=[], metavar="FILE", help="checkpoints to compare")
    out.add_argument(
        "--config-file",
        nargs="+",
        type=file_arg,
        default=[],
        metavar="FILE",
        help="one for all checkpoints, or one for each",
    )
    out.add_argument("--output", type=path_arg, default=Path("drawn"), metavar="DIR", help="folder (default drawn)")
    out.add_argument(
        "--widths",
        type=whole(1),
        default=3,
        metavar="W",
        help="half-width of the trimap whose errors are red, in pixels (default 3)",
    )
    out.add_argument(
        "--kernel-size",
        type=whole(1),
        metavar="K",
        help="edge width in pixels, odd (default: of the first checkpoint's config, else 7)",
    )
    out.add_argument(
        "--strides",
        type=whole(1),
        nargs="+",
        default=[4, 8, 16],
        metavar="S",
        help="strides of the levels to pool edges to (default 4 8 16)",
    )
    out.add_argument(
        "--ignore-index",
        type=int,
        default=255,
        metavar="ID",
        help="without weights: label that does not count (default 255)",
    )
    out.add_argument(
        "--ignore-mode", choices=("opaque", "transparent"), default="opaque", help="whether ignored pixels make edges"
    )
    out.add_argument(
        "--score", type=number(SHARE), default=0.3, metavar="S", help="lowest score of instances to draw (default 0.3)"
    )
    return out


def mistake(args: Any) -> str:
    """Returns an error message about a combination of arguments; "" if there is none.

    Args:
        args: parsed arguments.
    """
    if not args.labels and not args.weights:
        return "expected --labels (edges), --weights (predictions) or both, got neither."
    if len(args.config_file) not in (0, 1, len(args.weights)):
        return f"--config-file: expected one, or one for each of {len(args.weights)} --weights."
    return ""


def run(args: Any) -> int:
    """Draws every image.

    Args:
        args: parsed arguments.
    """
    if not args.images.exists():
        raise FileNotFoundError(f"--images: expected an image or a folder, got {args.images}, which does not exist.")
    from .drawing import draw_all

    count = draw_all(args)
    print(f"wrote {count} image{'s' * (count != 1)} to {args.output}")
    return 0
