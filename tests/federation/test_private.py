"""A campaign with differential privacy, from the centre's request to the sites' ledgers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from torch.nn import functional as F

from client.app import app as client_app
from client.data.site_store import site_store
from client.ledger import ledger
from client.site.site import Site
from common import wire
from common.errors import BudgetError, PolicyError
from common.imaging.prepare import picture
from common.machine import network_files, pretrained
from common.messages import PlanReply, Signed, TrainReply
from common.methods.stages import networks
from common.networks import build, torchvision_shim
from common.networks.probe import ProbeNetwork
from common.networks.spec import NetworkSpec
from common.privacy.accounting import of_plan, spending
from common.privacy.accounting.accounting import epsilon
from common.settings import Settings
from server.campaign.campaign import Event, Status
from server.rounds.journal import RoundRecord
from server.rounds.weights import StartWeights
from tests.federation.test_campaign import run
from tests.marks import SOAK_CI
from tests.public_encoders import make_encoders
from tests.site_folders import make_settings, make_site_folder

either = pytest.mark.parametrize("train", ["heads", "norms"])
heads_first = pytest.mark.parametrize("train", ["heads", pytest.param("norms", marks=SOAK_CI)])
"""What is trained of a public encoder's networks."""
App = Callable[[Message, Context], Message]
ROUNDS, NECK = 3, 6
SIGMA = 4.0
PRIVATE = f"""
[federation]
rounds = {ROUNDS}
[probe]
neck = {NECK}
initialisations = 2
views = 2
[privacy]
noise_multiplier = {SIGMA}
patients = 6
images = 2
"""


def training(train: str, text: str = PRIVATE) -> str:
    return text.replace("[probe]", f'[probe]\ntrain = "{train}"')


def configured(text: str = PRIVATE, *, encoders: Path) -> Settings:
    settings = make_settings(text=text, method="probe", weights=str(encoders))
    if not encoders.exists():
        make_encoders(encoders, settings)
    return pretrained.resolved(settings)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [site(tmp_path, name, seed=seed) for seed, name in enumerate(("north", "south"))]


def site(base: Path, name: str, *, seed: int = 0, cap: float = 50.0, grades: int = 4) -> Path:
    folder = make_site_folder(
        base / name, name=name, patients=8, held_out_patients=2, seed=seed, grades=grades
    )
    toml = (folder / "site.toml").read_text()
    toml = toml.replace("allow_unprotected = true\n", "").replace(
        "keep_outbox_days = 0", "keep_outbox_days = 9"
    )
    (folder / "site.toml").write_text(f"{toml}maximum_epsilon = {cap}\n")
    return folder


def spent(folder: Path) -> float:
    return spending.worst(ledger.book(folder).histories(), delta=1e-5)


@either
def test_every_round_is_booked_once_and_nothing_else_leaves(
    tmp_path: Path, folders: list[Path], train: str
) -> None:
    settings = configured(training(train), encoders=tmp_path / "encoders")
    left: list[TrainReply] = []

    def watched(message: Message, context: Context) -> Message:
        answer = client_app(message, context)
        if message.metadata.message_type == wire.TRAIN:
            reply = wire.decode_round_reply(TrainReply, answer.content)
            if isinstance(reply, Signed):
                left.append(reply.reply)
        return answer

    outcome = run(folders, settings, tmp_path / "run", app=watched)
    assert outcome.status is Status.COMPLETE_ALL_SITES
    steps = of_plan.steps(settings.privacy, ROUNDS)  # type: ignore[arg-type]
    for folder in folders:
        book = ledger.book(folder)
        assert len(book.releases) == ROUNDS
        assert len(book.commitments) == 6
        assert all(len(booked.eligible) == 6 for booked in book.releases)
        assert spent(folder) == pytest.approx(epsilon([steps], delta=1e-5), abs=1e-9)
    assert len(left) == len(folders) * (ROUNDS + 1)
    assert {n.num_examples for reply in left for n in reply.networks.values()} == {1}
    assert all(np.isnan(n.loss) and n.histograms is None for reply in left for n in reply.networks.values())
    noise = np.concatenate(
        [n.update for reply in left for n in reply.networks.values() if n.update is not None]
    )
    assert noise.std() == pytest.approx(SIGMA / 6, rel=0.15)


@heads_first
def test_without_privacy_two_sites_are_one_and_plain_descent_finds_the_same(
    tmp_path: Path, train: str
) -> None:
    """Federated equals centralised: an oracle by autograd over all patients of both sites."""
    text = (
        training(train).replace(f"noise_multiplier = {SIGMA}", 'mechanism = "none"').replace("views = 2", "")
    )
    settings = configured(text, encoders=tmp_path / "encoders")
    sites = [site(tmp_path, name, seed=seed) for seed, name in enumerate(("north", "south"))]
    for folder in sites:
        toml = (folder / "site.toml").read_text()
        (folder / "site.toml").write_text(toml.replace("[policy]", "[policy]\nallow_unprotected = true"))
    run(sites, settings, tmp_path / "run")
    found = {n.spec.name: n.weights for n in network_files.load_all(tmp_path / "run" / "networks")}
    begin = StartWeights(settings, tmp_path / "none")
    for name, spec in networks(settings).items():
        weights = torch.from_numpy(begin.start(spec)).requires_grad_()
        for _ in range(ROUNDS):
            loss = sum(patients_loss(folder, settings, spec, weights) for folder in sites) / len(sites)
            (gradient,) = torch.autograd.grad(loss, weights)  # type: ignore[arg-type]
            weights = (weights.detach() - settings.probe.learning_rate * gradient).requires_grad_()
        np.testing.assert_allclose(found[name], weights.detach().numpy(), atol=2e-6)
    assert all(history.unbounded for folder in sites for history in ledger.book(folder).histories())


@either
def test_interrupted_without_privacy_it_resumes_to_the_same_bits(tmp_path: Path, train: str) -> None:
    text = training(train).replace(f"noise_multiplier = {SIGMA}", 'mechanism = "none"')
    settings = configured(text, encoders=tmp_path / "encoders")
    folder = site(tmp_path, "north")
    toml = (folder / "site.toml").read_text()
    (folder / "site.toml").write_text(toml.replace("[policy]", "[policy]\nallow_unprotected = true"))

    def interrupt(event: Event) -> None:
        if isinstance(event, RoundRecord) and event.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([folder], settings, tmp_path / "run", observer=interrupt)
    run([folder], settings, tmp_path / "run")
    run([folder], settings, tmp_path / "through")
    resumed, through = (
        {n.spec.name: n.weights for n in network_files.load_all(tmp_path / one / "networks")}
        for one in ("run", "through")
    )
    assert resumed.keys() == through.keys()
    for name, weights in through.items():
        assert np.array_equal(resumed[name], weights)
        assert bool(weights[4 * (NECK + 1) :].any()) == (train == "norms")


def patients_loss(folder: Path, settings: Settings, spec: NetworkSpec, weights: torch.Tensor) -> torch.Tensor:
    """Sum over a site's training patients of their mean loss, over the public number."""
    assert settings.privacy is not None
    store = site_store(Site.open(folder), settings)
    frozen = {
        part: torch.from_numpy(values)
        for part, values in StartWeights(settings, folder / "none").frozen(spec).items()
    }
    network = build.assembled(spec, settings.network, weights.detach(), frozen)
    assert isinstance(network, ProbeNetwork)
    head, bias = weights[: 4 * NECK].view(4, NECK), weights[4 * NECK : 4 * (NECK + 1)]
    moves = weights[4 * (NECK + 1) :]
    total = torch.zeros(())
    training = store.exams[store.exams["fold"] == 0].sort_values("exam_id")
    for _, exams in training.groupby("patient_id"):
        first = torch.from_numpy(exams.index.to_numpy(copy=True))[: settings.privacy.images]
        pictures = [
            picture(store.tensors.images[n][first], settings.images[n], image_px=settings.network.image_px)
            for n in spec.images
        ]
        with torch.no_grad():
            found = network.read(pictures)
        numbers, slopes = found[:, :NECK], found[:, NECK:].unflatten(1, (NECK, len(moves)))
        read = F.normalize(numbers + slopes @ moves, dim=1)
        graded = store.tensors.grades[spec.target.measurement][first].long()
        total = total + F.cross_entropy(read @ head.T + bias, graded)
    return total / settings.privacy.patients


def test_patients_can_be_drawn_and_pay_less_for_it(tmp_path: Path, folders: list[Path]) -> None:
    settings = configured(f"{PRIVATE}sample_rate = 0.5", encoders=tmp_path / "encoders")
    assert settings.privacy is not None
    run(folders, settings, tmp_path / "run")
    steps = of_plan.steps(settings.privacy, ROUNDS)
    assert steps.sample_rate == 0.5
    for folder in folders:
        assert all(len(booked.eligible) == 6 for booked in ledger.book(folder).releases)
        assert spent(folder) == pytest.approx(epsilon([steps], delta=1e-5), abs=1e-9)


@heads_first
def test_measurements_may_have_other_numbers_of_grades(tmp_path: Path, train: str) -> None:
    folders = [site(tmp_path, name, seed=seed, grades=3) for seed, name in enumerate(("north", "south"))]
    settings = make_settings(
        text=training(train), method="probe", weights=str(tmp_path / "encoders"), grades=3
    )
    finer = settings.measurements["vascularity"].model_copy(update={"grades": 4})
    settings = settings.model_copy(update={"measurements": {**settings.measurements, "vascularity": finer}})
    make_encoders(tmp_path / "encoders", settings)
    run(folders, pretrained.resolved(settings), tmp_path / "run")
    heads = {
        head.spec.name: len(head.weights) for head in network_files.load_all(tmp_path / "run" / "networks")
    }
    coarse, fine = ({size for name, size in heads.items() if one in name} for one in settings.measurements)
    assert {size - (NECK + 1) for size in fine} == coarse  # one more class
    assert [len(ledger.book(folder).releases) for folder in folders] == [ROUNDS, ROUNDS]  # still one vector


@pytest.mark.soak
@pytest.mark.ci
def test_the_encoder_may_be_torchvisions(tmp_path: Path, folders: list[Path]) -> None:
    file = tmp_path / "resnet18.pth"
    torch.save(torchvision_shim.resnet18().state_dict(), file)
    text = PRIVATE.replace("neck = 6", 'source = "torchvision"').replace("rounds = 3", "rounds = 1")
    settings = make_settings(text=text, method="probe", weights=str(file), image_px=32, backbone="resnet18")
    run(folders, pretrained.resolved(settings), tmp_path / "run")
    heads = list(network_files.load_all(tmp_path / "run" / "networks"))
    assert {len(head.weights) for head in heads} == {4 * (2 * 512 + 1)}  # both images, for every measurement
    assert [len(ledger.book(folder).releases) for folder in folders] == [1, 1]


def test_a_campaign_that_does_not_fit_the_budget_is_refused_before_it_begins(tmp_path: Path) -> None:
    settings = configured(encoders=tmp_path / "encoders")
    folder = site(tmp_path, "north", cap=1.0)
    with pytest.raises(BudgetError, match="north refuses \\(budget\\)"):
        run([folder], settings, tmp_path / "run")
    assert not ledger.book(folder).releases
    assert "policy.maximum_epsilon" in (folder / "log.txt").read_text()


def test_rounds_beyond_what_patients_have_left_are_noise_and_no_refusal(
    tmp_path: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal would tell the centre that somebody is here who took part elsewhere."""
    settings = configured(encoders=tmp_path / "encoders")
    assert settings.privacy is not None
    two = epsilon([of_plan.steps(settings.privacy, 2)], delta=1e-5)
    monkeypatch.setattr("client.consent.private_consent.check", lambda site, settings: None)
    toml = (folders[0] / "site.toml").read_text()
    (folders[0] / "site.toml").write_text(
        toml.replace("maximum_epsilon = 50.0", f"maximum_epsilon = {two + 1e-6}")
    )
    outcome = run(folders, settings, tmp_path / "run")
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert [len(one.eligible) for one in ledger.book(folders[0]).releases] == [6, 6, 0]
    assert spent(folders[0]) <= two + 1e-6


@pytest.mark.slow
def test_a_site_where_nobody_trains_sends_noise(tmp_path: Path, folders: list[Path]) -> None:
    manifest = Site.open(folders[0]).data_folder / "manifest.csv"
    header, *rows = manifest.read_text(encoding="utf-8").splitlines()
    place = header.split(",").index("split")
    held = [",".join("test" if n == place else v for n, v in enumerate(row.split(","))) for row in rows]
    manifest.write_text("\n".join([header, *held]) + "\n", encoding="utf-8")
    outcome = run(folders, configured(encoders=tmp_path / "encoders"), tmp_path / "run")
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert [len(one.eligible) for one in ledger.book(folders[0]).releases] == [0, 0, 0]


def test_a_request_that_comes_again_gets_the_same_bytes_for_nothing(
    tmp_path: Path, folders: list[Path]
) -> None:
    settings = configured(encoders=tmp_path / "encoders")
    answers: list[bytes] = []

    def twice(message: Message, context: Context) -> Message:
        answer = client_app(message, context)
        if message.metadata.message_type == wire.TRAIN:
            again = client_app(message, context)
            answers.extend(wire.contents(one.content).hash.encode() for one in (answer, again))
        return answer

    run(folders, settings, tmp_path / "run", app=twice)
    assert answers[0::2] == answers[1::2]
    assert all(len(ledger.book(folder).releases) == ROUNDS for folder in folders)


def test_noise_is_new_in_every_run(tmp_path: Path, folders: list[Path]) -> None:
    settings = configured(encoders=tmp_path / "encoders")
    runs = []
    for number in range(2):
        run(folders, settings, tmp_path / f"run{number}")
        runs.append(
            np.concatenate(
                [n.weights for n in network_files.load_all(tmp_path / f"run{number}" / "networks")]
            )
        )
    assert abs(np.corrcoef(runs[0], runs[1])[0, 1]) < 0.9  # they share their start
    assert len(ledger.book(folders[0]).releases) == 2 * ROUNDS


def test_a_site_without_a_budget_refuses(tmp_path: Path) -> None:
    settings = configured(encoders=tmp_path / "encoders")
    folder = site(tmp_path, "north")
    toml = (folder / "site.toml").read_text()
    (folder / "site.toml").write_text(toml.replace("maximum_epsilon = 50.0\n", ""))
    with pytest.raises(PolicyError, match="north refuses \\(policy\\)"):
        run([folder], settings, tmp_path / "run")


def test_the_answer_to_a_private_plan_says_nothing_of_the_patients(
    tmp_path: Path, folders: list[Path]
) -> None:
    settings = configured(encoders=tmp_path / "encoders")
    said: list[PlanReply] = []

    def watched(message: Message, context: Context) -> Message:
        answer = client_app(message, context)
        if message.metadata.message_type == wire.PLAN:
            reply = wire.decode_reply(PlanReply, answer.content)
            assert isinstance(reply, Signed)
            said.append(reply.reply)
        return answer

    run(folders, settings, tmp_path / "run", app=watched)
    assert [dict(reply.usable) for reply in said] == [{}, {}]
    assert all(np.isnan(reply.round_seconds) for reply in said)
