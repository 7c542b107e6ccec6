"""``synofed site init``: from an invitation to a site's folder and a request for the centre."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from client.cli import service_cli
from client.cli.cli_options import AsJson
from client.connection import enrolment, service
from client.connection.enrolment import Enrolled
from common.enrolment import LIMIT_BYTES, Invitation, spoken
from common.errors import DataError


def init(
    invitation: Annotated[
        Path, typer.Argument(metavar="INVITATION", help="The invitation file from the centre.")
    ],
    folder: Annotated[
        Path | None, typer.Option(help="The site's folder; default: one named after the site.")
    ] = None,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Also start the site at boot, with systemd.")
    ] = False,
    cron: Annotated[bool, typer.Option("--cron", help="Also start the site at boot, with cron.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create the site's folder, its keys and the request to send to the centre. Existing keys are kept."""
    kind = service_cli.chosen(systemd=systemd, cron=cron)
    invited = read(invitation)
    place = folder or Path(invited.site)
    done = enrolment.enrol(place, invited, now=datetime.now(UTC))
    started = service.install(place, kind) if kind else None
    if as_json:
        content = {
            **done.enrolment.model_dump(mode="json"),
            "folder": str(place),
            "request": str(enrolment.request_file(place)),
            "keys_fingerprint": done.request.fingerprint,
            "made": done.made,
            "kept": done.kept,
            "service": asdict(started) if started else None,
        }
        typer.echo(json.dumps(content))
        return
    typer.echo(_described(place, done))
    if started:
        typer.echo(service_cli.described(started))


def _described(folder: Path, done: Enrolled) -> str:
    enrolled = done.enrolment
    lines = [f"{enrolled.site} of {enrolled.federation}: {folder}"]
    lines += [f"Made {', '.join(done.made)}"] if done.made else []
    lines += [f"Kept {', '.join(done.kept)}, as they were"] if done.kept else []
    lines += [
        "",
        "By telephone, with the centre on a number that you know:",
        f"  it reads out its authority's fingerprint:  {spoken(enrolled.ca_fingerprint)}",
        f"  you read out that of this site's keys:     {spoken(done.request.fingerprint)}",
        "If either differs, stop: somebody stands between you.",
        "",
        "Next:",
        f"  1. Send {enrolment.request_file(folder)} to the centre. It holds no secret. Remove the invitation.",
        f"  2. Keep a copy of {folder / 'keys'} where only you can read it. Never send it.",
        f"  3. Set data and policy in {folder / 'site.toml'}; nothing is permitted until you do.",
        f"  4. synofed site check {folder}",
        f"  5. synofed site join {folder}, which connects to {enrolled.address};",
        f"     synofed site service {folder} --systemd does so whenever this machine starts",
    ]
    return "\n".join(lines)


def read(path: Path) -> Invitation:
    """Read an invitation.

    Raises:
        DataError: if the file cannot be read.
        ConfigurationError: if it holds something else.
    """
    try:
        with path.open("rb") as file:
            return Invitation.parse(file.read(LIMIT_BYTES + 1).decode())
    except OSError as error:
        raise DataError(f"Expected an invitation at {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"Expected an invitation in {path}, got a file that is not text") from None
