"""An ensemble judged inside its sites: permitted tables leave, once, and nothing that tells of single patients."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message

from client.app import app as client_app
from client.consent import campaigns
from client.data.site_store import site_store
from client.ensemble import alone
from client.ensemble import evaluation as at_site
from client.ledger import issued_receipts, ledger
from client.log import chain, outbox
from client.site import keys
from client.site.site import Site
from client.state import decisions
from client.state.decisions import Status
from client.withdrawal.withdrawal import withdraw
from common import signed_json, wire
from common.ensemble.statement import Statement, sign
from common.errors import PolicyError
from common.evaluation.inside import site_tables
from common.evaluation.inside.site_tables import SiteTables
from common.exam import MISSING
from common.machine import network_files
from common.messages import EvaluateReply, EvaluateRequest, Refusal, Signed
from common.privacy.accounting.spending import UnboundedRelease
from common.settings import Settings
from common.text.terminal import Console
from server.campaign import evaluation
from server.campaign.hand_out import RECEIVED, Told
from server.campaign.received_receipts import Receipts
from server.rounds import site_results
from simulation.engine.progress import Display
from simulation.runs import alone as training
from tests.federation.fault_processes import NoFault
from tests.federation.faults import Fault, in_process
from tests.federation.test_ensemble import NAMES, PACE, Federation, centre_key, command, configured, grid
from tests.patience import PATIENCE_S

MINIMUM = 3
HELD_OUT = 7
POLICY = "federated_evaluation = true\n"


def evaluating(settings: Settings) -> Settings:
    return settings.model_copy(update={"campaign": settings.campaign.model_copy(update={"evaluation": True})})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Two sites of seven held-out patients, three exams each, whose policies ask for three behind a table."""
    made = Federation.made(
        tmp_path_factory.mktemp("federation"),
        evaluating(configured()),
        patients=14,
        held_out_patients=HELD_OUT,
        policy=POLICY,
        minimum_cohort=MINIMUM,
    )
    for folder in made.folders:
        shutil.copytree(folder, folder.with_name(f"{folder.name}-as-trained"))
    return made


@pytest.fixture
def federation(trained: Federation, tmp_path: Path) -> Federation:
    """The same, before anything was judged."""
    folders = tuple(
        Path(shutil.copytree(folder.with_name(f"{folder.name}-as-trained"), tmp_path / folder.name))
        for folder in trained.folders
    )
    return replace(trained, folders=folders, run=Path(shutil.copytree(trained.run, tmp_path / "run")))


def judged(
    federation: Federation,
    *,
    fault: Fault | None = None,
    sites: Sequence[str] = NAMES,
    group_bytes: int = 0,
    told: Told = lambda site, reason: None,
) -> dict[str, str]:
    """The centre asks; who gave nothing, and why."""
    sent = federation.ensemble
    if group_bytes:
        small = sent.settings.federation.model_copy(update={"group_bytes": group_bytes})
        sent = replace(sent, settings=sent.settings.model_copy(update={"federation": small}))
    return evaluation.evaluate(
        grid(federation.folders, fault or NoFault()),
        sent,
        run=federation.run,
        sites=sites,
        keys=lambda: {folder.name: keys.public_key(folder) for folder in federation.folders},
        receipts=Receipts(federation.run),
        told=told,
        patience_s=PATIENCE_S,
        pace=replace(PACE, silence=1.0),
    )


def request(federation: Federation, *, request_id: str = "one", count: int | None = None) -> EvaluateRequest:
    sent = federation.ensemble
    return sent.request(EvaluateRequest, request_id, tuple(sent.sizes)[:count])


def ask(federation: Federation, what: EvaluateRequest, *, site: int = 0) -> EvaluateReply | Refusal:
    message = Message(wire.encode(what), 100, wire.EVALUATE)
    message.metadata.__dict__["_message_id"] = "1"
    grid(federation.folders)  # names this process to Flower
    reply = in_process(client_app)(federation.folders[site], message).content
    found = wire.decode_reply(EvaluateReply, reply)
    return found.reply if isinstance(found, Signed) else found


def tables_of(reply: EvaluateReply | Refusal) -> SiteTables:
    assert isinstance(reply, EvaluateReply)
    return site_tables.parse(reply.tables)


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8")


def by_hand(federation: Federation, folder: Path) -> np.ndarray:
    """The confusion matrix of all held-out exams of a site, scored as a whole by the centre's networks."""
    store = site_store(Site.open(folder), federation.settings)
    networks = list(network_files.load_all(federation.run / "networks"))
    committee = network_files.committee(networks, federation.settings)
    rows = np.flatnonzero(store.tensors.fold.numpy() == MISSING)
    scores = committee.score(store.tensors.images, torch.from_numpy(rows))
    found = np.zeros((3, 3), dtype=np.int64)
    truth = store.tensors.grades["hypertrophy"].numpy()[rows]
    np.add.at(found, (truth, scores.decision[:, 0]), 1)
    return found


@pytest.mark.parametrize("group_bytes", [0, 1])
def test_tables_are_those_of_the_pooled_computation(federation: Federation, group_bytes: int) -> None:
    assert judged(federation, group_bytes=group_bytes) == {}
    found = site_results.tables(federation.run)
    assert sorted(found) == sorted(NAMES)
    expected = [by_hand(federation, folder) for folder in federation.folders]
    for folder, matrix in zip(federation.folders, expected, strict=True):
        (one,) = found[folder.name].tables
        assert (one.score, one.device, one.patients, one.exams) == ("hypertrophy", "Resona 7", 7, 21)
        np.testing.assert_array_equal(np.array(one.confusion), matrix)
        assert found[folder.name].suppressed == 0
        place = decisions.folder(folder, federation.settings.plan_hash())
        assert not (place / ".evaluation").exists()
    pooled = site_tables.confusion(one for site in found.values() for one in site.tables)
    np.testing.assert_array_equal(pooled, sum(expected))


def test_the_site_books_logs_and_keeps_what_left(federation: Federation) -> None:
    judged(federation)
    for folder in federation.folders:
        site = Site.open(folder)
        (booked,) = [
            one
            for one in ledger.book(folder).releases
            if isinstance(one.release, UnboundedRelease) and one.release.kind == "tables"
        ]
        assert len(booked.eligible) == HELD_OUT
        assert booked.release.plan_hash == federation.settings.plan_hash()
        kept = issued_receipts.read(federation.run / "receipts" / f"{folder.name}.jsonl")
        assert kept[-1].receipt.group == "evaluation"
        assert issued_receipts.check(folder, kept).receipts == len(kept)
        events = [entry.content for entry in chain.entries(folder / chain.NAME)]
        assert {one["request"] for one in events if one["event"] == "evaluation"} == {"evaluate"}
        (place,) = at_site.folder(folder, federation.settings.plan_hash()).glob("*.json")
        sent = (federation.run / "evaluation" / f"{folder.name}.json").read_text(encoding="utf-8")
        assert place.read_text(encoding="utf-8") == sent
        assert not any(str(name) in sent for name in site_store(site, federation.settings).exams["exam_id"])


def test_the_centre_asks_nobody_twice_and_the_site_answers_the_same_bytes(federation: Federation) -> None:
    asked = request(federation)
    first, again = ask(federation, asked), ask(federation, asked)
    assert isinstance(first, EvaluateReply)
    other = ask(federation, request(federation, request_id="two", count=1))
    assert isinstance(again, EvaluateReply)
    assert isinstance(other, EvaluateReply)
    assert first.tables == again.tables == other.tables != ""
    booked = len(ledger.book(federation.folders[0]).releases)
    judged(federation, sites=["north"])
    assert len(ledger.book(federation.folders[0]).releases) == booked

    class Nobody(NoFault):
        def sending(self, site: str, message: Message, number: int) -> bool:
            raise AssertionError("asked again")

    assert judged(federation, sites=["north"], fault=Nobody()) == {}


def test_pieces_are_let_go_as_soon_as_their_networks_were_asked(federation: Federation) -> None:
    whole = tuple(federation.ensemble.sizes)
    place = decisions.folder(federation.folders[0], federation.settings.plan_hash()) / ".evaluation"
    reply = ask(federation, request(federation, count=1))
    assert isinstance(reply, EvaluateReply)
    assert set(reply.missing) == set(whole[1:])
    assert reply.tables == ""
    assert list((place / "probabilities").glob("*.npy"))
    assert not list((place / "arrays").glob("*"))


@pytest.mark.parametrize("loses", ["messages", "replies"])
def test_what_is_lost_on_the_way_is_asked_for_again(federation: Federation, loses: str) -> None:
    class Losing(NoFault):
        def sending(self, site: str, message: Message, number: int) -> bool:
            return not (loses == "messages" and number == 2)

        def replying(self, site: str, reply: Message, number: int) -> Sequence[float]:
            return () if loses == "replies" and number == 2 else (0.0, 0.01)

    assert judged(federation, fault=Losing()) == {}
    assert set(site_results.tables(federation.run)) == set(NAMES)


def test_an_ensemble_that_was_given_to_the_site_is_not_sent_again(federation: Federation) -> None:
    federation.hand_out(sites=["north"])

    class Counting(NoFault):
        arrays = 0

        def sending(self, site: str, message: Message, number: int) -> bool:
            self.arrays += len(message.content.array_records["weights"])
            return True

    counting = Counting()
    assert judged(federation, sites=["north"], fault=counting) == {}
    assert counting.arrays == 0
    (one,) = site_results.tables(federation.run)["north"].tables
    np.testing.assert_array_equal(np.array(one.confusion), by_hand(federation, federation.folders[0]))


def with_policy(folder: Path, before: str, after: str) -> None:
    """Change the policy, which nobody has signed anew: the site is taken out of its federation for that."""
    text = (folder / "site.toml").read_text(encoding="utf-8")
    assert before in text
    (folder / "site.toml").write_text(text.replace(before, after), encoding="utf-8")
    (folder / "federation.json").unlink(missing_ok=True)


def test_a_site_that_permits_none_refuses_and_the_others_answer(federation: Federation) -> None:
    north = federation.folders[0]
    with_policy(north, POLICY, "")
    left = judged(federation)
    assert left["north"].startswith("refused: policy")
    assert site_results.without(federation.run) == left
    assert set(site_results.tables(federation.run)) == {"south"}
    assert "policy.federated_evaluation = true" in log_of(north)
    assert not (north / "evaluation").exists()


def test_a_plan_that_does_not_ask_gives_no_right_to_ask(tmp_path: Path) -> None:
    made = Federation.made(tmp_path, configured(), policy=POLICY)
    reply = ask(made, request(made))
    assert isinstance(reply, Refusal)
    assert reply.code == "policy"
    assert "campaign.evaluation" in log_of(made.folders[0])


# Alone against together


@pytest.mark.soak
def test_what_a_site_trained_alone_is_counted_beside_the_ensemble(federation: Federation) -> None:
    north, plan_hash = federation.folders[0], federation.settings.plan_hash()
    with_policy(north, 'approval = "automatic"', 'approval = "each"')
    campaigns.decide(Site.open(north), plan_hash, Status.APPROVED, by="test")
    logged = (north / chain.NAME).read_bytes()
    booked = ledger.book(north).releases
    said = json.loads(command("site", "alone", str(north), plan_hash[:12], "--json"))
    assert said["models"] == 2
    assert (north / chain.NAME).read_bytes() == logged
    assert ledger.book(north).releases == booked
    place = decisions.folder(north, plan_hash)
    assert not list(place.glob(".alone*/"))

    networks = list(network_files.load_all(place / "alone" / "networks"))
    store = site_store(Site.open(north), federation.settings)
    rows = np.flatnonzero(store.tensors.fold.numpy() == MISSING)
    committee = network_files.committee(networks, federation.settings)
    answers = committee.score(store.tensors.images, torch.from_numpy(rows)).decision[:, 0]
    counts = np.zeros((3, 3), dtype=np.int64)
    np.add.at(counts, (store.tensors.grades["hypertrophy"].numpy()[rows], answers), 1)

    reply = ask(federation, request(federation))
    (table,) = tables_of(reply).tables
    assert table.beside is not None
    np.testing.assert_array_equal(np.array(table.beside.alone), counts)
    np.testing.assert_array_equal(np.array(table.beside.together), by_hand(federation, north))
    (other,) = tables_of(ask(federation, request(federation), site=1)).tables
    assert other.beside is None  # who trained nothing alone says nothing of it


def test_the_local_report_holds_the_ensemble_against_it(federation: Federation) -> None:
    north, plan_hash = federation.folders[0], federation.settings.plan_hash()
    federation.hand_out(sites=["north"])
    store = site_store(Site.open(north), federation.settings)
    networks = list(network_files.load_all(federation.run / "networks"))
    alone.keep(Site.open(north), plan_hash, networks, federation.settings, fingerprint=store.fingerprint)
    found = json.loads(command("site", "report", str(north), plan_hash[:12], "--json"))
    held_out = found["parts"][0]
    (by_itself,) = (
        one for one in held_out["own"]["trained alone"]["hypertrophy"] if one["first"] == "consensus"
    )
    together = next(one for one in held_out["ensemble"]["hypertrophy"] if one["first"] == "consensus")
    assert by_itself["confusion"] == together["confusion"]  # the same networks
    assert "what it trained alone" in Path(found["page"]).read_text(encoding="utf-8")


def test_while_a_site_trains_alone_its_tables_wait(federation: Federation) -> None:
    with alone.training(federation.folders[0], federation.settings.plan_hash()):
        refused = ask(federation, request(federation))
    assert isinstance(refused, Refusal)
    assert refused.code == "busy"
    assert tables_of(ask(federation, request(federation, request_id="later"))).tables


def test_networks_of_other_exams_are_not_compared_with(federation: Federation) -> None:
    """A patient who is held out now may have been trained on then; of one who withdrew nothing is left."""
    north, plan_hash = federation.folders[0], federation.settings.plan_hash()
    site = Site.open(north)
    store = site_store(site, federation.settings)
    networks = list(network_files.load_all(federation.run / "networks"))
    alone.keep(site, plan_hash, networks, federation.settings, fingerprint=store.fingerprint)
    found = alone.opened(site, plan_hash, federation.settings, fingerprint=store.fingerprint)
    assert found is not None
    assert alone.opened(site, plan_hash, federation.settings, fingerprint="of others") is None
    withdraw(site, str(store.exams["patient_id"].iloc[0]))
    assert not alone.folder(north, plan_hash).exists()


def test_a_campaign_that_nobody_approved_is_not_trained_alone(federation: Federation) -> None:
    north, plan_hash = federation.folders[0], federation.settings.plan_hash()
    with_policy(north, 'approval = "automatic"', 'approval = "each"')
    campaigns.decide(Site.open(north), plan_hash, Status.LEFT, by="test")
    with pytest.raises(PolicyError, match="is left"):
        training.train(Site.open(north), plan_hash, models=None, display=Display(Console(quiet=True)))


# What a malicious centre tries


def restated(federation: Federation, change: Callable[[Statement], Statement]) -> EvaluateRequest:
    """The centre signs something else."""
    base = request(federation, request_id="other")
    text = change(Statement.model_validate(signed_json.parse(base.statement))).dump()
    return replace(base, statement=text, signature=sign(text, centre_key(federation)))


def other_threshold(statement: Statement) -> Statement:
    name, network = next(iter(statement.networks.items()))
    moved = network.model_copy(update={"threshold": 0.25})
    return statement.model_copy(update={"networks": {**statement.networks, name: moved}})


def test_a_second_ensemble_needs_a_second_approval(federation: Federation) -> None:
    north, plan_hash = federation.folders[0], federation.settings.plan_hash()
    with_policy(north, 'approval = "automatic"', 'approval = "each"')
    campaigns.decide(Site.open(north), plan_hash, Status.APPROVED, by="test")
    first = tables_of(ask(federation, request(federation)))
    refused = ask(federation, restated(federation, other_threshold))
    assert isinstance(refused, Refusal)
    assert refused.code == "unapproved"
    assert "Another ensemble" in log_of(north)
    command("site", "campaigns", "approve", str(north), plan_hash[:12], "--by", "test")
    second = tables_of(ask(federation, replace(restated(federation, other_threshold), request_id="third")))
    assert first.tables[0].patients == second.tables[0].patients


def truth(tables: SiteTables) -> np.ndarray:
    """How many exams have each grade by the readers: what no ensemble has a say in."""
    return np.asarray(site_tables.confusion(tables.tables).sum(axis=1))


def test_a_withdrawal_is_not_the_difference_of_two_tables(federation: Federation) -> None:
    north = federation.folders[0]
    before = tables_of(ask(federation, request(federation)))
    patient = str(site_store(Site.open(north), federation.settings).exams["patient_id"].iloc[-1])
    withdraw(Site.open(north), patient)
    again = tables_of(ask(federation, request(federation, request_id="again")))
    assert again == before  # what left once, and nothing new
    later = tables_of(ask(federation, restated(federation, other_threshold)))
    gone = before.tables[0].patients - later.tables[0].patients
    assert gone >= MINIMUM
    assert (truth(before) - truth(later)).sum() == 3 * gone


def test_two_patients_are_in_no_table_and_that_is_said(federation: Federation) -> None:
    north = federation.folders[0]
    manifest = north / "manifest.csv"
    lines = manifest.read_text(encoding="utf-8").splitlines()
    other = [
        line.replace("Resona 7", "Logiq E9") if "-p012-" in line or "-p013-" in line else line
        for line in lines
    ]
    manifest.write_text("\n".join(other) + "\n", encoding="utf-8")
    reply = ask(federation, request(federation))
    found = tables_of(reply)
    assert [(one.device, one.patients) for one in found.tables] == [("Resona 7", HELD_OUT - 2)]
    assert found.suppressed == 1
    assert isinstance(reply, EvaluateReply)
    assert "Logiq" not in reply.tables


def test_a_site_without_enough_held_out_patients_says_that_it_keeps_its_table(federation: Federation) -> None:
    with_policy(federation.folders[0], f"minimum_cohort = {MINIMUM}", "minimum_cohort = 50")
    found = tables_of(ask(federation, request(federation)))
    assert (found.tables, found.suppressed) == ((), 1)
    assert all(
        one.release.kind != "tables"
        for one in ledger.book(federation.folders[0]).releases
        if isinstance(one.release, UnboundedRelease)
    )


def poisoned(federation: Federation) -> EvaluateRequest:
    base = request(federation)
    weights = dict(base.weights)
    digest = next(iter(weights))
    weights[digest] = np.full_like(weights[digest], 0.5)
    return replace(base, weights=weights)


def unsigned(federation: Federation) -> EvaluateRequest:
    return replace(request(federation), signature="00" * 64)


def renamed(federation: Federation) -> EvaluateRequest:
    def other(statement: Statement) -> Statement:
        networks = dict(statement.networks)
        networks["rating/of-my-own"] = networks.pop(next(iter(networks)))
        return statement.model_copy(update={"networks": networks})

    return restated(federation, other)


def foreign(federation: Federation) -> EvaluateRequest:
    return restated(federation, lambda statement: statement.model_copy(update={"plan_hash": "ab" * 32}))


@pytest.mark.parametrize(
    ("make", "code"),
    [(poisoned, "update"), (unsigned, "verification"), (renamed, "update"), (foreign, "update")],
    ids=["other weights", "no signature", "another network", "another campaign"],
)
def test_what_is_not_the_campaigns_ensemble_is_refused(
    federation: Federation, make: Callable[[Federation], EvaluateRequest], code: str
) -> None:
    reply = ask(federation, make(federation))
    assert isinstance(reply, Refusal)
    assert reply.code == code
    assert not list(at_site.folder(federation.folders[0], federation.settings.plan_hash()).glob("*.json"))


def test_a_reply_holds_tables_and_nothing_else(federation: Federation) -> None:
    """By its fields: ids, probabilities and grades of single exams have no place in it."""
    with_policy(federation.folders[0], "keep_outbox_days = 0", "keep_outbox_days = 90")
    ask(federation, request(federation))
    kept = outbox.find(federation.folders[0], "one")
    assert kept is not None
    assert set(kept.record) == {"reply"}
    fields = kept.record.config_records["reply"]
    assert set(fields) == {"site", "request-id", "missing", "tables"}
    sent = json.loads(str(fields["tables"]))
    assert set(sent) == {"format", "site", "minimum_cohort", "tables", "suppressed"}
    assert set(sent["tables"][0]) == {
        "score", "device", "patients", "exams", "confusion", "products", "contested", "histograms",
        "conformity", "beside",
    }  # fmt: skip


@pytest.mark.parametrize("asks_for", ["ids", "patients", "minimum-cohort", "cases"])
def test_a_request_cannot_ask_for_ids_or_for_other_rules(federation: Federation, asks_for: str) -> None:
    north = federation.folders[0]
    grid(federation.folders)  # names this process to Flower
    for part in ("request", "orders"):
        record = wire.encode(request(federation))
        record.config_records[part] = ConfigRecord({**record.config_records.get(part, {}), asks_for: "all"})
        message = Message(record, 100, wire.EVALUATE)
        message.metadata.__dict__["_message_id"] = "1"
        found = wire.decode_reply(EvaluateReply, in_process(client_app)(north, message).content)
        assert isinstance(found, Refusal)
        assert found.code == "update"
    assert not at_site.folder(north, federation.settings.plan_hash()).exists()
    assert not any(one.release.kind == "tables" for one in ledger.book(north).releases)


def test_score_histograms_are_a_permission_of_their_own(federation: Federation) -> None:
    (table,) = tables_of(ask(federation, request(federation))).tables
    assert [sum(map(sum, cut)) for cut in table.histograms] == [21, 21]
    assert table.conformity is not None
    assert sum(table.conformity.calibration) == 3 * MINIMUM  # one block calibrates, the other tries
    with_policy(federation.folders[1], '"losses", "score_histograms"', '"losses"')
    (kept,) = tables_of(ask(federation, request(federation), site=1)).tables
    assert (kept.histograms, kept.conformity) == ((), None)


def test_a_changed_table_is_no_answer(federation: Federation) -> None:
    """What came is held against the receipt, and against what a site of the plan can say."""

    class Changing(NoFault):
        def replying(self, site: str, reply: Message, number: int) -> Sequence[float]:
            fields = reply.content.config_records["reply"]
            fields["tables"] = str(fields["tables"]).replace('"contested":', '"contested":1')
            return (0.0,)

    class NoticedError(Exception):
        """The centre says what does not fit."""

    told: list[str] = []

    def tell(site: str, reason: str) -> None:
        told.append(reason)
        if "reply_hash" in reason:
            raise NoticedError

    with pytest.raises(NoticedError):
        judged(federation, fault=Changing(), sites=["north"], told=tell)
    assert RECEIVED not in told
    assert site_results.tables(federation.run) == {}
