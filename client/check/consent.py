"""What the site permits, and whether the campaigns it knows still fit policy, data and version."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from client.check.report import Finding, ok, problem, warning
from client.connection.join import joining
from client.data.tables.sources import Sources
from client.site import policy_file
from client.site.policy import NEWEST
from client.site.site import Site
from client.state import decisions
from client.state.decisions import State, Status
from common.errors import DataError, SynofedError
from common.fab import fab_hash
from common.version import VERSION

SHOWN = 10
"""Campaigns, the newest first."""


def policy(site: Site) -> Iterator[Finding]:
    """Whether the policy counts, and what it permits."""
    if not policy_file.enrolled(site):
        yield ok("policy", "The site belongs to no federation: its policy needs no signature yet")
    else:
        try:
            signature = policy_file.check(site)
        except SynofedError as error:
            yield problem("policy", error, f"Every request is refused: {error}")
        else:
            yield _signed(site, signature)
    yield permits(site)


def _signed(site: Site, signature: policy_file.Signature) -> Finding:
    said = f"Signed at {signature.signed}, serial {signature.serial}"
    if site.policy.version == NEWEST:
        return ok("policy", said, serial=signature.serial)
    return warning(
        "policy",
        f"{said}, before policies had a version: maximum_rounds = {site.policy.maximum_rounds} limits each stage of "
        f"a campaign, not all its stages together",
        f"Set maximum_rounds to what all stages of a campaign may have together, then {policy_file.SIGN}",
        serial=signature.serial,
    )


def permits(site: Site) -> Finding:
    """The policy in one line."""
    file = site.policy
    protected = file.allow_secure_only or file.maximum_epsilon is not None
    if not ((file.allow_unprotected or protected) and file.methods) and not file.code:
        why = "policy.allow_unprotected is false, allow_secure_only too, and there is no maximum_epsilon"
        why = "policy.methods is empty" if file.allow_unprotected or protected else why
        return warning("policy", f"Nothing may run here: {why}", "Write into site.toml what you permit")
    said = [
        f"{', '.join(file.methods) or 'no built-in method'} for at most {file.maximum_rounds} rounds"
        f"{'' if file.version == NEWEST else ' per stage'}",
        f"approval {file.approval}",
        f"beside updates: {', '.join(file.metrics) or 'nothing'}",
        f"at least {file.minimum_cohort} patients",
        *([f"diagnoses, of at least {file.diagnosis_cohort} patients a class"] if file.diagnosis else []),
        f"hours: {', '.join(file.hours) or 'always'}",
    ]
    if file.code:
        said.append(f"own code: {', '.join(file.code)}")
    return ok("policy", f"Permits {'; '.join(said)}")


def ready(site: Site) -> Finding | None:
    """Whether ``synofed site join`` would start; ``None`` for a site that is not enrolled."""
    if not policy_file.enrolled(site):
        return None
    try:
        joining(site.folder)
    except SynofedError as error:
        return problem("site", error)
    return ok("site", "Keys, enrolment and settings are in order: synofed site join can start")


def versions() -> Finding:
    """What is installed here."""
    found = {name: metadata.version(name) for name in ("flwr", "torch")}
    listed = ", ".join(f"{name} {version}" for name, version in found.items())
    return ok(
        "versions",
        f"synofed {VERSION}, {listed}, Python {platform.python_version()}. Package hash {fab_hash()[:12]}: the "
        f"centre must run the same version",
        synofed=VERSION,
        fab=fab_hash(),
        python=platform.python_version(),
        **found,
    )


def known_campaigns(site: Site) -> Iterator[Finding]:
    """Each campaign that the site was asked about and has not left."""
    try:
        listed = [(h, s) for h, s in decisions.listed(site).items() if s.status is not Status.LEFT]
    except SynofedError as error:
        yield problem("campaigns", error)
        return
    if not listed:
        yield ok("campaigns", "The site was asked about none yet")
    for plan_hash, state in listed[:SHOWN]:
        yield _campaign(site, plan_hash, state)
    if len(listed) > SHOWN:
        yield ok("campaigns", f"{len(listed) - SHOWN} older ones were not looked at")


def _campaign(site: Site, plan_hash: str, state: State) -> Finding:
    name = f"{plan_hash[:12]} ({state.names[-1]}, {state.status})"
    try:
        settings = decisions.plan(site, plan_hash, name=state.names[-1])
        if settings.plan_hash() != plan_hash:
            return _misfit(state, name, DataError("the plan was written by another version"))
        site.policy.check_plan(settings)
        Sources.of(site).tables(settings)
    except SynofedError as error:
        return _misfit(state, name, error)
    advice = "Somebody here has to approve or leave it" if state.status is Status.WAITING else ""
    if advice:
        return warning("campaigns", f"{name} fits policy and data", advice)
    return ok("campaigns", f"{name} fits policy and data")


def _misfit(state: State, name: str, error: SynofedError) -> Finding:
    said = f"{name} would be refused: {str(error).splitlines()[0]}"
    if state.status is Status.APPROVED:
        return problem("campaigns", error, said)
    return warning("campaigns", said)
