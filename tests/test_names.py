"""Names are data: what a person wrote is in every output, as it was written."""

import csv
import html
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure as Canvas

import synofed
from common.text import csv_text
from common.text.figures import STYLE, room_in, svg
from common.text.terminal import visible
from server.report import figures
from server.report.tables import Interval
from tests.common.text.test_terminal import NAMES, UNSEEN

READERS = ("[red]Dr A[/red]", "[/bold]", "c")


def texts(document: str) -> list[str]:
    """All text of an SVG document, as a browser reads it."""
    root = ElementTree.fromstring(document)
    return [text for element in root.iter() for text in (element.text, element.tail) if text and text.strip()]


@pytest.mark.parametrize("name", [*NAMES, *UNSEEN])
def test_a_figure_shows_a_name_as_it_is_written(name: str) -> None:
    if name == "\ud800":
        pytest.skip("no text file holds half a character")
    rows = [Interval(label=name, kind="alone", value=0.5, low=0.4, high=0.6)] * 2
    drawn = figures.intervals("accuracy", "Accuracy", rows, axis="accuracy", percent=True)
    if "\n" in name:
        assert set(name.split("\n")) <= set(texts(drawn.svg))
    else:
        assert visible(name) in texts(drawn.svg)
    if name == "\r":
        return  # the CSV writer's own matter
    cells = [row[0] for row in csv.reader(io.StringIO(drawn.csv, newline=""))]
    assert [csv_text.original(cell) for cell in cells][1:] == [name, name]
    ElementTree.fromstring(drawn.inline)


def test_a_title_is_no_formula_and_a_long_label_leaves_room_for_the_figure() -> None:
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(4 + room_in(["x" * 300]), 2), layout="constrained")
        axes = canvas.add_subplot()
        axes.set_title("$\\frac{1}{2}$ _a_ 李")
        axes.set_yticks([0], ["x" * 300])
        document = svg(canvas)
    assert "$\\frac{1}{2}$ _a_ 李" in texts(document)
    assert axes.get_position().width * canvas.get_figwidth() > 2
    assert room_in(["federated", "sites alone"]) == 0


def study(path: Path, readers: tuple[str, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["exam_id", "patient_id", "reader", "condition", "combined", "truth_combined"])
        for exam in range(8):
            for number, reader in enumerate(readers):
                for condition in ("without", "with"):
                    grade = (exam + number * (condition == "without")) % 4
                    rows.writerow([f"e{exam}", f"p{exam}", reader, condition, grade, exam % 4])
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["synofed", *map(str, arguments)])
    try:
        synofed.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("readers", [READERS, ("$x$", "d_e_f", "دكتور"), ("=1+1", ":eye:", "r" * 300)])
def test_readers_are_called_what_they_are_called(
    readers: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    table, out = study(tmp_path / "study.csv", readers), tmp_path / "out"
    assert call(monkeypatch, "readers", table, "--out", out) == 0
    shown = capsys.readouterr().out
    for reader in readers:
        assert reader in shown
    assert call(monkeypatch, "readers", table, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content["measurements"]["combined"]["readers"]) == set(readers)


def test_pages_escape_names() -> None:
    from jinja2 import Environment

    for package in ("client", "common", "server", "simulation"):
        for path in (Path(__file__).parents[1] / package).rglob("*.py"):
            for made in re.findall(r"\bEnvironment\(([^)]*)\)", path.read_text(encoding="utf-8")):
                assert "autoescape=True" in made, path
    shown = Environment(autoescape=True).from_string("<td>{{ name }}</td>")
    for name in NAMES:
        assert html.unescape(shown.render(name=name)) == f"<td>{name}</td>"
