"""Against whom an epsilon holds where sites share out the noise of their sums."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigurationError
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.privacy.planning import notice
from common.privacy.planning.onlookers import onlookers
from common.settings import Settings, parse
from tests.site_folders import make_settings

STEPS = PrivateSteps(sample_rate=1.0, noise_multiplier=10.78, count=60)
DELTA = 1e-5
PRIVATE = """[privacy]
noise_multiplier = 10.78
patients = 90
[federation]
rounds = 60
[federation.secure]
sites = 5
survivors = {survivors}
colluders = {colluders}
"""


def configured(*, survivors: int, colluders: int, past: bool = False) -> Settings:
    text = PRIVATE.format(survivors=survivors, colluders=colluders)
    head = 'name = "test"\nmethod = "probe"\nvalidity = "eoss"\n[images.gs]\nkind = "grey"\n'
    for name in ("hypertrophy", "vascularity"):
        head += f'[measurements.{name}]\ngrades = 4\nimages = ["gs"]\n'
    return parse(head + '[network]\nweights = "imagenet"\n' + text, past=past)


@pytest.mark.parametrize(("survivors", "fellow"), [(2, 4.46), (3, 3.78), (5, 3.40)])
def test_without_colluders_a_fellow_site_sees_less_noise_than_is_booked(
    survivors: int, fellow: float
) -> None:
    found = onlookers([STEPS], survivors=survivors, colluders=0, delta=DELTA)
    assert found.centre == pytest.approx(epsilon([STEPS], delta=DELTA))
    assert found.centre == pytest.approx(2.997, abs=5e-4)
    assert found.fellow == pytest.approx(fellow, abs=5e-3)
    assert found.outsider == pytest.approx(found.centre)


@given(survivors=st.integers(3, 9), colluders=st.integers(1, 7), count=st.integers(1, 200))
def test_with_colluders_no_fellow_site_and_no_outsider_sees_less_than_is_booked(
    survivors: int, colluders: int, count: int
) -> None:
    colluders = min(colluders, survivors - 2)
    steps = PrivateSteps(sample_rate=1.0, noise_multiplier=9.0, count=count)
    found = onlookers([steps], survivors=survivors, colluders=colluders, delta=DELTA)
    assert found.outsider < found.fellow <= found.centre * (1 + 1e-9)
    assert (colluders == 1) == (found.fellow == pytest.approx(found.centre, rel=1e-9))
    assert (
        f"{found.centre:.3f}; against another site that takes part, by itself: {found.fellow:.3f}"
        in found.sentence
    )


@pytest.mark.parametrize("survivors", [3, 4, 5])
def test_noise_that_is_shared_out_asks_for_a_colluder(survivors: int) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"colluders = 1 and survivors to 3 or more: that takes three sites, and four",
    ):
        configured(survivors=survivors, colluders=0)
    if survivors > 3:
        assert not configured(survivors=survivors, colluders=1).overstated


def test_a_plan_of_before_is_read_with_both_figures() -> None:
    old = configured(survivors=3, colluders=0, past=True)
    assert "2.997 is 4.46" in old.overstated
    said = notice.sentence(old)
    assert "works with no site: epsilon 2.997; against another site that takes part, by itself: 3.778" in said


def test_plans_without_noise_are_as_they_were() -> None:
    """Their default, and so their hash."""
    settings = make_settings(text="[federation.secure]\nsites = 3\nsurvivors = 2\n")
    assert settings.federation.secure is not None
    assert settings.federation.secure.colluders == 0
    assert not settings.overstated
