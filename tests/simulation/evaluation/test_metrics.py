import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr, wilcoxon
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, roc_auc_score

from common.errors import DataError
from common.evaluation.intraclass import raters_icc
from common.sections.measurements import MeasurementSettings
from common.settings import Settings, parse
from server.report.content import Json
from simulation.evaluation.metrics import metrics

RATING = parse(
    """
    name = "test"
    validity = "eoss"
    [images.gs]
    kind = "grey"
    [images.doppler]
    kind = "doppler"
    [measurements.hypertrophy]
    images = ["gs", "doppler"]
    [measurements.vascularity]
    images = ["doppler"]
    [evaluate]
    bootstrap = 200
    """
)
LIVER = parse(
    """
    name = "liver"
    [images.gs]
    kind = "grey"
    [measurements.steatosis]
    grades = 3
    images = ["gs"]
    [evaluate]
    bootstrap = 100
    """
)
SITES = {"site-a": ("ge", True), "site-b": ("mindray", True), "site-c": ("samsung", False)}


def pairs(generator: np.random.Generator, exams: int) -> tuple[np.ndarray, np.ndarray]:
    h = generator.integers(0, 4, size=exams)
    return h, np.where(h > 0, generator.integers(0, 4, size=exams), 0)


def noisy(
    generator: np.random.Generator, h: np.ndarray, v: np.ndarray, right: float
) -> tuple[np.ndarray, np.ndarray]:
    other = pairs(generator, len(h))
    keep = generator.random(len(h)) < right
    return np.where(keep, h, other[0]), np.where(keep, v, other[1])


def frame(
    *, right: float = 0.8, seed: int = 0, patients: int = 12, exams: int = 5, models: int = 1
) -> pd.DataFrame:
    """A table of predictions; the exams and their truth do not depend on ``seed``, ``right`` and ``models``."""
    base, generator = np.random.default_rng(99), np.random.default_rng(seed)
    parts = []
    for site, (device, trained) in SITES.items():
        n = patients * exams
        h, v = pairs(base, n)
        columns = {
            "exam_id": [f"e{i}" for i in range(n)],
            "patient_id": np.repeat([f"p{i}" for i in range(patients)], exams),
            "site": site,
            "device": device,
            "trained_site": trained,
            "contested": np.arange(n) % 10 == 0,
            "tie": np.arange(n) % 4 == 0,
            "weight": 2,
            "runner_up_weight": np.where(np.arange(n) % 8 == 0, 2, 1),
            "commonest_hypertrophy": 2,
            "commonest_vascularity": 0,
            "commonest_combined": 3,
            "colour_vascularity": np.minimum(v + (np.arange(n) % 7 == 0), 3),
        }
        for prefix, chance in (
            ("truth", 1.0),
            ("label", 0.9),
            ("reader_r1", 0.7),
            ("reader_r2", 0.6),
            ("decision", right),
        ):
            columns[f"{prefix}_hypertrophy"], columns[f"{prefix}_vascularity"] = noisy(
                generator, h, v, chance
            )
        columns["majority_hypertrophy"] = np.where(np.arange(n) == 3, 0, columns["decision_hypertrophy"])
        columns["majority_vascularity"] = np.where(np.arange(n) == 3, 2, columns["decision_vascularity"])
        for name, grades in (("hypertrophy", h), ("vascularity", v)):
            columns |= {
                f"vote_{name}_{model}": columns[f"{'majority' if model else 'decision'}_{name}"]
                for model in range(models)
            }
            for cut in range(3):
                for replica in "ab":
                    p = np.clip(generator.normal(0.35 + 0.3 * (grades > cut), 0.2), 0, 1)
                    columns[f"p:rating/fold0/{name}/gt{cut}/{replica}"] = p
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def others() -> dict[str, pd.DataFrame]:
    """Systems of one scoring model each; the federation is cut down to as many."""
    return {
        "centralised": frame(right=0.85, seed=1),
        "alone:site-a": frame(right=0.4, seed=2),
        "alone:site-b": frame(right=0.9, seed=3),
        "federated": frame(right=0.6, seed=4),
    }


@pytest.fixture(scope="module")
def result() -> Json:
    return metrics(
        frame(models=2), settings=RATING, baselines=others(), cuts={"vascularity": [1.5]}, generator_seed=7
    )


def combined(table: pd.DataFrame, source: str) -> pd.Series:
    return table[[f"{source}_hypertrophy", f"{source}_vascularity"]].max(axis=1)


def share_right(table: pd.DataFrame, source: str = "decision", site: str | None = None) -> float:
    """Of combined scores, on the exams of a site, or of all that trained."""
    part = table[table["trained_site"]] if site is None else table[table["site"] == site]
    return float((combined(part, source) == combined(part, "truth")).mean())


def test_headline_is_the_held_out_exams_of_training_sites(result: Json) -> None:
    seen = frame().query("trained_site")
    truth = seen[["truth_hypertrophy", "truth_vascularity"]].max(axis=1)
    answer = seen[["decision_hypertrophy", "decision_vascularity"]].max(axis=1)
    combined = result["combined"]
    assert result["reference"] == "truth"
    assert result["exams"] == combined["exams"] == 120
    assert result["patients"] == 24
    assert combined["accuracy"]["value"] == pytest.approx((truth == answer).mean())
    for weights in ("linear", "quadratic"):
        expected = cohen_kappa_score(truth, answer, weights=weights)
        assert combined[f"kappa_{weights}"]["value"] == pytest.approx(expected)
    assert combined["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(truth, answer))
    assert combined["spearman"]["value"] == pytest.approx(spearmanr(truth, answer).statistic)
    both = np.stack([truth, answer], axis=1)
    icc = raters_icc(both, np.arange(120), np.zeros((0, 120), dtype=np.int64)).value
    assert combined["icc"]["value"] == pytest.approx(icc)
    assert combined["icc"]["ci95"][0] < icc < combined["icc"]["ci95"][1]
    assert np.sum(combined["confusion"]) == 120
    low, high = combined["accuracy"]["ci95"]
    assert low < combined["accuracy"]["value"] < high


def test_sites_devices_and_pools(result: Json) -> None:
    assert set(result["sites"]) == set(SITES)
    assert set(result["devices"]) == {"ge", "mindray", "samsung"}
    assert result["sites"]["site-a"]["exams"] == 60
    assert result["unseen"]["exams"] == 60
    assert result["unseen"]["trained"] is False
    assert result["seen"]["combined"] == result["combined"]
    assert result["unseen"]["combined"] == result["devices"]["samsung"]["combined"]


def test_patients_of_two_sites_with_one_name_are_two_patients(result: Json) -> None:
    assert result["patients"] == sum(result["sites"][site]["patients"] for site in ("site-a", "site-b"))


def test_auc_is_the_mean_over_the_tasks_networks(result: Json) -> None:
    seen = frame().query("trained_site")
    task = result["binary"]["vascularity"]["gt1"]
    expected = [
        roc_auc_score(seen["truth_vascularity"] > 1, seen[f"p:rating/fold0/vascularity/gt1/{r}"])
        for r in "ab"
    ]
    assert task["networks"] == 2
    assert task["auc"]["value"] == pytest.approx(np.mean(expected))
    assert task["auc"]["ci95"][0] < task["auc"]["value"] < task["auc"]["ci95"][1]
    assert set(task["decision"]) == {"sensitivity", "specificity", "youden"}


def test_each_grade_against_the_rest_by_the_networks_probabilities() -> None:
    table = frame()
    generator = np.random.default_rng(0)
    severity = table["truth_hypertrophy"] + generator.normal(0, 1, len(table))
    for cut in range(3):
        table[f"p:rating/fold0/hypertrophy/gt{cut}/a"] = 1 / (1 + np.exp(cut + 0.5 - severity))
    table = table[[c for c in table if not str(c).startswith("p:") or str(c).endswith("/a")]]
    scored: Json = metrics(table, settings=RATING)
    found = scored["one_vs_rest"]
    seen = table.query("trained_site")
    above = [seen[f"p:rating/fold0/hypertrophy/gt{cut}/a"] for cut in range(3)]
    scores = np.stack([1 - above[0], above[0] - above[1], above[1] - above[2], above[2]], axis=1)
    truth = seen["truth_hypertrophy"]
    for name, average in (("mean", "macro"), ("prevalence_weighted", "weighted")):
        expected = roc_auc_score(truth, scores, multi_class="ovr", average=average)
        assert found["hypertrophy"][name]["value"] == pytest.approx(expected)
        assert found["hypertrophy"][name]["ci95"][0] < expected < found["hypertrophy"][name]["ci95"][1]
    assert len(found["hypertrophy"]["grades"]) == 4
    assert "combined" not in found, "no network says it"


def test_invalid_pairs_and_contested(result: Json) -> None:
    assert result["invalid_pairs"] == 0
    assert result["baselines"]["majority"]["invalid_pairs"] == 2
    assert result["contested"] == pytest.approx(0.1)


def test_how_often_a_single_model_votes_what_cannot_be(result: Json) -> None:
    seen = frame(models=2).query("trained_site")
    one = (seen["vote_hypertrophy_1"] == 0) & (seen["vote_vascularity_1"] > 0)
    assert one.any()
    assert result["impossible_votes"] == pytest.approx(one.mean() / 2)
    table = frame().query("trained_site").drop(columns=["vote_hypertrophy_0", "vote_vascularity_0"])
    scores: Json = metrics(table, settings=RATING, baselines={}, cuts={}, generator_seed=7)
    assert scores["impossible_votes"] is None


def test_baselines_and_their_means(result: Json) -> None:
    baselines = result["baselines"]
    assert set(baselines) == {
        "centralised", "federated", "alone", "alone_mean", "majority", "readers", "commonest", "counted_colour"
    }  # fmt: skip
    each = [baselines["alone"][site]["combined"]["accuracy"]["value"] for site in ("site-a", "site-b")]
    assert baselines["alone_mean"]["combined"]["accuracy"]["value"] == pytest.approx(np.mean(each))
    assert baselines["alone"]["site-a"]["own"]["exams"] == 60
    assert set(baselines["readers"]) == {"r1", "r2", "mean"}
    assert "unseen" in baselines["centralised"]
    assert "unseen" in baselines["alone_mean"]


def test_differences_are_paired(result: Json) -> None:
    difference = result["differences"]["federated_minus_majority"]["combined"]["accuracy"]
    assert difference["value"] == pytest.approx(share_right(frame()) - share_right(frame(), "majority"))
    assert -0.1 <= difference["ci95"][0] <= difference["value"] <= difference["ci95"][1] <= 0.1
    seen = frame().query("trained_site")
    truth = combined(seen, "truth")
    right = [combined(seen, source) == truth for source in ("decision", "majority")]
    by_patient = (right[0].astype(int) - right[1]).groupby([seen["site"], seen["patient_id"]]).mean()
    expected = wilcoxon(by_patient[by_patient != 0]).pvalue
    assert result["differences"]["federated_minus_majority"]["combined"]["p_signed_rank"] == expected


def test_trained_systems_are_compared_with_as_many_models_on_both_sides(result: Json) -> None:
    """The run has two models, the others one: the federation that is compared is the one that was cut down."""
    each = {name: share_right(table) for name, table in others().items()}
    alone = (each["alone:site-a"] + each["alone:site-b"]) / 2
    expected = {
        "federated_minus_alone_mean": each["federated"] - alone,
        "centralised_minus_federated": each["centralised"] - each["federated"],
    }
    for name, value in expected.items():
        assert result["differences"][name]["combined"]["accuracy"]["value"] == pytest.approx(value)
        assert result["differences"][name]["models"] == 1
    assert result["baselines"]["federated"]["combined"]["accuracy"]["value"] == pytest.approx(
        each["federated"]
    )
    assert result["models"] == 2
    assert result["differences"]["federated_minus_majority"]["models"] == 2
    for name in ("federated", "centralised", "alone_mean"):
        assert result["baselines"][name]["models"] == 1


def test_systems_with_other_numbers_of_models_are_not_compared() -> None:
    tables = others()
    del tables["federated"]
    with pytest.raises(DataError, match=r"as many scoring models .* federated 2, centralised 1"):
        metrics(frame(models=2), settings=RATING, baselines=tables)


def test_with_as_many_models_the_run_itself_is_compared() -> None:
    tables = others()
    del tables["federated"]
    result: Json = metrics(frame(), settings=RATING, baselines=tables)
    assert result["baselines"]["federated"]["combined"] == result["combined"]
    difference = result["differences"]["centralised_minus_federated"]
    expected = share_right(tables["centralised"]) - share_right(frame())
    assert difference["combined"]["accuracy"]["value"] == pytest.approx(expected)


def test_own_patients_are_each_sites_own(result: Json) -> None:
    own, tables = result["own_patients"], others()
    gains = {}
    for site in ("site-a", "site-b"):
        block = own["sites"][site]["combined"]["accuracy"]
        alone, federated = (share_right(tables[n], site=site) for n in (f"alone:{site}", "federated"))
        gains[site] = federated - alone
        assert block["alone"]["value"] == pytest.approx(alone)
        assert block["federated"]["value"] == pytest.approx(federated)
        assert block["gain"]["value"] == pytest.approx(gains[site])
        assert block["gain"]["ci95"][0] < gains[site] < block["gain"]["ci95"][1]
        assert (own["sites"][site]["exams"], own["sites"][site]["patients"]) == (60, 12)
    mean = own["mean"]["combined"]["accuracy"]
    assert mean["gain"]["value"] == pytest.approx(sum(gains.values()) / 2)
    assert (mean["sites"], mean["losing"]) == (2, sum(gain < 0 for gain in gains.values()))
    assert gains["site-b"] < 0 < gains["site-a"]
    assert own["models"] == 1
    assert set(own["sites"]) == {"site-a", "site-b"}  # nobody trained alone at the third


def test_trained_at_one_site_and_judged_at_every_other(result: Json) -> None:
    matrix = result["cross_site"]["scores"]["combined"]
    assert list(matrix) == ["federated", "alone:site-a", "alone:site-b", "centralised"]
    for system, table in others().items():
        for site in table["site"].unique():  # the one never trained on, too
            assert matrix[system][site]["accuracy"] == pytest.approx(share_right(table, site=site))


@pytest.mark.soak
def test_no_system_of_a_sites_own_no_own_patients() -> None:
    assert metrics(frame(), settings=RATING)["own_patients"] is None
    pooled = metrics(frame(), settings=RATING, baselines={"centralised": frame(right=0.9)})
    assert pooled["own_patients"] is None


def test_trivial_answers_stand_beside_the_run(result: Json) -> None:
    seen = frame().query("trained_site")
    baselines = result["baselines"]
    commonest = baselines["commonest"]
    assert commonest["combined"]["accuracy"]["value"] == pytest.approx((combined(seen, "truth") == 3).mean())
    assert commonest["hypertrophy"]["kappa_linear"]["value"] == pytest.approx(0)
    colour = baselines["counted_colour"]
    right = (seen["colour_vascularity"] == seen["truth_vascularity"]).mean()
    assert colour["vascularity"]["accuracy"]["value"] == pytest.approx(right)
    assert colour["cuts_px"] == {"vascularity": [1.5]}
    assert "unseen" in colour
    assert set(colour) & {"hypertrophy", "combined"} == set()  # no colour is counted for them
    difference = result["differences"]["federated_minus_counted_colour"]
    own = (seen["decision_vascularity"] == seen["truth_vascularity"]).mean()
    assert difference["vascularity"]["accuracy"]["value"] == pytest.approx(own - right)
    assert "combined" not in difference


def test_ties_and_how_many_are_right(result: Json) -> None:
    tied = frame().query("trained_site and tie")
    ties = result["ties"]
    assert (ties["exams"], ties["share"]) == (len(tied), pytest.approx(0.25))
    assert ties["combined"]["accuracy"]["value"] == pytest.approx(share_right(tied))
    assert result["sites"]["site-a"]["ties"]["exams"] == 15
    assert ties["equal_weights"] == (tied["runner_up_weight"] == 2).sum() == 16


def test_errors_of_two_grades_are_counted_and_named(result: Json) -> None:
    seen = frame().query("trained_site").reset_index(drop=True)
    far = [
        (abs(row.truth_hypertrophy - row.decision_hypertrophy), row.site, row.exam_id)
        for row in seen.itertuples()
        if abs(row.truth_hypertrophy - row.decision_hypertrophy) >= 2
    ]
    found = result["far_off"]["hypertrophy"]
    assert found["exams"] == len(far) > 0
    assert found["share"] == pytest.approx(len(far) / 120)
    named = [(abs(e["reference"] - e["decision"]), e["site"], e["exam_id"]) for e in found["examples"]]
    assert set(named) <= set(far)
    assert len(set(named)) == min(len(far), 20)
    assert [distance for distance, _, _ in named] == sorted((d for d, _, _ in far), reverse=True)[:20]


def test_the_same_table_gives_the_same_json() -> None:
    one, two = (json.dumps(metrics(frame(), settings=RATING, generator_seed=3)) for _ in range(2))
    assert one == two


def test_without_truth_the_consensus_is_the_reference() -> None:
    table = frame().drop(columns=["truth_hypertrophy", "truth_vascularity"])
    got: Json = metrics(table, settings=RATING)
    assert got["reference"] == "consensus"
    assert "against_consensus" not in got
    assert "readers" not in got["baselines"]
    full: Json = metrics(frame(), settings=RATING)
    assert got["combined"] == full["against_consensus"]["combined"]


def test_one_measurement_of_three_grades_with_gaps() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, size=40)
    table = pd.DataFrame(
        {
            "exam_id": range(40),
            "patient_id": np.arange(40) // 4,
            "site": "one",
            "device": "x",
            "trained_site": True,
            "label_steatosis": np.where(np.arange(40) < 5, np.nan, truth),
            "decision_steatosis": truth,
        }
    )
    got: Json = metrics(table, settings=LIVER)
    assert got["steatosis"]["exams"] == 35
    assert got["steatosis"]["accuracy"] == {"value": 1.0, "ci95": [1.0, 1.0]}
    assert got["unseen"] is None
    assert got["binary"]["steatosis"]["gt1"]["auc"] is None
    assert "combined" not in got
    json.dumps(got, allow_nan=False)


def test_a_site_without_graded_exams_gives_null_not_nan() -> None:
    table = frame()
    table.loc[table["site"] == "site-b", ["truth_hypertrophy", "truth_vascularity"]] = -1
    got: Json = metrics(table, settings=RATING)
    assert got["sites"]["site-b"]["combined"]["accuracy"] == {"value": None, "ci95": [None, None]}
    json.dumps(got, allow_nan=False)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match=r"\['label_vascularity'\] are missing"):
        metrics(frame().drop(columns="label_vascularity"), settings=RATING)
    with pytest.raises(DataError, match=r"decision_<score>"):
        metrics(frame().drop(columns=["decision_hypertrophy", "decision_vascularity"]), settings=RATING)


def test_a_method_with_one_score_of_its_own_is_measured_on_that_score() -> None:
    table = frame()
    combined = np.maximum(table["decision_hypertrophy"], table["decision_vascularity"])
    single = table.drop(columns=["decision_hypertrophy", "decision_vascularity"])
    result: Json = metrics(single.assign(decision_combined=combined), settings=RATING)
    assert list(result["grades"]) == ["combined"]
    assert result["combined"] == metrics(table, settings=RATING)["combined"]


def test_a_baseline_on_other_exams_is_refused() -> None:
    with pytest.raises(DataError, match=r"baseline 'centralised'.* 1 of them are missing"):
        metrics(frame(), settings=RATING, baselines={"centralised": frame().iloc[1:]})


def test_measurements_of_any_name() -> None:
    settings = Settings(
        name="one", images=LIVER.images, measurements={"a": MeasurementSettings(grades=2, images=("gs",))}
    )
    table = pd.DataFrame(
        {
            "exam_id": [0, 1], "patient_id": [0, 1], "site": "s", "device": "d", "trained_site": True,
            "label_a": [0, 1], "decision_a": [0, 0],
        }
    )  # fmt: skip
    got: Json = metrics(table, settings=settings)
    assert got["a"]["confusion"] == [[1, 0], [1, 0]]


def test_readers_stand_beside_what_they_read_though_something_else_is_read_by_nobody() -> None:
    table = frame()
    unread = [column for column in table if column.startswith("reader_") and column.endswith("_vascularity")]
    settings = RATING.model_copy(update={"validity": "any"})
    got: Json = metrics(table.drop(columns=unread), settings=settings)
    assert set(got["baselines"]["readers"]) == {"r1", "r2", "mean"}
    assert set(got["baselines"]["readers"]["mean"]) == set(got["baselines"]["readers"]["r1"]) - {
        "invalid_pairs",
        "unseen",
    }
    assert set(got["differences"]["federated_minus_readers_mean"]) == {"models", "hypertrophy"}
