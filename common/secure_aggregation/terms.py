"""What all sites of a sum agree on, and how it enters everything that is signed, encrypted or derived.

Nobody sends the terms. Each side makes them from the approved plan, and their hash stands in every signature and
key, so sites with other terms, or another round, have nothing in common.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from common import signed_json
from common.errors import ConfigurationError

PROTOCOL = 2
DOMAIN = b"synofed secure aggregation 1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The numbers of a sum.

    Attributes:
        sites: S, how many sites the roster has.
        survivors: U, the fewest sites whose sum is opened.
        colluders: t, how many sites may collude with the centre.
        length: numbers in a vector.
        bits: of the ring, 32 or 64.

    Raises:
        ConfigurationError: if they do not protect: fewer than two honest survivors, or so few survivors that two
            halves of the sites could be told two different stories.
    """

    sites: int
    survivors: int
    colluders: int
    length: int
    bits: int

    def __post_init__(self) -> None:
        if not (self.colluders >= 0 and self.colluders + 2 <= self.survivors <= self.sites):
            raise ConfigurationError(
                f"Expected 0 <= colluders <= survivors - 2 and survivors <= sites, got {self.colluders} colluders, "
                f"{self.survivors} survivors, {self.sites} sites: a sum hides nobody behind fewer than two"
            )
        if self.survivors < self.threshold:
            raise ConfigurationError(
                f"Expected at least {self.threshold} survivors of {self.sites} sites with {self.colluders} "
                f"colluders, got {self.survivors}: with fewer, the centre could open one site's masks by "
                f"telling the sites two stories"
            )
        if self.length < 1 or self.bits not in (32, 64):
            raise ConfigurationError(
                f"Expected a length of at least 1 and 32 or 64 bits, got {self.length} and {self.bits}"
            )

    @property
    def threshold(self) -> int:
        """How many shares open a secret, and how many sites must have signed the list of survivors.

        More than ``(sites + colluders) / 2``: two lists would need so many signatures each, and only colluders sign
        twice (Bonawitz et al. 2017, theorem 6.5).
        """
        return (self.sites + self.colluders) // 2 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Which attempt at which round this is.

    Attributes:
        plan_hash: of the plan that the sites approved.
        run: the run.
        group: the group of networks.
        server_round: the round.
        attempt: a number that was never used before, 32 hex digits drawn by the centre.
        content: SHA-256 of what every site is asked to compute, in hex; a site computes nothing else, so that no
            one's vector is hidden among others that are known to be nothing (Pasquini, Francati and Ateniese 2022,
            doi 10.1145/3548606.3560557).
    """

    plan_hash: str
    run: str
    group: str
    server_round: int
    attempt: str
    content: str


def binding(context: Context, terms: Terms) -> str:
    """SHA-256 over protocol, context and terms, in hex."""
    return digest("terms", {"protocol": PROTOCOL, **asdict(context), **asdict(terms)})


def digest(kind: str, content: object) -> str:
    """SHA-256 over a statement of a kind, in hex."""
    return hashlib.sha256(statement(kind, content)).hexdigest()


def statement(kind: str, content: object) -> bytes:
    """The bytes that are signed or hashed: a domain, the kind, and canonical JSON."""
    return DOMAIN + kind.encode() + b"\n" + signed_json.canonical(content).encode()
