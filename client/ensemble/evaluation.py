"""Grades a site's held-out patients with a finished ensemble, and tells what came of it as permitted tables.

The networks come in pieces. Each is asked as soon as all of it is there, its probabilities are kept, and it is let
go: an ensemble of 4 GB never lies here as a whole, unless the campaign's plan gives it to the site anyway. When all
have been asked, MULTITUDE decides, and counts by score and machine leave
(:mod:`common.evaluation.inside.site_tables`), and of numbers sums (:mod:`common.evaluation.inside.number_sums`), of
patients as :mod:`client.ensemble.held_out` has frozen them. Of their blocks every other one calibrates sets of grades
(:mod:`common.evaluation.conformal`), and these are tried on the rest. Where the site trained networks alone
(:mod:`client.ensemble.alone`), these grade the same exams, and are counted beside the ensemble. What left once is
kept, and is all that leaves again.

``<site folder>/campaigns/<plan hash>/evaluation/<hash of the statement>.json`` are the tables; ``.evaluation`` beside
it holds what has been computed so far.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64

from client.consent import answered_rounds
from client.data.site_store import site_store
from client.data.store import Store, consensus, graded
from client.ensemble import alone, beside_tables, delivery, held_out, pieces
from client.ensemble.held_out import Behind, HeldOut
from client.ensemble.pieces import Letter, Waiting
from client.files import atomic
from client.ledger import ledger
from client.site.site import Site
from client.state import decisions
from common import signed_json
from common.ensemble.committee import Committee, Scores, decided
from common.ensemble.number_stack import NumberStack
from common.ensemble.statement import Statement
from common.errors import DataError, PolicyError, UpdateError
from common.evaluation.inside import site_tables
from common.evaluation.inside.site_tables import Judged, Paired, SiteTables
from common.exam import MISSING
from common.machine import network_files
from common.messages import EvaluateReply, EvaluateRequest
from common.methods.stages import Output
from common.networks.spec import NetworkSpec
from common.privacy.accounting.spending import UnboundedRelease
from common.scoring import validity
from common.settings import Settings
from common.text.notices import NO_TABLES
from common.version import VERSION


def take(site: Site, request: EvaluateRequest, settings: Settings, *, device: torch.device) -> EvaluateReply:
    """Ask what has come of an ensemble; once all of it was asked, the reply has the tables.

    Args:
        site: the site.
        request: what came.
        settings: of the campaign, as the site approved it.
        device: where to compute.

    Raises:
        PolicyError: if plan or policy permit no tables, or another ensemble was asked about before.
        VerificationError: if the statement is not the centre's, or the ledger was changed.
        UpdateError: if it speaks of another campaign, or of networks that the plan does not have, or an array is none
            of its.
        DataError: if the site's data, or the tables that left before, cannot be used.
        SiteStateError: if whose exams stand behind tables cannot be read.
        StorageError: if something cannot be kept; then the next request brings what is missing.
    """
    _check_permitted(site, settings)
    statement = Letter.of(request).stated(site)
    pieces.check_campaign(statement, request)
    specs = pieces.planned(statement, settings)
    digest = hashlib.sha256(request.statement.encode()).hexdigest()
    answered_rounds.claim_evaluation(site, request.plan_hash, digest)
    place = folder(site.folder, request.plan_hash) / f"{digest}.json"

    def reply(missing: tuple[str, ...], tables: str = "") -> EvaluateReply:
        return EvaluateReply(site=site.name, request_id=request.request_id, missing=missing, tables=tables)

    if place.exists():
        return reply((), _kept(site, place))
    alone.check_not_training(site.folder, request.plan_hash)
    store = graded(site_store(site, settings))
    with pieces.writing():
        work = _Work.of(site, request, statement, specs, store, settings)
        work.add(request, device)
        missing = work.missing()
        if missing:
            return reply(missing)
        tables = _tables(
            site, request, store, work.exams, work.outputs(), settings, device, stacks=statement.stacks
        )
        atomic.write(place, tables.encode())
        work.end()
    return reply((), tables)


def folder(site_folder: Path, plan_hash: str) -> Path:
    """Where a campaign's tables lie."""
    return decisions.folder(site_folder, plan_hash) / "evaluation"


def _check_permitted(site: Site, settings: Settings) -> None:
    if settings.private:
        raise PolicyError(f"The campaign trains with differential privacy. {NO_TABLES}")
    if not settings.campaign.evaluation:
        raise PolicyError(
            "Expected a plan that asks for tables of held-out patients (campaign.evaluation), the approved one does "
            "not"
        )
    if not site.policy.federated_evaluation:
        raise PolicyError(
            "The campaign asks for tables of held-out patients: set policy.federated_evaluation = true in site.toml "
            "to permit that"
        )


def _kept(site: Site, place: Path) -> str:
    """What left once, if all of it may still leave."""
    try:
        text = place.read_text(encoding="utf-8")
        told = site_tables.parse(text)
    except (OSError, ValueError, UpdateError) as error:
        raise DataError(f"Expected the tables that left in {place}: {error}. Restore the file") from None
    if any(one.cases is not None for one in told.tables) and not site.policy.permits("cases"):
        raise PolicyError(
            "Single exams left with the tables that are asked for again: add 'cases' to policy.metrics in site.toml "
            "to permit that"
        )
    if told.numbers and not site.policy.permits("number_sums"):
        raise PolicyError(
            "Sums of numbers left with the tables that are asked for again: add 'number_sums' to policy.metrics in "
            "site.toml to permit that"
        )
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """An evaluation under way.

    Attributes:
        path: of all that it keeps.
        waiting: arrays of networks that were not asked yet.
        scoring: names of the networks that are asked, in the order of the committee.
        built_on: name -> networks that have to be there when it is asked, itself among them.
        exams: rows of the held-out exams.
        store: of the site.
        settings: of the campaign.
        delivered: the ensemble, where the campaign gave it to the site; else ``None``.
    """

    path: Path
    waiting: Waiting
    scoring: tuple[str, ...]
    built_on: Mapping[str, frozenset[str]]
    exams: Int64[np.ndarray, " exams"]
    store: Store
    settings: Settings
    delivered: Callable[[], Committee | None]

    @classmethod
    def of(
        cls,
        site: Site,
        request: EvaluateRequest,
        statement: Statement,
        specs: Mapping[str, NetworkSpec],
        store: Store,
        settings: Settings,
    ) -> _Work:
        """Go on with what there is, if it is of the same ensemble and the same data; else begin anew."""
        path = decisions.folder(site.folder, request.plan_hash) / decisions.EVALUATING
        stated = path / "stated.json"
        text = signed_json.canonical([request.statement, store.fingerprint, site.file.data.consensus])
        if not stated.exists() or stated.read_text(encoding="utf-8") != text:
            shutil.rmtree(path, ignore_errors=True)
            atomic.write(stated, text.encode())
        return cls(
            path=path,
            waiting=Waiting(
                folder=path / "arrays", statement=statement, specs=specs, settings=settings.network
            ),
            scoring=tuple(sorted(name for name, spec in specs.items() if spec.scoring)),
            built_on={name: frozenset(_built_on(name, specs)) for name in specs},
            exams=np.flatnonzero(store.tensors.fold.numpy() == MISSING),
            store=store,
            settings=settings,
            delivered=lambda: _delivered(site, request),
        )

    def add(self, request: EvaluateRequest, device: torch.device) -> None:
        """Take arrays, ask every network that is whole now, and let go of what no other one needs."""
        self.waiting.add(request.weights, wanted=self.missing())
        left = self._left()
        whole = [name for name in left if not self.waiting.lacking(self.built_on[name])]
        if left and (ensemble := self.delivered()) is not None:
            self._ask(ensemble, left, device)
        elif whole:
            built = [self.waiting.network(name) for name in sorted(self._needed(whole))]
            self._ask(network_files.committee(built, self.settings), whole, device)
        self._let_go()

    def missing(self) -> tuple[str, ...]:
        """Hashes of arrays that have yet to come."""
        return self.waiting.lacking(sorted(self._needed(self._left())))

    def outputs(self) -> list[Output]:
        """What each network says of the held-out exams."""
        return [
            Output(
                spec=self.waiting.specs[name],
                probabilities=np.load(self._probabilities(name)),
                threshold=self.waiting.statement.networks[name].threshold,
            )
            for name in self.scoring
        ]

    def end(self) -> None:
        """Let go of everything."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _ask(self, committee: Committee, names: list[str], device: torch.device) -> None:
        images, exams = self.store.tensors.images, torch.from_numpy(self.exams)
        for output in committee.on(device).outputs(images, exams):
            if output.spec.name in names:
                self._keep(output.spec.name, output.probabilities)

    def _keep(self, name: str, probabilities: Float32[np.ndarray, "exams classes"]) -> None:
        if not np.isfinite(probabilities).all():
            raise DataError(
                f"Expected a network that gives finite probabilities, {name} gave NaN or infinity"
            )
        place = self._probabilities(name)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = place.with_suffix(".draft.npy")
        np.save(draft, probabilities)
        draft.replace(place)

    def _let_go(self) -> None:
        statement = self.waiting.statement
        used = {h for name in self._needed(self._left()) for h in statement.networks[name].hashes}
        self.waiting.drop(set(statement.hashes) - used)

    def _needed(self, names: Iterable[str]) -> frozenset[str]:
        return frozenset[str]().union(*(self.built_on[name] for name in names))

    def _left(self) -> list[str]:
        return [name for name in self.scoring if not self._probabilities(name).exists()]

    def _probabilities(self, name: str) -> Path:
        return network_files.path(self.path / "probabilities", name).with_suffix(".npy")


def _delivered(site: Site, request: EvaluateRequest) -> Committee | None:
    """The ensemble, where the same one was given to the site."""
    if not delivery.is_there(site.folder, request.plan_hash, request.statement):
        return None
    return delivery.opened(site, request.plan_hash)[1]


def _built_on(name: str, specs: Mapping[str, NetworkSpec]) -> set[str]:
    sources = {piece.network for piece in specs[name].frozen if piece.network is not None}
    return {name}.union(*(_built_on(source, specs) for source in sources))


def _tables(
    site: Site,
    request: EvaluateRequest,
    store: Store,
    exams: Int64[np.ndarray, " exams"],
    outputs: Sequence[Output],
    settings: Settings,
    device: torch.device,
    *,
    stacks: Mapping[str, NumberStack],
) -> str:
    """Decide what leaves of the held-out exams, book it, and say it."""
    scores = decided(outputs, settings, stacks)
    named, answers = store.exams.iloc[exams], scores.answers()
    references = consensus(store, settings.validity)
    numbers = (
        beside_tables.references(store, exams, settings) if beside_tables.permitted(site, settings) else {}
    )
    asked = HeldOut(
        exams=list(map(str, named["exam_id"])),
        patients=list(map(str, named["patient_id"])),
        devices=list(map(str, named["device"])),
        references={name: references[name][exams] for name in answers if name in references} | numbers,
        grades={**validity.grades(settings), **beside_tables.codes(settings)},
    )
    minimum = site.policy.minimum_cohort
    behind = held_out.behind(site.folder, asked, minimum=minimum)
    shown = [one for one in behind if len({asked.patients[row] for row in one.rows}) >= minimum]
    above = {
        name: values
        for name, values in (scores.above() if site.policy.permits("score_histograms") else {}).items()
        if values.shape[1] == asked.grades.get(name, 0) - 1  # a cascade may not ask about every cut
    }
    patients = store.tensors.patient.numpy().astype(np.int64)[exams]
    paired = _paired(site, request.plan_hash, store, exams, outputs, settings, device)
    tables = tuple(
        site_tables.table(
            _judged(
                one,
                answers[one.score],
                scores,
                patients,
                above.get(one.score),
                paired.get(one.score),
                order=beside_tables.order(site, request.plan_hash, one, asked.exams, settings),
            ),
            score=one.score,
            device=one.device,
            grades=asked.grades[one.score],
        )
        for one in shown
        if one.score in answers
    )
    sums = tuple(
        beside_tables.sums_of(one, scores, patients, settings) for one in shown if one.score in numbers
    )
    names = {asked.patients[row] for one in shown for row in one.rows}
    if names:
        ledger.book_unbounded(site, _release(request, beside_tables.booked_as(settings, site)), names)
    return SiteTables(
        site=site.name,
        minimum_cohort=minimum,
        tables=tables,
        suppressed=len(behind) - len(shown),
        numbers=sums,
    ).dump()


def _judged(
    one: Behind,
    decision: Int64[np.ndarray, " exams"],
    scores: Scores,
    patients: Int64[np.ndarray, " exams"],
    above: np.ndarray | None,
    paired: Paired | None,
    *,
    order: Int64[np.ndarray, " exams"] | None,
) -> Judged:
    return Judged(
        reference=one.reference,
        decision=np.asarray(decision[one.rows], dtype=np.int64),
        patient=patients[one.rows],
        contested=scores.contested[one.rows],
        calibrates=one.block % 2 == 0,
        above=None if above is None else above[one.rows],
        paired=paired and replace(paired, alone=paired.alone[one.rows], together=paired.together[one.rows]),
        order=order,
    )


def _paired(
    site: Site,
    plan_hash: str,
    store: Store,
    exams: Int64[np.ndarray, " exams"],
    outputs: Sequence[Output],
    settings: Settings,
    device: torch.device,
) -> dict[str, Paired]:
    """Score -> what the site trained alone says, and as many of the ensemble's models; empty: it trained nothing."""
    found = alone.opened(site, plan_hash, settings, fingerprint=store.fingerprint)
    if found is None:
        return {}
    by_itself = found.committee.on(device).score(store.tensors.images, torch.from_numpy(exams)).answers()
    first = [output for output in outputs if output.spec.fold < found.models]
    together = decided(first, found.committee.settings).answers()
    return {
        score: Paired(models=found.models, alone=by_itself[score], together=together[score])
        for score in by_itself
    }


def _release(request: EvaluateRequest, kind: str) -> UnboundedRelease:
    return UnboundedRelease(
        kind=kind,
        campaign=request.campaign,
        plan_hash=request.plan_hash,
        server_round=0,
        version=VERSION,
    )
