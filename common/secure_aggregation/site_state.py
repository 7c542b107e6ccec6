"""What a site keeps between the phases of an attempt: a small value, secret, written before each reply leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from common.errors import SiteStateError, VerificationError
from common.secure_aggregation.messages import PHASES, KeysReply, Phase, Request, request_digest
from common.secure_aggregation.terms import Context, Terms, binding


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A share of each of one peer's two secrets; only one of them may ever leave.

    Attributes:
        seed: of the seed of its own mask.
        key: of its mask key.
    """

    seed: bytes
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A site in an attempt; immutable, each phase gives the next one.

    Secrets are dropped as soon as no later phase needs them.

    Attributes:
        context: the attempt.
        terms: its terms.
        site: the site's name.
        answered: digest of the request of each phase that was answered, in the order of phases.
        mask_key: private, until the vector was masked.
        share_key: private, until then.
        seed: of the site's own mask, from phase shares until then.
        roster: everybody's keys, from phase shares on.
        held: peer -> its shares that this site holds; its own from phase shares on, the others' from masked on.
        sharers: who made shares, from phase masked on.
        survivors: whose vectors are in the sum, from phase survivors on.
    """

    context: Context
    terms: Terms
    site: str
    answered: tuple[str, ...]
    mask_key: bytes = field(repr=False)
    share_key: bytes = field(repr=False)
    seed: bytes = field(repr=False, default=b"")
    roster: tuple[KeysReply, ...] = ()
    held: Mapping[str, Held] = field(repr=False, default_factory=dict)
    sharers: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()

    @property
    def binding(self) -> str:
        """Digest of context and terms."""
        return binding(self.context, self.terms)

    @property
    def keys(self) -> dict[str, KeysReply]:
        """Everybody's keys, by name."""
        return {keys.site: keys for keys in self.roster}

    def is_repeated(self, request: Request) -> bool:
        """Whether the request was answered already, so that the reply which was kept goes out again.

        Raises:
            VerificationError: if another request was answered in its phase: a phase is answered once.
            SiteStateError: if the request is of another attempt, or phases before it were not answered.
        """
        if request.context != self.context:
            raise SiteStateError(
                f"Expected attempt {self.context.attempt} at round {self.context.server_round} of "
                f"{self.context.group}, got another one: {request.context.attempt} at round "
                f"{request.context.server_round} of {request.context.group}"
            )
        number = PHASES.index(request.phase)
        if number < len(self.answered):
            if self.answered[number] != request_digest(request):
                raise VerificationError(
                    f"The centre asks a second time in phase {request.phase}, and for something else: each phase of "
                    f"an attempt is answered once; it has to begin another attempt"
                )
            return True
        if number > len(self.answered):
            raise SiteStateError(f"Expected phase {self.next_phase} of the attempt, got {request.phase}")
        return False

    def forbids(self, context: Context) -> bool:
        """Whether another attempt would be at a round whose sum may have been opened, or at an earlier one."""
        same = (self.context.plan_hash, self.context.run, self.context.group)
        if same != (context.plan_hash, context.run, context.group):
            return False
        first = self.context.server_round + (1 if self.next_phase is None else 0)
        return context.server_round < first

    @property
    def next_phase(self) -> Phase | None:
        """What has not been answered yet; nothing at the end."""
        return PHASES[len(self.answered)] if len(self.answered) < len(PHASES) else None

    def dump(self) -> str:
        """As JSON, for a file that nobody else can read."""
        return json.dumps(asdict(self), default=bytes.hex, sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> State:
        """Undo :meth:`dump`.

        Raises:
            SiteStateError: if the text is no state.
        """
        try:
            content = json.loads(text)
            secrets = {name: bytes.fromhex(content[name]) for name in ("mask_key", "share_key", "seed")}
            return cls(
                context=Context(**content["context"]),
                terms=Terms(**content["terms"]),
                site=content["site"],
                answered=tuple(content["answered"]),
                **secrets,
                roster=tuple(_keys(keys) for keys in content["roster"]),
                held={
                    name: Held(seed=bytes.fromhex(held["seed"]), key=bytes.fromhex(held["key"]))
                    for name, held in content["held"].items()
                },
                sharers=tuple(content["sharers"]),
                survivors=tuple(content["survivors"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SiteStateError(
                "Expected the state of an attempt, got something else: have the centre begin another attempt"
            ) from None


def _keys(content: Mapping[str, str]) -> KeysReply:
    parts = {name: bytes.fromhex(content[name]) for name in ("mask_key", "share_key", "signature")}
    return KeysReply(site=content["site"], **parts)
