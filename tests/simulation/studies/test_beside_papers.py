"""Systems beside their papers: each on its own patients, federated, pooled and alone."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from common.errors import ConfigurationError
from common.text.terminal import Console
from simulation.cli import study_cli
from simulation.studies import beside_papers, study
from simulation.studies.study_table import table
from simulation.studies.study_view import plain_tables
from tests.simulation.runs.test_cross_validation import CONFIG
from tests.site_folders import make_site_folder

STUDY = """
name = "papers"
title = "Systems beside their papers"
[rows.scores]
title = "Scores"
base = "scores.toml"
paper = "Somebody 2024"
note = "Pictures that get brighter."
differs = ["The backbone is small."]
[[rows.scores.figures]]
what = "Pearson"
printed = "0.92"
metric = "numbers.score.pearson"
[[rows.scores.figures]]
what = "accuracy of classes, mean over folds"
printed = "35.8 %"
metric = "folds.severity.accuracy"
percent = true
[[rows.scores.figures]]
what = "nobody printed it"
metric = "nothing.there"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("papers")
    for seed, name in enumerate(("north", "south")):
        make_site_folder(
            folder / "cohort" / name,
            name=name,
            patients=9,
            seed=seed,
            images=("hands",),
            measurements=("score",),
        )
    text = CONFIG.format(folder=folder / "cohort").replace(
        'design = "folds"', 'design = "folds"\nbaselines = true'
    )
    (folder / "scores.toml").write_text(text.replace("rounds = 6", "rounds = 2"), encoding="utf-8")
    (folder / "papers.toml").write_text(STUDY, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> study.Study:
    opened = study.load(folder / "papers.toml", out=folder / "out")
    study.run_all(opened, opened.runs, console=Console(quiet=True), go_on=False)
    return opened


@pytest.mark.soak
@pytest.mark.ci
def test_each_system_has_as_many_models_and_its_own_patients(done: study.Study) -> None:
    (one,) = beside_papers.beside_papers(done)
    assert set(one.measured) == {"federated", "centralised", "alone"}
    assert {block["models"] for block in one.measured.values()} == {1}
    assert one.exams == (54, 18)
    assert all(block["exams"] == 54 for block in one.measured.values())


@pytest.mark.soak
@pytest.mark.ci
def test_the_page_has_printed_and_own_figures(done: study.Study, folder: Path) -> None:
    app = typer.Typer()
    app.command()(study_cli.study)
    shown = CliRunner().invoke(app, [str(folder / "papers.toml"), "table", "--out", str(folder / "out")])
    assert shown.exit_code == 0, shown.output
    page = (folder / "out" / "table.md").read_text(encoding="utf-8")
    assert "## Scores (Somebody 2024)" in page
    assert "| Pearson | 0.92 | " in page
    assert "| nobody printed it | - | - | - | - |" in page
    assert "- The backbone is small." in page
    row = next(line for line in page.splitlines() if line.startswith("| accuracy of classes"))
    assert row.count("(SD ") == 3


def test_systems_without_figures_need_a_reference(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('name = "s"\nbase = "b.toml"\n[rows.one]\ntitle = "One"\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="expected a reference row, or a study whose rows each have"):
        study.load(path)


def test_a_row_without_any_base(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('name = "s"\nreference = "one"\n[rows.one]\ntitle = "One"\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="expected a base for the study, or one of row one"):
        study.load(path)


@pytest.mark.soak
@pytest.mark.ci
def test_a_study_with_a_reference_has_further_figures_of_each_run(done: study.Study, folder: Path) -> None:
    text = STUDY.replace("rows.scores.figures", "figures")
    head, _, rest = text.partition("[rows.scores]")
    row, _, figures = rest.partition("[[figures]]")
    path = folder / "compared.toml"
    path.write_text(f'{head}reference = "scores"\n[rows.scores]{row}[[figures]]{figures}', encoding="utf-8")
    opened = study.load(path, out=done.folder)
    assert [run.name for run in opened.runs] == [run.name for run in done.runs]
    (shown,) = (t for t in plain_tables(opened, table(opened)) if t.title == "further figures of each run")
    assert [row[:3] for row in shown.rows] == [
        ["Scores", "0", "federated"],
        ["Scores", "0", "pooled"],
        ["Scores", "0", "each site alone"],
    ]
    (one,) = beside_papers.beside_papers(opened)
    pearson = one.cells(opened.file.figures[0])
    assert tuple(row[3] for row in shown.rows) == pearson
    assert len(set(pearson)) > 1


def test_a_study_without_a_reference_has_figures_in_its_rows_alone(tmp_path: Path) -> None:
    figure = '[[{}figures]]\nwhat = "Pearson"\nmetric = "numbers.score.pearson"\n'
    row = f'[rows.one]\nbase = "b.toml"\n{figure.format("rows.one.")}'
    path = tmp_path / "study.toml"
    path.write_text(f'name = "s"\n{row}{figure.format("")}', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="expected figures in each row"):
        study.load(path)
