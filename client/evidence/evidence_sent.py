"""What left a site, held against the allow-list of private campaigns: the very bytes where they are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from jaxtyping import Float64

from client.log import outbox
from client.log.outbox import Kept
from client.site.site import Site
from common import bfloat16
from common.errors import VerificationError
from common.methods.rounds import longest_stage_rounds
from common.privacy.audit import sent as allow_list
from common.privacy.audit.claims import released, some
from common.privacy.audit.evidence import Answer, Check, Sent
from common.privacy.audit.pooled_noise import PooledNoise, pooled
from common.privacy.audit.sent import Noise
from common.settings import Settings

TYPES = {"float32": "<f4", "int64": "<i8", "uint32": "<u4", "uint64": "<u8"}
WIDTH = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What came of it.

    Attributes:
        checks: of the allow-list, and of the noise.
        facts: what the report tells, label -> text.
    """

    checks: tuple[Check, ...]
    facts: Mapping[str, str]


def check(site: Site, answers: Sequence[Answer], plans: Mapping[str, Settings]) -> Looked:
    """Look at every reply of private campaigns.

    Args:
        site: whose outbox is read.
        answers: the replies that its log tells of.
        plans: plan hash -> settings.
    """
    from common.privacy.audit.rehearsed_plan import sizes_of  # noqa: PLC0415  torch: seconds

    private = {plan_hash: settings for plan_hash, settings in plans.items() if settings.private}
    mine = [answer for answer in answers if answer.plan_hash in private and not answer.repeated]
    sizes = {plan_hash: sizes_of(private[plan_hash]) for plan_hash in {answer.plan_hash for answer in mine}}
    wrong: list[str] = []
    measured: list[tuple[str, Noise]] = []
    rounds: dict[tuple[str, str], dict[int, Float64[np.ndarray, " _"]]] = {}
    before: dict[tuple[str, str], Float64[np.ndarray, " _"]] = {}
    kept = 0
    for answer in mine:
        settings = private[answer.plan_hash]
        where = f"round {answer.server_round} of {answer.campaign} (request {answer.request_id})"
        closing = not released(answer, settings)
        try:
            reply = outbox.find(site.folder, answer.request_id)
        except VerificationError as error:
            wrong.append(f"{where}: {error}")
            continue
        if reply is None:
            wrong += [
                f"{where}: {problem}" for problem in _by_size(answer, sizes[answer.plan_hash], settings)
            ]
            continue
        kept += 1
        one = as_sent(reply)
        if one.reply_hash != answer.reply_hash:
            wrong.append(f"{where}: what is kept is not what the log says that left")
        masked = settings.federation.secure is not None
        length = sum(sizes[answer.plan_hash].values())
        strays = (
            list(allow_list.strays_of_sum(one, length=length))
            if masked
            else list(allow_list.strays(one, sizes[answer.plan_hash], closing=closing))
        )
        wrong += [f"{where}: {problem}" for problem in strays]
        if settings.method == "probe" and not (masked or closing or strays):
            key = answer.plan_hash, answer.group
            noise, before[key] = _noise(one, settings, before.get(key))
            measured.append((where, noise))
            rounds.setdefault(key, {})[answer.server_round] = before[key]
    wrong += [f"{where}: {problem}" for where, problem in _consents(site, private)]
    together = [
        (f"campaign {plan_hash[:12]}", _pooled(updates, private[plan_hash]))
        for (plan_hash, _), updates in rounds.items()
    ]
    return Looked(
        checks=(
            _allowed(wrong, replies=len(mine), kept=kept),
            _noised(measured, together, replies=len(mine)),
        ),
        facts=_facts(answers, plans, measured),
    )


def as_sent(kept: Kept) -> Sent:
    """A reply of the outbox as plain values."""
    fields: dict[str, dict[str, object]] = {}
    arrays: dict[str, dict[str, tuple[str, Float64[np.ndarray, " _"]]]] = {}
    for name, part in kept.record.items():
        if isinstance(part, ConfigRecord):
            fields[name] = dict(part)
        elif isinstance(part, ArrayRecord):
            arrays[name] = {
                key: (array.dtype, _values(array.dtype, array.data)) for key, array in part.items()
            }
    return Sent(
        request_id=kept.asked.request_id,
        plan_hash=kept.asked.plan_hash,
        server_round=kept.asked.server_round,
        fields=fields,
        arrays=arrays,
        reply_hash=kept.receipt.reply_hash,
    )


def _values(kind: str, data: bytes) -> Float64[np.ndarray, " _"]:
    if kind == "bfloat16":
        return bfloat16.decode(np.frombuffer(data, dtype="<u2")).astype(np.float64)
    return np.frombuffer(data, dtype=TYPES[kind]).astype(np.float64)


def _noise(
    sent: Sent, settings: Settings, before: Float64[np.ndarray, " _"] | None
) -> tuple[Noise, Float64[np.ndarray, " _"]]:
    planned = settings.privacy
    assert planned is not None and planned.noise_multiplier is not None
    scale = settings.probe.learning_rate / (planned.sample_rate * planned.patients)
    claimed = planned.noise_multiplier * planned.max_grad_norm
    return allow_list.noise(sent, claimed=claimed, scale=scale, before=before)


def _pooled(updates: Mapping[int, Float64[np.ndarray, " _"]], settings: Settings) -> PooledNoise:
    """All rounds of a campaign together."""
    planned = settings.privacy
    assert planned is not None and planned.noise_multiplier is not None
    rate, size = planned.sample_rate, len(next(iter(updates.values())))
    return pooled(
        list(updates.items()),
        claimed=planned.noise_multiplier * planned.max_grad_norm,
        sampling=rate * (1 - rate) * planned.patients / (size * planned.noise_multiplier**2),
    )


def _by_size(answer: Answer, sizes: Mapping[str, int], settings: Settings) -> Iterator[str]:
    """The log keeps the size of every reply: one tensor more shows in it."""
    if answer.server_round > longest_stage_rounds(settings):
        return  # told by the check of the rounds
    width = WIDTH[settings.federation.encoding] if settings.federation.secure is None else 8
    most = sum(sizes.values()) * width
    if answer.reply_bytes is not None and answer.reply_bytes > most:
        yield f"{answer.reply_bytes} bytes left, the plan's updates have {most}"


def _consents(site: Site, private: Mapping[str, Settings]) -> Iterator[tuple[str, str]]:
    """Exact counts and times that left with the answer to a private plan."""
    for request_id in outbox.ids(site.folder):
        try:
            kept = outbox.find(site.folder, request_id)
        except VerificationError:
            continue  # a reply to a round is told above
        if kept is None or kept.asked.request != "plan" or kept.asked.plan_hash not in private:
            continue
        fields = as_sent(kept).fields.get("reply", {})
        where = f"the consent to {kept.asked.campaign}"
        if fields.get("usable", "{}") != "{}":
            yield where, "exact numbers of exams left with it"
        if fields.get("round-seconds", 0.0) == fields.get("round-seconds"):
            yield where, "how long a round takes left with it"


def _allowed(wrong: Sequence[str], *, replies: int, kept: int) -> Check:
    claim = "Nothing left but what the allow-list names: one noised update of known length for each network."
    if wrong:
        return Check(name="allow-list", claim=claim, verdict="fails", found=some(wrong))
    if not replies:
        return Check(
            name="allow-list", claim=claim, verdict="holds", found="No private campaign was answered."
        )
    found = f"{kept} of {replies} replies are kept; each of their tensors was looked at." if kept else ""
    if kept < replies:
        which = f"Of the other {replies - kept}" if kept else f"No reply is kept. Of all {replies}"
        found = f"{found} {which} the log has size and hash; no size is above the plan's.".strip()
    return Check(name="allow-list", claim=claim, verdict="holds", found=found)


def _noised(
    measured: Sequence[tuple[str, Noise]], together: Sequence[tuple[str, PooledNoise]], *, replies: int
) -> Check:
    claim = "What left carries at least the noise that was booked, drawn anew each time."
    wrong = [f"{where}: {problem}" for where, noise in together for problem in noise.problems()]
    wrong += [f"{where}: {problem}" for where, noise in measured for problem in noise.problems()]
    if wrong:
        return Check(name="noise", claim=claim, verdict="fails", found=some(wrong))
    if not replies:
        return Check(name="noise", claim=claim, verdict="holds", found="No private campaign was answered.")
    if not measured:
        why = (
            "No update of a private campaign on heads can be measured: none is kept (policy.keep_outbox_days), or "
            "all left under masks."
        )
        return Check(name="noise", claim=claim, verdict="open", found=why)
    found = [str(noise) if len(together) == 1 else f"{where}: {noise}" for where, noise in together]
    return Check(name="noise", claim=claim, verdict="not contradicted", found=f"{some(found)}.")


def _facts(
    answers: Sequence[Answer], plans: Mapping[str, Settings], measured: Sequence[tuple[str, Noise]]
) -> dict[str, str]:
    facts = {}
    for plan_hash, count in Counter(a.plan_hash for a in answers if not a.repeated).items():
        mine = [a for a in answers if a.plan_hash == plan_hash and not a.repeated]
        size = sum(a.reply_bytes or 0 for a in mine)
        kind = (
            "noised updates" if plan_hash in plans and plans[plan_hash].private else "updates without privacy"
        )
        facts[f"Left for {mine[-1].campaign}"] = f"{count} replies, {kind}, {size / 1000:,.1f} kB"
    if measured:
        claimed = measured[0][1].claimed
        between = [noise.between for _, noise in measured if noise.between is not None]
        told = (
            f"claimed {claimed:g}; noise and signal together {np.median([n.seen for _, n in measured]):.3g}"
        )
        if between:
            told += f"; from round to round {np.median(between):.3g}"
        facts["Measured standard deviation, a number of a sum"] = told
    return facts
