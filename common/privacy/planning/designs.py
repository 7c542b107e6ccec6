"""What a campaign could train under differential privacy: designs, with what each clips as one and how often.

A vector that is clipped as one and noised is a *release* in every step. What a patient pays depends on how many
releases they take part in, and how much noise there is on how many numbers the vector has. So the same data can be
spent on

* ``networks``: whole networks, each a release of its own (the configured method's);
* ``published``: the same at the published size, RATING's 60 networks on ResNet-18, where the method's are fewer;
* ``folds``: whole networks, those of a fold clipped as one. A patient is left out of their own fold only: with five
  folds, they take part in four of the five releases;
* ``head_folds``: heads on a frozen public encoder, fold by fold;
* ``heads``: heads on a frozen public encoder, those of all members clipped as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from common.methods.rounds import stage_rounds
from common.methods.stages import stages_of
from common.networks.spec import NetworkSpec, Probe, Target
from common.privacy.planning.private_steps import network_steps
from common.sections.measurements import MeasurementSettings
from common.sections.networks import NetworkSettings
from common.settings import Settings

Key: TypeAlias = Literal["networks", "published", "folds", "head_folds", "heads"]

PUBLISHED_NETWORKS = 60
"""Zhou et al. 2022: 5 folds x 2 measurements x 3 tasks x 2 replicas."""
PUBLISHED_SIZES = (22_615_938, 11_177_538)
"""Numbers in Zhou et al. 2022, supplemental methods: two ResNet-18 fused by a layer of 256, and one alone; known
here, so that heads are planned without building a network."""
FOLDS = 5
MEMBERS = 3
NECK = 32
WHOLE_COST = (
    "one gradient per patient of the whole network: 4 (large) to 24 (small) times the time of plain training"
)
HEAD_COST = "1.6 times the time of plain training of the heads, the same memory; features are computed once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A way to spend a budget.

    Attributes:
        key: which one.
        title: for a person.
        networks: networks or heads that are trained.
        weights: numbers of the longest vector that is clipped and noised as one.
        steps: that one vector takes.
        charged: steps that are debited to the patient who takes part in most.
        share: of the patients, how many stand behind one vector.
        heads: whether frozen encoders do most of the work.
        cost: of a step, in words.
        norms: whether the encoders' norms train beside the heads; what heads alone lose says nothing of these.
    """

    key: Key
    title: str
    networks: int
    weights: int
    steps: int
    charged: int
    share: float | int
    heads: bool
    cost: str
    norms: bool = False


def designs(settings: Settings) -> tuple[Design, ...]:
    """All designs for a configuration, the dearest first.

    Whole networks are the configured method's, or else those of the published RATING; heads are the configured
    probe's, or else three members on features of 32 numbers.

    Raises:
        ConfigurationError: if the method cannot be used.
    """
    if settings.method == "probe":
        heads = [spec for stage in stages_of(settings) for spec in stage.networks]
        return (*_published(stage_rounds(heads, settings)), *_heads(heads, settings))
    own = tuple(_whole(settings))
    fewer = own[0].networks < PUBLISHED_NETWORKS
    published = _published(settings.federation.rounds * settings.training.local_steps)[:1] if fewer else ()
    return (*published, *own, *_heads(list(_reference_heads(settings.measurements)), settings))


def configured(method: str) -> Key:
    """The design that a configuration with this method asks for."""
    return "heads" if method == "probe" else "networks"


def leaves(settings: Settings) -> dict[str, int]:
    """What may leave a site in a round: network -> numbers of its noised update.

    Raises:
        ConfigurationError: if the method cannot be used.
    """
    found = stages_of(settings)
    specs = [spec for stage in found for spec in (*stage.networks, *stage.alternatives)]
    return {spec.name: _size(spec, settings.network) for spec in specs}


def _published(steps: int) -> tuple[Design, ...]:
    sizes = PUBLISHED_SIZES
    a_fold = PUBLISHED_NETWORKS // FOLDS
    return (
        Design(
            key="published",
            title=f"{PUBLISHED_NETWORKS} whole networks (published size), each alone",
            networks=PUBLISHED_NETWORKS,
            weights=max(sizes),
            steps=steps,
            charged=PUBLISHED_NETWORKS * steps,
            share=1,
            heads=False,
            cost=WHOLE_COST,
        ),
        Design(
            key="folds",
            title=f"whole networks (published size), a fold clipped as one, {FOLDS} folds",
            networks=PUBLISHED_NETWORKS,
            weights=sum(sizes) * a_fold // 2,
            steps=steps,
            charged=(FOLDS - 1) * steps,
            share=(FOLDS - 1) / FOLDS,
            heads=False,
            cost=WHOLE_COST,
        ),
    )


def _whole(settings: Settings) -> Iterator[Design]:
    """The configured method's networks, in all stages: those that others are built on are paid for as well."""
    stages = [stage.networks for stage in stages_of(settings)]
    specs = [spec for networks in stages for spec in networks]
    yield Design(
        key="networks",
        title=f"{len(specs)} whole networks, each alone" if len(specs) > 1 else "1 whole network",
        networks=len(specs),
        weights=max(_size(spec, settings.network) for spec in specs),
        steps=max(network_steps(spec, settings) for spec in specs),
        charged=sum(network_steps(spec, settings) for spec in specs),
        share=1,
        heads=False,
        cost=WHOLE_COST,
    )
    folds = settings.rating.folds
    vectors = [
        [spec for spec in networks if spec.fold == fold]
        for networks in stages
        for fold in sorted({spec.fold for spec in networks})
    ]
    if len({spec.fold for spec in specs if spec.fold >= 0}) < 2:
        return
    charged = max(
        sum(network_steps(vector[0], settings) for vector in vectors if vector[0].fold != own)
        for own in range(folds)
    )
    yield Design(
        key="folds",
        title=f"whole networks, a fold clipped as one, {folds} folds",
        networks=len(specs),
        weights=max(sum(_size(spec, settings.network) for spec in vector) for vector in vectors),
        steps=max(network_steps(vector[0], settings) for vector in vectors),
        charged=charged,
        share=(folds - 1) / folds,
        heads=False,
        cost=WHOLE_COST,
    )


def _heads(specs: Sequence[NetworkSpec], settings: Settings) -> Iterator[Design]:
    rounds = stage_rounds(specs, settings)
    weights = sum(_size(spec, settings.network) for spec in specs)
    norms = any(spec.probe is not None and spec.probe.norms is not None for spec in specs)
    read = "with their encoders' norms" if norms else "on frozen encoders"
    what = f"{len(specs)} heads {read}"
    yield Design(
        key="head_folds",
        title=f"{what}, in each of {FOLDS} folds",
        networks=len(specs) * FOLDS,
        weights=weights,
        steps=rounds,
        charged=(FOLDS - 1) * rounds,
        share=(FOLDS - 1) / FOLDS,
        heads=True,
        cost=HEAD_COST,
        norms=norms,
    )
    yield Design(
        key="heads",
        title=f"{what}, all clipped as one",
        networks=len(specs),
        weights=weights,
        steps=rounds,
        charged=rounds,
        share=1,
        heads=True,
        cost=HEAD_COST,
        norms=norms,
    )


def _reference_heads(measurements: Mapping[str, MeasurementSettings]) -> Iterator[NetworkSpec]:
    for member in range(MEMBERS):
        for measurement, graded in measurements.items():
            yield NetworkSpec(
                name=f"probe/member{member}/{measurement}",
                images=graded.images,
                target=Target(measurement=measurement, kind="nominal", threshold=None, classes=graded.grades),
                probe=Probe(neck=NECK),
            )


def _size(spec: NetworkSpec, settings: NetworkSettings) -> int:
    """Numbers that are trained of a network."""
    if spec.probe is not None and spec.probe.neck is not None and spec.probe.norms is None:
        return spec.target.classes * (spec.probe.neck + 1)  # a linear head, whatever the encoders
    from common.networks import build  # noqa: PLC0415  torch

    if spec.probe is not None:
        parts = ("head",) if spec.probe.norms is None else ("head", "norms")
        return sum(build.part_layout(spec, settings, part).trained_size for part in parts)
    return build.layout(spec, settings).trained_size
