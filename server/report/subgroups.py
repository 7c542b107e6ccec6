"""The table of how well each kind of patient and joint is graded."""

from __future__ import annotations

from collections.abc import Sequence

from server.report.content import Content
from server.report.tables import Rows, cell, title

COLUMNS = {"joint": "Joint", "device": "Machine", "site": "Site", "age": "Age", "sex": "Sex"}
METRICS = ("accuracy", "kappa_linear")


def table(content: Content) -> tuple[Sequence[str], Rows]:
    """Header and rows: patients, exams, and the headline score's metrics of each group; no rows where none is."""
    rows = []
    for column, groups in (content.metrics.get("subgroups") or {}).items():
        for value, block in groups.items():
            few = f"{block['exams']} exams" + (" · few patients" if block["few"] else "")
            cells = [cell(block[content.primary][metric], metric) for metric in METRICS]
            rows.append(
                (f"{value}\n{COLUMNS.get(column, title(column))}", [(str(block["patients"]), few), *cells])
            )
    return ("Of", "Patients", "Accuracy", "Linear kappa"), rows
