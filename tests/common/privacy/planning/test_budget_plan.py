import math

import pytest

from common.errors import ConfigurationError
from common.methods.stages import method
from common.networks import build
from common.networks.spec import NetworkSpec, Target
from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.planning import budget_plan, dpia, noise_ratio, promise, utility
from common.privacy.planning import designs as designing
from common.privacy.planning.budget_plan import Budget, Cohort, Plan
from common.privacy.planning.designs import Design, Key
from common.sections.networks import NetworkSettings
from common.settings import Settings, parse
from tests.site_folders import make_settings

DELTA = 1e-5

PROBE = """\
name = "heads"
method = "probe"
validity = "eoss"
[images.gs]
kind = "grey"
[images.doppler]
kind = "doppler"
[measurements.hypertrophy]
images = ["gs", "doppler"]
[measurements.vascularity]
images = ["doppler"]
[network]
weights = "encoders/phantom"
[probe]
neck = 32
[federation]
rounds = 60
[privacy]
noise_multiplier = 10.8
patients = 90
"""


def probe(**overrides: object) -> Settings:
    return parse(PROBE, overrides=[f"{key}={value}" for key, value in overrides.items()])


def a_design(
    key: Key = "heads", *, steps: int = 60, charged: int | None = None, weights: int = 792
) -> Design:
    return Design(
        key=key,
        title=key,
        networks=6,
        weights=weights,
        steps=steps,
        charged=charged or steps,
        share=1,
        heads=key in ("heads", "head_folds"),
        cost="",
    )


def one(design: Design, cohort: Cohort, budget: Budget, *, secure_aggregation: bool = False) -> Plan:
    return budget_plan.plan(
        [design], cohort=cohort, budget=budget, chosen=design.key, secure_aggregation=secure_aggregation
    )


# privacy: noise needed for epsilon 8/3/1, one network q 0.2, T 100; full batch mu 1.666/0.719/0.268
@pytest.mark.parametrize(
    ("epsilon", "sampled", "mu"),
    [
        *(pytest.param(*of, marks=pytest.mark.soak) for of in ((8, 1.44, 1.666), (3, 2.98, 0.719))),
        (1, 7.63, 0.268),
    ],
)
def test_noise_for_a_budget(epsilon: float, sampled: float, mu: float) -> None:
    cohort = Cohort(patients=450, sites=1)
    poisson = one(
        a_design("networks", steps=100), cohort, Budget(delta=DELTA, sample_rate=0.2, epsilon=epsilon)
    ).chosen
    assert poisson.noise_multiplier == pytest.approx(sampled, abs=0.01)
    assert 0.99 * epsilon < poisson.epsilon <= epsilon
    whole = one(a_design(), cohort, Budget(delta=DELTA, sample_rate=1, epsilon=epsilon)).chosen
    assert math.sqrt(60) / whole.noise_multiplier == pytest.approx(mu, rel=2e-3)
    assert 0.99 * epsilon < whole.epsilon <= epsilon


def test_sixty_networks_at_the_noise_of_one_cost_242() -> None:
    budget = Budget(delta=DELTA, sample_rate=0.2, noise_multiplier=1)
    cohort = Cohort(patients=150, sites=1)
    sixty = one(a_design("networks", steps=100, charged=6000), cohort, budget).chosen
    alone = one(a_design("networks", steps=100), cohort, budget).chosen
    assert 241.4 <= sixty.epsilon <= 242
    assert 14.52 <= alone.epsilon <= 14.53
    assert sixty.verdict == alone.verdict == "no protection"


def test_noise_on_the_published_network_is_147_times_the_clipping_norm() -> None:
    settings = probe()
    found = budget_plan.plan(
        designing.designs(settings),
        cohort=Cohort(patients=150, sites=1),
        budget=Budget(delta=DELTA, sample_rate=1, epsilon=8),
        chosen="heads",
        secure_aggregation=False,
    )
    published = found.rows[0].design
    assert published.weights == 22_615_938
    assert (published.networks, published.charged) == (60, 60 * 60)
    alone = one(
        a_design("networks", weights=published.weights),
        Cohort(patients=150, sites=1),
        Budget(delta=DELTA, sample_rate=1, epsilon=8),
    ).chosen
    assert alone.noise_to_signal == pytest.approx(147, abs=1)
    assert alone.verdict == "hopeless"
    by_key = {row.design.key: row for row in found.rows}
    assert list(by_key) == ["published", "folds", "head_folds", "heads"]
    assert by_key["published"].noise_to_signal == pytest.approx(147 * math.sqrt(60), rel=0.01)
    assert [row.verdict for row in found.rows] == ["hopeless", "hopeless", "hopeless", "doubtful"]
    assert by_key["folds"].design.charged == 4 * 60  # a patient is in four of five folds
    assert by_key["heads"].design.weights == 6 * 33 * 4 == noise_ratio.REFERENCE_WEIGHTS
    assert all(row.epsilon <= 8 for row in found.rows)


@pytest.mark.parametrize(
    ("patients", "epsilon", "verdict"),
    [
        (150, 3, "hopeless"),  # the documented failure
        (150, 1, "hopeless"),
        (150, 8, "doubtful"),
        (450, 3, "doubtful"),
        (450, 8, "worth a trial"),  # the goal
        (1500, 3, "worth a trial"),
        (1500, 1, "doubtful"),  # exploratory
    ],
)
def test_the_verdict_on_the_head_ensemble_at_one_place(patients: int, epsilon: float, verdict: str) -> None:
    budget = Budget(delta=DELTA, sample_rate=1, epsilon=epsilon)
    assert one(a_design(), Cohort(patients=patients, sites=1), budget).chosen.verdict == verdict


def test_the_number_of_rounds_changes_the_noise_of_a_step_but_not_of_a_campaign() -> None:
    budget = Budget(delta=DELTA, sample_rate=1, epsilon=3)
    cohort = Cohort(patients=450, sites=1)
    short, long = (one(a_design(steps=steps), cohort, budget).chosen for steps in (25, 400))
    assert long.noise_to_signal == pytest.approx(4 * short.noise_to_signal, rel=2e-3)
    assert long.campaign_noise == pytest.approx(short.campaign_noise, rel=2e-3)


def test_without_secure_aggregation_noise_grows_with_the_root_of_the_sites() -> None:
    budget = Budget(delta=DELTA, sample_rate=1, epsilon=3)
    centre = one(a_design(), Cohort(patients=450, sites=1), budget).chosen
    cohort = Cohort(patients=450, sites=5, colluders=0)
    own, shared = budget_plan.plan(
        [a_design()], cohort=cohort, budget=budget, chosen="heads", secure_aggregation=True
    ).rows
    assert own.noise_to_signal == pytest.approx(math.sqrt(5) * centre.noise_to_signal)
    assert shared.noise_to_signal == pytest.approx(centre.noise_to_signal)
    assert own.noise_multiplier == shared.noise_multiplier
    assert own.epsilon == shared.epsilon == centre.epsilon


def test_noise_shares_stand_colluders_and_dropouts() -> None:
    cohort = Cohort(patients=450, sites=5, survivors=4, colluders=1)
    assert cohort.spread(secure_aggregation=True) == pytest.approx(math.sqrt(5 / 3))
    with pytest.raises(ConfigurationError, match="colluders < survivors <= sites"):
        Cohort(patients=9, sites=3, survivors=4).spread(secure_aggregation=True)


def test_shares_made_for_all_five_sites_do_not_stand_a_dropout() -> None:
    steps = [PrivateSteps(sample_rate=1, noise_multiplier=math.sqrt(60) / 1.6660, count=60)]
    after = [
        budget_plan.after_dropouts(steps, sites=5, colluders=1, dropped=dropped, delta=DELTA)
        for dropped in (0, 1, 2)
    ]
    assert after == pytest.approx([8.0, 9.53, 12.26], abs=0.01)
    with pytest.raises(ConfigurationError, match="an honest site"):
        budget_plan.after_dropouts(steps, sites=5, colluders=1, dropped=4, delta=DELTA)


def test_what_else_happens_to_a_patients_epsilon() -> None:
    budget = Budget(delta=DELTA, sample_rate=1, epsilon=3)
    cohort = Cohort(patients=450, sites=5)
    own = one(a_design(), cohort, budget).consequences
    assert own.odds == pytest.approx(20, abs=0.1)
    assert 3 < own.round_again < 3.05
    assert 3.05 < own.campaign_again < 6
    assert own.two_sites == own.campaign_again  # two releases, each with its own noise
    assert own.one_dropout is None
    shared = one(a_design(), cohort, budget, secure_aggregation=True).consequences
    assert shared.two_sites > own.two_sites  # twice in one sum, with one noise
    assert shared.one_dropout is not None
    assert shared.one_dropout > 3


def test_patients_for_the_goal() -> None:
    found = one(a_design(), Cohort(patients=450, sites=5), Budget(delta=DELTA, sample_rate=1, epsilon=3))
    enough = Cohort(patients=found.patients_for_goal, sites=5)
    fewer = Cohort(patients=int(0.98 * found.patients_for_goal), sites=5)
    assert found.chosen.verdict == "doubtful"
    assert one(a_design(), enough, found.budget).chosen.verdict == "worth a trial"
    assert one(a_design(), fewer, found.budget).chosen.verdict == "doubtful"


def test_a_methods_own_networks_are_all_paid_for_in_all_stages() -> None:
    settings = make_settings(
        folds=5, text="replicas = 1\n[training]\nlocal_steps = 2\n[federation]\nrounds = 3"
    )
    found = {design.key: design for design in designing.designs(settings)}
    # five folds x two measurements x three tasks, each two extractors and a head
    assert found["networks"].networks == 90
    assert found["networks"].charged == 90 * 3 * 2
    assert found["folds"].charged == 2 * 4 * 3 * 2  # two stages, four of five folds
    assert found["folds"].weights == max(2 * 6 * found["networks"].weights, found["folds"].weights)
    assert "published" not in found
    assert found["heads"].networks == 6


def test_sizes_that_are_known_without_a_network_are_those_of_the_network() -> None:
    """Zhou et al. 2022, supplemental methods: two ResNet-18 fused by a layer of 256, and one; and linear heads."""
    published = NetworkSettings(backbone="resnet18", hidden=256)
    target = Target(measurement="hypertrophy")
    specs = [NetworkSpec(name="n", images=images, target=target) for images in (("gs", "doppler"), ("gs",))]
    assert tuple(build.layout(one, published).trained_size for one in specs) == designing.PUBLISHED_SIZES
    settings = probe()
    heads = [spec for stage in method("probe").stages(settings, {}) for spec in stage.networks]
    assert designing.leaves(settings) == {
        head.name: build.part_layout(head, settings.network, "head").trained_size for head in heads
    }


def test_one_network_is_set_beside_sixty() -> None:
    text = 'fusion = "joint"\ncodes = "classes"\nmodels = 1\nreplicas = 1\n[training]\nlocal_steps = 1\n'
    settings = make_settings(measurements=("hypertrophy",), folds=5, text=text + "[federation]\nrounds = 100")
    published, own, *_ = designing.designs(settings)
    assert (published.key, published.charged, published.networks) == ("published", 6000, 60)
    assert (own.key, own.charged, own.networks) == ("networks", 100, 1)


def test_no_loss_is_told_where_nothing_was_measured() -> None:
    budget = Budget(delta=DELTA, sample_rate=1, epsilon=3)
    assert one(a_design(), Cohort(patients=450, sites=5), budget).chosen.loss is None


TABLE = ",".join(utility.COLUMNS) + (
    "\n8,1e-5,450,5,yes,792,1,60,4.65,0.02,fewer,0.1.0"
    "\n3,1e-5,450,5,no,792,1,60,10.78,0.10,own,0.1.0"
    "\n1,1e-5,150,5,no,792,1,60,28.9,0.30,most,0.1.0\n"
)


def test_a_loss_lies_between_those_of_phantom_runs() -> None:
    table = utility.read(TABLE)
    assert [row.noise for row in table] == sorted(row.noise for row in table)
    for row in table:
        found = utility.expected(table, row.noise)
        assert found is not None
        assert found.kappa == pytest.approx(row.kappa_loss)
        assert found.runs == (row.run,)
    between = utility.expected(table, math.sqrt(table[0].noise * table[1].noise))
    assert between is not None
    assert between.kappa == pytest.approx(0.06)
    assert between.runs == ("fewer", "own")
    assert utility.expected(table, 0.9 * table[0].noise) is None
    assert utility.expected(table, 1.1 * table[2].noise) is None
    assert utility.expected((), 0.1) is None


def test_more_noise_is_never_said_to_help() -> None:
    table = utility.read(TABLE.replace("0.10,own", "0.01,own"))
    losses = [utility.expected(table, row.noise) for row in table]
    kappas = [loss.kappa for loss in losses if loss is not None]
    assert kappas == pytest.approx([0.015, 0.015, 0.30])


def test_losses_are_told_of_heads_only() -> None:
    budget = Budget(delta=DELTA, sample_rate=1, epsilon=3)
    table = utility.read(TABLE)
    heads, whole = (
        budget_plan.plan(
            [a_design(key)],
            cohort=Cohort(patients=450, sites=1),
            budget=budget,
            chosen=key,
            secure_aggregation=False,
            table=table,
        )
        for key in ("heads", "networks")
    )
    assert heads.chosen.loss is not None
    assert whole.chosen.loss is None


@pytest.mark.parametrize(
    "wrong", ["nonsense", TABLE.replace(",yes,", ",maybe,"), TABLE.replace("0.02", "nan")]
)
def test_a_table_that_cannot_be_read_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="table"):
        utility.read(wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cohort(patients=0, sites=1), "at least one patient"),
        (lambda: Cohort(patients=5, sites=0), "at least one patient and one site"),
        (lambda: Cohort(patients=4, sites=5), "a patient for each"),
        (lambda: Budget(delta=0, sample_rate=1, epsilon=3), "delta in"),
        (lambda: Budget(delta=DELTA, sample_rate=1), "and not both"),
        (lambda: Budget(delta=DELTA, sample_rate=1, epsilon=3, noise_multiplier=1), "and not both"),
        (lambda: Budget(delta=DELTA, sample_rate=1, epsilon=0), "epsilon > 0"),
        (lambda: Budget(delta=DELTA, sample_rate=1, epsilon=math.nan), "epsilon > 0"),
        (lambda: Budget(delta=DELTA, sample_rate=1, noise_multiplier=-1), "noise_multiplier > 0"),
        (lambda: Budget(delta=DELTA, sample_rate=0, epsilon=1), "sample_rate"),
    ],
)
def test_what_cannot_be_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_sum_hides_nobody_behind_fewer_than_two() -> None:
    budget = Budget(delta=DELTA, sample_rate=1, epsilon=3)
    assert len(one(a_design(), Cohort(patients=9, sites=2), budget).rows) == 1
    with pytest.raises(ConfigurationError, match="at least 3 sites"):
        one(a_design(), Cohort(patients=9, sites=2), budget, secure_aggregation=True)


@pytest.mark.parametrize("secure_aggregation", [False, True])
def test_the_annex_of_a_head_ensemble(secure_aggregation: bool) -> None:
    settings = probe()
    budget = Budget(delta=DELTA, sample_rate=1, noise_multiplier=10.8)
    found = one(a_design(), Cohort(patients=450, sites=5), budget, secure_aggregation=secure_aggregation)
    leaves = designing.leaves(settings)
    assert set(leaves.values()) == {33 * 4}
    promised = dpia.promise(
        settings,
        found,
        plan_hash=settings.plan_hash(),
        leaves=leaves,
        version="1",
        created="2026-01-02T03:04:05+00:00",
        site=None,
    )
    assert promise.read(promised.model_dump_json()) == promised
    assert (promised.epsilon, promised.steps) == (found.chosen.epsilon, 60)
    html = dpia.render(promised, settings, found)
    assert "over all networks together" in html
    assert "792 numbers in all" in html
    assert ("learns the sum over the sites" in html) == secure_aggregation
    assert ("sees each site" in html) != secure_aggregation


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [
        (1, "up to 2.7-fold: who thought it as likely as not can become up to 73.2 % sure"),
        (3, "up to 20-fold: who thought it as likely as not can become up to 95.3 % sure"),
        (8, "up to 2,981-fold: who thought it as likely as not can become up to 99.97 % sure"),
        (242, "more than a million-fold"),
    ],
)
def test_what_an_epsilon_means_in_odds(epsilon: float, words: str) -> None:
    assert words in dpia.odds_in_words(epsilon)


def test_noise_is_rounded_up_to_four_digits() -> None:
    assert [budget_plan.rounded_up(v) for v in (10.7717, 4.65, 0.0123456, 342.12, 1.0)] == [
        10.78,
        4.65,
        0.01235,
        342.2,
        1.0,
    ]
