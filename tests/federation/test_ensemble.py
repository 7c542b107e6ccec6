"""What a site gets back: the signed ensemble, whole or not at all, through the real ClientApp."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from flwr.app import Message
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix
from typer.testing import CliRunner

from client.app import app as client_app
from client.cli import site_cli
from client.consent import campaigns
from client.data.site_store import site_store
from client.ensemble import delivery
from client.ledger import issued_receipts
from client.log import chain
from client.site import keys, policy_file
from client.site.site import Site
from client.state import decisions
from client.state.decisions import Status
from common import wire
from common.ensemble.statement import Statement, sign
from common.errors import DataError, VerificationError
from common.machine import network_files, pretrained
from common.machine.network_files import TrainedNetwork
from common.messages import EnsembleReply, EnsembleRequest, Refusal, Signed
from common.methods.stages import NetworkResult, networks
from common.networks import build, torchvision_shim
from common.sections.campaign import CampaignSettings
from common.settings import Settings
from server import deployed
from server.campaign import campaign, hand_out
from server.campaign.campaign import Outcome
from server.campaign.ensemble import Ensemble
from server.campaign.hand_out import KEEP, RECEIVED
from server.campaign.members import Pace
from server.campaign.received_receipts import Receipts
from server.campaign.roster import Roster
from server.federation import certificates
from server.federation.home import Home
from server.runs import submit
from server.service.superlink import HOME_VARIABLE
from simulation.cli import score_cli
from tests import enrolling
from tests.asking import Centre
from tests.federation.fault_processes import NoFault
from tests.federation.faults import Clock, Fault, FaultyGrid, in_process
from tests.full_disk import limited_files
from tests.patience import PATIENCE_S
from tests.site_folders import make_settings, make_site_folder, read_table

NAMES = ("north", "south")
PACE = Pace(look=0.01, ask_first=0.02, ask_last=0.1, silence=20.0)


def configured(*, recipients: str = '"sites"', group_bytes: int = 256_000_000) -> Settings:
    return make_settings(
        measurements=("hypertrophy",),
        grades=3,
        text=f'fusion = "joint"\nreplicas = 1\n[training]\nlocal_steps = 1\nbatch_size = 8\n[federation]\n'
        f"rounds = 1\ngroup_bytes = {group_bytes}\n[campaign]\nrecipients = [{recipients}]\n",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """A centre and two enrolled sites that have run one campaign."""

    home: Home
    folders: tuple[Path, ...]
    settings: Settings
    run: Path
    outcome: Outcome

    @classmethod
    def made(
        cls,
        base: Path,
        settings: Settings,
        *,
        patients: int = 8,
        held_out_patients: int = 3,
        policy: str = "",
        minimum_cohort: int = 1,
    ) -> "Federation":
        """Of sites with further lines in their policy."""
        now = datetime.now(UTC)
        home = enrolling.make_home(base / "home", now=now)
        folders = tuple(
            make_site_folder(
                base / name,
                name=name,
                patients=patients,
                seed=seed,
                measurements=("hypertrophy",),
                grades=3,
                readers=2,
                held_out_patients=held_out_patients,
            )
            for seed, name in enumerate(NAMES)
        )
        for folder in folders:
            toml = (folder / "site.toml").read_text(encoding="utf-8") + policy
            toml = toml.replace("minimum_cohort = 1", f"minimum_cohort = {minimum_cohort}")
            (folder / "site.toml").write_text(toml, encoding="utf-8")
            enrolling.join(home, folder, now=now)
            policy_file.sign(Site.open(folder), Ed25519PrivateKey.generate())
        run = base / "run"
        run.mkdir()
        outcome = campaign.run(
            grid(folders),
            settings,
            roster=Roster.of({folder.name: keys.public_key(folder) for folder in folders}),
            folder=run,
            campaign=settings.name,
            observer=lambda event: None,
            pace=PACE,
        )
        return cls(home=home, folders=folders, settings=settings, run=run, outcome=outcome)

    @property
    def ensemble(self) -> Ensemble:
        return Ensemble.of(
            self.outcome, self.settings, folder=self.run, campaign=self.settings.name, home=self.home
        )

    def place(self, name: str) -> Path:
        folder = next(folder for folder in self.folders if folder.name == name)
        return delivery.folder(folder, self.settings.plan_hash())

    def hand_out(
        self,
        *,
        fault: Fault | None = None,
        sites: Sequence[str] = NAMES,
        sent: Ensemble | None = None,
        over: tuple[str, str] | None = None,
    ) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """Who is left and what was told; patience is over when it is told that ``over[0]`` has ``over[1]``."""
        told: list[tuple[str, str]] = []
        clock = Clock()

        def tell(site: str, reason: str) -> None:
            told.append((site, reason))
            if over is not None and over[0] == site and reason.startswith(over[1]):
                clock.ahead_s = 2 * PATIENCE_S

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hand_out, "time", clock)
            return self._handed_out(fault, sites, sent, tell), told

    def _handed_out(
        self,
        fault: Fault | None,
        sites: Sequence[str],
        sent: Ensemble | None,
        tell: Callable[[str, str], None],
    ) -> dict[str, str]:
        return hand_out.hand_out(
            grid(self.folders, fault or NoFault()),
            sent or self.ensemble,
            KEEP,
            sites=sites,
            keys=lambda: {folder.name: keys.public_key(folder) for folder in self.folders},
            receipts=Receipts(self.run),
            told=tell,
            patience_s=PATIENCE_S,
            pace=PACE,
        )

    def ask(self, request: EnsembleRequest, *, site: int = 0) -> Signed[EnsembleReply] | Refusal:
        """What a site answers."""
        answer = in_process(client_app)
        message = Message(wire.encode(request), 100, wire.ENSEMBLE)
        message.metadata.__dict__["_message_id"] = "1"
        grid(self.folders)  # names this process to Flower
        return wire.decode_reply(EnsembleReply, answer(self.folders[site], message).content)

    def request(self, count: int | None = None, *, request_id: str = "one") -> EnsembleRequest:
        sent = self.ensemble
        return sent.request(EnsembleRequest, request_id, tuple(sent.sizes)[:count])


def grid(folders: Sequence[Path], fault: Fault | None = None) -> FaultyGrid:
    return FaultyGrid(folders, in_process(client_app), fault or NoFault())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation.made(tmp_path_factory.mktemp("federation"), configured())


@pytest.fixture
def federation(trained: Federation) -> Federation:
    """The same, whose sites have got nothing yet."""
    for folder in trained.folders:
        place = decisions.folder(folder, trained.settings.plan_hash())
        for path in (place / "ensemble", place / ".ensemble"):
            if path.exists():
                path.rename(place.parent.parent / f"former-{os.urandom(4).hex()}")
        (folder / "log.txt").unlink(missing_ok=True)
    return trained


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8")


def test_every_site_gets_the_networks_bit_for_bit_and_signed(federation: Federation) -> None:
    left, told = federation.hand_out()
    assert left == {}
    assert {site for site, reason in told if reason == RECEIVED} == set(NAMES)
    centre = {n.spec.name: n for n in network_files.load_all(federation.run / "networks")}
    assert len(centre) > 1
    for folder in federation.folders:
        statement, committee = delivery.opened(Site.open(folder), federation.settings.plan_hash())
        assert statement.status == "COMPLETE_ALL_SITES"
        assert statement.missing == {}
        place = federation.place(folder.name)
        got = {n.spec.name: n for n in network_files.load_all(place / "networks")}
        assert got.keys() == centre.keys()
        for name, network in got.items():
            np.testing.assert_array_equal(network.weights, centre[name].weights)
            assert (network.spec, network.result) == (centre[name].spec, centre[name].result)
        assert {spec.name for spec in committee.specs} == {n for n in centre if centre[n].spec.scoring}
        assert not list(place.parent.glob(".ensemble*"))
        assert delivery.folder(folder, federation.settings.plan_hash()).stat().st_mode & 0o077 == 0


def test_an_acknowledgement_is_in_the_sites_log_and_its_receipt_at_the_centre(federation: Federation) -> None:
    federation.hand_out()
    for folder in federation.folders:
        kept = issued_receipts.read(federation.run / "receipts" / f"{folder.name}.jsonl")
        assert kept[-1].receipt.group == "ensemble"
        checked = issued_receipts.check(folder, kept)
        assert checked.receipts == len(kept)
        last = list(chain.entries(folder / chain.NAME))[-1].content
        assert (last["event"], last["request"]) == ("ensemble", "ensemble")


def test_pieces_come_in_messages_of_limited_size_and_only_what_is_missing_comes_again(
    federation: Federation,
) -> None:
    whole = federation.ensemble
    sent = replace(
        whole,
        settings=whole.settings.model_copy(
            update={"federation": whole.settings.federation.model_copy(update={"group_bytes": 1})}
        ),
    )

    class Counting(NoFault):
        arrays: list[str]

        def __init__(self) -> None:
            self.arrays = []

        def sending(self, site: str, message: Message, number: int) -> bool:
            self.arrays += list(message.content.array_records["weights"])
            return True

    interrupted, rest = Counting(), Counting()
    answered = federation.ask(federation.request(2))
    assert isinstance(answered, Signed)
    assert set(answered.reply.missing) == set(whole.sizes) - set(federation.request(2).weights)
    left, _ = federation.hand_out(fault=interrupted, sites=["north"], sent=sent)
    assert left == {}
    first = next(iter(whole.sizes))
    assert interrupted.arrays[0] == first  # the centre does not know yet what the site has
    assert sorted(interrupted.arrays[1:]) == sorted(set(whole.sizes) - set(federation.request(2).weights))
    federation.hand_out(fault=rest, sites=["north"], sent=sent)
    assert rest.arrays == [first]  # it has all


@pytest.mark.parametrize("loses", ["messages", "replies"])
def test_what_is_lost_on_the_way_is_sent_again(federation: Federation, loses: str) -> None:
    class Losing(NoFault):
        def sending(self, site: str, message: Message, number: int) -> bool:
            return not (loses == "messages" and number == 1)

        def replying(self, site: str, reply: Message, number: int) -> Sequence[float]:
            return () if loses == "replies" and number == 1 else (0.0, 0.01)

    quick = replace(PACE, silence=1.0)
    told: list[tuple[str, str]] = []
    left = hand_out.hand_out(
        grid(federation.folders, Losing()),
        federation.ensemble,
        KEEP,
        sites=NAMES,
        keys=lambda: {folder.name: keys.public_key(folder) for folder in federation.folders},
        receipts=Receipts(federation.run),
        told=lambda site, reason: told.append((site, reason)),
        patience_s=PATIENCE_S,
        pace=quick,
    )
    assert left == {}
    for name in NAMES:
        assert (federation.place(name) / "manifest.json").exists()


def test_a_site_that_is_away_is_named_and_the_others_get_theirs(federation: Federation) -> None:
    class Away(NoFault):
        def online(self, site: str) -> bool:
            return site != "south"

    left, told = federation.hand_out(fault=Away(), over=("north", RECEIVED))
    assert left == {"south": "has not connected"}
    assert ("north", RECEIVED) in told
    assert federation.place("north").exists()
    assert not federation.place("south").exists()


def test_a_site_that_left_is_not_asked_again_and_one_that_paused_is(federation: Federation) -> None:
    north, plan_hash = Site.open(federation.folders[0]), federation.settings.plan_hash()
    campaigns.decide(north, plan_hash, Status.PAUSED, by="test")
    try:
        left, _ = federation.hand_out(sites=["north"], over=("north", "refused: paused"))
        assert left["north"].startswith("refused: paused")
        campaigns.decide(north, plan_hash, Status.LEFT, by="test")
        left, _ = federation.hand_out(sites=["north"])
        assert left["north"].startswith("refused: policy")
    finally:
        campaigns.decide(north, plan_hash, Status.APPROVED, by="test")
    assert not federation.place("north").exists()


def test_a_site_that_was_revoked_gets_nothing(federation: Federation) -> None:
    left = hand_out.hand_out(
        grid(federation.folders),
        federation.ensemble,
        KEEP,
        sites=["north", "south"],
        keys=dict,
        receipts=Receipts(federation.run),
        told=lambda site, reason: None,
        pace=PACE,
    )
    assert left == {}.fromkeys(NAMES, "is no longer registered")


def centre_key(federation: Federation) -> ec.EllipticCurvePrivateKey:
    return private_key(federation.home.server_key)


def private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def changed_statement(federation: Federation, change: Callable[[Statement], Statement]) -> EnsembleRequest:
    """As the centre itself would sign it."""
    text = change(Statement.model_validate_json(federation.ensemble.text)).dump()
    return replace(federation.request(), statement=text, signature=sign(text, centre_key(federation)))


def other_network(statement: Statement) -> Statement:
    name, network = next(iter(statement.networks.items()))
    return statement.model_copy(update={"networks": {f"{name}-of-somebody-else": network}})


def other_certificate(federation: Federation, *, now: datetime, foreign: bool) -> EnsembleRequest:
    """Signed with a certificate of another federation, or with one that has expired."""
    key = certificates.new_key()
    if foreign:
        issuer = certificates.make_authority("Test", now=now)
    else:
        certificate = x509.load_pem_x509_certificate(federation.home.ca_certificate.read_bytes())
        issuer = certificates.Certified(certificate=certificate, key=private_key(federation.home.ca_key))
    own = certificates.certify_server(issuer, key, "localhost", now=now, validity=timedelta(days=2))
    request = federation.request()
    pem = own.public_bytes(Encoding.PEM).decode()
    return replace(request, certificate=pem, signature=sign(request.statement, key))


FORGED: Mapping[str, tuple[Callable[[Federation], EnsembleRequest], str, str]] = {
    "a changed statement": (
        lambda f: replace(f.request(), statement=f.request().statement.replace("ALL_SITES", "SUBSET")),
        "verification",
        "signature",
    ),
    "another federation's centre": (
        lambda f: other_certificate(f, now=datetime.now(UTC), foreign=True),
        "verification",
        "another federation",
    ),
    "an expired certificate": (
        lambda f: other_certificate(f, now=datetime.now(UTC) - timedelta(days=30), foreign=False),
        "verification",
        "clock",
    ),
    "another campaign's": (
        lambda f: changed_statement(f, lambda s: s.model_copy(update={"plan_hash": "0" * 64})),
        "update",
        "a different campaign's",
    ),
    "a network that the plan does not have": (
        lambda f: changed_statement(f, other_network),
        "update",
        "as the plan has them",
    ),
    "weights that were changed": (
        lambda f: replace(f.request(), weights={h: w + 1 for h, w in f.request().weights.items()}),
        "update",
        "that the statement names",
    ),
    "weights that nobody named": (
        lambda f: replace(f.request(), weights={"0" * 64: np.zeros(3, dtype=np.float32)}),
        "update",
        "that the statement names",
    ),
}


@pytest.mark.parametrize("forged", FORGED)
def test_what_the_centre_did_not_sign_is_refused_and_nothing_of_it_stays(
    federation: Federation, forged: str
) -> None:
    make, code, says = FORGED[forged]
    answer = federation.ask(replace(make(federation), request_id=f"forged-{list(FORGED).index(forged)}"))
    assert isinstance(answer, Refusal)
    assert answer.code == code
    assert says in log_of(federation.folders[0])
    assert not federation.place("north").exists()


def test_an_id_stands_for_one_piece(federation: Federation) -> None:
    request = federation.request(1, request_id="same")
    for _ in range(2):
        assert isinstance(federation.ask(request), Signed)
    answer = federation.ask(federation.request(2, request_id="same"))
    assert isinstance(answer, Refusal)
    assert answer.code == "update"


def test_a_full_disk_refuses_and_leaves_nothing_half_made(federation: Federation) -> None:
    largest = max(federation.ensemble.sizes.values())
    assert largest > 100_000
    with limited_files(largest - 1):
        answer = federation.ask(federation.request(request_id="full"))
    assert isinstance(answer, Refusal)
    assert answer.code == "storage"
    assert not federation.place("north").exists()
    assert "cannot be written: File too large" in log_of(federation.folders[0])
    again = federation.ask(federation.request(request_id="freed"))
    assert isinstance(again, Signed)
    assert again.reply.missing == ()
    delivery.opened(Site.open(federation.folders[0]), federation.settings.plan_hash())


def test_a_network_that_is_changed_later_is_found(federation: Federation) -> None:
    site, plan_hash = Site.open(federation.folders[0]), federation.settings.plan_hash()
    with pytest.raises(DataError, match="there is none"):
        delivery.opened(site, plan_hash)
    federation.hand_out(sites=["north"])
    file = next((federation.place("north") / "networks").glob("*.safetensors"))
    network = network_files.load(file)
    file.write_bytes(network_files.encode(replace(network, weights=network.weights * 2)))
    with pytest.raises(VerificationError, match="not the one that was signed"):
        delivery.opened(site, plan_hash)


def test_a_plan_that_does_not_say_so_brings_no_ensemble(tmp_path: Path) -> None:
    federation = Federation.made(tmp_path, configured(recipients='"the centre"'))
    answer = federation.ask(federation.request())
    assert isinstance(answer, Refusal)
    assert answer.code == "policy"
    assert "recipients" in log_of(federation.folders[0])


def command(*arguments: str) -> str:
    """What ``synofed`` prints."""
    app = typer.Typer()
    app.add_typer(site_cli.site, name="site")
    app.command("score")(score_cli.score)
    mask = os.umask(0o022)
    try:
        result = CliRunner().invoke(app, arguments)
    finally:
        os.umask(mask)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_local_report_compares_with_the_sites_readers(federation: Federation) -> None:
    federation.hand_out(sites=["north"])
    north, plan_hash = federation.folders[0], federation.settings.plan_hash()
    before = list(chain.entries(north / chain.NAME))
    found = json.loads(command("site", "report", str(north), plan_hash[:12], "--json"))
    assert list(chain.entries(north / chain.NAME)) == before  # nothing came, nothing left
    held_out, trained_on = found["parts"]
    assert (held_out["name"], trained_on["name"]) == ("held out", "trained on")
    manifest = {row["exam_id"]: row for row in read_table(north / "manifest.csv")}
    tested = {exam for exam, row in manifest.items() if row["split"] == "test"}
    assert (held_out["exams"], held_out["patients"]) == (len(tested), 3)
    scored = north / "scores.csv"
    place = delivery.folder(north, plan_hash)
    command("score", str(place), "--manifest", str(north / "manifest.csv"), "--out", str(scored))
    decisions = {row["exam_id"]: int(row["decision_hypertrophy"]) for row in read_table(scored)}
    given: dict[str, dict[str, int]] = {"r1": {}, "r2": {}}
    for row in read_table(north / "grades.csv"):
        given[row["reader"]][row["exam_id"]] = int(row["hypertrophy"])
    exams = sorted(tested)
    answer = [decisions[exam] for exam in exams]
    by_other = {one["first"]: one for one in held_out["ensemble"]["hypertrophy"]}
    assert list(by_other) == ["consensus", "r1", "r2"]
    for reader, grades in given.items():
        truth = [grades[exam] for exam in exams]
        one = by_other[reader]
        assert one["confusion"] == confusion_matrix(truth, answer, labels=[0, 1, 2]).tolist()
        assert one["accuracy"]["value"] == pytest.approx(accuracy_score(truth, answer))
        expected = cohen_kappa_score(truth, answer, weights="linear", labels=[0, 1, 2])
        assert one["kappa_linear"]["value"] == pytest.approx(expected, nan_ok=True)
        assert one["accuracy"]["low"] <= one["accuracy"]["value"] <= one["accuracy"]["high"]
    (pair,) = held_out["readers"]["hypertrophy"]
    assert (pair["first"], pair["second"]) == ("r1", "r2")
    agree = [given["r1"][exam] == given["r2"][exam] for exam in exams]
    assert pair["accuracy"]["value"] == pytest.approx(np.mean(agree))
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert "Research use only" in page
    assert "<svg" in page
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert not re.search(r"north-p\d", page)  # no patient, no exam


def test_the_local_report_for_people_names_what_is_no_test(federation: Federation) -> None:
    federation.hand_out(sites=["north"])
    said = command("site", "report", str(federation.folders[0]), federation.settings.plan_hash()[:12])
    for words in ("no network has seen", "trained on: no test", "Research use only", "report.html"):
        assert words in " ".join(said.split())


def test_one_exam_is_scored_with_the_ensemble_at_the_site(federation: Federation) -> None:
    federation.hand_out(sites=["north"])
    row = read_table(federation.folders[0] / "manifest.csv")[0]
    gs, doppler = (str(federation.folders[0] / row[f"{image}_path"]) for image in ("gs", "doppler"))
    said = command("score", str(federation.place("north")), "--gs", gs, "--doppler", doppler)
    assert "Research use only" in said


def test_frozen_parts_that_only_the_centre_has_come_along_once(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    file = tmp_path / "resnet18.pth"
    generator = torch.Generator().manual_seed(1)
    state = torchvision_shim.resnet18().state_dict()
    torch.save(
        {
            name: torch.rand(values.shape, generator=generator) * 0.1
            if values.is_floating_point()
            else values
            for name, values in state.items()
        },
        file,
    )
    made = make_settings(images=("gs",), measurements=("hypertrophy",), grades=3, image_px=32)
    backbone = {"backbone": "resnet18", "binary_backbone": "resnet18", "layers": 2, "batch_sizes": (8,)}
    settings = pretrained.resolved(
        made.model_copy(
            update={
                "method": "andersen",
                "network": made.network.model_copy(update={"backbone": "resnet18", "weights": str(file)}),
                "andersen": made.andersen.model_copy(update={**backbone, "learning_rates": (1e-3, 5e-4)}),
                "campaign": CampaignSettings(recipients=("sites",)),
            }
        )
    )
    north = make_site_folder(
        tmp_path / "north",
        name="north",
        images=("gs",),
        patients=4,
        measurements=("hypertrophy",),
        grades=3,
        held_out_patients=1,
    )
    home = enrolling.make_home(tmp_path / "home", now=now)
    enrolling.join(home, north, now=now)
    policy_file.sign(Site.open(north), Ed25519PrivateKey.generate())
    scoring = [spec for spec in networks(settings).values() if spec.scoring]
    trained = []
    for seed, spec in enumerate(scoring):
        weights = build.initial_weights(spec, settings.network, seed=seed).numpy()
        result = NetworkResult(best_round=1, auc=0.75, threshold=0.5)
        trained.append(TrainedNetwork(spec=spec, result=result, weights=weights))
        network_files.save(tmp_path / "run" / "networks", trained[-1])
    results = {network.spec.name: network.result for network in trained}
    outcome = Outcome(
        status=campaign.Status.COMPLETE_ALL_SITES, sites=("north",), missing={}, results=results
    )
    federation = Federation(
        home=home, folders=(north,), settings=settings, run=tmp_path / "run", outcome=outcome
    )
    plan = Centre(north, settings)
    assert isinstance(plan.plan(plan.plan_request()), Signed)
    whole = federation.ensemble
    frozen = {part for _, part in whole.place.values() if part}
    assert frozen == {"backbone"}
    assert len(whole.sizes) < 2 * len(trained)  # one backbone for several classifiers travels once
    store = site_store(Site.open(north), settings)
    every = torch.arange(len(store.tensors))
    expected = network_files.committee(trained, settings).outputs(store.tensors.images, every)
    answer = federation.ask(whole.request(EnsembleRequest, "all", tuple(whole.sizes)))
    assert isinstance(answer, Signed)
    assert answer.reply.missing == ()
    file.unlink()  # the site never had it
    _, committee = delivery.opened(Site.open(north), settings.plan_hash())
    for got, wanted in zip(committee.outputs(store.tensors.images, every), expected, strict=True):
        np.testing.assert_array_equal(got.probabilities, wanted.probabilities)


def test_a_centre_that_is_started_again_goes_on_handing_out(
    trained: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watched(NoFault):
        """What is handed to one site never arrives."""

        def __init__(self, lost: str) -> None:
            self.lost = lost
            self.given: list[str] = []

        def sending(self, site: str, message: Message, number: int) -> bool:
            if message.metadata.message_type != wire.ENSEMBLE:
                return True
            self.given.append(site)
            return site != self.lost

    settings = trained.settings.model_copy(
        update={
            "name": "again",
            "seed": 7,
            "federation": trained.settings.federation.model_copy(update={"approval_s": 4.0}),
        }
    )
    monkeypatch.setenv(HOME_VARIABLE, str(trained.home.path))
    monkeypatch.setattr(campaign, "run", partial(campaign.run, pace=PACE))
    run = submit.submit(trained.home, settings)
    first, second = Watched("south"), Watched("nobody")
    deployed.run(grid(trained.folders, first), name="again")
    status = run.status()
    assert status.state == "COMPLETE_ALL_SITES"
    assert status.ensemble == {"north": RECEIVED, "south": "has not answered"}
    assert "south has not got the ensemble" in run.log.read_text(encoding="utf-8")
    deployed.run(grid(trained.folders, second), name="again")
    assert run.status().ensemble == dict.fromkeys(NAMES, RECEIVED)
    assert second.given == ["south"]
