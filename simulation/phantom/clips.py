"""Moving pictures of the joints whose stills were taken: two heart cycles, held by a hand that is never still.

From frame to frame the same scatterers are seen under a view that jitters, and the receiver's noise, the false
specks and the noise of the flow are drawn anew: what is the same in all frames is tissue. A Doppler clip pulsates,
spots near the machine's threshold come and go, and in some clips a flash colours tissue for a frame or two. In a
grey-scale clip the probe presses once and lets go: an effusion is flattened, hypertrophic synovium is not (Wakefield
et al. 2005, J Rheumatol 32:2485: effusion is displaceable and compressible, hypertrophy is not, or hardly).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.sections.cohort import ClipSettings
from simulation.phantom import flow
from simulation.phantom.arrays import Bytes, Floats, Mask, Singles
from simulation.phantom.random import stream
from simulation.phantom.screen import Box
from simulation.phantom.section import Scene, annotated, echo_levels, on_screen, paint_flow, shown_share
from simulation.phantom.view import View

CYCLES = 2
BEATS_PER_MINUTE = (60.0, 90.0)
SQUASHED_MM = 0.4
"""How much nearer the joint would come to a probe that pressed the whole effusion away: fat gives way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Moving pictures of a patient's joints and what is true of them.

    Attributes:
        grey: ``(n, frames, height, width)``.
        doppler: ``(n, frames, height, width, 3)``.
        grey_roi: x, y, width, height of each region of interest, one for all frames.
        doppler_roi: the same for the Doppler clips.
        frame_rate: frames per second of each joint's clips, so that they hold two heart cycles.
        phase: of the cardiac cycle in each Doppler frame, in [0, 1), ``(n, frames)``.
        pressure: share of an effusion's height that is pressed away in each grey-scale frame, ``(n, frames)``.
        flash: which Doppler frames a flash is in, ``(n, frames)``.
        shown: share of the flow at systole that each frame shows, ``(n, frames)``; 1 where there is no flow.
    """

    grey: Bytes
    doppler: Bytes
    grey_roi: list[Box]
    doppler_roi: list[Box]
    frame_rate: Floats
    phase: Floats
    pressure: Floats
    flash: Mask
    shown: Floats

    @property
    def most_shown(self) -> Floats:
        """The most of its flow that any frame of a joint's clip shows: what who saw it move has seen."""
        return np.asarray(self.shown.max(axis=1))


def make_clips(rng: np.random.Generator, scene: Scene, settings: ClipSettings) -> Clips:
    """Make a grey-scale and a Doppler clip of each joint.

    Args:
        rng: of the patient's clips.
        scene: what the stills were taken of.
        settings: frames, movement, flashes.
    """
    n, frames = len(scene.texts), settings.frames
    steps = np.arange(frames) / frames
    phase = (rng.random((n, 1)) + CYCLES * steps) % 1
    pressure = settings.pressure * np.sin(np.pi * steps) ** 2 * np.ones((n, 1))
    texts = [replace(text, calipers=None) for text in scene.texts]  # one measures on what is frozen
    boxes = [scene.doppler.doppler_box(rng, i) for i in range(n)]
    flash = _flashes(rng, n, settings)
    seed = int(rng.integers(2**31))
    grey, doppler, shown = [], [], []
    for frame in range(frames):
        view = _pressed(_moved(rng, scene.grey, settings)[0], pressure[:, frame])
        picture = on_screen(_levels(rng, view, scene, seed), view)
        grey.append(annotated(picture, view, texts, doppler=False))
        view, shifts = _moved(rng, scene.doppler, settings)
        picture = np.repeat(on_screen(_levels(rng, view, scene, seed + 1), view)[..., None], 3, axis=-1)
        for i, (inside, outside) in enumerate(zip(scene.speeds, scene.outside, strict=True)):
            moved = _shifted(inside, *shifts[i])
            systolic = moved + _shifted(outside, *shifts[i])
            speed = flow.at_phase(systolic, phase[i, frame], pulsatility=settings.pulsatility)
            if flash[i, frame]:
                burst = flow.draw_flash(
                    rng, (speed.shape[0], speed.shape[1]), mm_per_px=view.device.mm_per_px
                )
                speed = np.maximum(speed, burst)
            shown.append(shown_share(paint_flow(rng, picture[i], speed, view, boxes[i]), moved > 0))
        doppler.append(annotated(picture, view, texts, doppler=True))
    return Clips(
        grey=np.stack(grey, axis=1),
        doppler=np.stack(doppler, axis=1),
        grey_roi=scene.grey.regions(rng),
        doppler_roi=scene.doppler.regions(rng),
        frame_rate=frames / (CYCLES * 60 / rng.uniform(*BEATS_PER_MINUTE, n)),
        phase=phase,
        pressure=pressure,
        flash=flash,
        shown=np.where(flash, 0, np.array(shown).reshape(frames, n).T),
    )


def _flashes(rng: np.random.Generator, n: int, settings: ClipSettings) -> Mask:
    """Frames of each Doppler clip in which tissue flashes: one, or two together."""
    there, start, length = (
        rng.random(n) < settings.flash,
        rng.integers(settings.frames, size=n),
        rng.integers(1, 3, n),
    )
    since = np.arange(settings.frames) - start[:, None]
    return np.asarray(there[:, None] & (since >= 0) & (since < length[:, None]))


def _moved(
    rng: np.random.Generator, view: View, settings: ClipSettings
) -> tuple[View, list[tuple[int, int]]]:
    """The view a moment later, and by how many rows and columns of the shown scan each joint has moved."""
    mm, joints = view.device.mm_per_px, view.joints
    down, along = (rng.normal(0, settings.jitter_mm, (2, len(joints))) / mm).round().astype(int)
    lift = down * mm
    there = replace(joints, depth=joints.depth + lift, skin=joints.skin + lift)
    shown = np.where(view.mirrored, -along, along)
    moved = replace(view, joints=there, centre_px=view.centre_px + along)
    return moved, [(int(d), int(s)) for d, s in zip(down, shown, strict=True)]


def _pressed(view: View, pressure: Floats) -> View:
    joints = view.joints
    there = replace(joints, depth=joints.depth - SQUASHED_MM * pressure, squeezed=pressure)
    return replace(view, joints=there)


def _levels(rng: np.random.Generator, view: View, scene: Scene, seed: int) -> Singles:
    """Echo levels in dB: the scatterers of all frames, and the receiver's noise of this one."""
    level = echo_levels(stream(seed, "scatterers"), view, view.borders(), texture=scene.texture)
    noise = rng.standard_exponential(level.shape, dtype=np.float32) * np.float32(
        10 ** (view.device.noise_db / 10)
    )
    return np.asarray(np.float32(10) * np.log10(np.float32(10) ** (level / np.float32(10)) + noise))


def _shifted(values: Singles, down: int, right: int) -> Singles:
    """Values moved within their frame; 0 comes in from outside."""
    height, width = values.shape
    padded = np.pad(values, ((max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0))))
    top, left = max(-down, 0), max(-right, 0)
    return padded[top : top + height, left : left + width]
