"""What the centre says of tables that sites told: where probabilities hold, and where sets of grades do not."""

import numpy as np
import pytest

from common.evaluation.inside import site_tables
from common.evaluation.inside.site_tables import Judged, SiteTables
from server.report import inside, inside_tables
from server.report.content import Json

GRADES = 4


def told(site: str, device: str, *, known: bool, patients: int = 60, seed: int = 1) -> SiteTables:
    """A site whose ensemble is sure of two grades of three; on a machine that it does not know, of any grade."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 4)
    reference = rng.integers(0, GRADES, len(patient))
    sure = rng.random(len(patient)) < 2 / 3
    guess = np.where(sure if known else False, reference, rng.integers(0, GRADES, len(patient)))
    chance = np.full((len(patient), GRADES), 0.25)
    chance[sure] = 0.02
    chance[np.arange(len(patient)), guess] = np.where(sure, 0.94, 0.25)
    above = 1 - np.cumsum(chance, axis=1)[:, :-1]
    exams = Judged(
        reference=reference,
        decision=guess,
        patient=patient,
        contested=np.zeros(len(patient), dtype=bool),
        calibrates=patient % 2 == 0,
        above=above,
    )
    table = site_tables.table(exams, score="hypertrophy", device=device, grades=GRADES)
    return SiteTables(site=site, minimum_cohort=5, tables=(table,), suppressed=0)


@pytest.fixture(scope="module")
def judged() -> Json:
    """North and south trained; east has a machine that neither has, and judges."""
    found = {
        "north": told("north", "A", known=True),
        "south": told("south", "B", known=True, seed=2),
        "east": told("east", "C", known=False, seed=3),
    }
    return inside.block(found, {}, trained=frozenset(("north", "south")))


def test_where_sets_fail_on_a_machine_that_nobody_trained_on_it_is_said(judged: Json) -> None:
    said = inside_tables.promises(judged, {})
    (failing,) = [sentence for sentence in said if "fails" in sentence]
    assert failing.startswith("Hypertrophy: on east (trained nothing), C the promise of 90 % fails: ")
    coverage = judged["sets"]["hypertrophy"]["sites"]["east"]["common"]["coverage"]
    assert f"fails: {100 * coverage:.1f} %" in failing


def test_what_is_left_where_the_doubtful_third_goes_to_a_reader(judged: Json) -> None:
    sets = judged["sets"]["hypertrophy"]
    pooled, stranger = sets["pooled"]["common"], sets["sites"]["east"]["common"]
    assert pooled["surest"] > pooled["right"] + 0.15
    assert stranger["surest"] < 0.4, "sure of what it does not know"
    _, rows = inside_tables.sets_table(judged, {})
    for place, cells in rows:
        block = stranger if "east" in place else None
        if block is not None:
            assert (f"{100 * block['surest']:.1f} %", f"{100 * block['right']:.1f} % of all") in cells
    earlier = {name: value for name, value in pooled.items() if name not in ("right", "surest")}
    assert ("n/a", "") in dict(inside_tables.sets_table(judged, {"hypertrophy": earlier})[1])[
        "Hypertrophy\nNever trained on"
    ]


def test_machines_that_were_not_trained_on_are_not_in_what_is_said_of_all(judged: Json) -> None:
    assert judged["strangers"] == ["east"]
    assert judged["pooled"]["hypertrophy"]["exams"] == 480
    for cut in judged["pooled"]["hypertrophy"]["cuts"]:
        assert cut["exams"] == 480
    pooled, stranger = (
        [cut["brier"] for cut in entry["hypertrophy"]["cuts"]]
        for entry in (judged["pooled"], judged["sites"]["east"])
    )
    assert max(pooled) < min(stranger)


def test_an_interval_ends_where_nothing_can_be() -> None:
    """Of so few patients it would reach beyond all or none of them being right."""
    found = {"north": told("north", "A", known=True, patients=5)}
    entry = inside.block(found, {}, trained=frozenset(found))["pooled"]["hypertrophy"]
    for metric in ("accuracy", "kappa_linear"):
        low, high = entry[metric]["ci95"]
        assert -1 <= low <= entry[metric]["value"] <= high <= 1


def test_sites_that_keep_their_histograms_hide_no_others(judged: Json) -> None:
    open_, closed = told("north", "A", known=True), told("south", "B", known=True)
    table = closed.tables[0].model_copy(update={"histograms": (), "conformity": None})
    found = {"north": open_, "south": closed.model_copy(update={"tables": (table,)})}
    entry = inside.block(found, {}, trained=frozenset(found))["pooled"]["hypertrophy"]
    assert (entry["exams"], [cut["exams"] for cut in entry["cuts"]]) == (480, [240, 240, 240])


def test_campaigns_beside_each_other_are_the_matrix_of_sites() -> None:
    """Trained at one site each, judged at both: the row is where it was trained, the column where it is judged."""
    names = ("north", "south")
    campaigns = {
        f"at-{trained}": inside.block(
            {
                name: told(name, device, known=name == trained)
                for name, device in zip(names, "AB", strict=True)
            },
            {},
            trained=frozenset((trained,)),
        )
        for trained in names
    }
    assert inside_tables.scores(campaigns) == ["hypertrophy"]
    header, rows = inside_tables.matrix(campaigns, "hypertrophy")
    assert header == ("Trained at", "north, A", "south, B")
    assert [label for label, _ in rows] == ["north\nat-north", "south\nat-south"]
    shown = np.array([[float(value.removesuffix(" %")) for value, _ in cells] for _, cells in rows])
    assert (np.diag(shown) > np.diag(np.fliplr(shown)) + 20).all()
    assert [["trained there" in small for _, small in cells] for _, cells in rows] == np.eye(
        2, dtype=bool
    ).tolist()
