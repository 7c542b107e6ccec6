"""Factories of sites with a privacy budget, and of what they release."""

from __future__ import annotations

from pathlib import Path

from client.site.site import Site
from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.accounting.spending import PrivateRelease, UnboundedRelease
from common.version import VERSION


def make_site(folder: Path, *, maximum_epsilon: float | None = 8.0, name: str = "north") -> Site:
    """A site without data; ``None``: one that permits no private release."""
    folder.mkdir(parents=True, exist_ok=True)
    budget = "" if maximum_epsilon is None else f"maximum_epsilon = {maximum_epsilon}\n"
    (folder / "site.toml").write_text(f'name = "{name}"\n[policy]\n{budget}', encoding="utf-8")
    return Site.open(folder)


def make_release(
    request_id: str = "r1",
    *,
    campaign: str = "a",
    server_round: int = 1,
    sigma: float = 5.0,
    sample_rate: float = 1.0,
    steps: int = 1,
    version: str = VERSION,
) -> PrivateRelease:
    """A private sum of one group of heads."""
    return PrivateRelease(
        kind="private-sum",
        campaign=campaign,
        plan_hash=campaign.encode().hex().ljust(64, "0"),
        request_id=request_id,
        server_round=server_round,
        group="heads",
        version=version,
        steps=PrivateSteps(sample_rate=sample_rate, noise_multiplier=sigma, count=steps),
        max_grad_norm=1.0,
        patients=150,
        images=4,
    )


def make_unbounded(*, campaign: str = "a", server_round: int = 1) -> UnboundedRelease:
    """Updates without privacy."""
    return UnboundedRelease(
        kind="update",
        campaign=campaign,
        plan_hash=campaign.encode().hex().ljust(64, "0"),
        server_round=server_round,
        version=VERSION,
    )


def patients(count: int, *, first: int = 0) -> list[str]:
    """Identifiers of patients."""
    return [f"p{number:03d}" for number in range(first, first + count)]
