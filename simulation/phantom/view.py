"""How a probe is held over joints: what the picture covers, and where people put boxes on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simulation.phantom.anatomy import Contours, Joints, contours
from simulation.phantom.arrays import Floats, Mask
from simulation.phantom.devices import Device
from simulation.phantom.screen import Box, Layout

JOINT_AT = (0.32, 0.66)
"""Where the joint line may be in the region of interest, as a share of its height."""
SHIFT_MM = (0.2, 0.5)
"""How far along the joint the section of the Doppler picture lies from that of the grey-scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One picture of each of ``n`` joints with one machine.

    Attributes:
        joints: as they lie under the probe.
        device: the machine, its pixel lengths in those of ``layout``.
        layout: sizes of the picture.
        centre_px: column of the joint's gap, before mirroring, ``(n,)``.
        mirrored: whether the proximal end is on the right.
        joint_at: where the joint line is in the region of interest, as a share of its height.
    """

    joints: Joints
    device: Device
    layout: Layout
    centre_px: Floats
    mirrored: Mask
    joint_at: Floats

    @classmethod
    def hold(cls, rng: np.random.Generator, joints: Joints, device: Device, layout: Layout) -> View:
        """Put the probe on the joints, with gel between."""
        n, device = len(joints), _rescaled(device, layout)
        joint_at = rng.uniform(*JOINT_AT, n)
        return cls(
            joints=_under_gel(joints, device, layout, joint_at),
            device=device,
            layout=layout,
            centre_px=layout.width / 2 + rng.uniform(-9, 9, n) * layout.zoom,
            mirrored=rng.random(n) >= device.proximal_left,
            joint_at=joint_at,
        )

    def for_doppler(self, rng: np.random.Generator) -> View:
        """A moment later, in Doppler mode: a section beside the first, along and across, of the same grades."""
        n, joints = len(self.joints), self.joints
        lift, shift_mm = rng.normal(0, 0.12, n), rng.uniform(*SHIFT_MM, n) * rng.choice([-1.0, 1.0], n)
        beside = 1 + rng.normal(0, 0.04, (3, n))
        moved = replace(
            joints,
            depth=joints.depth + lift,
            skin=joints.skin + np.maximum(lift, 0),
            tilt=joints.tilt + rng.normal(0, 0.02, n),
            fullness=joints.fullness * beside[0],
            proximal_drop=joints.proximal_drop * beside[1],
            distal_drop=joints.distal_drop * beside[2],
            reach_proximal=joints.reach_proximal + rng.normal(0, 0.15, n),
            reach_distal=joints.reach_distal + rng.normal(0, 0.1, n),
        )
        centre_px = self.centre_px - shift_mm / self.device.mm_per_px
        return replace(self, joints=moved, device=self.device.under_doppler, centre_px=centre_px)

    def borders(self) -> Contours:
        """The tissues' borders at each column, before mirroring."""
        columns = np.arange(self.layout.width)[None, :] - self.centre_px[:, None]
        return contours(self.joints, columns * self.device.mm_per_px)

    @property
    def shown_centre_px(self) -> Floats:
        """Column of the joint's gap in the picture."""
        return np.where(self.mirrored, self.layout.width - 1 - self.centre_px, self.centre_px)

    def doppler_box(self, rng: np.random.Generator, index: int) -> Box:
        """The Doppler box of one picture, about the whole joint: left, top, right, bottom in the scan."""
        mm, layout = self.device.mm_per_px, self.layout
        centre, depth = float(self.shown_centre_px[index]), float(self.joints.depth[index])
        half = (6.8 + rng.uniform(0, 0.8)) / mm
        top, bottom = depth - 3.2 - rng.uniform(0, 0.8), depth + 3.4 + rng.uniform(0, 0.8)
        left, right = max(round(centre - half), 0), min(round(centre + half), layout.width)
        return left, max(round(top / mm), 0), right, min(round(bottom / mm), layout.depth)

    def regions(self, rng: np.random.Generator) -> list[Box]:
        """Regions of interest as somebody draws them, inside the scan: x, y, width, height in the picture."""
        layout, side = self.layout, self.layout.roi
        jitter = rng.uniform(-0.03, 0.03, (2, len(self.joints))) * side
        left = self.shown_centre_px - side / 2 + jitter[0]
        top = layout.header + self.joints.depth / self.device.mm_per_px - self.joint_at * side + jitter[1]
        left = np.clip(left.round(), 0, layout.width - side).astype(int)
        top = np.clip(top.round(), layout.header, layout.header + layout.depth - side).astype(int)
        return [(int(x), int(y), side, side) for x, y in zip(left, top, strict=True)]


def _rescaled(device: Device, layout: Layout) -> Device:
    """The same machine on a finer or coarser screen: the region of interest covers the same millimetres."""
    return replace(
        device,
        mm_per_px=device.mm_per_px / layout.zoom,
        axial_px=device.axial_px * layout.zoom,
        lateral_px=device.lateral_px * layout.zoom,
    )


def _under_gel(joints: Joints, device: Device, layout: Layout, joint_at: Floats) -> Joints:
    """Put gel over the skin: the usual amount, or enough for the joint to come where the region has it."""
    least = (joint_at + 0.02) * layout.roi * device.mm_per_px
    gel = np.maximum(device.standoff_mm, least - joints.depth)
    return replace(joints, skin=joints.skin + gel, depth=joints.depth + gel)
