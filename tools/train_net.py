#!/usr/bin/env python3
"""Train a student, with or without a teacher, or evaluate a network.

    tools/train_net.py --config-file X [--resume] [--num-gpus N --num-machines M --machine-rank R --dist-url URL]
    tools/train_net.py --config-file X --eval-only [--evaluate teacher] MODEL.WEIGHTS FILE

Any KEY VALUE pairs at the end change the config.
"""

import sys

from bpkd.engine import cli

if __name__ == "__main__":
    sys.exit(cli())
