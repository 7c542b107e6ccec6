import json
from pathlib import Path

import numpy as np
import pytest

from common.ensemble.committee import Scores
from common.text.terminal import Console
from simulation.cli import console, result_view
from tests.server.report.test_report import full_scores, make, make_full


def shown(run: Path) -> str:
    screen = Console(width=140)
    with screen.capture() as capture:
        result_view.show(screen, run)
    return capture.get()


def test_every_table_says_how_many_models_it_compares(tmp_path: Path) -> None:
    text = shown(make_full(tmp_path / "run"))
    own, compared, places = text.split("95 % intervals by bootstrap over patients")[:3]
    titles = [" ".join(part.split()) for part in (own, compared, places)]  # a long one is wrapped
    assert (
        "accuracy on each site's own held-out patients, paired, with 1 of 2 scoring models each" in titles[0]
    )
    assert "held-out patients of all sites that trained, with 1 of 2 scoring models each" in titles[1]
    assert "the federated ensemble at each site, 2 scoring models" in titles[2]
    scored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    cut = scored["baselines"]["federated"]["combined"]["accuracy"]["value"]
    (row,) = (line for line in compared.splitlines() if "Federated" in line)
    assert f" {100 * cut:.1f} (" in row
    gain = scored["own_patients"]["mean"]["combined"]["accuracy"]["gain"]["value"]
    (row,) = (line for line in own.splitlines() if "Mean over sites" in line)
    assert f" {100 * gain:+.1f} (" in row


def test_networks_of_a_sites_own_are_shown_beside_the_federation(tmp_path: Path) -> None:
    run = make(tmp_path / "run", scores=full_scores(personal=True))
    text = shown(run)
    scored = json.loads((run / "metrics.json").read_text())
    mean = scored["own_patients"]["mean"]["combined"]["accuracy"]
    rows = [line for line in text.splitlines() if "Mean over sites" in line]
    for row, system, gain in zip(rows, ("federated", "personal"), ("gain", "gain_personal"), strict=True):
        assert f" {100 * mean[system]['value']:.1f} " in row
        assert f" {100 * mean[gain]['value']:+.1f} (" in row
    assert f"made of the federation's, {mean['losing_personal']} of 2 sites lose" in text
    assert "site-b uses for itself: hypertrophy: weights: network" in text
    narrow = Console(width=80)
    with narrow.capture() as capture:
        result_view.show(narrow, run)
    assert capture.get().count("(") == capture.get().count(")")


def test_sentences_end_it(tmp_path: Path) -> None:
    text = shown(make_full(tmp_path / "run"))
    scored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    losing = scored["own_patients"]["mean"]["combined"]["accuracy"]["losing"]
    assert f"On their own patients {losing} of 2 sites lose" in text
    colour = scored["baselines"]["counted_colour"]["vascularity"]["accuracy"]["value"]
    assert f"Counted colour: vascularity {100 * colour:.1f} % (networks " in text
    assert "Always the commonest grade: hypertrophy" in text
    assert "20.0 % of the answers are ties that a rule settled" in text
    assert f"Off by two grades and more: hypertrophy {scored['far_off']['hypertrophy']['exams']}" in text


def test_a_run_without_baselines_shows_its_sites(tmp_path: Path) -> None:
    run = make_full(tmp_path / "run")
    scored = json.loads((run / "metrics.json").read_text())
    scored |= {"baselines": {}, "differences": {}, "own_patients": None}
    (run / "metrics.json").write_text(json.dumps(scored))
    text = shown(run)
    assert "the federated ensemble at each site" in text
    assert "own" not in text


def scores(*, contested: bool, tie: bool, weight: int) -> Scores:
    def one(value: object) -> np.ndarray:
        return np.array([value])

    return Scores(
        names=("a",), outputs=(), votes=one([[1], [2]]), decision=one([1]), majority=one([1]), combined=None,
        weight=one(weight), runner_up_weight=one(weight if tie else 0), contested=one(contested), tie=one(tie),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("contested", "tie", "weight", "expected"),
    [
        (False, False, 2, ["Not contested, no tie"]),
        (False, True, 1, ["Tie: another answer"]),
        (True, False, 2, ["Contested: the answer differs"]),
        (True, True, 0, ["Contested: no model voted", "Tie: another answer"]),
    ],
)
def test_how_sure_in_words(contested: bool, tie: bool, weight: int, expected: list[str]) -> None:
    _, *lines = console.score_lines(scores(contested=contested, tie=tie, weight=weight))
    assert len(lines) == len(expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True))


def test_no_number_is_cut_at_80_columns(tmp_path: Path) -> None:
    screen = Console(width=80)
    with screen.capture() as capture:
        result_view.show(screen, make_full(tmp_path / "run"))
    assert capture.get().count("(") == capture.get().count(")") > 10


def test_long_names_of_devices_cut_no_number(tmp_path: Path) -> None:
    run = make_full(tmp_path / "run")
    scored = json.loads((run / "metrics.json").read_text())
    name = "L15 [/linear] " + "x" * 300
    for block in scored["sites"].values():
        block["devices_used"] = [name]
    (run / "metrics.json").write_text(json.dumps(scored))
    screen = Console(width=80)
    with screen.capture() as capture:
        result_view.show(screen, run)
    text = capture.get()
    assert text.count("(") == text.count(")") > 10
    assert text.count("x") >= 300 * len(scored["sites"])  # nothing of the name is lost
