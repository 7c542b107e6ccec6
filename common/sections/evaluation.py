"""The ``[evaluate]`` and ``[personal]`` sections: what is made of the trained networks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from common.sections.section import GrowingSection, Positive, Rate, Section, Share

PersonalCandidate = Literal["norms", "head", "network", "mean", "thresholds", "temperature"]


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
