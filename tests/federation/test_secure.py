"""Campaigns under secure aggregation, from the centre's requests to the sites' ledgers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, Message
from flwr.serverapp import Grid

from client.app import app as client_app
from client.consent import campaigns
from client.ledger import ledger
from client.site.site import Site
from client.state import decisions
from common import wire
from common.errors import CampaignError, ConfigurationError, PolicyError
from common.hash_chain import START
from common.machine import network_files, pretrained, tensor_file
from common.messages import Signed, SumReply, SumRequest
from common.methods.rating import JIGSAW
from common.privacy.accounting import of_plan, spending
from common.privacy.accounting.accounting import epsilon
from common.privacy.mechanism.noise import KeyStream
from common.privacy.mechanism.private_sum import PrivateSum
from common.secure_aggregation.agreement import public_key
from common.secure_aggregation.identity import sign_keys
from common.secure_aggregation.messages import (
    KeysReply,
    MaskedReply,
    MaskedRequest,
    Phase,
    Reply,
    SharesReply,
    SharesRequest,
    SurvivorsReply,
    UnmaskReply,
)
from common.secure_aggregation.terms import binding
from common.settings import Settings
from server.campaign import campaign
from server.campaign.campaign import Outcome, Status
from server.campaign.roster import Roster
from server.rounds.journal import RoundRecord
from simulation.cohorts import peers
from simulation.engine.grid import InProcessGrid, StrictGrid, Workers
from tests.marks import SOAK_CI
from tests.public_encoders import make_encoders
from tests.site_folders import PUZZLES, make_settings, make_site_folder, ungrade

pytestmark = pytest.mark.slow
App = Callable[[Message, Context], Message]
NAMES = ("east", "north", "south")
ROUNDS = 2
SIGMA = 4.0
SECURE = "[federation.secure]\nsites = 3\nsurvivors = 2\n"
NOISED = "[federation.secure]\nsites = 3\nsurvivors = 3\ncolluders = 1\n"
"""With noise: so that a fellow site, which knows its own share, sees as much of it as is booked."""
PRIVATE = f"""
[federation]
rounds = {ROUNDS}
quorum = 2
{NOISED}
[probe]
neck = 6
initialisations = 2
[privacy]
noise_multiplier = {SIGMA}
patients = 6
images = 2
"""
PLAIN = """fusion = "joint"
replicas = 1
models = 1
[training]
local_steps = 1
batch_size = 4
augmentation = {}
[federation]
rounds = 1
quorum = 2
"""


class KilledError(Exception):
    """The centre's process is gone."""


class MortalGrid(StrictGrid):
    """A grid whose centre dies when it wants to ask for a phase of a round."""

    def __init__(self, grid: Grid, *, phase: Phase, server_round: int) -> None:
        super().__init__(grid)
        self._dies = (phase, server_round)
        self._pushed = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids: list[str] = []
        for message in messages:
            request = asked(message)
            if request is not None and (request.asks.phase, request.server_round) == self._dies:
                self._pushed += 1
                if self._pushed == 2:  # one site has it already
                    raise KilledError
            ids += super().push_messages([message])
        return ids


def private(text: str = PRIVATE, *, encoders: Path) -> Settings:
    settings = make_settings(text=text, method="probe", weights=str(encoders))
    if not encoders.exists():
        make_encoders(encoders, settings)
    return pretrained.resolved(settings)


def plain(text: str = PLAIN + SECURE) -> Settings:
    return make_settings(measurements=("hypertrophy",), grades=2, text=text)


def site(base: Path, name: str, *, seed: int = 0, grades: int = 4) -> Path:
    measurements = ("hypertrophy", "vascularity") if grades == 4 else ("hypertrophy",)
    folder = make_site_folder(
        base / name,
        name=name,
        patients=8,
        exams_per_patient=2,
        held_out_patients=2,
        seed=seed,
        grades=grades,
        measurements=measurements,
    )
    toml = (folder / "site.toml").read_text()
    toml = toml.replace("keep_outbox_days = 0", "keep_outbox_days = 9")
    (folder / "site.toml").write_text(f"{toml}maximum_epsilon = 50.0\nminimum_peers = 1\n")
    return folder


def change(folder: Path, old: str, new: str) -> None:
    toml = (folder / "site.toml").read_text()
    assert old in toml
    (folder / "site.toml").write_text(toml.replace(old, new))


def _sites(base: Path, *, grades: int = 4) -> list[Path]:
    made = [site(base, name, seed=seed, grades=grades) for seed, name in enumerate(NAMES)]
    peers.pin(made)
    return made


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return _sites(tmp_path)


@pytest.fixture
def graders(tmp_path: Path) -> list[Path]:
    """Sites with one binary measurement."""
    return _sites(tmp_path, grades=2)


def planned_sum(length: int) -> PrivateSum:
    """As the three sites of a private campaign make it."""
    return PrivateSum(
        max_grad_norm=1.0,
        noise_multiplier=SIGMA,
        patients=6,
        sites=3,
        survivors=3,
        colluders=1,
        length=length,
    )


def run(
    folders: Sequence[Path],
    settings: Settings,
    folder: Path,
    *,
    app: App = client_app,
    records: list[RoundRecord] | None = None,
    dies: tuple[Phase, int] | None = None,
) -> Outcome:
    folder.mkdir(exist_ok=True)

    def observe(event: campaign.Event) -> None:
        if records is not None and isinstance(event, RoundRecord):
            records.append(event)

    with Workers(("cpu",), threads=1) as pool:
        grid: Grid = InProcessGrid(app, folders, pool)
        return campaign.run(
            StrictGrid(grid) if dies is None else MortalGrid(grid, phase=dies[0], server_round=dies[1]),
            settings,
            roster=Roster.anyone(len(folders)),
            folder=folder,
            campaign="test",
            observer=observe,
        )


def weights(folder: Path) -> np.ndarray:
    """Of all networks of a run, end to end."""
    found = sorted(network_files.load_all(folder / "networks"), key=lambda network: network.spec.name)
    return np.concatenate([network.weights for network in found])


def final(folder: Path) -> np.ndarray:
    """Of all networks after the last round, end to end."""
    (group,) = (folder / "journal").iterdir()
    last = sorted(group.glob("round_*.safetensors"))[-1]
    _, arrays = tensor_file.read(last)
    return np.concatenate([arrays[name] for name in sorted(arrays)])


def asked(message: Message) -> SumRequest | None:
    if message.metadata.message_type != wire.SUM:
        return None
    return wire.decode(SumRequest, message.content)


def said(answer: Message) -> Reply | None:
    reply = wire.decode_round_reply(SumReply, answer.content)
    return reply.reply.says if isinstance(reply, Signed) else None


def folder_of(context: Context) -> Path:
    return Path(str(context.node_config["site-folder"]))


def refusing(phase: Phase, names: Sequence[str], *, server_round: int = 1) -> App:
    """Sites whose people pause the campaign just before a phase, and take it up again before the next plan."""

    def app(message: Message, context: Context) -> Message:
        folder, request = folder_of(context), asked(message)
        if request is None or folder.name not in names:
            return client_app(message, context)
        here = (request.asks.phase, request.server_round) == (phase, server_round)
        if here:
            _decide(folder, request, decisions.Status.PAUSED)
        answer = client_app(message, context)
        if here:
            _decide(folder, request, decisions.Status.APPROVED)
        return answer

    return app


def _decide(folder: Path, request: SumRequest, status: decisions.Status) -> None:
    campaigns.decide(Site.open(folder), request.plan_hash, status, by="officer")


def changing(change: Callable[[SumRequest], SumRequest | None]) -> App:
    """A centre that sends something else than the protocol has."""

    def app(message: Message, context: Context) -> Message:
        request = asked(message)
        changed = change(request) if request is not None else None
        if changed is not None:
            message.content = wire.encode(changed)
        return client_app(message, context)

    return app


def booked(folders: Iterable[Path]) -> set[int]:
    return {len(ledger.book(folder).releases) for folder in folders}


@pytest.mark.parametrize(("train", "length"), [("heads", 112), pytest.param("norms", 3952, marks=SOAK_CI)])
def test_a_private_campaign_books_every_round_once_and_its_sum_has_the_noise_of_the_plan(
    tmp_path: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch, train: str, length: int
) -> None:
    """With the noise taken away the sum is that of sites that clip and add by themselves, to the grid."""
    text = PRIVATE.replace("[probe]", f'[probe]\ntrain = "{train}"')
    settings = private(text, encoders=tmp_path / "encoders")
    records: list[RoundRecord] = []
    outcome = run(folders, settings, tmp_path / "run", records=records)
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert [record.participants for record in records] == [NAMES] * ROUNDS
    assert settings.privacy is not None
    for folder in folders:
        book = ledger.book(folder)
        assert len(book.releases) == ROUNDS
        assert spending.worst(book.histories(), delta=1e-5) == pytest.approx(
            epsilon([of_plan.steps(settings.privacy, ROUNDS)], delta=1e-5), abs=1e-9
        )
    noised = weights(tmp_path / "run")
    draws: list[np.ndarray] = []

    def nothing(count: int, *, variance: int, entropy: bytes) -> np.ndarray:
        draws.append(np.full(count, variance**0.5))
        return np.zeros(count, np.int64)

    monkeypatch.setattr("common.privacy.mechanism.private_sum.noise_shares.draw", nothing)
    run(folders, settings, tmp_path / "bare")
    bare = weights(tmp_path / "bare")
    monkeypatch.setattr(
        "client.ledger.ledger.reserve",
        lambda site, release, patients: ledger.Reserved(head=START, patients=frozenset(patients)),
    )
    monkeypatch.setattr("client.consent.private_consent.check", lambda *_: None)
    monkeypatch.setattr(KeyStream, "gaussian", lambda _, size: np.zeros(size))
    alone = private(text.replace(NOISED, ""), encoders=tmp_path / "encoders")
    run(folders, alone, tmp_path / "alone")
    planned = planned_sum(length)
    np.testing.assert_allclose(bare, weights(tmp_path / "alone"), atol=ROUNDS * planned.grid)
    assert not np.array_equal(bare, weights(tmp_path / "alone"))
    assert {len(draw) for draw in draws} == {length}
    of_sum = SIGMA * np.sqrt(3 / 2) / (6 * 3) * np.sqrt(ROUNDS)
    assert (noised - bare).std() == pytest.approx(of_sum, rel=0.3)


def test_the_centre_receives_keys_shares_signatures_and_vectors_that_are_uniform(
    tmp_path: Path, folders: list[Path]
) -> None:
    """Everything that reaches it: without noise, equal numbers of the same patients would show otherwise."""
    settings = private(
        PRIVATE.replace(f"noise_multiplier = {SIGMA}", 'mechanism = "none"'), encoders=tmp_path / "encoders"
    )
    received: list[tuple[str, Reply]] = []

    def watched(message: Message, context: Context) -> Message:
        answer = client_app(message, context)
        if asked(message) is not None and "missing-weights" not in answer.content:
            assert set(answer.content) <= {"reply", "sum", "vector", "receipt"}
            assert set(answer.content["reply"]) == {"site", "request-id"}
            says = said(answer)
            assert says is not None
            received.append((folder_of(context).name, says))
        return answer

    run(folders, settings, tmp_path / "run", app=watched)
    rounds = ROUNDS + 1
    assert len(received) == 5 * len(NAMES) * rounds
    kinds = [type(says) for _, says in received]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        (KeysReply, SharesReply, MaskedReply, SurvivorsReply, UnmaskReply), len(NAMES) * rounds
    )
    vectors = [says.vector for _, says in received if isinstance(says, MaskedReply)]
    data = np.concatenate([vector.view(np.uint8) for vector in vectors])
    expected = len(data) / 256
    assert ((np.bincount(data, minlength=256) - expected) ** 2 / expected).sum() < 390  # 1e-6 of chi2(255)
    some = [v.astype(np.float64) for v in vectors]
    correlation = np.asarray(np.corrcoef(some))
    assert np.abs(correlation - np.eye(len(some))).max() < 6 / np.sqrt(len(some[0]))
    # round 3 scores and sums zeros: what is under the masks does not show
    assert not any(says.dropped or says.key_shares for _, says in received if isinstance(says, UnmaskReply))
    for folder in folders:
        assert (folder / "outbox").exists()
        modes = {path.stat().st_mode & 0o077 for path in (folder / "sums").rglob("*") if path.is_file()}
        assert modes == {0}


def test_federated_averaging_gives_the_same_networks_to_the_grid(tmp_path: Path, graders: list[Path]) -> None:
    """Weights, validation scores, and the thresholds that are chosen by them."""
    results = []
    for name, settings in (("open", plain(PLAIN)), ("secure", plain())):
        outcome = run(graders, settings, tmp_path / name)
        assert outcome.status is Status.COMPLETE_ALL_SITES
        results.append([(r.best_round, r.auc, r.threshold) for r in outcome.results.values()])
    assert results[0] == results[1]
    assert not np.array_equal(final(tmp_path / "secure"), final(tmp_path / "open"))
    np.testing.assert_allclose(final(tmp_path / "secure"), final(tmp_path / "open"), atol=2e-7)
    assert all(history.unbounded for folder in graders for history in ledger.book(folder).histories())


@pytest.mark.soak
def test_puzzles_of_sites_with_ungraded_exams_are_weighed_alike(tmp_path: Path, graders: list[Path]) -> None:
    """As many examples stand under the masks as in an open reply."""
    ungrade(graders[0], range(7))
    text = PUZZLES + PLAIN.replace('fusion = "joint"\nreplicas = 1\nmodels = 1\n', "")
    text = 'fusion = "joint"\nreplicas = 1\nmodels = 1\n' + text
    found = {}
    for name, settings in (("open", plain(text)), ("secure", plain(text + SECURE))):
        outcome = run(graders, settings, tmp_path / name)
        assert outcome.status is Status.COMPLETE_ALL_SITES
        found[name] = {n.spec.name: n.weights for n in network_files.load_all(tmp_path / name / "networks")}
    np.testing.assert_allclose(found["secure"][JIGSAW], found["open"][JIGSAW], atol=2e-7)


@pytest.mark.soak
def test_a_site_drops_out_in_every_phase(tmp_path: Path, graders: list[Path]) -> None:
    """Before it has sent its vector the mean is the others', afterwards all three's."""
    settings = plain()
    means = {}
    for names in (NAMES, NAMES[:2]):
        run(graders[: len(names)], plain(PLAIN), tmp_path / f"open{len(names)}")
        means[names] = final(tmp_path / f"open{len(names)}")
    for phase in ("keys", "shares", "masked", "survivors", "unmask"):
        records: list[RoundRecord] = []
        app = refusing(phase, ["south"])
        outcome = run(graders, settings, tmp_path / phase, app=app, records=records)
        early = phase in ("keys", "shares", "masked")
        assert records[0].participants == (NAMES[:2] if early else NAMES)
        assert dict(records[0].dropped) == ({"south": f"refused: paused (phase {phase})"} if early else {})
        assert records[1].participants == NAMES  # it is back in the next round
        assert outcome.status is (Status.COMPLETE_SUBSET if early else Status.COMPLETE_ALL_SITES)
        np.testing.assert_allclose(final(tmp_path / phase), means[records[0].participants], atol=2e-7)


def test_a_repeated_request_gets_the_same_bytes_for_nothing(tmp_path: Path, folders: list[Path]) -> None:
    settings = private(encoders=tmp_path / "encoders")
    answers: list[tuple[str, str]] = []

    def twice(message: Message, context: Context) -> Message:
        answer = client_app(message, context)
        if asked(message) is not None:
            again = client_app(message, context)
            first, second = (wire.contents(one.content).hash for one in (answer, again))
            answers.append((first, second))
            if "receipt" in answer.content:
                assert dict(answer.content["receipt"]) == dict(again.content["receipt"])
        return answer

    run(folders, settings, tmp_path / "run", app=twice)
    assert all(first == second for first, second in answers)
    assert booked(folders) == {ROUNDS}


def test_a_second_question_in_a_phase_and_a_single_update_are_refused(
    tmp_path: Path, folders: list[Path]
) -> None:
    settings = private(encoders=tmp_path / "encoders")
    refusals: list[str] = []

    def greedy(message: Message, context: Context) -> Message:
        answer = client_app(message, context)
        request = asked(message)
        if request is None or not isinstance(request.asks, MaskedRequest):
            return answer
        assert request.train is not None
        fewer = replace(request.asks, sharers=request.asks.sharers[:2])
        tries = [
            (wire.SUM, wire.encode(replace(request, asks=fewer))),
            (wire.SUM, wire.encode(replace(request, request_id="f" * 32))),
            (wire.TRAIN, wire.encode(replace(request.train, request_id="a" * 32))),
        ]
        for kind, content in tries:
            other = Message(content, message.metadata.dst_node_id, kind)
            other.metadata.__dict__["_message_id"] = "x"
            refusal = client_app(other, context).content
            refusals.append(str(refusal["refusal"]["code"]) if "refusal" in refusal else "answered")
        return answer

    run(folders, settings, tmp_path / "run", app=greedy)
    assert set(refusals) == {"update", "policy"}
    assert "policy" in refusals
    assert booked(folders) == {ROUNDS}


def test_a_site_that_lost_what_it_kept_answers_no_phase_anew(tmp_path: Path, folders: list[Path]) -> None:
    """Also where an older copy was put back: the log knows that it answered."""
    settings = private(encoders=tmp_path / "encoders")
    codes: list[str] = []

    def forgetful(message: Message, context: Context) -> Message:
        request = asked(message)
        if request is None or folder_of(context).name != "south":
            return client_app(message, context)
        place = folder_of(context) / "sums"
        answer = client_app(message, context)
        if request.asks.phase in ("keys", "masked") and "receipt" in answer.content:
            place.rename(tmp_path / "kept")
            again = client_app(message, context).content
            codes.append(str(again["refusal"]["code"]))
            shutil.rmtree(place, ignore_errors=True)
            (tmp_path / "kept").rename(place)
        return answer

    run(folders, settings, tmp_path / "run", app=forgetful)
    assert codes == ["state"] * 2 * ROUNDS
    assert booked(folders) == {ROUNDS}


def test_a_centre_that_exchanges_keys_or_invents_a_site_opens_nothing(
    tmp_path: Path, folders: list[Path]
) -> None:
    settings = private(encoders=tmp_path / "encoders")
    own = Ed25519PrivateKey.generate()
    secret = bytes(range(32))

    def signed(request: SumRequest, name: str) -> dict[str, bytes]:
        plan = planned_sum(112)
        keys = {"mask_key": public_key(secret), "share_key": public_key(secret)}
        bound = binding(request.asks.context, plan.terms())
        return {**keys, "signature": sign_keys(own, binding=bound, site=name, **keys)}

    def exchanged(request: SumRequest) -> SumRequest | None:
        asks = request.asks
        if not isinstance(asks, SharesRequest):
            return None
        forged = signed(request, asks.sites[0])
        return replace(
            request,
            asks=replace(
                asks,
                mask_keys=(forged["mask_key"], *asks.mask_keys[1:]),
                share_keys=(forged["share_key"], *asks.share_keys[1:]),
                signatures=(forged["signature"], *asks.signatures[1:]),
            ),
        )

    def invented(request: SumRequest) -> SumRequest | None:
        asks = request.asks
        if not isinstance(asks, SharesRequest):
            return None
        forged = signed(request, "zurich")
        return replace(
            request,
            asks=replace(
                asks,
                sites=(*asks.sites[:2], "zurich"),
                mask_keys=(*asks.mask_keys[:2], forged["mask_key"]),
                share_keys=(*asks.share_keys[:2], forged["share_key"]),
                signatures=(*asks.signatures[:2], forged["signature"]),
            ),
        )

    for name, trick in (("exchanged", exchanged), ("invented", invented)):
        with pytest.raises(CampaignError, match=r"refused: verification \(phase shares\)"):
            run(folders, settings, tmp_path / name, app=changing(trick))
        assert booked(folders) == {0}
    told = (folders[0] / "log.txt").read_text()
    assert "not signed with the key known for it" in told
    assert "zurich" in told
    assert "[peers] in site.toml" in told


@pytest.mark.parametrize(
    "phase", ["masked", pytest.param("shares", marks=pytest.mark.soak), pytest.param("unmask", marks=SOAK_CI)]
)
def test_a_killed_centre_goes_on_with_the_same_attempt_and_nothing_is_charged_twice(
    tmp_path: Path, folders: list[Path], phase: Phase
) -> None:
    settings = private(encoders=tmp_path / "encoders")
    records: list[RoundRecord] = []
    with pytest.raises(KilledError):
        run(folders, settings, tmp_path / "run", dies=(phase, 2))
    outcome = run(folders, settings, tmp_path / "run", records=records)
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert [record.round for record in records] == [2]
    assert booked(folders) == {ROUNDS}


@pytest.mark.soak
def test_an_attempt_that_failed_is_made_again_or_its_round_is_lost(
    tmp_path: Path, folders: list[Path]
) -> None:
    """Charged in both cases; whoever has helped to open a round helps no second time."""
    settings = private(encoders=tmp_path / "encoders")
    with pytest.raises(CampaignError, match="to answer in phase survivors"):
        run(folders, settings, tmp_path / "again", app=refusing("survivors", NAMES[1:]))
    assert booked(folders) == {1}
    assert run(folders, settings, tmp_path / "again").status is Status.COMPLETE_ALL_SITES
    assert booked(folders) == {ROUNDS + 1}
    with pytest.raises(CampaignError, match="to answer in phase unmask"):
        run(folders, settings, tmp_path / "lost", app=refusing("unmask", NAMES[1:]))
    records: list[RoundRecord] = []
    outcome = run(folders, settings, tmp_path / "lost", records=records)
    assert outcome.status is Status.COMPLETE_SUBSET
    assert [record.participants for record in records] == [(), NAMES]
    assert all("never opened twice" in reason for reason in records[0].dropped.values())
    assert booked(folders) == {2 * ROUNDS + 1}


def test_what_a_plan_protects_too_little_is_refused_before_it_begins(
    tmp_path: Path, folders: list[Path]
) -> None:
    settings = private(encoders=tmp_path / "encoders")
    with pytest.raises(ConfigurationError, match="3 to 3 sites"):
        run(folders[:1], settings, tmp_path / "few")
    for folder in folders[:2]:
        change(folder, "minimum_peers = 1", "minimum_peers = 3")
    with pytest.raises(PolicyError, match="east refuses \\(policy\\); its own log says why; north refuses"):
        run(folders, settings, tmp_path / "peers")
    assert "few_peers" in (folders[0] / "log.txt").read_text()
    # with all the noise of its own it needs nobody
    change(folders[0], "minimum_peers = 3", 'minimum_peers = 3\nfew_peers = "full_noise"')
    change(folders[1], "minimum_peers = 3", "minimum_peers = 1")
    draws: list[int] = []

    def nothing(count: int, *, variance: int, entropy: bytes) -> np.ndarray:
        draws.append(variance)
        return np.zeros(count, np.int64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "common.privacy.mechanism.private_sum.noise_shares.draw",
            nothing,
        )
        assert run(folders, settings, tmp_path / "run").status is Status.COMPLETE_ALL_SITES
    assert sorted(draws)[-1] == pytest.approx(2 * sorted(draws)[0], rel=1e-3)
    assert draws.count(max(draws)) == ROUNDS
    for folder in folders:
        text = (folder / "site.toml").read_text()
        (folder / "site.toml").write_text(text.split("[peers]")[0])
    with pytest.raises(PolicyError, match="refuses \\(policy\\)"):
        run(folders, settings, tmp_path / "strangers")
    assert "synofed site peers add" in (folders[0] / "log.txt").read_text()


def test_without_differential_privacy_a_site_says_so(tmp_path: Path, graders: list[Path]) -> None:
    for folder in graders:
        change(folder, "allow_unprotected = true", "allow_secure_only = true")
    assert run(graders, plain(), tmp_path / "run").status is Status.COMPLETE_ALL_SITES
    with pytest.raises(PolicyError, match="refuses \\(policy\\)"):
        run(graders, plain(PLAIN), tmp_path / "open")
