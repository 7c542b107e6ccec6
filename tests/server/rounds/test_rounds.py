import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import CampaignError
from common.messages import Refusal, SumReply, TrainReply
from common.secure_aggregation.messages import KeysReply
from server.rounds import journal
from server.rounds.journal import Journal
from server.rounds.quorum import NOTHING
from server.rounds.rounds import GroupRounds
from tests.server_rounds import SITES, group_rounds, reply, settings
from tests.site_folders import make_settings


def _run(
    rounds: GroupRounds, *, aucs: tuple[float, ...] = (0.5,) * 9, sites: tuple[str, ...] = SITES
) -> None:
    while not rounds.done:
        request = rounds.request()
        for site in sites:
            rounds.accept(site, reply(request, site, auc=aucs[request.server_round - 1]))
        rounds.close()


def _weights(rounds: GroupRounds) -> np.ndarray:
    (network,) = rounds.results()
    return network.weights


def test_result_does_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    configuration = settings("[federation]\nrounds = 2")
    results = []
    for index, order in enumerate(itertools.permutations(SITES)):
        rounds = group_rounds(tmp_path / str(index), configuration)
        _run(rounds, sites=order, aucs=(0.5, 0.6, 0.7))
        results.append(_weights(rounds))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_best_round_is_the_one_whose_weights_scored_best(tmp_path: Path) -> None:
    rounds = group_rounds(tmp_path, settings("[federation]\nrounds = 3"))
    _run(rounds, aucs=(0.5, 0.9, 0.7, 0.8))
    result = next(rounds.results()).result
    assert result.best_round == 1  # the request of round 2 carries the weights after round 1
    assert result.auc == pytest.approx(0.9)


def test_the_journal_keeps_the_histograms_of_the_selected_round_over_all_sites(tmp_path: Path) -> None:
    configuration = settings("[federation]\nrounds = 3")
    journals, plan_hash = tmp_path / "journal", configuration.plan_hash()
    assert journal.validation(journals, plan_hash=plan_hash) == {}
    rounds = group_rounds(tmp_path, configuration)
    _run(rounds, aucs=(0.5, 0.9, 0.7, 0.8))
    (network,) = rounds.results()
    (found,) = journal.validation(journals, plan_hash=plan_hash).values()
    assert found.auc() == pytest.approx(network.result.auc) == pytest.approx(0.9)
    assert found.exams == (10 * len(SITES), 100 * len(SITES))
    (folder,) = journals.iterdir()
    entry = Journal(journals, folder.name).last(plan_hash=plan_hash)
    assert entry is not None
    without = {name: replace(best, histograms=()) for name, best in entry.best.items()}
    Journal(journals, folder.name).write(replace(entry, best=without), {})
    assert journal.validation(journals, plan_hash=plan_hash) == {}


def test_what_a_killed_process_left_of_a_round_is_removed(tmp_path: Path) -> None:
    rounds = group_rounds(tmp_path, settings("[federation]\nrounds = 1"))
    (folder,) = [path for path in (tmp_path / "journal").iterdir() if path.is_dir()]
    (folder / ".round_0001.safetensors-00ff00ff").write_bytes(bytes(100))
    _run(rounds)
    assert not list(folder.glob(".*"))


def test_only_the_last_and_the_best_rounds_stay_on_disk(tmp_path: Path) -> None:
    rounds = group_rounds(tmp_path, settings("[federation]\nrounds = 4"))
    _run(rounds, aucs=(0.5, 0.9, 0.7, 0.8, 0.6))
    kept = sorted(path.name for path in (tmp_path / "journal").rglob("round_*"))
    assert kept == ["round_000001.safetensors", "round_000005.safetensors"]


def test_taken_up_from_the_journal_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    configuration = settings("[federation]\nrounds = 3")
    whole = group_rounds(tmp_path / "a", configuration)
    _run(whole, aucs=(0.5, 0.6, 0.7, 0.8))
    for _ in range(4):  # a new process for each round, killed half-way through the next
        part = group_rounds(tmp_path / "b", configuration)
        request = part.request()
        for site in SITES:
            part.accept(site, reply(request, site, auc=0.4 + 0.1 * request.server_round))
        part.close()
        if not part.done:
            half = group_rounds(tmp_path / "b", configuration)
            half.accept(SITES[0], reply(half.request(), SITES[0], scale=99.0))
    np.testing.assert_array_equal(_weights(whole), _weights(group_rounds(tmp_path / "b", configuration)))


def test_the_same_request_has_the_same_id_and_another_round_another(tmp_path: Path) -> None:
    configuration = settings("[federation]\nrounds = 2")
    first = group_rounds(tmp_path, configuration).request()
    again = group_rounds(tmp_path, configuration)
    assert again.request().request_id == first.request_id
    for site in SITES:
        again.accept(site, reply(first, site))
    again.close()
    assert again.request().request_id != first.request_id


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda r: _with_update(r, np.array([np.nan], dtype=np.float32)), "parameters"),
        (lambda r: _with_update(r, np.full(_size(r), np.nan, dtype=np.float32)), "finite"),
        (lambda r: _with_update(r, np.full(_size(r), np.inf, dtype=np.float32)), "finite"),
        (lambda r: replace(r, request_id="stale"), "request"),
        (lambda r: replace(r, site="elsewhere"), "request"),
        (lambda r: replace(r, networks={"other": next(iter(r.networks.values()))}), "updates of"),
        (lambda r: Refusal(site=r.site, code="data"), "refused: data"),
    ],
)
def test_a_bad_reply_is_dropped_with_its_reason(
    tmp_path: Path, wrong: Callable[[TrainReply], TrainReply | Refusal], reason: str
) -> None:
    rounds = group_rounds(tmp_path, settings("[federation]\nrounds = 1\nquorum = 2"))
    request = rounds.request()
    rounds.accept(SITES[0], wrong(reply(request, SITES[0])))
    for site in SITES[1:]:
        rounds.accept(site, reply(request, site))
    record = rounds.close()
    assert record.participants == SITES[1:]
    assert reason in record.dropped[SITES[0]]


def test_a_dropped_update_leaves_no_trace(tmp_path: Path) -> None:
    configuration = settings("[federation]\nrounds = 1\nquorum = 2")
    results = []
    for index, bad in enumerate((True, False)):
        rounds = group_rounds(tmp_path / str(index), configuration)
        request = rounds.request()
        if bad:
            rounds.accept(SITES[0], reply(request, SITES[0], scale=float("nan")))
        else:
            rounds.drop(SITES[0], "left out")
        for site in SITES[1:]:
            rounds.accept(site, reply(request, site))
        rounds.close()
        _run(rounds)
        results.append(_weights(rounds))
    np.testing.assert_array_equal(results[0], results[1])


def test_a_second_reply_changes_nothing(tmp_path: Path) -> None:
    configuration = settings("[federation]\nrounds = 1")
    once, twice = (group_rounds(tmp_path / name, configuration) for name in "ab")
    for rounds in (once, twice):
        request = rounds.request()
        for site in SITES:
            rounds.accept(site, reply(request, site))
        if rounds is twice:
            rounds.accept(SITES[0], reply(request, SITES[0], scale=50.0))
        rounds.close()
        _run(rounds)
    np.testing.assert_array_equal(_weights(once), _weights(twice))


def test_below_the_quorum_the_round_fails_and_says_who_and_why(tmp_path: Path) -> None:
    rounds = group_rounds(tmp_path, settings("[federation]\nrounds = 1"))
    request = rounds.request()
    rounds.accept(SITES[0], Refusal(site=SITES[0], code="policy"))
    for site in SITES[1:]:
        rounds.accept(site, reply(request, site))
    with pytest.raises(CampaignError, match=r"3 of 3 sites, got 2 \(north: refused: policy\)"):
        rounds.close()
    assert group_rounds(tmp_path, settings("[federation]\nrounds = 1")).records == ()


def _silent(good: TrainReply) -> TrainReply:
    nothing = {n: replace(r, num_examples=0, loss=float("nan")) for n, r in good.networks.items()}
    return replace(good, networks=nothing)


def test_a_site_without_weight_is_no_participant_and_changes_nothing(tmp_path: Path) -> None:
    configuration = settings("[federation]\nrounds = 1\nquorum = 2")
    rounds, without = (
        group_rounds(tmp_path / "with", configuration),
        group_rounds(tmp_path / "no", configuration),
    )
    for _ in range(2):  # the round that trains, and the one that scores
        request, same = rounds.request(), without.request()
        for site in SITES[1:]:
            rounds.accept(site, reply(request, site))
            without.accept(site, reply(same, site))
        rounds.accept("north", _silent(reply(request, "north")))
        without.drop("north", "away")
        record = rounds.close()
        without.close()
        assert record.participants == SITES[1:]
        assert record.dropped == {"north": NOTHING}
    np.testing.assert_array_equal(_weights(rounds), _weights(without))


def test_nobody_to_train_a_network_is_the_end_and_nothing_is_committed(tmp_path: Path) -> None:
    rounds = group_rounds(tmp_path, settings("[federation]\nrounds = 1"))
    request = rounds.request()
    for site in SITES:
        rounds.accept(site, _silent(reply(request, site)))
    with pytest.raises(CampaignError, match="no site has a training example for hypertrophy"):
        rounds.close()
    assert group_rounds(tmp_path, settings("[federation]\nrounds = 1")).records == ()


def test_what_nobody_trained_ends_the_campaign_only_once_all_were_asked(tmp_path: Path) -> None:
    """The site that is away may be the one that has exams; after the last round nobody can come any more."""
    text = 'fusion = "joint"\nreplicas = 1\nmodels = 1\n[federation]\nrounds = 2\nquorum = 1'
    configuration = make_settings(measurements=("here", "elsewhere"), grades=2, text=text)
    rounds = group_rounds(tmp_path, configuration)
    for server_round in (1, 2):
        request = rounds.request()
        (first,) = (name for name in request.weights if "elsewhere" in name)
        good = reply(request, "north")
        silent = replace(good.networks[first], num_examples=0)
        rounds.accept("north", replace(good, networks={**good.networks, first: silent}))
        for site in SITES[1:]:
            rounds.drop(site, "away")
        if server_round == 1:
            assert rounds.close().untrained == (first,)
            rounds = group_rounds(tmp_path, configuration)  # the journal knows it
    with pytest.raises(CampaignError, match=f"Round 2 of .*{first}"):
        rounds.close()


def test_without_histograms_the_last_round_is_taken_with_threshold_one_half(tmp_path: Path) -> None:
    rounds = group_rounds(tmp_path, settings("[federation]\nrounds = 2"))
    while not rounds.done:
        request = rounds.request()
        for site in SITES:
            good = reply(request, site)
            kept = {n: replace(r, histograms=None) for n, r in good.networks.items()}
            rounds.accept(site, replace(good, networks=kept))
        rounds.close()
    result = next(rounds.results()).result
    assert (result.best_round, result.threshold) == (2, 0.5)


def test_a_journal_of_another_plan_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    _run(group_rounds(tmp_path, settings("[federation]\nrounds = 1")))
    with pytest.raises(CampaignError, match="belongs to plan"):
        group_rounds(tmp_path, settings("[federation]\nrounds = 2"))
    path = sorted((tmp_path / "journal").rglob("round_*"))[-1]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CampaignError, match="cannot be read"):
        group_rounds(tmp_path, settings("[federation]\nrounds = 1"))


def test_records_are_plain_json(tmp_path: Path) -> None:
    rounds = group_rounds(tmp_path, settings("[federation]\nrounds = 1"))
    _run(rounds)
    assert [record.round for record in rounds.records] == [1, 2]
    assert json.dumps([list(record.participants) for record in rounds.records])


def _size(r: TrainReply) -> int:
    update = next(iter(r.networks.values())).update
    assert update is not None
    return update.size


def _with_update(r: TrainReply, update: np.ndarray) -> TrainReply:
    return replace(r, networks={name: replace(n, update=update) for name, n in r.networks.items()})


def test_a_phase_of_a_sum_is_no_answer_to_a_request_to_train(tmp_path: Path) -> None:
    rounds = group_rounds(tmp_path, settings("[federation]\nrounds = 1\nquorum = 2"))
    request = rounds.request()
    says = KeysReply(site="north", mask_key=b"1" * 32, share_key=b"2" * 32, signature=b"3" * 64)
    rounds.accept("north", SumReply(site="north", request_id=request.request_id, says=says))
    for site in SITES[1:]:
        rounds.accept(site, reply(request, site))
    assert "secure sum" in rounds.close().dropped["north"]
