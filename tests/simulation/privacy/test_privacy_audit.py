import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from client.ledger import ledger, ledger_file, ledger_patients
from client.log import chain
from client.site import keys, policy_file
from common.errors import ConfigurationError, VerificationError
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.receipts import dump, payload
from common.settings import parse
from common.version import VERSION
from simulation.cli.privacy_cli import privacy
from tests.ledgers import make_unbounded
from tests.privacy_evidence import IDS, ROUNDS, SIGMA, Campaign, make_plan, with_stray

SPENT = epsilon([PrivateSteps(sample_rate=1, noise_multiplier=SIGMA, count=ROUNDS)], delta=1e-5)
SECRET = "p000"


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    ledger_file._known.clear()


@pytest.fixture
def site(tmp_path: Path) -> Campaign:
    return Campaign.begin(tmp_path / "north")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(privacy, [str(argument) for argument in arguments], env={"COLUMNS": "250"})


def found(result: Result, code: int = 8) -> str:
    """The message of a command that ended with an exit code."""
    assert isinstance(result.exception, VerificationError), result.output
    assert result.exception.exit_code == code
    return str(result.exception)


def audited(campaign: Campaign, *more: str | Path) -> dict[str, dict[str, str]]:
    """Check -> its verdict and text."""
    result = run("audit", campaign.site.folder, *more, "--json")
    content = json.loads(result.stdout)
    return {check["name"]: check for check in content["sites"][0]["checks"]}


def edit(
    campaign: Campaign, change: Callable[[list[bytes]], list[bytes]], name: str = "ledger.jsonl"
) -> None:
    ledger_file._known.clear()
    place = campaign.site.folder / name
    place.write_bytes(b"".join(change(place.read_bytes().splitlines(keepends=True))))


def test_a_sound_campaign_passes_and_says_what_it_cost(site: Campaign, tmp_path: Path) -> None:
    site.run()
    kept = site.receipts(tmp_path / "receipts" / "north.jsonl")
    result = run("audit", site.site.folder, "--receipts", kept, "--json")
    assert result.exception is None
    report = json.loads(result.stdout)
    verdicts = {check["name"]: check["verdict"] for check in report["sites"][0]["checks"]}
    assert verdicts.pop("noise") == "not contradicted"
    assert set(verdicts.values()) == {"holds"}
    assert report["holds"]
    assert report["worst"]["epsilon"] == pytest.approx(SPENT)
    assert report["worst"]["second_low"] <= SPENT <= report["worst"]["second_high"]
    twice = epsilon([PrivateSteps(sample_rate=1, noise_multiplier=SIGMA, count=2 * ROUNDS)], delta=1e-5)
    assert report["two_sites"]["epsilon"] == pytest.approx(twice)
    page = (site.site.folder / "privacy_report.html").read_text(encoding="utf-8")
    assert "audit of the implementation, not of the run" in page
    assert "risk-reducing measure" in page
    assert "anonym" not in page.lower()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<svg") == 2
    assert f"{SPENT:.3f}" in page
    assert json.loads((site.site.folder / "privacy_report.json").read_text()) == report


def test_without_receipts_what_only_they_can_show_is_open_and_not_a_pass(site: Campaign) -> None:
    assert audited(site.run())["receipts"]["verdict"] == "open"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b"10.8", b"90.8"), *lines[3:]], "line 3 was edited"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "line 3"),
        (lambda lines: [lines[0], *lines[2:]], "line 2"),
    ],
    ids=["edited", "dropped", "moved", "first dropped"],
)
def test_a_changed_ledger_fails_and_the_line_is_named(
    site: Campaign, change: Callable[[list[bytes]], list[bytes]], told: str
) -> None:
    edit(site.run(), change)
    assert told in found(run("audit", site.site.folder))
    assert told in found(run("verify", site.site.folder))
    report = json.loads((site.site.folder / "privacy_report.json").read_text())
    assert not report["holds"]
    checks = {check["name"]: check for check in report["sites"][0]["checks"]}
    entries = report["sites"][0]["ledger_entries"]
    assert f"only the {entries} entries before the first bad line count" in checks["spending"]["found"]
    private = report["sites"][0]["spending"]["campaigns"]
    assert sum(row["releases"] for row in private) == max(0, entries - 1)


def test_a_tail_that_was_cut_off_shows_against_log_receipts_and_paper(site: Campaign, tmp_path: Path) -> None:
    site.run()
    kept = site.receipts(tmp_path / "north.jsonl")
    code = json.loads(run("verify", site.site.folder, "--json").stdout)
    assert code["entries"] == ROUNDS + 1
    edit(site, lambda lines: lines[:-1])
    assert "ends with entry 4" in found(run("verify", site.site.folder))
    last = (site.site.folder / "audit.jsonl").read_bytes().splitlines(keepends=True)
    edit(site, lambda lines: lines[:-2], "audit.jsonl")
    assert len(last) > 2
    assert "its tail was cut off" in found(run("verify", site.site.folder, "--receipts", kept))
    assert audited(site, "--receipts", kept)["receipts"]["verdict"] == "fails"


def test_two_copies_of_a_site_contradict_each_other(site: Campaign, tmp_path: Path) -> None:
    site.run(2)
    shutil.copytree(site.site.folder, tmp_path / "copy")
    site.debit(3)
    site.send(3)
    kept = site.receipts(tmp_path / "north.jsonl")
    shutil.rmtree(site.site.folder)
    shutil.move(tmp_path / "copy", site.site.folder)
    ledger_file._known.clear()
    site.debit(3, patients=IDS[:5])
    site.send(3, seed=77)
    assert "put back and written on" in found(run("audit", site.site.folder, "--receipts", kept))


def test_less_noise_than_the_plan_has_fails(site: Campaign) -> None:
    site.debit(1, sigma=5.0)
    site.send(1)
    message = found(run("audit", site.site.folder))
    assert "noise multiplier 5, the plan has 10.8" in message
    assert "entry 2 of the ledger" in message


def test_a_reply_without_a_debit_fails_and_so_does_one_before_its_debit(site: Campaign) -> None:
    site.debit(1)
    site.send(1)
    site.send(2)
    assert "left without a debit" in found(run("audit", site.site.folder))
    site.debit(2)
    assert "left before its debit, entry 3" in found(run("audit", site.site.folder))


def test_a_debit_without_a_reply_is_said_and_counts(site: Campaign) -> None:
    site.run(2).debit(3)
    check = audited(site)["write-ahead"]
    assert check["verdict"] == "holds"
    assert "1 debits are of releases that were never sent" in check["found"]
    report = json.loads((site.site.folder / "privacy_report.json").read_text())
    three = epsilon([PrivateSteps(sample_rate=1, noise_multiplier=SIGMA, count=3)], delta=1e-5)
    assert report["worst"]["epsilon"] == pytest.approx(three)


@pytest.mark.parametrize("keep", [True, False], ids=["bytes kept", "size in the log alone"])
def test_one_tensor_more_fails(site: Campaign, keep: bool) -> None:
    site.debit(1)
    site.send(1, with_stray(site.reply(1)), keep=keep)
    check = audited(site)["allow-list"]
    assert check["verdict"] == "fails"
    assert ("tensor buffers is none of the plan's" if keep else "308 bytes left") in check["found"]


def test_data_in_the_closing_round_fails(site: Campaign) -> None:
    site.run(ROUNDS - 1)
    site.debit(ROUNDS)
    site.send(ROUNDS)
    closing = site.reply(1)
    closing.config_records["reply"]["request-id"] = f"r{ROUNDS + 1}"
    site.send(ROUNDS + 1, closing)
    checks = audited(site)
    assert checks["allow-list"]["verdict"] == "fails"
    assert checks["rounds"]["verdict"] == "fails"


def test_less_noise_in_the_bytes_than_in_the_ledger_fails(site: Campaign) -> None:
    site.debit(1)
    site.send(1, site.reply(1, scale=0.4))
    assert "noise of standard deviation 10.8 was claimed" in audited(site)["noise"]["found"]


def test_noise_over_1_3_in_all_rounds_fails_and_a_little_less_noise_is_not_contradicted(
    tmp_path: Path,
) -> None:
    """Each round alone passes."""
    plan = make_plan()
    longer = plan.model_copy(update={"federation": plan.federation.model_copy(update={"rounds": 40})})
    for name, scale, verdict in (("north", 1 / 1.3, "fails"), ("south", 1 / 1.01, "not contradicted")):
        site = Campaign.begin(tmp_path / name, name=name, settings=longer)
        for server_round in range(1, 41):
            site.debit(server_round)
            site.send(server_round, site.reply(server_round, scale=scale))
        check = audited(site)["noise"]
        assert check["verdict"] == verdict
        assert ("20 pairs of rounds" if verdict == "fails" else "from a factor of 1.1") in check["found"]
        assert "was claimed, what left shows" not in check["found"]


def test_noise_that_was_used_twice_fails(site: Campaign) -> None:
    for server_round in (1, 2):
        site.debit(server_round)
        site.send(server_round, site.reply(server_round, seed=5))
    assert "the same noise was used twice" in audited(site)["noise"]["found"]


def test_a_changed_reply_in_the_outbox_fails(site: Campaign) -> None:
    site.run(2)
    place = site.site.folder / "outbox" / "r1.reply"
    content = bytearray(place.read_bytes())
    content[-4200] ^= 1
    place.write_bytes(content)
    assert "changed or damaged" in audited(site)["allow-list"]["found"]


def test_receipts_of_another_key_fail(site: Campaign, tmp_path: Path) -> None:
    site.run()
    other = Ed25519PrivateKey.generate()
    site.kept = [
        replace(one, receipt=replace(one.receipt, signature=other.sign(payload(one.receipt)).hex()))
        for one in site.kept
    ]
    kept = site.receipts(tmp_path / "north.jsonl")
    assert "its signature does not fit" in found(run("audit", site.site.folder, "--receipts", kept))


def test_releases_without_privacy_are_named(site: Campaign) -> None:
    site.run()
    ledger.book_unbounded(site.site, make_unbounded(campaign="pilot"), IDS[:3])
    result = run("audit", site.site.folder)
    assert result.exception is None
    assert "no epsilon bounds what they reveal" in result.output
    page = (site.site.folder / "privacy_report.html").read_text(encoding="utf-8")
    assert "no bound" in page
    assert "3 of them took part in something without a bound" in " ".join(page.split())


def test_what_a_version_released_is_listed(site: Campaign) -> None:
    site.run()
    listed = json.loads(run("audit", site.site.folder, "--affected-by", VERSION, "--json").stdout)["north"]
    assert (listed["private"], listed["patients"]) == (ROUNDS, len(IDS))
    assert listed["epsilon"] == pytest.approx(SPENT)
    none = json.loads(run("audit", site.site.folder, "--affected-by", "9", "--json").stdout)["north"]
    assert (none["private"], none["patients"], none["epsilon"]) == (0, 0, 0)
    assert not (site.site.folder / "privacy_report.json").exists()


def promise(site: Campaign, path: Path, **changes: object) -> Path:
    """What `privacy plan --dpia` would have promised."""
    privacy = site.privacy
    content = {
        "created": "2026-01-01T00:00:00+00:00",
        "version": "0.1.0",
        "campaign": "heads",
        "plan_hash": site.settings.plan_hash(),
        "method": "probe",
        "purpose": "",
        "recipients": [],
        "accountant": "PLD",
        "epsilon": SPENT,
        "delta": 1e-5,
        "noise_multiplier": privacy.noise_multiplier,
        "max_grad_norm": privacy.max_grad_norm,
        "sample_rate": privacy.sample_rate,
        "rounds": ROUNDS,
        "steps": ROUNDS,
        "secure_aggregation": False,
        "images": privacy.images,
        "patients": privacy.patients,
        "planned_patients": 12,
        "planned_sites": 1,
        "leaves": {"probe/member0/hypertrophy": 36},
    }
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def test_what_was_promised_stands_beside_what_was_done(site: Campaign, tmp_path: Path) -> None:
    site.run()
    kept = promise(site, tmp_path / "kept.json")
    result = run("audit", site.site.folder, "--promise", kept, "--json")
    assert result.exception is None
    rows = json.loads(result.stdout)["promises"]
    assert all(row["kept"] for row in rows)
    assert {"what": "Rounds", "promised": "4", "done": "4", "kept": True} in rows
    broken = promise(site, tmp_path / "broken.json", epsilon=0.5, noise_multiplier=12)
    message = found(run("audit", site.site.folder, "--promise", broken))
    assert "promised 0.500, done 0.667" in message
    assert "Noise multiplier" in message


def site_with_patients(tmp_path: Path) -> Campaign:
    """A site with tables, a picture, a withdrawal's statement and all secrets."""
    site = Campaign.begin(tmp_path / "north").run()
    folder = site.site.folder
    (folder / "manifest.csv").write_text("exam_id,patient_id\ne1,north-p000\n", encoding="utf-8")
    (folder / "images").mkdir()
    (folder / "images" / "e1.png").write_bytes(b"\x89PNG picture")
    (folder / "withdrawals").mkdir()
    keys.site_secret(folder)
    return site


def test_a_bundle_holds_evidence_and_nothing_of_patients(tmp_path: Path) -> None:
    site = site_with_patients(tmp_path)
    folder = site.site.folder
    kept = site.receipts(tmp_path / "receipts" / "north.jsonl")
    bundle = tmp_path / "bundle.zip"
    assert run("export", folder, "--receipts", kept, "--out", bundle).exception is None
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert set(files) == {
        "README.txt", "SHA256SUMS", "verify_independently.py", "ledger.jsonl", "audit.jsonl", "public_key.txt",
        "receipts.jsonl", "policy.json", f"plans/{site.settings.plan_hash()}.json", "privacy_report.html",
        "privacy_report.json", "receipt_salts.json",
    }  # fmt: skip
    everything = b"\n".join(files.values())
    salts = ledger_patients.read(folder, ledger_patients.PATIENTS)
    secrets = [
        *(name.encode() for name in IDS),
        *(text.encode() for pair in salts.items() for text in pair),
        ledger_file.site_secret(folder),
        ledger_file.site_secret(folder).hex().encode(),
        keys.site_secret(folder),
        keys.site_secret(folder).hex().encode(),
        keys.path(folder).read_bytes(),
        b"PRIVATE KEY",
        b"PNG picture",
        b"e1.png",
    ]
    assert len(salts) == len(IDS)
    assert not [secret for secret in secrets if secret in everything]


def test_a_bundle_is_verified_and_one_changed_byte_is_found(tmp_path: Path) -> None:
    site = Campaign.begin(tmp_path / "north").run()
    kept = site.receipts(tmp_path / "receipts" / "north.jsonl")
    bundle = tmp_path / "bundle.zip"
    run("export", site.site.folder, "--receipts", kept, "--out", bundle)
    checked = json.loads(run("verify", bundle, "--json").stdout)
    assert (checked["kind"], checked["entries"], checked["receipts"]) == ("bundle", ROUNDS + 1, ROUNDS + 1)
    assert checked["epsilon"] == pytest.approx(SPENT)
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "open")
    place = tmp_path / "open" / "ledger.jsonl"
    place.write_bytes(place.read_bytes().replace(b'"noise_multiplier":10.8', b'"noise_multiplier":99.9', 1))
    assert "ledger.jsonl is missing or was changed" in found(run("verify", tmp_path / "open"))
    sums = tmp_path / "open" / "SHA256SUMS"
    lines = sums.read_text(encoding="utf-8").splitlines()
    sums.write_text("\n".join(line for line in lines if "ledger.jsonl" not in line) + "\n", encoding="utf-8")
    assert "line 2 was edited" in found(run("verify", tmp_path / "open"))


def run_folder(site: Campaign, folder: Path) -> Path:
    """What the centre has of a run with this one site."""
    from server.runs.run_folder import RunFolder

    RunFolder.begin(folder, site.settings)
    site.receipts(folder / "receipts" / "north.jsonl")
    rounds = [
        {"system": "federated", "group": "heads", "round": number, "participants": ["north"]}
        for number in range(1, ROUNDS + 1)
    ]
    (folder / "rounds.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in rounds), encoding="utf-8"
    )
    return folder


def test_a_run_is_audited_from_both_sides_and_a_site_that_was_not_looked_at_is_named_as_open(
    site: Campaign, tmp_path: Path
) -> None:
    folder = run_folder(site.run(), tmp_path / "run")
    result = run("audit", folder, "--json")
    assert result.exception is None
    report = json.loads(result.stdout)
    assert report["worst"]["epsilon"] == pytest.approx(SPENT)
    assert report["sites"][0]["source"] == "receipts"
    assert report["holds"]
    assert [one.partition(":")[0] for one in report["open"]] == ["north, own folder"]
    assert "Open: north, own folder." in report["verdict"]
    page = (folder / "privacy_report.html").read_text(encoding="utf-8")
    assert "Open: north, own folder." in page
    assert "no site&#39;s policy was looked at" in page or "no site's policy was looked at" in page
    assert "every claim holds" not in page
    both = json.loads(run("audit", folder, "--site", site.site.folder, "--json").stdout)
    assert both["sites"][0]["source"] == "ledger"
    names = [check["name"] for check in both["sites"][0]["checks"]]
    assert {"write-ahead", "debits", "receipts"} <= set(names)
    assert "own folder" not in names
    assert "left of 8, the budget of a patient" in " ".join(
        (folder / "privacy_report.html").read_text(encoding="utf-8").split()
    )
    assert both["holds"]
    bundle = tmp_path / "run.zip"
    assert run("export", folder, "--out", bundle).exception is None
    alone = json.loads(run("verify", bundle, "--json").stdout)
    assert (alone["receipts"], alone["entries"]) == (ROUNDS + 1, 0)


def test_the_centre_sees_an_answer_for_which_the_ledger_did_not_grow(site: Campaign, tmp_path: Path) -> None:
    site.debit(1)
    for server_round in range(1, ROUNDS + 1):
        site.send(server_round)
    message = found(run("audit", run_folder(site, tmp_path / "run")))
    assert "round 2 (request r2): left without a debit" in message


def test_the_centre_finds_a_changed_configuration_and_an_update_without_a_receipt(
    site: Campaign, tmp_path: Path
) -> None:
    folder = run_folder(site.run(), tmp_path / "run")
    config = folder / "config.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("noise_multiplier = 10.8", "noise_multiplier = 20.8"), encoding="utf-8")
    assert "one was changed" in found(run("audit", folder))
    config.write_text(text, encoding="utf-8")
    place = folder / "receipts" / "north.jsonl"
    place.write_text(
        "".join(place.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8"
    )
    assert "round 1 used an update of north without a receipt" in found(run("audit", folder))


def test_a_receipt_that_was_changed_at_the_centre_is_named(site: Campaign, tmp_path: Path) -> None:
    folder = run_folder(site.run(), tmp_path / "run")
    site.kept[1] = replace(site.kept[1], receipt=replace(site.kept[1].receipt, ledger_sequence=9))
    (folder / "receipts" / "north.jsonl").write_text(
        "".join(dump(replace(one, public_key=keys.public_key(site.site.folder))) + "\n" for one in site.kept),
        encoding="utf-8",
    )
    assert "north.jsonl, line 2" in found(run("verify", folder))


def test_a_plan_that_was_changed_at_the_site_leaves_its_replies_without_a_plan(site: Campaign) -> None:
    site.run()
    place = site.site.folder / "campaigns" / site.settings.plan_hash() / "plan.json"
    place.write_text(make_plan(noise_multiplier=20).plan_json(), encoding="utf-8")
    assert "is not kept" in found(run("audit", site.site.folder))


def test_a_log_that_was_edited_fails(site: Campaign) -> None:
    site.run()
    edit(site, lambda lines: [*lines[:2], lines[2].replace(b'"server_round":1', b'"server_round":2'), *lines[3:]],
         chain.NAME)  # fmt: skip
    assert audited(site)["log"]["verdict"] == "fails"


def test_the_officers_signature_of_the_policy_is_checked_and_packed(site: Campaign, tmp_path: Path) -> None:
    folder = site.site.folder
    (folder / "federation.json").write_text("{}", encoding="utf-8")
    policy_file.sign(site.site, Ed25519PrivateKey.generate())
    check = audited(site.run())["policy"]
    assert check["verdict"] == "holds"
    assert "Serial 1" in check["found"]
    bundle = tmp_path / "b.zip"
    assert run("export", folder, "--out", bundle).exception is None
    with zipfile.ZipFile(bundle) as archive:
        assert {"policy.sig", "policy.json"} <= set(archive.namelist())
        archive.extractall(tmp_path / "open")
    script: list[str | Path] = [sys.executable, "-I", tmp_path / "open" / "verify_independently.py"]
    assert subprocess.run([*script, bundle], check=False, capture_output=True).returncode == 0
    policy = tmp_path / "open" / "policy.json"
    policy.write_text(policy.read_text(encoding="utf-8").replace("8.0", "80.0"), encoding="utf-8")
    (tmp_path / "open" / "SHA256SUMS").write_text("", encoding="utf-8")
    done = subprocess.run([*script, tmp_path / "open"], check=False, capture_output=True, text=True)
    assert done.returncode == 8
    assert "policy.sig" in done.stdout
    toml = folder / "site.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("= 8.0", "= 80.0"), encoding="utf-8")
    before = (folder / "audit.jsonl").read_bytes()
    assert audited(site)["policy"]["verdict"] == "fails"
    assert (folder / "audit.jsonl").read_bytes() == before


def test_a_campaign_of_before_is_audited_with_what_a_fellow_site_sees(tmp_path: Path) -> None:
    """Its noise was shared out among three, each of whom knows its own share; such plans are not run any more."""
    text = make_plan().model_dump(mode="json", exclude_none=True)
    text["federation"]["secure"] = {"sites": 5, "survivors": 3, "colluders": 0}
    with pytest.raises(ConfigurationError, match="needs colluders of at least 1"):
        parse(tomli_w.dumps(text))
    site = Campaign.begin(tmp_path / "north", settings=parse(tomli_w.dumps(text), past=True))
    for server_round in range(1, ROUNDS + 1):
        site.debit(server_round)
    report = json.loads(run("audit", site.site.folder, "--json").stdout)
    fact = report["facts"]["Secure aggregation of heads"]
    seen = PrivateSteps(sample_rate=1, noise_multiplier=SIGMA * (2 / 3) ** 0.5, count=ROUNDS)
    assert (
        f"epsilon {SPENT:.3f}; against another site that takes part, by itself: {epsilon([seen], delta=1e-5):.3f}"
        in fact
    )
    page = (site.site.folder / "privacy_report.html").read_text(encoding="utf-8")
    assert "together with as many sites as the plan says, and not against more of them" in " ".join(
        page.split()
    )


BEFORE = Path(__file__).parents[2] / "evidence" / "receipts_1.zip"
"""A site's bundle as it was exported before receipts told of their own campaign alone."""


def test_evidence_of_before_still_verifies_and_its_receipts_still_bind(tmp_path: Path) -> None:
    assert json.loads(run("verify", BEFORE, "--json").stdout)["receipts"] == ROUNDS + 1
    with zipfile.ZipFile(BEFORE) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("", encoding="utf-8")
    assert run("verify", tmp_path).exception is None
    place = tmp_path / "receipts.jsonl"
    text = place.read_text(encoding="utf-8")
    assert '"format"' not in text
    place.write_text(text.replace('"ledger_sequence":3', '"ledger_sequence":2'), encoding="utf-8")
    assert "signature does not fit" in found(run("verify", tmp_path))
    place.write_text(text, encoding="utf-8")
    log = (tmp_path / "audit.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "audit.jsonl").write_bytes(b"".join(log[:-1]))
    assert "cut off" in found(run("verify", tmp_path))
