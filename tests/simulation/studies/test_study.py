"""Studies: rows over the same patients, networks shared, runs one by one as a cluster does them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

import synofed
from common.errors import CampaignError, ConfigurationError
from common.evaluation import paired
from common.evaluation.seeds import seeds_needed
from common.machine import network_files
from common.text.terminal import Console
from common.training.local_settings import local_settings
from server.campaign.campaign_cost import stages
from simulation.engine.progress import Display
from simulation.studies import study as studies
from simulation.studies import study_cost, study_view
from simulation.studies.study_table import table
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder

STUDY = """\
name = "little"
base = "base.toml"
reference = "rating"
seeds = [1, 2]
set = ["evaluate.baselines=false", "rating.models=1", "federation.rounds=1", "rating.pretraining=jigsaw",
       "rating.jigsaw={image_px=48, tile_px=12, permutations=6, rounds=1}"]

[primary]
rows = ["gs_only", "christensen"]
smallest = 0.05
[rows.rating]
title = "RATING"
[rows.gs_only]
title = "GS only"
set = ['measurements.hypertrophy.images=["gs"]']
[rows.no_multitude]
set = ["rating.decision=majority"]
[rows.christensen]
set = ["method=christensen"]
[rows.andersen]
set = ["method=andersen", "andersen.binary_backbone=small", "andersen.backbone=small",
       "andersen.encoder=trained", "andersen.learning_rates=[1e-3]"]
"""
SHIPPED = sorted((Path(__file__).parents[3] / "configs").glob("*.toml"))
STUDIES = [path for path in SHIPPED if studies.is_study(path)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for seed, name in enumerate(("north", "south")):
        make_site_folder(folder / "cohort" / name, name=name, seed=seed, held_out_patients=3)
    (folder / "base.toml").write_text(CONFIG.format(folder=folder / "cohort"), encoding="utf-8")
    (folder / "little.toml").write_text(STUDY, encoding="utf-8")
    return folder / "little.toml"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["synofed", *map(str, arguments)])
    with pytest.raises(SystemExit) as raised:
        synofed.main()
    return int(raised.value.code or 0)


@pytest.fixture(scope="module")
def done(config: Path) -> studies.Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(config.parent)
        assert command(patch, "study", config) == 0
    return studies.load(config, out=config.parent / "runs" / "little")


def test_the_configuration_of_one_run_is_no_study() -> None:
    path = STUDIES[0].with_name("quickstart.toml")
    with pytest.raises(ConfigurationError, match=f"got the configuration of one: synofed simulate {path}$"):
        studies.load(path)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_that_ships_can_be_read(path: Path) -> None:
    study = studies.load(path)
    assert len({run.name for run in study.runs}) == len(study.runs)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_the_table_has_every_row_and_the_reference_is_not_compared_with_itself(done: studies.Study) -> None:
    found = table(done)
    assert [row.row for row in found.rows] == ["rating", "gs_only", "no_multitude", "christensen", "andersen"]
    assert not found.missing
    for row in found.rows:
        cell = row.cells["seen"]["combined"]["accuracy"]
        assert 0 <= cell.value.low <= cell.value.value <= cell.value.high <= 1
        assert (cell.difference is None) == (row.row == "rating")
        assert row.seeds == (1, 2)
    assert list(found.rows[-1].cells["seen"]) == ["combined"]
    assert found.rows[0].cells["seen"]["combined"]["accuracy"].seeds_sd >= 0


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_python_gives_the_study_and_its_table(
    done: studies.Study, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = synofed.study(config, out=done.folder)
    assert found.path == done.folder
    assert (list(found.runs), found.missing) == ([run.name for run in done.runs], ())
    own = table(done).rows[1].cells["seen"]["combined"]["kappa_linear"]
    rows = found.table().set_index(["row", "place", "score", "metric"])
    row = rows.loc[("gs_only", "seen", "combined", "kappa_linear")]
    assert own.difference is not None
    assert row["value"] == pytest.approx(own.value.value)
    assert row["difference"] == pytest.approx(own.difference.value.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_a_cell_is_the_mean_of_its_runs_metrics(done: studies.Study) -> None:
    runs = [run for run in done.runs if run.row == "gs_only"]
    metrics = [json.loads((done.run_folder(run) / "metrics.json").read_text()) for run in runs]
    values = [m["combined"]["accuracy"]["value"] for m in metrics]
    cell = next(row for row in table(done).rows if row.row == "gs_only").cells["seen"]["combined"]["accuracy"]
    assert cell.value.value == pytest.approx(np.mean(values))
    assert cell.seeds_sd == pytest.approx(np.std(values, ddof=1))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_a_difference_is_of_its_seeds_and_corrected_over_the_primary_rows(done: studies.Study) -> None:
    rows = {row.row: row for row in table(done).rows}

    def kappas(name: str) -> np.ndarray:
        runs = [run for run in done.runs if run.row == name]
        metrics = [json.loads((done.run_folder(run) / "metrics.json").read_text()) for run in runs]
        return np.array([m["combined"]["kappa_linear"]["value"] for m in metrics])

    corrected = []
    for name in ("gs_only", "christensen", "andersen"):
        expected = kappas(name) - kappas("rating")
        difference = rows[name].cells["seen"]["combined"]["kappa_linear"].difference
        assert difference is not None
        assert difference.seeds == pytest.approx(tuple(expected))
        assert difference.over.sd == pytest.approx(expected.std(ddof=1))
        assert difference.over.p_t == pytest.approx(ttest_1samp(expected, 0).pvalue)
        assert difference.value.low <= difference.value.value <= difference.value.high
        assert np.isnan(difference.p_holm) == (name == "andersen")
        corrected.append(difference.p_holm)
        if name != "andersen":
            needed = seeds_needed(expected.std(ddof=1), smallest=0.05, alpha=0.025, power=0.8)
            assert difference.seeds_needed == needed
    plain = [ttest_1samp(kappas(name) - kappas("rating"), 0).pvalue for name in ("gs_only", "christensen")]
    assert corrected[:2] == pytest.approx(paired.holm(plain))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_rows_share_networks_and_a_row_alone_gives_the_same_bits(done: studies.Study, tmp_path: Path) -> None:
    manifests = {
        run.row: json.loads((done.run_folder(run) / "manifest.json").read_text())
        for run in done.runs
        if run.seed == 1
    }
    assert manifests["rating"]["trained_networks"] > 0
    assert manifests["gs_only"]["trained_networks"] == 0, "F with its head is RATING's"
    assert manifests["no_multitude"]["trained_networks"] == 0
    row = next(run for run in done.runs if (run.row, run.seed) == ("gs_only", 1))
    config = tmp_path / "row.toml"
    config.write_text((done.run_folder(row) / "config.toml").read_text(encoding="utf-8"), encoding="utf-8")
    alone = synofed.simulate(config, out=tmp_path / "alone")
    pd.testing.assert_frame_equal(
        alone.predictions(), pd.read_parquet(done.run_folder(row) / "predictions.parquet")
    )
    one, other = (
        {n.spec.name: n.weights for n in network_files.load_all(folder / "networks")}
        for folder in (alone.path, done.run_folder(row))
    )
    assert list(one) == list(other)
    for name, weights in one.items():
        np.testing.assert_array_equal(weights, other[name])


@pytest.mark.slow
def test_an_array_job_does_one_run_and_the_table_names_what_is_missing(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    assert command(monkeypatch, "study", config, "expand", "--out", out, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == 10
    assert not any(run["done"] for run in listed)
    assert command(monkeypatch, "study", config, "table", "--out", out) == 4
    assert command(monkeypatch, "study", config, "run", "--index", "6", "--out", out) == 0
    capsys.readouterr()
    assert command(monkeypatch, "study", config, "table", "--out", out) == 7
    assert listed[5]["name"] in capsys.readouterr().err
    assert (out / "table.md").exists()
    assert command(monkeypatch, "study", config, "run", "--out", out) == 3
    assert command(monkeypatch, "study", config, "run", "--index", "99", "--out", out) == 3


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_a_campaign_that_cannot_go_on_costs_its_own_run_only(
    config: Path,
    done: studies.Study,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun: list[str] = []

    def fail(study: studies.Study, run: studies.StudyRun, *, display: Display) -> Path:
        del display
        begun.append(run.row)
        if run.row != "rating":
            raise CampaignError("Expected replies of 2 sites, got 1")
        return shutil.copytree(done.run_folder(run), study.run_folder(run))

    monkeypatch.setattr(studies, "run_one", fail)
    assert command(monkeypatch, "study", config, "--out", tmp_path / "out") == 7
    assert begun == [run.row for run in done.runs]
    said = capsys.readouterr()
    assert "failed: Expected replies of 2 sites, got 1" in said.out
    assert "christensen" in said.err


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_the_written_table_says_how_it_came_about(done: studies.Study) -> None:
    text = (done.folder / "table.md").read_text(encoding="utf-8")
    for words in (
        "synofed study", "seeds 1, 2", "On the phantom", "RATING", "Holm",
        "Named beforehand: linear kappa of the combined score against RATING, rows gs_only, christensen",
        "Other networks or steps than RATING (6,",
    ):  # fmt: skip
        assert words in text
    latex = (done.folder / "table.tex").read_text(encoding="utf-8")
    assert latex.count("\\begin{table}") == text.count("|---|") > 0
    assert "RATING & " in latex
    for shown in study_view.tables(done, table(done)):
        console = Console(width=80)
        with console.capture() as capture:
            console.print(shown)
        assert max(map(len, capture.get().splitlines())) <= 80
        plain = shown.plain()
        whole = {word for row in plain.rows for cell in row for word in cell.split()}
        assert whole <= set(re.split(r"[\s│┃]+", capture.get()))
    rows = pd.read_csv(done.folder / "table.csv")
    primary = rows[rows["p_holm"].notna()]
    assert set(primary["row"]) <= {"gs_only", "christensen"}
    assert set(zip(primary["place"], primary["score"], primary["metric"], strict=True)) == {
        ("seen", "combined", "kappa_linear")
    }
    assert set(rows["row"]) == set(done.file.rows)
    assert (done.folder / "figures" / "accuracy-seen.svg").exists()


@pytest.mark.soak
@pytest.mark.ci
def test_a_left_out_device_is_scored_and_not_trained_on(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("north", "south"):
        site = make_site_folder(tmp_path / "cohort" / name, name=name, held_out_patients=3)
        rows = pd.read_csv(site / "manifest.csv", dtype=str, keep_default_na=False)
        rows.assign(device=f"device-{name}").to_csv(site / "manifest.csv", index=False)
    (tmp_path / "base.toml").write_text(CONFIG.format(folder=tmp_path / "cohort"), encoding="utf-8")
    text = """
name = "devices"
base = "base.toml"
reference = "rating"
set = ["evaluate.baselines=false", "rating.fusion=joint", "rating.models=1", "federation.rounds=1"]
[rows.rating]
[columns.none]
[columns.north]
set = ['cohort.leave_out=["device-north"]']
"""
    path, out = tmp_path / "devices.toml", tmp_path / "out"
    path.write_text(text, encoding="utf-8")
    assert command(monkeypatch, "study", path, "--out", out) == 0
    study = studies.load(path, out=out)
    every, without = table(study).rows
    assert set(every.devices) == set(without.devices) == {"device-north", "device-south"}
    assert every.cells["unseen"] == {} != without.cells["unseen"]
    trained = [
        json.loads((study.run_folder(run) / "manifest.json").read_text())["sites"] for run in study.runs
    ]
    assert trained == [["north", "south"], ["south"]]
    assert "by condition and device" in (out / "table.md").read_text(encoding="utf-8")
    path.write_text(f'{text}[rows.majority]\nset = ["rating.decision=majority"]\n', encoding="utf-8")
    assert command(monkeypatch, "study", path, "run", "--index", "2", "--out", out) == 0
    assert command(monkeypatch, "study", path, "table", "--out", out) == 7
    matrix = (out / "table.md").read_text(encoding="utf-8").partition("main score by condition\n")[2]
    assert re.search(r"^\| majority \| [0-9.]+ \(.*\) \| missing \|$", matrix, flags=re.MULTILINE)
    path.write_text(text.replace("device-north", "device-nowhere"), encoding="utf-8")
    assert command(monkeypatch, "study", path, "--out", tmp_path / "other") == 3


def test_every_seed_is_a_cohort_of_its_own() -> None:
    study = studies.load(SHIPPED[0].with_name("rating_table_small.toml"))
    for run in study.runs:
        assert run.settings.cohort is not None
        assert run.settings.cohort.phantom is not None
        assert run.settings.seed == run.settings.cohort.phantom.seed == run.seed
    assert len({run.seed for run in study.runs}) == 8


@pytest.mark.parametrize("name", ["rating_table_small", "rating_table"])
def test_the_tables_rows_without_codes_and_before_rating_have_as_many_steps(name: str) -> None:
    study = studies.load(SHIPPED[0].with_name(f"{name}.toml"))

    def steps(row: str) -> int:
        settings = next(run.settings for run in study.runs if run.row == row)
        local = [local_settings(spec, settings) for stage in stages(settings) for spec in stage.networks]
        return sum(one.rounds * one.training.local_steps for one in local)

    assert steps("no_ecoc") == steps("neither") == steps("rating")
    for row in ("andersen", "christensen"):
        assert steps(row) == pytest.approx(steps("rating"), rel=0.001)


def test_a_sweep_runs_every_row_under_every_value(config: Path, tmp_path: Path) -> None:
    path = config.with_name("sweep.toml")
    path.write_text(
        STUDY + '[columns.adam]\ntitle = "Adam"\n[sweep]\n"federation.rounds" = [1, 2]\n'
        '"training.learning_rate" = [0.001]\n',
        encoding="utf-8",
    )
    study = studies.load(path, out=tmp_path)
    columns = ["adam-rounds_1-learning_rate_0_001", "adam-rounds_2-learning_rate_0_001"]
    assert list(study.file.conditions()) == columns
    assert len(study.runs) == 5 * 2 * 2
    assert {run.settings.federation.rounds for run in study.runs if run.column == columns[1]} == {2}
    assert (
        study.file.conditions()[columns[0]].title
        == "Adam, federation.rounds = 1, training.learning_rate = 0.001"
    )
    path.write_text(STUDY + '[sweep]\n"federation.nothing" = [1]\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="nothing"):
        studies.load(path)


def test_what_a_study_costs_counts_shared_networks_once(config: Path) -> None:
    study = studies.load(config)
    rows = {row.row: row for row in study_cost.card(study, budget_s=0.05)}
    assert rows["rating"].trained == 2 * rows["rating"].networks
    assert rows["gs_only"].trained == rows["no_multitude"].trained == 0
    assert rows["christensen"].trained == 2 * 3
    assert study_cost.plan_table(study, tuple(rows.values())).row_count == len(rows) + 1


def test_a_study_that_cannot_be_is_said(tmp_path: Path, config: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text(STUDY.replace('reference = "rating"', 'reference = "nothing"'), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="the rows are rating"):
        studies.load(broken)
    broken.write_text(STUDY.replace("seeds = [1, 2]", "seeds = []"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="seeds"):
        studies.load(broken)
    for change, said in (
        ('rows = ["gs_only", "christensen"]', "primary.rows names rating, nothing"),
        ("smallest = 0.05", "smallest"),
        ("seeds = [1, 2]", "seeds names one twice"),
    ):
        wrong = {"r": 'rows = ["rating", "nothing"]', "s": "smallest = 0"}.get(change[0], "")
        broken = tmp_path / "broken.toml"
        broken.write_text(
            STUDY.replace(change, "seeds = [1, 1]" if "seeds" in change else wrong), encoding="utf-8"
        )
        with pytest.raises(ConfigurationError, match=said):
            studies.load(broken)
    with pytest.raises(ConfigurationError, match="Expected a study"):
        studies.load(tmp_path / "none.toml")
