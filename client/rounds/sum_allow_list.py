"""What may leave a site in a secure sum: what the protocol has in a phase, of exact sizes, and nothing else.

===========================================  ==========================================================
part of a reply                              what may stand there
===========================================  ==========================================================
names                                        the site, the request's id, sites of the attempt
keys, commitment                             32 bytes each
signature                                    64 bytes
encrypted shares, shares                     of one length, at most one for each site of the attempt
vector                                       as many whole numbers as the plan's sum has, under masks
===========================================  ==========================================================
"""

from __future__ import annotations

import dataclasses

from common.errors import PolicyError
from common.messages import SumReply, SumRequest
from common.secure_aggregation.agreement import NONCE_BYTES
from common.secure_aggregation.masks import dtype
from common.secure_aggregation.messages import REPLIES, MaskedReply
from common.secure_aggregation.shamir import SHARE_BYTES
from common.secure_aggregation.site_state import State

TAG_BYTES = 16
SIZES = {
    "mask_key": 32,
    "share_key": 32,
    "signature": 64,
    "commitment": 32,
    "ciphertexts": NONCE_BYTES + 2 * SHARE_BYTES + TAG_BYTES,
    "seed_shares": SHARE_BYTES,
    "key_shares": SHARE_BYTES,
}
NAMES = ("receivers", "survivors", "dropped")


def checked(reply: SumReply, request: SumRequest, state: State) -> SumReply:
    """The reply, once everything in it was found on the list.

    Args:
        reply: what is to leave.
        request: what it answers.
        state: of the attempt, after it.

    Raises:
        PolicyError: naming what is not; nothing leaves.
    """
    says = reply.says
    same = (reply.request_id, says.site, says.phase) == (request.request_id, state.site, request.asks.phase)
    if not same or type(says) is not REPLIES[request.asks.phase]:
        raise PolicyError(
            f"Expected the reply of phase {request.asks.phase}, got a different one: nothing leaves"
        )
    if isinstance(says, MaskedReply):
        expected = ((state.terms.length,), dtype(state.terms.bits))
        if (says.vector.shape, says.vector.dtype) != expected:
            raise PolicyError(
                f"Expected {state.terms.length} numbers under masks, got {says.vector.shape}: nothing leaves"
            )
        return reply
    for field in dataclasses.fields(says):
        value = getattr(says, field.name)
        parts = value if isinstance(value, tuple) else (value,)
        if field.name in SIZES:
            fits = all(len(part) == SIZES[field.name] for part in parts) and len(parts) <= state.terms.sites
        else:
            fits = set(parts) <= ({*state.keys} if field.name in NAMES else {state.site})
        if not fits:
            raise PolicyError(
                f"Expected other contents of {field.name} in phase {says.phase}: nothing leaves"
            )
    return reply
