"""A table as Markdown, LaTeX and CSV; the tables of a page."""

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.text import csv_text, table_forms
from common.text.table_forms import PlainTable
from tests.common.text.test_terminal import NAMES, text

TABLE = PlainTable(
    title="Agreement, 95 %",
    header=("", "accuracy %", "p"),
    rows=(("RATING_1", "88.1 (85 to 90)", "< 0.001"), ("a|b", "71.2", "0.04"), ("mean", "80\n± 2", "")),
    right=(False, True, True),
    ends=frozenset({1, 2}),
    note="over 3 seeds & patients",
)


def test_markdown() -> None:
    assert table_forms.markdown(TABLE) == (
        "**Agreement, 95 %**\n\n"
        "|  | accuracy % | p |\n"
        "|---|---:|---:|\n"
        "| RATING\\_1 | 88.1 (85 to 90) | \\< 0.001 |\n"
        "| a\\|b | 71.2 | 0.04 |\n"
        "| mean | 80<br>± 2 |  |\n\n"
        "over 3 seeds \\& patients"
    )


def test_latex() -> None:
    assert table_forms.latex(TABLE) == (
        "\\begin{table}\n"
        "\\centering\n"
        "\\caption{Agreement, 95 \\%}\n"
        "\\begin{tabular}{lrr}\n"
        "\\hline\n"
        " & accuracy \\% & p \\\\ \\hline\n"
        "RATING\\_1 & 88.1 (85 to 90) & \\textless{} 0.001 \\\\\n"
        "a|b & 71.2 & 0.04 \\\\ \\hline\n"
        "mean & \\begin{tabular}[t]{@{}r@{}}\\strut 80 \\\\ $\\pm$ 2\\end{tabular} &  \\\\\n"
        "\\hline\n"
        "\\end{tabular}\n"
        "\\par over 3 seeds \\& patients\n"
        "\\end{table}"
    )


def test_a_table_that_is_wider_than_a_page_is_set_smaller_and_its_words_stay_whole() -> None:
    words = "accuracy on the held-out patients of all sites that trained"
    wide = PlainTable(
        title="", header=("", *[words] * 6), rows=(("a", *["88.1"] * 6),), right=(False, *[True] * 6)
    )
    found = table_forms.latex(wide)
    assert "\\footnotesize\\setlength" in found
    (header,) = re.findall(r"\{@\{\}r@\{\}\}\\strut (.*?)\\end", found.splitlines()[5])[:1]
    assert header.replace(" \\\\ ", " ") == words
    assert "size" not in table_forms.latex(TABLE)


def compiled(folder: Path, tables: Sequence[PlainTable]) -> str:
    """What pdflatex says of a document with these tables."""
    pages = "\n\\clearpage\n".join(map(table_forms.latex, tables))
    text = f"\\documentclass{{article}}\n\\begin{{document}}\n{pages}\n\\end{{document}}\n"
    (folder / "tables.tex").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"],
        cwd=folder, capture_output=True, check=False,
    )  # fmt: skip
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-2000:]
    return said


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles_and_no_table_of_a_report_is_wider_than_a_page(tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "example-report" / "report.html"
    tables = list(table_forms.of_page(page.read_text(encoding="utf-8")))
    assert len(tables) > 10
    assert "Overfull" not in compiled(tmp_path, tables)
    marks = PlainTable(
        title="a_b & 5 % # {x} ~ ^ \\", header=("[1]", "*"), rows=(("[x]", "--"),), right=(False, True)
    )
    compiled(tmp_path, [marks, TABLE, *map(one_cell, filter(str.isascii, NAMES))])


def test_csv() -> None:
    rows = list(csv.reader(io.StringIO(table_forms.csv(TABLE), newline="")))
    assert [[csv_text.original(cell) for cell in row] for row in rows] == [
        list(TABLE.header),
        *map(list, TABLE.rows),
    ]


def one_cell(name: str) -> PlainTable:
    return PlainTable(title="", header=("a", "b"), rows=((name, "1"),), right=(False, True))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_markup(name: str) -> None:
    (row,) = table_forms.markdown(one_cell(name)).splitlines()[2:]
    cell = row.removeprefix("| ").removesuffix(" | 1 |")
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|~&$]", cell)
    assert re.sub(r"\\(.)", r"\1", cell) == name
    (row,) = (line for line in table_forms.latex(one_cell(name)).splitlines() if line.endswith(" & 1 \\\\"))
    cell = row.removesuffix(" & 1 \\\\")
    assert not re.search(r"(?<!\\)[&%#_]|^[\[*]", cell)
    assert len(re.findall(r"(?<!\\)\{", cell)) == len(re.findall(r"(?<!\\)\}", cell))


@given(st.lists(st.tuples(text, text), min_size=1, max_size=4))
def test_every_row_is_a_line_of_as_many_cells(rows: list[tuple[str, str]]) -> None:
    table = PlainTable(title="t", header=("a", "b"), rows=rows, right=(False, True))
    body = table_forms.latex(table).split("\\hline\n")[2].splitlines()
    assert len(body) == len(rows)
    for line in body:
        assert line.endswith(" \\\\")
        assert len(re.findall(r"(?<!\\) & ", line)) == 1
    assert len(table_forms.markdown(table).splitlines()) == 4 + len(rows)


PAGE = """
<h2>Agreement <span class="badge">on the phantom</span></h2>
<div class="scroll"><table class="wide"><thead><tr><th></th><th>Accuracy</th></tr></thead><tbody>
<tr><th scope="row">North<small>3 machines</small></th><td>71.5 %<small>68 to 75</small></td></tr>
<tr><th scope="row">A &amp; B</th><td>
  80 %</td></tr></tbody></table></div>
<h3>Examples</h3><div class="exam"><table><thead><tr><th>reference</th></tr></thead><tr><td>2</td></tr></table></div>
<h3>By device</h3><table><tbody><tr><th>epsilon</th><td>3</td></tr><tr><td>delta</td></tr></tbody></table>
<h2>The run</h2><table><tbody></tbody></table><script>"<table><tr><td>no</td></tr></table>"</script>
"""


def test_the_tables_of_a_page() -> None:
    agreement, device = table_forms.of_page(PAGE)
    assert agreement == PlainTable(
        title="Agreement",
        header=("", "Accuracy"),
        rows=[("North (3 machines)", "71.5 % (68 to 75)"), ("A & B", "80 %")],
        right=(False, True),
    )
    assert (device.title, device.header) == ("Agreement: By device", ("", ""))
    assert device.rows == [("epsilon", "3"), ("delta", "")]
