"""What a campaign's encoding makes of a network: what is sent of its weights and updates, and in how many bytes.

==============  =====================  ====================  ===================================
encoding        weights to a site      updates back          what an update loses
==============  =====================  ====================  ===================================
``float32``     4 bytes a number       4 bytes               nothing
``bfloat16``    2 bytes                2 bytes               is lost
``int8_int4``   8 bits, and 2 bytes a  4 bits, and 2 bytes   is kept at the site and added to its
                block of 64            a block               next update of that network
==============  =====================  ====================  ===================================

In blocks (:mod:`common.blocks`) are parameters alone: statistics of norms stay float32, since a variance that is
small beside its block's largest could become zero. Rounding is to nearest, not at random: error feedback (Karimireddy
et al. 2019, arXiv:1901.09847, algorithm 2) needs no unbiased rounding, and a round asked again gives the same bits.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from common import bfloat16, blocks
from common.messages import Encoding

Flat = Float32[np.ndarray, " numbers"]
WEIGHT_BITS, UPDATE_BITS = 8, 4
RESIDUAL = "residual"
"""Of a site's state: what its updates so far have lost."""


def sent_weights(weights: Flat, encoding: Encoding, *, trained: int) -> Flat:
    """Weights as a site gets them: what it scores, and so what becomes of the selected round (ADR 3).

    Args:
        weights: of the centre.
        encoding: of the campaign.
        trained: how many of them, from the first, are parameters.
    """
    if encoding == "bfloat16":
        return bfloat16.decode(bfloat16.encode(weights))
    return blocks.rounded(weights, trained, bits=WEIGHT_BITS) if encoding == "int8_int4" else weights


def sent_update(update: Flat, residual: Flat, *, trained: int) -> tuple[Flat, Flat]:
    """Of ``int8_int4``: the update that leaves, and what is added to the next one.

    Args:
        update: of this round.
        residual: what is still owed from earlier ones.
        trained: how many of its numbers, from the first, are parameters.
    """
    whole = update + residual
    sent = blocks.rounded(whole, trained, bits=UPDATE_BITS)
    return sent, whole - sent


def weights_bytes(encoding: Encoding, *, size: int, trained: int) -> int:
    """Bytes of a network's weights on their way to a site, at most."""
    return _bytes(encoding, size, trained, WEIGHT_BITS)


def update_bytes(encoding: Encoding, *, size: int, trained: int) -> int:
    """Bytes of a network's update on its way to the centre, at most."""
    return _bytes(encoding, size, trained, UPDATE_BITS)


def _bytes(encoding: Encoding, size: int, trained: int, bits: int) -> int:
    if encoding == "int8_int4":
        return blocks.size_bytes(size, trained, bits=bits)
    return {"float32": 4, "bfloat16": 2}[encoding] * size
