"""Small settings of public encoders, and of linear probes on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.settings import Settings
from tests.site_folders import make_settings

NETWORK = {"backbone": "small", "width": 4, "image_px": 16, "hidden": 6}
NECK = 3


def encoder_settings(changes: Mapping[str, object] | None = None, *, seed: int = 11) -> Settings:
    """Two encoders per measurement from a handful of phantoms."""
    phantom = {
        "seed": seed, "sites": 2, "patients": 10, "exams_per_patient": 6, "held_out": 0.2, "image_px": 64,
        "unseen_device": False, "shift": {"devices": "drawn"},
    }  # fmt: skip
    fields = {
        "name": "tiny",
        "network": NETWORK,
        "training": {"batch_size": 8, "local_steps": 3, "learning_rate": 3e-3},
        "federation": {"rounds": 2},
        "probe": {"encoders": 2, "neck": NECK},
        "cohort": {"phantom": phantom},
    }
    return Settings.model_validate(make_settings().model_dump() | fields | dict(changes or {}))


def probe_settings(
    weights: Path | str,
    changes: Mapping[str, object] | None = None,
    *,
    probe: Mapping[str, object] | None = None,
) -> Settings:
    """A private campaign on encoders of :func:`encoder_settings`."""
    fields = {
        "method": "probe",
        "network": NETWORK | {"weights": str(weights)},
        "probe": {"encoders": 2, "neck": NECK, "initialisations": 1} | dict(probe or {}),
        "privacy": {"noise_multiplier": 5.0, "patients": 8, "images": 4},
        "federation": {"rounds": 2},
    }
    return Settings.model_validate(make_settings().model_dump() | fields | dict(changes or {}))
