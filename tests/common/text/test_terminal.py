import io
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich import box
from rich.console import Group
from rich.text import Text

from common.text import table_forms
from common.text.terminal import LAYOUT, Console, Table, visible

ROOT = Path(__file__).parents[3]
NAMES = (
    "[red]Dr A[/red]", "[/bold]", "[msk]", "L15 [/linear]", "probe [linear]", ":smile:", "<b>&amp;</b>", "a & b",
    '"c"', "'d'", "_e_", "$x^2$", "\\textbf", "100 %", "=1+1", "دكتور علي", "ד״ר כהן", "李医生", "x" * 300,
    "é" * 300, "CON", "a/b", "../c",
)  # fmt: skip
UNSEEN = {"\x1b[31mred": "\\x1b[31mred", "two\nlines": "two\\nlines", "\u202eback": "\\u202eback",
          "\u200bA": "\\u200bA",
          "\x00": "\\x00", "\r": "\\r", "\ud800": "\\ud800", "\x9b2J": "\\x9b2J"}  # fmt: skip
text = st.text(
    st.characters(exclude_categories=["Cn", "Co", "Mn", "Me", "Mc", "Zs"]), min_size=1, max_size=60
)


def printed(*what: object, width: int = 4000) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(*what)
    return stream.getvalue()


def cells(output: str) -> list[list[str]]:
    """The rows of a table's body, each a list of cells."""
    lines = [line for line in output.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is_written(name: str) -> None:
    table = Table("name", "value", title=f"of {name}")
    table.add_row(name, "1")
    assert name in printed(name)
    assert cells(printed(table)) == [[name, "1"]]
    assert f"of {name}" in printed(table)
    narrow = cells(printed(table, width=40))
    assert "".join("".join(row[0].split()) for row in narrow) == "".join(
        name.split()
    )  # in several lines, but whole


@pytest.mark.parametrize(("name", "shown"), UNSEEN.items())
def test_what_cannot_be_seen_is_written_out(name: str, shown: str) -> None:
    table = Table("name")
    table.add_row(name)
    assert cells(printed(table)) == [[shown]]
    assert visible(name) == shown


@given(st.lists(st.tuples(text, text), min_size=1, max_size=4))
def test_what_goes_into_a_table_is_what_is_shown(rows: list[tuple[str, str]]) -> None:
    table = Table("a", "b")
    for row in rows:
        table.add_row(*row)
    if not any("│" in cell for row in rows for cell in row):
        assert cells(printed(table)) == [[visible(cell) for cell in row] for row in rows]


@given(st.text(max_size=60))
def test_visible_text_holds_no_command_and_changes_nothing_that_is_seen(given_text: str) -> None:
    shown = visible(given_text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert visible(shown) == shown
    if given_text.isprintable():
        assert shown == given_text
    assert visible(LAYOUT, keep=LAYOUT) == LAYOUT


def test_nothing_else_makes_a_console_or_a_table() -> None:
    own = re.compile(
        r"from rich\.console import .*\bConsole\b|from rich\.table|from rich import .*(print|table|console)"
    )
    for package in ("client", "common", "server", "simulation"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.name == "terminal.py" or not own.search(path.read_text(encoding="utf-8")), path
    assert not own.search((ROOT / "synofed.py").read_text(encoding="utf-8"))


def test_a_terminal_without_the_letters_of_a_name_gets_their_numbers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "synofed", "readers", "دكتور\udc80.csv"],
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT), "PATH": ""},
        cwd=tmp_path, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert "\\u062f" in done.stderr


words = st.lists(
    st.text(st.characters(categories=["Lu", "Ll"], max_codepoint=255), min_size=1, max_size=22), max_size=9
)
columns = st.lists(st.tuples(words, words, st.booleans()), min_size=3, max_size=12)


@given(columns, st.sampled_from([80, 60, 120]), st.sampled_from([None, box.SIMPLE, box.HEAVY_HEAD]))
def test_no_word_is_cut_and_no_line_is_too_long(
    given_columns: list[tuple[list[str], list[str], bool]], width: int, edge: box.Box | None
) -> None:
    table = Table(box=edge)
    for title, _, whole in given_columns:
        table.add_column(" ".join(title), no_wrap=whole)
    table.add_row(*(" ".join(cell) for _, cell, _ in given_columns))
    shown = printed(table, width=width)
    assert max(map(len, shown.splitlines())) <= width
    seen = set(re.findall(r"[^\s│┃]+", shown))
    for _, cell, _ in given_columns:
        assert set(cell) <= seen


def test_a_table_that_fits_stays_as_it_is_and_a_wide_one_is_set_upright() -> None:
    table = Table("campaign", "state", "why", title="runs")
    table.add_row("one", Text("COMPLETE_ALL_SITES", style="green"), "")
    table.add_row("two", Text("INTERRUPTED"), "the centre was stopped")
    states = ["COMPLETE_ALL_SITES", "INTERRUPTED"]
    assert [row[1] for row in cells(printed(table, width=60))] == states
    tight = cells(printed(table, width=44))
    assert [row[1] for row in tight if row[1]] == states
    assert " ".join(row[2] for row in tight).split() == ["the", "centre", "was", "stopped"]
    upright = cells(printed(table, width=37))
    assert upright == [
        ["campaign", "one"], ["state", "COMPLETE_ALL_SITES"],
        ["campaign", "two"], ["state", "INTERRUPTED"], ["why", "the centre was stopped"],
    ]  # fmt: skip
    assert "runs" in printed(table, width=37)


@pytest.mark.parametrize("form", table_forms.FORMS)
def test_a_command_prints_its_tables_in_the_form_that_is_asked_for(form: str) -> None:
    table = Table("site", "accuracy %", title="by site")
    table.add_column("p", justify="right")
    table.add_row("[msk]_1", "88.1 (85 to 90)" * 30, "0.04")
    command = click.Command("x", params=[click.Option(["--tables"])])
    with command.make_context("x", ["--tables", form]):
        shown = printed(Group(Text("before"), table), "after", width=40)
    assert shown == f"before\n{table_forms.FORMS[form](table.plain())}\n\nafter\n"
    assert table.plain().rows == [("[msk]_1", "88.1 (85 to 90)" * 30, "0.04")]
    assert table.plain().right == [False, False, True]
