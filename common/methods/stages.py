"""What a method is to the engine: stages of networks, and how their outputs become votes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int

from common.errors import ConfigurationError
from common.extensions import is_object_path, make
from common.networks.spec import NetworkSpec
from common.sections.methods import StageSettings
from common.sections.training import TrainingSettings
from common.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Networks that can train side by side.

    Attributes:
        name: unique in the method.
        networks: all networks of the stage; all have the same number of rounds.
        alternatives: networks that the stage would have asked for, had earlier results been others: a site
            agrees to all of them. Whole choices one after another, each with as many networks as the stage has:
            under secure aggregation a site answers for one choice, not for a mixture.
        whole: whether all its networks train as one, in one group.
    """

    name: str
    networks: tuple[NetworkSpec, ...]
    alternatives: tuple[NetworkSpec, ...] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkResult:
    """What a network's training gave.

    Attributes:
        best_round: the round whose weights were selected.
        auc: validation AUC over all sites at that round; NaN where no histograms came.
        threshold: probability from which on the network's bit is 1.
        accuracy: of a network that tells more than two grades apart, validation accuracy at that round
            (:meth:`common.evaluation.histograms.ScoreHistograms.accuracy`); ``None``: not known.
    """

    best_round: int
    auc: float
    threshold: float
    accuracy: float | None = None

    def facts(self) -> dict[str, int | float]:
        """What is known of it, by name."""
        known: dict[str, int | float] = {
            "best_round": self.best_round,
            "auc": self.auc,
            "threshold": self.threshold,
        }
        return known if self.accuracy is None else {**known, "accuracy": self.accuracy}


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What one network says of some exams.

    Attributes:
        spec: the network.
        probabilities: of its classes.
        threshold: of a binary network: probability of class 1 from which on its bit is 1.
        temperature: at which probabilities are shown (:mod:`common.ensemble.temperature`); no vote depends on it.
    """

    spec: NetworkSpec
    probabilities: Float32[np.ndarray, "n classes"]
    threshold: float
    temperature: float = 1.0


@runtime_checkable
class Method(Protocol):
    """A published system."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """The stages in order; ``results`` fills up with network name -> result as stages are done.

        Without results, as for a plan, a stage that would choose takes any choice.
        """
        ...

    def scores(self, settings: Settings) -> Mapping[str, int]:
        """What the method grades, in the order of its votes: name -> number of grades."""
        ...

    def votes(self, outputs: Sequence[Output], settings: Settings) -> Int[np.ndarray, "n models scores"]:
        """The grade that each voter gives each exam."""
        ...


@runtime_checkable
class SettlesTies(Protocol):
    """A method whose voters may find two grades equally good, and vote for the lower one (RATING's code words)."""

    def votes_upwards(
        self, outputs: Sequence[Output], settings: Settings
    ) -> Int[np.ndarray, "n models scores"]:
        """:meth:`Method.votes` with every such tie settled upwards: differs from it where a vote was a tie."""
        ...


@runtime_checkable
class SharesVotes(Protocol):
    """A method whose voters can say how likely each grade is."""

    def divides(self, settings: Settings) -> bool:
        """Whether they do under these settings; else each votes one grade."""
        ...

    def shares(
        self, outputs: Sequence[Output], settings: Settings
    ) -> Sequence[Float64[np.ndarray, "n models _"]]:
        """Each score's votes, divided among its grades: ``(n, models, grades)``, a model's sum to 1."""
        ...


@runtime_checkable
class Stacks(Protocol):
    """A method with numbers that several networks tell, and that become one by stacked regression.

    See :mod:`common.ensemble.stacked_regression`: sums over the patients of one fold, whom its networks never saw.
    """

    def stacked(
        self, specs: Iterable[NetworkSpec], settings: Settings
    ) -> Mapping[str, tuple[NetworkSpec, ...]]:
        """Name -> networks for one number with one fold, in the order of the sums' columns.

        The same number of networks, in the same order, for each fold, in whichever order they are given.
        """
        ...

    def ridge(self, settings: Settings) -> float:
        """Of the regression, towards the plain mean, >= 0."""
        ...


BUILT_IN = {
    "rating": "common.methods.rating:Rating",
    "andersen": "common.methods.andersen:Andersen",
    "christensen": "common.methods.christensen:Christensen",
    "svdh": "common.methods.svdh:Svdh",
    "probe": "common.methods.probe:LinearProbes",
    "schlereth": "common.methods.schlereth:Schlereth",
    "multimodal": "common.methods.multimodal:Multimodal",
}


def method(name: str) -> Method:
    """The method of a name in :data:`BUILT_IN`, or of ``package.module:Name``.

    Raises:
        ConfigurationError: if there is none.
    """
    path = BUILT_IN.get(name, name)
    if not is_object_path(path):
        raise ConfigurationError(
            f"Expected method to be one of {sorted(BUILT_IN)} or package.module:Name, got {name!r}"
        )
    return cast(Method, make(path, what="method", takes="nothing"))


def stages_of(settings: Settings, results: Mapping[str, NetworkResult] | None = None) -> Iterator[Stage]:
    """The stages of the settings' method; whatever reads a moving picture is told so.

    Args:
        settings: of the campaign.
        results: as of :meth:`Method.stages`; ``None``: for a plan.

    Raises:
        ConfigurationError: if the method cannot be used, or it lets networks learn what they cannot of a clip.
    """
    moving = frozenset(name for name, image in settings.images.items() if image.frames)
    for stage in method(settings.method).stages(settings, {} if results is None else results):
        yield replace(
            stage,
            networks=tuple(_told(spec, moving) for spec in stage.networks),
            alternatives=tuple(_told(spec, moving) for spec in stage.alternatives),
        )


def _told(spec: NetworkSpec, moving: Set[str]) -> NetworkSpec:
    clips = tuple(image for image in spec.images if image in moving)
    if clips and spec.jigsaw is not None:
        raise ConfigurationError(
            f"Expected a still to cut into puzzles, but images.{clips[0]} has frames: name another in "
            f"rating.jigsaw.image"
        )
    return spec.model_copy(update={"clips": clips}) if clips else spec


def networks(settings: Settings) -> dict[str, NetworkSpec]:
    """All networks that the settings' method can ask for, by name."""
    return {
        spec.name: spec for stage in stages_of(settings) for spec in (*stage.networks, *stage.alternatives)
    }


def stacked(specs: Iterable[NetworkSpec], settings: Settings) -> Mapping[str, tuple[NetworkSpec, ...]]:
    """Of some networks, those that are stacked (:meth:`Stacks.stacked`); none where the method stacks nothing.

    What is asked about the same patients is in one group, and one reply has the sums of all of it.
    """
    chosen = method(settings.method)
    return chosen.stacked(specs, settings) if isinstance(chosen, Stacks) else {}


def learns_without_grades(settings: Settings) -> bool:
    """Whether some network of a plan learns from exams that nobody graded: one that solves puzzles does.

    Under ``[privacy]`` none does: there only patients with a graded exam are debited, and so only they take part.
    """
    return settings.privacy is None and any(
        spec.target.kind == "permutation" for spec in networks(settings).values()
    )


def stage_training(settings: Settings, stage: StageSettings) -> TrainingSettings | None:
    """The training of a stage that changes some of the campaign's settings; ``None`` where it changes none."""
    names = ("learning_rate", "batch_size", "local_steps")
    changed = {name: value for name in names if (value := getattr(stage, name)) is not None}
    return settings.training.model_copy(update=changed) if changed else None
