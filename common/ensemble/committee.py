"""The trained ensemble: probabilities of its networks, the votes of its models, its decision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int, Int64, UInt8
from torch import Tensor, nn

from common.ensemble.inference import Ensemble, Member, Place, Precision, ensemble
from common.ensemble.number_stack import NumberStack, in_units
from common.ensemble.number_stack import numbers as stacked_numbers
from common.ensemble.temperature import tempered
from common.evaluation import conformal
from common.imaging.prepare import picture
from common.methods.stages import Output, SettlesTies, SharesVotes, method
from common.networks.spec import COMBINED, NetworkSpec
from common.scoring import multitude, validity
from common.sections.methods import RatingSettings
from common.settings import Settings
from common.training import answers
from common.training.local import autocast
from common.training.local_settings import CPU

BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What an ensemble says of some exams.

    Attributes:
        names: what is scored, in the order of votes and decisions: the measurements, or one score.
        outputs: what each network says, in the order of the committee's networks.
        votes: the grade that each voter (RATING: scoring model) gives; of soft votes the likeliest.
        decision: the answer; by MULTITUDE always a valid combination.
        majority: each score's own plurality, beside which the decision is contested or not.
        combined: the combined score of the decision; ``None`` where there is none.
        weight: of MULTITUDE's answer, at most models ** scores; a whole number, unless votes are soft.
        runner_up_weight: the largest of the other valid combinations.
        numbers: number -> what each network that was trained for it says, in the number's own unit.
        stacked: number -> the one that comes of them by stacked regression, of those of which sites gave sums.
        contested: whether nobody voted for a valid combination, or MULTITUDE's answer differs from the majority.
        tie: whether a rule about ties, not the votes, chose the answer. Either another valid combination has *the
            same* largest weight (:mod:`common.scoring.multitude`; where ``rating.decision`` is the majority: another
            grade of some measurement as many votes); or a voter's bits were at the same Hamming distance from two
            code words (:mod:`common.scoring.ecoc`), and the answer would be another had all such votes been settled
            for the higher grade. Both rules take the lower grade first.
    """

    names: tuple[str, ...]
    outputs: tuple[Output, ...]
    votes: Int[np.ndarray, "n models scores"]
    decision: Int64[np.ndarray, "n scores"]
    majority: Int64[np.ndarray, "n scores"]
    combined: Int64[np.ndarray, " n"] | None
    weight: Int64[np.ndarray, " n"] | Float64[np.ndarray, " n"]
    runner_up_weight: Int64[np.ndarray, " n"] | Float64[np.ndarray, " n"]
    contested: Bool[np.ndarray, " n"]
    tie: Bool[np.ndarray, " n"]
    numbers: Mapping[str, Float64[np.ndarray, "n networks"]] = field(default_factory=dict)
    stacked: Mapping[str, Float64[np.ndarray, " n"]] = field(default_factory=dict)

    def number(self, name: str) -> Float64[np.ndarray, " n"]:
        """The ensemble's answer for a number: stacked where it can be, else the mean over the networks."""
        return self.stacked[name] if name in self.stacked else np.asarray(self.numbers[name].mean(axis=1))

    def answers(self) -> dict[str, Int64[np.ndarray, " n"]]:
        """Score -> the decision, the combined score's too where there is one."""
        found = dict(zip(self.names, self.decision.T, strict=True))
        return found if self.combined is None else found | {COMBINED: self.combined}

    def above(self) -> dict[str, Float64[np.ndarray, "n cuts"]]:
        """Measurement -> probability that the grade is above 0, above 1 ..: mean of the networks that tell it.

        Binary networks speak at their temperature; those that tell all grades apart by the sum of the grades above.
        """
        found: dict[str, dict[int, list[Float64[np.ndarray, " n"]]]] = {}
        for output in self.outputs:
            if output.spec.target.kind == "regression":
                continue
            target, cuts = output.spec.target, found.setdefault(output.spec.target.measurement, {})
            if target.threshold is not None and target.kind == "binary":
                told = {target.threshold: tempered(output.probabilities, output.temperature)[:, 1]}
            else:
                more = 1 - np.cumsum(output.probabilities[:, :-1], axis=1, dtype=np.float64)
                told = dict(enumerate(more.T.clip(0, 1)))
            for cut, values in told.items():
                cuts.setdefault(cut, []).append(values)
        return {
            name: np.stack([np.mean(cuts[cut], axis=0) for cut in sorted(cuts)], axis=1)
            for name, cuts in found.items()
        }

    def sets(self, thresholds: Mapping[str, float]) -> dict[str, Bool[np.ndarray, "n grades"]]:
        """Measurement -> which grades are in each exam's set (:mod:`common.evaluation.conformal`).

        Args:
            thresholds: measurement -> threshold of its sets; those not named have none.
        """
        above, index = self.above(), {name: place for place, name in enumerate(self.names)}
        return {
            name: conformal.sets(
                conformal.efforts(conformal.probabilities(above[name]), self.decision[:, index[name]]),
                threshold,
            )
            for name, threshold in thresholds.items()
            if name in above and name in index
        }

    def probabilities(self) -> dict[str, Float32[np.ndarray, " n"]]:
        """Network name -> probability of class 1, or a number's share; of more classes name:class -> of each."""
        columns: dict[str, Float32[np.ndarray, " n"]] = {}
        for output in self.outputs:
            values, name = output.probabilities, output.spec.name
            several = {f"{name}:{c}": values[:, c] for c in range(values.shape[1])}
            columns |= {name: values[:, -1]} if values.shape[1] <= 2 else several
        return columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Committee:
    """A trained ensemble: pictures in, votes and decisions out; the same at the centre and at a site.

    Attributes:
        specs: the networks that score.
        modules: the same networks, ready to be asked, on ``device``.
        thresholds: of a binary network: probability from which on its bit is 1.
        settings: of the run that trained it.
        temperatures: measurement -> temperature of its binary networks' shown probabilities; 1 where not named.
        stacks: number -> how it comes of its networks; of those not named the mean is taken.
        device: where to compute. Probabilities depend on it in their last bits, votes as good as never.
        at_once: the same networks, asked in the fastest way; ``None``: one after the other, the same bits each time.
    """

    specs: tuple[NetworkSpec, ...]
    modules: tuple[nn.Module, ...]
    thresholds: tuple[float, ...]
    settings: Settings
    temperatures: Mapping[str, float] = field(default_factory=dict)
    stacks: Mapping[str, NumberStack] = field(default_factory=dict)
    device: torch.device = CPU
    at_once: Ensemble | None = None

    def fastest(self) -> Committee:
        """The same ensemble for a scoring service: in whichever way is fastest here for this many pictures.

        That is measured, so the last bits of probabilities may differ from one process to the next.
        """
        members = [
            Member(name=spec.name, images=spec.images, network=module)
            for spec, module in zip(self.specs, self.modules, strict=True)
        ]
        precision: Precision = "bfloat16" if self.device.type == "cuda" else "float32"
        return replace(self, at_once=ensemble(members, place=Place(device=self.device, precision=precision)))

    def on(self, device: torch.device) -> Committee:
        """The same ensemble on a device; its weights are copied there."""
        if device == self.device:
            return self
        return replace(
            self, modules=tuple(copy.deepcopy(module).to(device) for module in self.modules), device=device
        )

    def of_fold(self, fold: int) -> Committee:
        """The networks alone whose fold it is: those that never trained on its patients."""
        members = [place for place, spec in enumerate(self.specs) if spec.fold == fold]
        return replace(
            self,
            specs=tuple(self.specs[i] for i in members),
            modules=tuple(self.modules[i] for i in members),
            thresholds=tuple(self.thresholds[i] for i in members),
            at_once=None,
        )

    def score(
        self, stored: Mapping[str, UInt8[Tensor, "exams ... _ side side"]], exams: Int[Tensor, " n"]
    ) -> Scores:
        """Score exams.

        Args:
            stored: image name -> pictures, as in ``ExamTensors.images``.
            exams: which of them.
        """
        return decided(self.outputs(stored, exams), self.settings, self.stacks)

    def outputs(
        self, stored: Mapping[str, UInt8[Tensor, "exams ... _ side side"]], exams: Int[Tensor, " n"]
    ) -> tuple[Output, ...]:
        """What each network says of some exams; every picture is prepared once and read by all."""
        found: list[list[Tensor]] = [[torch.empty(0, spec.target.answers)] for spec in self.specs]
        with torch.inference_mode():
            for chunk in exams.split(BATCH):
                for network, probabilities in zip(found, self._probabilities(stored, chunk), strict=True):
                    network.append(probabilities)
        return tuple(
            Output(
                spec=spec,
                probabilities=torch.cat(parts).numpy(),
                threshold=threshold,
                temperature=self.temperatures.get(spec.target.measurement, 1.0),
            )
            for spec, parts, threshold in zip(self.specs, found, self.thresholds, strict=True)
        )

    def _probabilities(self, stored: Mapping[str, Tensor], exams: Tensor) -> Sequence[Tensor]:
        pictures = self.pictures(stored, exams)
        if self.at_once is not None:
            by_name = self.at_once.logits(pictures)
            return [answers.probabilities(by_name[spec.name].float(), spec.target) for spec in self.specs]
        found = []
        for spec, module in zip(self.specs, self.modules, strict=True):
            with autocast(self.device):  # as in training, where the thresholds come from
                logits: Tensor = module([pictures[name] for name in spec.images])
            found.append(answers.probabilities(logits.float(), spec.target).cpu())
        return found

    def pictures(
        self, stored: Mapping[str, UInt8[Tensor, "exams ... _ side side"]], exams: Int[Tensor, " n"]
    ) -> dict[str, Float32[Tensor, "n ... 3 px px"]]:
        """Image name -> pictures of some exams, as the networks read them."""
        images, image_px = self.settings.images, self.settings.network.image_px
        needed = sorted({image for spec in self.specs for image in spec.images})
        return {
            name: picture(stored[name][exams].to(self.device), images[name], image_px=image_px)
            for name in needed
        }


def decided(
    outputs: Sequence[Output], settings: Settings, stacks: Mapping[str, NumberStack] | None = None
) -> Scores:
    """What an ensemble makes of its networks' outputs: votes, and by them a decision.

    Args:
        outputs: one per network that scores, all of the same exams.
        settings: of the run that trained them.
        stacks: see :class:`Committee`.
    """
    chosen = method(settings.method)
    graded = chosen.scores(settings)
    values = list(graded.values())
    is_valid = (
        validity.predicate(settings)
        if list(graded) == list(settings.measurements)
        else lambda combination: True
    )
    by_majority = settings.rating.decision == "majority"
    if isinstance(chosen, SharesVotes) and chosen.divides(settings):
        shares = chosen.shares(outputs, settings)
        votes, majority = multitude.likeliest(shares), multitude.majority_shared(shares)
        answer = multitude.decide_shared(shares, is_valid=is_valid)
        decision, tie = (majority if by_majority else answer.decision), answer.tie
    else:
        votes = chosen.votes(outputs, settings)
        answer = multitude.decide(votes, values=values, is_valid=is_valid)
        majority = multitude.majority(votes, values=values)
        decision, tie = answer.decision, answer.tie
        if by_majority:
            decision, tie = majority, multitude.majority_ties(votes, values=values)
        upwards = chosen.votes_upwards(outputs, settings) if isinstance(chosen, SettlesTies) else votes
        if (either := (upwards != votes).any(axis=(1, 2))).any():
            tie[either] |= (
                _answers(upwards[either], values, is_valid, settings.rating) != decision[either]
            ).any(axis=1)
    return Scores(
        names=tuple(graded),
        outputs=tuple(outputs),
        votes=votes,
        decision=decision,
        majority=majority,
        combined=_combined(dict(zip(graded, decision.T, strict=True)), settings),
        weight=answer.weight,
        runner_up_weight=answer.runner_up_weight,
        contested=answer.contested,
        tie=tie,
        numbers=_numbers(outputs, settings),
        stacked=stacked_numbers(outputs, stacks or {}, settings),
    )


def _numbers(outputs: Sequence[Output], settings: Settings) -> dict[str, Float64[np.ndarray, "n networks"]]:
    found: dict[str, list[Float64[np.ndarray, " n"]]] = {}
    for output in outputs:
        target = output.spec.target
        if target.kind == "regression":
            shares = output.probabilities[:, 0].astype(np.float64)
            values = in_units(shares, settings.numbers[target.measurement])
            found.setdefault(target.measurement, []).append(values)
    return {name: np.stack(values, axis=1) for name, values in found.items()}


def _answers(
    votes: Int[np.ndarray, "n models scores"],
    values: Sequence[int],
    is_valid: Callable[[tuple[int, ...]], bool],
    rating: RatingSettings,
) -> Int64[np.ndarray, "n scores"]:
    if rating.decision == "majority":
        return multitude.majority(votes, values=values)
    return multitude.decide(votes, values=values, is_valid=is_valid).decision


def _combined(
    decision: Mapping[str, Int64[np.ndarray, " n"]], settings: Settings
) -> Int64[np.ndarray, " n"] | None:
    if settings.validity != "eoss":
        return None
    if COMBINED in decision:
        return decision[COMBINED]
    return np.asarray(np.maximum(decision["hypertrophy"], decision["vascularity"]))
