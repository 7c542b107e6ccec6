"""``[personal]``: what each site of a study makes of the federation's networks for itself."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import synofed
from client.ensemble import personal
from common.ensemble.committee import Committee
from common.machine import network_files
from simulation.evaluation.score import open_committee
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder

PERSONAL = """
[personal]
candidates = ["norms", "network", "temperature"]
steps = 4
checks = 2
margin = 0
learning_rate_share = 1.0
"""
FAST = ["federation.rounds=1", "evaluate.baseline_models=1"]
NAMES = ("north", "south")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites that train and one that is only tested on, and their finished run."""
    folder = tmp_path_factory.mktemp("personal")
    for seed, name in enumerate((*NAMES, "unseen")):
        make_site_folder(
            folder / "cohort" / name,
            name=name,
            patients=11,
            exams_per_patient=3,
            seed=seed,
            held_out_patients=3,
        )
    sites = [{"name": name, "trains": name in NAMES} for name in (*NAMES, "unseen")]
    (folder / "cohort" / "cohort.json").write_text(json.dumps({"sites": sites}))
    text = CONFIG.format(folder=folder / "cohort").replace("[cohort]", f"{PERSONAL}[cohort]")
    (folder / "small.toml").write_text(text, encoding="utf-8")
    synofed.simulate(folder / "small.toml", out=folder / "run", overrides=FAST)
    return folder


@pytest.fixture
def again(base: Path, tmp_path: Path) -> Path:
    """A copy of the run, that may be changed."""
    shutil.copytree(base / "run", tmp_path / "run")
    return tmp_path / "run"


def own_networks(run: Path, site: str) -> dict[str, np.ndarray]:
    return {n.spec.name: n.weights for n in network_files.load_all(run / "personal" / site / "networks")}


def assert_same_run(run: Path, other: Path) -> None:
    for site in NAMES:
        one, two = own_networks(run, site), own_networks(other, site)
        assert list(one) == list(two) != []
        for name, weights in one.items():
            np.testing.assert_array_equal(weights, two[name])
    first, second = (json.loads((path / "metrics.json").read_text()) for path in (run, other))
    assert first == second


@pytest.mark.soak
@pytest.mark.ci
def test_own_networks_stand_beside_alone_and_federated(base: Path) -> None:
    run = base / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    own = metrics["own_patients"]
    assert set(own["sites"]) == set(NAMES)
    for block in (*own["sites"].values(), own["mean"]):
        for score in ("hypertrophy", "vascularity", "combined"):
            accuracy = block[score]["accuracy"]
            gain = accuracy["personal"]["value"] - accuracy["alone"]["value"]
            assert accuracy["gain_personal"]["value"] == pytest.approx(gain)
            assert len(accuracy["gain_personal"]["ci95"]) == 2
    assert {"losing", "losing_clearly", "losing_personal", "losing_clearly_personal"} < set(
        own["mean"]["combined"]["accuracy"]
    )
    table = pd.read_parquet(run / "predictions_baselines.parquet").query("system == 'personal'")
    assert set(table["site"]) == set(NAMES)  # nobody has networks of their own where nothing was trained
    for name in NAMES:  # each site's exams by its own networks, of as many models as the baselines have
        part = table[table["site"] == name].dropna(axis=1)
        assert "vote_vascularity_0" in part
        assert "vote_vascularity_1" not in part
        right = (part["decision_vascularity"] == part["label_vascularity"]).mean()
        assert own["sites"][name]["vascularity"]["accuracy"]["personal"]["value"] == pytest.approx(right)
    assert metrics["baselines"]["personal"]["models"] == own["models"] == 1
    difference = metrics["differences"]["personal_minus_federated"]["combined"]["accuracy"]["value"]
    sides = [
        metrics["baselines"][name]["combined"]["accuracy"]["value"] for name in ("personal", "federated")
    ]
    assert difference == pytest.approx(sides[0] - sides[1])


@pytest.mark.soak
@pytest.mark.ci
def test_what_was_chosen_is_said_and_used(base: Path) -> None:
    run = base / "run"
    choices = json.loads((run / "metrics.json").read_text())["personal"]
    assert set(choices) == set(NAMES)
    common = {n.spec.name: n for n in network_files.load_all(run / "networks")}
    page = (run / "report.html").read_text(encoding="utf-8")
    trained = 0
    for site, by_measurement in choices.items():
        for measurement, choice in by_measurement.items():
            assert choice["sentence"] in page
            verdict = choice["judged"]["network"]
            assert (choice["weights"] == "network") == (verdict["gain"] > 0)
            trained += choice["weights"] == "network"
            same = [
                np.array_equal(weights, common[name].weights)
                for name, weights in own_networks(run, site).items()
                if f"/{measurement}/" in name and len(weights) == len(common[name].weights)
            ]
            assert all(same) if choice["weights"] == "common" else not any(same)
    assert trained > 0
    assert "What each site made for itself" in page


@pytest.mark.soak
@pytest.mark.ci
def test_a_sites_temperature_is_used_where_its_networks_show_probabilities(base: Path) -> None:
    metrics = json.loads((base / "run" / "metrics.json").read_text())
    chosen = {
        site: {m: c["temperature"] for m, c in found.items()} for site, found in metrics["personal"].items()
    }
    assert any(value != 1 for found in chosen.values() for value in found.values())
    for site in NAMES:
        assert open_committee(base / "run" / "personal" / site).temperatures == chosen[site]
    assert not open_committee(base / "run").temperatures
    for cuts in metrics["calibration"]["tasks"].values():
        for sets in cuts.values():
            assert {"federated", "centralised", "personal", "personal_tempered"} <= set(sets)
            assert sets["personal"]["auc"]["value"] is not None
            assert sets["personal_tempered"]["exams"] == sets["personal"]["exams"]
    assert "Own, at a temperature" in (base / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.soak
@pytest.mark.ci
def test_own_networks_need_no_others_and_can_be_asked_by_themselves(base: Path) -> None:
    committee = open_committee(base / "run" / "personal" / "north")
    assert isinstance(committee, Committee)
    assert len(committee.specs) == 12
    assert not any(spec.frozen for spec in committee.specs)


@pytest.mark.soak
def test_a_run_that_was_interrupted_goes_on_with_the_same_bits(
    base: Path, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(again / "personal")
    (again / "metrics.json").unlink()
    made: list[str] = []
    real, one_at_a_time = personal.kept, threading.Lock()

    def stops(place: Path, *given: object, **named: object) -> object:
        with one_at_a_time:  # sites are made side by side: the second one is stopped once the first is there
            if made:
                raise KeyboardInterrupt
            made.append(place.name)
            return real(place, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(personal, "kept", stops)
    with pytest.raises(KeyboardInterrupt):
        synofed.simulate(base / "small.toml", out=again, overrides=FAST, resume=True)
    assert json.loads((again / "manifest.json").read_text())["status"] == "INTERRUPTED"
    monkeypatch.setattr(personal, "kept", real)
    first = (again / "personal" / made[0] / "manifest.json").stat().st_mtime_ns
    synofed.simulate(base / "small.toml", out=again, overrides=FAST, resume=True)
    assert (again / "personal" / made[0] / "manifest.json").stat().st_mtime_ns == first  # not made again
    assert_same_run(base / "run", again)


@pytest.mark.soak
def test_other_settings_make_them_anew_and_none_takes_them_away(base: Path, again: Path) -> None:
    before = own_networks(again, "north")
    synofed.simulate(
        base / "small.toml", out=again, overrides=[*FAST, "personal.steps=2"], resume=True
    )  # it is no part of the plan
    assert any(not np.array_equal(w, before[name]) for name, w in own_networks(again, "north").items())
    text = (base / "small.toml").read_text(encoding="utf-8").replace(PERSONAL, "")
    (again.parent / "without.toml").write_text(text, encoding="utf-8")
    synofed.simulate(again.parent / "without.toml", out=again, overrides=FAST, resume=True)
    metrics = json.loads((again / "metrics.json").read_text())
    assert metrics["personal"] is None
    assert "personal" not in metrics["own_patients"]["mean"]["combined"]["accuracy"]
    assert not (again / "personal").exists()


@pytest.mark.soak
def test_norms_that_sites_kept_are_tried_while_the_run_has_them(base: Path, tmp_path: Path) -> None:
    """Fused networks keep none. A finished run forgets what sites kept, and not what they chose."""
    config = [*FAST, "federation.algorithm=fedbn", "rating.models=1", "evaluate.baselines=false"]
    synofed.simulate(base / "small.toml", out=tmp_path / "run", overrides=config)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for choices in metrics["personal"].values():
        assert list(choices["vascularity"]["judged"]) == ["norms", "network", "temperature"]
        assert list(choices["hypertrophy"]["judged"]) == ["network", "temperature"]
    assert metrics["own_patients"] is None
    assert metrics["baselines"]["personal"]["combined"]["accuracy"]["value"] is not None
    before = own_networks(tmp_path / "run", "north")
    synofed.simulate(base / "small.toml", out=tmp_path / "run", overrides=config, resume=True)
    for name, weights in own_networks(tmp_path / "run", "north").items():
        np.testing.assert_array_equal(weights, before[name])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
