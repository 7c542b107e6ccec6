"""What a campaign is promised to cost, as JSON beside the annex that is signed: an audit compares what was done."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from common.errors import VerificationError
from common.sections.section import Positive, Section

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Delta = Annotated[float, Field(gt=0, lt=1)]


class SitePromise(Section):
    """What one site's policy says, as its officer signed it."""

    site: str
    policy_hash: Sha256
    maximum_epsilon: Above | None
    """Cap of a patient over all campaigns; ``None``: no private campaign may run."""
    maximum_delta: Delta
    epsilon: Annotated[float, Field(ge=0)]
    """Of this campaign at the cap's delta."""
    keep_outbox_days: Annotated[int, Field(ge=0)]


class Promise(Section):
    """The numbers of an annex."""

    format: Literal["synofed promise 1"] = "synofed promise 1"
    created: str
    """When, ISO 8601."""
    version: str
    """Of synofed."""
    campaign: str
    plan_hash: Sha256
    method: str
    purpose: str
    recipients: tuple[str, ...]
    unit: Literal["patient"] = "patient"
    adjacency: Literal["one patient added or removed"] = "one patient added or removed"
    accountant: str
    epsilon: Above
    delta: Delta
    noise_multiplier: Above
    max_grad_norm: Above
    sample_rate: Share
    rounds: Positive
    steps: Positive
    """Private steps that are debited to the patient who takes part in most."""
    secure_aggregation: bool
    images: Positive
    """The most of a patient's that enter."""
    patients: Positive
    """The public number that the sum is divided by, a site."""
    planned_patients: Positive
    """At all sites together."""
    planned_sites: Positive
    leaves: dict[str, Positive]
    """Network -> numbers of its noised update, each round."""
    site: SitePromise | None = None
    """``None``: the annex is not made at a site."""


def read(text: str) -> Promise:
    """A promise from its JSON.

    Raises:
        VerificationError: if it is none.
    """
    try:
        return Promise.model_validate_json(text)
    except ValidationError as error:
        raise VerificationError(
            f"Expected a promise as `synofed privacy plan --dpia` writes it beside the annex: {error}"
        ) from None
