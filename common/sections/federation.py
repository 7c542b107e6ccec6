"""The ``[federation]`` section: rounds between sites and centre."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from common.sections.section import (
    Bytes,
    Count,
    Criterion,
    GrowingSection,
    Options,
    Positive,
    Rate,
    Seconds,
    check_options,
)
from common.sections.secure import SecureSettings

Algorithm = Annotated[
    str, Field(pattern=r"^(fedavg|fedprox|scaffold|fedbn|fedavgm|fedadam|fedyogi|[\w.]+:\w+)$")
]
Rule = Annotated[str, Field(pattern=r"^(mean|median|trimmed_mean|krum|[\w.]+:\w+)$")]


class FederationSettings(GrowingSection):
    """Rounds between sites and centre."""

    later: ClassVar[tuple[str, ...]] = ("optimiser_state", "threshold", "secure", "options", "selection")

    algorithm: Algorithm = "fedavg"
    """What is trained and how updates become the next weights: ``fedavg``, ``fedprox`` (needs ``proximal_mu``),
    ``scaffold``, ``fedbn``, ``fedavgm``, ``fedadam``, ``fedyogi``, or your own ``package.module:Name``."""
    optimiser_state: Literal["fresh", "kept"] = "fresh"
    """Whether a site's optimiser starts afresh in each round, or goes on where its last round left it (AdamW's
    moments, SGD's momentum): two more vectors per network, which stay in the site's folder."""
    proximal_mu: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """FedProx's mu (Li et al. 2020, eq. 2)."""
    server_learning_rate: Rate | None = None
    """The centre's eta: FedAvgM's (0.7), FedAdam's and FedYogi's (0.01; chosen together with ``tau``)."""
    beta1: Annotated[float, Field(ge=0, lt=1)] | None = None
    """FedAvgM's momentum, FedAdam's and FedYogi's decay of the first moment (0.9)."""
    beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    """FedAdam's and FedYogi's decay of the second moment (0.99)."""
    tau: Rate | None = None
    """FedAdam's and FedYogi's degree of adaptivity, on the scale of one parameter's update (0.001)."""
    threshold: Criterion = "youden"
    """What a binary network's threshold makes largest on the sites' validation scores."""
    selection: Literal["best", "last"] = "best"
    """Which round's weights are kept: the one that scores best on the sites' validation folds, or the last, so that
    the folds choose nothing and can be used for something else."""
    rule: Rule = "mean"
    """How the sites' updates become one: ``mean`` (weighted by exams), ``median``, ``trimmed_mean``, ``krum`` (one
    site, one vote), or your own ``package.module:Name``; it runs at the centre only."""
    trimmed_share: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """Of the updates, what the trimmed mean leaves out at each end (0.2)."""
    byzantine: Count | None = None
    """Attackers that Krum is to stand (1); it needs 2 x ``byzantine`` + 3 sites."""
    selected: Positive | None = None
    """Updates that Krum averages (1)."""
    outliers: Literal["off", "flag", "refuse"] = "off"
    """Updates far longer than the other sites': not looked for, named in the round's record, or left out too."""
    outlier_tolerance: Rate = 6.0
    """Spreads above the median of log norms from which on an update is outlying."""
    rounds: Positive = 10
    quorum: Positive | Literal["all"] = "all"
    deadline_s: Seconds | None = None
    """How long a round waits for a site, in its open hours; ``None``: five times what a round takes it, at least
    a quarter of an hour; an hour where that is not known."""
    approval_s: Seconds = 14 * 24 * 3600.0
    """How long a campaign waits for the sites' approval before it goes on with those that its quorum needs."""
    group_bytes: Bytes = 256_000_000
    """Networks are packed into one message up to this size."""
    encoding: Literal["float32", "bfloat16", "int8_int4"] = "float32"
    """How weights and updates are written on the wire: whole, in half the bytes, or in 8 bits to a site and 4 back,
    where what an update loses is kept at the site and added to its next (:mod:`common.encodings`)."""
    secure: SecureSettings | None = None
    """Secure aggregation; ``None``: the centre sees every site's update."""
    options: Options = Field(default_factory=dict)
    """Of an algorithm of your own."""

    @model_validator(mode="after")
    def _options_are_of_ones_own(self) -> FederationSettings:
        check_options(self.options, self.algorithm, "federation.options", "federation.algorithm")
        return self

    @property
    def feeds_back(self) -> bool:
        """Whether a site keeps what its updates lose on the wire, and adds it to its next ones."""
        return self.encoding == "int8_int4"

    def needed(self, sites: int) -> int:
        """How many of this number of sites a round needs."""
        return sites if self.quorum == "all" else min(self.quorum, sites)
