"""Settles that a site was put back to an older copy: what its receipts prove is booked, and nobody begins anew."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from client.data.site_store import site_store
from client.data.store import everybody
from client.ledger import behind, ledger
from client.ledger.behind import Owed
from client.site.site import Site
from common.errors import DataError
from common.methods.rounds import longest_stage_rounds
from common.privacy.accounting import of_plan
from common.privacy.accounting.spending import PrivateRelease, UnboundedRelease
from common.receipts import RECONCILED, Kept
from common.settings import Settings
from common.version import VERSION


def reconcile(
    site: Site, kept: Iterable[Kept] = (), plans: Iterable[Path] = (), *, whole: bool = False
) -> tuple[Owed, ...]:
    """Book what is owed to every patient who may have taken part, then go on.

    Killed in between, the same command books what was not booked yet: each campaign's debits stand in the ledger
    before the log says that all is settled.

    Args:
        site: the site.
        kept: receipts of the centre, beside those that came with a plan.
        plans: files of plans that the older copy does not know.
        whole: see :func:`client.ledger.behind.owed`.

    Returns:
        What was owed; nothing: nothing was.

    Raises:
        DataError: if a plan is not here.
        StorageError: if ledger or log cannot be written.
        VerificationError: if ledger or tables were changed.
    """
    texts = {hashlib.sha256(text).hexdigest(): text for text in map(_read, plans)}
    found = behind.owed(site, [one.receipt for one in kept], whole=whole)
    settled = [(one, behind.settings_of(site, one, texts)) for one in found if one.debits]
    for one, settings in settled:
        ledger.book_lost(site, _lost(one, settings), everybody(site_store(site, settings)))
    behind.settle(site, found)
    return found


def _lost(one: Owed, settings: Settings) -> PrivateRelease | UnboundedRelease:
    receipt, privacy = one.receipt, settings.privacy
    if privacy is None or not settings.private:
        return UnboundedRelease(
            kind=RECONCILED,
            campaign=receipt.campaign,
            plan_hash=receipt.plan_hash,
            server_round=1,
            version=VERSION,
        )
    return of_plan.release(
        privacy,
        one.debits,
        kind=RECONCILED,
        campaign=receipt.campaign,
        plan_hash=receipt.plan_hash,
        server_round=longest_stage_rounds(settings),
    )


def _read(place: Path) -> bytes:
    try:
        return place.read_bytes()
    except OSError as error:
        raise DataError(f"Expected a plan in {place}: {error.strerror}") from None
