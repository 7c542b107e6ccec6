"""The whole check of a site, section by section."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from client.check import clock_and_certificate, consent, data, place
from client.check.plan_choice import Chosen, choose
from client.check.report import DetailRow, Finding, Report, ok, problem, warning
from client.data.ingest.placing import table
from client.data.site_store import site_store
from client.data.tables.rows import read_rows
from client.data.tables.sources import Sources
from client.data.tables.tables import Reading
from client.site.site import Site
from common.errors import StorageError, SynofedError, refusal
from common.extensions import is_object_path
from common.machine import atomic
from common.settings import Settings

if TYPE_CHECKING:
    from client.check.dry_round import Rehearsal
    from client.data.doctor.findings import Report as DoctorReport
    from client.data.store import Store

DETAILS = "check-details.csv"
SENT = "check-sent.csv"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A report, and what the dry round gave if there was one."""

    report: Report
    rehearsal: Rehearsal | None


def check(
    site: Site, *, given: Settings | None, rehearse: bool, now: datetime, progress: Progress | None = None
) -> Checked:
    """Look at everything that a campaign needs here. Nothing is sent but a question for the centre's health.

    Args:
        site: the site.
        given: the plan to check with; ``None``: the newest campaign's, or one made from the tables.
        rehearse: whether to train a few steps.
        now: the present, with its time zone.
        progress: told of exams read, out of all.
    """
    findings: list[Finding] = [one for one in [consent.ready(site)] if one is not None]
    rows: list[DetailRow] = []
    chosen, store = None, None
    try:
        chosen = choose(site, given)
        store = site_store(site, _without_refused_code(site, chosen.settings), progress=progress)
        findings.append(ok("data", f"Held against {chosen.source}"))
        findings += data.findings(site, store, chosen.settings)
        rows += data.details(store)
        said, pairs = data.agreement(_readings(site, chosen.settings), chosen.settings)
        looked, doctor_rows = _doctor(site)
        findings += [*said, looked]
        rows += [*pairs, *doctor_rows]
    except SynofedError as error:
        found, listed = data.unusable(error)
        findings.append(found)
        rows += listed
    machine, open_rows = place.findings(site)
    findings += machine
    rows += open_rows
    findings += consent.policy(site)
    findings += clock_and_certificate.findings(site, now=now)
    findings.append(consent.versions())
    findings += consent.known_campaigns(site)
    rehearsal = None
    if chosen is not None and store is not None:
        planned, rehearsal = _planned(site, chosen, store, rehearse=rehearse)
        findings += planned
    elif rehearse:
        findings.append(warning("dry round", "There was none: the data cannot be used"))
    return Checked(report=Report(site=site.name, findings=findings, detail=rows), rehearsal=rehearsal)


def write(checked: Checked, site: Site) -> tuple[Path, ...]:
    """Write rows and tensors, readable by their owner only.

    Returns:
        What was written.

    Raises:
        StorageError: if it cannot be.
    """
    details = site.folder / DETAILS
    texts = {details: table(("kind", "table", "line", "exam_id", "what"), checked.report.detail)}
    if checked.rehearsal is not None:
        tensors = [
            (shape.network, name, "x".join(map(str, size)))
            for shape in checked.rehearsal.shapes
            for name, size in shape.tensors
        ]
        texts[site.folder / SENT] = table(("network", "tensor", "shape"), tensors)
    try:
        for path, content in texts.items():
            atomic.write(path, content, mode=0o600)
    except OSError as error:
        raise StorageError(f"{site.folder} cannot be written: {refusal(error)}") from None
    return tuple(texts)


def _planned(
    site: Site, chosen: Chosen, store: Store, *, rehearse: bool
) -> tuple[list[Finding], Rehearsal | None]:
    """What the plan needs, and the dry round; nothing of a plan's own code runs that the policy does not permit."""
    refused = _refused(site, chosen.settings)
    if refused is not None and _has_own_code(chosen.settings):
        return [warning("dry round", f"There was none: the policy refuses the plan's code. {refused}")], None
    from client.check import rehearsal as dry  # noqa: PLC0415  torch and flwr

    try:
        findings = [place.disk(site, outbox_bytes=dry.campaign_up_bytes(chosen.settings))]
        if refused is not None and chosen.named:
            findings.append(warning("policy", f"The policy refuses {chosen.source}: {refused}"))
        if not chosen.settings.private:
            findings += data.would_train(site, store, chosen.settings)
        if not rehearse:
            return findings, None
        done = dry.rehearse(site, chosen.settings, store, device=place.training_device(site))
    except SynofedError as error:
        return [problem("dry round", error)], None
    except RuntimeError as error:  # torch's: a driver that does not fit, a network that does not
        said = f"Training failed: {str(error).partition(chr(10))[0]:.300}"
        return [problem("dry round", SynofedError, said, "Look at compute.device in site.toml")], None
    return [*findings, *_rehearsed(done, chosen)], done


def _rehearsed(done: Rehearsal, chosen: Chosen) -> Iterator[Finding]:
    networks = sum(shape.networks for shape in done.shapes)
    seconds = done.seconds_per_round
    took = (
        "could not be timed: the few exams are all of one class"
        if math.isnan(seconds)
        else f"{seconds:.2g} s"
    )
    up, down = done.up_bytes_per_round, done.down_bytes_per_round
    yield ok(
        "dry round",
        f"Of {chosen.source}, stage {done.stage} on {done.exams} exams, {done.device}. A round of its {networks} "
        f"networks: {took}, {up / 1e6:.2f} MB up, {down / 1e6:.2f} MB down; {done.rounds} rounds. Nothing was sent",
        seconds=None if math.isnan(seconds) else round(seconds, 3),
        up_bytes=up,
        down_bytes=down,
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _refused(site: Site, settings: Settings) -> SynofedError | None:
    try:
        site.policy.check_plan(settings)
    except SynofedError as error:
        return error
    return None


def _without_refused_code(site: Site, settings: Settings) -> Settings:
    """Settings to open the store with, which asks the method whether it learns without grades."""
    if is_object_path(settings.method) and _refused(site, settings) is not None:
        return settings.model_copy(update={"method": "rating"})
    return settings


def _has_own_code(settings: Settings) -> bool:
    plan = settings.plan()
    return any(
        map(is_object_path, _texts({name: section for name, section in plan.items() if name != "campaign"}))
    )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _readings(site: Site, settings: Settings) -> tuple[Reading, ...]:
    return Sources.of(site).tables(settings).readings


def _doctor(site: Site) -> tuple[Finding, list[DetailRow]]:
    """What the doctor says of a folder that is small enough."""
    manifest = read_rows(site.data_folder / site.file.data.manifest, ["exam_id"])
    images = [column for column in manifest.columns if column.endswith("_path")]
    pictures = sum(bool(row[column]) for _, row in manifest.rows for column in images)
    if pictures > data.DOCTOR_PICTURES:
        return data.doctor(None, pictures=pictures), []
    from client.data.doctor.check import check as examine  # noqa: PLC0415  numpy, pillow

    report: DoctorReport = examine(site.folder)
    rows: list[DetailRow] = [
        (f.check, f.table, str(f.line or ""), f.exam_id, f.what) for f in report.findings
    ]
    return data.doctor(report, pictures=pictures), rows
