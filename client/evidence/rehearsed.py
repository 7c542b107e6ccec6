"""The rehearsal of a finished private campaign's step at this site: made by itself, kept here, never sent.

``python -P -m client.evidence.rehearsed FOLDER PLAN_HASH`` rehearses and writes ``campaigns/<hash>/rehearsal.json``.
The site's long-lived process starts it when a campaign's last round was answered
(:mod:`client.connection.finished_campaigns`), and ends it when its time is up. It reads the plan and nothing of any
patient.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.files import atomic
from client.site import policy_file
from client.site.site import Site
from client.state import decisions
from client.state.decisions import REHEARSAL
from common.privacy.audit.claims import some
from common.privacy.audit.evidence import Answer, Check, Verdict
from common.settings import Settings

CANARIES = 1000
FORMAT = "synofed rehearsal 1"


def rehearse(site: Site, plan_hash: str, *, canaries: int = CANARIES) -> Path:
    """Rehearse a campaign's private step, and keep what came of it.

    Returns:
        Where it is kept.

    Raises:
        PolicyError: if the plan is not kept as it was approved.
        ConfigurationError: if its step cannot be rehearsed.
        StorageError: if the result cannot be written.
    """
    from common.privacy.audit import rehearsal, rehearsed_plan  # noqa: PLC0415  torch

    settings = decisions.plan(site, plan_hash, name=plan_hash[:12])
    given = rehearsed_plan.parameters(settings)
    made = rehearsal.rehearsals(
        given,
        canaries=rehearsed_plan.canaries(given, canaries),
        entropy=os.urandom(32),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    content = {
        "format": FORMAT,
        "plan_hash": plan_hash,
        "ended": "",
        "rehearsals": [{**asdict(one), "refuted": one.refuted, "told": str(one)} for one in made],
    }
    place = decisions.folder(site.folder, plan_hash) / REHEARSAL
    atomic.write(place, (json.dumps(content, indent=1) + "\n").encode(), mode=0o600)
    return place


def check(site: Site, answers: Sequence[Answer], plans: dict[str, Settings]) -> Iterator[Check]:
    """What the rehearsals of this site's private campaigns showed; nothing where it has none, or is simulated."""
    private = [
        h for h in dict.fromkeys(answer.plan_hash for answer in answers) if h in plans and plans[h].private
    ]
    kept = {plan_hash: _read(site, plan_hash) for plan_hash in private}
    if not private or (not policy_file.enrolled(site) and not any(kept.values())):
        return
    refuted: list[str] = []
    missing: list[str] = []
    shown: list[str] = []
    for plan_hash, content in kept.items():
        where = f"campaign {plan_hash[:12]}"
        made = content.get("rehearsals", []) if content else []
        if not made:
            missing.append(
                f"{where}: {content.get('ended') or 'none was made yet'}" if content else f"{where}: none yet"
            )
        for one in made:
            told = f"{where}, {one['date'][:10]}, synofed {one['version']}: {one['told']}"
            (refuted if one["refuted"] else shown).append(told)
    why = "" if site.file.audit.after_campaigns else " ([audit] after_campaigns is off in site.toml)"
    verdict: Verdict = "fails" if refuted else "open" if missing else "not contradicted"
    yield Check(
        name="rehearsal",
        claim="The private step, as it is installed here, does what was booked: rehearsed on made-up patients.",
        verdict=verdict,
        found=some(refuted or [*missing, *shown]) + (why if missing and not refuted else ""),
    )


def _read(site: Site, plan_hash: str) -> dict[str, Any]:
    try:
        place = decisions.folder(site.folder, plan_hash) / REHEARSAL
        content: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if content.get("format") == FORMAT else {}


def main(arguments: Sequence[str]) -> None:
    """Rehearse, behind everything else that this machine does."""
    os.nice(19)
    folder, plan_hash = arguments
    rehearse(Site.open(Path(folder)), plan_hash)


if __name__ == "__main__":
    main(sys.argv[1:])
