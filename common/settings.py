"""The configuration of a run: TOML at the edge, frozen models inside.

Sections that change what leaves a site, or whom it reaches (``campaign``, ``measurements``, ``images``,
``network``, ``training``, ``federation``, ``privacy``, the methods' own), enter the plan's hash, which a site
approves; ``compute`` (speed), ``personal`` (what stays at a site), ``evaluate`` and ``cohort`` (simulation) do not,
but for the share of patients that is held out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from common import signed_json
from common.cohort_settings import CohortSettings, MachineProfile
from common.errors import ConfigurationError
from common.extensions import is_object_path
from common.measurement_settings import MeasurementSettings, NumberSettings
from common.method_settings import AndersenSettings, ProbeSettings, RatingSettings, SvdhSettings
from common.privacy_settings import PrivacySettings
from common.section import (
    Backbone,
    Bytes,
    Count,
    Criterion,
    Fraction,
    GrowingSection,
    Name,
    Options,
    Positive,
    Rate,
    Seconds,
    Section,
    Seed,
    Share,
    Threads,
)
from common.secure_settings import SecureSettings, objection, overstated
from common.text import toml_text
from common.text.redaction import redacted
from common.validity_settings import Validity, ValidityTable

AnySection = TypeVar("AnySection", bound=Section)
Algorithm = Annotated[
    str, Field(pattern=r"^(fedavg|fedprox|scaffold|fedbn|fedavgm|fedadam|fedyogi|[\w.]+:\w+)$")
]
PersonalCandidate = Literal["norms", "head", "network", "mean", "thresholds", "temperature"]
Rule = Annotated[str, Field(pattern=r"^(mean|median|trimmed_mean|krum|[\w.]+:\w+)$")]


PRIVATE_ALGORITHMS = ("fedavg", "fedavgm", "fedadam", "fedyogi")
"""Algorithms that only post-process what private sites send."""


def _check_options(options: Options, name: str, where: str, of: str) -> None:
    if options and not is_object_path(name):
        raise ValueError(
            f"{where} is for code of your own, but {of} is {name!r}: remove it, or name your own"
        )


class CampaignSettings(GrowingSection):
    """What the people who approve a campaign are told about it."""

    later: ClassVar[tuple[str, ...]] = ("evaluation", "late_joining", "statistics", "cases")

    purpose: str = ""
    """What the networks are trained for."""
    recipients: tuple[str, ...] = ()
    """Who gets the trained networks."""
    evaluation: bool = False
    """Ask each site, once, for tables of how the finished ensemble grades its held-out patients. A site whose policy
    permits none takes part all the same."""
    late_joining: bool = False
    """Let the list of sites grow: who is admitted later trains from the next round after it agreed, and sites that
    train nothing may judge the ensemble, which then goes to them too."""
    statistics: bool = False
    """Ask each site, before anything is trained, how many patients it has by machine, joint, diagnosis, age and
    grade. A site whose policy permits none takes part all the same."""
    cases: bool = False
    """With ``evaluation``: ask also what each single exam behind the tables was graded as, and how surely. A site
    whose policy permits none gives its tables without."""

    @model_validator(mode="after")
    def _cases_are_of_tables(self) -> CampaignSettings:
        if self.cases and not self.evaluation:
            raise ValueError(
                "campaign.cases needs campaign.evaluation = true: it tells the exams behind its tables"
            )
        return self


class ImageSettings(GrowingSection):
    """One image of an exam.

    ``grey`` is stored as one channel, ``doppler`` as luminance and mask of the flow signal, ``colour`` as RGB.
    """

    later: ClassVar[tuple[str, ...]] = ("frames",)

    kind: Literal["grey", "doppler", "colour"]
    mask_saturation: Fraction = 0.40
    """Doppler only: HSV saturation above which a pixel is flow (RATING's released code)."""
    frames: Annotated[int, Field(ge=2, le=64)] | None = None
    """Of a moving picture, how many frames networks read, evenly spaced over the clip. ``None``: a still."""


class NetworkSettings(GrowingSection):
    """The networks' backbone and the size of the image they see."""

    later: ClassVar[tuple[str, ...]] = ("options", "weights_licence", "head")

    backbone: Backbone = "small"
    """``small``, ``resnet18``, ``mobilenet_v2``, ``vgg16``, ``inception_v3``, or your own ``package.module:Name``."""
    weights: str = "none"
    """Where backbones start that start from no other network: ``none`` (random), ``imagenet`` (what
    `synofed weights import` wrote into the folder ``weights``, or else torchvision's, which it downloads), or a file
    of torchvision's, or a folder of such files."""
    weights_sha256: str = ""
    """Of the start weights, filled in by the centre: the plan names what they are, not where they lie."""
    weights_licence: Annotated[str, Field(max_length=200)] = ""
    """Under which weights of your own may be used, in your words; sites read it in the plan."""
    image_px: Annotated[int, Field(ge=16, le=1024)] = 64
    width: Annotated[int, Field(ge=4, le=256)] = 16
    """Channels of the small backbone's first stage; ignored by the others."""
    hidden: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Width of the hidden layer of heads that have one (RATING's fusion head: 256)."""
    head: Literal["random", "zero"] = "random"
    """How a network's last layer starts. Below a random one, what a backbone has learnt before is changed first, to
    make up for what the head says of it at random; ``zero``: the head learns first (ours)."""
    options: Options = Field(default_factory=dict)
    """Of a backbone of your own."""

    @model_validator(mode="after")
    def _options_are_of_ones_own(self) -> NetworkSettings:
        _check_options(self.options, self.backbone, "network.options", "network.backbone")
        if self.weights_licence and self.weights == "none" and not self.weights_sha256:
            raise ValueError("network.weights_licence is of start weights, but there are none: remove it")
        return self

    def __hash__(self) -> int:
        """Layouts are found once per settings of networks; a dictionary has none of its own."""
        fields = (getattr(self, name) for name in type(self).model_fields if name != "options")
        return hash((*fields, *sorted(self.options.items())))


Scale = Annotated[float, Field(ge=0.1, le=10)]


class AugmentationSettings(Section):
    """Ranges of the random changes made to a training image (RATING, supplemental methods)."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 5.0
    brightness: Fraction = 0.25
    contrast: Fraction = 0.25
    grey_shift: Annotated[float, Field(ge=0, le=0.10)] = 0.10
    """Largest shift of a grey-scale ROI, as a fraction of its side."""
    grey_scale: tuple[Scale, Scale] = (0.8, 1.1)
    doppler_scale: tuple[Scale, Scale] = (0.9, 1.1)


class TrainingSettings(GrowingSection):
    """Local training of one network in one round."""

    later: ClassVar[tuple[str, ...]] = ("momentum",)

    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of ``sgd``; AdamW's moments have their usual 0.9 and 0.999."""
    learning_rate: Rate = 3e-4
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 1e-5
    batch_size: Positive = 64
    """``batch_size`` >= the number of training exams, with ``sampling = "all"``, gives full batches."""
    local_steps: Positive = 10
    sampling: Literal["balanced", "shuffled", "all"] = "balanced"
    """``balanced`` resamples classes to equal numbers at each epoch, as RATING does."""
    schedule: Literal["rating", "constant"] = "rating"
    """``rating``: warm-up over the first tenth, then x0.3 at 40, 60 and 80 % of all steps."""
    augmentation: AugmentationSettings | None = AugmentationSettings()

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> TrainingSettings:
        if self.momentum and self.optimiser != "sgd":
            raise ValueError(f'training.momentum is for optimiser "sgd", but optimiser is "{self.optimiser}"')
        return self


class FederationSettings(GrowingSection):
    """Rounds between sites and centre."""

    later: ClassVar[tuple[str, ...]] = ("optimiser_state", "threshold", "secure", "options", "selection")

    algorithm: Algorithm = "fedavg"
    """What is trained and how updates become the next weights: ``fedavg``, ``fedprox`` (needs ``proximal_mu``),
    ``scaffold``, ``fedbn``, ``fedavgm``, ``fedadam``, ``fedyogi``, or your own ``package.module:Name``."""
    optimiser_state: Literal["fresh", "kept"] = "fresh"
    """Whether a site's optimiser starts afresh in each round, or goes on where its last round left it (AdamW's
    moments, SGD's momentum): two more vectors per network, which stay in the site's folder."""
    proximal_mu: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """FedProx's mu (Li et al. 2020, eq. 2)."""
    server_learning_rate: Rate | None = None
    """The centre's eta: FedAvgM's (0.7), FedAdam's and FedYogi's (0.01; chosen together with ``tau``)."""
    beta1: Annotated[float, Field(ge=0, lt=1)] | None = None
    """FedAvgM's momentum, FedAdam's and FedYogi's decay of the first moment (0.9)."""
    beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    """FedAdam's and FedYogi's decay of the second moment (0.99)."""
    tau: Rate | None = None
    """FedAdam's and FedYogi's degree of adaptivity, on the scale of one parameter's update (0.001)."""
    threshold: Criterion = "youden"
    """What a binary network's threshold makes largest on the sites' validation scores."""
    selection: Literal["best", "last"] = "best"
    """Which round's weights are kept: the one that scores best on the sites' validation folds, or the last, so that
    the folds choose nothing and can be used for something else."""
    rule: Rule = "mean"
    """How the sites' updates become one: ``mean`` (weighted by exams), ``median``, ``trimmed_mean``, ``krum`` (one
    site, one vote), or your own ``package.module:Name``; it runs at the centre only."""
    trimmed_share: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """Of the updates, what the trimmed mean leaves out at each end (0.2)."""
    byzantine: Count | None = None
    """Attackers that Krum is to stand (1); it needs 2 x ``byzantine`` + 3 sites."""
    selected: Positive | None = None
    """Updates that Krum averages (1)."""
    outliers: Literal["off", "flag", "refuse"] = "off"
    """Updates far longer than the other sites': not looked for, named in the round's record, or left out too."""
    outlier_tolerance: Rate = 6.0
    """Spreads above the median of log norms from which on an update is outlying."""
    rounds: Positive = 10
    quorum: Positive | Literal["all"] = "all"
    deadline_s: Seconds | None = None
    """How long a round waits for a site, in its open hours; ``None``: five times what a round takes it, at least
    a quarter of an hour; an hour where that is not known."""
    approval_s: Seconds = 14 * 24 * 3600.0
    """How long a campaign waits for the sites' approval before it goes on with those that its quorum needs."""
    group_bytes: Bytes = 256_000_000
    """Networks are packed into one message up to this size."""
    encoding: Literal["float32", "bfloat16"] = "float32"
    secure: SecureSettings | None = None
    """Secure aggregation; ``None``: the centre sees every site's update."""
    options: Options = Field(default_factory=dict)
    """Of an algorithm of your own."""

    @model_validator(mode="after")
    def _options_are_of_ones_own(self) -> FederationSettings:
        _check_options(self.options, self.algorithm, "federation.options", "federation.algorithm")
        return self

    def needed(self, sites: int) -> int:
        """How many of this number of sites a round needs."""
        return sites if self.quorum == "all" else min(self.quorum, sites)


class EvaluateSettings(GrowingSection):
    """What is computed after training."""

    later: ClassVar[tuple[str, ...]] = ("design", "hotspots", "heatmap_method")

    design: Literal["held_out", "folds"] = "held_out"
    """``held_out``: patients who never train are graded by all networks; ``folds``: nobody is held out, each patient
    is graded by the networks that did not train on the patient's fold (cross-validation), and these keep the weights
    of their last round: the fold that judges them chooses nothing."""
    baselines: bool = False
    """Also train each site alone and all sites pooled, with the same number of networks, and of steps per network."""
    baseline_models: Positive | None = None
    """Scoring models (folds) that the baselines train; ``None``: as many as the federation. Where they train fewer,
    it is compared with them cut down to as many."""
    bootstrap: Annotated[int, Field(ge=100, le=1_000_000)] = 1000
    heatmaps: Annotated[int, Field(ge=0, le=50)] = 0
    """Held-out exams whose heatmaps are compared with where a phantom's synovium or damaged joints are."""
    heatmap_method: Literal["integrated_gradients", "grad_cam"] = "integrated_gradients"
    hotspots: Annotated[int, Field(ge=0, le=20)] = 0
    """Scans of each predicted diagnosis, of as many patients, whose heatmaps are put side by side to be looked at."""
    held_out: Share = 0.3
    """Share of patients held out for testing where the manifest has no ``split`` column."""


class PersonalSettings(Section):
    """What each site makes for itself of the common networks, where its own validation patients gain by it.

    Nothing of it leaves a site (:mod:`common.ensemble.personal`), so it is no part of the plan.
    """

    candidates: Annotated[tuple[PersonalCandidate, ...], Field(min_length=1)] = ("norms", "network")
    """``norms``: those that a site keeps under FedBN; ``head``: the last layers trained further on the site's exams;
    ``network``: all layers; ``mean``: of the common weights and those of ``network``; ``thresholds``: the site's own,
    for whichever weights were chosen; ``temperature``: of shown probabilities, which changes no grade."""
    steps: Positive = 80
    """Of training further, of each network."""
    checks: Positive = 4
    """How often on the way validation patients are asked; the weights of the best time are kept (early stopping)."""
    learning_rate_share: Rate = 0.25
    """Of ``training.learning_rate``: a stage of heads alone may have another, and here all layers train."""
    margin: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Standard errors by which a candidate has to be better than the common networks."""

    @model_validator(mode="after")
    def _a_mean_has_two_sides(self) -> PersonalSettings:
        if "mean" in self.candidates and "network" not in self.candidates:
            raise ValueError('personal.candidates has "mean", which needs "network" beside it')
        return self


class RaySettings(Section):
    """A Ray cluster, and what a site gets of it beside ``compute.threads`` CPUs."""

    address: Annotated[str, Field(pattern=r"^(auto|[A-Za-z0-9.-]+:[0-9]{1,5})$")] | None = None
    """``HOST:PORT`` of its head, or ``auto`` on one of its nodes; ``None``: this machine alone."""
    gpus: Annotated[float, Field(ge=0, le=64)] | None = None
    """Of a site, also a share of one; ``None``: one where this machine has any."""


class ComputeSettings(Section):
    """Speed only; never part of the plan."""

    devices: tuple[str, ...] = ("auto",)
    """One worker per device; ``auto``: every CUDA device, or else one CPU worker for each ``threads`` cores."""
    threads: Threads = 1
    """CPU threads of one site. The same number gives the same bits in every engine."""
    engine: Literal["in-process", "ray"] = "in-process"
    ray: RaySettings = RaySettings()
    groups_in_flight: Threads = 4


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
        _check_options(self.options, self.method, "options", "method")
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
        raise ConfigurationError(f"Expected a configuration file at {path}: {error}") from None
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
        raise ConfigurationError(f"Expected a machine's profile at {path}: {error}") from None
    return section(MachineProfile, toml_text.read(content, source=str(path)), source=str(path))


def of_folder(cohort: Path) -> str:
    """The override that takes the sites of a folder, whatever ``[cohort]`` has."""
    return f"cohort={{folder={json.dumps(str(cohort))}}}"


def section(kind: type[AnySection], values: Mapping[str, object], *, source: str) -> AnySection:
    """A section from a document, a command's options or a caller's arguments.

    Args:
        kind: of section.
        values: by field.
        source: what they are of, in error messages.

    Raises:
        ConfigurationError: listing every unknown name and every value out of range at once.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(describe(error, source=source)) from None


def _set(document: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigurationError(f"Expected key=value after --set, got {override!r}")
    *sections, last = key.strip().split(".")
    target = document
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigurationError(f"--set {override}: {section} is a value, not a section")
    try:
        target[last] = toml_text.parse(f"value = {value}", source="--set")["value"]
    except ConfigurationError:
        target[last] = value.strip()


def describe(error: ValidationError, *, source: str) -> str:
    """Every unknown key and every value out of range, one line each."""
    lines = [_describe(detail) for detail in error.errors()]
    return redacted(f"{source} cannot be used:\n" + "\n".join(lines))


def _describe(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "(top level)"
    if detail["type"] == "extra_forbidden":
        return f"  {where}: no such setting"
    if detail["type"] == "missing":
        return f"  {where}: is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "secret":
        return f"  {where}: {message}"
    if isinstance(detail["input"], dict):  # of a whole section, which says itself what came
        return f"  {where}: {message}"
    return f"  {where}: {message}, got {detail['input']!r:.80}"
