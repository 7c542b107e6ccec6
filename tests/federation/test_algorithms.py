"""What every federated algorithm has to hold, over real sites in process, and what each is for."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message
from safetensors.numpy import load_file

from client.app import app as client_app
from client.state import site_state
from common import blocks, wire
from common.errors import CampaignError, ConfigurationError
from common.messages import NetworkReply, Refusal, TrainReply, TrainRequest
from common.settings import Settings
from server.campaign import campaign
from server.campaign.campaign import Event, Status
from server.campaign.campaign_cost import stage_costs
from server.rounds.journal import RoundRecord
from tests.federation.test_campaign import (
    FULL_BATCH_STEP,
    assert_same,
    configured,
    folders,
    hostile,
    run,
    trained,
)
from tests.marks import SOAK_CI
from tests.site_folders import small_site

__all__ = ["folders"]
ALGORITHMS = {
    "fedavg": "",
    "kept": 'optimiser_state = "kept"',
    "fedavgm": 'algorithm = "fedavgm"',
    "fedprox": 'algorithm = "fedprox"\nproximal_mu = 0.5',
    "scaffold": 'algorithm = "scaffold"',
    "fedbn": 'algorithm = "fedbn"',
    "fedadam": 'algorithm = "fedadam"',
    "fedyogi": 'algorithm = "fedyogi"',
    "int8_int4": 'encoding = "int8_int4"',
    "median": 'rule = "median"',
    "own": 'algorithm = "tests.federation.own_algorithm:Halved"',
}
STATEFUL = ("kept", "scaffold", "fedbn", "int8_int4")


def of(name: str, *, rounds: int = 3, text: str = "") -> Settings:
    return configured(f"[federation]\nrounds = {rounds}\n{ALGORITHMS[name]}\n{text}")


def stop_after(rounds: int) -> Callable[[Event], None]:
    seen: list[Event] = []

    def observe(event: Event) -> None:
        seen.append(event)
        if sum(isinstance(e, RoundRecord) for e in seen) == rounds:
            raise KeyboardInterrupt

    return observe


@pytest.fixture(scope="module")
def whole(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """An algorithm's undisturbed campaign of two rounds, run once."""
    base = tmp_path_factory.mktemp("whole")

    @cache
    def once(name: str) -> Path:
        outcome = run(folders, of(name, rounds=2), base / name)
        assert outcome.status is Status.COMPLETE_ALL_SITES
        return base / name

    return once


@pytest.mark.parametrize(
    "name",
    [
        *("fedavg", "scaffold", "int8_int4"),
        pytest.param("fedbn", marks=SOAK_CI),
        *(
            pytest.param(n, marks=pytest.mark.soak)
            for n in ALGORITHMS
            if n not in ("fedavg", "scaffold", "fedbn", "int8_int4")
        ),
    ],
)
def test_it_resumes_after_any_round_and_in_any_order_to_the_same_bits(
    folders: list[Path], whole: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    assert all(np.isfinite(values).all() for values in trained(whole(name)).values())
    for _ in range(20):  # begun anew after every single round, other workers and order each time
        try:
            run(folders[::-1], of(name, rounds=2), tmp_path / "parts", workers=3, observer=stop_after(1))
        except KeyboardInterrupt:
            continue
        break
    assert_same(whole(name), tmp_path / "parts")
    assert not list((whole(name) / "journal").rglob("state_*"))  # nothing is left to train


def test_all_of_them_are_different(whole: Callable[[str], Path]) -> None:
    results = {name: np.concatenate(list(_final(whole(name)).values())) for name in ALGORITHMS}
    names = list(results)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not np.array_equal(results[one], results[other]), (one, other)


def _final(folder: Path) -> dict[str, np.ndarray]:
    """The weights after the last round, whichever was the best."""
    paths = sorted((folder / "journal").rglob("round_*.safetensors"))
    return load_file(paths[-1])


@pytest.mark.parametrize(
    "name", ["kept", *(pytest.param(n, marks=SOAK_CI) for n in ("scaffold", "fedbn", "int8_int4"))]
)
def test_a_site_that_missed_a_round_goes_on_from_its_last_one_that_counted(
    folders: list[Path], tmp_path: Path, name: str
) -> None:
    """South trains round 2 too and writes its state, but the reply is dropped: it is as if it had not trained."""
    settings = of(name, text="quorum = 2")
    state_rounds: dict[str, list[int]] = {}
    late = hostile("south", _spoilt_in_round(2))

    def listening(message: Message, context: Context) -> Message:
        if message.metadata.message_type == wire.TRAIN:
            request = wire.decode(TrainRequest, message.content)
            site = Path(str(context.node_config["site-folder"])).name
            state_rounds.setdefault(site, []).append(request.state_round)
        return late(message, context)

    def absent(message: Message, context: Context) -> Message:
        if message.metadata.message_type == wire.TRAIN:
            request = wire.decode(TrainRequest, message.content)
            if request.server_round == 2 and "south" in str(context.node_config["site-folder"]):
                refusal = wire.encode(Refusal(site="south", code="away"))
                return Message(refusal, reply_to=message)
        return client_app(message, context)

    run(folders, settings, tmp_path / "late", app=listening)
    assert state_rounds == {"north": [0, 1, 2, 3], "south": [0, 1, 1, 3], "west": [0, 1, 2, 3]}
    run(folders, settings, tmp_path / "absent", app=absent)
    for key, values in _final(tmp_path / "late").items():
        np.testing.assert_array_equal(values, _final(tmp_path / "absent")[key])


def _spoilt_in_round(server_round: int) -> Callable[[TrainReply], TrainReply]:
    calls: list[str] = []

    def change(reply: TrainReply) -> TrainReply:
        calls.append(reply.request_id)
        if len(set(calls)) != server_round:
            return reply
        return replace(
            reply,
            networks={
                n: replace(r, update=np.full_like(r.update, np.nan) if r.update is not None else None)
                for n, r in reply.networks.items()
            },
        )

    return change


@pytest.mark.parametrize("name", STATEFUL)
def test_a_site_that_lost_its_state_says_so_and_nothing_else(tmp_path: Path, name: str) -> None:
    sites = [small_site(tmp_path / n, seed=i) for i, n in enumerate(("north", "south"))]

    def lose(event: Event) -> None:
        if isinstance(event, RoundRecord) and event.round == 1:
            shutil.rmtree(sites[1] / "state")

    with pytest.raises(CampaignError, match="south: refused: state"):
        run(sites, of(name), tmp_path / "run", observer=lose)
    assert "put the folder back" in (sites[1] / "log.txt").read_text(encoding="utf-8")


def test_runs_of_one_plan_do_not_share_state_and_can_forget_it(tmp_path: Path) -> None:
    site = small_site(tmp_path / "north")
    settings = of("scaffold", rounds=2)
    plan_hash = settings.plan_hash()
    for name in "ab":
        run([site], settings, tmp_path / name)
    kept = site_state.folder(site, plan_hash=plan_hash)
    names = {campaign.run_name(tmp_path / name) for name in "ab"}
    assert {path.name for path in kept.iterdir()} == names
    assert_same(tmp_path / "a", tmp_path / "b")
    for name in names:
        site_state.forget(site, plan_hash=plan_hash, run=name)
    assert not (site / "state").exists()


@pytest.mark.parametrize("name", STATEFUL)
def test_two_rounds_of_state_are_kept_and_no_more(tmp_path: Path, name: str) -> None:
    site = small_site(tmp_path / "north")
    run([site], of(name, rounds=5), tmp_path / "run")
    for folder in (site / "state").glob("*/*/*/"):
        assert sorted(path.stem for path in folder.iterdir()) == ["round_000004", "round_000005"]


def test_fedavg_keeps_nothing_at_the_sites(folders: list[Path], tmp_path: Path) -> None:
    settings = of("fedavg", rounds=1, text="deadline_s = 77.0")
    run(folders, settings, tmp_path)
    kept = [
        path for f in folders for path in site_state.folder(f, plan_hash=settings.plan_hash()).glob("*/*")
    ]
    assert {path.name for path in kept} == {"data.json"}


def _one_site(tmp_path: Path) -> list[Path]:
    return [small_site(tmp_path / "one")]


@pytest.mark.parametrize("name", [name for name in STATEFUL if name != "int8_int4"])  # which rounds
def test_with_one_site_it_is_fedavg(tmp_path: Path, name: str) -> None:
    site = _one_site(tmp_path)
    finals = {}
    for other in ("fedavg", name):
        settings = of(other).model_copy(update={"training": FULL_BATCH_STEP})
        run(site, settings, tmp_path / other)
        finals[other] = _final(tmp_path / other)
    for key, values in finals["fedavg"].items():
        np.testing.assert_allclose(finals[name][key], values, atol=1e-6)


def _far_off(reply: TrainReply) -> TrainReply:
    """Finite, and large."""

    def thrown(network: NetworkReply) -> NetworkReply:
        return replace(network, update=network.update * np.float32(-1000))  # type: ignore[operator]

    return replace(
        reply,
        networks={n: thrown(r) if r.update is not None else r for n, r in reply.networks.items()},
    )


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("five")
    return [small_site(base / n, seed=i) for i, n in enumerate(("east", "middle", "north", "south", "west"))]


@pytest.mark.parametrize(
    "rule",
    ["mean", "median", *(pytest.param(rule, marks=pytest.mark.soak) for rule in ("trimmed_mean", "krum"))],
)
def test_one_poisoned_site_ruins_the_mean_and_no_robust_rule(
    five: list[Path], tmp_path: Path, rule: str
) -> None:
    settings = configured(f'[federation]\nrounds = 2\nrule = "{rule}"')
    run(five, settings, tmp_path / "clean")
    run(five, settings, tmp_path / "poisoned", app=hostile("south", _far_off))
    clean, poisoned = _final(tmp_path / "clean"), _final(tmp_path / "poisoned")
    distance = max(float(np.abs(poisoned[key] - clean[key]).max()) for key in clean)
    assert (distance > 0.05) == (rule == "mean"), distance


def test_an_outlying_update_is_refused_with_the_sites_name_and_leaves_no_trace(
    five: list[Path], tmp_path: Path
) -> None:
    text = '[federation]\nrounds = 2\nquorum = 4\noutliers = "refuse"'
    events: list[Event] = []
    outcome = run(
        five, configured(text), tmp_path / "a", app=hostile("south", _far_off), observer=events.append
    )
    assert outcome.missing == {"south": 2}
    first = next(event for event in events if isinstance(event, RoundRecord))
    assert "the update of south has norm" in first.dropped["south"]
    with_nan = '[federation]\nrounds = 2\nquorum = 4\noutliers = "refuse"'
    run(five, configured(with_nan), tmp_path / "b", app=hostile("south", _spoilt_always))
    for key, values in _final(tmp_path / "a").items():
        np.testing.assert_array_equal(values, _final(tmp_path / "b")[key])


def _spoilt_always(reply: TrainReply) -> TrainReply:
    return _spoilt_in_round(1)(reply)


def test_with_all_sites_needed_an_outlier_ends_the_campaign(five: list[Path], tmp_path: Path) -> None:
    settings = configured('[federation]\nrounds = 2\noutliers = "refuse"')
    with pytest.raises(CampaignError, match="the update of south has norm"):
        run(five, settings, tmp_path, app=hostile("south", _far_off))


def test_an_outlying_update_can_be_flagged_and_used(five: list[Path], tmp_path: Path) -> None:
    events: list[Event] = []
    settings = configured('[federation]\nrounds = 1\noutliers = "flag"')
    outcome = run(five, settings, tmp_path, app=hostile("south", _far_off), observer=events.append)
    assert outcome.missing == {}
    first = next(event for event in events if isinstance(event, RoundRecord))
    assert set(first.outlying) == {"south"}
    assert "south" in first.participants


@pytest.mark.parametrize(("rule", "says"), [("trimmed_mean", "trimmed share"), ("krum", "Krum")])
def test_a_rule_that_needs_more_sites_says_so_before_anything_is_trained(
    folders: list[Path], tmp_path: Path, rule: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"3 sites.*{says}"):
        run(folders, configured(f'[federation]\nrule = "{rule}"'), tmp_path)
    assert not (tmp_path / "journal").exists()


def test_a_centre_that_sends_a_control_of_another_size_is_refused(
    folders: list[Path], tmp_path: Path
) -> None:
    def short(message: Message, context: Context) -> Message:
        if message.metadata.message_type == wire.TRAIN:
            request = wire.decode(TrainRequest, message.content)
            cut = {n: {k: v[:-1] for k, v in arrays.items()} for n, arrays in request.extra.items()}
            message.content = wire.encode(replace(request, extra=cut))
        return client_app(message, context)

    with pytest.raises(CampaignError, match="refused: update"):
        run(folders, of("scaffold", rounds=1), tmp_path, app=short)
    assert "values of control" in (folders[0] / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scaffold", 'encoding = "int8_int4"'),
        pytest.param("scaffold", 'encoding = "bfloat16"', marks=pytest.mark.soak),
        pytest.param("fedadam", "group_bytes = 100_000", marks=pytest.mark.soak),
    ],
)
def test_the_cost_card_counts_what_an_algorithm_sends_and_keeps(
    folders: list[Path], tmp_path: Path, name: str, text: str
) -> None:
    sent = {"down": 0, "up": 0}
    journal: list[int] = []

    def counting(message: Message, context: Context) -> Message:
        answer = client_app(message, context)
        if message.metadata.message_type == wire.TRAIN:
            for way, content in (("down", message.content), ("up", answer.content)):
                arrays = [a for record in content.array_records.values() for a in record.values()]
                sent[way] += sum(len(array.data) for array in arrays)
        return answer

    def observe(event: Event) -> None:
        files = (tmp_path / "journal").rglob("*.safetensors")
        journal.append(sum(v.nbytes for file in files for v in load_file(file).values()))

    settings = of(name, text=text)
    run(folders, settings, tmp_path, app=counting, observer=observe)
    (cost,) = stage_costs(settings)
    sites = len(folders)
    assert sent == {"down": sites * cost.site_down_bytes, "up": sites * cost.site_up_bytes}
    assert cost.networks_bytes < max(journal) <= cost.journal_bytes
    plain = stage_costs(of("fedavg", text=text))[0]
    assert cost.journal_bytes > plain.journal_bytes
    assert cost.centre_memory_bytes > plain.centre_memory_bytes


def test_the_cost_card_counts_what_a_site_keeps_of_its_optimisers(tmp_path: Path) -> None:
    site = small_site(tmp_path / "north")
    held: list[int] = []

    def observe(event: Event) -> None:
        files = (site / "state").rglob("round_*.safetensors")
        held.append(sum(v.nbytes for file in files for v in load_file(file).values()))

    settings = of("kept")
    run([site], settings, tmp_path / "run", observer=observe)
    (cost,) = stage_costs(settings)
    steps = 2 * 4 * cost.networks  # one number per network and round
    assert cost.site_state_bytes // 2 < max(held) <= cost.site_state_bytes + steps
    assert stage_costs(of("fedavg"))[0].site_state_bytes == 0


def test_the_ensemble_is_what_was_scored_and_a_site_keeps_what_its_update_lost(tmp_path: Path) -> None:
    site = small_site(tmp_path / "north")
    settings = of("int8_int4", rounds=2)
    outcome = run([site], settings, tmp_path / "run")
    (cost,) = stage_costs(settings)
    assert cost.site_state_bytes == 2 * cost.networks_bytes
    (shape,) = cost.shapes
    (journal,) = (tmp_path / "run" / "journal").glob("*")
    for name, values in trained(tmp_path / "run").items():
        in_bytes = blocks.encode(values, bits=8)
        assert len(in_bytes) == blocks.size_bytes(shape.values, shape.parameters, bits=8)
        best = outcome.results[name].best_round
        full = load_file(journal / f"round_{best:06d}.safetensors")[name]
        np.testing.assert_array_equal(blocks.rounded(full, shape.parameters, bits=8), values)
        assert not np.array_equal(full, values)
    kept = load_file(next((site / "state").rglob("round_000002.safetensors")))
    assert set(kept) == {"residual"}
    assert np.abs(kept["residual"]).max() > 0
