"""From scatterers to a log-compressed picture: point spread, envelope, attenuation, noise."""

from __future__ import annotations

import numpy as np
from scipy.fft import fft2, fftfreq, ifft2

from simulation.phantom.arrays import Singles
from simulation.phantom.tissue import Echoes

FWHM_PER_SIGMA = 2.3548
FLOOR_DB = -80.0


def scan(
    rng: np.random.Generator,
    echoes: Echoes,
    *,
    axial_px: float,
    lateral_lines: float,
    attenuation_db: float,
    noise_db: float,
) -> Singles:
    """Envelope of the received signal in dB, with fully developed speckle.

    The scatterers are complex white noise. A Gaussian point spread of standard deviation s gives speckle with
    the autocovariance (of intensity) exp(-d^2 / 2 s^2): its full width at half maximum is 2.355 s.

    Args:
        rng: of the exam.
        echoes: amplitudes ``(n, lines, depth)``.
        axial_px: speckle's full width at half maximum along the depth, in samples.
        lateral_lines: the same across, in scan lines.
        attenuation_db: what the time-gain compensation leaves uncorrected, from top to bottom.
        noise_db: level of the receiver's noise.

    Returns:
        ``(n, lines, depth)`` in dB.
    """
    shape = echoes.diffuse.shape
    field = np.empty(shape, np.complex64)
    noise = rng.standard_normal((2, *shape), dtype=np.float32)
    noise *= echoes.diffuse * np.float32(np.sqrt(0.5) * _unit_energy(axial_px, lateral_lines))
    field.real, field.imag = noise[0] + echoes.coherent, noise[1]
    field = ifft2(fft2(field, overwrite_x=True) * _transfer(shape[1], shape[2], axial_px, lateral_lines))
    power = field.real**2 + field.imag**2 + np.float32(10 ** (noise_db / 10))
    ramp = np.linspace(0.0, -attenuation_db, shape[2], dtype=np.float32)
    return np.asarray(np.maximum(np.float32(10) * np.log10(power) + ramp, np.float32(FLOOR_DB)))


def _transfer(lines: int, depth: int, axial_px: float, lateral_lines: float) -> Singles:
    """Transfer function of a Gaussian point spread with sum 1, so that coherent echoes keep their level."""
    across = (fftfreq(lines) * lateral_lines / FWHM_PER_SIGMA)[:, None]
    along = (fftfreq(depth) * axial_px / FWHM_PER_SIGMA)[None, :]
    return np.asarray(np.exp(-2 * np.pi**2 * (across**2 + along**2)), np.float32)


def _unit_energy(axial_px: float, lateral_lines: float) -> float:
    """Factor that gives filtered noise its former spread: 1 / root of the point spread's sum of squares."""
    return float(np.sqrt(4 * np.pi * axial_px * lateral_lines / FWHM_PER_SIGMA**2))
