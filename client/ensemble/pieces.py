"""An ensemble as it comes: what the centre states of it, and arrays, as many per message as it likes.

What has come waits in a folder until a network has all that it is made of.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from client.connection.enrolment import ca_certificate
from client.files import atomic
from client.site.policy_file import enrolled
from client.site.site import Site
from common import signed_json
from common.enrolment import authority
from common.ensemble.statement import Statement, verified
from common.errors import (
    ConfigurationError,
    DataError,
    PolicyError,
    StorageError,
    UpdateError,
    VerificationError,
)
from common.machine.network_files import TrainedNetwork
from common.messages import Pieces, WeightsRef
from common.methods.stages import networks, stacked
from common.networks import build
from common.networks.spec import NetworkSpec, without_fold
from common.sections.networks import NetworkSettings
from common.sections.section import Section
from common.settings import Settings

Flat = Float32[np.ndarray, " _"]


class Letter(Section):
    """``statement.json``: what came with the networks."""

    statement: str
    signature: str
    certificate: str

    @classmethod
    def of(cls, request: Pieces) -> Letter:
        """What comes with a request."""
        return cls(statement=request.statement, signature=request.signature, certificate=request.certificate)

    def verified(self, site: Site, *, now: datetime | None) -> Statement:
        """What the centre states; ``now``: its certificate has to be valid then.

        Raises:
            PolicyError: if the site is not enrolled: nobody's signature could be checked.
            DataError: if the federation's certificate is missing.
            VerificationError: if the statement is not the centre's.
        """
        if not enrolled(site):
            raise PolicyError(
                "Expected a site of a federation, whose authority signs for an ensemble: this one is none"
            )
        try:
            trusted = authority(ca_certificate(site.folder).read_text(encoding="ascii"))
        except (OSError, ValueError, ConfigurationError):
            raise DataError(
                f"Expected the federation's certificate at {ca_certificate(site.folder)}: enrol again with an "
                f"invitation"
            ) from None
        return verified(self.statement, self.signature, self.certificate, authority=trusted, now=now)

    def stated(self, site: Site) -> Statement:
        """What the centre states now; a site of no federation is one of a simulation, and takes it as it is.

        Raises:
            DataError: as :meth:`verified`.
            VerificationError: as :meth:`verified`.
        """
        if enrolled(site):
            return self.verified(site, now=datetime.now(UTC))
        try:
            return Statement.model_validate(signed_json.parse(self.statement))
        except ValueError:
            raise VerificationError("Expected a statement of an ensemble, got something else") from None


def check_campaign(statement: Statement, request: Pieces) -> None:
    """Whether a statement is of the campaign that a request names.

    Raises:
        UpdateError: if not.
    """
    if (statement.campaign, statement.plan_hash) != (request.campaign, request.plan_hash):
        raise UpdateError(
            "Expected the ensemble of the campaign that the request names, got a different campaign's"
        )


def planned(statement: Statement, settings: Settings) -> dict[str, NetworkSpec]:
    """The plan's networks that a statement names.

    Raises:
        UpdateError: if it names others, or parts that they do not have, or stacks others than the plan does.
    """
    known = networks(settings)
    for name, stated in statement.networks.items():
        own = (
            {piece.part for piece in known[name].frozen if piece.network is None} if name in known else set()
        )
        if name not in known or set(stated.frozen) != own:
            raise UpdateError(f"Expected networks as the plan has them, got {name!r:.200}")
    stacks: dict[str, set[str]] = {}
    for members in stacked([known[name] for name in statement.networks], settings).values():
        number = members[0].target.measurement
        stacks[number] = {without_fold(spec.name, spec.fold) for spec in members}
    for number, stack in statement.stacks.items():
        if number not in stacks or set(stack.weights) != stacks[number]:
            raise UpdateError(f"Expected stacked numbers as the plan has them, got {number!r:.200}")
    return {name: known[name] for name in statement.networks}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Arrays that have come and are in no network yet.

    Attributes:
        folder: where they lie.
        statement: what the ensemble is made of.
        specs: its networks.
        settings: of the networks.
    """

    folder: Path
    statement: Statement
    specs: Mapping[str, NetworkSpec]
    settings: NetworkSettings

    def add(self, weights: Mapping[str, Flat], *, wanted: Collection[str]) -> None:
        """Check arrays, and keep those that are wanted.

        Raises:
            UpdateError: if one is none of the statement's, or not of its size, or not finite.
        """
        sizes = dict(self._sizes())
        for digest, values in weights.items():
            if digest not in sizes or WeightsRef.of(values).hash != digest:
                raise UpdateError("Expected only weights that the statement names, got different ones")
            if values.shape != (sizes[digest],) or not np.isfinite(values).all():
                raise UpdateError(
                    f"Expected {sizes[digest]} finite weights, got {values.shape} or NaN or infinity"
                )
        for digest, values in weights.items():
            if digest in wanted:
                atomic.write(self._path(digest), np.ascontiguousarray(values, dtype="<f4").tobytes())

    def lacking(self, names: Iterable[str]) -> tuple[str, ...]:
        """Of arrays of some networks, those that have yet to come, each once."""
        hashes = (h for name in names for h in self.statement.networks[name].hashes)
        return tuple(dict.fromkeys(h for h in hashes if not self._path(h).exists()))

    def network(self, name: str) -> TrainedNetwork:
        """A network of which nothing is lacking."""
        stated = self.statement.networks[name]
        return TrainedNetwork(
            spec=self.specs[name],
            result=stated.result,
            weights=np.fromfile(self._path(stated.weights), dtype="<f4"),
            frozen={part: np.fromfile(self._path(h), dtype="<f4") for part, h in stated.frozen.items()},
        )

    def drop(self, hashes: Iterable[str]) -> None:
        """Let go of arrays."""
        for digest in hashes:
            self._path(digest).unlink(missing_ok=True)

    def clear(self) -> None:
        """Let go of all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sizes(self) -> Iterator[tuple[str, int]]:
        for name, stated in self.statement.networks.items():
            spec = self.specs[name]
            yield stated.weights, build.layout(spec, self.settings).size
            for part, digest in stated.frozen.items():
                yield digest, build.part_layout(spec, self.settings, part).size

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.f32"


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """What the disk says, as the site's own error.

    Raises:
        StorageError: if something cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"The ensemble cannot be kept: {error.strerror}. Free some space") from None
