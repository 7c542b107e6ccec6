"""The ensemble that a site gets back: taken piece by piece, checked against what the centre signed, kept whole.

``<site folder>/campaigns/<plan hash>/ensemble/`` is there with all its networks or not at all, and is laid out as a
run's folder, so that ``synofed score`` reads it. What has come so far lies beside it in ``.ensemble``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import tomli_w
from pydantic import ValidationError

from client.ensemble import pieces
from client.ensemble.pieces import Flat, Letter, Waiting
from client.files import atomic
from client.site.site import Site
from client.state import decisions
from common.ensemble.committee import Committee
from common.ensemble.statement import RECIPIENT, Statement
from common.errors import DataError, PolicyError, VerificationError
from common.machine import network_files
from common.messages import EnsembleReply, EnsembleRequest, WeightsRef
from common.methods.stages import NetworkResult
from common.networks.spec import NetworkSpec
from common.privacy.planning import notice
from common.sections.networks import NetworkSettings
from common.settings import Settings
from common.text.notices import RESEARCH_ONLY


def folder(site_folder: Path, plan_hash: str) -> Path:
    """Where a campaign's ensemble lies once it is whole."""
    return decisions.folder(site_folder, plan_hash) / "ensemble"


def take(site: Site, request: EnsembleRequest, settings: Settings) -> EnsembleReply:
    """Keep what came of an ensemble; with its last piece it is there.

    Args:
        site: the site.
        request: what came.
        settings: of the campaign, as the site approved it.

    Returns:
        What is still missing.

    Raises:
        PolicyError: if the approved plan does not say that sites get the networks, or the site is not enrolled.
        VerificationError: if the statement is not the centre's.
        UpdateError: if it speaks of another campaign, or of networks that the plan does not have, or an array is none
            of its.
        StorageError: if it cannot be kept; then the next request brings what is missing.
    """
    if RECIPIENT not in settings.campaign.recipients:
        raise PolicyError(f"Expected {RECIPIENT!r} among the recipients of the approved plan, there is none")
    letter = Letter.of(request)
    statement = letter.verified(site, now=datetime.now(UTC))
    pieces.check_campaign(statement, request)
    planned = pieces.planned(statement, settings)
    if is_there(site.folder, request.plan_hash, letter.statement):
        return EnsembleReply(site=site.name, request_id=request.request_id, missing=())
    with pieces.writing():
        path = decisions.folder(site.folder, request.plan_hash) / ".ensemble"
        draft = _Draft(path, statement, planned, settings.network)
        draft.add(request.weights)
        missing = draft.missing()
        if not missing:
            draft.finish()
            _finish(draft.path, letter, statement, settings)
    return EnsembleReply(site=site.name, request_id=request.request_id, missing=missing)


def opened(site: Site, plan_hash: str) -> tuple[Statement, Committee]:
    """An ensemble that is there, looked at again: every network is what the centre signed.

    Raises:
        DataError: if there is none.
        VerificationError: if anything of it was changed.
    """
    place = folder(site.folder, plan_hash)
    try:
        letter = Letter.model_validate_json((place / "statement.json").read_bytes())
    except (OSError, ValidationError):
        raise DataError(
            f"Expected the ensemble of campaign {plan_hash[:12]} in {place}, there is none: the centre sends it when "
            f"the campaign has ended, if its plan says that sites receive it"
        ) from None
    statement = letter.verified(site, now=None)
    trained = [
        network_files.load(network_files.path(place / "networks", name)) for name in statement.networks
    ]
    for network in trained:
        found = {part: WeightsRef.of(values).hash for part, values in network.frozen.items()}
        stated = statement.networks[network.spec.name]
        if (WeightsRef.of(network.weights).hash, found) != (stated.weights, dict(stated.frozen)):
            raise VerificationError(
                f"The network {network.spec.name} in {place} is not the one that was signed"
            )
    settings = decisions.plan(site, plan_hash, name=statement.campaign)
    return statement, network_files.committee(trained, settings, stacks=statement.stacks)


class _Draft:
    """What has come so far: arrays, and networks all of whose arrays have come."""

    def __init__(
        self,
        path: Path,
        statement: Statement,
        planned: Mapping[str, NetworkSpec],
        settings: NetworkSettings,
    ) -> None:
        self.path = path
        self._statement = statement
        self._arrays = Waiting(folder=path / "arrays", statement=statement, specs=planned, settings=settings)
        text = statement.dump().encode()
        stated = path / "stated.json"
        if not stated.exists() or stated.read_bytes() != text:
            shutil.rmtree(path, ignore_errors=True)  # pieces of an ensemble that is no longer sent
            atomic.write(stated, text)

    def add(self, weights: Mapping[str, Flat]) -> None:
        """Check and keep arrays, and make networks of them."""
        self._arrays.add(weights, wanted=self.missing())
        for name in self._left():
            if not self._arrays.lacking([name]):
                network = self._arrays.network(name)
                atomic.write(self._network(name), network_files.encode(network))
                self._arrays.drop(
                    [self._statement.networks[name].weights]
                )  # others have its frozen parts too

    def missing(self) -> tuple[str, ...]:
        """Hashes of arrays that have yet to come."""
        return self._arrays.lacking(self._left())

    def finish(self) -> None:
        """Let go of what networks were made of."""
        self._arrays.clear()

    def _left(self) -> list[str]:
        return [name for name in self._statement.networks if not self._network(name).exists()]

    def _network(self, name: str) -> Path:
        return network_files.path(self.path / "networks", name)


def _finish(draft: Path, letter: Letter, statement: Statement, settings: Settings) -> None:
    """Make a run's folder of a draft that has all its networks, and put it into its place."""
    document = settings.model_dump(mode="json", exclude_none=True)
    atomic.write(draft / "config.toml", tomli_w.dumps(document).encode())
    manifest = {
        "status": statement.status,
        "name": statement.campaign,
        "synofed": statement.version,
        "plan_hash": statement.plan_hash,
        "missing": dict(statement.missing),
        "networks": {name: as_json(network.result) for name, network in statement.networks.items()},
        "stacks": {number: stack.model_dump() for number, stack in statement.stacks.items()},
        "received": datetime.now(UTC).isoformat(timespec="seconds"),
        "notice": [RESEARCH_ONLY, notice.sentence(settings)],
        "privacy": notice.label(settings),
    }
    atomic.write(draft / "manifest.json", json.dumps(manifest, indent=1).encode() + b"\n")
    atomic.write(draft / "statement.json", letter.model_dump_json(indent=1).encode() + b"\n")
    shutil.rmtree(draft.with_name(decisions.PERSONAL), ignore_errors=True)  # made of what was there before
    atomic.replace_folder(draft, draft.with_name("ensemble"))


def as_json(result: NetworkResult) -> dict[str, object]:
    """How a network was selected, as JSON's types."""
    return result.facts() | {"auc": None if math.isnan(result.auc) else result.auc}


def is_there(site_folder: Path, plan_hash: str, statement: str) -> bool:
    """Whether the ensemble of a statement, canonical JSON, is the one that the site has got."""
    try:
        letter = (folder(site_folder, plan_hash) / "statement.json").read_bytes()
        return Letter.model_validate_json(letter).statement == statement
    except (OSError, ValidationError):
        return False
