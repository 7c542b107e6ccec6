"""The centre's side of one attempt: what it asks, what it takes, and the sum at the end.

It holds one running sum of masked vectors, never a list of them. An attempt that fails cannot be mended: a new one
has a new context, new keys, new noise.

Usage: for each phase, send :meth:`Attempt.requests`, give every reply to :meth:`Attempt.accept` and every site that
does not answer to :meth:`Attempt.drop`, then :meth:`Attempt.next`; after the last one, :meth:`Attempt.sum`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from jaxtyping import Int64

from common.errors import CampaignError, UpdateError, VerificationError
from common.secure_aggregation import shamir
from common.secure_aggregation.agreement import (
    commitment,
    lists_digest,
    pair_key,
    public_key,
    roster_digest,
    self_key,
)
from common.secure_aggregation.fixed_point import centred
from common.secure_aggregation.identity import check_keys, check_survivors
from common.secure_aggregation.masks import Ring, dtype, masked
from common.secure_aggregation.messages import (
    PHASES,
    REPLIES,
    KeysReply,
    KeysRequest,
    MaskedReply,
    MaskedRequest,
    Phase,
    Reply,
    Request,
    SharesReply,
    SharesRequest,
    SurvivorsReply,
    SurvivorsRequest,
    UnmaskReply,
    UnmaskRequest,
)
from common.secure_aggregation.terms import Context, Terms, binding


class Attempt:
    """One attempt at one sum.

    Args:
        context: with an attempt's number that was never used before.
        terms: made from the plan.
        registered: name -> Ed25519 public key in hex of every site that is asked.

    Raises:
        CampaignError: if fewer sites are asked than have to survive.
    """

    def __init__(self, *, context: Context, terms: Terms, registered: Mapping[str, str]) -> None:
        self._context, self._terms, self._known = context, terms, dict(registered)
        self._binding = binding(context, terms)
        self._phase: Phase | None = "keys"
        self._asked: tuple[str, ...] = tuple(sorted(registered))
        self._dropped: set[str] = set()
        self._replies: dict[Phase, dict[str, Reply]] = {phase: {} for phase in PHASES}
        self._total: Ring = np.zeros(terms.length, dtype(terms.bits))
        if not terms.survivors <= len(registered) <= terms.sites:
            raise CampaignError(
                f"Expected {terms.survivors} to {terms.sites} sites for a secure sum, got {len(registered)}"
            )

    @property
    def phase(self) -> Phase | None:
        """The phase that is open; none at the end."""
        return self._phase

    @property
    def waiting(self) -> tuple[str, ...]:
        """Sites that were asked in this phase, have not answered and were not dropped."""
        if self._phase is None:
            return ()
        answered = self._replies[self._phase]
        return tuple(name for name in self._asked if name not in answered and name not in self._dropped)

    @property
    def survivors(self) -> tuple[str, ...]:
        """Whose vectors are in the sum; complete once phase masked was left."""
        return self._in("masked")

    def requests(self) -> dict[str, Request]:
        """Site -> what it is asked in the open phase."""
        return {} if self._phase is None else {name: self._request(self._phase, name) for name in self._asked}

    def accept(self, site: str, reply: Reply) -> None:
        """Take a site's reply.

        Args:
            site: whose connection it came by.
            reply: of the open phase.

        Raises:
            UpdateError: if it is another phase's, or the site was not asked, was dropped, or has answered.
            VerificationError: if a signature does not fit.
        """
        phase = self._open()
        if not isinstance(reply, REPLIES[phase]) or reply.site != site:
            raise UpdateError(
                f"Expected {site}'s reply in phase {phase}, got {reply.site}'s in {reply.phase}"
            )
        if site not in self.waiting:
            raise UpdateError(f"Expected replies of {', '.join(self.waiting) or 'nobody'}, got one of {site}")
        self._check(reply)
        if isinstance(reply, MaskedReply):
            self._total += reply.vector
            reply = MaskedReply(site=site, vector=reply.vector[:0])
        self._replies[phase][site] = reply

    def drop(self, site: str) -> None:
        """Go on without a site; what it said in earlier phases stays."""
        if site not in self._replies[self._open()]:
            self._dropped.add(site)

    def next(self) -> Phase | None:
        """Close the phase; who has not answered is dropped.

        Returns:
            The phase that is open now; none after the last one.

        Raises:
            CampaignError: if too few sites are left: the attempt is over.
        """
        phase = self._open()
        answered = self._in(phase)
        least = self._terms.threshold if phase in ("survivors", "unmask") else self._terms.survivors
        if len(answered) < least:
            raise CampaignError(
                f"Expected at least {least} of {len(self._asked)} sites to answer in phase {phase}, got "
                f"{len(answered)}: the attempt is over, its sum cannot be opened"
            )
        self._asked, self._dropped = answered, set()
        number = PHASES.index(phase) + 1
        self._phase = PHASES[number] if number < len(PHASES) else None
        return self._phase

    def sum(self) -> Int64[np.ndarray, " length"]:
        """The sum of the survivors' vectors.

        Raises:
            CampaignError: before the last phase was left.
            VerificationError: if shares were changed, so that a mask cannot be taken away.
        """
        if self._phase is not None:
            raise CampaignError(f"Expected all phases of an attempt to be over, got {self._phase}")
        unmasking = [cast(UnmaskReply, reply) for reply in self._replies["unmask"].values()]
        unmasking = unmasking[: self._terms.threshold]
        numbers = {name: number for number, name in enumerate(self._in("keys"), start=1)}
        by = shamir.weights([numbers[reply.site] for reply in unmasking])
        plus: list[bytes] = []
        minus: list[bytes] = []
        for at, name in enumerate(self.survivors):
            seed = shamir.combine({numbers[r.site]: r.seed_shares[at] for r in unmasking}, by)
            minus.append(self._self_key(name, seed))
        for at, name in enumerate(self._lost):
            private = shamir.combine({numbers[r.site]: r.key_shares[at] for r in unmasking}, by)
            for survivor, key in self._pair_keys(name, private).items():
                (minus if survivor < name else plus).append(key)
        return centred(masked(self._total, plus=plus, minus=minus))

    @property
    def _lost(self) -> tuple[str, ...]:
        """Who made shares, so that the survivors' masks reckon with it, and sent no vector."""
        return tuple(name for name in self._in("shares") if name not in self.survivors)

    @property
    def _roster(self) -> tuple[KeysReply, ...]:
        return tuple(cast(KeysReply, self._replies["keys"][name]) for name in self._in("keys"))

    @property
    def _roster_digest(self) -> str:
        return roster_digest(self._binding, self._roster)

    @property
    def _lists(self) -> str:
        return lists_digest(self._roster_digest, sharers=self._in("shares"), survivors=self.survivors)

    def _in(self, phase: Phase) -> tuple[str, ...]:
        return tuple(sorted(self._replies[phase]))

    def _open(self) -> Phase:
        if self._phase is None:
            raise UpdateError("Expected an attempt that is not over")
        return self._phase

    def _request(self, phase: Phase, site: str) -> Request:
        context = self._context
        if phase == "keys":
            return KeysRequest(context=context)
        if phase == "shares":
            roster = self._roster
            return SharesRequest(
                context=context,
                sites=tuple(keys.site for keys in roster),
                mask_keys=tuple(keys.mask_key for keys in roster),
                share_keys=tuple(keys.share_key for keys in roster),
                signatures=tuple(keys.signature for keys in roster),
            )
        if phase == "masked":
            made = {name: cast(SharesReply, reply) for name, reply in self._replies["shares"].items()}
            senders = tuple(name for name in sorted(made) if name != site)
            return MaskedRequest(
                context=context,
                sharers=tuple(sorted(made)),
                senders=senders,
                ciphertexts=tuple(
                    made[name].ciphertexts[made[name].receivers.index(site)] for name in senders
                ),
            )
        if phase == "survivors":
            return SurvivorsRequest(context=context, survivors=self.survivors)
        signed = {
            name: cast(SurvivorsReply, self._replies["survivors"][name]) for name in self._in("survivors")
        }
        return UnmaskRequest(
            context=context,
            signers=tuple(signed),
            signatures=tuple(reply.signature for reply in signed.values()),
        )

    def _check(self, reply: Reply) -> None:
        """What the sites would refuse, or what cannot be summed, is refused at once."""
        if isinstance(reply, KeysReply):
            check_keys(reply, binding=self._binding, known=self._known)
        elif isinstance(reply, SharesReply):
            others = tuple(name for name in self._in("keys") if name != reply.site)
            self._fits(reply, reply.receivers == others and len(reply.ciphertexts) == len(others))
        elif isinstance(reply, MaskedReply):
            expected = (self._total.shape, self._total.dtype)
            self._fits(reply, (reply.vector.shape, reply.vector.dtype) == expected)
        elif isinstance(reply, SurvivorsReply):
            check_survivors(reply.site, reply.signature, lists=self._lists, known=self._known)
        else:
            same = (reply.survivors, reply.dropped) == (self.survivors, self._lost)
            counts = (len(reply.seed_shares), len(reply.key_shares))
            self._fits(reply, same and counts == (len(self.survivors), len(self._lost)))

    def _fits(self, reply: Reply, fits: bool) -> None:
        if not fits:
            raise UpdateError(
                f"Expected {reply.site}'s reply for the sites of this attempt, got one for different sites"
            )

    def _self_key(self, site: str, seed: bytes) -> bytes:
        said = cast(SharesReply, self._replies["shares"][site]).commitment
        if commitment(seed, roster=self._roster_digest, site=site) != said:
            raise _changed(site)
        return self_key(seed, roster=self._roster_digest, site=site)

    def _pair_keys(self, site: str, private: bytes) -> dict[str, bytes]:
        keys = {keys.site: keys for keys in self._roster}
        if public_key(private) != keys[site].mask_key:
            raise _changed(site)
        digest = self._roster_digest
        return {name: pair_key(private, keys[name], roster=digest, site=site) for name in self.survivors}


def _changed(site: str) -> VerificationError:
    return VerificationError(
        f"The shares of {site}'s secret do not give what it committed to: {site} shared something else, or a "
        f"survivor changed its share"
    )
