import csv
import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import typer
from scipy.stats import spearmanr, wilcoxon
from sklearn.metrics import accuracy_score, cohen_kappa_score
from typer.testing import CliRunner

import synofed
from common.errors import DataError
from common.evaluation.intraclass import raters_icc
from simulation.cli.readers_cli import readers
from simulation.phantom.devices import FITTED
from simulation.phantom.patients import make_patient
from simulation.phantom.readers import draw_ordinary_readers, draw_severity, read_alone, read_assisted
from simulation.phantom.severity import draw_patient
from simulation.readers import readers as scored
from simulation.readers.readers import measure
from simulation.readers.readings import PAIR, read
from simulation.readers.simulated_readers import readings as simulated_readings

METRICS = {"accuracy", "kappa_linear", "youden_0|123", "youden_01|23", "youden_012|3", "spearman", "icc"}


def patients(seed: int, *, count: int, joints: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patient of each exam, true hypertrophy and vascularity: the phantom's mix, without pictures."""
    rng = np.random.default_rng(seed)
    drawn = [draw_patient(rng, joints=joints).grades for _ in range(count)]
    hypertrophy, vascularity = (np.concatenate([grades[i] for grades in drawn]) for i in range(2))
    return np.repeat(np.arange(count), joints), hypertrophy, vascularity


def ensemble(rng: np.random.Generator, truth: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Answers of which 86 % are right, the rest one grade of hypertrophy off."""
    right = rng.random(len(truth[0])) < 0.86
    hypertrophy = np.where(right, truth[0], np.where(truth[0] > 1, truth[0] - 1, truth[0] + 1))
    return hypertrophy, np.where(right, truth[1], np.minimum(truth[1], hypertrophy))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run's folder, as far as simulated readers look at it."""
    patient, *truth = patients(2, count=8)
    answers = ensemble(np.random.default_rng(0), tuple(truth))
    columns: dict[str, object] = {
        "exam_id": [f"e{i}" for i in range(len(patient))],
        "patient_id": [f"p{i}" for i in patient],
        "site": np.where(patient % 2 == 0, "site-a", "site-b"),
        "trained_site": patient % 6 != 5,
    }
    for name, grades, answer in zip(PAIR, truth, answers, strict=True):
        columns |= {f"truth_{name}": grades, f"decision_{name}": answer}
    folder = tmp_path / "run"
    folder.mkdir()
    pd.DataFrame(columns).to_parquet(folder / "predictions.parquet")
    return folder


def study(
    *, seed: int = 0, right: tuple[float, float] = (0.4, 0.7), count: int = 2, cases: int = 8
) -> list[dict[str, object]]:
    """Rows of a table of readings: pairs that are right with a given chance in each condition; of a few patients."""
    rng = np.random.default_rng(seed)
    patient, hypertrophy, vascularity = patients(1, count=cases, joints=4)
    rows = []
    for reader in range(count):
        for condition, chance in zip(("without", "with"), right, strict=True):
            keep = rng.random(len(patient)) < chance
            h = np.where(keep, hypertrophy, rng.integers(1, 4, len(patient)))
            v = np.where(keep, vascularity, rng.integers(0, 4, len(patient)))
            rows += [
                {
                    "exam_id": f"e{i}", "patient_id": f"p{patient[i]}", "reader": f"r{reader + 1}",
                    "condition": condition, "hypertrophy": h[i], "vascularity": v[i],
                    "truth_hypertrophy": hypertrophy[i], "truth_vascularity": vascularity[i],
                }
                for i in range(len(patient))
            ]  # fmt: skip
    return rows


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


Command = Callable[..., str]


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of the draws is no matter of their number."""
    monkeypatch.setattr(scored, "REPLICATES", 200)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in an application of its own; what it prints."""
    app = typer.Typer()
    app.command()(readers)
    # As wide as a terminal is by default.
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output if result.exit_code == 0 else f"exit code {result.exit_code}"

    return call


@pytest.mark.soak
def test_trained_readers_agree_as_published() -> None:
    made = [
        make_patient(seed, f"site-{number}", index, device, exams=8, roi_px=64)
        for seed in (3, 5, 8)
        for number, device in enumerate(FITTED)
        for index in range(16)
    ]
    # Kappa of trained readers on an atlas; linear weights are our reading, the source does not name them.
    for name, published in (("hypertrophy", 0.87), ("vascularity", 0.79)):
        grades = np.concatenate([getattr(patient, name) for patient in made], axis=1)
        kappas = [
            cohen_kappa_score(grades[a], grades[b], weights="linear") for a, b in combinations(range(3), 2)
        ]
        assert np.mean(kappas) == pytest.approx(published, abs=0.03)


def test_ordinary_readers_are_as_often_right_as_ratings_alone_and_assisted() -> None:
    rng = np.random.default_rng(0)
    _, *truth = patients(0, count=250)
    severity, people = draw_severity(rng, *truth), draw_ordinary_readers(rng, count=100, prefix="x")
    answers = ensemble(rng, tuple(truth))
    combined = np.maximum(*truth)
    assert (np.maximum(*answers) == combined).mean() == pytest.approx(0.861, abs=0.02)
    for (h, v), published in (
        (read_alone(rng, people, severity), 0.414),
        (read_assisted(rng, people, severity, answers=answers), 0.640),
    ):
        assert not ((h == 0) & (v > 0)).any()
        each = (np.maximum(h, v) == combined).mean(axis=1)
        assert each.mean() == pytest.approx(published, abs=0.02)
        assert 0.01 < each.std() < 0.06


def test_who_always_follows_gives_the_ensembles_answers() -> None:
    rng = np.random.default_rng(0)
    _, *truth = patients(0, count=5)
    severity, people = draw_severity(rng, *truth), draw_ordinary_readers(rng, count=2, prefix="x")
    answers = ensemble(rng, tuple(truth))
    assert (read_assisted(rng, people, severity, answers=answers, following=1.0)[0] == answers[0]).all()
    never = read_assisted(rng, people, severity, answers=answers, following=0.0)[0]
    assert (never != answers[0]).any()


def test_severity_is_drawn_within_the_grade() -> None:
    _, *truth = patients(0, count=50)
    got = draw_severity(np.random.default_rng(0), *truth).grades
    assert all((grades == known).all() for grades, known in zip(got, truth, strict=True))


def test_figures_are_those_of_the_table(tmp_path: Path, command: Command) -> None:
    rows = study(right=(0.3, 0.9), cases=10)
    got = json.loads(command(write(tmp_path / "study.csv", rows), "--json"))
    assert json.loads(json.dumps(synofed.readers(tmp_path / "study.csv"))) == got
    assert (got["kind"], got["notice"], got["unit"]) == ("readers", [], "patient")
    assert set(got["measurements"]) == {"hypertrophy", "vascularity", "combined"}
    frame = pd.DataFrame(rows)
    frame["combined"] = frame[list(PAIR)].max(axis=1)
    frame["truth_combined"] = frame[["truth_hypertrophy", "truth_vascularity"]].max(axis=1)
    for name, block in got["measurements"].items():
        assert block["patients"] == 10
        assert block["exams"] == {"r1": 40, "r2": 40}
        for reader, metrics in block["readers"].items():
            assert set(metrics) == METRICS
            for condition in ("without", "with"):
                use = frame[(frame["reader"] == reader) & (frame["condition"] == condition)]
                truth, graded = use[f"truth_{name}"], use[name]
                assert metrics["accuracy"][condition]["value"] == accuracy_score(truth, graded)
                expected = cohen_kappa_score(truth, graded, weights="linear")
                assert metrics["kappa_linear"][condition]["value"] == pytest.approx(expected)
                correlation = spearmanr(truth, graded).statistic
                assert metrics["spearman"][condition]["value"] == pytest.approx(correlation)
            assert "p_signed_rank" not in metrics["kappa_linear"]["difference"]
            difference = metrics["accuracy"]["difference"]
            assert difference["p"] <= difference["p_holm"]
        average = block["average"]["accuracy"]
        low, high = average["difference"]["ci95"]
        assert 0 < low < average["difference"]["value"] < high
        assert average["difference"]["p"] < 0.02
        values = [block["readers"][reader]["accuracy"]["with"]["value"] for reader in ("r1", "r2")]
        assert average["with"]["value"] == pytest.approx(np.mean(values))
        gain = gained(frame, name)
        assert average["difference"]["p_signed_rank"] == pytest.approx(wilcoxon(gain).pvalue)


def gained(frame: pd.DataFrame, name: str) -> np.ndarray:
    """By how much the share of right readings of each patient is larger with assistance."""
    right = (frame[name] == frame[f"truth_{name}"]).groupby([frame["patient_id"], frame["condition"]]).mean()
    return np.asarray((right.unstack()["with"] - right.unstack()["without"]).round(12))


def test_readers_agree_among_each_other_on_the_exams_that_all_graded(
    tmp_path: Path, command: Command
) -> None:
    rows = [row for row in study(count=3) if (row["exam_id"], row["reader"]) != ("e4", "r2")]
    path = write(tmp_path / "study.csv", rows)
    among = json.loads(command(path, "--json"))["measurements"]["hypertrophy"]["among_readers"]
    assert among["exams"] == 31
    frame = pd.DataFrame(rows)
    for condition in ("without", "with"):
        use = frame[(frame["condition"] == condition) & (frame["exam_id"] != "e4")]
        table = use.pivot(index="exam_id", columns="reader", values="hypertrophy").to_numpy()
        expected = raters_icc(table, np.arange(31), np.zeros((0, 31), dtype=np.int64)).value
        assert among["icc"][condition]["value"] == pytest.approx(expected)
        low, high = among["icc"][condition]["ci95"]
        assert low < expected < high
    assert among["icc"]["with"]["value"] > among["icc"]["without"]["value"], "those who are right agree"
    shown = command(path, "--out", tmp_path / "out")
    assert "on 31 exams that all graded" in " ".join(shown.split())
    written = pd.read_csv(tmp_path / "out" / "reader_study.csv")
    row = written[(written["metric"] == "icc_among_readers") & (written["measurement"] == "hypertrophy")]
    assert row["with_value"].item() == pytest.approx(among["icc"]["with"]["value"])
    assert row["exams"].item() == 3 * 31
    # One reader has nobody to agree with.
    one = json.loads(command(write(tmp_path / "one.csv", study(count=1)), "--json"))
    assert one["measurements"]["hypertrophy"]["among_readers"] == {"exams": 0, "icc": {}}


def test_terminal_and_files(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    shown = command(write(tmp_path / "study.csv", study()), "--out", out)
    for expected in (
        "combined: readers, without → with assistance",
        "combined: average of readers",
        "Scored, combined: 8 patients, 32 exams per reader",
        "1000 bootstrap draws of patients",
    ):
        assert expected in shown
    assert "…" not in shown
    assert "imulated" not in shown
    with (out / "reader_study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (len(METRICS) * 3 + 1)
    assert {row["reader"] for row in rows} == {"average", "r1", "r2", "among each other"}
    assert all(float(row["with_low"]) <= float(row["with_value"]) <= float(row["with_high"]) for row in rows)
    assert ElementTree.parse(out / "reader_accuracy.svg").getroot().tag.endswith("svg")
    assert len((out / "reader_accuracy.csv").read_text().splitlines()) == 1 + 3 * 3
    again = (out / "reader_study.csv").read_bytes(), (out / "reader_accuracy.svg").read_bytes()
    command(tmp_path / "study.csv", "--out", out)
    assert ((out / "reader_study.csv").read_bytes(), (out / "reader_accuracy.svg").read_bytes()) == again


@pytest.mark.soak
def test_combined_scores_with_the_reference_in_a_table_of_its_own(tmp_path: Path, command: Command) -> None:
    rows = study()
    truths = {
        row["exam_id"]: {k: v for k, v in row.items() if k.startswith(("exam", "truth"))} for row in rows
    }
    readings = [
        {key: row[key] for key in ("exam_id", "reader", "condition")}
        | {"combined": max(int(str(row[name])) for name in PAIR)}
        for row in rows
    ]
    whole = json.loads(command(write(tmp_path / "whole.csv", rows), "--json"))
    table = write(tmp_path / "readings.csv", readings)
    truth = write(tmp_path / "truth.csv", list(truths.values()))
    got = json.loads(command(table, "--truth", truth, "--json"))
    assert list(got["measurements"]) == ["combined"]
    one, other = (r["measurements"]["combined"]["readers"]["r1"]["accuracy"]["with"] for r in (got, whole))
    assert one["value"] == other["value"]
    # Without patients the exams are the units, and that is said.
    assert got["unit"] == "exam"
    assert got["measurements"]["combined"]["patients"] == 32
    assert "exams were taken for independent" in " ".join(command(table, "--truth", truth).split())
    # Patients may be named beside the reference.
    patient = {row["exam_id"]: row["patient_id"] for row in rows}
    named = [truth | {"patient_id": patient[exam]} for exam, truth in truths.items()]
    got = json.loads(command(table, "--truth", write(tmp_path / "truth.csv", named), "--json"))
    assert (got["unit"], got["measurements"]["combined"]["patients"]) == ("patient", 8)


def test_what_cannot_be_scored_is_listed_and_left_out(tmp_path: Path, command: Command) -> None:
    rows = study()
    rows[0] |= {"hypertrophy": 0, "vascularity": 2}  # line 2: e0 without, so e0 is not a pair for r1
    removed = next(i for i, row in enumerate(rows) if (row["exam_id"], row["reader"]) == ("e7", "r2"))
    del rows[removed]  # r2 read e7 with assistance only
    for row in rows:
        if row["exam_id"] == "e9":
            row |= {"truth_hypertrophy": None, "truth_vascularity": None}
        if row["exam_id"] == "e11":
            row |= {"truth_hypertrophy": 0, "truth_vascularity": 1}
    path = write(tmp_path / "study.csv", rows)
    path.write_text(path.read_text().replace(".0", ""))  # what pandas makes of whole numbers with gaps
    got = json.loads(command(path, "--json"))
    assert got["left_out"]["impossible"] == [
        "line 2: hypertrophy 0 with vascularity 2",
        "exam e11: truth_hypertrophy 0 with truth_vascularity 1",
    ]
    assert got["left_out"]["without_reference"] == ["e9", "e11"]
    assert got["left_out"]["one_condition_only"]["combined"] == {"r1": ["e0"], "r2": ["e7"]}
    assert got["measurements"]["combined"]["exams"] == {"r1": 29, "r2": 29}
    shown = command(path)
    for expected in ("Left out, cannot be: line 2", "no reference: e9, e11", "one condition only by r2: e7"):
        assert expected in shown


def test_a_grade_that_was_not_given_leaves_the_other_measurement(tmp_path: Path) -> None:
    rows = study()
    for row in rows:
        if row["exam_id"] == "e3":
            row["vascularity"] = ""
    found = measure(read(write(tmp_path / "study.csv", rows)), seed=0).measurements
    assert found["hypertrophy"].exams == (32, 32)
    assert found["vascularity"].exams == found["combined"].exams == (31, 31)


def test_one_condition_is_scored_without_a_test(tmp_path: Path, command: Command) -> None:
    rows = [row for row in study() if row["condition"] == "without"]
    path = write(tmp_path / "study.csv", rows)
    got = json.loads(command(path, "--json", "--out", tmp_path / "out"))
    assert got["conditions"] == ["without"]
    assert set(got["measurements"]["combined"]["average"]["accuracy"]) == {"without"}
    shown = command(path)
    assert "combined: readers, without assistance" in shown
    assert "Holm" not in shown
    assert ",,,," in (tmp_path / "out" / "reader_study.csv").read_text()


def test_all_bad_rows_are_listed_at_once(tmp_path: Path) -> None:
    rows = study()[:8]
    rows[0]["hypertrophy"] = 4
    rows[1]["condition"] = "helped"
    rows[2]["reader"] = ""
    rows[3] = dict(rows[4])
    rows[5]["truth_vascularity"] = "x"
    rows[6]["patient_id"] = ""
    rows[7] |= {"exam_id": "e4", "patient_id": "p9", "condition": "with"}
    with pytest.raises(DataError) as raised:
        read(write(tmp_path / "study.csv", rows))
    for expected in (
        "line 2: hypertrophy is '4', expected 0..3 or nothing",
        "line 3: condition is 'helped', expected without or with",
        "line 4: reader is empty",
        "line 6: exam_id, reader, condition are those of line 5",
        "line 7: truth_vascularity is 'x', expected 0..3",
        "line 8: patient_id is empty",
        "line 9: patient_id is 'p9', expected 'p1'",
    ):
        assert expected in str(raised.value)


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rows = study()
    both = write(tmp_path / "both.csv", [row | {"combined": 1} for row in rows])
    with pytest.raises(
        DataError, match=r"either the column combined or hypertrophy and vascularity.*got both"
    ):
        read(both)
    without = write(
        tmp_path / "no.csv", [{k: v for k, v in r.items() if not k.startswith("truth")} for r in rows]
    )
    with pytest.raises(DataError, match="either the column truth_combined"):
        read(without)
    truth = write(tmp_path / "truth.csv", [{"exam_id": f"e{i}", "truth_combined": 1} for i in range(31)])
    with pytest.raises(DataError, match="exam_id is 'e31', expected an exam of the reference's table"):
        read(without, truth=truth)
    for row in rows:
        row["condition"] = "with" if str(row["exam_id"]) < "e3" else "without"
    with pytest.raises(DataError, match="graded in every condition"):
        measure(read(write(tmp_path / "unpaired.csv", rows[:32])), seed=0)


@pytest.mark.soak
@pytest.mark.ci
def test_simulated_readers_are_called_so_everywhere(run: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    shown = command("--simulate", run, "--out", out, "--seed", 3)
    titles = [line for line in shown.splitlines() if "→ with assistance" in line or "average of" in line]
    assert len(titles) == 6
    assert all("simulated readers" in title for title in titles)
    assert "assistance is an assumption" in " ".join(shown.split())
    for name in ("simulated_readings", "reader_study", "reader_accuracy", "reader_findings", "reader_gain"):
        with (out / f"{name}.csv").open(newline="") as file:
            assert {row["kind"] for row in csv.DictReader(file)} == {"simulated readers"}
    assert "Simulated readers" in (out / "reader_accuracy.svg").read_text()
    assert "simulated readers" in (out / "reader_gain.svg").read_text()
    found = pd.read_csv(out / "reader_findings.csv")
    (right,) = found[(found["part"] == "ensemble") & (found["metric"] == "accuracy")].groupby("reader")[
        "value"
    ]
    assert right[0] == "ensemble"
    assert right[1].between(0.7, 1).all(), "the run's ensemble stands beside them"
    # The table alone is enough to know them by, even without that column.
    table = pd.read_csv(out / "simulated_readings.csv").drop(columns="kind")
    table.to_csv(tmp_path / "bare.csv", index=False)
    got = json.loads(command(tmp_path / "bare.csv", "--json"))
    assert got["kind"] == "simulated readers"
    assert "Simulated readers" in got["notice"][0]
    assert "assumption, not a finding" in got["notice"][1]
    mixed = table.assign(reader=table["reader"].where(table["reader"] != "simulated-1", "r1"))
    mixed.to_csv(tmp_path / "mixed.csv", index=False)
    assert read(tmp_path / "mixed.csv").kind == "readers and simulated readers"


def test_simulated_readers_read_held_out_exams_of_sites_that_trained(run: Path) -> None:
    predictions = pd.read_parquet(run / "predictions.parquet")
    seen = predictions[predictions["trained_site"]]
    table = simulated_readings(run, seed=1, count=4)
    assert len(table) == 4 * 2 * len(seen)
    assert set(table["exam_id"]) == set(seen["site"] + "/" + seen["exam_id"])
    assert table["reader"].nunique() == 4
    pd.testing.assert_frame_equal(table, simulated_readings(run, seed=1, count=4))
    assert not table.equals(simulated_readings(run, seed=2, count=4))


def test_a_run_without_phantoms_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"predictions at .*elsewhere"):
        simulated_readings(tmp_path / "elsewhere", seed=0)
    table = pd.read_parquet(run / "predictions.parquet")
    table.drop(columns="truth_vascularity").to_parquet(run / "predictions.parquet")
    with pytest.raises(DataError, match="no truth_vascularity"):
        simulated_readings(run, seed=0)
    table.assign(trained_site=False).to_parquet(run / "predictions.parquet")
    with pytest.raises(DataError, match="got none of 64"):
        simulated_readings(run, seed=0)


def test_usage_errors(run: Path, tmp_path: Path, command: Command) -> None:
    path = write(tmp_path / "study.csv", study())
    assert command() == "exit code 2"
    assert command("--simulate", run) == "exit code 2"
    assert command(path, "--simulate", run, "--out", tmp_path / "out") == "exit code 2"
    assert command("--out", tmp_path / "out") == "exit code 2"
    assert not (tmp_path / "out").exists()


def rewritten(rows: list[dict[str, object]], **form: str) -> list[dict[str, object]]:
    return [{name: form.get(name, "{}").format(value) for name, value in row.items()} for row in rows]


def test_whole_numbers_with_a_point_are_grades(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"exam_id": f"e{i}", "patient_id": f"p{i}", "reader": "a", "condition": "without", "combined": i % 4}
        | {"truth_combined": i % 3}
        for i in range(8)
    ]
    plain = read(write(tmp_path / "plain.csv", rows)).table
    points = rewritten(rows, combined="{}.0", truth_combined="{}.0")
    points[0]["truth_combined"] = "0"  # the same as 0.0 in another row of the exam
    points.append(points[0] | {"reader": "b", "truth_combined": "0.0"})
    found = read(write(tmp_path / "points.csv", points)).table
    np.testing.assert_equal(
        {name: values[:8].tolist() for name, values in found.items()},
        {name: values.tolist() for name, values in plain.items()},
    )


def test_exams_of_two_sites_with_the_same_ids_are_two(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"site": site, "exam_id": f"{i}", "patient_id": f"{i}", "reader": "a", "condition": "without"}
        | {"combined": 1, "truth_combined": truth}
        for site, truth in (("north", 1), ("south", 2))
        for i in range(3)
    ]
    found = read(write(tmp_path / "r.csv", rows)).table
    assert len(set(found["exam_id"])) == len(set(found["patient"])) == 6
    assert found["truth_combined"].tolist() == [1, 1, 1, 2, 2, 2]
    truth = [{k: v for k, v in row.items() if k in ("exam_id", "truth_combined")} for row in rows[:3]]
    bare = [{k: v for k, v in row.items() if k != "truth_combined"} for row in rows]
    with pytest.raises(DataError, match="missing: site"):
        read(write(tmp_path / "bare.csv", bare), truth=write(tmp_path / "t.csv", truth))
