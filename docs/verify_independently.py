"""Verify synofed's privacy evidence without synofed: chain, signatures, debits and totals, offline, on files alone.

    python verify_independently.py BUNDLE.zip|BUNDLE_FOLDER|SITE_FOLDER [--key HEX] [--receipts FILE]
    python verify_independently.py passport.html|passport.json [--authority ca.crt]

Needs Python and the package `cryptography`; for campaigns that sample patients `dp_accounting` too. --key is the
site's public key as somebody else knows it (the centre, an old statement), --receipts what the centre kept of it,
--authority the federation's certificate, under whose key the centre of an ensemble's passport has its own.
Exit code 0: all fits; 8: something does not, and the first bad line is named. Formats: docs/formats.md.
"""

import argparse
import hashlib
import hmac
import json
import math
import sys
import zipfile
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PARAMETERS = ("noise_multiplier", "sample_rate", "max_grad_norm", "patients", "images")
EVENTS = ("opened", "private", "unbounded", "withdrawn", "repaired")
Files = Mapping[str, bytes]
Fields = dict[str, Any]  # of an entry, receipt or plan, as JSON has it
Entries = list[tuple[str, Fields]]
Steps = dict[tuple[float, float], int]  # (sample rate, noise multiplier) -> how many
Place = tuple[int, str, int, str] | None  # lines of log and ledger, with hashes; None: lost, and settled
FILES = ("*.*", "ledger/secret", "SHA256SUMS", "receipts/*.jsonl", "plans/*.json", "campaigns/*/plan.json")


def need(condition: object, what: str) -> None:
    if not condition:
        print(f"DOES NOT FIT: {what}")
        sys.exit(8)


def load(place: Path) -> dict[str, bytes]:
    """Name -> bytes of all that is looked at: a bundle whole, of a site's folder what is evidence."""
    if place.is_file():
        with zipfile.ZipFile(place) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    paths = {path for pattern in FILES for path in place.glob(pattern) if path.is_file()}
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in paths}


def signed(key: str, signature: str, message: bytes, where: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        need(False, f"{where}: the signature does not fit key {key[:16]}: edited, or signed by another")


def canonical(content: Fields) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]  # what stands after the last newline was cut short by a crash: no entry


def chain(data: bytes, name: str, key: str | None = None) -> Entries:
    """Entries of a ledger (signed with `key`) or of a log, each as (hash, content)."""
    entries: Entries = []
    for number, line in enumerate(lines(data), start=1):
        where = f"{name}, line {number}"
        try:
            content = json.loads(line)
            sequence, previous, event = content["seq"], content["prev"], content["event"]
        except (ValueError, KeyError, TypeError):
            need(False, f"{where}: is no entry")
        if key is not None:
            need(event in EVENTS, f"{where}: an event of unknown cost")
            body, mark, tail = line.rpartition(b',"signature":"')
            need(mark and len(tail) == 130 and tail.endswith(b'"}'), f"{where}: is not signed")
            signed(key, tail[:128].decode("ascii", "replace"), b"synofed ledger 1\n" + body + b"}", where)
        need(sequence == number, f"{where}: has number {sequence}: a line was dropped, added or moved")
        last = entries[-1][0] if entries else "0" * 64
        need(previous == last, f"{where}: does not continue line {number - 1}: that was edited or exchanged")
        entries.append((hashlib.sha256(line).hexdigest(), content))
    need(not key or not entries or entries[0][1].get("public_key") == key, f"{name}, line 1: of another key")
    return entries


def holds(entries: Entries, name: str, sequence: int, digest: str, who: str) -> None:
    need(sequence <= len(entries), f"{name} ends with line {len(entries)}, {who} knows line {sequence}")
    if sequence:
        need(entries[sequence - 1][0] == digest, f"{name}, line {sequence}: is not the one that {who} knows")


def counted(ledger: Entries, plan: str) -> Iterator[tuple[int, int, str]]:
    """Entries that booked something for a plan, as (how much with it, number, hash): steps, or 1 without privacy."""
    count = 0
    for number, (digest, entry) in enumerate(ledger, start=1):
        steps = entry.get("steps", 0 if count else 1)
        if entry.get("plan_hash") == plan and "eligible" in entry and steps:
            count += steps
            yield count, number, digest


def placed(receipt: Fields, log: Entries, ledger: Entries, salt: bytes, where: str) -> Place:
    """Numbers and hashes of the lines of log and ledger that a receipt of format 2 names; None: lost, and settled."""

    def is_told(digest: str, told: str) -> bool:
        return hashlib.sha256(b"synofed head 1\n" + salt + bytes.fromhex(digest)).hexdigest() == told

    plan, settled, at, booked = receipt["plan_hash"], 0, None, list(counted(ledger, receipt["plan_hash"]))
    for number, (digest, entry) in enumerate(log, start=1):
        if entry.get("plan_hash") == plan and entry["event"] == "reconciled":
            settled = max(settled, entry["number"])
        elif entry.get("plan_hash") == plan and entry.get("number") == receipt["sequence"]:
            at = (number, digest) if is_told(digest, receipt["log_head"]) else at
    heads = [one[1:] for one in booked if one[0] == receipt["ledger_sequence"]] or [(0, "0" * 64)]
    if at and (not receipt["ledger_sequence"] or is_told(heads[0][1], receipt["ledger_head"])):
        return *at, *heads[0]
    lost = receipt["sequence"] <= settled and receipt["ledger_sequence"] <= max([0, *(b[0] for b in booked)])
    need(lost, f"{where}: log or ledger do not hold what it knows: cut off, or an older copy was put back")
    return None


def debits(log: Entries, ledger: Entries, known: Mapping[str, Fields]) -> int:
    """Every private reply has its debit before it, with the parameters of its plan."""
    booked: dict[tuple[str, str], int] = {}
    for number, (_, entry) in enumerate(ledger, start=1):
        if entry["event"] == "private":
            booked.setdefault((entry["plan_hash"], entry["request_id"]), number)
            agreed = known.get(entry["plan_hash"], {}).get("privacy") or entry
            for name in PARAMETERS:
                where = f"ledger.jsonl, line {number}: {name}"
                need(entry[name] == agreed[name], f"{where} {entry[name]}, the plan has {agreed[name]}")
    count = 0
    for number, (_, entry) in enumerate(log, start=1):
        plan = known.get(entry.get("plan_hash", ""), {})
        if entry["event"] != "reply" or (plan.get("privacy") or {}).get("mechanism") != "gaussian":
            continue
        if entry["server_round"] and entry["reply_bytes"]:  # what closes a stage holds no bytes
            debit = booked.get((entry["plan_hash"], entry["request_id"]), math.inf)
            count += 1
            need(debit <= entry["ledger_sequence"], f"audit.jsonl, line {number}: left without a debit")
    return count


def spent(ledger: Entries) -> tuple[list[Steps], set[int]]:
    """Of each patient (sample rate, noise multiplier) -> steps; and who was in releases without a bound."""
    patients, unbounded = list[Steps](), set[int]()
    for _, entry in ledger:
        patients += [{} for _ in entry.get("new", [])]
        need(entry.get("steps", 1) > 0, f"ledger.jsonl, line {entry['seq']}: books nothing, or less")
        for first, last in entry.get("eligible", []):
            need(0 <= first <= last < len(patients), f"ledger.jsonl, line {entry['seq']}: names nobody")
            for number in range(first, last + 1):
                unbounded |= {number} if entry["event"] == "unbounded" else set()
                if entry["event"] == "private":
                    kind = (entry["sample_rate"], entry["noise_multiplier"])
                    patients[number][kind] = patients[number].get(kind, 0) + entry["steps"]
    return patients, unbounded


def epsilon(steps: Steps, delta: float) -> float:
    """Of one patient, one added or removed; nan where dp_accounting is needed and not here."""
    if all(rate == 1 for rate, _ in steps):
        mu = math.sqrt(sum(count / sigma**2 for (_, sigma), count in steps.items()))
        low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1
        while mu and high - low > 1e-9:
            middle = (low + high) / 2
            inside, outside = (math.erfc((middle / mu + s * mu / 2) / 2**0.5) / 2 for s in (-1, 1))
            excess = inside - (math.exp(middle + math.log(outside)) if outside else 0.0) - delta
            low, high = (middle, high) if excess > 0 else (low, middle)
        return high if mu else 0.0
    try:
        from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism  # noqa: PLC0415
    except ImportError:
        return math.nan
    losses = [from_gaussian_mechanism(k[1], sampling_prob=k[0]).self_compose(n) for k, n in steps.items()]
    return float(reduce(lambda one, other: one.compose(other), losses).get_epsilon_for_delta(delta))


def salt(files: Files, plan: str, where: str) -> bytes:
    """Of a plan's receipts: a bundle tells it, a site's folder has the secret that it is made of."""
    if "ledger/secret" in files:
        return hmac.digest(files["ledger/secret"], b"receipt\n" + plan.encode(), "sha256")
    told = json.loads(files.get("receipt_salts.json", b"{}")).get(plan)
    need(told, f"{where}: the salt of plan {plan[:12]} is not here, so nobody can say what it knows")
    return bytes.fromhex(told)


def receipts_of(files: Files, name: str, key: str | None, log: Entries, ledger: Entries) -> Iterator[Place]:
    """Places of a file's receipts, which log and ledger hold; None: of a part that was lost, and settled since."""
    for number, kept in enumerate(map(json.loads, lines(files[name])), start=1):
        where = f"{name}, line {number}"
        receipt, key = kept["receipt"], key or kept["public_key"]  # of a run: one key per file
        version = receipt.get("format", 1)
        need(version in (1, 2), f"{where}: is of format {version}, which is not known here")
        signed(key, receipt.pop("signature"), b"synofed receipt %d\n" % version + canonical(receipt), where)
        place: Place
        place = receipt["sequence"], receipt["log_head"], receipt["ledger_sequence"], receipt["ledger_head"]
        if version == 2 and (log or ledger):
            place = placed(receipt, log, ledger, salt(files, receipt["plan_hash"], where), where)
        if place and (log or ledger):
            holds(log, "audit.jsonl", *place[:2], where)
            holds(ledger, "ledger.jsonl", *place[2:], where)
        yield place


def verify(files: Files, key: str | None) -> None:
    for line in files.get("SHA256SUMS", b"").decode().splitlines():
        digest, name = line.split("  ", 1)
        need(hashlib.sha256(files.get(name, b"")).hexdigest() == digest, f"{name}: is missing or was changed")
    given = key or files.get("public_key.txt", b"").decode().strip() or None
    first = lines(files.get("ledger.jsonl", b""))[:1]
    key = given or (json.loads(first[0]).get("public_key", "") if first else None)
    ledger = chain(files.get("ledger.jsonl", b""), "ledger.jsonl", key)
    log = chain(files.get("audit.jsonl", b""), "audit.jsonl")
    for number, (_, entry) in enumerate(log, start=1):
        if entry["event"] in ("reply", "consent") and entry.get("ledger_sequence"):
            who = f"line {number} of the log"
            holds(ledger, "ledger.jsonl", entry["ledger_sequence"], entry["ledger_head"], who)
    kept_in = [name for name in files if name == "receipts.jsonl" or name.startswith("receipts/")]
    kept = [place for name in kept_in for place in receipts_of(files, name, key, log, ledger)]
    plans = {}
    for name in (n for n in files if n.startswith("plans/") or n.endswith("/plan.json")):
        digest = hashlib.sha256(files[name]).hexdigest()
        need(digest in name, f"{name}: was changed, its hash is {digest[:16]}")
        plans[digest] = json.loads(files[name])
    count = debits(log, ledger, plans)
    if {"policy.sig", "policy.json"} <= set(files):
        content = json.loads(files["policy.sig"]) | json.loads(files["policy.json"])
        mark, domain = content.pop("signature"), b"synofed policy 1\n"
        signed(content["public_key"], mark, domain + canonical(content), "policy.sig")
    held, lost = len(kept), kept.count(None)
    print(f"{len(ledger)} ledger entries, {len(log)} log entries, {count} private replies, {held} receipts")
    report = json.loads(files.get("privacy_report.json", b"{}"))
    stated = [one for one in report.get("sites", []) if ledger and one.get("ledger_head") == ledger[-1][0]]
    delta = stated[0]["spending"]["total"]["delta"] if stated else 1e-5
    patients, unbounded = spent(ledger)
    totals = [epsilon(dict(kind), delta) for kind in {tuple(sorted(steps.items())) for steps in patients}]
    print(f"{len(patients)} patients, {len(unbounded)} of them in releases without a bound")
    worst = math.nan if any(map(math.isnan, totals)) else max(totals, default=0.0)
    print(f"the patient who has spent most: epsilon {worst:.3f} at delta {delta:g}, one added or removed")
    for told in (one["spending"]["total"]["epsilon"] for one in stated):
        wrong = abs(told - worst) > 0.01 * max(1, worst)
        need(not wrong, f"privacy_report.json: says epsilon {told:.3f}, it is {worst:.3f}")
    own = ", by the files' own word for the key: compare it with the centre's, or give --key"
    but = f", but for {lost} receipts of what was lost and, says the site, settled" if lost else ""
    print(f"all fits{but}{'' if given else own}")


def passport(data: bytes, authority: Path | None) -> None:
    """An ensemble's passport: the page around it is the one that it names, and the centre signed it."""
    begin, end = '<script type="application/json" id="passport">', "</script>"
    text = data.decode()
    if begin in text:
        head, _, rest = text.partition(begin)
        text, _, tail = rest.partition(end)
        page = f"{head}{begin}PASSPORT_JSON{end}{tail}"
    document = json.loads(text)
    stated, mark = document["passport"], document["signature"]
    if begin in data.decode():
        digest = hashlib.sha256(page.encode()).hexdigest()
        need(digest == stated["page"], "the page is not the one that was signed")
    if not mark:
        need(authority is None, "the passport is not signed")
        return print("not signed: made of a simulation, which has no centre; only its page was checked")
    centre = x509.load_pem_x509_certificate(document["certificate"].encode())
    message = b"synofed passport 1\n" + canonical(stated)
    key = centre.public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError
        key.verify(bytes.fromhex(mark), message, ec.ECDSA(hashes.SHA256()))
        if authority is not None:
            centre.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.read_bytes()))
    except (InvalidSignature, ValueError, TypeError):
        need(False, "the signature is not of this federation's centre, or the statement was changed")
    print(f"{stated['name']}, plan {stated['plan_hash'][:12]}, {len(stated['networks'])} networks")
    own = ", by the file's own word for the centre's certificate: give --authority"
    return print(f"all fits{'' if authority else own}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The head of this file says what it does.")
    parser.add_argument("place", type=Path)
    parser.add_argument("--key")
    parser.add_argument("--receipts", type=Path)
    parser.add_argument("--authority", type=Path)
    asked = parser.parse_args()
    if asked.place.suffix in (".html", ".json"):
        passport(asked.place.read_bytes(), asked.authority)
        sys.exit(0)
    more = {"receipts.jsonl": asked.receipts.read_bytes()} if asked.receipts else {}
    verify(load(asked.place) | more, asked.key)
