import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from torch.nn import functional as F

from client.app import app as client_app
from client.data.site_store import site_store
from client.ledger import issued_receipts
from client.site.site import Site
from common import wire
from common.errors import CampaignError, PolicyError
from common.imaging.prepare import picture
from common.machine import network_files
from common.messages import NetworkReply, Signed, TrainReply, TrainRequest
from common.methods.rating import Rating
from common.methods.stages import NetworkResult, Stage, networks
from common.networks import build, layout
from common.sections.training import TrainingSettings
from common.settings import Settings
from common.training.inputs import labels, training_exams
from server.campaign import campaign
from server.campaign.campaign import Event, Outcome, Status
from server.campaign.library import NetworkLibrary
from server.campaign.roster import Roster
from server.rounds import weights
from server.rounds.journal import RoundRecord
from simulation.engine.grid import InProcessGrid, StrictGrid, Workers
from tests.site_folders import make_settings, make_site_folder, small_site

FULL_BATCH_STEP = TrainingSettings(
    optimiser="sgd",
    sampling="all",
    schedule="constant",
    weight_decay=0.0,
    learning_rate=0.1,
    local_steps=1,
    augmentation=None,
)
App = Callable[[Message, Context], Message]


def configured(text: str = "", *, image_px: int = 16) -> Settings:
    return make_settings(
        images=("gs",),
        measurements=("hypertrophy",),
        grades=3,
        image_px=image_px,
        text=f'fusion = "joint"\nreplicas = 1\n[training]\nlocal_steps = 2\nbatch_size = 8\n{text}',
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("sites")
    return [small_site(base / name, seed=seed) for seed, name in enumerate(("north", "south", "west"))]


def run(
    folders: Sequence[Path],
    settings: Settings,
    folder: Path,
    *,
    app: App = client_app,
    workers: int = 1,
    observer: Callable[[Event], None] = lambda event: None,
    library: NetworkLibrary | None = None,
) -> Outcome:
    folder.mkdir(exist_ok=True)
    with Workers(("cpu",) * workers, threads=1) as pool:
        grid = StrictGrid(InProcessGrid(app, folders, pool))
        return campaign.run(
            grid,
            settings,
            roster=Roster.anyone(len(folders)),
            folder=folder,
            campaign="test",
            observer=observer,
            library=library,
        )


def trained(folder: Path) -> dict[str, np.ndarray]:
    return {n.spec.name: n.weights for n in network_files.load_all(folder / "networks")}


def assert_same(one: Path, other: Path) -> None:
    first, second = trained(one), trained(other)
    assert list(first) == list(second) != []
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def hostile(site: str, change: Callable[[TrainReply], TrainReply]) -> App:
    """The real client, but one site changes its replies before it signs them."""

    def app(message: Message, context: Context) -> Message:
        answer = client_app(message, context)
        if message.metadata.message_type != wire.TRAIN:
            return answer
        answered = wire.decode_round_reply(TrainReply, answer.content)
        if not isinstance(answered, Signed) or answered.reply.site != site:
            return answer
        record = wire.encode(change(answered.reply), encoding="float32")
        receipt = issued_receipts.of_reply(
            Site.open(Path(str(context.node_config["site-folder"]))),
            wire.decode(TrainRequest, message.content),
            wire.contents(record),
        )
        return Message(wire.with_receipt(record, receipt), reply_to=message)

    return app


def with_nan(reply: TrainReply) -> TrainReply:
    def broken(network: NetworkReply) -> NetworkReply:
        assert network.update is not None
        return replace(network, update=np.where(np.arange(network.update.size) == 5, np.nan, network.update))

    return replace(
        reply,
        networks={name: broken(n) if n.update is not None else n for name, n in reply.networks.items()},
    )


def test_a_campaign_over_three_sites_is_complete_and_repeatable(folders: list[Path], tmp_path: Path) -> None:
    events: list[Event] = []
    settings = configured("[federation]\nrounds = 2")
    outcome = run(folders, settings, tmp_path / "a", observer=events.append)
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert outcome.sites == ("north", "south", "west")
    assert set(outcome.results) == set(networks(settings))
    assert [e.round for e in events if isinstance(e, RoundRecord)] == [1, 2, 3]
    run(folders, settings, tmp_path / "b")
    assert_same(tmp_path / "a", tmp_path / "b")


def test_groups_workers_and_the_order_of_folders_do_not_change_the_bits(
    folders: list[Path], tmp_path: Path
) -> None:
    run(folders, configured("[federation]\nrounds = 2"), tmp_path / "a")
    split = configured("[federation]\nrounds = 2\ngroup_bytes = 1\n[compute]\ngroups_in_flight = 2")
    run(folders[::-1], split, tmp_path / "b", workers=3)
    assert len(list((tmp_path / "b" / "journal").iterdir())) == len(networks(split))
    assert_same(tmp_path / "a", tmp_path / "b")


def test_replies_that_arrive_in_any_order_give_the_same_bits(folders: list[Path], tmp_path: Path) -> None:
    lock = threading.Lock()
    chance = random.Random(0)

    def dawdling(message: Message, context: Context) -> Message:
        with lock:
            delay = chance.random() * 0.2
        answer = client_app(message, context)
        time.sleep(delay)
        return answer

    settings = configured("[federation]\nrounds = 2")
    run(folders, settings, tmp_path / "a")
    run(folders, settings, tmp_path / "b", app=dawdling, workers=3)
    assert_same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("stop_after", [2, *(pytest.param(n, marks=pytest.mark.soak) for n in (1, 3))])
def test_interrupted_after_any_round_it_resumes_to_the_same_bits(
    folders: list[Path], tmp_path: Path, stop_after: int
) -> None:
    settings = configured("[federation]\nrounds = 2\ngroup_bytes = 100_000")

    seen: list[Event] = []

    def kill(event: Event) -> None:
        seen.append(event)
        if sum(isinstance(e, RoundRecord) for e in seen) == stop_after:
            raise KeyboardInterrupt

    run(folders, settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(folders, settings, tmp_path / "parts", observer=kill)
    run(folders, settings, tmp_path / "parts")
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_one_full_batch_step_in_the_federation_is_the_centralised_step(
    folders: list[Path], tmp_path: Path
) -> None:
    settings = configured("[federation]\nrounds = 1").model_copy(update={"training": FULL_BATCH_STEP})
    run(folders, settings, tmp_path)
    for name, spec in networks(settings).items():
        start = torch.from_numpy(weights.StartWeights(settings, tmp_path).start(spec))
        federated = _after_round_one(tmp_path, name)
        module = build.network(spec, settings.network)
        layout.load(module, start)
        pooled, targets = _pooled(folders, settings, name)
        F.cross_entropy(module(pooled), targets).backward()
        with torch.no_grad():
            for parameter in module.parameters():
                assert parameter.grad is not None
                parameter.add_(parameter.grad, alpha=-0.1)
        centralised = layout.flatten(module).numpy()
        step = np.abs(centralised - start.numpy()).max()
        np.testing.assert_allclose(federated, centralised, atol=1e-4 * step)


def _after_round_one(folder: Path, name: str) -> np.ndarray:
    from safetensors.numpy import load_file

    (path,) = (folder / "journal").rglob(
        "round_000002.safetensors"
    )  # scored after round 1, not trained again
    return load_file(path)[name]


def _pooled(
    folders: Sequence[Path], settings: Settings, name: str
) -> tuple[list[torch.Tensor], torch.Tensor]:
    spec = networks(settings)[name]
    pictures: dict[str, list[torch.Tensor]] = {image: [] for image in spec.images}
    targets = []
    for folder in folders:
        data = site_store(Site.open(folder), settings).tensors
        exams = training_exams(data, spec)
        targets.append(labels(data, spec)[exams])
        for image in spec.images:
            stored = data.images[image][exams]
            pictures[image].append(
                picture(stored, settings.images[image], image_px=settings.network.image_px)
            )
    return [torch.cat(pictures[image]) for image in spec.images], torch.cat(targets)


def test_a_nan_in_one_sites_update_fails_the_run_and_names_site_and_reason(
    folders: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(CampaignError, match="south: Expected finite numbers"):
        run(folders, configured(), tmp_path, app=hostile("south", with_nan))


def test_with_a_quorum_the_campaign_goes_on_without_the_bad_site_and_says_so(
    folders: list[Path], tmp_path: Path
) -> None:
    settings = configured('[federation]\nrounds = 2\nquorum = 2\nrule = "median"')
    outcome = run(folders, settings, tmp_path / "a", app=hostile("south", with_nan))
    assert outcome.status is Status.COMPLETE_SUBSET
    assert outcome.missing == {"south": 2}
    assert all(np.isfinite(values).all() for values in trained(tmp_path / "a").values())


def test_a_site_that_raises_leaves_a_code_in_the_error_and_the_text_in_its_own_log(
    tmp_path: Path, folders: list[Path]
) -> None:
    broken = small_site(tmp_path / "broken")
    settings = configured("[federation]\nrounds = 2")
    poisoned = tmp_path / "broken" / "manifest.csv"

    def sabotage(event: Event) -> None:
        if isinstance(event, RoundRecord):
            poisoned.write_text("exam_id\nSECRET-PATIENT\n", encoding="utf-8")

    with pytest.raises(CampaignError, match="broken: refused: data") as raised:
        run([folders[0], broken], settings, tmp_path / "run", observer=sabotage)
    assert "SECRET" not in str(raised.value)
    assert "patient_id" in (broken / "log.txt").read_text(encoding="utf-8")


class DefectiveAtSites(Rating):
    """A method with a defect that shows at sites only, and whose error would tell a patient's name."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        if threading.current_thread().name.startswith("site"):
            raise ZeroDivisionError("PATIENT-NAME")
        return super().stages(settings, results)


def test_a_defect_in_the_client_leaves_no_text(tmp_path: Path) -> None:
    folder = small_site(tmp_path / "odd")
    method = "tests.federation.test_campaign:DefectiveAtSites"
    toml = (folder / "site.toml").read_text(encoding="utf-8")
    permitted = toml.replace('code = ["*"]', f'code = ["{method}"]')
    (folder / "site.toml").write_text(permitted, encoding="utf-8")
    with pytest.raises(PolicyError, match=r"odd refuses \(internal\)") as raised:
        run([folder], configured().model_copy(update={"method": method}), tmp_path / "run")
    assert "PATIENT" not in str(raised.value)
    assert "PATIENT-NAME" in (folder / "log.txt").read_text(encoding="utf-8")


def below_cohort(path: Path, name: str, *, metrics: str = '["counts"]', seed: int = 0) -> Path:
    """A site whose training patients are fewer than its policy asks for."""
    made = make_site_folder(
        path / name,
        name=name,
        patients=6,
        measurements=("hypertrophy",),
        grades=3,
        held_out_patients=2,
        seed=seed,
    )
    toml = made / "site.toml"
    text = toml.read_text(encoding="utf-8").replace("minimum_cohort = 1", "minimum_cohort = 5")
    toml.write_text(text.replace('["counts", "losses", "score_histograms"]', metrics), encoding="utf-8")
    return made


def test_a_campaign_in_which_nothing_can_be_trained_fails_before_a_round(tmp_path: Path) -> None:
    small = [below_cohort(tmp_path, name, seed=seed) for seed, name in enumerate(("north", "south"))]
    with pytest.raises(CampaignError, match=r"cannot begin: no site has a training example for hypertrophy"):
        run(small, configured(), tmp_path / "run")
    assert not list((tmp_path / "run").glob("journal/*/round_000001*"))
    assert not list((tmp_path / "run").glob("networks/*"))


def test_where_counts_stay_at_the_sites_it_fails_after_the_first_round(tmp_path: Path) -> None:
    small = [
        below_cohort(tmp_path, name, metrics="[]", seed=seed) for seed, name in enumerate(("north", "south"))
    ]
    with pytest.raises(CampaignError, match=r"Round 1 of .*no site has a training example for hypertrophy"):
        run(small, configured('[federation]\nrule = "median"'), tmp_path / "run")
    assert not list((tmp_path / "run").glob("networks/*"))


@pytest.mark.parametrize("metrics", ['["counts"]', "[]"])
def test_a_site_that_trained_nothing_is_no_participant(
    folders: list[Path], tmp_path: Path, metrics: str
) -> None:
    few = below_cohort(tmp_path, "few", metrics=metrics)
    records: list[RoundRecord] = []

    def observe(event: Event) -> None:
        if isinstance(event, RoundRecord):
            records.append(event)

    settings = configured('[federation]\nrounds = 2\nquorum = 2\nrule = "median"')
    outcome = run([*folders[:2], few], settings, tmp_path / "run", observer=observe)
    assert outcome.status is Status.COMPLETE_SUBSET
    assert outcome.missing == {"few": 3}  # the round that scores, too
    assert {record.participants for record in records} == {("north", "south")}
    assert all(record.dropped == {"few": "had nothing to train"} for record in records)


def test_a_quorum_that_cannot_be_reached_is_said_before_a_round(folders: list[Path], tmp_path: Path) -> None:
    few = below_cohort(tmp_path, "few")
    for text in ("", "[federation]\nquorum = 3"):
        with pytest.raises(
            CampaignError, match=r"expected 3 of 3 sites that train .*few had nothing to train"
        ):
            run([*folders[:2], few], configured(text), tmp_path / f"run{len(text)}")
    silent = below_cohort(tmp_path, "silent", metrics="[]")
    with pytest.raises(CampaignError, match=r"got 2 \(silent: had nothing to train\)"):
        run(
            [*folders[:2], silent], configured('[federation]\nquorum = 3\nrule = "median"'), tmp_path / "late"
        )


def test_a_site_that_does_not_permit_it_declines(folders: list[Path], tmp_path: Path) -> None:
    wary = small_site(tmp_path / "wary")
    toml = (wary / "site.toml").read_text(encoding="utf-8")
    (wary / "site.toml").write_text(toml.replace("allow_unprotected = true", ""), encoding="utf-8")
    with pytest.raises(PolicyError, match=r"wary refuses \(policy\)"):
        run([folders[0], wary], configured(), tmp_path / "run")
    assert "allow_unprotected" in (wary / "log.txt").read_text(encoding="utf-8")


def test_two_sites_of_one_name_are_refused(tmp_path: Path, folders: list[Path]) -> None:
    twin = make_site_folder(
        tmp_path / "twin",
        name="north",
        patients=8,
        measurements=("hypertrophy",),
        grades=3,
        held_out_patients=2,
    )
    with pytest.raises(CampaignError, match="call themselves 'north'"):
        run([folders[0], twin], configured(), tmp_path / "run")


def test_fedprox_and_bfloat16_run_and_differ_from_fedavg(folders: list[Path], tmp_path: Path) -> None:
    texts = {
        "fedavg": "",
        "fedprox": 'algorithm = "fedprox"\nproximal_mu = 5.0',
        "bfloat16": 'encoding = "bfloat16"',
    }
    results = {}
    for name, text in texts.items():
        run(folders, configured(f"[federation]\nrounds = 1\n{text}"), tmp_path / name)
        results[name] = np.concatenate(list(trained(tmp_path / name).values()))
    assert not np.array_equal(results["fedavg"], results["fedprox"])
    assert not np.array_equal(results["fedavg"], results["bfloat16"])
    np.testing.assert_allclose(results["fedavg"], results["bfloat16"], atol=0.05)
