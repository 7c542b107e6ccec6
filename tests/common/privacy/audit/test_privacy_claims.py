import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.privacy.accounting import chain, costs
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.privacy.accounting.chain import Entry
from common.privacy.accounting.costs import Cost
from common.privacy.accounting.spending import Book, PrivateRelease, UnboundedRelease
from common.privacy.audit import claims, sent
from common.privacy.audit.evidence import Answer, Cap, Evidence, Sent
from common.settings import Settings
from tests.ledgers import make_release, make_unbounded
from tests.privacy_evidence import PATIENTS, ROUNDS, SIGMA, SIZES, make_plan

PLAN = make_plan()
HASH = PLAN.plan_hash()


def release(request_id: str = "r1", *, server_round: int = 1, **changes: object) -> PrivateRelease:
    made = replace(
        make_release(request_id, server_round=server_round, sigma=SIGMA),
        plan_hash=HASH,
        patients=PATIENTS,
        images=4,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def entries(*releases: PrivateRelease | UnboundedRelease, patients: int = 3) -> tuple[Entry, ...]:
    """A ledger in which the first release brings all patients."""
    found = [
        Entry(sequence=1, hash="0", content={"event": chain.OPENED, "time": "2026-01-01T00:00:00+00:00"})
    ]
    for number, one in enumerate(releases, start=2):
        content = {
            "event": chain.PRIVATE if isinstance(one, PrivateRelease) else chain.UNBOUNDED,
            "time": f"2026-01-01T00:{number:02d}:00+00:00",
            **one.facts(),
            "new": [str(patient) for patient in range(patients)] if number == 2 else [],
            "eligible": [[0, patients - 1]],
        }
        found.append(Entry(sequence=number, hash=str(number), content=content))
    return tuple(found)


def answer(
    request_id: str = "r1", *, server_round: int = 1, ledger_sequence: int = 2, **changes: object
) -> Answer:
    made = Answer(
        sequence=5,
        time="2026-01-01T00:00:00+00:00",
        campaign="heads",
        plan_hash=HASH,
        request_id=request_id,
        server_round=server_round,
        group="heads",
        reply_hash=f"hash of {request_id}",
        reply_bytes=288,
        ledger_sequence=ledger_sequence,
        version="0.1.0",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def evidence(
    ledger: tuple[Entry, ...] = (),
    answers: Sequence[Answer] = (),
    *,
    caps: Sequence[Cap] = (Cap(since="", maximum_epsilon=8.0, delta=1e-5),),
    plans: Mapping[str, Settings] | None = None,
) -> Evidence:
    return Evidence(
        site="north",
        source="ledger",
        public_key="",
        entries=ledger,
        book=Book.of(ledger),
        answers=tuple(answers),
        plans={HASH: PLAN} if plans is None else plans,
        caps=tuple(caps),
        checks=(),
    )


@pytest.mark.parametrize(
    ("rate", "sigma", "count", "low", "high"),
    [(1.0, 1.0, 1, 4.376, 4.378), (0.2, 1.44, 100, 8.025, 8.035), (0.2, 1.0, 100, 14.52, 14.53)],
)
def test_both_accountants_give_the_published_values(
    rate: float, sigma: float, count: int, low: float, high: float
) -> None:
    found = costs.cost([PrivateSteps(sample_rate=rate, noise_multiplier=sigma, count=count)], delta=1e-5)
    assert low <= found.epsilon <= high
    assert found.second_low <= found.epsilon <= found.second_high
    assert found.agree


def test_accountants_that_are_apart_do_not_agree() -> None:
    assert not Cost(epsilon=2.0, second_low=2.5, second_high=2.6, delta=1e-5).agree
    assert not Cost(epsilon=2.0, second_low=1.0, second_high=1.5, delta=1e-5).agree
    assert not Cost(epsilon=2.0, second_low=1.9, second_high=3.0, delta=1e-5).agree


def test_spending_is_of_the_patient_who_has_spent_most() -> None:
    ledger = list(entries(release("r1"), release("r2", server_round=2)))
    ledger[2] = replace(ledger[2], content={**ledger[2].content, "eligible": [[1, 1]]})
    found = costs.spending(Book.of(ledger), delta=1e-5, maximum_epsilon=8.0)
    steps = PrivateSteps(sample_rate=1.0, noise_multiplier=SIGMA, count=2)
    assert found.total.epsilon == epsilon([steps], delta=1e-5)
    assert found.two_sites.epsilon == epsilon([replace(steps, count=4)], delta=1e-5)
    assert [value for _, value in found.curve] == sorted(value for _, value in found.curve)
    assert found.curve[-1][1] == found.total.epsilon
    assert found.campaigns[0].rounds == 2


def test_a_curve_has_few_points_and_ends_at_the_total() -> None:
    many = [release(f"r{number}", server_round=number) for number in range(1, 98)]
    found = costs.spending(Book.of(entries(*many)), delta=1e-5, maximum_epsilon=None)
    assert len(found.curve) <= costs.POINTS
    assert found.curve[-1][1] == found.total.epsilon


def test_an_empty_ledger_has_spent_nothing() -> None:
    found = costs.spending(Book(), delta=1e-5, maximum_epsilon=8.0)
    assert (found.total.epsilon, found.patients, found.curve) == (0.0, 0, ())


def test_a_version_concerns_those_whom_it_released() -> None:
    ledger = entries(release("r1"), release("r2", version="0.0.9"), make_unbounded())
    found = costs.affected(Book.of(ledger), "0.0.9", delta=1e-5)
    assert (found.private, found.unbounded, found.patients) == (1, 0, 3)
    assert found.epsilon == epsilon(
        [PrivateSteps(sample_rate=1.0, noise_multiplier=SIGMA, count=1)], delta=1e-5
    )


@pytest.mark.parametrize(
    ("ledger", "given_answer", "verdict"),
    [
        (entries(release()), answer(), "holds"),
        (entries(release("another")), answer(), "fails"),
        (entries(), answer(), "fails"),
        (entries(release()), answer(ledger_sequence=1), "fails"),
        (entries(release("other"), release()), answer(ledger_sequence=2), "fails"),
        (entries(), answer(server_round=ROUNDS + 1, ledger_sequence=0), "holds"),
        (entries(release()), answer(plan_hash="f" * 64), "fails"),
    ],
    ids=["debited", "of another request", "never", "later", "too late", "closing round", "unknown plan"],
)
def test_a_reply_needs_its_own_debit_before_it(
    ledger: tuple[Entry, ...], given_answer: Answer, verdict: str
) -> None:
    assert claims.debits(evidence(ledger, [given_answer])).verdict == verdict


def test_a_request_that_was_drawn_twice_needs_two_debits() -> None:
    twice = [answer(), answer(reply_hash="other bytes", ledger_sequence=3)]
    assert claims.debits(evidence(entries(release()), twice)).verdict == "fails"
    assert claims.debits(evidence(entries(release(), release()), twice)).verdict == "holds"


def test_training_without_privacy_has_to_be_booked_as_such() -> None:
    open_plan = PLAN.model_copy(update={"privacy": PLAN.privacy.model_copy(update={"mechanism": "none"})})  # type: ignore[union-attr]
    plans = {make_unbounded().plan_hash: open_plan}
    one = answer(plan_hash=make_unbounded().plan_hash)
    assert claims.debits(evidence(entries(), [one], plans=plans)).verdict == "fails"
    assert claims.debits(evidence(entries(make_unbounded()), [one], plans=plans)).verdict == "holds"


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": PrivateSteps(sample_rate=1.0, noise_multiplier=5.0, count=1)},
        {"steps": PrivateSteps(sample_rate=1.0, noise_multiplier=20.0, count=1)},
        {"steps": PrivateSteps(sample_rate=0.5, noise_multiplier=SIGMA, count=1)},
        {"max_grad_norm": 2.0},
        {"patients": 99},
        {"images": 8},
        {"server_round": ROUNDS + 1},
        {"plan_hash": "e" * 64},
    ],
    ids=["less noise", "more noise", "rate", "norm", "patients", "images", "round", "plan"],
)
def test_what_was_booked_is_what_the_plan_has(changed: dict[str, object]) -> None:
    assert claims.parameters(Book.of(entries(release())), {HASH: PLAN}).verdict == "holds"
    check = claims.parameters(Book.of(entries(replace(release(), **changed))), {HASH: PLAN})  # type: ignore[arg-type]
    assert check.verdict == "fails"
    assert "entry 2" in check.found


def test_rounds_are_those_of_the_plan_and_the_closing_one_is_empty() -> None:
    assert claims.rounds([answer()], {HASH: PLAN}).verdict == "holds"
    assert claims.rounds([answer(server_round=ROUNDS + 2)], {HASH: PLAN}).verdict == "fails"
    assert claims.rounds([answer(server_round=ROUNDS + 1)], {HASH: PLAN}).verdict == "fails"
    assert claims.rounds([answer(server_round=ROUNDS + 1, reply_bytes=0)], {HASH: PLAN}).verdict == "holds"
    again = answer(repeated=True, reply_hash="other bytes")
    assert claims.rounds([answer(), again], {HASH: PLAN}).verdict == "fails"


def test_the_cap_that_counts_is_the_one_of_its_time() -> None:
    ledger = entries(release("r1"), release("r2", server_round=2))
    low = Cap(since="", maximum_epsilon=0.2, delta=1e-5)
    high = Cap(since="2026-01-01T00:01:00+00:00", maximum_epsilon=8.0, delta=1e-5)
    later = replace(low, since="2026-01-02T00:00:00+00:00")
    none = replace(low, maximum_epsilon=None)
    assert claims.cap(evidence(ledger, caps=[low])).verdict == "fails"
    assert claims.cap(evidence(ledger, caps=[none])).verdict == "fails"
    assert claims.cap(evidence(ledger, caps=[low, high])).verdict == "holds"
    assert claims.cap(evidence(ledger, caps=[low, high, later])).verdict == "holds"
    assert claims.cap(evidence(ledger, caps=[])).verdict == "open"


def test_nobody_is_debited_after_they_withdrew() -> None:
    gone = Entry(
        sequence=3,
        hash="3",
        content={"event": chain.WITHDRAWN, "time": "", "tag": "t", "patient": 1, "new": [], "version": "1"},
    )
    before = (*entries(release("r1")), gone)
    assert claims.withdrawals(before, Book.of(before)).verdict == "holds"
    last = replace(entries(release("r1"), release("r2"), release("r3"))[3], sequence=4)
    after = (*before, last)
    assert claims.withdrawals(after, Book.of(after)).verdict == "fails"


def reply(updates: Mapping[str, np.ndarray], **fields: object) -> Sent:
    names = list(updates)
    told = {
        "site": "north",
        "request-id": "r1",
        "networks": names,
        "num-examples": [1] * len(names),
        "loss": [math.nan] * len(names),
    }
    return Sent(
        request_id="r1",
        plan_hash=HASH,
        server_round=1,
        fields={"reply": told | fields},
        arrays={"updates": {name: ("float32", values) for name, values in updates.items()}, "extra": {}},
        reply_hash="h",
    )


def updates(*, deviation: float = 1.0, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, deviation, size) for name, size in SIZES.items()}


def test_the_allow_list_lets_through_one_update_a_network() -> None:
    assert not list(sent.strays(reply(updates()), SIZES, closing=False))
    assert not list(sent.strays(reply({}), SIZES, closing=True))


@pytest.mark.parametrize(
    "bad",
    [
        reply({**updates(), "more": np.zeros(3)}),
        reply({**updates(), next(iter(SIZES)): np.zeros(35)}),
        reply({**updates(), next(iter(SIZES)): np.full(36, np.nan)}),
        reply(updates(), **{"num-examples": [1, 17]}),
        reply(updates(), loss=[0.3, math.nan]),
        reply(updates(), note="to the centre"),
        replace(reply(updates()), fields={}),
        replace(reply(updates()), arrays={**reply(updates()).arrays, "buffers": {}}),
        replace(reply(updates()), arrays={"histograms": {"n": ("int64", np.zeros(2))}}),
        replace(reply(updates()), arrays={"extra": {"n": ("float32", np.zeros(2))}}),
        replace(reply(updates()), arrays={"stacking": {"n": ("float64", np.zeros(6))}}),
    ],
    ids=[
        "tensor",
        "length",
        "nan",
        "counts",
        "losses",
        "field",
        "no fields",
        "part",
        "histograms",
        "extra",
        "stacking",
    ],
)
def test_whatever_else_leaves_is_found(bad: Sent) -> None:
    assert list(sent.strays(bad, SIZES, closing=False))


def masked(values: np.ndarray, *, kind: str = "uint32", **fields: object) -> Sent:
    return Sent(
        request_id="r1",
        plan_hash=HASH,
        server_round=1,
        fields={
            "reply": {"site": "north", "request-id": "r1"},
            "sum": {"phase": "masked", "site": "north"} | fields,
        },
        arrays={"vector": {"masked": (kind, values)}},
        reply_hash="h",
    )


def test_a_secure_sum_lets_through_one_vector_under_masks() -> None:
    assert not list(sent.strays_of_sum(masked(np.zeros(72)), length=72))
    bad = [
        masked(np.zeros(73)),
        masked(np.zeros(72), kind="float32"),
        masked(np.zeros(72), seed_shares="ab"),
        reply(updates()),
        replace(masked(np.zeros(72)), arrays={"vector": {}}),
    ]
    assert all(list(sent.strays_of_sum(one, length=72)) for one in bad)


@given(st.integers(0, 10**6), st.sampled_from([1.0, 1.5, 3.0]))
@settings(max_examples=200)
def test_noise_of_the_claimed_size_or_more_passes(seed: int, size: float) -> None:
    noise, _ = sent.noise(reply(updates(deviation=size, seed=seed)), claimed=1.0, scale=1.0, before=None)
    assert not list(noise.problems())


@pytest.mark.parametrize("size", [0.0, 0.4])
def test_noise_that_is_too_small_is_found(size: float) -> None:
    for seed in range(50):
        noise, _ = sent.noise(reply(updates(deviation=size, seed=seed)), claimed=1.0, scale=1.0, before=None)
        assert list(noise.problems())


def test_two_thirds_of_the_noise_are_found_in_a_larger_update() -> None:
    wide = {"a": np.random.default_rng(0).normal(0, 2 / 3, 400)}
    noise, _ = sent.noise(reply(wide), claimed=1.0, scale=1.0, before=None)
    assert list(noise.problems())


def test_noise_that_was_used_twice_is_found_under_another_signal() -> None:
    signal = np.random.default_rng(9).normal(0, 0.1, 36)
    first = updates(seed=1)
    second = {name: values + signal for name, values in first.items()}
    _, before = sent.noise(reply(first), claimed=1.0, scale=1.0, before=None)
    twice, _ = sent.noise(reply(second), claimed=1.0, scale=1.0, before=before)
    fresh, _ = sent.noise(reply(updates(seed=2)), claimed=1.0, scale=1.0, before=before)
    assert list(twice.problems())
    assert not list(fresh.problems())


def test_the_scale_of_what_left_is_undone() -> None:
    noise, _ = sent.noise(reply(updates(deviation=0.02)), claimed=10.0, scale=0.002, before=None)
    assert noise.seen == pytest.approx(10, rel=0.3)
