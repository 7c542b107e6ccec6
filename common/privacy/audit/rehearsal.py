"""A rehearsal of a run's private steps: the code that sites run, on made-up patients, attacked.

It measures the **implementation** with the run's parameters. It says nothing of the finished run, which held no
canaries (:mod:`common.privacy.audit.attacks`: how canaries come in by data alone, and what the two attackers see).

A bound above the claim refutes it; **one below proves nothing**. A claim above the ceiling, which is what a perfect
attack could show, cannot be refuted at all: :func:`rehearsals` then adds a rehearsal of the same code with so much
more noise that the claim is half the ceiling.

Right guesses are counted in two ways: against any mechanism with the claimed epsilon and delta
(:mod:`common.privacy.audit.audit`), and against the steps' own trade-off curve, which sees more
(:mod:`common.privacy.audit.trade_off`). The larger bound decides. All hold together: the error is shared out to both
attacks and both ways (:data:`ERROR`), and in the first way to all choices of how many guesses are made (Bonferroni).

Beside the bounds stands what the step does (:mod:`common.privacy.audit.measured_step`): patients who are sampled or
clipped otherwise than is claimed, or noise that is too small, are seen there long before a bound exceeds a claim.
Either refutes it. Which steps there are: :mod:`common.privacy.audit.rehearsed_steps`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64

from common.errors import ConfigurationError
from common.privacy.accounting.accounting import noise_multiplier
from common.privacy.audit import attacks, audit, measured_step, trade_off
from common.privacy.audit.attacks import RehearsalParameters, Step, derived
from common.privacy.audit.measured_step import MeasuredStep
from common.privacy.audit.rehearsed_steps import step_of
from common.privacy.mechanism.noise import KeyStream
from common.version import VERSION

SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Of the canaries on which the auditor does not abstain."""
CONFIDENCE = 0.95
ERROR = {"white_box": 0.005, "black_box": 0.005, "white_box_curve": 0.035, "black_box_curve": 0.005}
"""Of each bound, the probability that it is too high; together 1 - :data:`CONFIDENCE`. Most is for what sees most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What two attacks on a rehearsed run showed.

    Attributes:
        parameters: that were rehearsed.
        canaries: in either attack.
        confidence: with which none of the bounds is too high.
        claim: epsilon that would be booked, at ``parameters.delta``, one patient added or removed.
        ceiling: what these attacks could show at the most.
        white_box: lower bound on epsilon from every release, for any mechanism.
        black_box: from the heads at the end.
        white_box_curve: from every release, for steps with a curve like the claimed one's.
        black_box_curve: from the heads at the end.
        measured: the step beside its claim.
        date: of the rehearsal.
        version: of synofed.
    """

    parameters: RehearsalParameters
    canaries: int
    confidence: float
    claim: float
    ceiling: float
    white_box: float
    black_box: float
    white_box_curve: float
    black_box_curve: float
    measured: MeasuredStep
    date: str
    version: str

    @property
    def bound(self) -> float:
        """The largest one."""
        return max(self.white_box, self.black_box, self.white_box_curve, self.black_box_curve)

    @property
    def refuted(self) -> bool:
        """Whether more leaks than is claimed, or the step is not as it is booked."""
        return self.bound > self.claim or bool(self.measured.problems)

    @property
    def refutable(self) -> bool:
        """Whether the claim is below what a perfect attack could have shown."""
        return self.claim < self.ceiling

    def __str__(self) -> str:
        found = (
            f"measured at least {self.bound:.2f} (white box {self.white_box:.2f}, by its curve "
            f"{self.white_box_curve:.2f}; black box {self.black_box:.2f}, by its curve {self.black_box_curve:.2f}), "
            f"claimed at most {self.claim:.2f}, ceiling of {self.canaries} canaries {self.ceiling:.2f}"
        )
        found = f"{found}; {self.measured}"
        if self.measured.problems:
            wrong = "; ".join(self.measured.problems)
            return f"{found}: the step is not as it is booked, so the claim is false: {wrong}"
        if self.refuted:
            return f"{found}: the claim is false"
        if not self.refutable:
            return f"{found}: the claim is above the ceiling, so this rehearsal cannot refute it"
        return f"{found}: the claim is not refuted, which is no proof"


def rehearsals(
    parameters: RehearsalParameters, *, canaries: int, entropy: bytes, date: str
) -> tuple[Rehearsal, ...]:
    """The run's rehearsal and, if its claim is above the ceiling, a second one at half the ceiling.

    Args: as :func:`rehearse`.

    Raises:
        ConfigurationError: as :func:`rehearse`.
    """
    first = rehearse(parameters, canaries=canaries, entropy=derived(entropy, "first"), date=date)
    if first.refutable:
        return (first,)
    quieter = at_claim(parameters, first.ceiling / 2)
    second = rehearse(quieter, canaries=canaries, entropy=derived(entropy, "second"), date=date)
    return first, second


def rehearse(
    parameters: RehearsalParameters,
    *,
    canaries: int,
    entropy: bytes,
    date: str,
    step: Step | None = None,
) -> Rehearsal:
    """Attack a rehearsed run, once from inside and once from outside.

    Args:
        parameters: of the run.
        canaries: in either attack; a thousand take seconds to a minute.
        entropy: 32 bytes from the operating system.
        date: that is written beside the result.
        step: what is rehearsed, where it is not what the parameters say; tests plant bugs in it.

    Raises:
        ConfigurationError: for fewer than 10 canaries, or a step whose releases are not finite.
    """
    if canaries < 10:
        raise ConfigurationError(f"Expected at least 10 canaries, got {canaries}: a thousand are usual")
    step = step_of(parameters) if step is None else step
    claim = parameters.claim()
    planned = trade_off.planned_guesses(claim, canaries=canaries, delta=parameters.delta)
    inside, outside = derived(entropy, "white_box"), derived(entropy, "black_box")
    within = _coins(inside, canaries)
    seen = attacks.coordinates(parameters, within, entropy=inside, step=step)
    taken = _coins(outside, canaries)
    fell = attacks.black_box(parameters, taken, entropy=outside, step=step)
    return Rehearsal(
        parameters=parameters,
        canaries=canaries,
        confidence=CONFIDENCE,
        claim=claim,
        ceiling=_ceiling(parameters, canaries, planned),
        measured=measured_step.measured(
            seen, within, parameters, step=step, entropy=derived(entropy, "neighbours")
        ),
        date=date,
        version=VERSION,
        **_bounds("white_box", attacks.white_box(seen, parameters.steps), within, parameters, planned),
        **_bounds("black_box", fell, taken, parameters, planned),
    )


def _coins(entropy: bytes, canaries: int) -> Bool[np.ndarray, " canaries"]:
    """Which canaries are in."""
    return KeyStream(derived(entropy, "coins"), "sampling").bernoulli(canaries, probability=0.5)


def _bounds(
    attack: str,
    scores: Float64[np.ndarray, " canaries"],
    included: Bool[np.ndarray, " canaries"],
    parameters: RehearsalParameters,
    planned: int,
) -> dict[str, float]:
    """Both lower bounds of an attack."""
    by_curve, delta = f"{attack}_curve", parameters.delta
    one_run = audit.best_lower_bound(
        scores, included, guesses=guesses(len(scores)), delta=delta, confidence=1 - ERROR[attack]
    )
    curve = trade_off.epsilon_lower_bound(
        parameters.steps,
        canaries=len(scores),
        guesses=planned,
        correct=audit.right_guesses(scores, included, guesses=(planned,))[planned],
        delta=delta,
        confidence=1 - ERROR[by_curve],
    )
    return {attack: one_run, by_curve: curve}


def guesses(canaries: int) -> tuple[int, ...]:
    """How many guesses an auditor makes: the choices."""
    return tuple(sorted({max(2, 2 * round(share * canaries / 2)) for share in SHARES}))


def ceiling(parameters: RehearsalParameters, canaries: int) -> float:
    """The bound if every guess of both attacks were right.

    Raises:
        ConfigurationError: for values out of range.
    """
    planned = trade_off.planned_guesses(parameters.claim(), canaries=canaries, delta=parameters.delta)
    return _ceiling(parameters, canaries, planned)


def _ceiling(parameters: RehearsalParameters, canaries: int, planned: int) -> float:
    choices, delta = guesses(canaries), parameters.delta
    share = ERROR["white_box"] / len(choices)
    one_run = (
        audit.epsilon_lower_bound(canaries=canaries, guesses=r, correct=r, delta=delta, confidence=1 - share)
        for r in choices
    )
    by_curve = trade_off.epsilon_lower_bound(
        parameters.steps,
        canaries=canaries,
        guesses=planned,
        correct=planned,
        delta=delta,
        confidence=1 - ERROR["white_box_curve"],
    )
    return max(*one_run, by_curve)


def at_claim(parameters: RehearsalParameters, target_epsilon: float) -> RehearsalParameters:
    """The same steps with the noise that makes the claim ``target_epsilon``.

    Raises:
        ConfigurationError: for an epsilon that is not positive and finite.
    """
    steps = parameters.steps
    sigma = noise_multiplier(
        target_epsilon, sample_rate=steps.sample_rate, count=steps.count, delta=parameters.delta
    )
    return replace(parameters, steps=replace(steps, noise_multiplier=sigma))
