"""Public encoders must not have seen what a private campaign protects: neither its phantoms nor its machines."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import ValidationError

from common.errors import ConfigurationError
from common.machine import encoder_files
from common.machine.encoder_files import About, Machine
from common.sections.cohort import CohortSettings, PhantomSettings
from common.settings import Settings
from simulation.cohorts import cohort
from simulation.phantom.devices import FITTED, Device


def machines(settings: PhantomSettings, *, seed: int) -> tuple[Machine, ...]:
    """The machines of a phantom cohort."""
    by_site = cohort.site_machines(settings, seed=seed).values()
    return tuple(_machine(device) for device in dict.fromkeys(device for one in by_site for device in one))


def check(settings: Settings) -> None:
    """Refuse a simulated private campaign on public encoders that know its cohort.

    Args:
        settings: of the campaign; one without privacy, without a folder of encoders, or on no phantoms, passes.

    Raises:
        ConfigurationError: naming the seed or the machines that both have.
    """
    folder = Path(settings.network.weights)
    if settings.privacy is None or settings.cohort is None or not (folder / encoder_files.ABOUT).is_file():
        return
    shared = overlap(encoder_files.read_about(folder), settings.cohort, seed=settings.seed)
    if shared:
        raise ConfigurationError(
            f"Expected public encoders of other phantoms than the private cohort's, those in {folder} share "
            f"{' and '.join(shared)}: make others with `synofed pretrain`, of another seed and "
            f'cohort.phantom.shift.devices = "drawn", or change the cohort'
        )


def overlap(about: About, source: CohortSettings, *, seed: int) -> tuple[str, ...]:
    """What encoders and a cohort have in common, in words; patients who are no phantoms share nothing.

    Args:
        about: the encoders.
        source: the cohort.
        seed: of the run, which a cohort without a seed of its own has.
    """
    phantom = _phantom(source, seed=seed)
    if phantom is None:
        return ()
    settings, cohort_seed = phantom
    known = {_model(machine) for machine in about.machines}
    both = sorted(m.name for m in machines(settings, seed=cohort_seed) if _model(m) in known)
    seeds = (f"the seed {cohort_seed}",) if about.seed == cohort_seed else ()
    return (*seeds, *([f"the machine{'s' if len(both) > 1 else ''} {', '.join(both)}"] if both else ()))


def _phantom(source: CohortSettings, *, seed: int) -> tuple[PhantomSettings, int] | None:
    if source.phantom is not None:
        return source.phantom, seed if source.phantom.seed is None else source.phantom.seed
    if source.folder is None:
        return None
    try:
        made: Mapping[str, object] = json.loads((source.folder / "cohort.json").read_bytes())
        return PhantomSettings.model_validate(made["settings"]), int(str(made["seed"]))
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None  # no phantoms


def _machine(device: Device) -> Machine:
    properties = json.dumps(asdict(replace(device, name="")), sort_keys=True)
    return Machine(name=device.name, profile=hashlib.sha256(properties.encode()).hexdigest())


def _model(machine: Machine) -> str:
    """The measured machine, also where a site has another preset of it; of a drawn one its profile."""
    for device in FITTED:
        if re.fullmatch(rf"{re.escape(device.name)}(-\d+)?", machine.name):
            return device.name
    return machine.profile
