"""What the loop asks of a group, however its rounds are made: by single updates, or by secure sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from flwr.app import RecordDict

from common import wire
from common.machine.network_files import TrainedNetwork
from common.messages import (
    MissingWeights,
    Refusal,
    RoundReply,
    Signed,
    SumReply,
    SumRequest,
    TrainReply,
    TrainRequest,
)
from server.rounds.journal import RoundRecord

Request = TrainRequest | SumRequest


@runtime_checkable
class Rounds(Protocol):
    """One group: :meth:`requests`, :meth:`accept` or :meth:`drop` once per site, :meth:`close`, until ``done``."""

    @property
    def name(self) -> str:
        """The group's name."""
        ...

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        ...

    @property
    def rounds(self) -> int:
        """All rounds."""
        ...

    @property
    def records(self) -> tuple[RoundRecord, ...]:
        """All committed rounds."""
        ...

    @property
    def waiting(self) -> bool:
        """Whether an exchange is under way."""
        ...

    @property
    def complete(self) -> bool:
        """Whether every site of the exchange has answered or was dropped."""
        ...

    def requests(self) -> Sequence[tuple[Request, Sequence[str]]]:
        """Begin the next exchange: pairs of a request and the sites that get it."""
        ...

    def request_again(self, site: str) -> Request:
        """The request that a site got in this exchange."""
        ...

    def request_with(self, missing: MissingWeights, *, site: str) -> Request:
        """The same request with weights that a site lacks."""
        ...

    def accept(self, site: str, reply: RoundReply | Refusal) -> None:
        """Take one site's answer."""
        ...

    def drop(self, site: str, reason: str) -> None:
        """Go on without a site."""
        ...

    def close(self) -> RoundRecord | None:
        """Close the exchange: a committed round, or none where another exchange of it follows."""
        ...

    def results(self) -> Iterator[TrainedNetwork]:
        """Each network with its selected weights, once done."""
        ...


def packed(request: Request) -> tuple[str, RecordDict]:
    """Type and contents of the message that brings a request."""
    return wire.SUM if isinstance(request, SumRequest) else wire.TRAIN, wire.encode(request)


def unpacked(record: RecordDict, *, kind: str) -> Signed[RoundReply] | MissingWeights | Refusal:
    """What a reply to a message of that type says.

    Raises:
        UpdateError: if a field is missing, unknown or of another type.
        VerificationError: the same of its receipt.
    """
    if kind == wire.SUM:
        return wire.decode_round_reply(SumReply, record)
    return wire.decode_round_reply(TrainReply, record)
