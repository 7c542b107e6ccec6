"""Fit the tone curves of ``tones`` again: ``python -m simulation.phantom.fitting.refit > tones.py``.

Needed whenever anatomy, echo levels or acoustics change: the looks of the five machines are those of public
frames only as long as the curves fit the echo levels that the phantom makes.
"""

from __future__ import annotations

import sys

import numpy as np

from simulation.phantom.anatomy import draw_joints
from simulation.phantom.arrays import Singles
from simulation.phantom.devices import FITTED, Device
from simulation.phantom.fitting import looks
from simulation.phantom.random import stream
from simulation.phantom.screen import Layout
from simulation.phantom.section import echo_levels
from simulation.phantom.severity import draw_patient
from simulation.phantom.view import View

PATIENTS = 25
KINDS = ["MCP", "MCP", "PIP", "MCP", "MCP", "PIP", "wrist", "wrist"]


def centre_levels(device: Device, *, patients: int = PATIENTS) -> Singles:
    """Echo levels in the centre crops of grey-scale pictures of one device, in dB, flat."""
    layout, parts = Layout(roi=224), []
    for index in range(patients):
        rng = stream(99, device.name, index)
        view = View.hold(
            rng, draw_joints(rng, draw_patient(rng, joints=len(KINDS)), kinds=KINDS), device, layout
        )
        levels = echo_levels(rng, view, view.borders(), texture=index)
        cut = round(layout.roi * (1 - looks.CROP) / 2)
        for level, mirrored, (x, y, side, _) in zip(levels, view.mirrored, view.regions(rng), strict=True):
            left = layout.width - x - side if mirrored else x
            top = y - layout.header
            crop = level[(left + cut) // 2 : (left + side - cut) // 2, top + cut : top + side - cut]
            parts.append(crop.ravel())
    return np.concatenate(parts)


def main() -> None:
    """Write the module ``tones`` to standard output."""
    lines = [
        '"""Tone curves of the five measured machines: grey levels at ``devices.TONE_DB``; from ``refit``."""'
    ]
    lines += ["", "TONES: dict[str, tuple[float, ...]] = {"]
    for device in FITTED:
        curve = looks.fit_tone(centre_levels(device), looks.TABLE[device.name])
        rows = [", ".join(map(str, curve[i : i + 9])) for i in range(0, len(curve), 9)]
        lines += [f'    "{device.name}": (', *(f"        {row}," for row in rows), "    ),"]
    sys.stdout.write("\n".join([*lines, "}  # fmt: skip"]) + "\n")


if __name__ == "__main__":
    main()
