"""The passport of an ensemble: what it is, what it is for and not for, and how well it scores, signed by the centre.

``passport.json`` is the statement, ``passport.html`` shows it and holds it: one file without scripts or links to
anything outside it. Signed is the canonical JSON of the statement, which names the hash of the page around it, so
that neither can be exchanged; ``docs/verify_independently.py`` checks both without synofed. A simulation has no
centre: its passport says so and is not signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from common import receipts as signed_receipts
from common import settings as configuration
from common import signed_json
from common.errors import DataError
from common.machine import atomic, network_files, page_tables
from common.messages import WeightsRef
from common.methods.rounds import rounds_by_stage
from common.privacy.planning import notice
from common.settings import Settings
from common.text import json_values
from common.text.json_values import finite
from common.text.notices import RESEARCH_ONLY
from server.federation.certificates import read_key
from server.federation.home import Home
from server.report import inside, inside_tables, passport_items, tables
from server.report.content import Content, Json, read
from server.report.tables import Rows

DOMAIN = b"synofed passport 1\n"
"""Stands before what is signed, so that a signature can never pass for one over something else."""
HOLDER = "PASSPORT_JSON"
"""Stands in the page where the statement goes: with it the page has the hash that the statement names."""
NOT_FOR = (
    RESEARCH_ONLY,
    "Not for joints, views or machines other than those it was judged on: on others nothing is promised.",
    "Not a grade to act on where its answer is contested or its set has more than one grade: a reader looks.",
)


def write(run: Path) -> tuple[Path, Path]:
    """Write ``passport.json`` and ``passport.html`` of a run.

    Args:
        run: its folder; in a centre's home it is signed with the centre's key.

    Returns:
        Both paths.

    Raises:
        DataError: if the run has no ensemble, or a file of it cannot be read.
        ConfigurationError: if its configuration or the centre's key cannot be used.
    """
    content = read(run)
    if not content.config:
        raise DataError(f"Expected a run's folder at {run}, there is no config.toml in it")
    settings = configuration.load(run / "config.toml", past=True)
    home = Home(run.resolve().parents[1])
    key = read_key(home.server_key) if home.settings_file.exists() and home.server_key.exists() else None
    statement = _statement(run, content, settings)
    page = _page(statement, signed=key is not None)
    statement["page"] = hashlib.sha256(page.encode()).hexdigest()
    document = {
        "passport": statement,
        "signature": _sign(statement, key) if key is not None else "",
        "certificate": home.server_certificate.read_text(encoding="ascii") if key is not None else "",
    }
    text = signed_json.canonical(document)
    atomic.write(run / "passport.json", text.encode() + b"\n")
    embedded = text.replace("<", "\\u003c")  # no text of it can end the element that holds it
    before, _, after = page.rpartition(HOLDER)
    atomic.write(run / "passport.html", f"{before}{embedded}{after}".encode())
    page_tables.write(run / "passport.html")
    return run / "passport.json", run / "passport.html"


def _sign(statement: Json, key: ec.EllipticCurvePrivateKey) -> str:
    return key.sign(DOMAIN + signed_json.canonical(statement).encode(), ec.ECDSA(hashes.SHA256())).hex()


def _statement(run: Path, content: Content, settings: Settings) -> Json:
    """All of it, as JSON's types."""
    manifest, judged = content.manifest, inside.read(run)
    networks = _networks(run)
    if not networks:
        raise DataError(
            f"Expected a run with trained networks at {run}, its status is {manifest.get('status')}: a passport is "
            f"of an ensemble that is there"
        )
    found: Json = {
        "format": 1,
        "name": content.name,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "synofed": str(manifest.get("synofed", "")),
        "packages": dict(manifest.get("packages") or {}),
        "status": str(manifest.get("status", "unknown")),
        "plan_hash": str(manifest.get("plan_hash", settings.plan_hash())),
        "phantom": tables.is_phantom(content),
        "purpose": settings.campaign.purpose,
        "recipients": list(settings.campaign.recipients),
        "not_for": list(NOT_FOR),
        "method": settings.method,
        "images": {name: image.kind for name, image in settings.images.items()},
        "measurements": {name: measured.grades for name, measured in settings.measurements.items()},
        "numbers": {name: [one.smallest, one.largest] for name, one in settings.numbers.items()},
        "rounds": rounds_by_stage(settings),
        "privacy": {"label": notice.label(settings), "statement": notice.sentence(settings)},
        "sites": _sites(run, manifest, judged, private=settings.private),
        "judged": judged or None,
        "scored": _scored(content),
        "calibration": _calibration(judged),
        "networks": networks,
        "ensemble": hashlib.sha256(signed_json.canonical(networks).encode()).hexdigest(),
    }
    found["checklist"] = [
        {"item": number, "topic": topic, "text": text}
        for number, topic, text in passport_items.tripod(found, settings)
    ]
    found["model_card"] = [
        {"section": section, "text": text} for section, text in passport_items.model_card(found)
    ]
    plain = finite(found)
    assert isinstance(plain, dict), "as it was"
    return plain


def _networks(run: Path) -> Json:
    """Name -> hash of its weights, and how it was selected."""
    return {
        network.spec.name: {
            "weights": WeightsRef.of(network.weights).hash,
            "scores": network.spec.scoring,
            "best_round": network.result.best_round,
            "auc": json_values.number(network.result.auc),
            "threshold": network.result.threshold,
        }
        for network in network_files.load_all(run / "networks")
    }


def _sites(run: Path, manifest: Json, judged: Json, *, private: bool) -> Json:
    """What is known of each site; what its data were like only where that may leave it."""
    missing, usable = manifest.get("missing") or {}, manifest.get("usable") or {}
    prints = {} if private else manifest.get("fingerprints") or {}
    return {
        site: {
            "machines": ((judged or {}).get("machines") or {}).get(site, []),
            "rounds_missed": int(missing.get(site, 0)),
            "usable": None if private else usable.get(site),
            "data": prints.get(site),
            "receipts": _receipts(run / "receipts" / f"{site}.jsonl"),
        }
        for site in manifest.get("sites") or []
    }


def _receipts(path: Path) -> Json | None:
    """The last receipt that a site signed in this run."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kept = max(map(signed_receipts.parse, lines), key=lambda one: one.receipt.sequence, default=None)
    if kept is None:
        return None
    one = kept.receipt
    return {
        "replies": len(lines),
        "sequence": one.sequence,
        "log_head": one.log_head,
        "ledger_sequence": one.ledger_sequence,
        "ledger_head": one.ledger_head,
        "public_key": kept.public_key,
    }


def _scored(content: Content) -> Json | None:
    """What the centre itself computed on exams that it has; ``None``: it has none."""
    if not content.metrics:
        return None
    names = ("accuracy", "kappa_linear", "kappa_quadratic", "balanced_accuracy", "confusion")
    parts = {"seen": content.metrics, "unseen": content.metrics.get("unseen")}
    shown = {
        part: {"exams": block["exams"], "patients": block["patients"]}
        | {score: {name: block[score][name] for name in names} for score in content.measurements}
        for part, block in parts.items()
        if block
    }
    return {"reference": content.metrics["reference"], **shown}


def _calibration(judged: Json) -> Json:
    """Measurement -> how far its probabilities hold at each cut, by the counts of the sites that trained."""
    pooled: Json = judged.get("pooled", {})
    return {score: entry["cuts"] for score, entry in pooled.items() if entry["cuts"]}


def _page(statement: Json, *, signed: bool) -> str:
    folder = files("server.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    header, rows = _performance(statement)
    html = environment.from_string(folder.joinpath("passport.html").read_text(encoding="utf-8")).render(
        passport=statement,
        signed=signed,
        style=Markup(files("common").joinpath("page.css").read_text(encoding="utf-8")),
        header=header,
        rows=rows,
        numbers=inside_tables.numbers_table(statement["judged"]) if statement["judged"] else ((), ()),
        holder=HOLDER,
    )
    return html.lstrip() + "\n"


def _performance(statement: Json) -> tuple[Sequence[str], Rows]:
    """Header and rows: as the sites judged it, or else as the centre did on exams that it has."""
    judged, scored = statement["judged"], statement["scored"]
    if judged and judged["pooled"]:
        return inside_tables.table(judged)
    if not scored:
        return (), ()
    scores = [*statement["measurements"], *(("combined",) if "combined" in scored["seen"] else ())]
    header = [f"{tables.title(score)}, {what}" for what in ("accuracy", "kappa") for score in scores]
    rows = []
    for part, label in (("seen", "Sites that trained"), ("unseen", "Never trained on")):
        if part in scored:
            block = scored[part]
            cells = [
                tables.cell(block[s][metric], metric)
                for metric in ("accuracy", "kappa_linear")
                for s in scores
            ]
            rows.append((label, [(str(block["exams"]), f"{block['patients']} patients"), *cells]))
    return ("", "Exams", *header), rows
