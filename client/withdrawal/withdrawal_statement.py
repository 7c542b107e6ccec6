"""What a patient who withdrew is told, signed by the site: what they took part in, and what cannot be undone."""

from __future__ import annotations

from common import signed_json
from common.errors import VerificationError
from common.privacy.accounting.chain import to_ranges
from common.sections.section import Section

DOMAIN = b"synofed withdrawal 1\n"
"""Stands before what is signed, so that a signature can never pass for one over something else."""
CANNOT_BE_UNDONE = (
    "What left the hospital in these rounds was combined with that of other patients and hospitals. It cannot be "
    "taken back, and networks that were trained with it are not trained anew.",
    "Copies outside the folders of this site are not touched: the hospital's archive of pictures, its backups, and "
    "the folder with key, link file and contact sheets that the import made. Updates that left and are kept in the "
    "outbox, and what networks keep here between rounds, go when their time is over.",
    "The ledger keeps its numbered entries, so that it can still be checked. The line that said which number was "
    "this patient's is erased; a keyed mark stays, so that the patient is recognised and refused if data "
    "come back.",
    "The public number of patients by which private sums are divided stays as it was: a change would tell of the "
    "withdrawal.",
)


class CampaignOfPatient(Section):
    """One campaign that a patient took part in."""

    campaign: str
    plan_hash: str
    rounds: tuple[int, ...]
    private_releases: int
    epsilon: float
    """Of the private releases of this campaign alone."""
    unbounded: bool
    """Whether the campaign released something without differential privacy."""


class Statement(Section):
    """A withdrawal, as the patient and the privacy officer get it."""

    site: str
    patient: str
    """As in the site's manifest."""
    withdrawn: str
    """When, ISO 8601."""
    campaigns: tuple[CampaignOfPatient, ...]
    epsilon: float
    """Of all private releases together, for one patient added or removed."""
    delta: float
    unbounded: bool
    deleted_exams: int
    deleted_pictures: int
    cannot_be_undone: tuple[str, ...] = CANNOT_BE_UNDONE
    ledger_entry: int
    """The ledger's entry of the withdrawal."""
    ledger_head: str
    """Its hash."""
    version: str
    public_key: str
    """Of the site, Ed25519 in hex."""
    signature: str = ""
    """Over :meth:`payload`, in hex; empty before it is signed."""

    def payload(self) -> bytes:
        """The bytes that are signed: all fields but the signature, as canonical JSON."""
        content = self.model_dump(mode="json", exclude={"signature"})
        return DOMAIN + signed_json.canonical(content).encode()

    def verify(self) -> None:
        """Check the signature with the key that the statement names.

        Raises:
            VerificationError: if it does not fit.
        """
        if not signed_json.fits(self.signature, self.payload(), self.public_key):
            raise VerificationError(
                f"Expected the statement of {self.withdrawn} to be signed by {self.site}, its signature does not "
                f"fit: it was changed"
            )


def text(statement: Statement) -> str:
    """The statement to be printed."""
    parts = [
        "Withdrawal from the training of networks",
        f"Hospital site: {statement.site}\nPatient: {statement.patient}\nWithdrawn: {statement.withdrawn}",
        f"Deleted here: {statement.deleted_exams} exams with {statement.deleted_pictures} pictures, their grades, "
        f"and everything that was computed from them and kept. From this moment on the patient takes no part in "
        f"training.",
        _took_part(statement),
        "What cannot be undone:\n" + "\n".join(f"* {sentence}" for sentence in statement.cannot_be_undone),
        f"Entry {statement.ledger_entry} of the site's privacy ledger, {statement.ledger_head}\n"
        f"Signed with the site's key {statement.public_key}:\n{statement.signature}",
        "Date, name, signature: ______________________________________________",
    ]
    return "\n\n".join(parts) + "\n"


def _took_part(statement: Statement) -> str:
    if not statement.campaigns:
        return "The patient had taken part in nothing: nothing of them left this site."
    lines = ["The patient took part in:"]
    for one in statement.campaigns:
        bound = "without differential privacy: nothing bounds what it may reveal" if one.unbounded else ""
        private = f"{one.private_releases} private releases, epsilon {one.epsilon:.3f}"
        told = "; ".join(part for part in (private if one.private_releases else "", bound) if part)
        lines.append(f"* {one.campaign} ({one.plan_hash[:12]}), rounds {_spans(one.rounds)}: {told}")
    if statement.epsilon:
        lines.append(
            f"All private releases together: epsilon {statement.epsilon:.3f} at delta {statement.delta:g}, for one "
            f"patient added or removed."
        )
    if statement.unbounded:
        lines.append("For what left without differential privacy there is no epsilon.")
    return "\n".join(lines)


def _spans(rounds: tuple[int, ...]) -> str:

    spans = [f"{first}" if first == last else f"{first}-{last}" for first, last in to_ranges(rounds)]
    return ", ".join(spans) or "none that was answered"
