import ast
import hashlib
import json
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.ledger import ledger_file
from client.log import chain
from client.site import keys
from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.accounting.accounting import epsilon as accounted
from common.receipts import RECONCILED, from_fields, payload
from simulation.cli.privacy_cli import privacy
from tests.patience import PATIENCE_S
from tests.privacy_evidence import ROUNDS, Campaign

SCRIPT = Path(__file__).parent.parent / "docs" / "verify_independently.py"
OWN = {"common", "client", "server", "simulation", "synofed", "tests"}
KEY = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
LINE = (
    '{"seq":1,"time":"2026-01-02T03:04:05+00:00","event":"opened","version":"1","public_key":"'
    f'{KEY}","secret":"s","prev":"{"0" * 64}","signature":"'
    "e439173532b5da27298b6ea14041ba98a331e7c9864a98fe60b28b376aa3fd13"
    'c56c6cacfd0e0d96916e3f168ea87598c3b884cb2b245c6c395d1c91d7041d01"}'
)
"""The test vector of docs/formats.md."""


@pytest.fixture(scope="module")
def functions() -> dict[str, Any]:
    """What the script defines."""
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def site(tmp_path: Path) -> Campaign:
    ledger_file._known.clear()
    return Campaign.begin(tmp_path / "north")


def verify(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def edit(site: Campaign, change: Callable[[list[bytes]], list[bytes]], name: str = "ledger.jsonl") -> None:
    place = site.site.folder / name
    place.write_bytes(b"".join(change(place.read_bytes().splitlines(keepends=True))))


def test_it_is_short_and_imports_nothing_of_ours() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 300
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in names}
    assert not roots & OWN
    assert roots - set(sys.stdlib_module_names) == {"cryptography", "dp_accounting"}


def test_the_test_vector_of_the_formats_is_read(functions: dict[str, Any]) -> None:
    text = (SCRIPT.parent / "formats.md").read_text(encoding="utf-8")
    assert LINE in text
    ((digest, content),) = functions["chain"](LINE.encode() + b"\n", "ledger.jsonl", KEY)
    assert digest == "0803eaf8b8d9fea8b8e306609cdb339b7b8469e0e975814f3385b3cd1ff10536"
    assert content["event"] == "opened"
    with pytest.raises(SystemExit) as end:
        functions["chain"](LINE.replace("2026", "2027").encode() + b"\n", "ledger.jsonl", KEY)
    assert end.value.code == 8


def test_the_receipt_of_the_formats_is_signed_as_it_says(functions: dict[str, Any]) -> None:
    text = (SCRIPT.parent / "formats.md").read_text(encoding="utf-8")
    (line,) = (one for one in text.splitlines() if one.startswith('{"campaign":"test"'))
    (signature,) = (one[9:137] for one in text.splitlines() if one.startswith("signed: `"))
    assert functions["canonical"](json.loads(line)) == line.encode()
    message = b"synofed receipt 1\n" + line.encode()
    functions["signed"](KEY, signature, message, "receipt")
    receipt = from_fields({**json.loads(line), "signature": signature})
    assert payload(receipt) == message
    with pytest.raises(SystemExit):
        functions["signed"](KEY, signature, message.replace(b"north", b"south"), "receipt")


@pytest.mark.parametrize(
    "steps",
    [
        {(1, 5.0): 40},
        {(1, 10.77): 60},
        {(1, 0.5): 3, (1, 7.0): 11},
        {(0.2, 1.44): 100},
        {(0.2, 4.0): 50, (1, 20.0): 10},
    ],
)
def test_its_epsilon_is_ours(functions: dict[str, Any], steps: dict[tuple[float, float], int]) -> None:
    ours = [PrivateSteps(sample_rate=q, noise_multiplier=sigma, count=n) for (q, sigma), n in steps.items()]
    assert functions["epsilon"](steps, 1e-5) == pytest.approx(accounted(ours, delta=1e-5), rel=2e-3)


def test_a_sound_site_and_its_bundle_fit(site: Campaign, tmp_path: Path) -> None:
    site.run()
    kept = site.receipts(tmp_path / "north.jsonl")
    code, told = verify(site.site.folder, "--key", keys.public_key(site.site.folder), "--receipts", kept)
    assert code == 0, told
    assert f"{ROUNDS + 1} ledger entries" in told
    assert "epsilon 0.667" in told
    bundle = tmp_path / "b.zip"
    done = CliRunner().invoke(privacy, ["export", str(site.site.folder), "--out", str(bundle)])
    assert done.exception is None
    code, told = verify(bundle)
    assert code == 0, told
    assert "own word" not in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b"10.8", b"90.8"), *lines[3:]], "line 3"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "line 3"),
        (lambda lines: lines[:-1], "knows line 5"),
    ],
    ids=["edited", "dropped", "moved", "tail cut off"],
)
def test_a_changed_ledger_does_not_fit(
    site: Campaign, change: Callable[[list[bytes]], list[bytes]], told: str
) -> None:
    edit(site.run(), change)
    code, output = verify(site.site.folder)
    assert code == 8
    assert told in output


def test_another_key_does_not_fit(site: Campaign) -> None:
    code, told = verify(site.run(1).site.folder, "--key", KEY)
    assert code == 8
    assert "ledger.jsonl, line 1" in told


def test_less_noise_than_the_plan_has_does_not_fit(site: Campaign) -> None:
    site.debit(1, sigma=5.0)
    site.send(1)
    code, told = verify(site.site.folder)
    assert code == 8
    assert "noise_multiplier 5.0, the plan has 10.8" in told


def test_a_reply_without_a_debit_does_not_fit(site: Campaign) -> None:
    site.debit(1)
    site.send(1)
    site.send(2)
    code, told = verify(site.site.folder)
    assert code == 8
    assert "without a debit" in told


def test_receipts_for_what_is_no_longer_there_do_not_fit(site: Campaign, tmp_path: Path) -> None:
    site.run()
    kept = site.receipts(tmp_path / "north.jsonl")
    edit(site, lambda lines: lines[:-2])
    edit(site, lambda lines: lines[:-3], "audit.jsonl")
    code, _ = verify(site.site.folder)
    assert code == 0
    code, told = verify(site.site.folder, "--receipts", kept)
    assert code == 8
    assert "north" not in told
    assert "line 3: log or ledger do not hold what it knows: cut off, or an older copy was put back" in told


def test_a_total_that_is_not_the_ledgers_does_not_fit(site: Campaign) -> None:
    site.run()
    assert CliRunner().invoke(privacy, ["audit", str(site.site.folder)]).exception is None
    place = site.site.folder / "privacy_report.json"
    report = json.loads(place.read_text(encoding="utf-8"))
    assert verify(site.site.folder)[0] == 0
    report["sites"][0]["spending"]["total"]["epsilon"] = 0.1
    place.write_text(json.dumps(report), encoding="utf-8")
    code, told = verify(site.site.folder)
    assert code == 8
    assert "says epsilon 0.100, it is 0.667" in told


def test_evidence_of_before_receipts_were_salted_still_fits(tmp_path: Path) -> None:
    before = Path(__file__).parent / "evidence" / "receipts_1.zip"
    code, told = verify(before)
    assert (code, "5 receipts" in told) == (0, True), told
    with zipfile.ZipFile(before) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("", encoding="utf-8")
    log = (tmp_path / "audit.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "audit.jsonl").write_bytes(b"".join(log[:-1]))
    assert verify(tmp_path)[0] == 8


def test_receipts_of_another_campaign_or_salt_do_not_fit(site: Campaign, tmp_path: Path) -> None:
    site.run()
    kept = site.receipts(tmp_path / "north.jsonl")
    assert verify(site.site.folder, "--receipts", kept)[0] == 0
    (site.site.folder / "ledger" / "secret").write_bytes(bytes(32))
    code, told = verify(site.site.folder, "--receipts", kept)
    assert (code, "do not hold what it knows" in told) == (8, True)


def test_what_was_lost_and_settled_fits_and_is_told(site: Campaign, tmp_path: Path) -> None:
    """A campaign of which the answer to its plan alone was lost ended in a traceback; the rest was not told."""
    settled = {"campaign": "heads", "plan_hash": "b" * 64, "debits": 0}
    site.run(2)
    kept = [json.loads(line) for line in site.receipts(tmp_path / "k.jsonl").read_text().splitlines()]
    lost = replace(site.kept[0].receipt, plan_hash="b" * 64, ledger_sequence=0, ledger_head="0" * 64)
    key = keys.signing_key(site.site.folder)
    signed = asdict(replace(lost, signature=key.sign(payload(lost)).hex()))
    place = tmp_path / "north.jsonl"
    place.write_text("".join(json.dumps(one) + "\n" for one in [*kept, {**kept[0], "receipt": signed}]))
    assert verify(site.site.folder, "--receipts", place)[0] == 8
    chain.append_numbered(
        site.site.folder / "audit.jsonl", RECONCILED, settled, name="plan_hash", counted=(), least=1
    )
    code, told = verify(site.site.folder, "--receipts", place)
    assert code == 0, told
    assert "3 receipts" in told
    assert "all fits, but for 1 receipts of what was lost" in told


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"steps": -3}, "books nothing, or less"), ({"eligible": [[-2, -1]]}, "names nobody")],
)
def test_an_entry_that_takes_debits_back_does_not_fit(
    site: Campaign, changed: dict[str, object], told: str
) -> None:
    """Signed by the site itself: minus three steps made a smaller total, and all fitted."""
    site.run(3)
    last = json.loads((site.site.folder / "ledger.jsonl").read_bytes().splitlines()[-1])
    facts = {name: value for name, value in last.items() if name not in ("signature", "prev")}
    before = hashlib.sha256((site.site.folder / "ledger.jsonl").read_bytes().splitlines()[-1]).hexdigest()
    facts |= {"seq": last["seq"] + 1, "request_id": "x", "new": [], "prev": before} | changed
    body = json.dumps(facts, separators=(",", ":")).encode()
    mark = keys.signing_key(site.site.folder).sign(b"synofed ledger 1\n" + body).hex()
    edit(site, lambda lines: [*lines, body[:-1] + b',"signature":"%s"}\n' % mark.encode()])
    code, output = verify(site.site.folder)
    assert (code, told in output) == (8, True), output
