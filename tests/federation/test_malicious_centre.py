"""What a centre that means harm can ask of a site, and what it gets: a fixed code, and an entry in the site's log."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from client.consent import answered_rounds, campaigns
from client.site.site import Site
from client.state import decisions
from client.state.decisions import Status
from common import wire
from common.messages import PlanRequest, Refusal, Signed, WeightsRef
from common.methods.stages import networks
from common.networks import build
from tests import asking
from tests.asking import Centre


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    """A centre whose campaign its site has approved."""
    asks = Centre(asking.site(tmp_path / "north"))
    assert isinstance(asks.plan(asks.plan_request()), Refusal)
    campaigns.decide(Site.open(asks.folder), asks.settings.plan_hash(), Status.APPROVED, by="officer")
    assert isinstance(asks.plan(asks.plan_request()), Signed)
    return asks


def files(folder: Path) -> set[str]:
    """All files at and beside a site, but for what every answer writes."""
    found = {str(path.relative_to(folder.parent)) for path in folder.parent.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith(("log.txt", "audit.jsonl"))}


def test_an_honest_request_is_answered(centre: Centre) -> None:
    answer = centre.train(centre.train_request())
    assert isinstance(answer, Signed)
    (network,) = answer.reply.networks.values()
    assert network.update is not None
    assert network.num_examples > 0


def test_a_plan_that_differs_from_the_approved_hash(centre: Centre) -> None:
    plan = asking.relabelled(centre.plan_request(), seed=5)
    centre.refused(centre.plan(plan), "policy", says="a plan that matches its hash")
    more = centre.settings.model_copy(
        update={"federation": centre.settings.federation.model_copy(update={"rounds": 4})}
    )
    centre.refused(centre.plan(centre.plan_request(more)), "unapproved", says="Nobody has approved")
    asked = replace(centre.train_request(), plan_hash=more.plan_hash())
    centre.refused(centre.train(asked), "unapproved", says="Nobody has approved")
    never = replace(centre.train_request(), plan_hash="f" * 64)
    centre.refused(centre.train(never), "policy", says="whose plan this site has been asked about")


def test_an_approved_plan_whose_file_was_changed(centre: Centre) -> None:
    place = decisions.folder(centre.folder, centre.settings.plan_hash()) / "plan.json"
    place.write_text(place.read_text().replace('"rounds":3', '"rounds":9'))
    centre.refused(
        centre.train(centre.train_request(server_round=7)), "policy", says="no longer matches its hash"
    )


def test_a_plan_written_otherwise_than_this_version_writes_it(centre: Centre) -> None:
    plan = centre.plan_request()
    text = plan.plan.replace('"seed":0,', "").replace(',"seed":0', "")
    assert text != plan.plan
    fitting = replace(plan, plan=text, plan_hash=hashlib.sha256(text.encode()).hexdigest())
    centre.refused(centre.plan(fitting), "policy", says="says more or less")


@pytest.mark.parametrize("kind", [wire.PLAN, wire.TRAIN])
def test_requests_with_unknown_fields_or_parts(centre: Centre, kind: str) -> None:
    def record() -> RecordDict:
        if kind == wire.PLAN:
            return wire.encode(centre.plan_request())
        return wire.encode(centre.train_request())

    def ask(changed: RecordDict) -> object:
        return centre.plan(changed) if kind == wire.PLAN else centre.train(changed)

    more = record()
    more.config_records["request"]["export"] = "grades"
    centre.refused(ask(more), "update", says="Expected a request with")
    part = record()
    part["orders"] = ConfigRecord({"send": "everything"})
    centre.refused(ask(part), "update", says="got ['orders'] too")
    metric = record()
    metric["weights"] = MetricRecord({"a": 1})
    centre.refused(ask(metric), "update", says="Expected") if kind == wire.TRAIN else None
    fewer = record()
    del fewer.config_records["request"]["plan-hash"]
    centre.refused(ask(fewer), "update", says="Expected a request with")
    centre.refused(ask(RecordDict()), "update", says="got none")


def test_an_unknown_kind_of_message_finds_no_handler(centre: Centre) -> None:
    with pytest.raises(ValueError, match=r"evaluate function registered with name .all"):
        centre.send(wire.encode(centre.train_request()), "evaluate.all")


def test_a_network_of_another_shape_or_not_in_the_plan(centre: Centre) -> None:
    request = centre.train_request()
    ((name, weights),) = request.weights.items()
    longer = replace(request, weights={name: np.append(weights, np.float32(0))})
    centre.refused(centre.train(longer), "update", says=f"values of {name}, got")
    other = replace(request, layouts={name: "0" * 64})
    centre.refused(centre.train(other), "update", says="Expected the layout of")
    stranger = replace(request, weights={"x/../../y": weights}, layouts={"x/../../y": request.layouts[name]})
    centre.refused(centre.train(stranger), "update", says="Expected networks of the plan")
    nothing = replace(request, weights={}, layouts={})
    centre.refused(centre.train(nothing), "update", says="Expected networks of the plan")
    assert centre.events().count("reply") == 0
    assert len(list(centre.folder.rglob("*.reply"))) == 1  # the consent


def test_numbers_that_are_none_and_numbers_that_are_too_large(centre: Centre) -> None:
    request = centre.train_request()
    ((name, weights),) = request.weights.items()
    for bad in (np.nan, np.inf, -np.inf):
        wrong = weights.copy()
        wrong[3] = bad
        centre.refused(
            centre.train(replace(request, weights={name: wrong})), "update", says=f"finite weights of {name}"
        )
    huge = np.full_like(weights, 3e38)
    answer = centre.train(replace(request, request_id="e" * 32, weights={name: huge}))
    assert isinstance(answer, Refusal)
    assert answer.code == "update"
    assert centre.events().count("reply") == 0
    assert len(list(centre.folder.rglob("*.reply"))) == 1  # the consent


def test_an_array_that_lies_about_its_size(centre: Centre) -> None:
    record = wire.encode(centre.train_request())
    ((name, array),) = record.array_records["weights"].items()
    lie = Array(dtype="float32", shape=(2**40,), stype="raw", data=array.data)
    record["weights"] = ArrayRecord({name: lie})
    centre.refused(centre.train(record), "update", says="of the stated shape")
    pickled = Array(dtype="float32", shape=array.shape, stype="numpy.ndarray", data=array.data)
    record["weights"] = ArrayRecord({name: pickled})
    centre.refused(centre.train(record), "update", says="Expected raw float32")


def test_a_second_different_request_under_one_id(centre: Centre) -> None:
    request = centre.train_request()
    first = centre.train(request)
    ((name, weights),) = request.weights.items()
    second = replace(request, weights={name: weights + np.float32(0.5)})
    centre.refused(centre.train(second), "update", says="got other contents under its id")
    centre.refused(
        centre.train(replace(request, server_round=2)), "update", says="other contents under its id"
    )
    again = centre.train(request)
    assert isinstance(first, Signed)
    assert isinstance(again, Signed)
    assert again.receipt == first.receipt
    assert again.contents_hash == first.contents_hash
    assert centre.events().count("reply") == 1
    assert centre.events()[-1] == "repeated"


@pytest.mark.parametrize("keep", [0, 5])
def test_the_same_holds_where_no_reply_is_kept(tmp_path: Path, keep: int) -> None:
    policy = f'{asking.CAUTIOUS}approval = "automatic"\nkeep_outbox_days = {keep}\n'
    centre = Centre(asking.site(tmp_path / "north", policy=policy))
    assert isinstance(centre.plan(centre.plan_request()), Signed)
    request = centre.train_request()
    first, again = centre.train(request), centre.train(request)
    assert isinstance(first, Signed)
    assert isinstance(again, Signed)
    assert again.contents_hash == first.contents_hash
    assert centre.events().count("reply") == (2 if keep == 0 else 1)
    ((name, weights),) = request.weights.items()
    second = replace(request, weights={name: weights + np.float32(0.5)})
    centre.refused(centre.train(second), "update", says="got other contents under its id")


PATHS = ["../../../tmp/x", "/etc/passwd", "..", "a/b", "x\x00y", "", "r" * 4000, "é"]


@pytest.mark.parametrize("trick", PATHS)
def test_path_tricks_in_names_hashes_and_ids(centre: Centre, trick: str) -> None:
    before = files(centre.folder)
    request = centre.train_request()
    for changed in (
        replace(request, request_id=trick),
        replace(request, plan_hash=trick),
        replace(request, layouts=dict.fromkeys(request.layouts, trick)),
        replace(request, frozen={name: {"body": WeightsRef(trick)} for name in request.weights}),
        replace(request, attached={trick: np.zeros(3, np.float32)}),
        replace(request, campaign=trick),
    ):
        answer = centre.train(changed)
        assert isinstance(answer, Refusal)
        assert answer.code in ("update", "policy", "data")
    for plan in (
        replace(centre.plan_request(), request_id=trick),
        replace(centre.plan_request(), plan_hash=trick),
        replace(centre.plan_request(), campaign=trick),
    ):
        assert isinstance(centre.plan(plan), Refusal)
    assert files(centre.folder) == before
    centre.log()


def test_path_tricks_in_the_run_of_an_algorithm_with_state(tmp_path: Path) -> None:
    plan = asking.settings('algorithm = "scaffold"')
    policy = f'{asking.CAUTIOUS}approval = "automatic"\n'
    centre = Centre(asking.site(tmp_path / "north", policy=policy), plan)
    assert isinstance(centre.plan(centre.plan_request()), Signed)
    request = centre.train_request()
    ((name, spec),) = [(n, s) for n, s in networks(plan).items() if n in request.weights]
    size = build.layout(spec, plan.network).trained_size
    sent = {name: {"control": np.zeros(size, np.float32)}}
    for trick in PATHS:
        answer = centre.train(replace(request, run=trick, extra=sent))
        assert isinstance(answer, Refusal)
        assert answer.code == "update"
    assert not (centre.folder / "state").exists()
    late = replace(request, run="0" * 32, extra=sent, state_round=1)
    centre.refused(centre.train(late), "update", says="Expected state of a round before 1")


def test_attached_weights_that_nobody_asked_for_are_not_kept(centre: Centre) -> None:
    weights = np.ones(1000, np.float32)
    request = replace(centre.train_request(), attached={WeightsRef.of(weights).hash: weights})
    centre.refused(
        centre.train(request), "update", says="Expected only attached weights that the request refers to"
    )
    assert not (centre.folder / "cache").exists()


@pytest.mark.parametrize("server_round", [-1, 0, 5, 2**31])
def test_rounds_beyond_the_plan(centre: Centre, server_round: int) -> None:
    request = replace(centre.train_request(), server_round=server_round)
    centre.refused(centre.train(request), "policy", says="Expected a round from 1 to 4")


def test_code_that_is_not_permitted_is_not_even_imported(centre: Centre, tmp_path: Path) -> None:
    sent: list[str] = []
    for changed in (
        centre.settings.model_copy(update={"method": "antigravity:fly"}),
        centre.settings.model_copy(
            update={"network": centre.settings.network.model_copy(update={"backbone": "antigravity:fly"})}
        ),
        centre.settings.model_copy(
            update={
                "federation": centre.settings.federation.model_copy(update={"algorithm": "antigravity:fly"})
            }
        ),
    ):
        centre.refused(centre.plan(centre.plan_request(changed)), "policy", says="policy.code")
        sent.append(changed.plan_hash())
    assert "antigravity" not in sys.modules
    assert not any(decisions.folder(centre.folder, plan_hash).exists() for plan_hash in sent)


def bomb(request: PlanRequest, text: str) -> PlanRequest:
    return replace(request, plan=text, plan_hash=hashlib.sha256(text.encode()).hexdigest())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[" * 500_000, "data"),
        ('{"a":' * 90_000, "data"),
        ('{"seed":' + "9" * 100_000 + "}", "data"),
        (" " * 3_000_000, "data"),
        ("x" * 5_000_000, "update"),
        ("null", "data"),
        ('{"images":' + "[" * 100 + "]" * 100 + "}", "data"),
    ],
)
def test_json_bombs_in_plans(centre: Centre, text: str, code: str) -> None:
    before = files(centre.folder)
    answer = centre.plan(bomb(centre.plan_request(), text))
    assert isinstance(answer, Refusal)
    assert answer.code == code
    assert files(centre.folder) == before


@pytest.mark.parametrize(
    "text", ["[" * 500_000, '{"a":' * 90_000, "9" * 100_000, "x" * 5_000_000, "null", "[1]"]
)
def test_json_bombs_in_requests(centre: Centre, text: str) -> None:
    record = wire.encode(centre.train_request())
    record.config_records["request"]["frozen"] = text
    answer = centre.train(record)
    assert isinstance(answer, Refusal)
    assert answer.code == "update"


def test_lists_without_end(centre: Centre) -> None:
    record = wire.encode(centre.train_request())
    record.config_records["request"]["networks"] = ["a"] * 200_000
    centre.refused(centre.train(record), "update", says="Expected a request of at most")
    twice = wire.encode(centre.train_request())
    name = str(next(iter(centre.train_request().weights)))
    twice.config_records["request"]["networks"] = [name, name]
    assert isinstance(centre.train(twice), Refusal)


def test_one_round_again_and_again_under_new_ids(centre: Centre) -> None:
    request = centre.train_request()
    assert isinstance(centre.train(request), Signed)
    ((name, weights),) = request.weights.items()
    chosen = replace(request, request_id="d" * 32, weights={name: weights + np.float32(0.5)})
    centre.refused(centre.train(chosen), "unapproved", says="has to be approved again")
    assert isinstance(centre.train(request), Signed)
    assert isinstance(centre.train(centre.train_request(2)), Signed)
    answered_rounds.forget(centre.folder, centre.settings.plan_hash())  # as a new approval does
    assert isinstance(centre.train(chosen), Signed)


def test_plans_without_end_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns, "MAXIMUM_WAITING", 3)
    centre = Centre(asking.site(tmp_path / "north"))
    for seed in range(6):
        plan = centre.settings.model_copy(update={"seed": seed})
        answer = centre.plan(centre.plan_request(plan))
        assert isinstance(answer, Refusal)
        assert answer.code == "unapproved"
    assert len(decisions.listed(Site.open(centre.folder))) == 3


def test_every_request_and_refusal_is_in_the_log(centre: Centre) -> None:
    centre.train(replace(centre.train_request(), server_round=9))
    centre.train(centre.train_request())
    asked, refused, again, reply = centre.log()[-4:]
    assert [entry["event"] for entry in (asked, refused, again, reply)] == [
        "request",
        "refusal",
        "request",
        "reply",
    ]
    assert refused["server_round"] == 9
    assert reply["request_hash"] == again["request_hash"] != asked["request_hash"]
    size = sum(w.nbytes for w in centre.train_request().weights.values())
    assert reply["request_bytes"] == again["request_bytes"] == size
    assert isinstance(reply["reply_bytes"], int)
    assert reply["reply_bytes"] >= size


def test_what_cannot_be_read_at_all_is_in_the_log_too(centre: Centre) -> None:
    centre.refused(
        centre.train(RecordDict({"request": ConfigRecord({"a": b"\x00"})})), "update", says="Expected"
    )
