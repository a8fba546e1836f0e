"""What the base installation leaves out, and what to say where it is missing. Imports nothing."""

from __future__ import annotations

from importlib.util import find_spec

DETECTRON2 = "detectron2"
# What `import detectron2` and the modules that build on it import at once; the rest of bpkd[train] is used later.
TRAIN = (
    "torchvision", "cv2", "PIL", "yaml", "tqdm", "matplotlib", "fvcore", "iopath", "omegaconf", "hydra", "pycocotools",
    "yacs", "tabulate", "cloudpickle", "termcolor",
)  # fmt: skip


def need(user: str, *modules: str, extra: str = "train") -> None:
    """Makes sure that optional packages are there, without importing them.

    Args:
        user: what needs them, as a person knows it.
        *modules: names as in ``import``.
        extra: the extra of bpkd that installs them.

    Raises:
        ModuleNotFoundError: some are not installed; the message names them and says how to install them.
    """
    missing = [name for name in modules if not _is_there(name)]
    if not missing:
        return
    steps = [f"pip install 'bpkd[{extra}]'"] if missing != [DETECTRON2] else []
    steps += ["python -m bpkd.install_detectron2"] if DETECTRON2 in missing else []
    names = ["Detectron2" if name == DETECTRON2 else name for name in missing]
    if len(names) > 4:
        names[3:] = [f"{len(names) - 3} other packages"]
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    verb = "is" if len(names) == 1 else "are"
    text = f"{user} needs {listed}, which {verb} not installed: {', then '.join(steps)}."
    raise ModuleNotFoundError(text, name=missing[0])


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # a stand-in that somebody has put into sys.modules
        return True


def need_detectron2(user: str) -> None:
    """Makes sure that Detectron2 and the packages of ``bpkd[train]`` are there, as `need` does."""
    need(user, DETECTRON2, *TRAIN)
