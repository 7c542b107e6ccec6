"""The policy in plain words: what each setting permits, and what a change of it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

from client.site.policy import NEWEST, Metric, Policy

Kind = Literal["yes-no", "choice", "choices", "number", "lines", "line"]
NEVER = frozenset({"version"})
"""Set by signing alone."""


@dataclass(frozen=True, slots=True)
class Words:
    """What is said of a setting.

    Attributes:
        title: what it permits or limits.
        help: what follows from it.
        more: 1: more of it lets more leave the site, -1: less of it does, 0: neither.
        none: what it means that there is nothing.
    """

    title: str
    help: str = ""
    more: Literal[1, -1, 0] = 0
    none: str = "nothing"


WORDS: Mapping[str, Words] = {
    "allow_unprotected": Words(
        "Training without differential privacy and without secure aggregation",
        "Single updates of this site can then be seen by the centre.",
        1,
    ),
    "allow_secure_only": Words(
        "Training under secure aggregation alone",
        "The centre sees sums over sites; no noise protects patients.",
        1,
    ),
    "approval": Words(
        "Who approves campaigns",
        "each: somebody here approves each campaign; automatic: the policy does, for simulations.",
    ),
    "methods": Words(
        "Methods that may run", "One a line, such as rating or probe; * stands for all that are built in.", 1
    ),
    "code": Words("Code that is not built in and may run", "One package.module:Name a line.", 1),
    "maximum_rounds": Words("Most rounds of a campaign", "All its stages together.", 1),
    "hours": Words(
        "When the site trains", "One a line, such as mon-fri 19:00-07:00; none: always.", none="always"
    ),
    "time_zone": Words(
        "Time zone of these hours", "Such as Europe/Copenhagen; none: this machine's.", none="this machine's"
    ),
    "metrics": Words(
        "What may leave beside updates",
        "Of campaigns without differential privacy alone. counts: numbers of exams; losses: of training; "
        "score_histograms: scores of validation patients in 256 bins; timings: seconds per round; statistics: "
        "patients by machine, age and grade; stacking_sums: of a number such as a total score, sums over each fold "
        "of products of the networks' answers and the labels; number_sums: of a number, sums of readers' and "
        "ensemble's numbers, squares and products over held-out patients of a machine; cases: what each single "
        "held-out exam was graded as, without a name or number of exam or patient. The last two beside tables alone.",
        1,
    ),
    "minimum_cohort": Words(
        "Fewest patients behind what leaves",
        "Behind every count, and every update without differential privacy.",
        -1,
    ),
    "diagnosis": Words(
        "Networks that learn a diagnosis",
        "The class that the manifest's diagnosis is in, not a grade of a joint.",
        1,
    ),
    "diagnosis_cohort": Words(
        "Fewest patients of each class of a diagnosis",
        "Behind every update and count of a network that learns it.",
        -1,
    ),
    "maximum_update_bytes": Words("Largest reply, bytes", "", 1),
    "federated_evaluation": Words(
        "Tables of how an ensemble grades held-out patients", "Counts without noise, once per campaign.", 1
    ),
    "maximum_epsilon": Words(
        "Privacy budget of a patient (epsilon)",
        "Over all campaigns; none: no campaign with differential privacy runs.",
        1,
        "no private campaign",
    ),
    "maximum_delta": Words("Delta of that budget", "", 1),
    "minimum_peers": Words("Fewest other sites in a secure sum", "Those whose keys stand in [peers].", -1),
    "colluders": Words("Colluding sites that a secure sum must withstand", "", -1),
    "few_peers": Words(
        "Where a private plan asks for less of these two",
        "refuse: no part is taken; full_noise: this site adds all the noise itself.",
    ),
    "out_of_memory": Words("When the training device has too little memory"),
    "keep_outbox_days": Words("Days that copies of all that left are kept", "0: none are kept.", none="0"),
}
"""In the order of the form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting that becomes another.

    Attributes:
        name: of the setting.
        sentence: what it was and what it becomes.
        permits: whether the site then permits more or less than before; empty: neither.
    """

    name: str
    sentence: str
    permits: Literal["more", "less", ""]


def changes(before: Policy, after: Policy) -> tuple[Change, ...]:
    """What differs between two policies, in the order of the form."""
    found = [_change(name, getattr(before, name), getattr(after, name)) for name in WORDS]
    if before.version != after.version:
        found.append(
            Change(
                name="version",
                sentence=f"Version: {before.version} → {after.version}: most rounds counts those of all stages "
                f"together, not of each",
                permits="less",
            )
        )
    return tuple(change for change in found if change is not None)


def renewed(policy: Policy, values: Mapping[str, object]) -> Policy:
    """A policy with other values, of the newest version.

    Raises:
        ValidationError: if they cannot be a policy.
    """
    known = {name: getattr(policy, name) for name in WORDS}
    return Policy.model_validate({**known, **values, "version": NEWEST})


def lines(policy: Policy) -> tuple[str, ...]:
    """All of a policy, a sentence each."""
    return tuple(f"{words.title}: {said(name, getattr(policy, name))}" for name, words in WORDS.items())


def kind(name: str) -> tuple[Kind, tuple[str, ...]]:
    """How a setting is asked for, and what can be chosen."""
    annotation = Policy.model_fields[name].annotation
    if annotation is bool:
        return "yes-no", ()
    if get_origin(annotation) is Literal:
        return "choice", get_args(annotation)
    if name == "metrics":
        return "choices", get_args(Metric)
    if get_origin(annotation) is tuple:
        return "lines", ()
    return ("line" if annotation is str else "number"), ()


def said(name: str, value: object) -> str:
    """A value as it is said."""
    if isinstance(value, bool):
        return "permitted" if value else "not permitted"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or WORDS[name].none
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value:,}"
    return WORDS[name].none if value is None or value == "" else str(value)


def _change(name: str, before: object, after: object) -> Change | None:
    if before == after:
        return None
    sentence = f"{WORDS[name].title}: {said(name, before)} → {said(name, after)}"
    return Change(name=name, sentence=sentence, permits=_permits(WORDS[name].more, before, after))


def _permits(more: int, before: object, after: object) -> Literal["more", "less", ""]:
    if not more:
        return ""
    if isinstance(before, tuple) and isinstance(after, tuple):
        wider = not set(after) <= set(before)  # what is added counts, whatever is taken out beside it
    elif isinstance(before, float | int | None) and isinstance(after, float | int | None):
        wider = ((after or 0) - (before or 0)) * more > 0
    else:
        return ""
    return "more" if wider else "less"
