"""A site's own networks, made of the ensemble that came back: whole or not at all, and nothing of them leaves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from client.cli import personalise_cli
from client.data.site_store import site_store
from client.ensemble import delivery, personal
from client.files import atomic
from client.log import chain
from client.site import keys
from client.site.site import Site
from client.state import decisions
from client.state.site_state import SiteState
from client.withdrawal.withdrawal import withdraw
from common.aggregation.fedbn import NORMS
from common.ensemble import personal as pure
from common.ensemble.candidates import Bench
from common.errors import ConfigurationError, DataError, StorageError
from common.machine import network_files
from common.networks import build
from common.networks.layout import norm_positions
from common.sections.evaluation import PersonalSettings
from common.sections.methods import JigsawSettings
from server.campaign import campaign
from server.campaign.roster import Roster
from tests.federation.test_ensemble import PACE, Federation, command, configured, grid
from tests.site_folders import read_table, ungrade, write_table

ASKED = ("--steps", "4", "--margin", "0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    made = Federation.made(tmp_path_factory.mktemp("federation"), configured())
    made.hand_out()
    return made


@pytest.fixture
def north(trained: Federation, tmp_path: Path) -> Path:
    """A copy of the site, that may be changed."""
    return Path(shutil.copytree(trained.folders[0], tmp_path / "north"))


@pytest.fixture
def plan_hash(trained: Federation) -> str:
    return trained.settings.plan_hash()


def own(place: Path) -> dict[str, np.ndarray]:
    return {n.spec.name: n.weights for n in network_files.load_all(place / "networks")}


def assert_same(one: Path, other: Path) -> None:
    first, second = own(one), own(other)
    assert list(first) == list(second) != []
    for name, weights in first.items():
        np.testing.assert_array_equal(weights, second[name])


def personalised(folder: Path, plan_hash: str, *asked: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        command("site", "personalise", str(folder), plan_hash[:12], *asked, "--json")
    )
    return found


def test_a_site_makes_networks_of_its_own(north: Path, plan_hash: str) -> None:
    before = list(chain.entries(north / chain.NAME))
    said = personalised(north, plan_hash, *ASKED)
    assert list(chain.entries(north / chain.NAME)) == before  # nothing came, nothing left
    place = personal.folder(north, plan_hash)
    assert said["folder"] == str(place)
    site = Site.open(north)
    settings = decisions.plan(site, plan_hash, name="test")
    ensemble = list(network_files.load_all(delivery.folder(north, plan_hash) / "networks"))
    bench = Bench(
        data=site_store(site, settings).tensors,
        settings=settings,
        personal=PersonalSettings(steps=4, margin=0.0),
        site="north",
    )
    expected = pure.personalise(network_files.whole(ensemble, settings), bench)
    assert {n.spec.name for n in expected.networks} == set(own(place))
    for network in expected.networks:
        np.testing.assert_array_equal(own(place)[network.spec.name], network.weights)
    manifest = json.loads((place / "manifest.json").read_text())
    assert personal.NOTICE in manifest["notice"]
    assert manifest["choices"]["hypertrophy"]["sentence"] == expected.choices["hypertrophy"].sentence
    assert "stay here" in manifest["privacy"]
    assert (place / "config.toml").read_text().count("[personal]") == 1


def test_it_says_what_it_chose_and_a_second_time_is_no_work(
    north: Path, plan_hash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = command("site", "personalise", str(north), plan_hash[:12], *ASKED)
    assert "hypertrophy" in said
    assert "give them to nobody" in " ".join(said.split())
    monkeypatch.setattr(pure, "personalise", lambda *given: pytest.fail("made again"))
    assert command("site", "personalise", str(north), plan_hash[:12], *ASKED) == said


def test_the_local_report_shows_them_beside_the_ensemble(north: Path, plan_hash: str) -> None:
    before = json.loads(command("site", "report", str(north), plan_hash[:12], "--json"))
    assert [part["own"] for part in before["parts"]] == [{}, {}]
    personalised(north, plan_hash, *ASKED)
    found = json.loads(command("site", "report", str(north), plan_hash[:12], "--json"))
    held_out = found["parts"][0]
    assert held_out["name"] == "held out"
    assert held_out["ensemble"] == before["parts"][0]["ensemble"]
    scored = north / "scores.csv"
    place = personal.folder(north, plan_hash)
    command("score", str(place), "--manifest", str(north / "manifest.csv"), "--out", str(scored))
    answers = {row["exam_id"]: int(row["decision_hypertrophy"]) for row in read_table(scored)}
    tested = [row["exam_id"] for row in read_table(north / "manifest.csv") if row["split"] == "test"]
    given = {
        row["exam_id"]: int(row["hypertrophy"])
        for row in read_table(north / "grades.csv")
        if row["reader"] == "r1"
    }
    (against,) = (one for one in held_out["own"]["own networks"]["hypertrophy"] if one["first"] == "r1")
    assert (against["second"], against["exams"]) == ("own networks", len(tested))
    right = np.mean([answers[exam] == given[exam] for exam in tested])
    assert against["accuracy"]["value"] == pytest.approx(right)
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert "own networks against consensus" in page
    assert "own networks, consensus" in page


def test_killed_on_the_way_there_are_none_and_the_same_command_makes_them(
    north: Path, plan_hash: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(north, tmp_path / "whole" / "north"))
    personalised(whole, plan_hash, *ASKED)
    written: list[Path] = []
    real = atomic.write

    def stops(path: Path, content: bytes, **named: int) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        real(path, content, **named)

    site, place = Site.open(north), personal.folder(north, plan_hash)
    monkeypatch.setattr(atomic, "write", stops)
    with pytest.raises(KeyboardInterrupt):
        personal.make(site, plan_hash, PersonalSettings(steps=4, margin=0.0))
    monkeypatch.setattr(atomic, "write", real)
    assert len(written) == 2
    assert not place.exists()
    assert personal.opened(site, plan_hash, name="test") is None
    personalised(north, plan_hash, *ASKED)
    assert_same(place, personal.folder(whole, plan_hash))
    assert not place.with_name(".personal").exists()


def test_a_full_disk_is_said_and_what_was_there_stays(
    north: Path, plan_hash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    personalised(north, plan_hash, *ASKED)
    before = own(personal.folder(north, plan_hash))

    def full(draft: Path, place: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "replace_folder", full)
    with pytest.raises(StorageError, match="Free some space"):
        personal.make(Site.open(north), plan_hash, PersonalSettings(steps=6, margin=0.0))
    for name, weights in own(personal.folder(north, plan_hash)).items():
        np.testing.assert_array_equal(weights, before[name])


def test_without_an_ensemble_there_is_nothing_to_make_them_of(north: Path, plan_hash: str) -> None:
    shutil.rmtree(delivery.folder(north, plan_hash))
    with pytest.raises(DataError, match="Expected the ensemble"):
        personal.make(Site.open(north), plan_hash, PersonalSettings())


def test_they_change_nothing_that_leaves(trained: Federation, tmp_path: Path) -> None:
    """The same campaign over sites that have networks of their own gets the same bits from them."""
    folders = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in trained.folders]
    for folder in folders:
        personalised(folder, trained.settings.plan_hash(), *ASKED)
    (tmp_path / "run").mkdir()
    campaign.run(
        grid(folders),
        trained.settings,
        roster=Roster.of({folder.name: keys.public_key(folder) for folder in folders}),
        folder=tmp_path / "run",
        campaign=trained.settings.name,
        observer=lambda event: None,
        pace=PACE,
    )
    assert_same(tmp_path / "run", trained.run)


def test_a_withdrawal_removes_what_the_patient_was_in(north: Path, plan_hash: str) -> None:
    personalised(north, plan_hash, *ASKED)
    place = personal.folder(north, plan_hash)
    shutil.copytree(place, place.with_name(".personal"))
    patient = read_table(north / "manifest.csv")[0]["patient_id"]
    withdraw(Site.open(north), patient)
    assert not place.exists()
    assert not place.with_name(".personal").exists()
    assert delivery.folder(north, plan_hash).exists()
    personalised(north, plan_hash, *ASKED)
    assert place.exists()


def test_norms_that_were_kept_are_tried(trained: Federation, north: Path, plan_hash: str) -> None:
    """Those of the newest run, after its last round."""
    ensemble = list(network_files.load_all(delivery.folder(north, plan_hash) / "networks"))
    for number, run in enumerate(("a" * 32, "b" * 32)):
        state = SiteState(north, plan_hash=plan_hash, run=run)
        for network in ensemble:
            module = build.described(network.spec, trained.settings.network)
            places = norm_positions(module, build.layout(network.spec, trained.settings.network))
            for server_round in (1, 2):
                norms = torch.from_numpy(network.weights)[places] * (1 + number + server_round / 10)
                state.write(network.spec.name, server_round, {NORMS: norms}, keep=1)
    said = personalised(north, plan_hash, "--candidate", "norms", "--margin", "0")
    choices = said["choices"]
    assert isinstance(choices, dict)
    assert set(choices["hypertrophy"]["judged"]) == {"norms"}
    seen = personal._norms(north, ensemble, plan_hash, "b" * 32)
    first = ensemble[0]
    module = build.described(first.spec, trained.settings.network)
    places = norm_positions(module, build.layout(first.spec, trained.settings.network))
    assert torch.equal(seen[first.spec.name], torch.from_numpy(first.weights)[places] * 2.2)


@pytest.mark.parametrize(
    ("candidates", "margin", "said"),
    [
        (["luck"], None, "candidates.0: Input should be 'norms'"),
        (["mean"], None, "needs"),
        (None, -1.0, "margin"),
    ],
)
def test_what_cannot_be_asked_for_is_said(
    north: Path, plan_hash: str, candidates: list[str] | None, margin: float | None, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        personalise_cli.personalise(north, plan_hash[:12], candidates=candidates, margin=margin)
    assert not personal.folder(north, plan_hash).exists()


@pytest.mark.soak
def test_exams_without_grades_that_puzzles_learn_from_are_in_neither_networks_nor_report(
    tmp_path: Path,
) -> None:
    settings = configured()
    jigsaw = JigsawSettings(image_px=48, tile_px=12, permutations=6, rounds=1)
    rating = settings.rating.model_copy(update={"pretraining": "jigsaw", "jigsaw": jigsaw})
    made = Federation.made(tmp_path / "federation", settings.model_copy(update={"rating": rating}))
    made.hand_out()
    plan_hash = made.settings.plan_hash()
    more = made.folders[0]
    gone = ungrade(more, (1, 6, 7, 8))  # one exam of a patient, all three of another
    fewer = Path(shutil.copytree(more, tmp_path / "north"))
    rows = read_table(fewer / "manifest.csv")
    write_table(fewer / "manifest.csv", [row for row in rows if row["exam_id"] not in gone])
    reports = []
    for folder, exams in ((more, 15), (fewer, 11)):
        store = site_store(Site.open(folder), made.settings)
        assert int((store.tensors.fold >= 0).sum()) == exams
        personalised(folder, plan_hash, *ASKED)
        reports.append(json.loads(command("site", "report", str(folder), plan_hash[:12], "--json"))["parts"])
    assert_same(*(personal.folder(folder, plan_hash) for folder in (more, fewer)))
    assert reports[0] == reports[1]
    trained_on = reports[0][1]
    assert (trained_on["name"], trained_on["exams"], trained_on["patients"]) == ("trained on", 11, 4)
