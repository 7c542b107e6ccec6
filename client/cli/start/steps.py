"""The steps from an invitation to a joined site: each looks at what is done, does what it can, and says what waits.

Nothing is remembered between two runs but what the steps leave behind: the walk goes on after any interruption.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import typer

from client.cli import policy_cli
from client.cli.cli_options import bar
from client.connection import enrolment, join, service
from client.connection.enrolment import Enrolment
from client.site import officer, policy_file, site_toml
from client.site.site import Site
from common.enrolment import Invitation, Registration, spoken
from common.errors import ConnectionLostError, DataError, PolicyError, SynofedError, refusal

CHECKED = "check.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the command was given.

    Attributes:
        folder: of the site.
        invitation: the centre's; ``None``: the folder is made already.
        data: the data folder; ``None``: as ``site.toml`` says.
        officer_key: the privacy officer's key file, to sign with.
        passphrase_file: of that key.
        service: by what the site is to start at boot.
        rehearse: whether the check trains a few steps.
        ask: whether somebody sits there and can be asked.
        quiet: show no bars.
    """

    folder: Path
    invitation: Invitation | None
    data: Path | None
    officer_key: Path | None
    passphrase_file: Path | None
    service: service.Kind | None
    rehearse: bool
    ask: bool
    quiet: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where a step stands.

    Attributes:
        name: of the step.
        state: ``waiting``: for somebody, or for another step.
        said: what was found or done.
        todo: what has to be done next, and by whom; empty: nothing.
        exit_code: as :mod:`common.errors` lists them; 0 where the site's own people have nothing to put right.
    """

    name: str = ""
    state: Literal["done", "waiting", "failed"]
    said: str
    todo: str = ""
    exit_code: int = 0


def walk(given: Given) -> Iterator[Step]:
    """Take the steps in their order; one whose forerunners are not done waits, the others go on.

    Raises:
        SynofedError: if the folder cannot be laid out: nothing else can be done then.
    """
    states: dict[str, str] = {}
    for name, take, needs in STEPS:
        runs = take is joined and bool(join.noted(given.folder))  # by hand, whatever the walk thinks of it
        missing = [] if runs else [need for need in needs if states[need] != "done"]
        step = _waiting(f"after {' and '.join(missing)}") if missing else _taken(take, given)
        states[name] = step.state
        yield replace(step, name=name)


def _taken(take: Callable[[Given], Step], given: Given) -> Step:
    try:
        return take(given)
    except SynofedError as error:
        if take is folder:
            raise
        return Step(state="failed", said=str(error), exit_code=error.exit_code)


def folder(given: Given) -> Step:
    """Folder, keys and request; kept if they are of this invitation, else made."""
    place, invitation = given.folder, given.invitation
    if invitation is None or enrolment.made_from(place, invitation):
        enrolled = Enrolment.open(place)
        return _done(f"{enrolled.site} of {enrolled.federation}: {place}")
    made = enrolment.enrol(place, invitation, now=datetime.now(UTC)).made
    said = (
        f"{invitation.site} of {invitation.federation}: {place}{', made ' if made else ''}{', '.join(made)}"
    )
    return _done(said, todo=f"keep a copy of {place / 'keys'} where only you can read it")


def centre(given: Given) -> Step:
    """Whether the centre is reached and lets the site in."""
    noted = join.noted(given.folder)
    if noted.get("state") == "connected":
        return _done(f"the site is connected to {noted.get('address')}")
    site, enrolled = Site.open(given.folder), Enrolment.open(given.folder)
    from client.connection.connection import look  # noqa: PLC0415  httpx

    try:
        proxy = site.file.network.proxy.get_secret_value()
        seen = look(enrolled.address, enrolment.ca_certificate(given.folder), forward_proxy=proxy)
    except ConnectionLostError as error:
        todo = _request(given.folder)
        return Step(state="failed", said=str(error), todo=todo, exit_code=error.exit_code)
    if not seen.superlink:
        return _waiting(
            f"{enrolled.address} is reached, the centre behind it is down", _request(given.folder)
        )
    if noted:
        return _waiting(noted.get("reason") or "the site connects", _request(given.folder))
    if not join.is_let_in(given.folder):
        return _waiting("the centre does not let this site in yet", _request(given.folder))
    return _done(f"{enrolled.address} lets this site in")


def data(given: Given) -> Step:
    """The data folder in ``site.toml``."""
    site = Site.open(given.folder)
    wanted = given.data
    there = _manifest(site).exists()
    if wanted is None and given.ask and not there:
        answer = str(typer.prompt("Data folder (empty: later)", default="", show_default=False))
        wanted = Path(answer.strip()).expanduser() if answer.strip() else None
    if wanted is not None and wanted.resolve() != site.data_folder.resolve():
        if not (wanted / site.file.data.manifest).exists():
            raise DataError(f"Expected {site.file.data.manifest} in {wanted}: {_ingest(wanted)}")
        section = site.file.data.model_copy(update={"folder": wanted.resolve()})
        expected = site.file.model_copy(update={"data": section})
        site = site_toml.set_text(site, "data", "folder", str(wanted.resolve()), expected=expected)
        there = True
    if there:
        return _done(str(site.data_folder))
    return _waiting(
        f"there is no {_manifest(site)}",
        f"{_ingest(Path('DATA'))}, then this command again with --data DATA",
        DataError,
    )


def data_check(given: Given) -> Step:
    """The doctor's check; one without problems counts until manifest or grades change."""
    site = Site.open(given.folder)
    place = site.data_folder / CHECKED
    found = _listed(place)
    if "problem" in found or not _is_newer(
        place, (_manifest(site), site.data_folder / site.file.data.grades)
    ):
        from client.data.doctor import check as doctor  # noqa: PLC0415  numpy, pillow

        with bar("pictures", quiet=given.quiet) as progress:
            report = doctor.check(given.folder, progress=progress)
        doctor.write(report, place)
        found = _listed(place)
    problems = found.count("problem")
    said = f"{problems} problems, {len(found) - problems} things to look at"
    if problems:
        todo = (
            f"correct or remove the exams that {place} names; synofed data check {site.folder} writes it anew. Where "
            f"they are right as they are, go on by hand: synofed site join {site.folder}"
        )
        return _waiting(said, todo, DataError)
    return _done(said, todo=f"look at {place}" if found else "")


def _listed(place: Path) -> list[str]:
    """The severity of each row that the doctor wrote."""
    try:
        with place.open(newline="", encoding="utf-8") as file:
            return [row["severity"] for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    except (OSError, KeyError, UnicodeDecodeError, csv.Error):
        raise DataError(f"Expected the list of synofed data check in {place}: move that file away") from None


def policy(given: Given) -> Step:
    """The policy, filled in by the site's people and signed by its officer."""
    from client.check import consent  # noqa: PLC0415

    site = Site.open(given.folder)
    permits = consent.permits(site)
    if permits.state != "ok":
        todo = f"write into [policy] of {site.folder / 'site.toml'} what you permit, then have it signed"
        return _waiting(permits.found, todo, PolicyError)
    try:
        return _done(f"signed, serial {policy_file.check(site).serial}. {permits.found}")
    except PolicyError as error:
        unsigned = str(error)
    key = given.officer_key
    if key is None and given.ask:
        answer = str(
            typer.prompt("The privacy officer's key file (empty: later)", default="", show_default=False)
        )
        key = Path(answer.strip()).expanduser() if answer.strip() else None
    if key is None or (given.ask and not typer.confirm(f"{permits.found}. Sign this policy?")):
        first = (
            "" if officer.path(site.folder).exists() else "once synofed site policy officer-key officer.pem, "
        )
        todo = f"the privacy officer: {first}synofed site policy sign {site.folder} --key officer.pem"
        return _waiting(unsigned, todo, PolicyError)
    signing = officer.load(key, passphrase=policy_cli.passphrase(given.passphrase_file, confirm=False))
    serial = policy_file.sign(site, signing).serial
    return _done(f"signed, serial {serial}. {permits.found}")


def check(given: Given) -> Step:
    """``synofed site check``."""
    from client.check import run  # noqa: PLC0415  what reads pictures

    site = Site.open(given.folder)
    with bar("exams", quiet=given.quiet) as progress:
        checked = run.check(
            site, given=None, rehearse=given.rehearse, now=datetime.now(UTC), progress=progress
        )
    run.write(checked, site)
    report = checked.report
    said = f"{report.count('problem')} problems, {report.count('warning')} warnings"
    if report.exit_code:
        first = next(one for one in report.ordered() if one.state == "problem")
        told = f"{said}. {first.section}: {first.found}"
        return Step(
            state="failed", said=told, todo=f"synofed site check {site.folder}", exit_code=report.exit_code
        )
    return _done(said, todo=f"synofed site check {site.folder} lists them" if report.count("warning") else "")


def joined(given: Given) -> Step:
    """The site's process, which connects as soon as the centre lets it in."""
    place = given.folder
    noted = join.noted(place)
    if noted:
        return _done(f"{noted.get('state')} since {noted.get('since')}")
    kind = given.service
    if kind is None and given.ask and typer.confirm("Start the site whenever this machine starts?"):
        kind = "systemd" if typer.confirm("With systemd? (else with cron)", default=True) else "cron"
    if kind is None:
        return _waiting("ready to join", f"synofed site join {place}, or this command again with --systemd")
    installed = service.install(place, kind)
    return _done(f"starts with this machine: {installed.place}", todo="; ".join(installed.todo))


STEPS: tuple[tuple[str, Callable[[Given], Step], tuple[str, ...]], ...] = (
    ("folder", folder, ()),
    ("centre", centre, ()),
    ("data", data, ()),
    ("data check", data_check, ("data",)),
    ("policy", policy, ()),
    ("check", check, ("data", "policy")),
    ("join", joined, ("data check", "check")),
)
"""Name, what is done, and which steps have to be done before."""


def _done(said: str, *, todo: str = "") -> Step:
    return Step(state="done", said=said, todo=todo)


def _waiting(said: str, todo: str = "", error: type[SynofedError] | None = None) -> Step:
    """Waits; with an error where the site's own people have to act first."""
    return Step(state="waiting", said=said, todo=todo, exit_code=error.exit_code if error else 0)


def _request(place: Path) -> str:
    """What site and centre do with each other before the site is let in."""
    request_file = enrolment.request_file(place)
    try:
        request = Registration.parse(request_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{request_file} cannot be read: {refusal(error)}") from None
    authority = Enrolment.open(place).ca_fingerprint
    return (
        f"send {request_file} to the centre, which has to accept it. By telephone, on a number that you know:\n"
        f"    it reads out  {spoken(authority)}\n"
        f"    you read out  {spoken(request.fingerprint)}\n"
        f"    If either differs, stop: somebody stands between you"
    )


def _ingest(out: Path) -> str:
    return f"synofed data ingest EXPORT --out {out} --mapping mapping.toml"


def _manifest(site: Site) -> Path:
    return site.data_folder / site.file.data.manifest


def _is_newer(path: Path, others: tuple[Path, ...]) -> bool:
    if not path.exists():
        return False
    made_ns = path.stat().st_mtime_ns
    return all(made_ns > other.stat().st_mtime_ns for other in others if other.exists())
