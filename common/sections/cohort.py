"""The ``[cohort]`` section of a run's configuration: where a simulation's sites come from. No part of the plan."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from common.sections.section import (
    Count,
    Fraction,
    GrowingSection,
    Name,
    Positive,
    Rate,
    Section,
    Seed,
    Share,
)


class ShiftSettings(GrowingSection):
    """How the sites of a phantom cohort differ beyond chance, for studies of heterogeneity.

    Each is spread evenly over the sites, from the first to the last.
    """

    later: ClassVar[tuple[str, ...]] = ("spread",)

    devices: Literal["own", "one", "drawn", "shared"] = "own"
    """``own``: one measured machine per site; ``one``: all sites that train have the first; ``drawn``: one machine
    per site that nobody measured, from the cohort's seed (for public encoders, which must not know the sites'
    machines); ``shared``: every site has all of ``cohort.phantom.machines``, patient by patient in turns."""
    spread: Annotated[float, Field(ge=1, le=3)] = 1.0
    """Of ``drawn`` machines: how many times as wide as what was measured, and just beyond, the ranges are from which
    their properties come; never wider than machines can be."""
    severity: Annotated[float, Field(ge=0, le=3)] = 0.0
    """Label shift: the first site's joints are so much less ill than usual and the last one's so much more, in
    standard deviations of what makes them ill."""
    reader_bias: Annotated[float, Field(ge=0, le=2)] = 0.0
    """The first site's readers see so many grades less than usual, the last one's so many more."""
    largest: Annotated[float, Field(ge=1, le=100)] = 1.0
    """Patients of the last site over those of the first; the sites' sum stays."""


GreyLevel = Annotated[float, Field(ge=0, le=255)]
Colour = tuple[
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
]
"""Red, green, blue."""


class MachineProfile(Section):
    """An ultrasound machine with probe and preset, as :class:`simulation.phantom.devices.Device` describes it.

    Pixel lengths hold for a region of interest of 224 px.
    """

    name: Name
    """In the manifest's column ``device``."""
    mm_per_px: Annotated[float, Field(ge=0.06, le=0.09)]
    axial_px: Annotated[float, Field(ge=1, le=16)]
    lateral_px: Annotated[float, Field(ge=1, le=32)]
    attenuation_db: Annotated[float, Field(ge=0, le=30)]
    noise_db: Annotated[float, Field(ge=-80, le=-20)]
    tone: Annotated[tuple[GreyLevel, ...], Field(min_length=27, max_length=27)]
    """Grey levels of echoes of -66, -63 .. 12 dB, none below the one before it."""
    standoff_mm: Annotated[float, Field(ge=0, le=4)]
    proximal_left: Annotated[float, Field(ge=0, le=1)]
    doppler: Literal["colour", "power"]
    flow_threshold: Annotated[float, Field(ge=0.01, le=0.9)]
    colour_noise: Annotated[float, Field(ge=0, le=10)]
    doppler_reject_db: Annotated[float, Field(ge=-30, le=6)]
    doppler_grey: Annotated[float, Field(ge=20, le=255)]
    doppler_blur: Annotated[float, Field(ge=1, le=4)]
    box_colour: Colour
    text_colour: Colour
    maker: Annotated[str, Field(pattern=r"^[ -~]{1,32}$")]

    @field_validator("tone")
    @classmethod
    def _stronger_echoes_are_no_darker(cls, tone: tuple[float, ...]) -> tuple[float, ...]:
        if any(after < before for before, after in pairwise(tone)) or tone[0] == tone[-1]:
            raise ValueError(
                "expected grey levels of which none is below the one before it, and not all alike"
            )
        return tone


class ClipSettings(Section):
    """Moving pictures beside the phantom's stills: images ``gs_clip`` and ``doppler_clip`` of two heart cycles.

    Readers then grade what they saw move: the most flow that any frame shows.
    """

    frames: Annotated[int, Field(ge=2, le=64)] = 16
    pulsatility: Annotated[float, Field(ge=0, le=0.5)] = 0.35
    """Half of the share of its speed that flow loses between systole and diastole; of the stills, too."""
    jitter_mm: Annotated[float, Field(ge=0, le=1)] = 0.12
    """Spread of the hand's movement from frame to frame."""
    flash: Fraction = 0.1
    """Share of Doppler clips with a flash: tissue that moved is coloured for a frame or two."""
    pressure: Fraction = 0.7
    """Share of an effusion's height that the probe presses away in the middle of a grey-scale clip; synovium
    stays."""


Diagnosis = Literal["RA+", "RA-", "PsA", "SpA"]


class DiagnosisSettings(Section):
    """How often phantom patients have which diagnosis, and how it shows (``simulation.phantom.diagnosis``)."""

    strength: Annotated[float, Field(ge=0, le=4)] = 1.0
    """1: who knew what the pictures of one scan are drawn from would tell SpA/PsA from RA with an AUC of 0.75, and
    RA+ from RA- with one of 0.66; 0: the same signs are there, and mean nothing."""
    mix: dict[Diagnosis, Count] = Field(default={"RA+": 146, "RA-": 68, "PsA": 121, "SpA": 5})
    """Shares of the diagnoses in the cohort; among as many patients as their sum, the numbers of patients."""
    tied_to_machine: Fraction = 0.0
    """How closely SpA/PsA follows the machine, on purpose: 0: not at all; 1: as closely as the shares allow."""

    @model_validator(mode="after")
    def _somebody_has_one(self) -> DiagnosisSettings:
        if not sum(self.mix.values()):
            raise ValueError("cohort.phantom.diagnosis.mix needs a diagnosis that somebody has")
        return self


class PhantomSettings(GrowingSection):
    """A cohort of phantom patients (``simulation.phantom``)."""

    later: ClassVar[tuple[str, ...]] = (
        "ungraded_per_graded", "maximum_epsilon", "shift", "machines", "one_exam_more", "joints", "hypertrophy_mix",
        "diagnosis", "clips", "age_and_sex",
    )  # fmt: skip

    sites: Annotated[int, Field(ge=1, le=200)] = 5
    patients: Positive = 40
    """Patients per site."""
    exams_per_patient: Annotated[int, Field(ge=1, le=40)] = 8
    one_exam_more: Fraction = 0.0
    """Share of each site's patients who have one exam more."""
    joints: Literal["first", "any"] = "first"
    """Which are examined: the first in the usual order, of everybody the same; or any, of each patient others."""
    hypertrophy_mix: Annotated[tuple[Fraction, ...], Field(max_length=4)] = ()
    """Shares of hypertrophy 0-3 that sum to 1; none: the phantom's own."""
    diagnosis: DiagnosisSettings | None = None
    """Diagnoses that show in the pictures; ``None``: every patient has one, and nothing shows it."""
    ungraded_per_graded: Annotated[int, Field(ge=0, le=20)] = 0
    """Further exams that nobody graded, for each graded one: of patients of their own, all of whom train."""
    held_out: Share = 0.5
    unseen_device: bool = True
    """Add one site, on a device of its own, that is never trained on."""
    unseen_trains: bool = False
    """That site has training patients too: for studies that leave out one device after the other."""
    maximum_epsilon: Rate | None = None
    """Privacy budget of a patient, as the sites' policies have it; ``None``: no campaign with privacy runs."""
    image_px: Annotated[int, Field(ge=64, le=512)] = 224
    """Side of the region of interest in the saved pictures."""
    seed: Seed | None = None
    """``None``: the run's."""
    shift: ShiftSettings = ShiftSettings()
    machines: tuple[MachineProfile, ...] = ()
    """Of your own, one for each of the first sites; the others have the measured ones, as without. A configuration
    may name a TOML file in the place of each. Its content is read with the configuration: a cohort is of what the
    file said, and the configuration that a run writes needs no file."""
    clips: ClipSettings | None = None
    """``None``: stills alone."""
    age_and_sex: bool = False
    """Give patients an age and a sex, as patients with rheumatoid arthritis have them, for results by subgroup.
    Neither shows in the pictures."""

    @model_validator(mode="after")
    def _machines_have_sites(self) -> PhantomSettings:
        names = [machine.name for machine in self.machines]
        if len(set(names)) < len(names):
            raise ValueError(f"cohort.phantom.machines needs names that differ, got {', '.join(names)}")
        room = {"own": self.sites, "one": 1, "drawn": 0, "shared": len(names)}[self.shift.devices]
        if len(names) > room:
            raise ValueError(
                f"cohort.phantom.machines has {len(names)} of your own, with {self.sites} sites and shift.devices "
                f'"{self.shift.devices}" there is room for {room}'
            )
        if self.shift.devices == "shared" and not names:
            raise ValueError('shift.devices "shared" needs cohort.phantom.machines to share')
        return self

    @model_validator(mode="after")
    def _shares_of_grades_are_whole(self) -> PhantomSettings:
        mix = self.hypertrophy_mix
        if mix and (len(mix) != 4 or abs(sum(mix) - 1) > 1e-6 or not 0 < mix[0] < 1):
            raise ValueError(
                f"cohort.phantom.hypertrophy_mix needs four shares that sum to 1, the first neither 0 nor 1; "
                f"got {mix}"
            )
        return self


class HandSettings(Section):
    """A cohort of phantom radiographs of both hands (``simulation.hand``), one a patient."""

    sites: Annotated[int, Field(ge=1, le=200)] = 5
    patients: Positive = 40
    """Patients per site."""
    held_out: Share = 0.5
    unseen_device: bool = True
    """Add one site, on a machine of its own, that is never trained on."""
    maximum_epsilon: Rate | None = None
    """Privacy budget of a patient, as the sites' policies have it; ``None``: no campaign with privacy runs."""
    width_px: Annotated[int, Field(ge=64, le=2048, multiple_of=2)] = 512
    """Of the saved pictures, which are 7/8 as high."""
    seed: Seed | None = None
    """``None``: the run's."""
    shift: ShiftSettings = ShiftSettings()
    """``severity`` counts in units of the logarithm of the patients' latent severity."""

    @model_validator(mode="after")
    def _readers_are_not_biased(self) -> HandSettings:
        if self.shift.reader_bias:
            raise ValueError(
                "cohort.hands.shift.reader_bias must be 0: it counts grades, and readers of radiographs give totals"
            )
        return self


Drawn = PhantomSettings | HandSettings
Alpha = Annotated[float, Field(ge=1e-4, le=1e6)]


class PublicSettings(GrowingSection):
    """Pictures with labels, split into sites (``simulation.cohorts.public``)."""

    later: ClassVar[tuple[str, ...]] = ("grades", "patient", "sheet", "header_row")

    images: Path
    """Folder that the paths in ``labels`` start from."""
    labels: Path
    columns: dict[str, str]
    """Manifest column, measurement or number -> column of ``labels``; ``<image>_path`` and ``patient_id`` are needed.
    What is none of the run's measurements and numbers passes through to the manifest."""
    grades: dict[str, Annotated[int, Field(ge=0, le=15)]] = Field(default_factory=dict)
    """What words in the measurements' columns mean: ``{normal = 0, benign = 1}``."""
    patient: str = ""
    """Column of the patients, in place of ``columns.patient_id``, or ``each-picture``."""
    sheet: str = ""
    """Of ``labels`` in XLSX; the first where empty."""
    header_row: Count = 0
    """Line of the header of ``labels``; 0: the first line that has all columns that are named."""
    by: str = "dirichlet"
    """``device``, ``dirichlet``, ``size``, ``column:NAME`` or ``file:ASSIGNMENT.csv``."""
    sites: Annotated[int, Field(ge=1, le=200)] = 3
    alpha: Alpha = 1.0
    """Of the Dirichlet distribution: small, and a site has few grades; large, and all have the same shares."""
    weights: tuple[Rate, ...] = ()
    held_out: Share = 0.3


class CohortSettings(GrowingSection):
    """Where a simulation's sites come from: exactly one of the four."""

    later: ClassVar[tuple[str, ...]] = ("hands",)

    folder: Path | None = None
    """A folder that holds site folders (as ``synofed cohort make`` and ``split`` write them)."""
    phantom: PhantomSettings | None = None
    hands: HandSettings | None = None
    public: PublicSettings | None = None
    leave_out: tuple[str, ...] = ()
    """Devices whose sites do not train; their held-out patients are scored all the same."""

    @model_validator(mode="after")
    def _exactly_one(self) -> CohortSettings:
        sources = ("folder", "phantom", "hands", "public")
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"cohort needs exactly one of {', '.join(sources)}; got "
                f"{' and '.join(given) or 'none'}: simulate --cohort FOLDER takes the place of what is there"
            )
        return self

    @property
    def drawn(self) -> Drawn | None:
        """The phantoms, where there are any."""
        return self.phantom or self.hands

    def drawn_of(self, seed: int) -> CohortSettings:
        """The same with phantoms of a seed; one of patients stays as it is."""
        name = "phantom" if self.phantom is not None else "hands"
        drawn = self.drawn
        return (
            self if drawn is None else self.model_copy(update={name: drawn.model_copy(update={"seed": seed})})
        )
