import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import cast

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

import synofed
from client.app import app as client_app
from common import settings as configuration
from common import wire
from common.errors import ConfigurationError, DataError
from common.machine import tensor_file
from common.settings import Settings
from common.text.notices import NO_PRIVACY
from server.campaign import campaign
from server.campaign.campaign_cost import cost_key, stage_costs, stages
from server.campaign.roster import Roster
from server.rounds import journal
from simulation.engine import measure
from simulation.engine.grid import InProcessGrid, Workers
from simulation.engine.measure import Measured
from simulation.runs import cost_card
from simulation.runs.cost_card import CohortSize
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_settings, make_site_folder, ungrade

FUSION_STEP_S, SINGLE_STEP_S, EXAM_S = 3.0, 1.0, 0.25


def measured(images: tuple[str, ...], step_s: float) -> Measured:
    spec = next(s for s in stages(configured())[0].networks if s.images == images)
    return Measured(
        label="+".join(images),
        key=cost_key(spec),
        step_s=step_s,
        exam_s=EXAM_S,
        batch_size=8,
        measured_batch_size=8,
        steps=2,
        device="cpu",
        threads=1,
        at_once=1,
    )


def configured(*overrides: str, cohort: str = 'cohort = {folder = "nowhere"}') -> Settings:
    """RATING's two measurements: three fusion and three Doppler networks per model, two models; one stage."""
    text = CONFIG.split("[cohort]", maxsplit=1)[0]
    return configuration.parse(f"{cohort}\n{text}", overrides=["rating.fusion=joint", *overrides])


SPEC = stages(configured())[0].networks[0]
STEPS = (measured(("gs", "doppler"), FUSION_STEP_S), measured(("doppler",), SINGLE_STEP_S))


def test_the_published_plan_has_sixty_networks() -> None:
    settings = configured("rating.folds=5", "rating.replicas=2")
    (cost,) = stage_costs(settings)
    assert (cost.networks, sum(shape.networks for shape in cost.shapes)) == (60, 60)
    assert [shape.label for shape in cost.shapes] == ["gs+doppler", "doppler"]
    assert cost.parameters == sum(30 * shape.parameters for shape in cost.shapes)


def test_statistics_of_norms_travel_and_are_no_parameters() -> None:
    (cost,) = stage_costs(configured("network.backbone=resnet18"))
    for shape in cost.shapes:
        assert (
            shape.values - shape.parameters == len(shape.label.split("+")) * 2 * 4800
        )  # BatchNorm's channels, mean and variance


def test_the_stages_of_the_published_plan_follow_each_other() -> None:
    """Five folds x three tasks x two replicas: 30 F, 30 G, 30 H and 30 vascularity networks, one puzzle."""
    jigsaw = "rating.pretraining=jigsaw"
    settings = configured("rating.folds=5", "rating.replicas=2", "rating.fusion=staged", jigsaw)
    costs = stage_costs(settings)
    assert [(cost.name, cost.networks, cost.after) for cost in costs] == [
        ("jigsaw", 1, ()),
        ("features", 90, ("jigsaw",)),
        ("fusion", 30, ("features",)),
    ]
    fusion = costs[-1]
    (head,) = fusion.shapes
    features, hidden = 8 * settings.network.width, settings.network.hidden
    assert head.values == 2 * features * hidden + hidden + 2 * hidden + 2
    assert fusion.frozen_bytes == 30 * 4 * head.frozen_values


@pytest.mark.parametrize(
    ("encoding", "fusion"),
    [
        *(("float32", "joint"), ("int8_int4", "joint")),
        *(
            pytest.param(*of, marks=pytest.mark.soak)
            for of in (
                ("float32", "staged"),
                ("int8_int4", "staged"),
                ("bfloat16", "staged"),
                ("bfloat16", "joint"),
            )
        ),
    ],
)
def test_a_campaign_sends_and_keeps_what_its_plan_says(tmp_path: Path, encoding: str, fusion: str) -> None:
    settings = make_settings(
        measurements=("hypertrophy",),
        grades=3,
        text=f'fusion = "{fusion}"\nreplicas = 1\n'
        f"[training]\nlocal_steps = 1\n[federation]\nrounds = 3\ngroup_bytes = 100_000\n"
        f'encoding = "{encoding}"',
    )
    folders = [make_site_folder(tmp_path / name, name=name, seed=i) for i, name in enumerate(("a", "b"))]
    sent: Counter[str] = Counter()
    largest: Counter[str] = Counter()

    def count(kind: str, record: RecordDict) -> None:
        size = sum(len(array.data) for arrays in record.array_records.values() for array in arrays.values())
        sent[kind] += size
        largest[kind] = max(largest[kind], size)

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type == wire.TRAIN:
            sent["messages"] += 1
            count("down", message.content)
            count("up", reply.content)
        return reply

    kept: list[int] = []

    def observe(event: campaign.Event) -> None:
        if isinstance(event, journal.RoundRecord):
            kept.append(_tensor_bytes(tmp_path / "run" / "journal"))

    with Workers(["cpu"], threads=1) as workers:
        grid = InProcessGrid(cast(ClientApp, app), folders, workers)
        campaign.run(
            grid,
            settings,
            roster=Roster.anyone(2),
            folder=tmp_path / "run",
            campaign="plan",
            observer=observe,
        )
    costs = stage_costs(settings)
    assert max(cost.groups for cost in costs) > 1
    assert sent["messages"] == 2 * sum(cost.site_messages for cost in costs)
    assert sent["down"] == 2 * sum(cost.site_down_bytes for cost in costs)
    assert sent["up"] == 2 * sum(cost.site_up_bytes for cost in costs)
    assert largest["down"] == max(cost.request_bytes for cost in costs)
    assert largest["up"] == max(cost.reply_bytes for cost in costs)
    assert _tensor_bytes(tmp_path / "run" / "networks") == sum(cost.networks_bytes for cost in costs)
    assert 0 < max(kept) <= sum(cost.journal_bytes for cost in costs)


def _tensor_bytes(folder: Path) -> int:
    files = folder.rglob("*.safetensors")
    return sum(values.nbytes for file in files for values in tensor_file.read(file)[1].values())


def test_hours_are_sums_of_measured_steps() -> None:
    """By hand: 6 fusion and 6 Doppler networks (2 models x 3), 2 rounds of 2 steps, 2 folds."""
    size = CohortSize(sites=3, training_exams=60, held_out_exams=50)
    card = cost_card.card(configured("evaluate.baselines=false"), cohort=size, measured=STEPS, workers=2)
    steps_s = 2 * 2 * 6 * (FUSION_STEP_S + SINGLE_STEP_S)
    validation_s = 3 * 10 * 12 * EXAM_S  # 2 + 1 rounds, a fold of 60 / 3 / 2 exams
    site_h = (steps_s + validation_s) / 3600
    assert card.site_hours == pytest.approx(site_h)
    assert card.federated_hours == pytest.approx(3 * site_h / 2)
    assert card.baselines_hours == 0
    assert card.evaluation_hours == pytest.approx(50 * 12 * EXAM_S / 2 / 3600)
    assert card.total_hours == pytest.approx(3 * site_h / 2 + 50 * 12 * EXAM_S / 2 / 3600)


def test_baselines_take_their_share() -> None:
    """One of two models: each of 3 sites alone takes half a site's time, all pooled three times as much."""
    size = CohortSize(sites=3, training_exams=60, held_out_exams=50)
    card = cost_card.card(configured("evaluate.baseline_models=1"), cohort=size, measured=STEPS, workers=2)
    assert card.baselines_hours == pytest.approx((1.5 + 1.5) * card.site_hours / 2)
    assert card.evaluation_hours == pytest.approx(50 * (12 + 5 * 6) * EXAM_S / 2 / 3600)
    (fewer,) = stage_costs(configured("rating.models=1"))
    assert card.baselines_bytes == 4 * (fewer.networks_bytes + fewer.journal_bytes)


def test_baselines_have_as_many_models_as_the_federation_unless_fewer_are_asked_for() -> None:
    size = CohortSize(sites=3, training_exams=60, held_out_exams=50)
    card = cost_card.card(configured(), cohort=size, measured=STEPS, workers=2)
    assert card.baselines_hours == pytest.approx((3 + 3) * card.site_hours / 2)
    assert card.evaluation_hours == pytest.approx(
        50 * (12 + 4 * 12) * EXAM_S / 2 / 3600
    )  # nothing is cut down


def test_networks_of_each_sites_own_take_their_share() -> None:
    """By hand: 12 networks, all of which train, 3 times 4 steps, and 4 times a fold of 60 / 3 / 2 exams is scored."""
    size = CohortSize(sites=3, training_exams=60, held_out_exams=50)
    overrides = ("evaluate.baselines=false", "personal.steps=10", "personal.checks=3")
    card = cost_card.card(configured(*overrides), cohort=size, measured=STEPS, workers=2)
    site_s = 12 * 6 * (FUSION_STEP_S + SINGLE_STEP_S) + 4 * 10 * 12 * EXAM_S
    assert card.personal_hours == pytest.approx(3 * site_s / 2 / 3600)
    without = cost_card.card(configured(overrides[0]), cohort=size, measured=STEPS, workers=2)
    assert without.personal_hours == 0
    assert card.total_hours == pytest.approx((without.total_hours or 0) + (card.personal_hours or 0))


def test_more_workers_than_there_is_work_do_not_help() -> None:
    size = CohortSize(sites=1, training_exams=20, held_out_exams=10)
    overrides = ("evaluate.baselines=false", "compute.groups_in_flight=2")
    card = cost_card.card(configured(*overrides), cohort=size, measured=STEPS, workers=64)
    assert card.federated_hours == pytest.approx(card.site_hours / 2)


def test_without_a_cohort_what_depends_on_it_is_unknown() -> None:
    card = cost_card.card(configured(cohort=""), cohort=None, measured=STEPS, workers=2)
    unknown = ("federated_hours", "baselines_hours", "evaluation_hours", "total_hours", "spool_bytes")
    assert all(asdict(card)[name] is None for name in unknown)
    assert card.site_hours == pytest.approx(2 * 2 * 6 * (FUSION_STEP_S + SINGLE_STEP_S) / 3600)
    with pytest.raises(ConfigurationError, match=r"add a \[cohort\]"):
        cost_card.exams_per_step(SPEC, configured("training.sampling=all", cohort=""), None)


def test_the_centre_holds_the_groups_in_flight() -> None:
    one, two, all_at_once = (
        stage_costs(configured(f"compute.groups_in_flight={number}", "federation.group_bytes=1"))[0]
        for number in (1, 2, 1000)
    )
    largest = one.spool_bytes_per_site
    assert one.groups == 12
    assert two.spool_bytes_per_site == 2 * largest
    assert all_at_once.spool_bytes_per_site == all_at_once.networks_bytes
    assert one.centre_memory_bytes == 3 * largest
    assert two.centre_memory_bytes == 5 * largest


def test_half_the_bytes_a_value_half_the_bytes_sent() -> None:
    (wide,), (narrow,) = (
        stage_costs(configured(f"federation.encoding={e}")) for e in ("float32", "bfloat16")
    )
    assert wide.site_down_bytes == 2 * narrow.site_down_bytes
    assert wide.networks_bytes == narrow.networks_bytes


@pytest.mark.parametrize("rounds", [1, 12])
def test_eight_bits_there_and_four_back_are_a_quarter_of_the_bytes(rounds: int) -> None:
    whole, quarter = (
        sum(
            cost.site_down_bytes + cost.site_up_bytes
            for cost in stage_costs(
                configured(f"federation.encoding={e}", f"federation.rounds={rounds}", "network.width=8")
            )
        )
        for e in ("float32", "int8_int4")
    )
    assert 0.15 * whole < quarter <= 0.25 * whole


def test_size_of_a_phantom_cohort() -> None:
    cohort = "cohort.phantom = {sites = 3, patients = 10, exams_per_patient = 4, held_out = 0.25}"
    size = cost_card.cohort_size(configured(cohort=cohort))
    assert size == CohortSize(sites=3, training_exams=90, held_out_exams=30 + 40)  # and the unseen site's 40


def test_size_of_a_folder_of_sites(tmp_path: Path) -> None:
    make_site_folder(tmp_path / "a", name="a", patients=6, exams_per_patient=2, held_out_patients=1)
    make_site_folder(tmp_path / "b", name="b", patients=5, exams_per_patient=2)
    make_site_folder(tmp_path / "c", name="c", patients=2, exams_per_patient=2)
    sites = [{"name": name, "trains": name != "c"} for name in "abc"]
    (tmp_path / "cohort.json").write_text(json.dumps({"sites": sites}), encoding="utf-8")
    settings = configured(f"cohort.folder={tmp_path}", "evaluate.held_out=0.5")
    assert cost_card.cohort_size(settings) == CohortSize(sites=2, training_exams=15, held_out_exams=2 + 5 + 4)
    ungrade(tmp_path / "a", (0, 1, 11))  # the last is held out: nothing of them is counted
    assert cost_card.cohort_size(settings) == CohortSize(sites=2, training_exams=13, held_out_exams=1 + 5 + 4)
    with pytest.raises(DataError, match="nowhere"):
        cost_card.cohort_size(configured())


def test_size_of_a_table_of_labels(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("path\n" + "a.png\n" * 10, encoding="utf-8")
    cohort = (
        f'cohort.public = {{images = "x", labels = "{labels}", columns = {{}}, sites = 2, held_out = 0.3}}'
    )
    size = cost_card.cohort_size(configured(cohort=cohort))
    assert size == CohortSize(sites=2, training_exams=7, held_out_exams=3)


def test_a_full_batch_is_a_sites_training_exams() -> None:
    size = CohortSize(sites=3, training_exams=60, held_out_exams=0)
    assert cost_card.exams_per_step(SPEC, configured("training.sampling=all"), size) == 10
    assert cost_card.exams_per_step(SPEC, configured(), size) == 8


def test_one_measurement_a_shape_leaves_the_process_as_it_was() -> None:
    settings = configured('compute.devices=["cpu"]')
    specs = [spec for stage in stages(settings) for spec in stage.networks]
    threads = torch.get_num_threads()
    state = torch.random.get_rng_state()
    found = measure.measure_all(specs, settings, batch_size=lambda spec: 6, budget_s=0.5)
    assert [m.label for m in found] == ["gs+doppler", "doppler"]
    for m in found:
        assert 0 < m.step_s < math.inf
        assert 0 < m.exam_s < math.inf
        assert m.batch_size == 6
        assert 4 <= m.measured_batch_size <= 6
        assert m.steps >= 1
        assert (m.device, m.threads, m.at_once) == ("cpu", 1, 1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_where_time_is_short_fewer_exams_and_one_step_are_measured() -> None:
    settings = configured('compute.devices=["cpu"]')
    spec = stages(settings)[0].networks[0]
    m = measure.measure(spec, settings, batch_size=5000, budget_s=0.0)
    assert (m.measured_batch_size, m.steps, m.batch_size) == (4, 1, 5000)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["synofed", "plan", *map(str, arguments)])
    with pytest.raises(SystemExit) as raised:
        synofed.main()
    return int(raised.value.code or 0)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    make_site_folder(tmp_path / "cohort" / "north", name="north")
    path = tmp_path / "small.toml"
    path.write_text(CONFIG.format(folder=tmp_path / "cohort"), encoding="utf-8")
    return path


def test_the_command_says_what_will_happen_and_leaves_nothing(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert command(monkeypatch, config) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "stage fusion",
        "starts after",
        "frozen",
        "a round and site",
        "journal",
        "centre's memory",
        "baselines",
        "measured now",
    ):
        assert words in text
    assert "No differential privacy: epsilon is" in text
    assert command(monkeypatch, config, "--set", "federation.rounds=7", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    settings = configuration.load(config, overrides=["federation.rounds=7"])
    assert content["stages"] == json.loads(json.dumps([asdict(cost) for cost in stage_costs(settings)]))
    assert content["plan_hash"] == settings.plan_hash()
    assert content["cohort"]["sites"] == 1
    assert content["total_hours"] > 0
    assert content["privacy"] == NO_PRIVACY
    given = synofed.plan(config, overrides=["federation.rounds=7"])
    assert given.keys() == content.keys()
    assert (given["plan_hash"], given["site_down_bytes"]) == (
        content["plan_hash"],
        content["site_down_bytes"],
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("override", "code", "says"),
    [
        ("federation.round=3", 3, "federation.round: no such setting"),
        ("method=nothing", 3, "nothing"),
        ("cohort.folder=nowhere", 4, "nowhere"),
    ],
)
def test_what_is_wrong_has_its_exit_code(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    code: int,
    says: str,
) -> None:
    assert command(monkeypatch, config, "--set", override) == code
    assert says in capsys.readouterr().err
