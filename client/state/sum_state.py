"""What a site keeps of its latest attempt at a secure sum: ``sums/<plan>/<run>/<group>.json``, for its owner alone.

State and reply are on disk, in one file, before the reply leaves; a masked vector lies beside it, written before. So
a site that is killed at any instant has either answered a phase and can send the same bytes again, or has not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from client.files import atomic
from client.files.lock import locked
from common.errors import PolicyError, SiteStateError, VerificationError
from common.receipts import Receipt, from_fields
from common.secure_aggregation.messages import Phase, Request
from common.secure_aggregation.site_state import State
from common.secure_aggregation.terms import Context

FOLDER = "sums"
MAXIMUM_FILES = 10_000
"""Of one plan; the centre names runs and groups, and could fill the disk with more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What was said in one phase.

    Attributes:
        fields: of each part of the reply.
        arrays: part -> name, type, shape and file of its array.
        receipt: what was signed about it; none if the site was stopped before.
    """

    fields: Mapping[str, Mapping[str, Any]]
    arrays: Mapping[str, tuple[str, str, list[int], str]]
    receipt: Receipt | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An attempt as it is kept.

    Attributes:
        state: of the protocol.
        networks: whose updates it sums, in every phase.
        said: what was said in each phase.
    """

    state: State
    networks: tuple[str, ...]
    said: Mapping[Phase, Said]


class SumFile:
    """The file of one group of one run; see :func:`opened`."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.kept = _read(place)

    @property
    def state(self) -> State | None:
        """Of the latest attempt."""
        return self.kept.state if self.kept is not None else None

    def is_repeated(self, request: Request, networks: Sequence[str]) -> bool:
        """Whether a request was answered already.

        Args:
            request: what is asked.
            networks: whose updates are to be summed.

        Raises:
            VerificationError: if another request was answered in its phase, or other networks in one before.
            SiteStateError: if there is no such attempt here, or phases before it were not answered.
        """
        state = self.state
        if request.phase == "keys" and (state is None or state.context != request.context):
            return False
        if state is None:
            raise SiteStateError(
                "Expected an attempt that began with phase keys, got one that is not known here"
            )
        repeated = state.is_repeated(request)
        assert self.kept is not None
        if tuple(networks) != self.kept.networks:
            raise VerificationError("Expected the networks that the attempt began with, got different ones")
        return repeated

    def answer(self, phase: Phase, record: RecordDict, state: State, networks: Sequence[str]) -> None:
        """Keep a reply and the state after it; it may leave once this has returned.

        Raises:
            StorageError: if it cannot be written; then the phase is not answered.
        """
        same = self.kept is not None and self.kept.state.context == state.context
        fields, arrays = {}, {}
        for name, part in record.items():
            if isinstance(part, ConfigRecord):
                fields[name] = dict(part)
            elif isinstance(part, ArrayRecord):
                ((key, array),) = part.items()
                file = f"{self._place.stem}-{state.context.attempt}.{phase}"
                atomic.write(self._place.with_name(file), array.data)
                arrays[name] = (key, array.dtype, list(array.shape), file)
        said = dict(self.kept.said) if same and self.kept is not None else {}
        said[phase] = Said(fields=fields, arrays=arrays, receipt=None)
        self._write(Kept(state=state, networks=tuple(networks), said=said))
        if not same:
            self._clear(state.context.attempt)

    def receipted(self, phase: Phase, receipt: Receipt) -> None:
        """Keep what was signed about a reply.

        Raises:
            StorageError: if it cannot be written.
        """
        assert self.kept is not None
        said = {**self.kept.said, phase: replace(self.kept.said[phase], receipt=receipt)}
        self._write(replace(self.kept, said=said))

    def reply(self, phase: Phase) -> tuple[RecordDict, Receipt | None]:
        """What was said in a phase, without its receipt, and that.

        Raises:
            SiteStateError: if it was lost.
        """
        assert self.kept is not None
        said = self.kept.said[phase]
        record = RecordDict({name: ConfigRecord(dict(fields)) for name, fields in said.fields.items()})
        for name, (key, dtype, shape, file) in said.arrays.items():
            try:
                data = self._place.with_name(file).read_bytes()
            except OSError as error:
                raise SiteStateError(f"The vector of an attempt is lost: {error.strerror}") from None
            record[name] = ArrayRecord({key: Array(dtype, tuple(shape), "raw", data)})
        return record, said.receipt

    def _write(self, kept: Kept) -> None:
        content = {
            "state": json.loads(kept.state.dump()),
            "networks": list(kept.networks),
            "said": {phase: asdict(said) for phase, said in kept.said.items()},
        }
        atomic.write(self._place, json.dumps(content).encode())
        self.kept = kept

    def _clear(self, attempt: str) -> None:
        """Forget the vectors of attempts before."""
        for path in self._place.parent.glob(f"{self._place.stem}-*"):
            if attempt not in path.name:
                path.unlink(missing_ok=True)


@contextmanager
def opened(site_folder: Path, context: Context) -> Iterator[SumFile]:
    """The file of an attempt's group, while nobody else answers for it.

    Raises:
        SiteStateError: if it is damaged.
        PolicyError: if the centre began more groups than any plan has.
        StorageError: if it cannot be locked.
    """
    plan = site_folder / FOLDER / context.plan_hash
    place = plan / _name(context.run) / f"{_name(context.group)}.json"
    if not place.exists() and len(list(plan.glob("*/*.json"))) >= MAXIMUM_FILES:
        raise PolicyError(
            f"Expected at most {MAXIMUM_FILES} groups and runs of a plan with secure sums, got more"
        )
    with locked(place.with_suffix(".lock")):
        yield SumFile(place)


def forget(site_folder: Path, *, plan_hash: str, run: str | None = None) -> None:
    """Remove what is kept of a run, or of all runs of a plan that is over."""
    place = site_folder / FOLDER / plan_hash
    shutil.rmtree(place if run is None else place / _name(run), ignore_errors=True)


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(place: Path) -> Kept | None:
    try:
        content = json.loads(place.read_bytes())
        said = {
            phase: Said(
                fields=one["fields"],
                arrays={name: tuple(facts) for name, facts in one["arrays"].items()},
                receipt=from_fields(one["receipt"]) if one["receipt"] is not None else None,
            )
            for phase, one in content["said"].items()
        }
        return Kept(
            state=State.parse(json.dumps(content["state"])),
            networks=tuple(map(str, content["networks"])),
            said=said,
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, VerificationError):
        raise SiteStateError(
            f"Expected an attempt at a secure sum in {place}, it cannot be read: the centre has to begin a new run"
        ) from None
