"""The configuration of a run: TOML at the edge, frozen models inside.

Sections that change what leaves a site, or whom it reaches (``campaign``, ``measurements``, ``images``,
``network``, ``training``, ``federation``, ``privacy``, the methods' own), enter the plan's hash, which a site
approves; ``compute`` (speed), ``personal`` (what stays at a site), ``evaluate`` and ``cohort`` (simulation) do not,
but for the share of patients that is held out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from common import signed_json
from common.errors import ConfigurationError, refusal
from common.sections.campaign import CampaignSettings
from common.sections.cohort import CohortSettings, MachineProfile
from common.sections.compute import ComputeSettings
from common.sections.evaluation import EvaluateSettings, PersonalSettings
from common.sections.federation import FederationSettings
from common.sections.measurements import MeasurementSettings, NumberSettings
from common.sections.methods import AndersenSettings, ProbeSettings, RatingSettings, SvdhSettings
from common.sections.networks import ImageSettings, NetworkSettings
from common.sections.privacy import PrivacySettings
from common.sections.section import Name, Options, Section, Seed, check_options, section
from common.sections.secure import objection, overstated
from common.sections.training import TrainingSettings
from common.sections.validity import Validity, ValidityTable
from common.text import toml_text

PRIVATE_ALGORITHMS = ("fedavg", "fedavgm", "fedadam", "fedyogi")
"""Algorithms that only post-process what private sites send."""


class Settings(Section):
    """A whole run."""

    name: Name
    seed: Seed = 0
    method: str = "rating"
    options: Options = Field(default_factory=dict)
    """Of a method of your own."""
    validity: Validity = "any"
    """Which combinations of grades can be: ``eoss`` forbids hypertrophy 0 with vascularity > 0, or a table."""
    campaign: CampaignSettings = CampaignSettings()
    images: dict[Name, ImageSettings]
    measurements: dict[Name, MeasurementSettings]
    numbers: dict[Name, NumberSettings] = Field(default_factory=dict)
    network: NetworkSettings = NetworkSettings()
    training: TrainingSettings = TrainingSettings()
    federation: FederationSettings = FederationSettings()
    rating: RatingSettings = RatingSettings()
    andersen: AndersenSettings = AndersenSettings()
    probe: ProbeSettings = ProbeSettings()
    svdh: SvdhSettings = SvdhSettings()
    privacy: PrivacySettings | None = None
    """``None``: no differential privacy."""
    evaluate: EvaluateSettings = EvaluateSettings()
    personal: PersonalSettings | None = None
    """``None``: sites use the common networks as they are."""
    cohort: CohortSettings | None = None
    compute: ComputeSettings = ComputeSettings()

    @model_validator(mode="after")
    def _names_fit(self) -> Settings:
        check_options(self.options, self.method, "options", "method")
        read = {f"measurements.{name}": one for name, one in self.measurements.items()}
        for where, measured in (
            read | {f"numbers.{name}": one for name, one in self.numbers.items()}
        ).items():
            unknown = [image for image in measured.images if image not in self.images]
            if unknown:
                raise ValueError(f"{where}.images names {unknown}; the images are {sorted(self.images)}")
        self._check_numbers()
        jigsaw = self.rating.jigsaw
        if self.rating.pretraining == "jigsaw" and jigsaw.image not in self.images:
            raise ValueError(f"rating.jigsaw.image is {jigsaw.image!r}; the images are {sorted(self.images)}")
        strays = set(jigsaw.measurements or ()) - set(self.measurements)
        if strays:
            raise ValueError(
                f"rating.jigsaw.measurements has {sorted(strays)}; the measurements are {list(self.measurements)}"
            )
        if isinstance(self.validity, ValidityTable) and (problem := self.validity.problem(self._grades())):
            raise ValueError(problem)
        if self.validity == "eoss":
            grades = self._grades()
            if grades != {"hypertrophy": 4, "vascularity": 4}:
                raise ValueError(
                    f'validity "eoss" needs hypertrophy and vascularity with 4 grades each; got {grades}'
                )
        return self

    def _check_numbers(self) -> None:
        if self.numbers and (self.privacy is not None or self.personal is not None):
            raise ValueError(
                "[numbers] is for campaigns without [privacy] and [personal]: both know networks that tell grades "
                "apart; leave [numbers] out"
            )
        if not self.measurements:
            raise ValueError("measurements is empty: expected at least one; of a number, its classes")
        twice = sorted(set(self.measurements) & set(self.numbers))
        if twice:
            raise ValueError(f"numbers.{twice[0]} is a measurement, too: each needs a name of its own")
        for name, measurement in self.measurements.items():
            if measurement.number and measurement.number not in self.numbers:
                raise ValueError(
                    f"measurements.{name}.number is {measurement.number!r}; the numbers are {sorted(self.numbers)}"
                )

    @model_validator(mode="after")
    def _list_may_grow(self) -> Settings:
        if self.campaign.late_joining and self.federation.secure is not None:
            raise ValueError(
                "campaign.late_joining is for campaigns without [federation.secure]: sums are over the sites that "
                "all agreed to at the start, and one site more would be known by the difference"
            )
        if self.campaign.late_joining and self.privacy is not None:
            raise ValueError(
                "campaign.late_joining is for campaigns without [privacy]: noise and epsilon are planned for the "
                "sites that begin"
            )
        return self

    @model_validator(mode="after")
    def _folds_judge(self) -> Settings:
        if self.evaluate.design == "folds" and (self.privacy is not None or self.campaign.evaluation):
            raise ValueError(
                'evaluate.design "folds" is for campaigns without [privacy], which have no folds, and without '
                "campaign.evaluation, which asks sites about held-out patients: here there are none"
            )
        return self

    @model_validator(mode="after")
    def _privacy_fits(self) -> Settings:
        if self.method == "probe" and self.privacy is None:
            raise ValueError(
                'method "probe" needs a [privacy] section; mechanism = "none" in it trains the heads without privacy'
            )
        if self.privacy is None:
            return self
        if self.split_by == "image":
            raise ValueError(
                'andersen.split "image" is for campaigns without [privacy]: there a patient is trained on or not'
            )
        if self.campaign.evaluation:
            raise ValueError(
                "campaign.evaluation is for campaigns without [privacy]: tables of held-out patients would leave "
                "without noise"
            )
        if self.campaign.statistics:
            raise ValueError(
                "campaign.statistics is for campaigns without [privacy]: counts of patients would leave without noise"
            )
        weighed = {name: len(weights) for name, weights in self.privacy.class_weights.items()}
        wrong = [name for name, count in weighed.items() if count != self._grades().get(name)]
        if wrong:
            raise ValueError(
                f"privacy.class_weights.{wrong[0]} needs one weight per grade of that measurement"
            )
        federation = self.federation
        if federation.algorithm not in PRIVATE_ALGORITHMS or federation.rule != "mean":
            raise ValueError(
                f"[privacy] needs federation.algorithm among {list(PRIVATE_ALGORITHMS)} and rule mean; got "
                f"{federation.algorithm} and {federation.rule}"
            )
        if federation.optimiser_state == "kept":
            raise ValueError(
                '[privacy] needs federation.optimiser_state "fresh": the optimiser of private steps is not kept'
            )
        if federation.feeds_back:
            raise ValueError(
                f'[privacy] needs federation.encoding "float32" or "bfloat16", got "{federation.encoding}": what an '
                "update lost of a round would leave with the next one, and no ledger has that"
            )
        if self.privacy.mechanism == "none" and self.method != "probe":
            raise ValueError('privacy.mechanism "none" is for method "probe": remove [privacy] instead')
        return self

    @model_validator(mode="after")
    def _sums_are_enough(self) -> Settings:
        federation = self.federation
        if federation.secure is not None and federation.optimiser_state == "kept":
            raise ValueError(
                '[federation.secure] needs federation.optimiser_state "fresh": every site gets one and the same '
                "request, which cannot say of each from which of its rounds to go on"
            )
        if federation.secure is not None and federation.feeds_back:
            raise ValueError(
                f'[federation.secure] needs federation.encoding "float32" or "bfloat16", got '
                f'"{federation.encoding}": numbers under masks have all their bits, and no scale could be told'
            )
        problem = federation.secure and objection(
            algorithm=federation.algorithm,
            rule=federation.rule,
            outliers=federation.outliers,
            method=self.method,
            noise=self.privacy.mechanism if self.privacy is not None else None,
        )
        if problem:
            raise ValueError(problem)
        return self

    def _grades(self) -> dict[str, int]:
        return {name: measurement.grades for name, measurement in self.measurements.items()}

    @property
    def folds(self) -> int:
        """Into how many parts a site's training patients are split; in one, no patient decides over another."""
        return self.rating.folds if self.privacy is None else 1

    @property
    def diagnoses(self) -> tuple[str, ...]:
        """Measurements that are classes of a diagnosis."""
        return tuple(name for name, measured in self.measurements.items() if measured.column == "diagnosis")

    @property
    def read_by_readers(self) -> tuple[str, ...]:
        """The columns that readers fill in: their grades, then their numbers."""
        return (*(name for name, graded in self.measurements.items() if graded.by_readers), *self.numbers)

    @property
    def columns(self) -> tuple[str, ...]:
        """What is read of a site's tables, and what is in it, for a person."""
        numbers = (f"{name} ({one.smallest:g} to {one.largest:g})" for name, one in self.numbers.items())
        return (*(graded.source(name) for name, graded in self.measurements.items()), *numbers)

    @property
    def held_out(self) -> float | None:
        """Share of patients held out where the manifest does not say; ``None``: nobody, whatever it says."""
        return self.evaluate.held_out if self.evaluate.design == "held_out" else None

    @property
    def split_by(self) -> Literal["patient", "image"]:
        """What is held out and put into folds as a whole."""
        return self.andersen.split if self.method == "andersen" else "patient"

    @property
    def private(self) -> bool:
        """Whether what leaves a site is differentially private."""
        return self.privacy is not None and self.privacy.mechanism != "none"

    @property
    def sums_tasks(self) -> bool:
        """Whether sites send nothing but sums without noise, so that each has to have something to add."""
        return self.federation.secure is not None and not self.private

    @property
    def overstated(self) -> str:
        """Why the plan's epsilon would not hold against a site that takes part; empty if it does.

        Plans before version 0.2 could be so. They are read, to be audited with both figures, and not run.
        """
        secure = self.federation.secure
        return (secure is not None and self.private and overstated(secure)) or ""

    def plan(self) -> dict[str, Any]:
        """Everything that changes what leaves a site, as plain JSON values.

        What a site makes for itself of what came back (``personal``) leaves no site, and is not in it.
        """
        plan = self.model_dump(mode="json", exclude={"name", "compute", "evaluate", "personal", "cohort"})
        for name in ("options", "numbers"):  # plans had none before there were any
            if not plan[name]:
                del plan[name]
        if self.svdh == SvdhSettings():
            del plan["svdh"]
        if self.network.weights != "none":
            plan["network"]["weights"] = "pretrained"
        evaluate = self.evaluate.model_dump(mode="json", include={"held_out", "design"})
        return plan | {"evaluate": evaluate}

    def plan_json(self) -> str:
        """Canonical JSON of :meth:`plan`, the text that is hashed and sent."""
        return signed_json.canonical(self.plan())

    def plan_hash(self) -> str:
        """SHA-256 of the canonical JSON of :meth:`plan`, in hex."""
        return hashlib.sha256(self.plan_json().encode()).hexdigest()


def parse(
    text: str, *, overrides: Sequence[str] = (), source: str = "configuration", past: bool = False
) -> Settings:
    """Read a configuration from TOML.

    Args:
        text: the TOML document.
        overrides: ``section.key=value`` pairs that replace values; the value is TOML, or else taken as text.
        source: name used in error messages.
        past: whether it is of a run that was made, and is read to be told of; see :attr:`Settings.overstated`.

    Raises:
        ConfigurationError: listing every unknown key and every value out of range at once.
    """
    return _checked(_document(text, overrides, source=source), source=source, past=past)


def _document(text: str, overrides: Sequence[str], *, source: str) -> dict[str, Any]:
    document = toml_text.parse(text, source=source)
    for override in overrides:
        _set(document, override)
    return document


def _checked(document: dict[str, Any], *, source: str, past: bool) -> Settings:
    if "rows" in document:
        raise ConfigurationError(
            f"Expected the configuration of one run in {source}, got a study's, of several: synofed study {source}"
        )
    settings = section(Settings, document, source=source)
    if settings.overstated and not past:
        raise ConfigurationError(f"{source} cannot be used:\n{settings.overstated}")
    return settings


def load(path: Path, *, overrides: Sequence[str] = (), past: bool = False) -> Settings:
    """Read a configuration file, and those of machines that it names; see :func:`parse`.

    Relative paths in ``cohort`` start at the working folder.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"Expected a configuration file at {path}: {refusal(error)}") from None
    document = _document(toml_text.decoded(content, source=str(path)), overrides, source=str(path))
    _read_machines(document)
    return _checked(document, source=str(path), past=past)


def _read_machines(document: dict[str, Any]) -> None:
    """Put the content of each machine's file in the place of its name."""
    match document:
        case {"cohort": {"phantom": {"machines": list() as machines}}}:
            machines[:] = [
                machine_profile(Path(one)).model_dump() if isinstance(one, str) else one for one in machines
            ]


def machine_profile(path: Path) -> MachineProfile:
    """Read a TOML file with a machine's profile, as ``docs/examples/machine.toml``.

    Raises:
        ConfigurationError: if there is none, or listing every unknown key and every value out of range at once.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"Expected a machine's profile at {path}: {refusal(error)}") from None
    return section(MachineProfile, toml_text.read(content, source=str(path)), source=str(path))


def of_folder(cohort: Path) -> str:
    """The override that takes the sites of a folder, whatever ``[cohort]`` has."""
    return f"cohort={{folder={json.dumps(str(cohort))}}}"


def _set(document: dict[str, Any], override: str) -> None:
    key, value = toml_text.pair(override)
    *names, last = key.split(".")
    target = document
    for name in names:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise ConfigurationError(f"--set {override}: {name} is a value, not a section")
    try:
        target[last] = toml_text.parse(f"value = {value}", source="--set")["value"]
    except ConfigurationError:
        target[last] = value.strip()
