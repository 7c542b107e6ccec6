"""Radiographs of both hands: a patient from a seed, and the picture of what was drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Self

import numpy as np

from simulation.hand import severity
from simulation.hand.anatomy import Hand, draw_build, draw_decoys, draw_posture
from simulation.hand.damage import draw_damage, scores
from simulation.hand.exposure import Exposure, draw_exposure, expose
from simulation.hand.grid import FIELD_MM, Layout
from simulation.hand.labels import Labels, draw_labels, label
from simulation.hand.machines import Machine
from simulation.hand.sites import Scores
from simulation.hand.skeleton import lay_out
from simulation.hand.tissue import draw_tissue
from simulation.phantom.arrays import Bytes
from simulation.phantom.random import stream

BESIDE_MM, ABOVE_MM = 19.0, 15.0
"""Room that is left between bones and the borders of a hand's half of the detector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiograph:
    """All that a picture of both hands is drawn from.

    Attributes:
        hands: of the patient's left, on the left of the picture, and right side.
        grains: seeds of the structure of their spongy bone.
        exposure: how it is taken.
        labels: what is burned in.
    """

    hands: tuple[Hand, Hand]
    grains: tuple[int, int]
    exposure: Exposure
    labels: Labels

    @property
    def scores(self) -> Scores:
        """The grades, as the hands' surfaces and widths have them."""
        left, right = self.hands
        return scores(left.damage, right.damage)

    def mirrored(self) -> Self:
        """The picture's mirror image, without exposure and labels: what was the left hand is the right one."""
        return replace(self, hands=self.hands[::-1], grains=self.grains[::-1])

    def picture(self, machine: Machine, layout: Layout) -> Bytes:
        """The picture, ``(height, width)``."""
        tissue = draw_tissue(self.hands, layout, self.grains)
        return label(expose(tissue, machine, self.exposure, layout), self.labels, machine, layout)


def draw_radiograph(seed: int, site: str, index: int, *, shift: float = 0.0) -> Radiograph:
    """One patient's picture, the same in every process whatever else is drawn there.

    Args:
        seed: of the cohort.
        site: name of the site.
        index: of the patient within the site.
        shift: of the site's latent damage: > 0 for patients who are more ill.
    """
    rng = stream(seed, site, "hands", index)
    grades = severity.grade(severity.draw_latent(rng, shift=shift))
    build, osteoarthritis = draw_build(rng), float(rng.beta(0.7, 1.8))
    left, right = (
        _on_detector(
            Hand(
                build=build,
                damage=draw_damage(rng, grades.erosion[side], grades.narrowing[side]),
                posture=draw_posture(rng),
                decoys=draw_decoys(rng, osteoarthritis=osteoarthritis),
            )
        )
        for side in range(2)
    )
    taken = date(2023, 1, 9) + timedelta(days=int(rng.integers(700)))
    first, second = (int(value) for value in rng.integers(2**32, size=2))
    return Radiograph(
        hands=(left, right),
        grains=(first, second),
        exposure=draw_exposure(rng),
        labels=draw_labels(rng, taken=taken),
    )


def _on_detector(hand: Hand) -> Hand:
    """The same hand, moved so far that no fingertip is outside of its half: whoever takes a picture sees to that."""
    across, up = lay_out(hand).tips(hand.posture)
    x, y = hand.posture.place_mm
    low, high = BESIDE_MM - across.min(), FIELD_MM[0] / 2 - BESIDE_MM - across.max()
    x = min(max(x, low), high) if low < high else (low + high) / 2
    y = min(y, FIELD_MM[1] - ABOVE_MM - up.max())
    return replace(hand, posture=replace(hand.posture, place_mm=np.array([x, y])))
