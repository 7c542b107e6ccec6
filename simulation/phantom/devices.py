"""Ultrasound machines: all that two machines make differently of the same joint, in one frozen profile.

Five profiles have the looks of machines measured on public frames (``looks.TABLE``); the sixth is drawn at
random by :func:`random_device`. Pixel lengths hold for a region of interest of 224 px.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, Self

import numpy as np

from simulation.phantom.arrays import Bytes, Singles
from simulation.phantom.tones import TONES

TONE_DB: Final = tuple(float(level) for level in np.linspace(-66.0, 12.0, 27))
"""Echo levels at which a tone curve is given."""
_STEPS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Machine, probe and preset.

    Attributes:
        name: as written in the manifest.
        mm_per_px: pixel spacing, 0.06-0.09 mm.
        axial_px: speckle's full width at half maximum along the depth.
        lateral_px: the same across.
        attenuation_db: fall of the level from top to bottom that remains after time-gain compensation.
        noise_db: receiver's noise.
        tone: grey levels 0-255 at ``TONE_DB``, not decreasing.
        standoff_mm: gel between probe and skin.
        proximal_left: share of pictures whose proximal end is on the left; a habit of the site's staff.
        doppler: colour by direction, or power.
        flow_threshold: least relative speed that is shown.
        colour_noise: expected number of false specks in a Doppler picture.
        doppler_reject_db: echo level below which the grey-scale under the Doppler is black: its gain is turned down.
        doppler_grey: grey level of the brightest echoes under the Doppler.
        doppler_blur: width of the point spread across in Doppler mode relative to grey-scale mode: fewer lines.
        box_colour: RGB of the box's outline.
        text_colour: RGB of burned-in text.
        maker: burned into the header.
    """

    name: str
    mm_per_px: float
    axial_px: float
    lateral_px: float
    attenuation_db: float
    noise_db: float
    tone: tuple[float, ...]
    standoff_mm: float
    proximal_left: float
    doppler: Literal["colour", "power"]
    flow_threshold: float
    colour_noise: float
    doppler_reject_db: float
    doppler_grey: float
    doppler_blur: float
    box_colour: tuple[int, int, int]
    text_colour: tuple[int, int, int]
    maker: str

    @property
    def under_doppler(self) -> Self:
        """The same machine's grey-scale under the Doppler: low gain, strong compression, fewer lines."""
        levels = np.array(TONE_DB)
        part = np.clip((levels - self.doppler_reject_db) / (TONE_DB[-1] - self.doppler_reject_db), 0, 1)
        tone = self.tone[0] * 0.5 + (self.doppler_grey - self.tone[0] * 0.5) * part**0.5
        return replace(self, tone=tuple(map(float, tone)), lateral_px=self.lateral_px * self.doppler_blur)

    def grey(self, level_db: Singles) -> Bytes:
        """Grey levels of a picture in dB, of any shape."""
        steps = np.linspace(TONE_DB[0], TONE_DB[-1], _STEPS)
        table = np.interp(steps, TONE_DB, self.tone).round().astype(np.uint8)
        scale = np.float32((_STEPS - 1) / (TONE_DB[-1] - TONE_DB[0]))
        index = np.clip((level_db - np.float32(TONE_DB[0])) * scale, 0, _STEPS - 1)
        return np.asarray(table[index.astype(np.int16)])


_BASE: Final = Device(
    name="logiq-e9",
    mm_per_px=0.064,
    axial_px=3.6,
    lateral_px=8.5,
    attenuation_db=4.0,
    noise_db=-52.0,
    tone=TONES["logiq-e9"],
    standoff_mm=0.4,
    proximal_left=0.85,
    doppler="colour",
    flow_threshold=0.10,
    colour_noise=0.3,
    doppler_reject_db=-5.5,
    doppler_grey=150.0,
    doppler_blur=1.5,
    box_colour=(235, 235, 235),
    text_colour=(225, 225, 225),
    maker="LOGIQ E9  ML6-15",
)

FITTED: Final = (
    _BASE,
    replace(
        _BASE, name="logiq-e9-breast", tone=TONES["logiq-e9-breast"],
        mm_per_px=0.082, axial_px=4.0, lateral_px=7.5, attenuation_db=2.0,
        noise_db=-56.0, standoff_mm=1.2, proximal_left=0.2, doppler="power", flow_threshold=0.30,
        colour_noise=0.1, doppler_reject_db=-6.5, doppler_grey=165.0, doppler_blur=1.4, box_colour=(225, 215, 165),
        text_colour=(240, 224, 156), maker="LOGIQ E9  BREAST",
    ),
    replace(
        _BASE, name="echowave", tone=TONES["echowave"],
        mm_per_px=0.074, axial_px=2.8, lateral_px=7.0, attenuation_db=9.0,
        noise_db=-44.0, standoff_mm=0.9, proximal_left=0.8, flow_threshold=0.18, colour_noise=0.45,
        doppler_reject_db=-4.5, doppler_grey=120.0, doppler_blur=1.6, box_colour=(170, 220, 170),
        text_colour=(180, 180, 180),
        maker="ECHOWAVE II",
    ),
    replace(
        _BASE, name="artus", tone=TONES["artus"],
        mm_per_px=0.060, axial_px=2.7, lateral_px=8.0, attenuation_db=6.0,
        noise_db=-48.0, standoff_mm=0.2, proximal_left=0.85, doppler="power", flow_threshold=0.40,
        colour_noise=0.1, doppler_reject_db=-5.5, doppler_grey=130.0, doppler_blur=1.5, box_colour=(250, 250, 250),
        text_colour=(200, 210, 255), maker="ArtUs  L15-7",
    ),
    replace(
        _BASE, name="l12-5", tone=TONES["l12-5"],
        mm_per_px=0.090, axial_px=2.8, lateral_px=5.0, attenuation_db=10.0,
        noise_db=-46.0, standoff_mm=1.9, proximal_left=0.2, flow_threshold=0.22, colour_noise=0.25,
        doppler_reject_db=-4.5, doppler_grey=110.0, doppler_blur=1.3, box_colour=(200, 235, 200),
        text_colour=(255, 255, 255),
        maker="PHILIPS  L12-5",
    ),
)  # fmt: skip
"""The five machines whose looks were measured."""


def random_device(rng: np.random.Generator, *, name: str = "unseen", spread: float = 1.0) -> Device:
    """A machine that nobody measured: every property is drawn from the others' range, or just beyond.

    Args:
        rng: draws.
        name: of the machine.
        spread: by how much the ranges are wider than that, about their middles; cut off where a property ends.
    """

    def between(low: float, high: float, *, least: float = -np.inf, most: float = np.inf) -> float:
        margin = (spread - 1) / 2 * (high - low)
        return float(np.clip(rng.uniform(low - margin, high + margin), least, most))

    low, high = between(-62.0, -50.0), between(2.0, 9.0)
    position = np.clip((np.array(TONE_DB) - low) / (high - low), 0, 1)
    dark, bright, power = between(0, 25, least=0), between(205, 245, most=255), between(1.1, 1.9, least=0.3)
    tone = np.minimum(dark + (bright - 25) * position**power, 255)
    mode: Literal["colour", "power"] = "power" if rng.random() < 0.5 else "colour"
    return replace(
        _BASE,
        name=name,
        mm_per_px=between(0.062, 0.084, least=0.06, most=0.09),
        axial_px=between(2.7, 4.2, least=1),
        lateral_px=between(5.0, 9.0, least=1),
        attenuation_db=between(2.0, 9.0, least=0),
        noise_db=between(-56.0, -46.0),
        tone=tuple(float(v) for v in tone),
        standoff_mm=between(0.2, 1.2, least=0),
        proximal_left=float(rng.choice([0.2, 0.8])),
        doppler=mode,
        flow_threshold=between(0.10, 0.38, least=0.01),
        colour_noise=between(0.05, 0.5, least=0),
        doppler_reject_db=between(-6.5, -4.5),
        doppler_grey=between(105.0, 170.0),
        doppler_blur=between(1.3, 1.7, least=1),
        maker="SONOTEC 7  L14-3",
    )


def jittered(device: Device, rng: np.random.Generator, *, name: str) -> Device:
    """The same machine with another preset, for a site that has a model which another site has too."""
    shift = rng.uniform(-3.0, 3.0)
    tone = np.interp(np.array(TONE_DB) + shift, TONE_DB, device.tone)
    return replace(
        device,
        name=name,
        mm_per_px=float(np.clip(device.mm_per_px * rng.uniform(0.93, 1.07), 0.06, 0.09)),
        tone=tuple(float(v) for v in tone),
        flow_threshold=device.flow_threshold * rng.uniform(0.7, 1.3),
        colour_noise=device.colour_noise * rng.uniform(0.6, 1.5),
        doppler_reject_db=device.doppler_reject_db + rng.uniform(-0.7, 0.7),
    )
