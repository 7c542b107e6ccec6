"""What each patient of a ledger has spent, recomputed from its entries.

Releases are debited to every patient who was eligible and had enough left, sampled or not. Patients with the same
history share one
number, so the cost of a recomputation grows with histories, not with patients. A release without privacy has no
epsilon: its patients are *unbounded* from then on, and what is summed for them covers their private releases alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from common.errors import ConfigurationError, VerificationError
from common.privacy.accounting import chain
from common.privacy.accounting.accounting import PrivateSteps, epsilon, merge
from common.privacy.accounting.chain import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateRelease:
    """A noised release, as it is booked before it leaves.

    Attributes:
        kind: what leaves, for example ``private-sum``.
        campaign: its name.
        plan_hash: of the campaign.
        request_id: the request that is answered.
        server_round: its round.
        group: its group of networks.
        version: of synofed, so that a bug's releases can be found.
        steps: sample rate (q), noise multiplier (sigma) and how many steps (T) this release takes.
        max_grad_norm: the clipping norm (C).
        patients: the public number that the sum is divided by (N), which stays when somebody withdraws.
        images: the most of a patient's exams that enter (k).
    """

    kind: str
    campaign: str
    plan_hash: str
    request_id: str
    server_round: int
    group: str
    version: str
    steps: PrivateSteps
    max_grad_norm: float | int
    patients: int
    images: int

    def facts(self) -> dict[str, object]:
        """As the ledger has it."""
        content = asdict(self)
        del content["steps"]
        return content | {
            "sample_rate": self.steps.sample_rate,
            "noise_multiplier": self.steps.noise_multiplier,
            "steps": self.steps.count,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class UnboundedRelease:
    """Releases without privacy: those of one campaign from a round on.

    Attributes:
        kind: what leaves, for example ``update``.
        campaign: its name.
        plan_hash: of the campaign.
        server_round: the first of its rounds that the booked patients took part in.
        version: of synofed.
    """

    kind: str
    campaign: str
    plan_hash: str
    server_round: int
    version: str

    def facts(self) -> dict[str, object]:
        """As the ledger has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """A release in the ledger.

    Attributes:
        sequence: of its entry.
        time: of its entry, ISO 8601.
        release: what was booked.
        eligible: numbers of the patients whom it is debited to.
        left_out: how many patients were here and had too little left for it; nothing of them entered.
    """

    sequence: int
    time: str
    release: PrivateRelease | UnboundedRelease
    eligible: frozenset[int]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """What a patient was booked for.

    Attributes:
        steps: private steps, merged.
        unbounded: whether there were releases without privacy.
    """

    steps: tuple[PrivateSteps, ...] = ()
    unbounded: bool = False

    def then(self, release: PrivateRelease | UnboundedRelease) -> History:
        """With one release more."""
        if isinstance(release, UnboundedRelease):
            return History(self.steps, True)
        return History(merge((*self.steps, release.steps)), self.unbounded)

    def epsilon(self, *, delta: float | int) -> float:
        """Of the private steps alone, for one patient added or removed."""
        return _epsilon(self.steps, delta)


@dataclass(slots=True, kw_only=True)
class Book:
    """The entries of a ledger, summed up patient by patient.

    Attributes:
        commitments: of the patients, in the order of their numbers.
        releases: in the order of the ledger.
        withdrawn: commitment of a tag -> number of the patient, ``None`` for one who was never booked.
        opened: facts of the first entry.
    """

    commitments: list[str] = field(default_factory=list)
    releases: list[Booked] = field(default_factory=list)
    withdrawn: dict[str, int | None] = field(default_factory=dict)
    opened: Mapping[str, object] = field(default_factory=dict)
    _histories: list[History] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Book:
        """Of all entries of a ledger.

        Raises:
            VerificationError: as :meth:`add`.
        """
        book = cls()
        for entry in entries:
            book.add(entry)
        return book

    def add(self, entry: Entry) -> None:
        """Take up the next entry.

        Raises:
            VerificationError: if it is signed but says what cannot be: no cost that is not known counts as none.
        """
        try:
            self._add(entry)
        except (KeyError, TypeError, ValueError, ConfigurationError) as error:
            raise VerificationError(
                f"Entry {entry.sequence} of the ledger is signed, but cannot be understood: {error!r:.200}"
            ) from None

    def histories(self) -> Iterator[History]:
        """Of every patient, in the order of their numbers."""
        return iter(self._histories)

    def history(self, number: int) -> History:
        """Of one patient."""
        return self._histories[number]

    def _add(self, entry: Entry) -> None:
        content: Mapping[str, Any] = entry.content
        event = content["event"]
        if event == chain.OPENED:
            self.opened = content
        elif event == chain.WITHDRAWN:
            self._new(content["new"])
            patient = content["patient"]
            if patient is not None:
                _check_numbers({patient}, len(self.commitments))
            self.withdrawn[str(content["tag"])] = patient
        elif event in (chain.PRIVATE, chain.UNBOUNDED):
            self._new(content["new"])
            release = _private(content) if event == chain.PRIVATE else _unbounded(content)
            eligible = chain.from_ranges(content["eligible"])
            _check_numbers(eligible, len(self.commitments))
            booked = Booked(
                sequence=entry.sequence,
                time=str(content["time"]),
                release=release,
                eligible=eligible,
                left_out=int(content.get("left_out", 0)),
            )
            later: dict[History, History] = {}
            for number in eligible:
                before = self._histories[number]
                if before not in later:
                    later[before] = before.then(release)
                self._histories[number] = later[before]
            self.releases.append(booked)

    def _new(self, commitments: Iterable[str]) -> None:
        for commitment in commitments:
            self.commitments.append(str(commitment))
            self._histories.append(History())


def worst(histories: Iterable[History], *, delta: float | int) -> float:
    """Epsilon of the patient who has spent most; 0 where there is none."""
    return max((history.epsilon(delta=delta) for history in set(histories)), default=0.0)


def of_campaign(book: Book, plan_hash: str, *, patient: int | None = None) -> frozenset[History]:
    """The histories that one campaign alone made, of one patient or of all."""
    alone: dict[int, History] = {}
    for booked in book.releases:
        if booked.release.plan_hash == plan_hash:
            later: dict[History, History] = {}
            for number in booked.eligible if patient is None else booked.eligible & {patient}:
                before = alone.get(number, History())
                alone[number] = later.setdefault(before, before.then(booked.release))
    return frozenset(alone.values())


@lru_cache(maxsize=4096)
def _epsilon(steps: tuple[PrivateSteps, ...], delta: float | int) -> float:
    return epsilon(steps, delta=delta)


def _check_numbers(numbers: Iterable[int], count: int) -> None:
    if any(not 0 <= number < count for number in numbers):
        raise ValueError("a patient's number that was never given")


def _private(content: Mapping[str, Any]) -> PrivateRelease:
    steps = PrivateSteps(
        sample_rate=content["sample_rate"],
        noise_multiplier=content["noise_multiplier"],
        count=content["steps"],
    )
    shared = ("kind", "campaign", "plan_hash", "request_id", "server_round", "group", "version")
    sizes = ("max_grad_norm", "patients", "images")
    return PrivateRelease(steps=steps, **{name: content[name] for name in (*shared, *sizes)})


def _unbounded(content: Mapping[str, Any]) -> UnboundedRelease:
    names = ("kind", "campaign", "plan_hash", "server_round", "version")
    return UnboundedRelease(**{name: content[name] for name in names})
