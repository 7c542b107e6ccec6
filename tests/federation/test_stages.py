"""RATING's stages over real sites in process: what starts from what, what travels, what is sent once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message

from client.app import app as client_app
from client.ledger import ledger
from client.state import weights_cache
from common import wire
from common.errors import CampaignError
from common.machine import network_files
from common.messages import MissingWeights, Signed, TrainReply, TrainRequest, WeightsRef
from common.methods.rating import JIGSAW
from common.methods.stages import networks
from common.settings import Settings
from server.campaign.campaign import Event, Outcome, StageStarted
from server.campaign.library import NetworkLibrary
from server.rounds.journal import RoundRecord
from tests.federation.test_campaign import run
from tests.site_folders import make_settings, make_site_folder, read_table, small_site, ungrade, write_table

STAGED = """\
replicas = 1
models = 1
pretraining = "jigsaw"
[rating.jigsaw]
image_px = 48
tile_px = 12
permutations = 6
rounds = 1
[rating.head]
learning_rate = 1e-2
[training]
local_steps = 2
batch_size = 8
[federation]
rounds = 2
"""
HEAD = "rating/fold0/hypertrophy/gt0/a"
App = Callable[[Message, Context], Message]


def configured(text: str = STAGED) -> Settings:
    return make_settings(measurements=("hypertrophy",), grades=2, text=text)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("sites")
    return [small_site(base / name, seed=seed, grades=2) for seed, name in enumerate(("north", "south"))]


def trained(folder: Path) -> dict[str, network_files.TrainedNetwork]:
    return {network.spec.name: network for network in network_files.load_all(folder / "networks")}


def assert_same(one: Path, other: Path) -> None:
    first, second = trained(one), trained(other)
    assert list(first) == list(second) != []
    for name, network in first.items():
        np.testing.assert_array_equal(network.weights, second[name].weights)


def recording(requests: list[TrainRequest], replies: list[str]) -> App:
    """The real client; keeps what it was sent and what kind of answer it gave."""

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == wire.TRAIN:
            requests.append(wire.decode(TrainRequest, message.content))
        reply = client_app(message, context)
        if message.metadata.message_type == wire.TRAIN:
            replies.append("missing" if "missing-weights" in reply.content else "reply")
        return reply

    return app


def test_all_stages_run_and_the_head_alone_travels(folders: list[Path], tmp_path: Path) -> None:
    requests: list[TrainRequest] = []
    replies: list[str] = []
    stages: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, StageStarted):
            stages.append(event.stage)

    settings = configured()
    outcome = run(folders, settings, tmp_path, app=recording(requests, replies), observer=observe)
    assert stages == ["jigsaw", "features", "fusion"]
    assert set(outcome.results) == set(networks(settings))
    heads = [r for r in requests if r.group.startswith("fusion")]
    width = settings.network.width
    assert (
        heads[0].weights[HEAD].size == 16 * width * settings.network.hidden + 3 * settings.network.hidden + 2
    )
    assert sum(bool(r.attached) for r in heads) == len(folders), "frozen parts are sent to each site once"
    assert replies.count("missing") == len(folders)


def test_each_stage_starts_from_what_came_before(folders: list[Path], tmp_path: Path) -> None:
    requests: list[TrainRequest] = []
    run(folders, configured(), tmp_path, app=recording(requests, []))
    networks_ = trained(tmp_path)
    puzzle = networks_["rating/jigsaw"].weights
    first = next(r for r in requests if r.group.startswith("features"))
    width = 16
    backbone = puzzle[: 3 * 49 * width]  # the stem comes first in both
    for name in (f"{HEAD}/gs", f"{HEAD}/doppler"):
        np.testing.assert_array_equal(first.weights[name][: backbone.size], backbone)
    (module,) = network_files.modules(list(networks_.values()), [networks_[HEAD].spec], configured())
    for place, image in enumerate(("gs", "doppler")):
        stem = dict(module.named_parameters())[f"backbones.{place}.stem.weight"]
        np.testing.assert_array_equal(
            stem.reshape(-1).numpy(), networks_[f"{HEAD}/{image}"].weights[: stem.numel()]
        )


def test_the_head_learns_and_frozen_parts_stay(folders: list[Path], tmp_path: Path) -> None:
    requests: list[TrainRequest] = []
    run(folders, configured(), tmp_path, app=recording(requests, []))
    heads = [r for r in requests if r.group.startswith("fusion") and HEAD in r.weights]
    first, last = (at(r.server_round for r in heads) for at in (min, max))
    before, after = (next(r for r in heads if r.server_round == number) for number in (first, last))
    assert not np.array_equal(before.weights[HEAD], after.weights[HEAD])
    assert before.frozen[HEAD] == after.frozen[HEAD]


def test_a_site_that_loses_its_cache_asks_again(folders: list[Path], tmp_path: Path) -> None:
    settings = configured()
    run(folders, settings, tmp_path / "whole")
    replies: list[str] = []
    inner = recording([], replies)

    def forgetful(message: Message, context: Context) -> Message:
        weights_cache.forget(Path(str(context.node_config["site-folder"])), plan_hash=settings.plan_hash())
        return inner(message, context)

    run(folders, settings, tmp_path / "forgetful", app=forgetful)
    assert replies.count("missing") == len(folders) * (settings.federation.rounds + 1)
    assert_same(tmp_path / "whole", tmp_path / "forgetful")


def test_a_site_that_asks_without_end_is_dropped(folders: list[Path], tmp_path: Path) -> None:
    def greedy(message: Message, context: Context) -> Message:
        if message.metadata.message_type == wire.TRAIN:
            request = wire.decode(TrainRequest, message.content)
            hashes = tuple(ref.hash for parts in request.frozen.values() for ref in parts.values())
            if hashes:
                missing = MissingWeights(site="north", request_id=request.request_id, hashes=hashes)
                return Message(wire.encode(missing), reply_to=message)
        return client_app(message, context)

    with pytest.raises(CampaignError, match="ask once"):
        run(folders, configured(), tmp_path, app=greedy)


@pytest.mark.soak
def test_interrupted_after_any_round_it_resumes_to_the_same_bits(folders: list[Path], tmp_path: Path) -> None:
    run(folders, configured(), tmp_path / "whole")
    for stop in (1, 3, 6):
        left = iter(range(stop))

        def interrupt(event: Event, left: object = left) -> None:
            if isinstance(event, RoundRecord) and next(left, None) is None:  # type: ignore[call-overload]
                raise KeyboardInterrupt

        folder = tmp_path / f"stopped{stop}"
        with pytest.raises(KeyboardInterrupt):
            run(folders, configured(), folder, observer=interrupt)
        run(folders, configured(), folder)
        assert_same(folder, tmp_path / "whole")


def test_networks_of_another_run_are_taken_and_are_what_training_would_give(
    folders: list[Path], tmp_path: Path
) -> None:
    settings = configured()
    fingerprints = {folder.name: folder.name for folder in folders}
    library = NetworkLibrary(tmp_path / "library", fingerprints)
    run(folders, settings, tmp_path / "rating", library=library)
    grey = configured().model_copy(
        update={
            "measurements": {
                "hypertrophy": settings.measurements["hypertrophy"].model_copy(update={"images": ("gs",)})
            }
        }
    )
    started: list[StageStarted] = []

    def observe(event: Event) -> None:
        if isinstance(event, StageStarted):
            started.append(event)

    run(folders, grey, tmp_path / "reused", library=library, observer=observe)
    assert [(event.networks, event.reused) for event in started] == [(1, 1), (1, 1)]
    run(folders, grey, tmp_path / "alone")
    assert_same(tmp_path / "reused", tmp_path / "alone")
    other = NetworkLibrary(tmp_path / "library", fingerprints | {"north": "changed"})
    specs = networks(grey)
    assert all(other.find(spec, grey, specs) is None for spec in specs.values())


def test_changed_weights_in_the_cache_are_noticed(folders: list[Path], tmp_path: Path) -> None:
    settings = configured()
    run(folders, settings, tmp_path)
    cached = next(weights_cache.folder(folders[0], plan_hash=settings.plan_hash()).rglob("*.f32"))
    values = np.fromfile(cached, dtype="<f4")
    cache = weights_cache.WeightsCache(folders[0], plan_hash=settings.plan_hash(), run=cached.parent.name)
    assert torch.equal(cache.get(WeightsRef(cached.stem)), torch.from_numpy(values))
    (values + 1).tofile(cached)
    with pytest.raises(Exception, match="damaged"):
        cache.get(WeightsRef(cached.stem))
    assert not cached.exists()


def replying(started: dict[str, np.ndarray], kept: dict[str, list[TrainReply]]) -> App:
    """The real client; keeps each network's first weights, and each site's replies."""

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type == wire.TRAIN and "missing-weights" not in reply.content:
            for name, weights in wire.decode(TrainRequest, message.content).weights.items():
                started.setdefault(name, weights)
            said = wire.decode_reply(TrainReply, reply.content)
            assert isinstance(said, Signed)
            kept.setdefault(said.reply.site, []).append(said.reply)
        return reply

    return app


@pytest.mark.soak
@pytest.mark.ci
def test_puzzles_weigh_a_site_by_all_its_exams_and_graded_networks_are_as_without_the_ungraded(
    tmp_path: Path,
) -> None:
    text = STAGED.replace("permutations", 'measurements = ["hypertrophy"]\npermutations')
    settings = make_settings(text=text)
    ungraded = {"north": (0, 2, 12, 13, 14), "south": (4,)}  # of 21 for training; all three of a patient
    folders: dict[str, list[Path]] = {}
    outcomes: dict[str, Outcome] = {}
    started: dict[str, dict[str, np.ndarray]] = {"more": {}, "fewer": {}}
    replies: dict[str, dict[str, list[TrainReply]]] = {"more": {}, "fewer": {}}
    for kind, kept in replies.items():
        folders[kind] = [
            make_site_folder(tmp_path / kind / name, name=name, patients=9, seed=seed, held_out_patients=2)
            for seed, name in enumerate(ungraded)
        ]
        for folder in folders[kind]:
            gone = ungrade(folder, ungraded[folder.name])
            rows = read_table(folder / "manifest.csv")
            left = [row for row in rows if kind == "more" or row["exam_id"] not in gone]
            write_table(folder / "manifest.csv", left)
        app = replying(started[kind], kept)
        outcomes[kind] = run(folders[kind], settings, tmp_path / f"run-{kind}", app=app)
    more, fewer = (trained(tmp_path / f"run-{kind}") for kind in replies)
    for kind, networks_, counts in (("more", more, [21, 21]), ("fewer", fewer, [16, 20])):
        puzzles = [
            next(r.networks[JIGSAW] for r in replies[kind][site] if JIGSAW in r.networks) for site in ungraded
        ]
        assert [reply.num_examples for reply in puzzles] == counts
        mean = np.average([np.float64(reply.update) for reply in puzzles], axis=0, weights=counts)
        np.testing.assert_allclose(networks_[JIGSAW].weights, started[kind][JIGSAW] + mean, atol=1e-6)
    assert not np.array_equal(more[JIGSAW].weights, fewer[JIGSAW].weights)
    graded = set(more) - {JIGSAW}
    for name in graded:
        for site in ungraded:
            one, other = (
                [r.networks[name].num_examples for r in replies[kind][site] if name in r.networks]
                for kind in replies
            )
            assert one == other
    fresh = {name for name in graded if "vascularity" in name}  # the others start from the puzzles
    assert fresh
    for name in fresh:
        np.testing.assert_array_equal(more[name].weights, fewer[name].weights)
        assert outcomes["more"].results[name] == outcomes["fewer"].results[name]
    for kind, patients in (("more", 7), ("fewer", 6)):
        (booked,) = ledger.book(folders[kind][0]).releases
        assert len(booked.eligible) == patients
