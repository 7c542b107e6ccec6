"""The privacy officer's desk: ledger, log, what left, and a patient's withdrawal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from client.log import audit
from client.site.site import Site
from common.errors import ConfigurationError

PAGE = 25
"""Rows at a time."""


class Patient(BaseModel):
    """Who withdraws, and the same typed again by whoever means it."""

    model_config = ConfigDict(extra="forbid")

    patient: Annotated[str, Field(min_length=1, max_length=1000)]
    typed: str = ""


def router(folder: Path) -> APIRouter:
    """What the page asks for.

    Args:
        folder: the site's.
    """
    routes = APIRouter(prefix="/officer")

    @routes.get("/ledger")
    def ledger(first: Annotated[int, Field(ge=0)] = 0) -> dict[str, object]:
        from client.ledger import ledger_spent  # noqa: PLC0415  accounting: seconds

        site = Site.open(folder)
        patients = ledger_spent.by_patient(site)
        return {
            **asdict(ledger_spent.spent(site)),
            "by_patient": [asdict(one) for one in patients[first : first + PAGE]],
            "more": first + PAGE < len(patients),
        }

    @routes.get("/log")
    def log(before: int | None = None) -> dict[str, object]:
        entries = audit.recent(folder, PAGE, before=before)
        return {
            "entries": [
                {"sequence": entry.sequence, "facts": audit.facts(entry), "content": dict(entry.content)}
                for entry in reversed(entries)
            ],
            "more": bool(entries) and entries[0].sequence > 1,
        }

    @routes.get("/outbox")
    def outbox(first: Annotated[int, Field(ge=0)] = 0) -> dict[str, object]:
        from client.ledger import sent_replies  # noqa: PLC0415  Flower

        rows = sent_replies.rows(Site.open(folder), first=first, count=PAGE + 1)
        return {"rows": rows[:PAGE], "more": len(rows) > PAGE}

    @routes.get("/outbox/{request_id}")
    def reply(request_id: str) -> dict[str, object]:
        from client.ledger import sent_replies  # noqa: PLC0415  Flower

        found = sent_replies.reply(Site.open(folder), request_id)
        return {**found.as_json(), "sequence": found.sequence}

    @routes.post("/withdrawal/prospect")
    def prospect(wish: Patient) -> dict[str, object]:
        from client.withdrawal import withdrawal  # noqa: PLC0415  accounting: seconds

        return asdict(withdrawal.prospect(Site.open(folder), wish.patient)) | {"patient": wish.patient}

    @routes.post("/withdrawal")
    def withdraw(wish: Patient) -> dict[str, object]:
        from client.withdrawal import withdrawal  # noqa: PLC0415  accounting: seconds
        from client.withdrawal.withdrawal_statement import text  # noqa: PLC0415

        if wish.typed != wish.patient:
            raise ConfigurationError(
                "Expected the patient's identifier typed once more, letter by letter: nothing was done"
            )
        done = withdrawal.withdraw(Site.open(folder), wish.patient)
        return {"text": text(done.statement), "advice": done.advice}

    return routes
