"""What the site permits; the centre can neither see nor change it."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import field_validator

from client.site.hours import Windows, is_open, parse, utc_windows
from common.errors import HoursError, PolicyError
from common.extensions import is_object_path
from common.sections.section import Bytes, Count, GrowingSection, Positive, Rate, Share
from common.sections.secure import SecureSettings
from common.settings import Settings

NEWEST: Literal[2] = 2
"""Version of a policy that is signed now."""
UNWEIGHTED = ("median", "trimmed_mean", "krum")
"""Rules that need no number of exams."""
Metric = Literal[
    "counts", "losses", "score_histograms", "timings", "statistics", "stacking_sums", "number_sums", "cases"
]


class Policy(GrowingSection):
    """The ``[policy]`` section of ``site.toml``. What it does not name is not permitted."""

    later: ClassVar[tuple[str, ...]] = ("version", "diagnosis", "diagnosis_cohort")

    version: Literal[1, 2] = 1
    """What the other settings mean. `synofed site policy sign` writes the newest; a policy that was signed before
    there was any has none and keeps the meaning that it had: see ``maximum_rounds``."""
    allow_unprotected: bool = False
    """Permit training without differential privacy and without secure aggregation."""
    allow_secure_only: bool = False
    """Permit training without differential privacy whose updates leave under secure aggregation alone."""
    approval: Literal["each", "automatic"] = "each"
    """``each``: a campaign runs when somebody here has approved its plan; ``automatic``: when the policy permits
    it, for simulations."""
    methods: tuple[str, ...] = ()
    """Methods that may run; ``*`` stands for all that are built in."""
    code: tuple[str, ...] = ()
    """Methods, backbones and algorithms that are not built in and may run, as ``package.module:Name``; what they
    name has to be installed at the site. ``*`` stands for anything that is installed: for simulations."""
    maximum_rounds: Positive = 1000
    """Of a campaign, the rounds of all stages together; in version 1, those of each stage."""
    hours: tuple[str, ...] = ()
    """When the site trains, for example ``["mon-fri 19:00-07:00", "sat-sun"]``; none: always."""
    time_zone: str = ""
    """Whose clock ``hours`` follows, for example ``Europe/Copenhagen``; empty: this machine's."""
    metrics: tuple[Metric, ...] = ()
    """What may leave beside updates: ``counts`` (exams a network was trained on, training exams per measurement),
    ``losses`` (mean training loss per network and round), ``score_histograms`` (validation scores, 256 bins per class
    and network), ``timings`` (seconds per round), ``statistics`` (patients by machine, joint, diagnosis, age and
    grade, before anything is trained, to campaigns that ask), ``stacking_sums`` (of numbers, once per fold: sums over
    its exams of products of two networks' answers and of answer and label, and with them the number of exams). With
    ``federated_evaluation`` also: ``number_sums`` (of numbers, beside the tables: sums over held-out exams of a
    machine of readers' and ensemble's numbers, their squares, products and differences), ``cases`` (to campaigns that
    ask for it, of each exam behind a table the readers' grade, the ensemble's, and with ``score_histograms`` its
    scores, in an order that tells nothing: what one exam was graded as)."""
    minimum_cohort: Positive = 5
    """Patients that must stand behind any count, and behind any update, that leaves without differential privacy.
    With it noise stands for them: a rule that looks at their number would itself be a release."""
    diagnosis: bool = False
    """Permit that networks learn a diagnosis of the manifest: what disease somebody has tells more of a person than
    how inflamed a joint looks."""
    diagnosis_cohort: Positive = 20
    """Patients of each class that must stand behind an update of a network that learns a diagnosis, and behind its
    counts; ``minimum_cohort`` holds beside it."""
    maximum_update_bytes: Bytes = 1_000_000_000
    """Largest reply."""
    federated_evaluation: bool = False
    """Permit that a campaign, once, gets tables of how its ensemble grades this site's held-out patients, by score
    and machine: counts alone, with ``minimum_cohort`` patients behind each table. They leave without noise."""
    maximum_epsilon: Rate | None = None
    """Privacy budget of a patient over all campaigns, who takes no part once it is spent; ``None``: no campaign with
    differential privacy runs."""
    maximum_delta: Share = 1e-5
    minimum_peers: Positive = 2
    """In a secure sum: how many other sites must have their keys in ``[peers]``."""
    colluders: Count = 0
    """In a secure sum: how many sites colluding with the centre the plan must protect against."""
    few_peers: Literal["refuse", "full_noise"] = "refuse"
    """What happens where a plan asks for less than these two: no part is taken, or, in a campaign with differential
    privacy, this site adds all the noise itself and relies on nobody."""
    out_of_memory: Literal["refuse", "smaller_batch", "cpu"] = "refuse"
    """What happens when the training device has too little memory."""
    keep_outbox_days: Count = 90
    """How long the exact bytes of replies stay in ``outbox/``; 0: they are not kept."""

    @field_validator("hours")
    @classmethod
    def _hours_can_be_read(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            parse(entry)
        return entries

    @field_validator("time_zone")
    @classmethod
    def _time_zone_is_known(cls, name: str) -> str:
        try:
            _zone(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("expected a time zone like Europe/Copenhagen, or an empty text") from None
        return name

    def permits(self, metric: Metric) -> bool:
        """Whether something may leave beside updates."""
        return metric in self.metrics

    def windows(self, now: datetime | None = None) -> Windows:
        """When the site trains, in minutes of the UTC week; none: always."""
        return utc_windows(self.hours, now=now or datetime.now(UTC), zone=_zone(self.time_zone))

    def check_hours(self, now: datetime | None = None) -> None:
        """Whether the site trains at this hour.

        Raises:
            HoursError: if not.
        """
        now = now or datetime.now(UTC)
        if not is_open(self.windows(now), now):
            raise HoursError(f"The site trains at {', '.join(self.hours)} only: policy.hours in site.toml")

    def check_plan(self, settings: Settings) -> None:
        """Whether a campaign may run here.

        Raises:
            PolicyError: naming the line of ``site.toml`` that forbids it.
            ConfigurationError: if its method cannot be used.
        """
        if settings.private and self.maximum_epsilon is None:
            raise PolicyError(
                "The campaign spends patients' privacy budget, and there is none: set policy.maximum_epsilon in "
                "site.toml to permit that"
            )
        if not settings.private:
            self._check_unprotected(settings.federation.secure)
        if settings.overstated:
            raise PolicyError(settings.overstated)
        if settings.federation.secure is not None and self.relies(settings.federation.secure) == "nobody":
            self._check_alone(settings)
        self._check_code(settings)
        permitted = is_object_path(settings.method) or "*" in self.methods or settings.method in self.methods
        if not permitted:
            raise PolicyError(
                f"The campaign's method is {settings.method!r}: add it to policy.methods in site.toml to "
                f"permit it"
            )
        self._check_diagnosis(settings)
        weighed = settings.federation.rule not in UNWEIGHTED and settings.privacy is None
        if weighed and not self.permits("counts"):
            raise PolicyError(
                "The campaign weighs each site's update by its number of exams: add 'counts' to policy.metrics in "
                "site.toml to permit that"
            )
        self._check_rounds(settings)

    def of_class(self, settings: Settings) -> dict[str, int]:
        """Measurement that is a diagnosis -> patients that must stand behind each of its classes."""
        return dict.fromkeys(settings.diagnoses, self.diagnosis_cohort)

    def relies(self, secure: SecureSettings | None) -> Literal["peers", "nobody"]:
        """Whether this site's protection in a secure sum may rest on other sites too."""
        enough = secure is not None and (
            secure.survivors - 1 >= self.minimum_peers and secure.colluders >= self.colluders
        )
        return "peers" if enough else "nobody"

    def _check_unprotected(self, secure: SecureSettings | None) -> None:
        if secure is None and not self.allow_unprotected:
            raise PolicyError(
                "The campaign trains without differential privacy or secure aggregation: set "
                "policy.allow_unprotected = true in site.toml to permit that"
            )
        if secure is not None and not (self.allow_unprotected or self.allow_secure_only):
            raise PolicyError(
                "The campaign trains without differential privacy, with secure aggregation alone: set "
                "policy.allow_secure_only = true in site.toml to permit that"
            )

    def _check_diagnosis(self, settings: Settings) -> None:
        if not settings.diagnoses:
            return
        if not self.diagnosis:
            raise PolicyError(
                f"The campaign's networks learn a diagnosis ({', '.join(settings.diagnoses)}): set "
                f"policy.diagnosis = true in site.toml to permit that"
            )
        if settings.campaign.evaluation and self.federated_evaluation:
            raise PolicyError(
                "The campaign asks for tables of how its networks tell held-out patients' diagnoses apart "
                "(campaign.evaluation): tables are of grades alone, so it cannot run here"
            )

    def _check_alone(self, settings: Settings) -> None:
        secure = settings.federation.secure
        assert secure is not None
        if not (settings.private and self.few_peers == "full_noise"):
            raise PolicyError(
                f"The campaign opens sums over {secure.survivors} sites, safe against {secure.colluders} colluders; "
                f"policy.minimum_peers and policy.colluders in site.toml ask for {self.minimum_peers + 1} and "
                f"{self.colluders}: lower them, or with differential privacy set policy.few_peers = "
                f'"full_noise", to permit that'
            )

    def _check_rounds(self, settings: Settings) -> None:
        """Whether the plan has too many rounds; asked once its code and method are permitted, which say how many."""
        from common.methods import rounds  # noqa: PLC0415  NumPy: only where a plan is looked at

        by_stage = rounds.rounds_by_stage(settings)
        most = max(by_stage.values(), default=0) if self.version == 1 else sum(by_stage.values())
        if most > self.maximum_rounds:
            stages = ", ".join(f"{name} {count}" for name, count in by_stage.items())
            raise PolicyError(
                f"The campaign has {most} rounds{' in one stage' if self.version == 1 else ''} ({stages}), "
                f"policy.maximum_rounds in site.toml is {self.maximum_rounds}: raise it there to permit that"
            )

    def _check_code(self, settings: Settings) -> None:
        """Whether everything that is not built in may run: asked before any of it is imported."""
        if "*" in self.code:
            return
        for setting, name in _code(settings).items():
            if is_object_path(name) and name not in self.code:
                raise PolicyError(
                    f"The campaign's {setting} is {name!r}, which is not built in: add it to policy.code in "
                    f"site.toml to permit it"
                )


def _zone(name: str) -> tzinfo | None:
    return ZoneInfo(name) if name else None


def _code(settings: Settings) -> dict[str, str]:
    """The settings that may name code that runs at a site; ``federation.rule`` runs at the centre only."""
    return {
        **{f"svdh.backbones[{place}]": name for place, name in enumerate(settings.svdh.backbones)},
        "method": settings.method,
        "network.backbone": settings.network.backbone,
        "andersen.backbone": settings.andersen.backbone,
        "andersen.binary_backbone": settings.andersen.binary_backbone,
        "federation.algorithm": settings.federation.algorithm,
    }
