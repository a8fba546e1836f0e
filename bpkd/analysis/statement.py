"""A comparison's report in Markdown: its table, the differences and their significance."""

from __future__ import annotations

from collections.abc import Sequence

from bpkd.analysis.report import Record, findings, markdown, provenance, table
from bpkd.analysis.significance import HEADER, explanation, paired_tests
from bpkd.analysis.task import figures_of
from bpkd.text import markdown_cell


def report_text(records: Sequence[Record], *, trimap_width: int, margin: float = 0.5) -> str:
    """Returns a data set's report in Markdown.

    Table, findings on mIoU and on the trimap (of instances: on mask AP and Boundary AP), the paired tests of both, and
    where the figures come from.

    Args:
        records: complete runs on one data set.
        trimap_width: half-width of the trimap column.
        margin: the smallest gain that would matter, in percentage points.
    """
    tested = figures_of(records, trimap_width).tested
    lines = [table(records, trimap_width=trimap_width)[0], ""]
    lines += [f"- {markdown_cell(line)}" for metric in tested for line in findings(records, metric)]
    return "\n".join([*lines, "", *_tests(records, tested, margin), markdown_cell(provenance(records))])


def _tests(records: Sequence[Record], figures: Sequence[str], margin: float) -> list[str]:
    tests = paired_tests(records, figures, margin=margin)
    if not tests:
        return []
    if all(t.seeds == 1 for t in tests):
        return ["Paired test: one seed: not tested.", ""]
    return [explanation(margin), "", markdown(HEADER, [t.row() for t in tests]), ""]
