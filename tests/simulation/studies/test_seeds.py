"""The same configuration with several seeds: what is refused, what is done once, mean and standard deviation."""

import json
import shutil
import statistics
from pathlib import Path

import pytest

import synofed
from common.errors import CampaignError, ConfigurationError, DataError
from server.report.content import Json
from simulation.engine.progress import Display
from simulation.studies import seeds
from simulation.studies import study as studies
from simulation.studies.study import Study, StudyRun
from tests.simulation.runs.test_simulate import CONFIG
from tests.simulation.studies.test_study import command

PHANTOM = """\
[cohort.phantom]
sites = 2
patients = 24
exams_per_patient = 2
image_px = 64
held_out = 0.5
"""
FAST = [
    *("federation.rounds=1", "evaluate.baselines=false"),
    *("rating.models=1", "rating.pretraining=none", "rating.fusion=joint"),
]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(CONFIG[: CONFIG.index("[cohort]")] + PHANTOM, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,1", "each seed of --seeds once, got 1 again"),
        ("01,1", "got 1 again"),
        ("a", "whole numbers .* got 'a'"),
        ("1,,2", "got ''"),
        ("", "got ''"),
        ("-1,2", "got '-1'"),
        ("1.5,2", "got '1.5'"),
        ("1;2", "got '1;2'"),
        ("1,²", "got '²'"),
        (f"1,{'9' * 5000}", "whole numbers from 0 to"),
        (f"1,{10**19}", f"got '{10**19}'"),
        ("3", "two seeds or more .* --set seed=3"),
    ],
)
def test_careless_seeds_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        seeds.parse(text)


def test_seeds_keep_their_order() -> None:
    assert seeds.parse(" 3, 1,2") == (3, 1, 2)


@pytest.mark.parametrize("override", ["seed=4", " seed = 4"])
def test_a_seed_of_its_own_is_refused(config: Path, override: str) -> None:
    with pytest.raises(ConfigurationError, match="got both"):
        seeds.study(config, (1, 2), overrides=[override], out=None)


def test_runs_differ_in_their_seed_alone_and_lie_beside_single_runs(config: Path) -> None:
    found = seeds.study(config, (1, 2), overrides=["cohort.phantom.seed=9"], out=None)
    assert found.folder == Path("runs/small-seeds")
    assert [run.settings.seed for run in found.runs] == [run.seed for run in found.runs] == [1, 2]
    one, other = (run.settings.model_copy(update={"seed": 0}) for run in found.runs)
    assert one == other
    assert len({run.name for run in found.runs}) == 2


@pytest.mark.parametrize("inside", ["manifest.json", "table.md", "runs/rating-s1-01234567/manifest.json"])
def test_a_folder_of_something_else_is_refused(config: Path, tmp_path: Path, inside: str) -> None:
    out = tmp_path / "taken"
    (out / inside).parent.mkdir(parents=True)
    (out / inside).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"there is .* name another one with --out"):
        seeds.study(config, (1, 2), out=out)
    with pytest.raises(ConfigurationError, match="it is a file"):
        seeds.study(config, (1, 2), out=config)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "1,1"], "each seed"),
        (["--seeds", "1,2", "--set", "seed=3"], "got both"),
        (["--seeds", "1,2", "--out", "."], "there is small.toml in it"),
        (["--seeds", "1,2", "--set", "federation.rounds=0"], "federation.rounds"),
    ],
)
def test_the_command_says_what_is_wrong_before_anything_runs(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    assert command(monkeypatch, "simulate", config, *arguments) == 3
    assert said in capsys.readouterr().err
    assert not (config.parent / "runs").exists()


def _told(folder: Path) -> list[Json]:
    figures: list[Json] = json.loads((folder / seeds.NAME).read_text())["figures"]
    return figures


def with_options(*given: str) -> list[str]:
    return [word for setting in given for word in ("--set", setting)]


@pytest.mark.slow
@pytest.mark.soak
def test_every_seed_has_patients_of_its_own_and_the_summary_is_of_their_metrics(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = with_options(*FAST)
    assert command(monkeypatch, "simulate", config, "--seeds", "1,2", *fast, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    folder = config.parent / "runs" / "small-seeds"
    assert found == json.loads((folder / seeds.NAME).read_text())
    assert found["seeds"] == [1, 2]
    assert found["same_patients"] is False
    metrics = [json.loads(path.read_text()) for path in sorted(folder.glob("runs/s*/metrics.json"))]
    figures = {(f["what"], f["score"], f["metric"]): f for f in found["figures"]}
    for score in ("hypertrophy", "vascularity", "combined"):
        for metric in ("accuracy", "kappa_linear"):
            figure = figures["seen", score, metric]
            values = [m["seen"][score][metric]["value"] for m in metrics]
            assert list(figure["values"].values()) == values
            assert figure["mean"] == pytest.approx(statistics.fmean(values))
            assert figure["sd"] == pytest.approx(statistics.stdev(values))
    sites = [json.loads(path.read_text())["fingerprints"] for path in folder.glob("runs/s*/manifest.json")]
    assert sites[0] != sites[1]

    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/s*/metrics.json")}
    assert command(monkeypatch, "simulate", config, "--seeds", "2,1,3", *fast) == 0
    said = capsys.readouterr().out
    assert said.count("done before") == 2, "a seed that was done is not done again"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "mean ± SD over seeds" in said
    figure = {(f["what"], f["score"], f["metric"]): f for f in _told(folder)}["seen", "combined", "accuracy"]
    assert f"{100 * figure['mean']:.1f} ± {100 * figure['sd']:.1f} (" in said
    assert "Each seed drew patients" in said

    assert (
        command(monkeypatch, "simulate", config, "--seeds", "1,2", *fast, "--set", "evaluate.bootstrap=900")
        == 3
    )
    assert "was done with another [evaluate]" in capsys.readouterr().err

    def fail(study: Study, run: StudyRun, *, display: Display) -> Path:
        if run.seed == 4:
            raise CampaignError("Expected replies of 2 sites, got 1")
        return study.run_folder(run)

    monkeypatch.setattr(studies, "run_one", fail)
    assert command(monkeypatch, "simulate", config, "--seeds", "1,4", *fast, "--json") == 7
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert "seed 4: Expected replies of 2 sites, got 1" in shown.err
    assert (told["seeds"], told["missing"]) == ([1], [4])
    assert told["figures"][0]["sd"] is None, "one seed has none"
    assert json.loads(json.dumps(synofed.simulate_seeds(config, (1, 4), overrides=FAST))) == told
    with pytest.raises(ConfigurationError, match="got 1 again"):
        synofed.simulate_seeds(config, (1, 1))


def test_where_every_seed_fails_it_is_said_why(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(study: Study, run: StudyRun, *, display: Display) -> Path:
        raise DataError(f"Expected exams of both classes for {run.name}")

    monkeypatch.setattr(studies, "run_one", fail)
    assert command(monkeypatch, "simulate", config, "--seeds", "1,2", "--json") == 4
    assert "Expected exams of both classes for s1-" in capsys.readouterr().err


def written(config: Path, accuracies: dict[int, float | None], fingerprints: dict[int, str]) -> Study:
    """A study whose runs are done, of which only the accuracy counts."""
    found = seeds.study(config, tuple(accuracies), out=None)
    for run in found.runs:
        folder = found.run_folder(run)
        folder.mkdir(parents=True)
        block = {"combined": {"accuracy": {"value": accuracies[run.seed]}, "kappa_linear": {"value": 0.5}}}
        own = {"combined": {"accuracy": {"gain": {"value": -0.01}, "gain_personal": {"value": 0.02}}}}
        metrics = {
            "grades": {"combined": 4},
            "seen": block,
            "unseen": None,
            "own_patients": {"mean": {"combined": {**own["combined"], "kappa_linear": {}}}},
            "differences": {"centralised_minus_federated": {"models": 1, **block}},
        }
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        manifest = {"status": "COMPLETE_ALL_SITES", "fingerprints": {"north": fingerprints[run.seed]}}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return found


def test_mean_and_deviation_of_known_values(config: Path) -> None:
    found = written(config, {1: 0.6, 2: 0.7, 3: 0.8}, {1: "a", 2: "b", 3: "c"})
    told = seeds.summary(found)
    figures = {(f.what, f.metric): f for f in told.figures}
    assert figures["seen", "accuracy"].mean == pytest.approx(0.7)
    assert figures["seen", "accuracy"].sd == pytest.approx(0.1)
    assert figures["gain", "accuracy"].values == {1: -0.01, 2: -0.01, 3: -0.01}
    assert figures["gain_personal", "accuracy"].sd == 0
    assert figures["centralised_minus_federated", "kappa_linear"].mean == 0.5
    assert "unseen" not in {what for what, _ in figures}
    assert not told.same_patients


def test_what_cannot_be_computed_is_left_out_and_the_same_patients_are_noticed(config: Path) -> None:
    told = seeds.summary(written(config, {1: None, 2: 0.7}, {1: "a", 2: "a"}))
    (accuracy,) = [f for f in told.figures if (f.what, f.metric) == ("seen", "accuracy")]
    assert accuracy.values == {2: 0.7}
    json.dumps(seeds.as_json(told), allow_nan=False)
    assert told.same_patients


def test_without_a_finished_run_there_is_nothing_to_say(config: Path) -> None:
    found = written(config, {1: 0.6, 2: 0.7}, {1: "a", 2: "b"})
    shutil.rmtree(found.folder / "runs")
    with pytest.raises(DataError, match="there is none"):
        seeds.summary(found)
