"""What a reader study says of the ensemble, agreement, other readers, habits and times."""

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import typer
from scipy.stats import wilcoxon
from sklearn.metrics import accuracy_score, cohen_kappa_score
from typer.testing import CliRunner

from common.errors import DataError
from simulation.cli.readers_cli import readers
from simulation.phantom.readers import draw_ordinary_readers, draw_severity, read_alone
from simulation.readers import readers as scored
from simulation.readers.readers import measure
from simulation.readers.readings import read

ROOM = [
    "exam_id", "patient_id", "site", "reader", "session", "condition", "hypertrophy", "vascularity", "seconds",
    "hidden_seconds", "order", "ensemble_hypertrophy", "ensemble_vascularity", "truth_hypertrophy",
    "truth_vascularity",
]  # fmt: skip
"""The columns that a reading room writes."""
CONDITIONS = {"without": 0.4, "with": 0.8}
"""Of reading, and how often readers are right."""
PATIENTS, JOINTS = 7, 4


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of the draws is no matter of their number."""
    monkeypatch.setattr(scored, "REPLICATES", 200)


def room(*, seed: int = 0, count: int = 3, sessions: int = 1) -> pd.DataFrame:
    """A reading room's table; assistance makes reading right more often and a fifth faster."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(PATIENTS), JOINTS)
    draw = np.random.default_rng(1)
    hypertrophy = draw.integers(0, 4, len(patient))
    truth = hypertrophy, np.where(hypertrophy > 0, draw.integers(0, 4, len(patient)), 0)
    wrong = np.where(hypertrophy == 1, 2, 1)
    answer = np.where(np.arange(len(patient)) % 8 == 0, wrong, hypertrophy)
    parts = []
    for session in range(1, sessions + 1):
        for reader in range(count):
            for condition, right in CONDITIONS.items():
                keep = rng.random(len(patient)) < right
                parts.append(
                    pd.DataFrame(
                        {
                            "exam_id": [f"e{i}" for i in range(len(patient))],
                            "patient_id": [f"p{i}" for i in patient],
                            "site": "north",
                            "reader": f"r{reader + 1}",
                            "session": session,
                            "condition": condition,
                            "hypertrophy": np.where(keep, truth[0], rng.integers(1, 4, len(patient))),
                            "vascularity": np.where(keep, truth[1], rng.integers(0, 4, len(patient))),
                            "seconds": np.exp(rng.normal(3, 0.1, len(patient)))
                            * (0.8 if condition == "with" else 1),
                            "hidden_seconds": 5.0 * (np.arange(len(patient)) == 0),
                            "order": np.arange(len(patient)),
                            "ensemble_hypertrophy": answer,
                            "ensemble_vascularity": truth[1],
                            "truth_hypertrophy": truth[0],
                            "truth_vascularity": truth[1],
                        }
                    )
                )
    table = pd.concat(parts, ignore_index=True)
    assert list(table) == ROOM
    return table


def write(path: Path, table: pd.DataFrame) -> Path:
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What the command prints."""
    app = typer.Typer()
    app.command()(readers)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    return call


def found(
    table: pd.DataFrame, path: Path, measurement: str = "combined"
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Findings as a frame, and what could not be computed."""
    measured = measure(read(write(path, table)), seed=0).measurements[measurement]
    return pd.DataFrame([asdict(one) for one in measured.findings]), dict(measured.refused)


def one(frame: pd.DataFrame, **wanted: object) -> pd.Series:
    use = np.all([frame[name] == value for name, value in wanted.items()], axis=0)
    assert use.sum() == 1, (wanted, use.sum())
    return frame[use].iloc[0]


def test_the_ensemble_stands_beside_the_readers(tmp_path: Path) -> None:
    table = room()
    frame, _ = found(table, tmp_path / "s.csv", "hypertrophy")
    exams = table.drop_duplicates("exam_id")
    own = one(frame, part="ensemble", metric="accuracy")
    assert own["exams"] == PATIENTS * JOINTS
    assert own["value"] == accuracy_score(exams["truth_hypertrophy"], exams["ensemble_hypertrophy"])
    assert own["low"] < own["value"] < own["high"]
    kappa = cohen_kappa_score(exams["truth_hypertrophy"], exams["ensemble_hypertrophy"], weights="linear")
    assert one(frame, part="ensemble", metric="kappa_linear")["value"] == pytest.approx(kappa)
    against = frame[frame["part"] == "against_ensemble"]
    assert len(against) == 2 * 2 * (3 + 1), "two metrics, two conditions, readers and average"
    for reader, rows in table.groupby("reader"):
        alone = rows[rows["condition"] == "without"]
        expected = accuracy_score(alone["truth_hypertrophy"], alone["hypertrophy"]) - own["value"]
        row = one(against, metric="accuracy", reader=reader, condition="without")
        assert row["value"] == pytest.approx(expected)
        assert row["p"] <= row["p_holm"] <= 1
    assert one(against, metric="accuracy", reader="average", condition="without")["high"] < 0


@pytest.mark.soak
def test_an_ensemble_that_is_told_in_part_counts_where_it_is_told(tmp_path: Path) -> None:
    table = room()
    columns = ["ensemble_hypertrophy", "ensemble_vascularity"]
    table[columns] = table[columns].astype("Int64")
    table.loc[table["condition"] == "without", columns] = pd.NA  # who reads alone does not see it
    table.loc[table["exam_id"] == "e3", columns] = pd.NA
    frame, _ = found(table, tmp_path / "s.csv")
    assert set(frame[frame["part"] == "ensemble"]["exams"]) == {PATIENTS * JOINTS - 1}
    assert (
        one(frame, part="against_ensemble", metric="accuracy", reader="r1", condition="without")["exams"]
        == PATIENTS * JOINTS - 1
    )
    none, _ = found(table.drop(columns=columns), tmp_path / "none.csv")
    assert not none["part"].isin(["ensemble", "against_ensemble"]).any()
    half = table.drop(columns="ensemble_vascularity")
    with pytest.raises(DataError, match="ensemble_combined or ensemble_hypertrophy and ensemble_vascularity"):
        read(write(tmp_path / "half.csv", half))
    table.loc[table.index[-1], "ensemble_hypertrophy"] = 0
    with pytest.raises(DataError, match="ensemble_hypertrophy is '0', expected"):
        read(write(tmp_path / "two.csv", table))
    with pytest.raises(DataError, match="reader is 'ensemble', expected a person; its grades are columns"):
        read(write(tmp_path / "person.csv", room().replace({"reader": {"r1": "ensemble"}})))


def test_kappa_between_readers_is_that_of_each_pair(tmp_path: Path) -> None:
    table = room()
    table = table[~((table["reader"] == "r2") & (table["exam_id"] == "e5"))]
    frame, _ = found(table, tmp_path / "s.csv", "vascularity")
    for condition in CONDITIONS:
        wide = table[table["condition"] == condition].pivot(
            index="exam_id", columns="reader", values="vascularity"
        )
        expected = []
        for first, second in combinations(wide, 2):
            both = wide[[first, second]].dropna()
            expected.append(cohen_kappa_score(both[first], both[second], weights="linear"))
            row = one(frame, part="between_readers", reader=first, other=second, condition=condition)
            assert row["value"] == pytest.approx(expected[-1])
            assert row["exams"] == len(both)
        mean = one(frame, part="between_readers", reader="average", condition=condition)
        assert mean["value"] == pytest.approx(np.mean(expected))
        assert mean["low"] < mean["value"] < mean["high"]
    assert one(frame, part="between_readers", condition="difference")["low"] > 0, "who is right agrees"


@pytest.mark.soak
def test_a_second_session_is_for_kappa_within_alone(tmp_path: Path, command: Callable[..., str]) -> None:
    table = room(sessions=2)
    mine = table[(table["session"] == 1) | ((table["reader"] == "r1") & (table["condition"] == "without"))]
    shuffled = mine.sample(frac=1, random_state=0)  # the column says the order, not the place
    both = measure(read(write(tmp_path / "s.csv", shuffled)), seed=0).measurements["hypertrophy"]
    frame = pd.DataFrame([asdict(one) for one in both.findings])
    reading = mine[(mine["reader"] == "r1") & (mine["condition"] == "without")]
    wide = reading.pivot(index="exam_id", columns="session", values="hypertrophy")
    row = one(frame, part="within_readers", reader="r1", condition="without")
    assert row["value"] == pytest.approx(cohen_kappa_score(wide[1], wide[2], weights="linear"))
    assert one(frame, part="within_readers", reader="average", condition="without")["value"] == row["value"]
    assert set(frame[frame["part"] == "within_readers"]["condition"]) == {"without"}
    first = measure(read(write(tmp_path / "1.csv", mine[mine["session"] == 1])), seed=0).measurements[
        "hypertrophy"
    ]
    assert first.rows == both.rows, "all else is of the first session"
    shown = " ".join(command(tmp_path / "s.csv").split())
    assert "Sessions: the first in which a reader graded an exam counts" in shown
    assert "kappa within" in shown


def test_sessions_are_ordered_by_number_or_as_dates(tmp_path: Path) -> None:
    table = room(count=1, sessions=2)
    for first, second in ((9, 10), ("2026-01-09", "2026-01-10"), ("", 1)):
        renamed = table.assign(session=table["session"].map({1: first, 2: second})).iloc[::-1]
        grades = read(write(tmp_path / "s.csv", renamed)).table["hypertrophy"]
        expected = table[table["session"] == 1]["hypertrophy"].iloc[::-1]
        assert grades[: len(expected)].tolist() == expected.tolist()
    twice = pd.concat([table, table.iloc[:1]])
    with pytest.raises(DataError, match="line 114: exam_id, reader, condition, session are those of line 2"):
        read(write(tmp_path / "twice.csv", twice))


def test_a_grade_that_the_first_session_lacks_is_taken_from_the_second(tmp_path: Path) -> None:
    table = room(sessions=2)
    columns = ["hypertrophy", "vascularity"]
    table[columns] = table[columns].astype("Int64")
    table.loc[(table["session"] == 1) & (table["exam_id"] == "e7"), columns] = pd.NA
    measured = measure(read(write(tmp_path / "s.csv", table)), seed=0).measurements["combined"]
    assert measured.exams == (PATIENTS * JOINTS,) * 3


def test_times_are_medians_and_ratios_by_patient(tmp_path: Path, command: Callable[..., str]) -> None:
    table = room()
    got = json.loads(command(write(tmp_path / "s.csv", table), "--json"))
    times = pd.DataFrame(got["times"])
    for (reader, condition), rows in table.groupby(["reader", "condition"]):
        row = one(times, metric="seconds_median", reader=reader, condition=condition)
        quartiles = rows["seconds"].quantile([0.5, 0.25, 0.75])
        assert [row["value"], row["low"], row["high"]] == pytest.approx(quartiles.tolist())
        hidden = one(times, metric="hidden_share", reader=reader, condition=condition)
        assert hidden["value"] == pytest.approx(5 / (5 + rows["seconds"].sum()))
    wide = table.pivot(index=["reader", "patient_id", "exam_id"], columns="condition", values="seconds")
    logs = np.log(wide["with"] / wide["without"])
    for reader, mine in (("average", logs), ("r2", logs.loc["r2"])):
        means = mine.groupby("patient_id").mean()
        row = one(times, metric="seconds_ratio", reader=reader)
        assert row["value"] == pytest.approx(np.exp(means.mean()))
        assert row["p"] == pytest.approx(wilcoxon(means).pvalue)
        assert 0.7 < row["low"] < row["value"] < row["high"] < 0.95
    shown = " ".join(command(tmp_path / "s.csv").split())
    assert "Seconds per reading" in shown
    assert "Hidden pages, without: 0.9 % of the time" in shown
    for wrong in ("0", "-3", "x", "inf"):
        bad = table.assign(seconds=table["seconds"].astype(object))
        bad.loc[0, "seconds"] = wrong
        with pytest.raises(
            DataError, match=f"line 2: seconds is '{wrong}', expected a number above 0 or nothing"
        ):
            read(write(tmp_path / "bad.csv", bad))


def test_other_readers_are_told_on_the_exams_that_all_graded(tmp_path: Path) -> None:
    table = room()
    table = table[~((table["reader"] == "r3") & (table["exam_id"].isin(["e5", "e6"])))]
    frame, refused = found(table, tmp_path / "s.csv")
    assert refused == {}
    crossed = frame[frame["part"] == "obuchowski_rockette"]
    assert set(crossed["metric"]) == {
        "accuracy", "kappa_linear", "youden_0|123", "youden_01|23", "youden_012|3", "auc_0|123", "auc_01|23",
        "auc_012|3",
    }  # fmt: skip
    assert set(crossed["exams"]) == {PATIENTS * JOINTS - 2}
    use = table[~table["exam_id"].isin(["e5", "e6"])]
    right = use[["hypertrophy", "vascularity"]].max(axis=1) == use[
        ["truth_hypertrophy", "truth_vascularity"]
    ].max(axis=1)
    means = right.groupby([use["condition"], use["reader"]]).mean().groupby("condition").mean()
    for kind in ("readers_random", "readers_fixed"):
        row = one(crossed, metric="accuracy", reader=kind, condition="difference")
        assert row["value"] == pytest.approx(means["with"] - means["without"])
        assert row["low"] < row["value"] < row["high"]
        assert 0 < row["p"] < 0.3
        assert one(crossed, metric="accuracy", reader=kind, condition="with")["value"] == pytest.approx(
            means["with"]
        )
    assert set(frame[frame["part"] == "variance_components"]["other"]) == {
        "reader", "interaction", "error", "cov1", "cov2", "cov3",
    }  # fmt: skip


def test_what_cannot_be_told_is_refused_with_its_reason(tmp_path: Path, command: Callable[..., str]) -> None:
    frame, refused = found(room(count=1), tmp_path / "one.csv")
    assert set(refused) == {"obuchowski_rockette", "severity"}
    assert "Expected two readers or more" in refused["obuchowski_rockette"]
    assert not frame["part"].isin(["between_readers", "obuchowski_rockette", "severity"]).any()
    shown = " ".join(command(tmp_path / "one.csv").split())
    assert "Not computed, combined, over readers and patients: Expected two readers or more" in shown
    assert "Not computed, combined, habits: Expected 3 readers or more" in shown
    frame, refused = found(room(count=2), tmp_path / "two.csv")
    assert set(refused) == {"severity"}
    # Readers of different exams have nothing in common.
    table = room(count=2)
    apart = table[(table["reader"] == "r1") == (table["exam_id"].str[1:].astype(int) < 12)]
    frame, refused = found(apart, tmp_path / "apart.csv")
    assert "got 2 and 0 exams of 0" in refused["obuchowski_rockette"]
    assert not (frame["part"] == "between_readers").any()


def test_one_condition_has_means_but_no_difference(tmp_path: Path, command: Callable[..., str]) -> None:
    table = room()
    table = table[table["condition"] == "without"]
    frame, refused = found(table, tmp_path / "s.csv")
    assert refused == {}
    assert set(frame["condition"]) == {"", "without"}
    assert set(frame[frame["part"] == "variance_components"]["other"]) == {"error", "cov2"}
    out = tmp_path / "out"
    shown = command(tmp_path / "s.csv", "--out", out)
    assert "over readers and patients, without" in " ".join(shown.split())
    assert not (out / "reader_gain.svg").exists()


def test_habits_of_simulated_readers_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    patient = np.repeat(np.arange(60), 6)
    hypertrophy = rng.integers(0, 4, len(patient))
    vascularity = np.where(hypertrophy > 0, rng.integers(0, 4, len(patient)), 0)
    people = draw_ordinary_readers(rng, count=6, prefix="x")
    h, v = read_alone(rng, people, draw_severity(rng, hypertrophy, vascularity))
    table = pd.concat(
        pd.DataFrame(
            {
                "exam_id": np.arange(len(patient)), "patient_id": patient, "reader": person.name,
                "condition": "without", "hypertrophy": h[i], "vascularity": v[i], "truth_hypertrophy": hypertrophy,
                "truth_vascularity": vascularity,
            }
        )
        for i, person in enumerate(people)
    )  # fmt: skip
    # No reference is needed: most exams have none.
    table[["truth_hypertrophy", "truth_vascularity"]] = (
        table[["truth_hypertrophy", "truth_vascularity"]].astype("Int64").where(table["exam_id"] < 30)
    )
    for measurement in ("hypertrophy", "vascularity"):
        frame, _ = found(table, tmp_path / "s.csv", measurement)
        habits = frame[frame["metric"] == "habit"].set_index("reader")
        true = pd.Series({one.name: getattr(one, f"{measurement}_bias") for one in people})
        estimated = habits["value"][true.index]
        assert np.corrcoef(estimated, true)[0, 1] > 0.85
        assert np.abs(estimated - (true - true.mean())).max() < 0.45
        assert set(habits["exams"]) == {len(patient)}


@pytest.mark.soak
@pytest.mark.ci
def test_files_and_json_say_the_same(tmp_path: Path, command: Callable[..., str]) -> None:
    path, out = write(tmp_path / "s.csv", room(sessions=2)), tmp_path / "out"
    got = json.loads(command(path, "--json"))
    shown = command(path, "--out", out)
    assert "…" not in shown
    for title in (
        "readers minus ensemble",
        "over readers and patients, with - without",
        "habit and noise in grades",
    ):
        assert f"combined: readers, {title}" in shown or f"combined: {title}" in shown
    assert got["session"] == "first"
    written = pd.read_csv(out / "reader_findings.csv", keep_default_na=False)
    counts = written["measurement"].value_counts()
    for name, block in got["measurements"].items():
        assert counts[name] == len(block["findings"])
        assert block["not_computed"] == {}
    assert counts[""] == len(got["times"])
    assert set(written["kind"]) == {"readers"}
    accuracy = pd.read_csv(out / "reader_accuracy.csv")
    assert set(accuracy["reader"]) == {"average", "r1", "r2", "r3", "ensemble"}
    gain = pd.read_csv(out / "reader_gain.csv")
    assert gain["row"].tolist()[:5] == [
        f"hypertrophy: {who}" for who in ("r1", "r2", "r3", "these readers", "other readers")
    ]
    for chart in ("reader_accuracy", "reader_gain"):
        assert ElementTree.parse(out / f"{chart}.svg").getroot().tag.endswith("svg")
    assert "ensemble" in (out / "reader_accuracy.svg").read_text()
