"""Every claim about privacy, computed again from ledger, log, receipts and plan; two accountants, no trust.

A claim that cannot be borne out *fails*. One for which the evidence is not here is *open*, and says what is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from common.methods.rounds import longest_stage_rounds
from common.privacy.accounting import accounting, chain
from common.privacy.accounting.chain import Entry
from common.privacy.accounting.costs import worst_of
from common.privacy.accounting.spending import Book, Booked, PrivateRelease, UnboundedRelease
from common.privacy.audit.evidence import Answer, Cap, Check, Evidence
from common.privacy.planning.private_steps import steps_of_round, steps_per_round
from common.receipts import RECONCILED
from common.settings import Settings

NAMED = 5
"""Things that a finding names at most."""


def checked(evidence: Evidence) -> tuple[Check, ...]:
    """All claims that ledger, log and plans can bear out, after those that were checked while reading."""
    kept = rounds(evidence.answers, evidence.plans)
    if evidence.source == "receipts":
        return *evidence.checks, kept, _not_looked_at()
    if any(check.name == "ledger" and check.verdict == "fails" for check in evidence.checks):
        return *evidence.checks, kept, _unknown(evidence)
    return (
        *evidence.checks,
        debits(evidence),
        parameters(evidence.book, evidence.plans),
        kept,
        approved(evidence),
        cap(evidence),
        withdrawals(evidence.entries, evidence.book),
    )


def _not_looked_at() -> Check:
    return Check(
        name="own folder",
        claim="Ledger, log, kept replies, policy and approvals of this site bear out what its receipts say.",
        verdict="open",
        found="The site's folder was not looked at (--site): debits before replies, the noise and the contents "
        "of what left, the cap, approvals and withdrawals are the hospital's to show",
    )


def _unknown(evidence: Evidence) -> Check:
    return Check(
        name="spending",
        claim="What patients have spent is known.",
        verdict="fails",
        found=f"Of the ledger only the {len(evidence.entries)} entries before the first bad line count: every number "
        f"of this site is the least that was spent",
    )


def debits(evidence: Evidence) -> Check:
    """Whether every reply of a private campaign was debited before it left, and as often as it was drawn."""
    claim = "Everything that left was entered in the ledger first, at the cost of every patient concerned."
    name = "write-ahead"
    wrong: list[str] = []
    private = 0
    for answer in evidence.answers:
        settings = evidence.plans.get(answer.plan_hash)
        if answer.repeated or settings is None:
            continue
        private += released(answer, settings)
        if problem := _debited(answer, settings, evidence.book.releases):
            wrong.append(problem)
    wrong += _drawn_twice(evidence)
    unknown = {answer.plan_hash for answer in evidence.answers} - set(evidence.plans)
    if wrong:
        return Check(name=name, claim=claim, verdict="fails", found=some(wrong))
    if unknown:
        return Check(
            name=name,
            claim=claim,
            verdict="fails",
            found=f"The plan of campaign {sorted(unknown)[0][:12]} is not kept: nobody can say what its replies held",
        )
    answered = {(answer.plan_hash, answer.request_id) for answer in evidence.answers}
    extra = [
        one
        for one in evidence.book.releases
        if isinstance(one.release, PrivateRelease)
        and (one.release.plan_hash, one.release.request_id) not in answered
    ]
    found = f"{private} private replies, each with its debit before it."
    if extra:
        found += (
            f" {len(extra)} debits are of releases that were never sent (a crash, a closed connection); they count "
            f"all the same."
        )
    return Check(name=name, claim=claim, verdict="holds", found=found)


def parameters(book: Book, plans: Mapping[str, Settings]) -> Check:
    """Whether noise, sampling, clipping, patients and images were booked as the plan has them."""
    claim = "Noise, clipping and sampling were booked as the plan says that was agreed to."
    wrong: list[str] = []
    compared = 0
    for one in book.releases:
        if not isinstance(one.release, PrivateRelease):
            continue
        settings = plans.get(one.release.plan_hash)
        if settings is None:
            wrong.append(f"entry {one.sequence}: the plan {one.release.plan_hash[:12]} is not kept")
        else:
            compared += 1
            wrong += _differing(one, one.release, settings)
    return Check(
        name="parameters",
        claim=claim,
        verdict="fails" if wrong else "holds",
        found=some(wrong) if wrong else f"{compared} private releases, as their plans have them.",
    )


def rounds(answers: Sequence[Answer], plans: Mapping[str, Settings]) -> Check:
    """Whether no round was answered that the plan does not have, and none twice with other contents."""
    claim = "No more left than the plan has: each round once, and a repeated answer was the same bytes."
    wrong: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for answer in answers:
        settings = plans.get(answer.plan_hash)
        known = seen.setdefault((answer.plan_hash, answer.request_id), answer.reply_hash)
        if answer.repeated and known != answer.reply_hash:
            wrong.append(f"entry {answer.sequence} of the log: a repeated answer was not the same bytes")
        if settings is None or not settings.private:
            continue
        last = longest_stage_rounds(settings)
        if not 1 <= answer.server_round <= last + 1:
            wrong.append(
                f"entry {answer.sequence} of the log: round {answer.server_round} is none of the plan's"
            )
        if answer.server_round > last and answer.reply_bytes:
            wrong.append(
                f"entry {answer.sequence} of the log: {answer.reply_bytes} bytes in the closing round"
            )
    return Check(
        name="rounds",
        claim=claim,
        verdict="fails" if wrong else "holds",
        found=some(wrong) if wrong else f"{len(answers)} answers to rounds.",
    )


def approved(evidence: Evidence) -> Check:
    """Whether each approval's releases stayed within what it promised; and which rounds were drawn again."""
    claim = "No campaign has cost more than was approved, rounds that were drawn again included."
    wrong: list[str] = []
    for number, one in enumerate(evidence.approvals):
        later = [
            other.after for other in evidence.approvals[number + 1 :] if other.plan_hash == one.plan_hash
        ]
        steps = [
            release.steps
            for sequence, release in _private(evidence, one.plan_hash)
            if one.after < sequence <= min(later, default=sequence)
        ]
        spent = accounting.epsilon(steps, delta=one.delta)
        if spent > one.epsilon * (1 + 1e-9):
            wrong.append(
                f"campaign {one.plan_hash[:12]} cost epsilon {spent:.3f} after entry {one.after} of the ledger, "
                f"approved were {one.epsilon:.3f} (delta {one.delta:g})"
            )
    found = some(wrong) if wrong else f"{len(evidence.approvals)} approvals."
    again = list(_again(evidence))
    if again:
        found += f" Drawn again: {some(again)}; each draw is debited."
    return Check(name="approved", claim=claim, verdict="fails" if wrong else "holds", found=found)


def _private(evidence: Evidence, plan_hash: str) -> Iterator[tuple[int, PrivateRelease]]:
    """A campaign's private releases, but for what a restored backup made to be booked once more."""
    for one in evidence.book.releases:
        release = one.release
        if (
            isinstance(release, PrivateRelease)
            and release.plan_hash == plan_hash
            and release.kind != RECONCILED
        ):
            yield one.sequence, release


def _again(evidence: Evidence) -> Iterator[str]:
    """Rounds with more debits than one draw of them has, plan by plan."""
    for plan_hash, settings in evidence.plans.items():
        if not settings.private:
            continue
        drawn: Counter[int] = Counter()
        for _, release in _private(evidence, plan_hash):
            drawn[release.server_round] += release.steps.count
        for server_round, steps in sorted(drawn.items()):
            once = max(1, steps_of_round(settings, server_round))
            if steps > once:
                yield f"round {server_round} of {plan_hash[:12]}, {steps} debits where one draw has {once}"


def cap(evidence: Evidence) -> Check:
    """Whether the patient who has spent most stayed below the cap that held at the time."""
    claim = "No patient has spent more than the hospital's policy permitted at the time."
    if not evidence.caps:
        return Check(
            name="cap", claim=claim, verdict="open", found="The cap is the hospital's own: audit its folder."
        )
    wrong: list[str] = []
    private = [one for one in evidence.book.releases if isinstance(one.release, PrivateRelease)]
    for number, held in enumerate(evidence.caps):
        until = evidence.caps[number + 1].since if number + 1 < len(evidence.caps) else "9999"
        since = "" if number == 0 else held.since
        within = [one for one in private if since <= one.time < until]
        if within and (problem := _beyond(evidence, held, within[-1].sequence)):
            wrong.append(problem)
    now = evidence.caps[-1]
    told = (
        "none is permitted"
        if now.maximum_epsilon is None
        else f"{now.maximum_epsilon:g} at delta {now.delta:g}"
    )
    lost = any(
        isinstance(one.release, PrivateRelease) and one.release.kind == RECONCILED
        for one in evidence.book.releases
    )
    if wrong and lost:
        return Check(
            name="cap",
            claim=claim,
            verdict="open",
            found=f"{some(wrong)}. A backup was restored, and what it had lost is debited to more patients than took "
            f"part: nobody can say whether one of them really spent as much",
        )
    return Check(
        name="cap",
        claim=claim,
        verdict="fails" if wrong else "holds",
        found=some(wrong) if wrong else f"The cap now: epsilon {told}.",
    )


def withdrawals(entries: Sequence[Entry], book: Book) -> Check:
    """Whether nobody was debited after they withdrew."""
    claim = "Patients who withdrew took part in nothing afterwards."
    since = {
        entry.content["patient"]: entry.sequence
        for entry in entries
        if entry.content["event"] == chain.WITHDRAWN and entry.content["patient"] is not None
    }
    wrong = [
        f"entry {one.sequence}: a patient who had withdrawn in entry {sequence} is debited"
        for one in book.releases
        for number, sequence in since.items()
        if number in one.eligible and one.sequence > sequence
    ]
    return Check(
        name="withdrawals",
        claim=claim,
        verdict="fails" if wrong else "holds",
        found=some(wrong) if wrong else f"{len(book.withdrawn)} withdrawals.",
    )


def released(answer: Answer, settings: Settings) -> bool:
    """Whether a reply of a private campaign had anything in it that a debit must stand for."""
    return (
        settings.private and answer.server_round <= longest_stage_rounds(settings) and answer.reply_bytes != 0
    )


def some(wrong: Sequence[str]) -> str:
    """The first few of what is wrong, and how many more there are."""
    more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    return "; ".join(wrong[:NAMED]) + more


def _debited(answer: Answer, settings: Settings, releases: Sequence[Booked]) -> str:
    """What is wrong with the debit of one reply; empty if nothing is."""
    where = f"entry {answer.sequence} of the log (round {answer.server_round} of {answer.campaign})"
    mine = [one for one in releases if one.release.plan_hash == answer.plan_hash]
    if not settings.private:
        booked = [one for one in mine if isinstance(one.release, UnboundedRelease)]
        if not any(one.sequence <= answer.ledger_sequence for one in booked):
            return f"{where}: left without privacy, and the ledger does not say so"
        return ""
    if not released(answer, settings):
        return ""
    booked = [
        one
        for one in mine
        if isinstance(one.release, PrivateRelease) and one.release.request_id == answer.request_id
    ]
    if not booked:
        return f"{where}: left without a debit in the ledger"
    if min(one.sequence for one in booked) > answer.ledger_sequence:
        return f"{where}: left before its debit, entry {booked[0].sequence} of the ledger"
    return ""


def _drawn_twice(evidence: Evidence) -> Iterator[str]:
    """Requests whose answers were drawn more often than they were debited."""
    drawn: dict[tuple[str, str], set[str]] = {}
    for answer in evidence.answers:
        settings = evidence.plans.get(answer.plan_hash)
        if settings is not None and released(answer, settings):
            drawn.setdefault((answer.plan_hash, answer.request_id), set()).add(answer.reply_hash)
    paid: Counter[tuple[str, str]] = Counter()
    for one in evidence.book.releases:
        if isinstance(one.release, PrivateRelease):
            paid[one.release.plan_hash, one.release.request_id] += one.release.steps.count
    for (plan_hash, request_id), hashes in drawn.items():
        due = len(hashes) * steps_per_round(evidence.plans[plan_hash])
        if 0 < paid[plan_hash, request_id] < due:
            yield (
                f"request {request_id}: {due} steps left in {len(hashes)} answers, "
                f"{paid[plan_hash, request_id]} are debited"
            )


def _differing(one: Booked, release: PrivateRelease, settings: Settings) -> Iterator[str]:
    """In what a booking differs from its plan."""
    where = f"entry {one.sequence} of the ledger"
    planned = settings.privacy
    if planned is None or planned.noise_multiplier is None or not settings.private:
        yield f"{where}: a private release of a plan without privacy"
        return
    pairs = {
        "noise multiplier": (release.steps.noise_multiplier, planned.noise_multiplier),
        "sample rate": (release.steps.sample_rate, planned.sample_rate),
        "clipping norm": (release.max_grad_norm, planned.max_grad_norm),
        "public number of patients": (release.patients, planned.patients),
        "images of a patient": (release.images, planned.images),
    }
    for name, (booked, agreed) in pairs.items():
        if booked != agreed:
            yield f"{where}: {name} {booked:g}, the plan has {agreed:g}"
    if not 1 <= release.server_round <= longest_stage_rounds(settings):
        yield f"{where}: round {release.server_round} is none of the plan's {longest_stage_rounds(settings)}"


def _beyond(evidence: Evidence, held: Cap, last: int) -> str:
    """Whether a cap was exceeded by all that was booked up to an entry."""
    if held.maximum_epsilon is None:
        return f"entry {last} of the ledger: a private release where the policy permitted none"
    book = Book.of(entry for entry in evidence.entries if entry.sequence <= last)
    _, worst = worst_of(list(book.histories()), delta=held.delta)
    spent = worst.epsilon(delta=held.delta)
    if spent > held.maximum_epsilon:
        return (
            f"up to entry {last} of the ledger a patient spent epsilon {spent:.3f}, the policy permitted "
            f"{held.maximum_epsilon:g}"
        )
    return ""
