"""The tables of a page, beside it: as Markdown and as LaTeX."""

from __future__ import annotations

from pathlib import Path

from common.machine import atomic
from common.text import table_forms

ENDINGS = {"md": table_forms.markdown, "tex": table_forms.latex}


def write(page: Path, *, mode: int = 0o666) -> None:
    """Write the tables of ``report.html`` to ``report_tables.md`` and ``report_tables.tex``.

    Args:
        page: of ours.
        mode: of the files, less the process's umask.
    """
    tables = list(table_forms.of_page(page.read_text(encoding="utf-8")))
    for ending, form in ENDINGS.items():
        path = page.with_name(f"{page.stem}_tables.{ending}")
        atomic.write(path, "\n\n".join([*map(form, tables), ""]).encode(), mode=mode)
