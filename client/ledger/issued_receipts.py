"""The site's receipts: a reply is entered in the log, then its receipt is signed, then it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client.ledger import ledger_head
from client.log import chain
from client.log.audit import CONSENT, ENSEMBLE, EVALUATION, REPLY, SUM, Asked
from client.site import keys
from client.site.policy_file import policy_hash
from client.site.site import Site
from common import signed_json
from common.errors import DataError, VerificationError
from common.hash_chain import Entry, Head
from common.messages import EvaluateRequest, Pieces, PlanRequest, Request, SumRequest, TrainRequest
from common.receipts import ENSEMBLE as ENSEMBLE_GROUP
from common.receipts import EVALUATION as EVALUATION_GROUP
from common.receipts import NOTHING, Contents, Kept, Receipt, parse, payload, placed, salted, verify
from common.version import VERSION

_SHARED = (
    "site",
    "campaign",
    "plan_hash",
    "request_id",
    "server_round",
    "group",
    "reply_hash",
)
_REPLIES = (CONSENT, REPLY, SUM, ENSEMBLE, EVALUATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A log that fits, and the receipts that it was held against.

    Attributes:
        head: where the log ends.
        replies: entries of replies that left.
        receipts: receipts that were found in it.
        settled: receipts of a part that was lost, and that was settled since.
    """

    head: Head
    replies: int
    receipts: int
    settled: int = 0


def of_consent(site: Site, request: PlanRequest, contents: Contents, asked: Asked | None = None) -> Receipt:
    """Enter the answer to a plan in the log and sign its receipt; ``asked``: what the log says of the request.

    Raises:
        DataError: if log or key cannot be used.
        VerificationError: if the log is damaged.
    """
    receipt = _draft(site, request, contents, server_round=0, group="")
    return _issue(site, CONSENT, receipt, contents, asked)


def of_reply(site: Site, request: TrainRequest, contents: Contents, asked: Asked | None = None) -> Receipt:
    """Enter a round's reply in the log and sign its receipt; ``asked``: what the log says of the request.

    Raises:
        DataError: if log or key cannot be used.
        VerificationError: if the log is damaged.
    """
    receipt = _draft(site, request, contents, server_round=request.server_round, group=request.group)
    return _issue(site, REPLY, receipt, contents, asked)


def of_sum(site: Site, request: SumRequest, contents: Contents, asked: Asked) -> Receipt:
    """Enter what was said in a phase of a secure sum in the log and sign its receipt; ``asked``: as the log says it.

    Raises:
        DataError: if log or key cannot be used.
        VerificationError: if the log is damaged.
    """
    server_round, group = request.place
    receipt = _draft(site, request, contents, server_round=server_round, group=group)
    return _issue(site, REPLY if server_round else SUM, receipt, contents, asked)


def of_ensemble(site: Site, request: Pieces, contents: Contents, asked: Asked) -> Receipt:
    """Enter what a site answers to an ensemble, kept or judged, in the log and sign its receipt.

    Args:
        site: the site.
        request: what brought the ensemble.
        contents: of the answer.
        asked: as the log says it.

    Raises:
        DataError: if log or key cannot be used.
        VerificationError: if the log is damaged.
    """
    judged = isinstance(request, EvaluateRequest)
    group = EVALUATION_GROUP if judged else ENSEMBLE_GROUP
    receipt = _draft(site, request, contents, server_round=0, group=group)
    return _issue(site, EVALUATION if judged else ENSEMBLE, receipt, contents, asked)


def read(path: Path) -> list[Kept]:
    """The receipts that the centre kept for a site.

    Raises:
        DataError: if the file cannot be read.
        VerificationError: if a line is no receipt.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"Expected receipts of the centre in {path}: {error}") from None
    return [parse(line) for line in lines]


def check(folder: Path, kept: Iterable[Kept] = ()) -> Checked:
    """Check a site's log, and that it holds every reply for which there is a receipt.

    Args:
        folder: the site's folder.
        kept: receipts from the centre, of any number of runs.

    Raises:
        VerificationError: naming the first line that is bad, or the first receipt that the log does not bear out.
    """
    path = folder / chain.NAME
    if keys.path(folder).exists() and not path.exists():
        raise VerificationError(
            f"Expected the site's log at {path}, there is none: it was removed, or nothing has happened here yet"
        )
    entries = list(chain.entries(path))
    found = places(folder, kept, entries)
    by_sequence = _by_sequence([one for _, one in found if one is not None])
    for entry in entries:
        if entry.sequence in by_sequence:
            _compare(path, entry, by_sequence[entry.sequence])
    missing = sorted(sequence for sequence in by_sequence if sequence > len(entries))
    if missing:
        raise VerificationError(
            f"{path} ends with entry {len(entries)}, the centre holds a receipt for entry {missing[0]}: the tail was "
            f"cut off, or an older copy was put back"
        )
    return Checked(
        head=chain.head(path),
        replies=sum(entry.content.get("event") in _REPLIES for entry in entries),
        receipts=len(by_sequence),
        settled=sum(one is None for _, one in found),
    )


def places(
    folder: Path, kept: Iterable[Kept], entries: Sequence[Entry] | None = None
) -> list[tuple[Receipt, Receipt | None]]:
    """Receipts, each with its places in log and ledger; ``None``: it is of a lost part that was settled.

    Raises:
        VerificationError: if one is not this site's, or log or ledger do not hold what it names.
    """
    given = [one.receipt for one in kept]
    if not given:
        return []
    if not keys.path(folder).exists():
        raise VerificationError(f"Expected the key of the receipts at {keys.path(folder)}, there is none")
    log = list(chain.entries(folder / chain.NAME)) if entries is None else entries
    ledger = list(chain.entries(folder / ledger_head.NAME))
    found: list[tuple[Receipt, Receipt | None]] = []
    for receipt in given:
        verify(receipt, keys.public_key(folder))
        salt = ledger_head.salt(folder, receipt.plan_hash)
        try:
            found.append((receipt, placed(receipt, salt=salt, log=log, ledger=ledger)))
        except VerificationError:
            _check_one(receipt, given)
            raise
    return found


def _check_one(receipt: Receipt, given: Iterable[Receipt]) -> None:
    for other in given:
        same = (other.format, other.plan_hash, other.sequence) == (2, receipt.plan_hash, receipt.sequence)
        if same and other.log_head != receipt.log_head:
            raise VerificationError(
                f"The centre holds two receipts for reply {receipt.sequence} of campaign {receipt.plan_hash:.12} "
                f"that differ: the log was put back to an older copy and written on"
            )


def _draft(
    site: Site,
    request: Request,
    contents: Contents,
    *,
    server_round: int,
    group: str,
) -> Receipt:
    """All that is known before the reply has its place in the log."""
    booked = ledger_head.of_campaign(site.folder, request.plan_hash)
    salt = ledger_head.salt(site.folder, request.plan_hash)
    return Receipt(
        site=site.name,
        campaign=request.campaign,
        plan_hash=request.plan_hash,
        request_id=request.request_id,
        server_round=server_round,
        group=group,
        reply_hash=contents.hash,
        sequence=0,
        log_head="",
        policy_hash=policy_hash(site),
        version=VERSION,
        ledger_sequence=booked.sequence,
        ledger_head=salted(salt, booked.hash) if booked.sequence else NOTHING,
    )


def _issue(site: Site, event: str, receipt: Receipt, contents: Contents, asked: Asked | None) -> Receipt:
    facts = asked.facts() if asked is not None else {}
    end = ledger_head.head(site.folder)
    details = {
        **facts,
        **{name: getattr(receipt, name) for name in (*_SHARED, "policy_hash", "version")},
        "ledger_sequence": end.sequence,  # of all campaigns: the log stays here
        "ledger_head": end.hash,
        "reply_bytes": contents.size_bytes,
    }
    key = keys.signing_key(site.folder)  # before the entry: what is entered can also be signed
    head, number = chain.append_numbered(
        site.folder / chain.NAME, event, details, name="plan_hash", counted=_REPLIES
    )
    salt = ledger_head.salt(site.folder, receipt.plan_hash)
    numbered = replace(receipt, sequence=number, log_head=salted(salt, head.hash))
    return replace(numbered, signature=signed_json.sign(payload(numbered), key))


def _by_sequence(given: Iterable[Receipt]) -> dict[int, Receipt]:
    receipts: dict[int, Receipt] = {}
    for receipt in given:
        known = receipts.setdefault(receipt.sequence, receipt)
        if known.log_head != receipt.log_head:
            raise VerificationError(
                f"The centre holds two receipts for entry {receipt.sequence} that differ: the log was put back "
                f"to an older copy and written on"
            )
    return receipts


def _compare(path: Path, entry: Entry, receipt: Receipt) -> None:
    if entry.hash != receipt.log_head:
        raise VerificationError(
            f"{path}, line {entry.sequence}: expected the entry that the centre's receipt names "
            f"({receipt.log_head:.16}), got another ({entry.hash:.16}): the log was rewritten, or an older copy was "
            f"put back and written on"
        )
    shared = (*_SHARED, "ledger_sequence", "ledger_head") if receipt.format == 1 else _SHARED
    differing = [name for name in shared if entry.content.get(name) != getattr(receipt, name)]
    if differing:
        raise VerificationError(
            f"{path}, line {entry.sequence}: its {', '.join(differing)} is not what the receipt says"
        )
