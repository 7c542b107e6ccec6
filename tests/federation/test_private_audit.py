"""The audit of a real private campaign: what sites and centre wrote by themselves bears out every claim."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.evidence import site_evidence
from client.ledger import ledger_file
from client.site.site import Site
from client.withdrawal import withdrawal
from common.errors import VerificationError
from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.accounting.adjacency import group_epsilon
from common.privacy.accounting.spending import Book
from common.privacy.audit import claims
from server.runs.run_folder import RunFolder
from simulation.cli.privacy_cli import privacy
from tests.client.rounds.test_private_network import approved
from tests.federation import test_secure
from tests.federation.test_campaign import run
from tests.federation.test_private import ROUNDS, configured, site

NAMES = ("north", "south")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two sites and the run that they took part in."""
    base = tmp_path_factory.mktemp("private")
    settings = configured(encoders=base / "encoders")
    sites = [site(base, name, seed=seed) for seed, name in enumerate(NAMES)]
    folder = RunFolder.begin(base / "run", settings)
    outcome = run(sites, settings, folder.path)
    folder.update_manifest(status=str(outcome.status))
    return base


@pytest.fixture
def base(finished: Path, tmp_path: Path) -> Path:
    """A copy, to be tampered with."""
    ledger_file._known.clear()
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def audit(*arguments: object) -> Any:
    done = CliRunner().invoke(privacy, ["audit", *map(str, arguments), "--json"])
    assert done.exception is None, done.exception
    return json.loads(done.stdout)


def verdicts(found: Any) -> set[str]:
    """Of a site's checks; by name, but for those that hold."""
    return {
        "holds" if one["verdict"] == "holds" else f"{one['name']}: {one['verdict']}"
        for one in found["checks"]
    }


def test_every_claim_of_a_real_campaign_holds(base: Path) -> None:
    for name in NAMES:
        receipts = base / "run" / "receipts" / f"{name}.jsonl"
        report = audit(base / name, "--receipts", receipts)
        (found,) = report["sites"]
        assert verdicts(found) == {"holds", "noise: not contradicted"}
        checks = {check["name"]: check["found"] for check in found["checks"]}
        assert checks["allow-list"].startswith(f"{ROUNDS + 1} of {ROUNDS + 1} replies are kept; each")
        assert checks["noise"].startswith(f"{ROUNDS} updates were measured")
        assert checks["write-ahead"].startswith(f"{ROUNDS} private replies")
    report = audit(base / "run", "--site", base / "north", "--site", base / "south")
    assert report["holds"]
    assert {one["source"] for one in report["sites"]} == {"ledger"}
    from_centre = audit(base / "run")
    assert from_centre["worst"] == report["worst"]
    assert report["two_sites"]["epsilon"] > report["worst"]["epsilon"]


def test_a_bundle_of_a_real_campaign_is_verified(base: Path) -> None:
    bundle = base / "north.zip"
    receipts = base / "run" / "receipts" / "north.jsonl"
    command = ["export", base / "north", "--receipts", receipts, "--out", bundle]
    assert CliRunner().invoke(privacy, [*map(str, command)]).exception is None
    done = CliRunner().invoke(privacy, ["verify", str(bundle), "--json"])
    assert done.exception is None, done.exception
    assert json.loads(done.stdout)["entries"] == ROUNDS + 1


def test_one_edited_line_of_its_ledger_fails(base: Path) -> None:
    place = base / "north" / "ledger.jsonl"
    place.write_bytes(place.read_bytes().replace(b'"noise_multiplier":4.0', b'"noise_multiplier":9.0', 1))
    for command in ("audit", "verify"):
        done = CliRunner().invoke(privacy, [command, str(base / "north")])
        assert isinstance(done.exception, VerificationError)
        assert "line 2 was edited" in str(done.exception)


def test_a_withdrawal_leaves_every_claim_standing_and_no_name_in_the_bundle(base: Path) -> None:
    patient = "north-p001"
    assert withdrawal.withdraw(Site.open(base / "north"), patient).path.exists()
    report = audit(base / "north", "--receipts", base / "run" / "receipts" / "north.jsonl")
    (found,) = report["sites"]
    assert verdicts(found) == {"holds", "noise: not contradicted"}
    checks = {check["name"]: check["found"] for check in found["checks"]}
    assert (checks["withdrawals"], checks["statements"]) == ("1 withdrawals.", "1 statements.")
    bundle = base / "north.zip"
    assert (
        CliRunner().invoke(privacy, ["export", str(base / "north"), "--out", str(bundle)]).exception is None
    )
    with zipfile.ZipFile(bundle) as archive:
        everything = b"".join(archive.read(name) for name in archive.namelist())
    assert not [name for name in range(8) if f"north-p{name:03d}".encode() in everything]
    assert CliRunner().invoke(privacy, ["verify", str(bundle)]).exception is None


@pytest.mark.soak
def test_a_whole_networks_steps_are_all_found_and_one_too_few_is_missed(tmp_path: Path) -> None:
    centre = approved(tmp_path)
    for server_round in (1, 2):
        centre.train(centre.train_request(server_round))
    report = audit(centre.folder)
    (found,) = report["sites"]
    assert {check["verdict"] for check in found["checks"]} == {"holds", "open"}
    assert found["spending"]["campaigns"][0]["releases"] == 8
    checks = site_evidence.read(centre.folder)
    fewer = replace(checks, book=Book.of(checks.entries[:-1]), entries=checks.entries[:-1])
    assert claims.debits(checks).verdict == "holds"
    check = claims.debits(fewer)
    assert check.verdict == "fails"
    assert "4 steps left in 1 answers, 3 are debited" in check.found


def test_its_implementation_is_rehearsed(base: Path) -> None:
    report = audit(base / "north", "--empirical", "--canaries", "60")
    rehearsals = report["rehearsals"]
    assert rehearsals
    assert not any(one["refuted"] for one in rehearsals)
    page = (base / "north" / "privacy_report.html").read_text(encoding="utf-8")
    assert "white box" in page
    assert "audit of the implementation, not of the run" in page


def test_a_campaign_under_secure_aggregation_is_audited(tmp_path: Path) -> None:
    settings = test_secure.private(encoders=tmp_path / "encoders")
    sites = test_secure._sites(tmp_path)
    folder = RunFolder.begin(tmp_path / "run", settings)
    outcome = test_secure.run(sites, settings, folder.path)
    folder.update_manifest(status=str(outcome.status))
    more = [argument for site in sites for argument in ("--site", site)]
    report = audit(folder.path, *more)
    for found in report["sites"]:
        verdicts = {check["name"]: check["verdict"] for check in found["checks"]}
        assert verdicts.pop("noise") == "open"
        assert set(verdicts.values()) == {"holds"}
        checks = {check["name"]: check["found"] for check in found["checks"]}
        assert checks["allow-list"].startswith(
            f"{test_secure.ROUNDS} of {test_secure.ROUNDS} replies are kept; each"
        )
    steps = PrivateSteps(sample_rate=1.0, noise_multiplier=test_secure.SIGMA, count=test_secure.ROUNDS)
    together = group_epsilon([steps], patients=2, delta=1e-5)
    assert report["two_sites"]["epsilon"] == pytest.approx(together)
    fact = report["facts"]["Secure aggregation of test"]
    assert "at least 3 of 3 sites" in fact
    assert (
        f"epsilon {report['worst']['epsilon']:.3f}; against another site that takes part, by itself" in fact
    )
    page = (folder.path / "privacy_report.html").read_text(encoding="utf-8")
    assert "which sees no single site" in page
    assert "all of them together" not in " ".join(page.split())
