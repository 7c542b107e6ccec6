"""Sites that sum under masks: keys, entropy, and a whole attempt with sites that drop out where they are told to."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict

from common.secure_aggregation import site
from common.secure_aggregation.centre import Attempt
from common.secure_aggregation.identity import Identity
from common.secure_aggregation.messages import (
    KeysRequest,
    MaskedRequest,
    Phase,
    Reply,
    Request,
    SharesRequest,
    SurvivorsRequest,
    UnmaskRequest,
)
from common.secure_aggregation.site_state import State
from common.secure_aggregation.terms import Context, Terms
from common.wire import codec

PART = "sum"
NAMES = ("Aachen", "Bergen", "Cork", "Dresden", "Espoo", "Faro", "Gent")


def fresh(*label: object) -> bytes:
    return hashlib.sha256(json.dumps([str(part) for part in label]).encode()).digest()


def signing_key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(fresh("signing key", name))


def public(name: str) -> str:
    return signing_key(name).public_key().public_bytes_raw().hex()


def registered(count: int) -> dict[str, str]:
    return {name: public(name) for name in NAMES[:count]}


def identity(name: str, count: int) -> Identity:
    return Identity(site=name, key=signing_key(name), peers=registered(count))


def context(attempt: str = "1", content: str = "cd" * 32) -> Context:
    return Context(
        plan_hash="ab" * 32, run="run", group="heads", server_round=3, attempt=attempt, content=content
    )


def terms(
    sites: int, *, survivors: int | None = None, colluders: int = 0, length: int = 8, bits: int = 64
) -> Terms:
    least = (sites + colluders) // 2 + 1
    return Terms(
        sites=sites,
        survivors=max(least, colluders + 2) if survivors is None else survivors,
        colluders=colluders,
        length=length,
        bits=bits,
    )


@dataclass
class Site:
    """A site whose state and replies survive only as what it wrote."""

    identity: Identity
    terms: Terms
    vector: np.ndarray
    label: str = ""
    written: str = ""
    kept: dict[str, Reply] = field(default_factory=dict)

    def answer(self, request: Request) -> Reply:
        state = State.parse(self.written) if self.written else None
        if state is not None and state.is_repeated(request):
            return self.kept[request.phase]
        reply, after = self._answer(state, request)
        self.written, self.kept[request.phase] = after.dump(), reply
        return reply

    def _answer(self, state: State | None, request: Request) -> tuple[Reply, State]:
        entropy = fresh(self.label, self.identity.site, request.context.attempt, request.phase)
        if isinstance(request, KeysRequest):
            return site.keys(self.identity, request, terms=self.terms, entropy=entropy)
        assert state is not None
        if isinstance(request, SharesRequest):
            return site.shares(state, request, identity=self.identity, entropy=entropy)
        if isinstance(request, MaskedRequest):
            return site.masked(state, request, self.vector)
        if isinstance(request, SurvivorsRequest):
            return site.survivors(state, request, identity=self.identity)
        assert isinstance(request, UnmaskRequest)
        return site.unmask(state, request, identity=self.identity)


def sites(vectors: Mapping[str, np.ndarray], terms: Terms, *, label: str = "") -> dict[str, Site]:
    return {
        name: Site(
            identity=identity(name, len(vectors)),
            terms=terms,
            vector=np.asarray(vector, np.int64),
            label=label,
        )
        for name, vector in vectors.items()
    }


def packed(message: Request | Reply) -> RecordDict:
    record = RecordDict()
    codec.put(message, PART, record, encoding="float32")
    return record


def request_of(record: RecordDict) -> Request:
    found: Request = codec.take(list(get_args(Request)), PART, dict(record.items()))
    return found


def reply_of(record: RecordDict) -> Reply:
    found: Reply = codec.take(list(get_args(Reply)), PART, dict(record.items()))
    return found


def play(
    attempt: Attempt,
    sites: Mapping[str, Site],
    *,
    absent: Mapping[Phase, Collection[str]] | None = None,
    until: Phase | None = None,
    seen: Callable[[str, Reply], None] | None = None,
) -> None:
    """All phases, or those before ``until``; who is absent in a phase is not heard of again."""
    gone: set[str] = set()
    while attempt.phase is not None and attempt.phase != until:
        gone |= set((absent or {}).get(attempt.phase, ()))
        for name, request in attempt.requests().items():
            if name in gone:
                attempt.drop(name)
                continue
            reply = reply_of(packed(sites[name].answer(request_of(packed(request)))))
            if seen is not None:
                seen(name, reply)
            attempt.accept(name, reply)
        assert not attempt.waiting
        attempt.next()
