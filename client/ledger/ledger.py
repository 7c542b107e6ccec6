"""The site's privacy ledger: every release is debited to its patients before it leaves.

One ledger per site, over all campaigns, networks and runs. :func:`reserve` is called once for every draw of noise: a
step that is computed again draws again and is charged again. A request that comes twice is looked up with
:func:`find` and gets the stored bytes, for nothing; where these are lost, it is a draw like any other.

**Individual filters.** Whoever could not pay for a release within the cap is left out of it: their gradients count as
zero, nothing is debited to them, and nothing that leaves says so. Each patient is a filter of their own (Feldman and
Zrnic 2021, arXiv 2008.11193: a patient who takes part only while the losses that they have spent, with the
next one, stay within a bound, has spent no more than that bound).

**Condition.** What a release costs is the worst case that its plan fixes (sigma, q, C), never a patient's own norm,
and whether a patient is left out depends on the entries of the ledger that name them, not on their pictures or on
other patients. So the filter is exact and needs no room of its own: with or without a patient, all others
take part in the same releases, and the patient's own are a fixed sequence of mechanisms, cut short, which compose as
:mod:`common.privacy.accounting.accounting` has it. Parameters that a centre chose in view of earlier releases are
the plans' own, approved one by one; the cap holds for each sequence of plans that was approved.

================================================  ===============================================================
case                                              answer
================================================  ===============================================================
everybody has spent the budget, or nobody is here  booked without patients: what leaves is noise alone
the release alone is beyond the cap                refused: the plan says so, nothing of a patient does
the approval's own bound is reached                refused: what was booked under it says so, whoever took part
a patient withdrew                                 left out
ids that look like one patient's                   refused until somebody has settled whose they are
================================================  ===============================================================
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from client.ledger import behind, ledger_file, ledger_patients
from client.ledger.identifiers import look_alikes, spelling
from client.ledger.ledger_file import Ledger
from client.log import chain as log
from client.site.site import Site
from client.state import decisions
from common.errors import BudgetError, DataError, PolicyError
from common.privacy.accounting import accounting, chain, spending
from common.privacy.accounting.chain import Head
from common.privacy.accounting.spending import Book, Booked, History, PrivateRelease, UnboundedRelease

ROUNDING = 1e-9
"""Of an epsilon that is computed twice."""
NAMED = 3
"""Groups of identifiers that a message names at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """A release that may leave.

    Attributes:
        head: where the ledger ends now.
        patients: identifiers of those who take part; nobody else's data may enter.
    """

    head: Head
    patients: frozenset[str]


def reserve(site: Site, release: PrivateRelease, patients: Collection[str]) -> Reserved:
    """Debit a private release to its patients; it may leave once this has returned, and not before.

    Args:
        site: whose policy says what a patient may spend.
        release: what will leave.
        patients: identifiers of all who are eligible for it, sampled or not.

    Returns:
        Who takes part: all but those who have spent the budget, or withdrew.

    Raises:
        PolicyError: if the policy permits no private release.
        BehindError: if receipts show that this is an older copy of the site.
        BudgetError: if the release alone is beyond the policy's cap, or the campaign beyond what was approved;
            nothing is booked.
        DataError: if two identifiers look like one patient's.
        StorageError: if the ledger cannot be written; nothing is booked.
        VerificationError: if ledger or tables were changed.
    """
    cap = _cap(site)
    behind.refuse(site.folder)
    _check_identifiers(patients)
    with ledger_file.opened(site.folder) as ledger:
        _check_public(site, ledger.book, release, cap=cap)
        debit = _Debit(ledger, patients)
        debit.leave_out(release, cap=cap, delta=site.policy.maximum_delta)
        head = debit.book(chain.PRIVATE, release)
        return Reserved(head=head, patients=debit.patients)


def check(site: Site, release: PrivateRelease, patients: Collection[str] = ()) -> None:
    """Whether :func:`reserve` would book a release now, whoever has enough left for it. Nothing is written.

    Raises:
        PolicyError: as :func:`reserve`.
        BudgetError: as :func:`reserve`.
        DataError: as :func:`reserve`.
        VerificationError: if the ledger was changed.
    """
    cap = _cap(site)
    _check_identifiers(patients)
    _check_public(site, book(site.folder), release, cap=cap)


def check_plan(site: Site, release: PrivateRelease, patients: Collection[str]) -> None:
    """Whether all of a campaign, as one release, is within the cap of a patient who has spent nothing.

    Raises:
        PolicyError: as :func:`reserve`.
        BudgetError: if it is not.
        DataError: as :func:`reserve`.
    """
    _check_identifiers(patients)
    _check_cap(site, release, cap=_cap(site), what=release.campaign)


def book_unbounded(site: Site, release: UnboundedRelease, patients: Collection[str]) -> Head:
    """Book that what a campaign releases of some patients has no bound; once is enough for all of its rounds.

    Raises:
        PolicyError: if one of the patients has withdrawn.
        StorageError: if the ledger cannot be written.
        VerificationError: if ledger or tables were changed.
    """
    behind.refuse(site.folder)
    with ledger_file.opened(site.folder) as ledger:
        debit = _Debit(ledger, patients)
        debit.refuse_withdrawn()
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


def book_lost(site: Site, release: PrivateRelease | UnboundedRelease, patients: Collection[str]) -> Head:
    """Debit what receipts prove and the ledger has lost to everybody who may have taken part, whatever the cap.

    Args:
        site: the site.
        release: all that was lost of a campaign.
        patients: identifiers of those who are here; everybody whom the ledger knows is debited too.

    Raises:
        StorageError: if the ledger cannot be written.
        VerificationError: if ledger or tables were changed.
    """
    with ledger_file.opened(site.folder) as ledger:
        debit = _Debit(ledger, patients)
        debit.add_everybody()
        event = chain.PRIVATE if isinstance(release, PrivateRelease) else chain.UNBOUNDED
        return debit.book(event, release)


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


def _check_identifiers(patients: Collection[str]) -> None:
    """Whether no patient stands there under two names, each with a budget."""
    groups = look_alikes(patients, once=spelling)
    if groups:
        named = ", ".join(" and ".join(repr(one) for one in group) for group in groups[:NAMED])
        raise DataError(
            f"Expected one identifier per patient: {named} look like one patient's, who would spend twice; of "
            f"{len(groups)} such groups. Give each patient one identifier in the manifest, and patients who differ "
            f"identifiers that differ in more than case, blanks and leading zeros"
        )


def _check_cap(site: Site, release: PrivateRelease, *, cap: float, what: str) -> None:
    """Whether a patient who has spent nothing could pay for a release.

    Raises:
        BudgetError: if not.
    """
    delta = site.policy.maximum_delta
    alone = spending.worst([History().then(release)], delta=delta)
    if alone > cap:
        raise BudgetError(
            f"Expected to stay within epsilon {cap:g} (delta {delta:g}) per patient, policy.maximum_epsilon in "
            f"site.toml: {what} alone would cost {alone:.3f}. Nothing is booked and nothing leaves"
        )


def _check_public(site: Site, book: Book, release: PrivateRelease, *, cap: float) -> None:
    """What is refused for reasons that say nothing of who is here.

    Raises:
        BudgetError: if the release alone is beyond the cap, or the campaign beyond its approval.
    """
    where = f"round {release.server_round} of {release.campaign}"
    _check_cap(site, release, cap=cap, what=where)
    approved = decisions.budget(site.folder, release.plan_hash)
    if approved is None:
        return
    steps = [
        one.release.steps
        for one in book.releases
        if one.sequence > approved.after
        and isinstance(one.release, PrivateRelease)
        and one.release.plan_hash == release.plan_hash
    ]
    after = accounting.epsilon([*steps, release.steps], delta=approved.delta)
    if after > approved.epsilon * (1 + ROUNDING):
        raise BudgetError(
            f"Expected campaign {release.plan_hash[:12]} to stay within epsilon {approved.epsilon:.3f} (delta "
            f"{approved.delta:g}), as it was approved, {approved.again} steps drawn again included: {where} would "
            f"bring it to {after:.3f}. Nothing is booked and nothing leaves; `synofed site campaigns approve` "
            f"permits the plan once more"
        )


class _Debit:
    """Patients, found in the ledger or new to it.

    Attributes:
        known: number in the ledger by pseudonym.
        new: pseudonyms of those whom it does not know.
    """

    def __init__(self, ledger: Ledger, patients: Collection[str]) -> None:
        folder, book = ledger.folder, ledger.book
        secret = ledger_file.site_secret(folder)
        refused = ledger_patients.withdrawn(folder, book)
        self._withdrawn = {one for one in patients if ledger_patients.has_withdrawn(secret, refused, one)}
        self._ledger = ledger
        self._table = ledger_patients.patients(folder, book)
        self._names = {
            ledger_patients.name_of(secret, self._table, one): one
            for one in patients
            if one not in self._withdrawn
        }
        self.known = ledger_patients.numbers(self._table, book, self._names)
        self.new = sorted(set(self._names) - set(self.known))
        self._left_out = 0

    @property
    def patients(self) -> frozenset[str]:
        """Identifiers of those whom it is debited to."""
        return frozenset(self._names[name] for name in (*self.known, *self.new))

    def refuse_withdrawn(self) -> None:
        """Where what leaves was computed from all of them already.

        Raises:
            PolicyError: if one of them has withdrawn.
        """
        if self._withdrawn:
            raise PolicyError(
                "Expected patients who take part, one of them has withdrawn: nothing is trained on them"
            )

    def add_everybody(self) -> None:
        """All whom the ledger knows, too, but for those who withdrew."""
        book = self._ledger.book
        gone = set(book.withdrawn.values())
        everybody = {f"number {n}": n for n in range(len(book.commitments)) if n not in gone}
        self.known = {**everybody, **self.known}

    def leave_out(self, release: PrivateRelease, *, cap: float, delta: float) -> None:
        """Leave out whoever would have spent more than the cap."""
        histories = {name: self._ledger.book.history(number) for name, number in self.known.items()}
        unable = {
            history
            for history in set(histories.values())
            if spending.worst([history.then(release)], delta=delta) > cap
        }
        self._left_out = sum(history in unable for history in histories.values())
        self.known = {name: n for name, n in self.known.items() if histories[name] not in unable}

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
        if self._left_out:
            facts["left_out"] = self._left_out
        self._ledger.add(event, facts)
        return self._ledger.head


def _mentioned(folder: Path, request_id: str) -> bool:
    return next(log.newest(folder / ledger_file.NAME, "request_id", request_id), None) is not None
