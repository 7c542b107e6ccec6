"""Ways in which a claim is false around the private step: at a site's allow-list, ledger, policy and folds.

Each is planted, and what stands in its way must fail on it. What a step itself can get wrong is in
``tests/common/privacy/mechanism/test_privacy_false_claims.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from client.data.tables.folds import folds, is_held_out
from client.evidence import site_evidence
from client.ledger import ledger, ledger_file
from client.ledger.ledger_spent import spent
from client.rounds import allow_list
from client.site.site import Site
from common import wire
from common.errors import BudgetError, PolicyError
from common.exam import MISSING, Exam
from common.messages import NetworkReply, TrainReply, TrainRequest
from common.privacy.accounting import costs, spending
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.privacy.accounting.spending import PrivateRelease
from common.privacy.audit import claims
from common.privacy.audit.audit_report import Report, SiteAudit
from tests.ledgers import make_release, make_site, patients
from tests.privacy_evidence import PATIENTS, ROUNDS, SIGMA, SIZES, Campaign, make_plan

DELTA = 1e-5


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ledger_file._known.clear()


# What leaves beside the noised sum.

Bug = Callable[[NetworkReply], NetworkReply]
BUFFERS = np.array([0.1, 0.9], dtype=np.float32)


def honest(reply: NetworkReply) -> NetworkReply:
    return reply


def loss_of_the_round(reply: NetworkReply) -> NetworkReply:
    """A metric without noise, every round."""
    return replace(reply, loss=0.7)


def histograms_of_scores(reply: NetworkReply) -> NetworkReply:
    """Another."""
    return replace(reply, histograms=np.ones((4, 256), dtype=np.int64))


def number_of_examples_as_weight(reply: NetworkReply) -> NetworkReply:
    """n_k, as FedAvg has it."""
    return replace(reply, num_examples=96)


def buffers_in_the_update(reply: NetworkReply) -> NetworkReply:
    """Running means and variances behind the weights."""
    assert reply.update is not None
    return replace(reply, update=np.concatenate([reply.update, BUFFERS]))


def buffers_beside_the_update(reply: NetworkReply) -> NetworkReply:
    return replace(reply, extra={"running_mean": BUFFERS})


def size_of_each_batch(reply: NetworkReply) -> NetworkReply:
    return replace(reply, extra={"batches": np.array([3.0, 5.0], dtype=np.float32)})


STRAYS = [
    loss_of_the_round,
    histograms_of_scores,
    number_of_examples_as_weight,
    buffers_in_the_update,
    buffers_beside_the_update,
    size_of_each_batch,
]


def replied(bug: Bug) -> TrainReply:
    rng = np.random.default_rng(0)
    networks = {
        name: bug(
            NetworkReply(
                update=rng.normal(0, 0.9, size).astype(np.float32),
                num_examples=1,
                loss=math.nan,
                histograms=None,
            )
        )
        for name, size in SIZES.items()
    }
    return TrainReply(site="north", request_id="r1", networks=networks)


def lets_out(bug: Bug) -> bool:
    """Whether a site's allow-list lets a reply pass."""
    request = TrainRequest(
        campaign="heads",
        plan_hash="",
        request_id="r1",
        group="heads",
        server_round=1,
        encoding="float32",
        weights={name: np.zeros(size, dtype=np.float32) for name, size in SIZES.items()},
        layouts={},
    )
    try:
        return allow_list.checked(replied(bug), request) == replied(bug)
    except PolicyError:
        return False
    except ValueError:  # arrays are equal or not element by element: it came back
        return True


def audited(site: Campaign) -> dict[str, str]:
    """Claim -> verdict of an audit of the site's folder."""
    found = site_evidence.read(site.site.folder)
    return {check.name: check.verdict for check in claims.checked(found)}


def test_sums_for_a_stacking_may_not_leave_with_noised_ones() -> None:
    request = TrainRequest(
        campaign="heads", plan_hash="", request_id="r1", group="heads", server_round=1, encoding="float32",
        weights={name: np.zeros(size, dtype=np.float32) for name, size in SIZES.items()}, layouts={},
    )  # fmt: skip
    with pytest.raises(PolicyError, match="Expected no sums for stacking in a private reply"):
        allow_list.checked(replace(replied(honest), stacking={"n/fold0": np.ones((2, 3))}), request)


def test_a_noised_sum_alone_may_leave(tmp_path: Path) -> None:
    assert lets_out(honest)
    site = Campaign.begin(tmp_path / "north")
    site.debit(1)
    site.send(1, wire.encode(replied(honest), encoding="float32"))
    assert audited(site)["allow-list"] == "holds"


@pytest.mark.parametrize("bug", STRAYS)
def test_nothing_leaves_beside_the_noised_sum(bug: Bug) -> None:
    assert not lets_out(bug)


@pytest.mark.parametrize("bug", STRAYS)
def test_what_left_past_the_allow_list_is_found_in_the_bytes(bug: Bug, tmp_path: Path) -> None:
    site = Campaign.begin(tmp_path / "north")
    site.debit(1)
    site.send(1, wire.encode(replied(bug), encoding="float32"))
    assert audited(site)["allow-list"] == "fails"


# Who spends what, over everything that ever happened.

History = Sequence[tuple[PrivateRelease, Sequence[str]]]
Account = Callable[[History], float]


def histories() -> dict[str, History]:
    once = make_release("r1")
    return {
        "rounds": [(make_release(f"r{number}"), patients(4)) for number in range(3)],
        "a crash, and noise drawn anew": [(once, patients(4)), (once, patients(4))],
        "private pretraining, then the heads": [
            (make_release("p", campaign="pretraining", sigma=3, sample_rate=0.2, steps=50), patients(4)),
            (make_release("h", campaign="heads"), patients(4)),
        ],
        "a patient joins": [(make_release("r1"), patients(4)), (make_release("r2"), patients(5))],
        "a patient is away for a round": [
            (make_release("r1"), patients(4)),
            (make_release("r2"), patients(3, first=1)),
            (make_release("r3"), patients(4)),
        ],
        "two studies with patients in common": [
            (make_release("a1", campaign="a"), patients(6)),
            (make_release("b1", campaign="b"), patients(6, first=5)),
        ],
        "twelve trials, of which the best is kept": [
            (make_release("r1", campaign=f"trial {number}", sigma=8), patients(4)) for number in range(12)
        ],
    }


def due(history: History) -> float:
    """By definition: each patient's releases composed, for the patient whom they cost most."""
    everybody = {patient for _, eligible in history for patient in eligible}
    return max(
        epsilon([release.steps for release, eligible in history if patient in eligible], delta=DELTA)
        for patient in everybody
    )


def ours(history: History, *, folder: Path) -> float:
    site = make_site(folder, maximum_epsilon=1000.0)
    for release, eligible in history:
        ledger.reserve(site, release, eligible)
    return spent(site).epsilon


def of(releases: History) -> float:
    return epsilon([release.steps for release, _ in releases], delta=DELTA)


def by_campaign(history: History) -> float:
    """Pretraining, trials and other studies each have an account of their own."""
    names = {release.campaign for release, _ in history}
    return max(of([entry for entry in history if entry[0].campaign == name]) for name in names)


def by_data_set(history: History) -> float:
    """Starts afresh with every patient who joins or leaves."""
    cohorts = {tuple(eligible) for _, eligible in history}
    return max(of([entry for entry in history if tuple(entry[1]) == cohort]) for cohort in cohorts)


def since_the_process_began(history: History) -> float:
    return of(history[-1:])


def one_request_one_debit(history: History) -> float:
    """A request that is computed again draws again, for nothing."""
    return of(list({release.request_id: (release, eligible) for release, eligible in history}.values()))


def pretraining_left_out(history: History) -> float:
    return of([entry for entry in history if entry[0].campaign != "pretraining"])


def test_a_sites_ledger_counts_everything(tmp_path: Path) -> None:
    for number, (name, history) in enumerate(histories().items()):
        assert ours(history, folder=tmp_path / str(number)) == pytest.approx(due(history)), name


@pytest.mark.parametrize(
    ("bug", "forgets"),
    [
        (by_campaign, "private pretraining, then the heads"),
        (by_campaign, "two studies with patients in common"),
        (by_campaign, "twelve trials, of which the best is kept"),
        (by_data_set, "a patient joins"),
        (by_data_set, "a patient is away for a round"),
        (since_the_process_began, "rounds"),
        (one_request_one_debit, "a crash, and noise drawn anew"),
        (pretraining_left_out, "private pretraining, then the heads"),
    ],
)
def test_an_account_that_forgets_says_too_little(bug: Account, forgets: str) -> None:
    history = histories()[forgets]
    assert bug(history) < 0.95 * due(history)


def test_pretraining_without_privacy_that_nobody_booked_is_found(tmp_path: Path) -> None:
    """The client books it as without bound; were that left out, the audit would say so."""
    plan = make_plan(mechanism='"none"')
    site = Campaign.begin(tmp_path / "north", settings=plan)
    site.send(1)
    assert audited(site)["write-ahead"] == "fails"


# Sigma, q and T come from the centre; the cap does not.


@pytest.mark.parametrize(
    "greedy",
    [
        PrivateSteps(sample_rate=1, noise_multiplier=0.5, count=1),
        PrivateSteps(sample_rate=1, noise_multiplier=5, count=400),
        PrivateSteps(sample_rate=0.9, noise_multiplier=1, count=20),
    ],
    ids=["sigma", "T", "q"],
)
def test_whatever_the_centre_asks_for_the_cap_holds(greedy: PrivateSteps, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", maximum_epsilon=8.0)
    release = replace(make_release(), steps=greedy)
    assert epsilon([greedy], delta=DELTA) > 8
    for asked in (ledger.check, ledger.reserve):  # before the campaign, and before each draw
        with pytest.raises(BudgetError, match="within epsilon 8"):
            asked(site, release, patients(3))
    assert spent(site).epsilon == 0


def test_a_site_that_did_not_look_at_its_cap_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Campaign.begin(tmp_path / "north", maximum_epsilon=0.2)
    with pytest.raises(BudgetError):
        site.debit(1)
    monkeypatch.setattr(spending, "worst", lambda *given, **named: 0.0)
    site.debit(1)
    site.send(1)
    monkeypatch.undo()
    assert audited(site)["cap"] == "fails"


def test_other_parameters_are_another_plan_which_nobody_approved() -> None:
    changes: list[dict[str, object]] = [
        {"noise_multiplier": 1.0},
        {"sample_rate": 0.9},
        {"max_grad_norm": 2.0},
        {"patients": PATIENTS + 1},
        {"images": 5},
    ]
    plans = [make_plan(), *(make_plan(**change) for change in changes)]
    more = make_plan().model_copy(
        update={"federation": make_plan().federation.model_copy(update={"rounds": ROUNDS + 1})}
    )
    assert len({plan.plan_hash() for plan in (*plans, more)}) == len(plans) + 1


# One patient at two sites.


def report(folder: Path, rounds: Sequence[int]) -> Report:
    sites = []
    for number, count in enumerate(rounds):
        site = Campaign.begin(folder / f"site{number}", name=f"site{number}")
        for server_round in range(1, count + 1):
            site.debit(server_round)
        found = site_evidence.read(site.site.folder)
        total = costs.spending(found.book, delta=DELTA, maximum_epsilon=8.0)
        sites.append(SiteAudit(evidence=found, checks=(), spending=total))
    return Report(kind="run", name="run", made="2026-01-01", sites=tuple(sites))


def test_a_patient_at_two_sites_has_spent_at_both(tmp_path: Path) -> None:
    """No site can see it; so the report states what it would be, never the larger one of the two."""
    told = report(tmp_path, (ROUNDS, 2))
    both = PrivateSteps(sample_rate=1, noise_multiplier=SIGMA, count=ROUNDS + 2)
    assert told.two_sites.epsilon == pytest.approx(epsilon([both], delta=DELTA))
    larger = max(one.spending.total.epsilon for one in told.sites)
    assert larger < 0.9 * told.two_sites.epsilon


# Folds and who is held out.

SECRET = b"s" * 32
Split = Callable[[Sequence[Exam]], Sequence[int]]


def exam(patient: int, *, grade: int = 0) -> Exam:
    return Exam(
        line=2,
        exam_id=f"e{patient}",
        patient_id=f"p{patient}",
        images={},
        device="a",
        split="",
        fold=None,
        targets={"hypertrophy": grade},
    )


def in_private_training(exams: Sequence[Exam]) -> Sequence[int]:
    """One fold: in or held out."""
    return [int(fold) for fold in folds(exams, secret=SECRET, held_out=0.3, count=1)]


def balanced_folds(exams: Sequence[Exam]) -> Sequence[int]:
    return [int(fold) for fold in folds(exams, secret=SECRET, held_out=0.3, count=3)]


def shuffled_and_cut(exams: Sequence[Exam]) -> Sequence[int]:
    """The usual train_test_split: who is held out depends on how many there are."""
    order = np.random.default_rng(7).permutation(len(exams))
    return [MISSING if place < 0.3 * len(exams) else 0 for place in order]


def worst_tenth_excluded(exams: Sequence[Exam]) -> Sequence[int]:
    """A threshold that everybody's grades move."""
    grades = np.array([each.targets["hypertrophy"] or 0 for each in exams])
    rank = np.argsort(np.argsort(-grades, kind="stable"))
    return [MISSING if place < len(exams) // 10 else 0 for place in rank]


def depends_on_others(split: Split) -> bool:
    """Whether anybody's place changes when one patient leaves, or has another grade."""
    everybody = [exam(number, grade=int(number % 5 == 0) + 2 * int(number % 7 == 0)) for number in range(60)]
    before = dict(zip((each.patient_id for each in everybody), split(everybody), strict=True))
    for changed in range(0, 60, 7):
        others = [each for number, each in enumerate(everybody) if number != changed]
        for cohort in (others, [*others, exam(changed, grade=3)]):
            after = dict(zip((each.patient_id for each in cohort), split(cohort), strict=True))
            if any(after[each.patient_id] != before[each.patient_id] for each in others):
                return True
    return False


def test_in_private_training_nobodys_place_depends_on_others() -> None:
    assert not depends_on_others(in_private_training)
    held = partial(is_held_out, secret=SECRET, share=0.3)
    assert 5 < sum(held(exam(number)) for number in range(60)) < 35


@pytest.mark.parametrize("bug", [balanced_folds, shuffled_and_cut, worst_tenth_excluded])
def test_a_split_that_looks_at_others_is_noticed(bug: Split) -> None:
    assert depends_on_others(bug)


def test_a_site_permits_no_private_release_of_its_own_accord(tmp_path: Path) -> None:
    site: Site = make_site(tmp_path / "site", maximum_epsilon=None)
    with pytest.raises(PolicyError, match="maximum_epsilon"):
        ledger.check(site, make_release(), patients(2))
