import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ensemble import temperature
from common.ensemble.committee import Scores, decided
from common.methods.stages import Output, networks
from tests.site_folders import make_settings

SEEDS = st.integers(0, 2**32 - 1)
TEMPERATURES = st.floats(temperature.LEAST, temperature.MOST)


def drawn(seed: int, exams: int, *, sharper: float = 1.0, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn by true probabilities, and probabilities whose logits are so many times as large."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, size=(exams, classes))
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (generator.random((exams, 1)) > truth.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    said = np.exp(sharper * logits) / np.exp(sharper * logits).sum(axis=1, keepdims=True)
    return said.astype(np.float32), labels


def ends(seed: int) -> np.ndarray:
    """Probabilities of two classes, some rounded to 0 and 1, some equal."""
    generator = np.random.default_rng(seed)
    p = generator.beta(0.3, 0.3, size=40).astype(np.float32)
    p[:6] = 0, 1, 0.5, 0.5, 1e-9, 1 - 1e-6
    return np.stack([1 - p, p], axis=1)


@given(SEEDS, TEMPERATURES)
def test_a_temperature_never_turns_a_ranking_round(seed: int, chosen: float) -> None:
    before = ends(seed)
    after = temperature.tempered(before, chosen)
    order = np.argsort(before[:, 1], kind="stable")
    assert (np.diff(after[order, 1]) >= -1e-12).all()
    assert after.sum(axis=1) == pytest.approx(1)
    assert ((after >= 0) & (after <= 1)).all()


@given(SEEDS)
def test_one_leaves_everything_and_back_again_is_where_it_was(seed: int) -> None:
    before = ends(seed)
    np.testing.assert_array_equal(temperature.tempered(before, 1.0), before)
    inside = before[(before > 1e-4).all(axis=1)]
    there = temperature.tempered(inside, 1.7)
    np.testing.assert_allclose(temperature.tempered(there, 1 / 1.7), inside, atol=1e-6)


def test_it_is_the_softmax_of_divided_logits() -> None:
    logits = np.array([[0.0, 2.0], [1.0, -3.0]])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(temperature.tempered(p, 2.0), wanted)


@given(SEEDS, st.integers(1, 60), st.floats(0.2, 5), st.sampled_from([2, 3, 4]))
def test_the_fitted_log_loss_is_never_above_that_of_one(
    seed: int, exams: int, sharper: float, classes: int
) -> None:
    said, labels = drawn(seed, exams, sharper=sharper, classes=classes)
    found = temperature.fit(said, labels)
    assert temperature.LEAST <= found <= temperature.MOST
    fitted, before = (temperature.log_loss(said, labels, t).mean() for t in (found, 1.0))
    assert fitted <= before
    for other in (0.3, 0.8, 1.25, 3.0):
        assert fitted <= temperature.log_loss(said, labels, other).mean() + 1e-6


@pytest.mark.parametrize("known", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found_again(known: float) -> None:
    found = [temperature.fit(*drawn(seed, 4000, sharper=known)) for seed in range(8)]
    assert np.mean(found) == pytest.approx(known, rel=0.03)


def test_the_gain_is_judged_by_patients_that_did_not_choose_it() -> None:
    """Of probabilities that are as they should be a fit seems to gain; on other patients it loses a little."""
    seeming, honest = [], []
    for seed in range(60):
        said, labels = drawn(seed, 40)
        patient = np.arange(40) // 5
        fitted = temperature.fit(said, labels)
        seeming.append(
            (temperature.log_loss(said, labels) - temperature.log_loss(said, labels, fitted)).mean()
        )
        honest.append(temperature.crossed(said, labels, patient).mean())
    assert np.mean(seeming) > 0 > np.mean(honest)
    said, labels = drawn(1, 400, sharper=4)
    assert temperature.crossed(said, labels, np.arange(400) // 10).mean() > 0.1


def test_without_exams_nothing_changes() -> None:
    nothing, nobody = np.empty((0, 2)), np.empty(0, dtype=np.int64)
    assert temperature.fit(nothing, nobody) == 1
    assert not temperature.crossed(nothing, nobody, nobody).size
    said, labels = drawn(3, 5)
    assert (temperature.crossed(said, labels, np.zeros(5, dtype=np.int64)) == 0).all(), (
        "one patient: no other"
    )


@given(SEEDS, TEMPERATURES)
def test_no_grade_depends_on_it_and_what_is_shown_does(seed: int, chosen: float) -> None:
    settings = make_settings(measurements=("vascularity",), text="replicas = 1\n")
    specs = [spec for spec in networks(settings).values() if spec.scoring]
    said = [ends(seed + index) for index in range(len(specs))]

    def scores(at: float) -> Scores:
        return decided(
            [
                Output(spec=spec, probabilities=p, threshold=0.4, temperature=at)
                for spec, p in zip(specs, said, strict=True)
            ],
            settings,
        )

    before, after = scores(1.0), scores(chosen)
    for part in ("votes", "decision", "majority", "weight", "contested", "tie"):
        np.testing.assert_array_equal(getattr(before, part), getattr(after, part))
    for cut in range(3):
        members = [p for spec, p in zip(specs, said, strict=True) if spec.target.threshold == cut]
        wanted = np.mean([temperature.tempered(p, chosen)[:, 1] for p in members], axis=0)
        np.testing.assert_allclose(after.above()["vascularity"][:, cut], wanted)
