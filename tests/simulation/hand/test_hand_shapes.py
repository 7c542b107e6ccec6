"""Joint spaces are as wide, and surfaces as eroded, as the damage says: measured on the shapes themselves."""

from dataclasses import replace

import numpy as np
import pytest

from simulation.hand import carpus, long_bones
from simulation.hand.anatomy import Hand, draw_build, draw_decoys, draw_posture
from simulation.hand.damage import Damage, draw_damage
from simulation.hand.grid import Grid, Layout, Patch
from simulation.hand.long_bones import Bite, End, LongBone
from simulation.hand.sites import EROSION_SITES, NARROWING_SITES
from simulation.hand.skeleton import bites, lay_out
from simulation.hand.tissue import draw_tissue
from simulation.phantom.arrays import Floats, Singles

STEP_MM = 0.02


def healthy(seed: int = 1) -> Hand:
    rng = np.random.default_rng(seed)
    build = replace(draw_build(rng), carpals=np.zeros((8, 2)))
    none = np.zeros(16, np.int64), np.zeros(15, np.int64)
    posture = replace(draw_posture(rng), turn=0.0)
    return Hand(
        build=build,
        damage=replace(draw_damage(rng, *none), left=np.ones(15)),
        posture=replace(posture, bends=np.zeros((3, 5))),
        decoys=replace(draw_decoys(rng, osteoarthritis=0.0), amputated=0, drift=0.0, cyst_mm=np.zeros(4)),
    )


def damaged(hand: Hand, **fields: Floats) -> Hand:
    return replace(hand, damage=replace(hand.damage, **fields))


def one(size: int, index: int, value: float, *, rest: float) -> Floats:
    values = np.full(size, rest)
    values[index] = value
    return values


def space_mm(hand: Hand, digit: int, joint: int) -> float:
    """Free length between the poles of two bones of a ray."""
    before, behind = lay_out(hand).rays[digit - 1][joint : joint + 2]
    u = np.arange(-6, 6, STEP_MM, dtype=np.float32) + np.float32(before.length_mm)
    # a groove between condyles is as deep as the ridge that fits in
    places = np.array([before.at(float(value), 0.0) for value in u], np.float32).T
    free = [long_bones.depths(bone, *bone.frame(*places)).inside <= 0 for bone in (before, behind)]
    return float((free[0] & free[1]).sum() * STEP_MM)


@pytest.mark.parametrize("left", [1.0, 0.7, 0.3, 0.0])
@pytest.mark.parametrize("site", ["MCP2", "MCP5", "PIP3", "MCP1"])
def test_a_joint_space_is_the_share_of_the_own_width_that_is_left(site: str, left: float) -> None:
    hand, index = healthy(), NARROWING_SITES.index(site)
    narrow = damaged(hand, left=one(15, index, left, rest=1.0))
    expected = hand.build.own_width_mm[index] * left
    assert space_mm(narrow, int(site[-1]), int(site.startswith("PIP"))) == pytest.approx(expected, abs=0.05)
    assert narrow.width_mm[index] == expected


def across(hand: Hand, site: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """From the middle of one bone to that of the other, at a right angle to the space between them."""
    scale, skeleton = hand.build.scale, lay_out(hand)
    if site.startswith("CMC"):
        metacarpal = skeleton.rays[int(site[-1]) - 1][0]
        return metacarpal.at(-6.0), metacarpal.at(4.0)
    if site == "radioscaphoid":
        start, slope = (10.0 * scale, -1.0 * scale), skeleton.radius.head.slope
        return start, (start[0] - 8 * slope / np.hypot(1, slope), start[1] + 8 / np.hypot(1, slope))
    one, other = {
        "scaphocapitate": (("scaphoid", 0), ("capitate", 0)),
        "scaphotrapezial": (("scaphoid", 2), ("trapezium", 0)),
    }[site]
    (sx, sy, _), (ex, ey, _) = carpus.CIRCLES[one[0]][one[1]], carpus.CIRCLES[other[0]][other[1]]
    return (sx * scale, sy * scale), (ex * scale, ey * scale)


@pytest.mark.parametrize("left", [1.0, 0.6, 0.3])
@pytest.mark.parametrize("site", NARROWING_SITES[9:])
def test_a_space_of_the_carpus_is_too(site: str, left: float) -> None:
    index = NARROWING_SITES.index(site)
    hand = damaged(healthy(), left=one(15, index, left, rest=1.0))
    (sx, sy), (ex, ey) = across(hand, site)
    count = round(np.hypot(ex - sx, ey - sy) / STEP_MM)
    x, y = (np.linspace(*ends, count, dtype=np.float32) for ends in ((sx, ex), (sy, ey)))
    patch = Patch(rows=slice(0, 1), columns=slice(0, 1), x=x[None, :], y=y[None, :])
    skeleton = lay_out(hand)
    free = carpus.inside(hand, skeleton, patch, px_mm=1e3)[0] <= 0
    for bone in skeleton.bones:
        free &= long_bones.depths(bone, *bone.frame(x, y)).inside <= 0
    assert free.sum() * STEP_MM == pytest.approx(hand.build.own_width_mm[index] * left, abs=0.15)


def test_a_joint_that_narrows_in_one_place_loses_its_share_on_average() -> None:
    index = NARROWING_SITES.index("MCP3")
    hand = damaged(healthy(), left=one(15, index, 0.85, rest=1.0), focal=one(15, index, 1.0, rest=0.0))
    bone = lay_out(hand).rays[2][1]
    v = np.linspace(-bone.base.edge_mm, bone.base.edge_mm, 2001, dtype=np.float32)
    nearer = (
        long_bones.depths(bone, v * 0, v).base - long_bones.depths(replace(bone, focal_mm=0.0), v * 0, v).base
    )
    own = hand.build.own_width_mm[index]
    assert 1 - nearer.mean() / own == pytest.approx(0.85, abs=0.005)
    assert nearer.max() < own


@pytest.mark.parametrize("site", EROSION_SITES)
def test_bites_add_up_to_the_share_that_is_lost(site: str) -> None:
    index = EROSION_SITES.index(site)
    hand = damaged(healthy(), lost=one(16, index, 0.5, rest=0.0), radial=np.full(16, 0.7))
    shares = [bite.share for bite in bites(hand, site)]
    assert shares == pytest.approx([0.35, 0.15])
    assert bites(healthy(), site) == ()


@pytest.mark.parametrize("lost", [0.1, 0.25, 0.5, 0.7])
def test_a_surface_has_lost_its_share(lost: float) -> None:
    bitten = (Bite(side=1.0, share=0.6 * lost, depth_mm=4.0), Bite(side=-1.0, share=0.4 * lost, depth_mm=4.0))
    bone = LongBone(
        base_at=(0.0, 0.0), angle=0.0, length_mm=60.0, waist_mm=4.0, cortex_mm=2.0,
        base=End(half_mm=7.0, flare_mm=8.0, curve_mm=40.0),
        head=End(half_mm=7.0, flare_mm=8.0, curve_mm=10.0, bites=bitten),
    )  # fmt: skip
    v = np.linspace(-bone.head.edge_mm, bone.head.edge_mm, 2001, dtype=np.float32)
    on_surface = np.float32(60) + long_bones.surface(bone.head, v)
    left = long_bones.depths(bone, on_surface, v).left
    assert (left < 0.5).mean() == pytest.approx(lost, abs=0.02)


@pytest.mark.parametrize("site", ["scaphoid", "lunate", "trapezium"])
def test_an_outline_has_lost_its_share(site: str) -> None:
    lost, index, margins = 0.3, EROSION_SITES.index(site), carpus.MARGINS[site]
    hand = damaged(healthy(), lost=one(16, index, lost, rest=0.0), radial=np.full(16, 0.5))
    around = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    scale = hand.build.scale
    x, y = (
        (scale * (middle + margins.outline_mm * wave(around))).astype(np.float32)
        for middle, wave in zip(margins.middle, (np.sin, np.cos), strict=True)
    )
    whole: Singles = np.full(x.shape, 5, np.float32)
    assert (carpus.eroded(hand, site, whole, x, y) < 0).mean() == pytest.approx(lost, abs=0.05)


@pytest.mark.parametrize("site", EROSION_SITES)
def test_more_erosion_leaves_less_bone(site: str) -> None:
    hand, index, layout = healthy(), EROSION_SITES.index(site), Layout(width_px=256)
    bone = []
    for share in (0.0, 0.1, 0.27, 0.5, 0.7, 0.95):
        lost = damaged(hand, lost=one(16, index, share, rest=0.0), radial=np.full(16, 0.5))
        tissue = draw_tissue((lost, lost), layout, (1, 2))
        bone.append(float((tissue.compact + tissue.spongy).sum()))
    assert np.all(np.diff(bone) < 0)


def test_a_luxated_bone_lies_beside_the_head_and_a_fused_one_on_it() -> None:
    index = NARROWING_SITES.index("MCP2")
    hand = damaged(healthy(), displaced=one(15, index, 0.7, rest=0.0))
    before, behind = lay_out(hand).rays[1][:2]
    u, v = before.frame(*(np.float32(value) for value in behind.base_at))  # type: ignore[arg-type]
    assert v == pytest.approx(-1.4 * before.head.half_mm, abs=1.0)
    assert u < before.length_mm
    fused = damaged(healthy(), left=one(15, index, 0.0, rest=1.0))
    assert lay_out(fused).rays[1][1].base.plate < 0.5


def test_a_patch_is_where_its_points_are() -> None:
    grid = Grid(posture=healthy().posture, px_mm=1.0, height=280, width=160)
    patch = grid.patch([(0.0, 0.0)], margin_mm=3.0)
    assert patch is not None
    assert np.abs(patch.x).min() < 1
    assert np.abs(patch.y).min() < 1
    assert grid.patch([(0.0, 900.0)], margin_mm=3.0) is None


def test_damage_of_both_kinds_is_drawn_apart() -> None:
    damage: Damage = healthy().damage
    assert not damage.fused.any()
