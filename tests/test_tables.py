"""The tables of the commands: at 80 columns nothing in them is cut, and each has its other forms."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
from rich.console import RenderableType

import synofed
from client.check.report import SECTIONS, Finding, Report
from client.check.report import State as Found
from client.cli import ledger_cli
from client.ledger.ledger_spent import Spent, SpentOnCampaign
from common.privacy.audit.evidence import Check, Verdict
from common.text import table_forms
from common.text.terminal import Console, Table
from server.cli import run_view
from server.runs.runs import CampaignStatus, SiteStatus, State
from server.service.presence import Presence
from simulation.cli import privacy_audit_cli, result_view, seeds_cli
from simulation.studies.seeds import Figure, Summary
from tests.server.report.test_report import make_full
from tests.test_names import call
from tests.test_names import study as readings

STATES = get_args(State)


def campaign() -> Iterator[Table]:
    for state in STATES:
        site = SiteStatus(state="waits for approval", reason="outside its hours", used=120, last_used="")
        status = CampaignStatus(
            state=state,
            sites={"rheumatology-north": site, "b": SiteStatus(state=state)},
            ensemble={"rheumatology-north": "received"},
            evaluation={"rheumatology-north": "its policy permits none"},
        )
        yield run_view._sites(status, {"b": Presence(online=True, last_seen="")})


def check() -> Table:
    found = [
        Finding(section=section, state=state, found="1,204 exams of 331 patients " * 3, advice="correct them")
        for section, state in product(SECTIONS, get_args(Found))
    ]
    return Report(site="north", findings=found).table()


def ledger() -> Table:
    one = SpentOnCampaign(
        campaign="rating_private_of_five_sites", plan_hash="a" * 64, private=240, unbounded=True, patients=1200,
        epsilon=2.997, left_out=3,
    )  # fmt: skip
    spent = Spent(
        campaigns=(one, one), patients=1200, unbounded_patients=3, epsilon=2.997, maximum_epsilon=3.0, left=0.003,
        delta=1e-5,
    )  # fmt: skip
    return ledger_cli._table("rheumatology-north", spent)


def audit() -> Table:
    verdicts: tuple[Verdict, ...] = get_args(Verdict)
    checks = [
        Check(name="receipts", claim="", verdict=verdict, found="240 of 240 " * 9) for verdict in verdicts
    ]
    return privacy_audit_cli._table([("rheumatology-north", one) for one in checks])


def of_seeds() -> Table:
    figures = [
        Figure(what=what, score=score, metric=metric, values={1: 0.7, 2: 0.81}, mean=0.755, sd=0.078)
        for what, score, metric in product(seeds_cli.TITLES, ("hypertrophy", "combined"), seeds_cli.NAMES)
    ]
    told = Summary(name="quickstart", seeds=(1, 2), missing=(), same_patients=False, figures=tuple(figures))
    return seeds_cli._table(told)


def results(folder: Path) -> list[RenderableType]:
    printed: list[RenderableType] = []

    class Kept(Console):
        def print(self, *objects: RenderableType, **_: object) -> None:
            printed.extend(objects)

    result_view.show(Kept(), make_full(folder / "run"))
    return printed


def tables(folder: Path) -> Iterable[RenderableType]:
    return [*campaign(), check(), ledger(), audit(), of_seeds(), *results(folder)]


def words(table: Table) -> set[str]:
    plain = table.plain()
    return {word for row in plain.rows for cell in row for word in cell.split()}


def test_at_80_columns_no_word_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    made = [table for table in tables(tmp_path) if isinstance(table, Table)]
    assert len(made) >= len(STATES) + 7
    for table in made:
        console = Console()
        with console.capture() as capture:
            console.print(table)
        shown = capture.get()
        assert max(map(len, shown.splitlines())) <= 80
        assert words(table) <= set(re.split(r"[\s│┃]+", shown)), table.title


def test_every_table_has_its_other_forms(tmp_path: Path) -> None:
    for table in tables(tmp_path):
        if isinstance(table, Table):
            plain = table.plain()
            lines = table_forms.markdown(plain).splitlines()
            assert sum(line.startswith("|") for line in lines) == 2 + len(plain.rows)
            latex = table_forms.latex(plain)
            assert len(re.findall(r"\\\\( \\hline)?$", latex, re.MULTILINE)) == len(plain.rows) + any(
                plain.header
            )


COMMANDS = (
    ("privacy", "plan", "PRIVATE", "--total-patients", "450", "--sites", "5"),
    ("readers", "study.csv"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("form", [None, *table_forms.FORMS])
def test_a_command_prints_it(
    command: tuple[str, ...],
    form: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    readings(tmp_path / "study.csv", ("Dr A_1", "b"))
    private = str(Path(__file__).parents[1] / "configs" / "rating_private.toml")
    arguments = [private if word == "PRIVATE" else word for word in command]
    asked = [] if form is None else ["--tables", form]
    assert call(monkeypatch, *asked, *arguments) == 0
    shown = capsys.readouterr().out
    if form is None:
        assert max(map(len, shown.splitlines())) <= 80
    else:
        sign = {
            "markdown": "---:|",
            "latex": "\\begin{tabular}",
            "csv": '",' if command[0] == "privacy" else "Dr A_1,",
        }
        assert sign[form] in shown
        assert "┃" not in shown
    assert call(monkeypatch, *asked, *arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out)


def test_a_run_has_its_tables_beside_its_report(tmp_path: Path) -> None:
    run = make_full(tmp_path / "run")
    report = synofed.report(run)
    markdown = (run / "report_tables.md").read_text(encoding="utf-8")
    latex = (run / "report_tables.tex").read_text(encoding="utf-8")
    found = list(table_forms.of_page(report.read_text(encoding="utf-8")))
    assert len(found) > 8
    assert latex.count("\\begin{table}") == latex.count("\\end{table}") == len(found)
    metrics = json.loads((run / "metrics.json").read_text())
    accuracy = metrics["combined"]["accuracy"]
    line = next(line for line in markdown.splitlines() if line.startswith("| Combined"))
    low, high = accuracy["ci95"]
    assert f"| {100 * accuracy['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f}) |" in line
    for title in ("Agreement with the reference", "Sites and devices: By device"):
        assert f"**{title}**" in markdown
        assert f"\\caption{{{title}}}" in latex
