import torch
from bpkd.testing.distillers import DistillerSuite
from my_hints import Hints


class TestHints(DistillerSuite):
    distiller = Hints

    def oracle(self, distiller, student, teacher, labels):
        weight = distiller.adapter.project.weight.double()[:, :, 0, 0]
        mapped = torch.einsum("nchw,dc->ndhw", student.features["decode"], weight)
        return {"hint": ((mapped - teacher.features["decode"]) ** 2).mean()}
