"""What centre and site say to each other, as typed values; :mod:`common.wire` packs them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, ClassVar, Final, Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int64

from common.errors import UpdateError
from common.receipts import SUM, Receipt
from common.secure_aggregation import messages as sums
from common.secure_aggregation.terms import Context, digest
from common.version import VERSION

TRANSIENT = frozenset({"unapproved", "paused", "hours", "busy", "behind"})
"""Codes of refusals that may pass: the site is asked again."""
MISHAPS = frozenset({"storage", "memory", "data", "changed", "internal"})
"""Codes of refusals of a site that had agreed: something broke there, which may be mended before the deadline."""

Encoding = Literal["float32", "bfloat16", "int8_int4"]
Weights = Float32[np.ndarray, " _"]
Rounded = Annotated[Weights, "written in the message's encoding"]
"""Weights that are rounded where the campaign says so; all others never are."""
RoundedUpdate = Annotated[Weights, "an update, written in the message's encoding"]
Histograms = Int64[np.ndarray, "classes 256"]
Products = Float64[np.ndarray, "answers columns"]
"""Sums of products over exams, as :class:`common.ensemble.stacked_regression.NormalSums` has them as one matrix."""

Of = TypeVar("Of")
PER_NETWORK: Final = "per network"
PerNetwork = Annotated[Mapping[str, Of], PER_NETWORK]
"""Network name -> value, of each network of the message."""
ONLY_IF_ANY: Final = "only if any"
"""Marks arrays that have no part in a message where there are none."""
WEEK_MINUTES = 7 * 24 * 60


@dataclass(frozen=True, slots=True)
class Named:
    """What a field is called on the wire, where that is not its name."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """Asks a site whether it takes part in a campaign.

    Attributes:
        campaign: the campaign's name.
        request_id: drawn anew each time it is asked, so that no old answer fits.
        version: the centre's version of synofed.
        plan: canonical JSON of everything that changes what leaves the site.
        plan_hash: SHA-256 of ``plan``, in hex.
        run: names this run of the plan, as :attr:`TrainRequest.run`: another run needs another approval.
        known: the highest receipt of each campaign that this site has signed, over all runs: the site sees whether
            its log and ledger were put back to an older copy.
    """

    part: ClassVar[str] = "request"
    campaign: str
    request_id: str
    version: str
    plan: str
    plan_hash: str
    run: str = ""
    known: tuple[Receipt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReply:
    """A site's consent.

    Attributes:
        site: the site's name.
        version: the site's version of synofed.
        plan_hash: the hash that the site computed.
        usable: measurement -> training exams, 0 where the site would train nothing for it; empty where counts
            stay there.
        public_key: Ed25519 key of the site's receipts, in hex.
        without: tasks (:attr:`common.networks.spec.Target.task`) in whose sums the site takes no part, as its people
            approved the campaign.
        hours: when the site trains, as windows [start, end) in minutes of the UTC week, which begins on Monday at
            00:00; none: always.
        round_seconds: what a round of this site took lately; NaN where none was measured.
        statistics: canonical JSON of :class:`common.evaluation.inside.site_statistics.SiteStatistics`; empty where
            they stay there, or the plan does not ask.
    """

    part: ClassVar[str] = "reply"
    site: str
    version: str
    plan_hash: str
    usable: Mapping[str, int]
    public_key: str
    without: tuple[str, ...] = ()
    hours: tuple[tuple[int, int], ...] = ()
    round_seconds: float = math.nan
    statistics: str = ""

    def __post_init__(self) -> None:
        """Refuse hours outside a week."""
        if any(not 0 <= start < end <= WEEK_MINUTES for start, end in self.hours):
            raise UpdateError(
                f"Expected hours within the {WEEK_MINUTES} minutes of a week, got values outside"
            )


@dataclass(frozen=True, slots=True)
class WeightsRef:
    """Weights that a site already has, or asks for with :class:`MissingWeights`.

    Attributes:
        hash: SHA-256 of the flat vector's little-endian float32 bytes, in hex.
    """

    hash: str

    @classmethod
    def of(cls, weights: Weights) -> WeightsRef:
        """The reference to some weights."""
        return cls(hashlib.sha256(np.ascontiguousarray(weights, dtype="<f4").data).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """Asks a site to train one group of networks for one round.

    Attributes:
        campaign: the campaign's name.
        plan_hash: the plan that the site agreed to.
        request_id: names this request; the same id gets the same reply.
        group: the group's name.
        server_round: counts from 1; ``rounds + 1`` scores the final weights without training.
        encoding: how the weights are written, and are to be written in the reply.
        weights: network name -> flat weights.
        layouts: network name -> hash of the layout of its flat weights.
        frozen: network name -> part -> its weights, which the site has or asks for.
        attached: weights for the site's cache, by hash; of those that it has asked for.
        extra: network name -> further arrays of the algorithm, by name; never rounded.
        run: names this run of the campaign: what a site keeps from round to round is kept apart by it.
        state_round: the site's last round in this run that counted; 0: none. What the site keeps is read from
            there, so that a round whose reply was late or dropped leaves no trace.
    """

    part: ClassVar[str] = "request"
    campaign: str
    plan_hash: str
    request_id: str
    group: str
    server_round: int
    encoding: Encoding
    layouts: PerNetwork[str]
    weights: PerNetwork[Rounded]
    frozen: Mapping[str, Mapping[str, WeightsRef]] = field(default_factory=dict)
    attached: Mapping[str, Weights] = field(default_factory=dict)
    extra: PerNetwork[Mapping[str, Weights]] = field(default_factory=dict)
    run: str = ""
    state_round: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkReply:
    """What one network's round gave at a site.

    Attributes:
        update: trained minus received weights, of ``int8_int4`` with what earlier updates lost; ``None`` where
            nothing was trained.
        num_examples: exams before resampling; the weight in FedAvg.
        loss: mean training loss; NaN where nothing was trained.
        histograms: counts of validation scores of the received weights, class x bin; ``None`` where the site's
            policy keeps them, or the network has no grades to validate on.
        extra: further arrays of the algorithm, by name; never rounded.
    """

    update: Annotated[RoundedUpdate | None, Named("updates")]
    num_examples: int
    loss: float
    histograms: Histograms | None
    extra: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReply:
    """A site's answer to a :class:`TrainRequest`.

    Attributes:
        stacking: of the round that scores the final weights: name of networks that become one number by stacked
            regression (:func:`common.methods.stages.stacked`) -> the site's sums over their fold; none of those that
            the site's policy keeps, or too few patients stand behind.
    """

    part: ClassVar[str] = "reply"
    site: str
    request_id: str
    networks: PerNetwork[NetworkReply]
    stacking: Annotated[Mapping[str, Products], ONLY_IF_ANY] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumRequest:
    """Asks a site for one phase of an attempt at a sum that is opened as a whole alone.

    Attributes:
        campaign: the campaign's name.
        request_id: :func:`sum_request_id`: a phase of an attempt has one.
        networks: whose updates are summed, in the order of the vector.
        asks: what the phase asks, and in which attempt.
        train: in phase masked what is to be trained, under the same names; else none.
    """

    part: ClassVar[str] = "request"
    campaign: str
    request_id: str
    networks: tuple[str, ...]
    asks: Annotated[sums.Request, Named("sum")]
    train: TrainRequest | None = None

    def __post_init__(self) -> None:
        """Refuse training in another phase than masked, and that phase without it."""
        if (self.train is None) == (self.asks.phase == "masked"):
            raise UpdateError(
                f"Expected what is to be trained in phase masked alone, got phase {self.asks.phase}"
            )

    @property
    def plan_hash(self) -> str:
        """The plan that the site agreed to."""
        return self.asks.context.plan_hash

    @property
    def group(self) -> str:
        """The group's name."""
        return self.asks.context.group

    @property
    def server_round(self) -> int:
        """The round."""
        return self.asks.context.server_round

    @property
    def place(self) -> tuple[int, str]:
        """Round and group as the receipt of its reply names them: patients' data go into phase masked alone."""
        if self.asks.phase == "masked":
            return self.server_round, self.group
        return 0, f"{SUM}/{self.group}/{self.server_round}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SumReply:
    """A site's answer to a :class:`SumRequest`."""

    part: ClassVar[str] = "reply"
    site: str
    request_id: str
    says: Annotated[sums.Reply, Named("sum")]


def sum_request_id(context: Context, phase: sums.Phase) -> str:
    """The id of the one request that a phase of an attempt has, at every site."""
    return digest("request id", [asdict(context), phase])[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pieces:
    """Brings a site an ensemble, whole or in pieces.

    Attributes:
        campaign: the campaign's name.
        plan_hash: the plan that the site agreed to.
        request_id: names this request; the same id always has the same contents.
        statement: canonical JSON of :class:`common.ensemble.statement.Statement`.
        signature: the centre's over the statement, in hex; empty in a simulation.
        certificate: the centre's, PEM; empty in a simulation.
        weights: some of the flat arrays that the statement names, by hash; never rounded.
    """

    part: ClassVar[str] = "request"
    campaign: str
    plan_hash: str
    request_id: str
    statement: str
    signature: str
    certificate: str
    weights: Mapping[str, Weights]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleRequest(_Pieces):
    """Brings a site the ensemble that it helped to train, to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest(_Pieces):
    """Brings a site an ensemble, to grade its held-out patients with; the networks are not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleReply:
    """A site's acknowledgement.

    Attributes:
        missing: hashes of arrays that it has yet to get; none: the ensemble is there.
    """

    part: ClassVar[str] = "reply"
    site: str
    request_id: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateReply:
    """What a site tells of an ensemble on its held-out patients.

    Attributes:
        missing: hashes of arrays that it has yet to get; none: it has graded its patients.
        tables: canonical JSON of :class:`common.evaluation.inside.site_tables.SiteTables`; empty while arrays are
            missing.
    """

    part: ClassVar[str] = "reply"
    site: str
    request_id: str
    missing: tuple[str, ...]
    tables: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A site's answer when it did not do what was asked: a fixed code, never an exception's text.

    Attributes:
        version: the site's version of synofed.
    """

    part: ClassVar[str] = "refusal"
    site: str
    code: str
    version: str = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingWeights:
    """A site's answer when its cache lacks weights that a request refers to: it is to be asked again with them."""

    part: ClassVar[str] = "missing-weights"
    site: str
    request_id: str
    hashes: tuple[str, ...]


Pieces = EnsembleRequest | EvaluateRequest
"""What brings a site an ensemble, whole or in pieces."""
Request = PlanRequest | TrainRequest | SumRequest | Pieces
RoundReply = TrainReply | SumReply
PiecesReply = EnsembleReply | EvaluateReply
Reply = TypeVar("Reply", bound=PlanReply | RoundReply | PiecesReply)
Reply_co = TypeVar("Reply_co", bound=PlanReply | RoundReply | PiecesReply, covariant=True)
Message = TypeVar(
    "Message",
    bound=Request | PlanReply | RoundReply | PiecesReply | Refusal | MissingWeights,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed(Generic[Reply_co]):
    """A reply as it arrived.

    Attributes:
        reply: what the site answered.
        receipt: what the site signed; not yet checked.
        contents_hash: of what really arrived.
    """

    reply: Reply_co
    receipt: Receipt
    contents_hash: str
