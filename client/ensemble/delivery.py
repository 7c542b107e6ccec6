"""The ensemble that a site gets back: taken piece by piece, checked against what the centre signed, kept whole.

``<site folder>/campaigns/<plan hash>/ensemble/`` is there with all its networks or not at all, and is laid out as a
run's folder, so that ``synofed score`` reads it. What has come so far lies beside it in ``.ensemble``.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import tomli_w
from jaxtyping import Float32
from pydantic import ValidationError

from client.connection.enrolment import ca_certificate
from client.files import atomic
from client.site.policy_file import enrolled
from client.site.site import Site
from client.state import decisions
from common.enrolment import authority
from common.ensemble.committee import Committee
from common.ensemble.statement import RECIPIENT, NetworkStatement, Statement, verified
from common.errors import (
    ConfigurationError,
    DataError,
    PolicyError,
    StorageError,
    UpdateError,
    VerificationError,
)
from common.machine import network_files
from common.machine.network_files import TrainedNetwork
from common.messages import EnsembleReply, EnsembleRequest, WeightsRef
from common.methods.stages import NetworkResult, networks
from common.networks import build
from common.networks.spec import NetworkSpec
from common.privacy.planning import notice
from common.section import Section
from common.settings import NetworkSettings, Settings
from common.text.notices import RESEARCH_ONLY

Flat = Float32[np.ndarray, " _"]


class Letter(Section):
    """``statement.json``: what came with the networks."""

    statement: str
    signature: str
    certificate: str


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
    letter = Letter(statement=request.statement, signature=request.signature, certificate=request.certificate)
    statement = _verified(site, letter, now=datetime.now(UTC))
    if (statement.campaign, statement.plan_hash) != (request.campaign, request.plan_hash):
        raise UpdateError(
            "Expected the ensemble of the campaign that the request names, got a different campaign's"
        )
    planned = _planned(statement, settings)
    if _letter(folder(site.folder, request.plan_hash)) == letter.statement:
        return EnsembleReply(site=site.name, request_id=request.request_id, missing=())
    with _writing():
        draft = _Draft(decisions.folder(site.folder, request.plan_hash) / ".ensemble", statement, planned)
        draft.add(request.weights, settings.network)
        missing = draft.missing()
        if not missing:
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
    statement = _verified(site, letter, now=None)
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
    return statement, network_files.committee(trained, settings)


class _Draft:
    """What has come so far: arrays by hash, and networks all of whose arrays have come."""

    def __init__(self, path: Path, statement: Statement, planned: Mapping[str, NetworkSpec]) -> None:
        self.path = path
        self._statement = statement
        self._planned = planned
        text = statement.dump().encode()
        stated = path / "stated.json"
        if not stated.exists() or stated.read_bytes() != text:
            shutil.rmtree(path, ignore_errors=True)  # pieces of an ensemble that is no longer sent
            atomic.write(stated, text)

    def add(self, weights: Mapping[str, Flat], settings: NetworkSettings) -> None:
        """Check and keep arrays, and make networks of them."""
        sizes = dict(self._sizes(settings))
        for digest, values in weights.items():
            if digest not in sizes or WeightsRef.of(values).hash != digest:
                raise UpdateError("Expected only weights that the statement names, got different ones")
            if values.shape != (sizes[digest],) or not np.isfinite(values).all():
                raise UpdateError(
                    f"Expected {sizes[digest]} finite weights, got {values.shape} or NaN or infinity"
                )
        wanted = set(self.missing())
        for digest, values in weights.items():
            if digest in wanted:
                atomic.write(self._array(digest), np.ascontiguousarray(values, dtype="<f4").tobytes())
        for name, stated in self._statement.networks.items():
            if not self._network(name).exists() and all(self._array(h).exists() for h in stated.hashes):
                self._make(name, stated)

    def missing(self) -> tuple[str, ...]:
        """Hashes of arrays that have yet to come."""
        left = [n for name, n in self._statement.networks.items() if not self._network(name).exists()]
        return tuple(
            dict.fromkeys(h for network in left for h in network.hashes if not self._array(h).exists())
        )

    def _make(self, name: str, stated: NetworkStatement) -> None:
        network = TrainedNetwork(
            spec=self._planned[name],
            result=stated.result,
            weights=np.fromfile(self._array(stated.weights), dtype="<f4"),
            frozen={part: np.fromfile(self._array(h), dtype="<f4") for part, h in stated.frozen.items()},
        )
        atomic.write(self._network(name), network_files.encode(network))
        self._array(stated.weights).unlink()  # frozen parts stay: other networks have them too

    def _sizes(self, settings: NetworkSettings) -> Iterator[tuple[str, int]]:
        for name, stated in self._statement.networks.items():
            spec = self._planned[name]
            yield stated.weights, build.layout(spec, settings).size
            for part, digest in stated.frozen.items():
                yield digest, build.part_layout(spec, settings, part).size

    def _array(self, digest: str) -> Path:
        return self.path / "arrays" / f"{digest}.f32"

    def _network(self, name: str) -> Path:
        return network_files.path(self.path / "networks", name)


def _planned(statement: Statement, settings: Settings) -> dict[str, NetworkSpec]:
    """The plan's networks that a statement names."""
    known = networks(settings)
    for name, stated in statement.networks.items():
        own = (
            {piece.part for piece in known[name].frozen if piece.network is None} if name in known else set()
        )
        if name not in known or set(stated.frozen) != own:
            raise UpdateError(f"Expected networks as the plan has them, got {name!r:.200}")
    return {name: known[name] for name in statement.networks}


def _finish(draft: Path, letter: Letter, statement: Statement, settings: Settings) -> None:
    """Make a run's folder of a draft that has all its networks, and put it into its place."""
    shutil.rmtree(draft / "arrays", ignore_errors=True)
    document = settings.model_dump(mode="json", exclude_none=True)
    atomic.write(draft / "config.toml", tomli_w.dumps(document).encode())
    manifest = {
        "status": statement.status,
        "name": statement.campaign,
        "synofed": statement.version,
        "plan_hash": statement.plan_hash,
        "missing": dict(statement.missing),
        "networks": {name: as_json(network.result) for name, network in statement.networks.items()},
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
    return asdict(result) | {"auc": None if math.isnan(result.auc) else result.auc}


def _verified(site: Site, letter: Letter, *, now: datetime | None) -> Statement:
    if not enrolled(site):
        raise PolicyError(
            "Expected a site of a federation, whose authority signs for an ensemble: this one is none"
        )
    try:
        trusted = authority(ca_certificate(site.folder).read_text(encoding="ascii"))
    except (OSError, ValueError, ConfigurationError):
        raise DataError(
            f"Expected the federation's certificate at {ca_certificate(site.folder)}: enrol again with an invitation"
        ) from None
    return verified(letter.statement, letter.signature, letter.certificate, authority=trusted, now=now)


def _letter(place: Path) -> str | None:
    """The statement of the ensemble that is there; ``None``: there is none."""
    try:
        return Letter.model_validate_json((place / "statement.json").read_bytes()).statement
    except (OSError, ValidationError):
        return None


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"The ensemble cannot be kept: {error.strerror}. Free some space") from None
