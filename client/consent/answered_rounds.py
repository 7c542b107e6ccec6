"""Which rounds of an approved campaign were asked for: each network's round once, whatever the request is called.

Without this, a centre could ask for one round again and again under new ids, from weights of its choice, and get more
out of a site than the rounds that were approved. A second run of the same plan needs a second approval.
"""

from __future__ import annotations

import json
from pathlib import Path

from client.files import atomic
from client.site.site import Site
from client.state import decisions
from common.errors import PolicyError, UnapprovedError
from common.messages import TrainRequest

RUN = "run"
"""The key of the run that was met; those of rounds hold a number and a slash."""
EVALUATED = "evaluated"
"""The key of the ensemble that patients were graded with."""


def check(site_folder: Path, request: TrainRequest, *, asker: str | None = None) -> None:
    """Whether a round was not asked for by another request since the approval; asked before anything is done for it.

    Args:
        site_folder: the site's.
        request: asks for a round.
        asker: who may ask for it again; ``None``: the same request. A run may make several attempts at a secure sum,
            each charged, of which one is opened.

    Raises:
        UnapprovedError: if it was.
        PolicyError: if what was noted cannot be read.
    """
    known = _read(_path(site_folder, request.plan_hash))
    asker = asker or request.request_id
    others = sorted(key for key in _keys(request) if known.get(key, asker) != asker)
    if others:
        raise UnapprovedError(
            f"Round {others[0]} of campaign {request.plan_hash[:12]} was asked for before, by another request: a "
            f"second run of a plan has to be approved again with `synofed site campaigns approve`"
        )


def claim(site_folder: Path, request: TrainRequest, *, asker: str | None = None) -> None:
    """Note that a request asks for its round, before anything of it leaves; ``asker``: see :func:`check`.

    Raises:
        UnapprovedError: as :func:`check`.
        PolicyError: if what was noted cannot be read.
        StorageError: if it cannot be written.
    """
    place = _path(site_folder, request.plan_hash)
    with decisions.locked(place.parent):
        check(site_folder, request, asker=asker)  # another request may have come while this one was worked on
        known = _read(place)
        if not all(key in known for key in _keys(request)):
            atomic.write(
                place, json.dumps(known | dict.fromkeys(_keys(request), asker or request.request_id)).encode()
            )


def claim_at(site: Site, request: TrainRequest, *, asker: str | None = None) -> None:
    """As :func:`claim`, where campaigns are approved one by one; elsewhere nothing is noted.

    Raises:
        UnapprovedError: as :func:`claim`.
        PolicyError: as :func:`claim`.
        StorageError: as :func:`claim`.
    """
    if site.policy.approval == "each":
        claim(site.folder, request, asker=asker)


def claim_evaluation(site: Site, plan_hash: str, ensemble: str) -> None:
    """Note which ensemble held-out patients are graded with: under one approval only one.

    Networks of the centre's choice, one after the other, would tell more of single patients than those that were
    trained. Where the policy approves campaigns, in simulations, nothing is noted.

    Args:
        site: the site.
        plan_hash: of the campaign.
        ensemble: the hash of what the centre states of it.

    Raises:
        UnapprovedError: if another was asked about since the approval.
        PolicyError: if what was noted cannot be read.
        StorageError: if it cannot be written.
    """
    if site.policy.approval != "each":
        return
    place = _path(site.folder, plan_hash)
    with decisions.locked(place.parent):
        known = _read(place)
        if known.get(EVALUATED, ensemble) != ensemble:
            raise UnapprovedError(
                f"Another ensemble of campaign {plan_hash[:12]} was asked about under its approval: a second one has "
                f"to be approved again with `synofed site campaigns approve`"
            )
        if EVALUATED not in known:
            atomic.write(place, json.dumps(known | {EVALUATED: ensemble}).encode())


def meet(site_folder: Path, plan_hash: str, run: str) -> None:
    """Whether a run of a campaign may go on under its approval: the first one whose rounds were asked for, no other.

    Raises:
        UnapprovedError: if rounds were asked for by another run since the approval.
        PolicyError: if what was noted cannot be read.
        StorageError: if it cannot be written.
    """
    place = _path(site_folder, plan_hash)
    with decisions.locked(place.parent):
        known = _read(place)
        begins = bool(run) and set(known) <= {RUN} and known.get(RUN) != run
        if begins:
            atomic.write(place, json.dumps({RUN: run}).encode())
    if not begins and known.get(RUN, run) != run:
        raise UnapprovedError(
            f"Campaign {plan_hash[:12]} was run under its approval before: a second run of a plan has to be approved "
            f"again with `synofed site campaigns approve`"
        )


def forget(site_folder: Path, plan_hash: str) -> bool:
    """Begin anew: the campaign was approved again; whether it had been run under an approval before."""
    place = _path(site_folder, plan_hash)
    known = place.exists()
    place.unlink(missing_ok=True)
    return known


def _keys(request: TrainRequest) -> list[str]:
    return [f"{request.server_round}/{name}" for name in request.weights]


def _path(site_folder: Path, plan_hash: str) -> Path:
    return decisions.folder(site_folder, plan_hash) / "answered.json"


def _read(place: Path) -> dict[str, str]:
    try:
        content = json.loads(place.read_bytes())
        return {str(key): str(request_id) for key, request_id in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        raise PolicyError(
            f"Expected the rounds that were asked for in {place}: approve the campaign again"
        ) from None
