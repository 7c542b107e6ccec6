"""A site's side: one function a phase, each from a state and a request to a reply and the next state.

The caller draws 32 bytes of fresh entropy where it says so, and keeps state **and** reply on disk before the reply
leaves. A request that comes again (:meth:`~common.secure_aggregation.site_state.State.is_repeated`) gets the bytes
that were kept. A site never goes back to an earlier state: that would be a second answer in one phase.

**Guarantees**, against a centre that does whatever it likes together with ``colluders`` of the sites:

* A vector leaves under masks that are uniform modulo 2^bits as long as one honest survivor's are not opened.
* Keys count only with a signature by the key that this site pinned, over this attempt.
* Of one peer's two secrets a share of at most one leaves, in one answer, for one list of survivors that at least
  ``threshold`` sites signed; two lists cannot have so many signatures each.
* A sum that is opened has at least ``survivors`` vectors.
* No round has two sums: of two over almost the same sites the difference is one site's vector. Who has given shares
  in phase unmask begins no other attempt at that round, and without those sites none has enough. (Here within a
  group and run, whose names are the centre's; over all of them the caller sees to it:
  :mod:`client.consent.opened_sums`.)
* All sites of a roster were told of the same contents (:class:`~common.secure_aggregation.terms.Context`); that the
  vector is made of these is the caller's to see to, too.

===========================================  ======================================================================
case                                         answer
===========================================  ======================================================================
unknown site, other key, other attempt       refused in phase shares
own keys missing or exchanged                refused in phase shares
shares that do not open                      refused in phase masked, before the vector is used
fewer sites than ``survivors``               refused in phases shares, masked and survivors
a list without this site                     refused
a phase asked twice, differently             refused
another attempt at a round that was opened   refused in phase keys
===========================================  ======================================================================

Source: Bonawitz et al. 2017, doi 10.1145/3133956.3133982, figure 4, the variant against active adversaries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from common.errors import PolicyError, UpdateError, VerificationError
from common.secure_aggregation import shamir
from common.secure_aggregation.agreement import (
    NONCE_BYTES,
    commitment,
    decrypt,
    encrypt,
    lists_digest,
    pair_key,
    public_key,
    roster_digest,
    self_key,
)
from common.secure_aggregation.fixed_point import to_ring
from common.secure_aggregation.identity import (
    Identity,
    check_keys,
    check_survivors,
    sign_keys,
    sign_survivors,
)
from common.secure_aggregation.masks import masked as with_masks
from common.secure_aggregation.messages import (
    KeysReply,
    KeysRequest,
    MaskedReply,
    MaskedRequest,
    Request,
    SharesReply,
    SharesRequest,
    SurvivorsReply,
    SurvivorsRequest,
    UnmaskReply,
    UnmaskRequest,
    request_digest,
)
from common.secure_aggregation.site_state import Held, State
from common.secure_aggregation.terms import Terms, binding

SECRET = 32


def keys(
    identity: Identity, request: KeysRequest, *, terms: Terms, entropy: bytes, previous: State | None = None
) -> tuple[KeysReply, State]:
    """Phase 1: fresh keys, signed.

    Args:
        identity: the site.
        request: names an attempt for which no state is kept.
        terms: made from the approved plan.
        entropy: 32 fresh bytes.
        previous: what is kept of the latest attempt at this group; forgotten afterwards.

    Raises:
        PolicyError: if the terms protect less than this site asks for, or the round's sum may have been opened.
    """
    if previous is not None and previous.forbids(request.context):
        raise PolicyError(
            f"Expected a round of {request.context.group} that is not past and that this site has not helped to "
            f"open, got {request.context.server_round} after {previous.context.server_round}: go on with the next"
        )
    if terms.survivors - 1 < identity.minimum_peers or terms.colluders < identity.colluders:
        raise PolicyError(
            f"Expected sums over at least {identity.minimum_peers + 1} sites, safe against {identity.colluders} "
            f"colluders, got a plan with {terms.survivors} and {terms.colluders}"
        )
    mask_key, share_key = _drawn(entropy, "keys", SECRET, SECRET)
    public = {"mask_key": public_key(mask_key), "share_key": public_key(share_key)}
    bound = binding(request.context, terms)
    reply = KeysReply(
        site=identity.site,
        **public,
        signature=sign_keys(identity.key, binding=bound, site=identity.site, **public),
    )
    state = State(
        context=request.context,
        terms=terms,
        site=identity.site,
        answered=(request_digest(request),),
        mask_key=mask_key,
        share_key=share_key,
    )
    return reply, state


def shares(
    state: State, request: SharesRequest, *, identity: Identity, entropy: bytes
) -> tuple[SharesReply, State]:
    """Phase 2: everybody's keys checked; two secrets shared among all of them.

    Args:
        state: after phase keys.
        request: everybody's keys.
        identity: the site and its pinned peers.
        entropy: 32 fresh bytes.

    Raises:
        VerificationError: if a key is not that of a pinned site for this attempt, or the own ones are missing.
        PolicyError: if there are too few sites.
    """
    _expect(state, request)
    roster = _roster(state, request, identity)
    digest = roster_digest(state.binding, roster)
    seed, for_seed, for_key = _drawn(entropy, "shares", SECRET, SECRET, SECRET)
    split = {"threshold": state.terms.threshold, "count": len(roster)}
    held = [
        Held(seed=one, key=other)
        for one, other in zip(
            shamir.split(seed, entropy=for_seed, **split),
            shamir.split(state.mask_key, entropy=for_key, **split),
            strict=True,
        )
    ]
    peers = [(peer, share) for peer, share in zip(roster, held, strict=True) if peer.site != state.site]
    nonces = _drawn(entropy, "nonces", *[NONCE_BYTES] * len(peers))
    reply = SharesReply(
        site=state.site,
        receivers=tuple(peer.site for peer, _ in peers),
        ciphertexts=tuple(
            encrypt(
                share.seed + share.key,
                private=state.share_key,
                peer=peer,
                roster=digest,
                site=state.site,
                nonce=nonce,
            )
            for (peer, share), nonce in zip(peers, nonces, strict=True)
        ),
        commitment=commitment(seed, roster=digest, site=state.site),
    )
    own = {peer.site: share for peer, share in zip(roster, held, strict=True) if peer.site == state.site}
    return reply, replace(_answer(state, request), seed=seed, roster=roster, held=own)


def masked(
    state: State, request: MaskedRequest, vector: Int64[np.ndarray, " length"]
) -> tuple[MaskedReply, State]:
    """Phase 3: the vector under its own mask and those shared with each peer.

    Args:
        state: after phase shares.
        request: the shares that peers made for this site.
        vector: whole numbers, noise included; used for this one answer only.

    Raises:
        VerificationError: if shares do not open, or the lists do not fit.
        PolicyError: if too few sites are left.
        UpdateError: if the vector has another length, or does not fit into the ring.
    """
    check_masked(state, request)
    if len(vector) != state.terms.length:
        raise UpdateError(f"Expected a vector of {state.terms.length} numbers, got {len(vector)}")
    digest = roster_digest(state.binding, state.roster)
    pairs = {
        peer: pair_key(state.mask_key, state.keys[peer], roster=digest, site=state.site)
        for peer in request.senders
    }
    own = self_key(state.seed, roster=digest, site=state.site)
    hidden = with_masks(
        to_ring(vector, bits=state.terms.bits),
        plus=[own, *(key for peer, key in pairs.items() if state.site < peer)],
        minus=[key for peer, key in pairs.items() if state.site > peer],
    )
    after = replace(
        _answer(state, request),
        mask_key=b"",
        share_key=b"",
        seed=b"",
        held={**state.held, **_opened(state, request)},
        sharers=request.sharers,
    )
    return MaskedReply(site=state.site, vector=hidden), after


def check_masked(state: State, request: MaskedRequest) -> None:
    """All that :func:`masked` refuses in a request, before noise is drawn and a budget debited for its vector.

    Raises:
        VerificationError: if shares do not open, or the lists do not fit.
        PolicyError: if too few sites are left.
    """
    _expect(state, request)
    _check_list(request.sharers, state, within=tuple(state.keys), what="sites that made shares")
    if request.senders != tuple(name for name in request.sharers if name != state.site) or len(
        request.ciphertexts
    ) != len(request.senders):
        raise VerificationError("Expected the shares of every other site that made some, got different ones")
    _opened(state, request)


def survivors(state: State, request: SurvivorsRequest, *, identity: Identity) -> tuple[SurvivorsReply, State]:
    """Phase 4: the list of those whose vectors are in the sum, signed.

    Raises:
        VerificationError: if somebody in the list made no shares, or this site is not in it.
        PolicyError: if the list is too short.
    """
    _expect(state, request)
    _check_list(request.survivors, state, within=state.sharers, what="survivors")
    after = replace(_answer(state, request), survivors=request.survivors)
    signature = sign_survivors(identity.key, lists=_lists(after))
    return SurvivorsReply(site=state.site, signature=signature), after


def unmask(state: State, request: UnmaskRequest, *, identity: Identity) -> tuple[UnmaskReply, State]:
    """Phase 5: a share of each survivor's seed and of each dropped site's mask key. Nothing is held afterwards.

    Raises:
        VerificationError: if fewer than ``threshold`` survivors signed the list that this site signed.
    """
    _expect(state, request)
    _check_order(request.signers, what="signers")
    if len(request.signers) != len(request.signatures) or not set(request.signers) <= set(state.survivors):
        raise VerificationError("Expected signatures of survivors, one each, got different ones")
    for signer, signature in zip(request.signers, request.signatures, strict=True):
        check_survivors(signer, signature, lists=_lists(state), known=identity.known)
    if len(request.signers) < state.terms.threshold:
        raise VerificationError(
            f"Expected the list of survivors signed by at least {state.terms.threshold} sites, got "
            f"{len(request.signers)}"
        )
    dropped = tuple(name for name in state.sharers if name not in state.survivors)
    reply = UnmaskReply(
        site=state.site,
        survivors=state.survivors,
        seed_shares=tuple(state.held[name].seed for name in state.survivors),
        dropped=dropped,
        key_shares=tuple(state.held[name].key for name in dropped),
    )
    return reply, replace(_answer(state, request), held={})


def _roster(state: State, request: SharesRequest, identity: Identity) -> tuple[KeysReply, ...]:
    _check_order(request.sites, what="sites")
    if not len(request.sites) == len(request.mask_keys) == len(request.share_keys) == len(request.signatures):
        raise VerificationError("Expected two keys and a signature of every site")
    roster = tuple(
        KeysReply(site=site, mask_key=mask_key, share_key=share_key, signature=signature)
        for site, mask_key, share_key, signature in zip(
            request.sites, request.mask_keys, request.share_keys, request.signatures, strict=True
        )
    )
    for peer in roster:
        check_keys(peer, binding=state.binding, known=identity.known)
    own = (public_key(state.mask_key), public_key(state.share_key))
    if own not in {(peer.mask_key, peer.share_key) for peer in roster if peer.site == state.site}:
        raise VerificationError(
            f"Expected the keys that {state.site} gave in this attempt among all keys, got none or others"
        )
    if len(roster) > state.terms.sites:
        raise VerificationError(f"Expected at most {state.terms.sites} sites, got {len(roster)}")
    _check_count(len(roster), state, what="sites")
    return roster


def _opened(state: State, request: MaskedRequest) -> dict[str, Held]:
    digest = roster_digest(state.binding, state.roster)
    found = {}
    for sender, ciphertext in zip(request.senders, request.ciphertexts, strict=True):
        text = decrypt(
            ciphertext, private=state.share_key, peer=state.keys[sender], roster=digest, site=state.site
        )
        if len(text) != 2 * shamir.SHARE_BYTES:
            raise VerificationError(f"Expected two shares from {sender}, got something else")
        found[sender] = Held(seed=text[: shamir.SHARE_BYTES], key=text[shamir.SHARE_BYTES :])
    return found


def _lists(state: State) -> str:
    roster = roster_digest(state.binding, state.roster)
    return lists_digest(roster, sharers=state.sharers, survivors=state.survivors)


def _check_list(names: tuple[str, ...], state: State, *, within: tuple[str, ...], what: str) -> None:
    _check_order(names, what=what)
    if not set(names) <= set(within):
        raise VerificationError(
            f"Expected {what} out of {', '.join(within)}, got {', '.join(sorted(set(names) - set(within)))}"
        )
    if state.site not in names:
        raise VerificationError(f"Expected {state.site} itself among the {what}, it is not")
    _check_count(len(names), state, what=what)


def _check_order(names: Sequence[str], *, what: str) -> None:
    if list(names) != sorted(set(names)):
        raise VerificationError(f"Expected the names of {what} in order, each once")


def _check_count(count: int, state: State, *, what: str) -> None:
    if count < state.terms.survivors:
        raise PolicyError(
            f"Expected at least {state.terms.survivors} {what}, got {count}: a sum over fewer is never opened"
        )


def _expect(state: State, request: Request) -> None:
    if state.is_repeated(request):
        raise VerificationError(f"Phase {request.phase} was answered already: send the reply that was kept")


def _answer(state: State, request: Request) -> State:
    return replace(state, answered=(*state.answered, request_digest(request)))


def _drawn(entropy: bytes, purpose: str, *sizes: int) -> list[bytes]:
    """Independent secrets of some sizes from 32 fresh bytes."""
    if len(entropy) != SECRET or len(set(entropy)) == 1:
        raise ValueError(f"Expected {SECRET} fresh bytes from the operating system")
    stream = hashlib.shake_256(f"synofed secrets 1\n{purpose}\n".encode() + entropy).digest(sum(sizes))
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [stream[start : start + size] for start, size in zip(starts, sizes, strict=True)]
