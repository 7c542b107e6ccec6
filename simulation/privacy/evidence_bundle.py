"""An evidence bundle: all that an outsider needs to check a site's or a run's claims, and nothing of any patient.

A zip file. What goes in is listed here by name; a folder is never packed as it stands, for beside the evidence lie
secrets, salts, pictures and tables.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from client.ledger import ledger_head
from client.log import chain, outbox
from client.site import keys, officer, policy_file
from client.site.site import Site
from client.state import decisions
from common import receipts
from common.errors import DataError, SynofedError, refusal
from common.machine import atomic
from common.privacy.audit import audit_report
from common.privacy.audit.audit_report import Report
from common.receipts import Kept, Receipt
from server.runs.run_folder import RunFolder

SUMS = "SHA256SUMS"
SALTS = "receipt_salts.json"
SCRIPT = "verify_independently.py"
README = """\
Evidence about privacy: {name}, {made}

What this is. The records by which {what} shows what left it in the training of networks, what that costs a
patient in epsilon, and that no record was changed: {contents}.

What it does not hold. Pictures, grades, identifiers of patients, the tables that say who is who, secrets, private
keys. Patients are numbers here, behind salted commitments that nobody can open without the site.

Check it without the software that made it (Python and the package "cryptography"):

    python verify_independently.py .            in the unpacked folder, or give it the zip file

and compare public_key.txt with what the centre knows of the site. With the software:

    synofed privacy verify BUNDLE.zip

Formats, byte by byte, are in the software's docs/formats.md. SHA256SUMS has the hash of every file.

Differential privacy is a risk-reducing measure. privacy_report.html says what it means and what it does not cover.
"""


def of_site(folder: Path, report: Report, kept: tuple[Kept, ...] = ()) -> dict[str, bytes]:
    """Files of a site's bundle, by name.

    Args:
        folder: the site's.
        report: of its audit.
        kept: the centre's receipts; those of the outbox are taken too.

    Raises:
        DataError: if there is no site.
    """
    site = Site.open(folder)
    files = {
        name: data for name in (ledger_head.NAME, chain.NAME) if (data := _read(folder / name)) is not None
    }
    if keys.path(folder).exists():
        files["public_key.txt"] = f"{keys.public_key(folder)}\n".encode()
    own = tuple(_outbox(site))
    known = {one.receipt: one for one in (*own, *kept) if one.receipt.site == site.name}
    if known:
        files["receipts.jsonl"] = "".join(f"{receipts.dump(one)}\n" for one in known.values()).encode()
        files[SALTS] = (json.dumps(_salts(folder, known), indent=1) + "\n").encode()
    policy = {"policy": site.policy.model_dump(mode="json"), "site": site.name}
    files["policy.json"] = (json.dumps(policy, indent=1) + "\n").encode()
    for name, place in (("policy.sig", folder / policy_file.NAME), ("officer.pub", officer.path(folder))):
        if (data := _read(place)) is not None:
            files[name] = data
    for plan_hash in decisions.listed(site):
        if (data := _read(decisions.folder(folder, plan_hash) / "plan.json")) is not None:
            files[f"plans/{plan_hash}.json"] = data
    return _finished(files, report, what="a hospital site")


def of_run(folder: Path, report: Report) -> dict[str, bytes]:
    """Files of a run's bundle, by name: the centre's evidence, without networks, predictions or pictures.

    Raises:
        ConfigurationError: if it is no run's folder.
    """
    settings = RunFolder(folder).settings()
    files = {
        name: data
        for name in ("config.toml", "manifest.json", "rounds.jsonl", "metrics.json")
        if (data := _read(folder / name)) is not None
    }
    for path in sorted((folder / "receipts").glob("*.jsonl")):
        files[f"receipts/{path.name}"] = path.read_bytes()
    files[f"plans/{settings.plan_hash()}.json"] = settings.plan_json().encode()
    return _finished(files, report, what="the coordinating centre")


def write(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a bundle; the same files give the same bytes.

    Raises:
        DataError: if it cannot be written.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), files[name])
    try:
        atomic.write(path, content.getbuffer())
    except OSError as error:
        raise DataError(f"Expected to write {path}: {refusal(error)}") from None


def _finished(files: dict[str, bytes], report: Report, *, what: str) -> dict[str, bytes]:
    files["privacy_report.json"] = (json.dumps(audit_report.as_json(report), indent=1) + "\n").encode()
    files["privacy_report.html"] = audit_report.render(report).encode()
    files[SCRIPT] = _script()
    contents = ", ".join(sorted(name for name in files if "/" not in name and name != SCRIPT))
    files["README.txt"] = README.format(
        name=report.name, made=report.made, what=what, contents=contents
    ).encode()
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return files | {SUMS: sums.encode()}


def _outbox(site: Site) -> Iterator[Kept]:
    """What the site itself signed about replies that it still has."""
    public_key = keys.public_key(site.folder) if keys.path(site.folder).exists() else ""
    for request_id in reversed(outbox.ids(site.folder)):
        try:
            kept = outbox.find(site.folder, request_id)
        except SynofedError:
            continue  # the report says so
        if kept is not None:
            yield Kept(received="", public_key=public_key, receipt=kept.receipt)


def _salts(folder: Path, known: Iterable[Receipt]) -> dict[str, str]:
    """Plan hash -> salt of its receipts, in hex: with log and ledger beside them there is nothing left to hide."""
    plans = sorted({receipt.plan_hash for receipt in known if receipt.format > 1})
    return {plan_hash: ledger_head.salt(folder, plan_hash).hex() for plan_hash in plans}


def _script() -> bytes:
    """The program that checks the bundle: from the sources, or where they were installed."""
    for place in (Path(__file__).parents[2] / "docs", Path(sys.prefix) / "share" / "synofed"):
        if (data := _read(place / SCRIPT)) is not None:
            return data
    raise DataError(f"Expected {SCRIPT} among the documents of this installation: install synofed anew")


def _read(place: Path) -> bytes | None:
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"Expected to read {place}: {error.strerror}") from None
