"""Reads a teacher's own config."""

from __future__ import annotations

from detectron2.config import CfgNode

from bpkd.config import read_config


def load_teacher_cfg(cfg: CfgNode, node: CfgNode | None = None, key: str = "TEACHER") -> CfgNode:
    """Reads a teacher's own config: its CONFIG_FILE and OPTS over the defaults, on the student's device.

    Args:
        cfg: The student's config.
        node: Config node of the teacher; None: cfg.TEACHER.
        key: Key of the teacher's node in the config, for messages.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has an unknown key or a value of the wrong type.
    """
    node = cfg.TEACHER if node is None else node
    teacher_cfg = read_config(node.CONFIG_FILE, node.OPTS, source=f"{key}.CONFIG_FILE")
    teacher_cfg.MODEL.DEVICE = cfg.MODEL.DEVICE
    teacher_cfg.freeze()
    return teacher_cfg
