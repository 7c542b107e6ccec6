"""Where damaged joints are: in the picture, on both sides, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import DataError
from common.sections.cohort import HandSettings
from simulation.cohorts import cohort, hands
from simulation.hand import places
from simulation.hand.grid import Layout
from simulation.hand.radiographs import Radiograph, draw_radiograph
from simulation.hand.sites import EROSION_SITES, NARROWING_SITES
from simulation.hand.skeleton import lay_out
from simulation.hand.tissue import draw_tissue

LAYOUT = Layout(width_px=256)


def healthy(radiograph: Radiograph) -> Radiograph:
    without = [
        replace(
            hand,
            damage=replace(
                hand.damage,
                lost=np.zeros(16),
                left=np.ones(15),
                focal=np.zeros(15),
                displaced=np.zeros(15),
            ),
        )
        for hand in radiograph.hands
    ]
    return replace(radiograph, hands=(without[0], without[1]))


@pytest.fixture(scope="module")
def radiograph() -> Radiograph:
    return healthy(draw_radiograph(1, "site-a", 3))


def with_one(radiograph: Radiograph, side: int, site: str, *, erosion: bool) -> Radiograph:
    hands_ = list(radiograph.hands)
    damage = hands_[side].damage
    if erosion:
        lost = damage.lost.copy()
        lost[EROSION_SITES.index(site)] = 0.7
        damage = replace(damage, lost=lost)
    else:
        left = damage.left.copy()
        left[NARROWING_SITES.index(site)] = 0.3
        damage = replace(damage, left=left)
    hands_[side] = replace(hands_[side], damage=damage)
    return replace(radiograph, hands=(hands_[0], hands_[1]))


def test_every_site_has_a_place(radiograph: Radiograph) -> None:
    found = places.sites(radiograph.hands[0], lay_out(radiograph.hands[0]))
    assert set(found) == {*EROSION_SITES, *NARROWING_SITES}


@pytest.mark.parametrize("erosion", [True, False])
@pytest.mark.parametrize("side", [0, 1])
def test_what_damage_changes_in_the_picture_lies_in_its_circle(
    radiograph: Radiograph, side: int, erosion: bool
) -> None:
    """Fingers move when a joint narrows, so of narrowing the carpus is looked at."""
    names = EROSION_SITES if erosion else [s for s in NARROWING_SITES if s.startswith(("CMC", "sca", "rad"))]
    plain = draw_tissue(radiograph.hands, LAYOUT, radiograph.grains)
    for site in names:
        one = with_one(radiograph, side, site, erosion=erosion)
        assert one.scores.total > 0
        mask = places.damaged(one, LAYOUT)
        half = LAYOUT.width_px // 2
        assert mask[:, :half].any() == (side == 0)
        assert mask[:, half:].any() == (side == 1)
        changed = np.abs(draw_tissue(one.hands, LAYOUT, one.grains).compact - plain.compact) > 0.3
        assert (changed & mask).sum() >= 0.5 * changed.sum(), site


def test_points_of_all_places_are_the_total_and_lie_where_the_circles_are() -> None:
    drawn = draw_radiograph(1, "site-a", 7)
    found = places.scored(drawn, LAYOUT)
    assert sum(place.points for place in found) == drawn.scores.total > 0
    mask = places.damaged(drawn, LAYOUT)
    for place in found:
        row, column = int(place.row), int(place.column)
        assert (column < LAYOUT.width_px // 2) == (place.side == "left")
        if place.points and 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]:
            assert mask[row, column], place


def test_nothing_is_marked_on_healthy_hands(radiograph: Radiograph) -> None:
    assert radiograph.scores.total == 0
    assert not places.damaged(radiograph, LAYOUT).any()


def test_regions_are_those_of_the_cohorts_pictures(tmp_path: Path) -> None:
    settings = HandSettings(sites=1, patients=3, width_px=128, unseen_device=False)
    made = cohort.make(settings, seed=2, out=tmp_path / "c", workers=1)
    work = hands.jobs(settings, seed=2, folders={"site-a": made.sites[0].folder})
    asked = [("site-a", job.exam_id) for job in work[:2]]
    found = places.regions(work, asked)
    assert list(found) == asked
    for job in work[:2]:
        region = found["site-a", job.exam_id]["hands"]
        assert region.shown.shape == region.wanted.shape == (112, 128)
        assert region.wanted.any() == (job.radiograph().scores.total > 0)
    with pytest.raises(DataError, match="Expected exams of the cohort"):
        places.regions(work, [("site-b", "x")])
    Image.fromarray(np.zeros((112, 128), np.uint8)).save(work[0].picture_path)
    with pytest.raises(DataError, match="its file differs"):
        places.regions(work, asked)
