"""The journal of a campaign: after each aggregation, everything that the next round needs, on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from common.ensemble.stacked_regression import NormalSums
from common.errors import CampaignError, DataError
from common.evaluation.histograms import ScoreHistograms
from common.machine import tensor_file

Weights = Mapping[str, Float32[np.ndarray, " parameters"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """A network's best round so far.

    Attributes:
        server_round: the round after whose aggregation the weights stood.
        auc: their validation AUC over all sites; NaN where no histograms came.
        threshold: the best one on the same histograms, by the campaign's criterion.
        histograms: these, class x bin (:class:`common.evaluation.histograms.ScoreHistograms`); empty where none came.
    """

    server_round: int
    auc: float
    threshold: float
    histograms: tuple[tuple[int, ...], ...] = ()

    @property
    def accuracy(self) -> float | None:
        """Of a network that tells more than two grades apart, on the same histograms; ``None``: of no exam."""
        if len(self.histograms) <= 2 or not any(map(sum, self.histograms)):
            return None
        return ScoreHistograms(counts=np.array(self.histograms, dtype=np.int64)).accuracy()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One aggregated round of a group, as ``rounds.jsonl`` shows it.

    Attributes:
        loss: mean training loss over networks and sites, weighted by exams; NaN if nothing trained.
        auc: mean validation AUC of the networks that were sent (so of the round before).
        participants: sites whose reply was used, in order.
        dropped: site -> reason.
        outlying: site -> why its update was far from the others', where it was used all the same.
        untrained: networks that no site had a training example for.
    """

    stage: str
    group: str
    round: int
    loss: float
    auc: float
    participants: tuple[str, ...]
    dropped: Mapping[str, str]
    seconds: float
    time: str
    outlying: Mapping[str, str] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SitesSums:
    """What sites' sums for stacked regression add up to.

    Attributes:
        sites: site -> its exams.
        sums: :attr:`common.ensemble.stacked_regression.NormalSums.matrix` over all of them.
    """

    sites: Mapping[str, int]
    sums: tuple[tuple[float, ...], ...]

    @property
    def total(self) -> NormalSums:
        """Over all sites."""
        return NormalSums.read(np.array(self.sums), networks=len(self.sums) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The state of a group after a round; round 0 is the start.

    Attributes:
        stacking: of the round that scored: name of stacked networks -> what sites gave for their stacking.
    """

    plan_hash: str
    server_round: int
    best: Mapping[str, Best] = field(default_factory=dict)
    records: tuple[RoundRecord, ...] = ()
    stacking: Mapping[str, SitesSums] = field(default_factory=dict)

    def with_round(
        self, record: RoundRecord, best: Mapping[str, Best], stacking: Mapping[str, SitesSums]
    ) -> Entry:
        """The entry after one more round."""
        records = (*self.records, record)
        return replace(self, server_round=record.round, best=best, records=records, stacking=stacking)


class Journal:
    """The rounds of one group, one file per round: ``<folder>/<group>/round_0007.safetensors``.

    A file holds weights and entry together, so one rename commits both. Kept are the last round and the rounds
    that are the best of some network. What an algorithm keeps beside the weights (moments, control variates) is
    needed to go on from the last round only: it lies in ``state_0007.safetensors``, written before that round's
    file.
    """

    def __init__(self, folder: Path, group: str) -> None:
        self._folder = folder / group
        self._folder.mkdir(parents=True, exist_ok=True)

    def write(self, entry: Entry, weights: Weights, extra: Mapping[str, Weights] | None = None) -> None:
        """Commit a round.

        Args:
            entry: the group's state after it.
            weights: of each network.
            extra: network -> further arrays of the algorithm's state, by name.
        """
        if extra:
            arrays = {f"{key}:{name}": v for name, kept in extra.items() for key, v in kept.items()}
            tensor_file.write(self._state_path(entry.server_round), arrays, {})
        tensor_file.write(self._path(entry.server_round), weights, {"entry": json.dumps(asdict(entry))})
        for draft in self._folder.glob(".*.safetensors-*"):  # of a process that was killed
            draft.unlink()
        needed = {entry.server_round} | {best.server_round for best in entry.best.values()}
        for path in self._folder.glob("round_*.safetensors"):
            if _round_of(path) not in needed:
                path.unlink()
        for path in self._folder.glob("state_*.safetensors"):
            if path != self._state_path(entry.server_round):
                path.unlink()

    def last(self, *, plan_hash: str) -> Entry | None:
        """The last committed round without its weights, or ``None``.

        Raises:
            CampaignError: if the journal is of another plan, or a file is damaged.
        """
        paths = sorted(self._folder.glob("round_*.safetensors"))
        if not paths:
            return None
        entry, _ = _read(paths[-1], tensors=False)
        if entry.plan_hash != plan_hash:
            raise CampaignError(
                f"The journal in {self._folder} belongs to plan {entry.plan_hash[:12]}, this run is plan "
                f"{plan_hash[:12]}: resume with the configuration it was started with, or start a new run"
            )
        return entry

    def weights(self, server_round: int) -> dict[str, Float32[np.ndarray, " parameters"]]:
        """The weights after a round that was kept."""
        return _read(self._path(server_round), tensors=True)[1]

    def extra(self, server_round: int) -> dict[str, dict[str, Float32[np.ndarray, " parameters"]]]:
        """Network -> further arrays of the algorithm's state after the last committed round.

        Raises:
            CampaignError: if they are not there or cannot be read.
        """
        path = self._state_path(server_round)
        try:
            _, arrays = tensor_file.read(path)
        except DataError as error:
            raise CampaignError(
                f"Expected the algorithm's state at {path}, it cannot be read: {error}"
            ) from None
        found: dict[str, dict[str, Float32[np.ndarray, " parameters"]]] = {}
        for key, values in arrays.items():
            kind, _, name = key.partition(":")
            found.setdefault(name, {})[kind] = values
        return found

    def _path(self, server_round: int) -> Path:
        return self._folder / f"round_{server_round:06d}.safetensors"

    def _state_path(self, server_round: int) -> Path:
        return self._folder / f"state_{server_round:06d}.safetensors"


def plan_of(folder: Path) -> str | None:
    """The hash of the plan whose rounds lie in a campaign's journals; ``None`` where there are none.

    Raises:
        CampaignError: if a file is damaged.
    """
    paths = sorted(folder.glob("*/round_*.safetensors"))
    return _read(paths[-1], tensors=False)[0].plan_hash if paths else None


def records(folder: Path, *, plan_hash: str) -> list[RoundRecord]:
    """All committed rounds of all groups of a campaign, in the order of time."""
    found = [record for entry in _entries(folder, plan_hash) for record in entry.records]
    return sorted(found, key=lambda record: (record.time, record.group, record.round))


def validation(folder: Path, *, plan_hash: str) -> dict[str, ScoreHistograms]:
    """Network -> histograms, over all sites, of the validation scores by which its weights were selected.

    Networks of which none came, and those that were taken from another run, are left out.
    """
    return {
        name: ScoreHistograms(counts=np.array(best.histograms, dtype=np.int64))
        for entry in _entries(folder, plan_hash)
        for name, best in entry.best.items()
        if best.histograms
    }


def stacking(folder: Path, *, plan_hash: str) -> dict[str, SitesSums]:
    """Name of stacked networks -> what sites gave for their stacking; those of which none came are left out."""
    return {name: sums for entry in _entries(folder, plan_hash) for name, sums in entry.stacking.items()}


def _entries(folder: Path, plan_hash: str) -> list[Entry]:
    """The last entry of each group of a campaign."""
    if not folder.exists():
        return []
    groups = sorted(path.name for path in folder.iterdir() if path.is_dir())
    entries = [Journal(folder, group).last(plan_hash=plan_hash) for group in groups]
    return [entry for entry in entries if entry is not None]


def _read(path: Path, *, tensors: bool) -> tuple[Entry, dict[str, Float32[np.ndarray, " parameters"]]]:
    """Entry and, if asked for, weights of a journal file."""
    try:
        metadata, weights = tensor_file.read(path, tensors=tensors)
        return _entry(json.loads(metadata["entry"])), weights
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise CampaignError(f"Expected a journal file at {path}, it cannot be read: {error}") from None


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("round_"))


def _entry(raw: Any) -> Entry:
    return Entry(
        plan_hash=raw["plan_hash"],
        server_round=raw["server_round"],
        best={
            name: Best(**{**best, "histograms": tuple(map(tuple, best.get("histograms", ())))})
            for name, best in raw["best"].items()
        },
        stacking={
            name: SitesSums(sites=given["sites"], sums=tuple(map(tuple, given["sums"])))
            for name, given in raw.get("stacking", {}).items()
        },
        records=tuple(
            RoundRecord(
                **{
                    **record,
                    "participants": tuple(record["participants"]),
                    "untrained": tuple(record.get("untrained", ())),
                }
            )
            for record in raw["records"]
        ),
    )
