"""Single exams of a table: they add up to it, and their order is given from outside."""

import numpy as np
import pytest
from pydantic import ValidationError

from common.evaluation.inside import cases, site_tables
from common.evaluation.inside.cases import Cases
from common.evaluation.inside.site_tables import Judged, SiteTables, Table


def judged(*, order: bool, above: bool = True) -> Judged:
    rng = np.random.default_rng(4)
    reference, decision = rng.integers(0, 4, (2, 12))
    return Judged(
        reference=reference,
        decision=decision,
        patient=np.arange(12) // 2,
        contested=rng.random(12) < 0.3,
        calibrates=np.arange(12) < 6,
        above=rng.random((12, 3)) if above else None,
        order=rng.permutation(12) if order else None,
    )


def table(exams: Judged) -> Table:
    return site_tables.table(exams, score="hypertrophy", device="A", grades=4)


@pytest.mark.parametrize("above", [True, False])
def test_exams_add_up_to_their_table_in_the_order_given(above: bool) -> None:
    exams = judged(order=True, above=above)
    found = table(exams).cases
    assert found is not None
    assert exams.order is not None
    assert found.reference == tuple(exams.reference[exams.order].tolist())
    np.testing.assert_array_equal(found.confusion(4), np.array(table(exams).confusion))
    assert len(found.above) == (3 if above else 0)
    if exams.above is not None:
        np.testing.assert_array_equal(found.above, np.floor(exams.above[exams.order] * 256).astype(int).T)


def test_a_certain_score_is_the_last_step() -> None:
    one = np.array([0])
    found = cases.told(
        one, reference=one, decision=one, contested=np.array([False]), above=np.array([[1.0, 0.0]])
    )
    assert found.above == ((255,), (0,))


def test_tables_without_them_have_the_bytes_that_they_had() -> None:
    told = SiteTables(site="north", minimum_cohort=5, tables=(table(judged(order=False)),), suppressed=0)
    assert "cases" not in told.dump()
    assert "numbers" not in told.dump()


def test_exams_of_another_table_are_refused() -> None:
    whole = table(judged(order=True)).model_dump(mode="json")
    other = whole["cases"] | {"decision": [0] * 12}
    with pytest.raises(ValidationError, match="add up to the table"):
        Table.model_validate(whole | {"cases": other})
    with pytest.raises(ValidationError, match="add up to the table"):
        Table.model_validate(whole | {"cases": whole["cases"] | {"reference": [9] * 12}})
    with pytest.raises(ValidationError, match="as many of everything"):
        Cases.model_validate(whole["cases"] | {"contested": [False]})
