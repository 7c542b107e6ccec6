"""Books training without differential privacy: of whom something leaves that nothing bounds.

One booking per campaign says it, however many rounds follow, so that only the first reply of a campaign writes one.
"""

from __future__ import annotations

from pathlib import Path

from client.data import withdrawn
from client.data.site_store import site_store
from client.data.store import Store
from client.ledger import ledger, ledger_head
from client.site.site import Site
from common.exam import MISSING
from common.messages import TrainRequest
from common.privacy.accounting.spending import UnboundedRelease
from common.settings import Settings
from common.version import VERSION

Stamp = tuple[object, ...]
_booked: dict[tuple[Path, str], tuple[frozenset[str], Stamp]] = {}
"""Site and plan -> who was booked by this process, and how ledger and list of withdrawals looked then."""
_patients: dict[Path, tuple[Store, frozenset[str]]] = {}


def patients(site: Site, settings: Settings) -> frozenset[str]:
    """Whom a round reads: all who are not held out, for training or validation.

    Raises:
        DataError: if the site's data cannot be used.
    """
    store = site_store(site, settings)
    key = site.folder.resolve()
    known = _patients.get(key)
    if known is None or known[0] is not store:
        exams = store.exams
        known = store, frozenset(map(str, exams["patient_id"][exams["fold"] != MISSING]))
        _patients[key] = known
    return known[1]


def book(site: Site, request: TrainRequest, names: frozenset[str]) -> None:
    """Book that a reply of a campaign is about to leave.

    Args:
        site: the site.
        request: what the reply answers.
        names: of the patients whom it was computed from.

    Raises:
        PolicyError: if one of them has withdrawn meanwhile: then the reply must not leave.
        StorageError: if the ledger cannot be written.
        VerificationError: if ledger or tables were changed.
    """
    key = site.folder.resolve(), request.plan_hash
    if _booked.get(key) == (names, _stamp(site.folder)):
        return
    release = UnboundedRelease(
        kind="update",
        campaign=request.campaign,
        plan_hash=request.plan_hash,
        server_round=request.server_round,
        version=VERSION,
    )
    ledger.book_unbounded(site, release, names)
    _booked[key] = names, _stamp(site.folder)


def _stamp(folder: Path) -> Stamp:
    """Changes whenever somebody else writes the ledger or withdraws."""
    try:
        status = (folder / ledger_head.NAME).stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, str(withdrawn.stamp(folder))
