"""The site's privacy ledger: every release is debited to its patients before it leaves.

One ledger a site, over all campaigns, networks and runs. :func:`reserve` is called once for every draw of noise: a
step that is computed again draws again and is charged again. A request that comes twice is looked up with
:func:`find` and gets the stored bytes, for nothing; where these are lost, it is a draw like any other.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from client import chain as log
from client import ledger_file, ledger_patients
from client.ledger_file import Ledger
from client.site import Site
from common.errors import BudgetError, PolicyError
from common.privacy import chain, spending
from common.privacy.chain import Head
from common.privacy.spending import Book, Booked, PrivateRelease, UnboundedRelease


def reserve(site: Site, release: PrivateRelease, patients: Collection[str]) -> Head:
    """Debit a private release to its patients; it may leave once this has returned, and not before.

    Args:
        site: whose policy says what a patient may spend.
        release: what will leave.
        patients: identifiers of all who are eligible for it, sampled or not.

    Returns:
        Where the ledger ends now.

    Raises:
        PolicyError: if the policy permits no private release, or one of the patients has withdrawn.
        BudgetError: if a patient would have spent more than the policy permits; nothing is booked.
        StorageError: if the ledger cannot be written; nothing is booked.
        VerificationError: if ledger or tables were changed.
    """
    cap = _cap(site)
    with ledger_file.opened(site.folder) as ledger:
        debit = _Debit(ledger, patients)
        debit.check(release, cap=cap, delta=site.policy.maximum_delta)
        return debit.book(chain.PRIVATE, release)


def check(site: Site, release: PrivateRelease, patients: Collection[str]) -> None:
    """Whether :func:`reserve` would book a release now. Nothing is written.

    Raises:
        PolicyError: as :func:`reserve`.
        BudgetError: as :func:`reserve`.
        VerificationError: if ledger or tables were changed.
    """
    cap = _cap(site)
    with ledger_file.opened(site.folder) as ledger:
        _Debit(ledger, patients).check(release, cap=cap, delta=site.policy.maximum_delta)


def book_unbounded(site: Site, release: UnboundedRelease, patients: Collection[str]) -> Head:
    """Book that what a campaign releases of some patients has no bound; once is enough for all of its rounds.

    Raises:
        PolicyError: if one of the patients has withdrawn.
        StorageError: if the ledger cannot be written.
        VerificationError: if ledger or tables were changed.
    """
    with ledger_file.opened(site.folder) as ledger:
        debit = _Debit(ledger, patients)
        booked = frozenset[int]().union(
            *(
                one.eligible
                for one in ledger.book.releases
                if isinstance(one.release, UnboundedRelease) and one.release.plan_hash == release.plan_hash
            )
        )
        if not debit.new and booked.issuperset(debit.known.values()):
            return ledger.head
        return debit.book(chain.UNBOUNDED, release)


def find(folder: Path, request_id: str) -> Booked | None:
    """What was booked last for a request; ``None``: nothing yet.

    Raises:
        VerificationError: if the ledger was changed.
        StorageError: if it cannot be read.
    """
    if not (folder / ledger_file.NAME).exists() or not _mentioned(folder, request_id):
        return None
    for booked in reversed(book(folder).releases):
        if isinstance(booked.release, PrivateRelease) and booked.release.request_id == request_id:
            return booked
    return None


def book(folder: Path) -> Book:
    """What a site's ledger adds up to. Nothing is written.

    Raises:
        VerificationError: if it was changed.
        StorageError: if it cannot be read.
    """
    return Book.of(ledger_file.read(folder).entries)


def _cap(site: Site) -> float:
    cap = site.policy.maximum_epsilon
    if cap is None:
        raise PolicyError("The site permits no private release: set policy.maximum_epsilon in site.toml")
    return cap


class _Debit:
    """Patients, found in the ledger or new to it."""

    def __init__(self, ledger: Ledger, patients: Collection[str]) -> None:
        folder, book = ledger.folder, ledger.book
        secret = ledger_file.site_secret(folder)
        refused = ledger_patients.withdrawn(folder, book)
        if refused and any(ledger_patients.tag(secret, patient) in refused for patient in patients):
            raise PolicyError(
                "Expected patients who take part, one of them has withdrawn: nothing is trained on them"
            )
        self._ledger = ledger
        self._table = ledger_patients.patients(folder, book)
        names = {ledger_patients.pseudonym(secret, patient) for patient in patients}
        self.known = ledger_patients.numbers(self._table, book, names)
        self.new = sorted(names - set(self.known))

    def check(self, release: PrivateRelease, *, cap: float, delta: float) -> None:
        """Whether every patient would stay within the cap.

        Raises:
            BudgetError: if not.
        """
        after = spending.worst(
            self._ledger.book.after(release, self.known.values(), new=len(self.new)), delta=delta
        )
        if after > cap:
            raise BudgetError(
                f"Expected to stay within epsilon {cap:g} (delta {delta:g}) a patient, policy.maximum_epsilon in "
                f"site.toml: round {release.server_round} of {release.campaign} would bring it to {after:.3f}. "
                f"Nothing is booked and nothing leaves"
            )

    def book(self, event: str, release: PrivateRelease | UnboundedRelease) -> Head:
        """Add the entry; salts are on disk before it, so that no commitment stands there unexplained."""
        unsalted = [name for name in self.new if name not in self._table]
        if unsalted:
            self._table |= {name: ledger_patients.new_salt() for name in unsalted}
            ledger_patients.write(self._ledger.folder, ledger_patients.PATIENTS, self._table)
        first = len(self._ledger.book.commitments)
        eligible = [*self.known.values(), *range(first, first + len(self.new))]
        facts = {
            **release.facts(),
            "new": [ledger_patients.committed(name, self._table[name]) for name in self.new],
            "eligible": chain.to_ranges(eligible),
        }
        self._ledger.add(event, facts)
        return self._ledger.head


def _mentioned(folder: Path, request_id: str) -> bool:
    return next(log.newest(folder / ledger_file.NAME, "request_id", request_id), None) is not None
