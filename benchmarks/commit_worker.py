"""One side of `benchmarks.compare_commits`: training steps of the tree in which it runs, one at a time, on request.

Run by path in a tree's folder, old or new: it imports nothing of benchmarks/, and of bpkd only names that every tree
has. Requests come on stdin as JSON, one per line; answers go to stdout in the same way.
"""

import json
import os
import sys
import tempfile
import time
import warnings

warnings.simplefilter("ignore")
answers, sys.stdout = sys.stdout, sys.stderr  # other output must not be read as an answer
sys.path[0] = os.getcwd()  # the tree, not this file's folder


def main():
    """Answers requests until stdin ends."""
    import torch
    from detectron2.utils.events import EventStorage

    from bpkd.engine import DistillationTrainer, load_config
    from bpkd.functional import native

    work, trainer = tempfile.TemporaryDirectory(), None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "teacher":  # random weights: a teacher's time does not depend on them
            cfg = load_config(request["config"], request["opts"])
            teacher = DistillationTrainer.build_model(load_config(cfg.TEACHER.CONFIG_FILE, ["MODEL.DEVICE", "cpu"]))
            torch.save({"model": teacher.state_dict()}, request["path"])
            answer = {}
        elif request["do"] == "build":
            torch.set_num_threads(request["threads"])
            trainer = DistillationTrainer(load_config(request["config"], [*request["opts"], "OUTPUT_DIR", work.name]))
            level = native.level() or native.unavailable()
            answer = {"bpkd": os.path.dirname(native.__file__), "native": level, "torch": torch.__version__}
            storage, done = EventStorage(0), 0
        else:
            clock = time.process_time if request["cpu_time"] else time.perf_counter
            answer = {"ms": [], "loss": []}
            with storage:
                for _ in range(request["steps"]):
                    trainer.iter = storage.iter = done
                    done += 1
                    start = clock()
                    trainer.run_step()
                    if request["cuda"]:
                        torch.cuda.synchronize()
                    answer["ms"].append(1e3 * (clock() - start))
                    answer["loss"].append(sum(trainer._trainer.values.values()))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
