"""A passport says what the run knows, leaves open what it does not, and cannot be changed unseen."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

import synofed
from common.errors import DataError
from server.federation.home import Home
from server.report import passport
from simulation.cli.command_line import commands
from tests import enrolling
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder
from tests.test_verify_independently import verify

PURPOSE = "Grades <script>alert(1)</script> PASSPORT_JSON & more"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    site = make_site_folder(folder / "cohort" / "north", name="north", patients=12, held_out_patients=6)
    toml = (site / "site.toml").read_text(encoding="utf-8")
    (site / "site.toml").write_text(toml + "federated_evaluation = true\n", encoding="utf-8")
    text = CONFIG.format(folder=folder / "cohort")
    asked = f"[campaign]\nevaluation = true\npurpose = {json.dumps(PURPOSE)}\n[cohort]"
    (folder / "small.toml").write_text(text.replace("[cohort]", asked), encoding="utf-8")
    overrides = ["federation.rounds=1", "evaluate.baselines=false", "rating.models=1", "rating.fusion=joint"]
    return synofed.simulate(folder / "small.toml", out=folder / "run", overrides=overrides).path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return enrolling.make_home(tmp_path / "home", now=datetime.now(UTC))


@pytest.fixture
def run(trained: Path, home: Home) -> Path:
    """The run, in a centre's home."""
    (home.path / "runs").mkdir(exist_ok=True)
    return Path(shutil.copytree(trained, home.path / "runs" / "small"))


def test_it_says_what_the_run_knows_and_leaves_the_rest_open(run: Path) -> None:
    statement, page = synofed.passport(run)
    assert (statement, page) == (run / "passport.json", run / "passport.html")
    assert "**How well it grades**" in (run / "passport_tables.md").read_text(encoding="utf-8")
    stated = json.loads(statement.read_bytes())["passport"]
    assert stated["purpose"] == PURPOSE
    assert set(stated["sites"]) == {"north"}
    assert stated["sites"]["north"]["receipts"]["replies"] > 2
    assert stated["judged"]["pooled"]["hypertrophy"]["patients"] == 6
    assert len(stated["calibration"]["hypertrophy"]) == 3
    assert stated["judged"]["sets"]
    names = set(synofed.Run(run).predictions().filter(like="p:").columns.str.removeprefix("p:"))
    assert {name for name, network in stated["networks"].items() if network["scores"]} == names
    items = {one["topic"]: one["text"] for one in stated["checklist"]}
    assert [one["item"] for one in stated["checklist"]] == list(range(1, 28))
    assert items["Ethical approval"] is None
    assert "exams of 6 patients" in items["Participants (results)"]
    card = {one["section"]: one["text"] for one in stated["model_card"]}
    assert len(card) == 9
    assert PURPOSE in card["Intended use"]
    assert "Resona 7" in card["Factors"]
    assert "exams of 6 patients" in card["Evaluation data"]
    assert card["Ethical considerations"] is None
    html = page.read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert html.count("<script") == 1
    assert "http" not in html
    assert html.count(">open<") == sum(text is None for text in (*items.values(), *card.values()))


def test_signed_by_the_centre_it_is_verified_without_synofed(run: Path, home: Home, tmp_path: Path) -> None:
    other = enrolling.make_home(tmp_path / "other", now=datetime.now(UTC))
    for place in passport.write(run):
        code, said = verify(place, "--authority", home.ca_certificate)
        assert (code, said.splitlines()[-1]) == (0, "all fits")
        code, said = verify(place)
        assert (code, "give --authority" in said) == (0, True)
        code, said = verify(place, "--authority", other.ca_certificate)
        assert (code, "DOES NOT FIT" in said) == (8, True)


CHANGES: dict[str, Callable[[str], str]] = {
    "what is shown": lambda html: html.replace("Research use only", "For every use", 1),
    "what is stated": lambda html: html.replace('"rounds_missed":0', '"rounds_missed":9', 1),
    "a network": lambda html: html.replace('"scores":true', '"scores":false', 1),
    "the page around it": lambda html: html.replace("</main>", "<p>Certified.</p></main>", 1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_of_the_page_shows(run: Path, home: Home, what: str) -> None:
    _, page = passport.write(run)
    before = page.read_text(encoding="utf-8")
    page.write_text(CHANGES[what](before), encoding="utf-8")
    assert page.read_text(encoding="utf-8") != before
    code, said = verify(page, "--authority", home.ca_certificate)
    assert (code, "DOES NOT FIT" in said) == (8, True)


def test_a_certificate_whose_key_cannot_sign_does_not_fit(run: Path, home: Home) -> None:
    statement, _ = passport.write(run)
    document = json.loads(statement.read_bytes())
    certificate = x509.load_pem_x509_certificate(document["certificate"].encode())
    other = (
        x509.CertificateBuilder(
            certificate.issuer, certificate.subject, X25519PrivateKey.generate().public_key()
        )
        .serial_number(certificate.serial_number)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    document["certificate"] = other.public_bytes(Encoding.PEM).decode()
    statement.write_text(json.dumps(document), encoding="utf-8")
    code, said = verify(statement)
    assert (code, "DOES NOT FIT" in said) == (8, True)


def test_of_a_simulation_it_is_not_signed_and_says_so(trained: Path) -> None:
    statement, page = passport.write(trained)
    assert json.loads(statement.read_bytes())["signature"] == ""
    html = page.read_text(encoding="utf-8")
    assert "not signed: a simulation has no centre" in html
    assert verify(page)[0] == 0
    assert verify(page, "--authority", page)[0] == 8
    page.write_text(html.replace("Research use only", "Any use", 1), encoding="utf-8")
    assert verify(page)[0] == 8


def test_the_command_names_what_people_have_to_fill_in(run: Path) -> None:
    done = CliRunner().invoke(commands(), ["passport", str(run), "--json"])
    facts = json.loads(done.stdout)
    assert facts["signed"] is True
    assert "Ethical approval" in facts["open"]


def test_a_folder_that_is_no_run_has_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected a run's folder at"):
        passport.write(tmp_path)


def test_a_run_without_networks_has_none(run: Path) -> None:
    shutil.rmtree(run / "networks")
    with pytest.raises(DataError, match="of an ensemble that is there"):
        passport.write(run)


def test_a_run_that_nobody_judged_has_a_passport_that_says_so(run: Path) -> None:
    shutil.rmtree(run / "evaluation")
    (run / "metrics.json").unlink()
    _, page = passport.write(run)
    assert "Nobody has judged it yet" in page.read_text(encoding="utf-8")
