"""Pictures of joints: anatomy, acoustics, flow and machine put together.

A patient's joints are made together: everything below works on a batch of ``n`` exams of one device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simulation.phantom import acoustics, flow, screen, tissue
from simulation.phantom.anatomy import Contours, Joints, contours, draw_joints
from simulation.phantom.arrays import Bytes, Floats, Mask, Singles
from simulation.phantom.devices import Device
from simulation.phantom.screen import Layout, Texts
from simulation.phantom.severity import Severity

JOINT_AT = 0.49
"""Where the joint line is in the region of interest, as a share of its height."""
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What is true of one picture; rows and columns are those of the picture.

    Attributes:
        synovium: mask ``(height, width)``.
        upper_mm: the synovium's upper contour at each column, depth from the probe.
        lower_mm: its lower contour; equal to the upper one where there is no synovium.
        joint_line_mm: depth of the joint line.
        flow: mask of the true flow at systole; all false in a grey-scale picture.
        mm_per_px: pixel spacing.
    """

    synovium: Mask
    upper_mm: Floats
    lower_mm: Floats
    joint_line_mm: Floats
    flow: Mask
    mm_per_px: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exams:
    """Pictures of a patient's joints and what is true of them.

    Attributes:
        severity: of each joint.
        grey: ``(n, height, width)``.
        doppler: ``(n, height, width, 3)``.
        grey_roi: x, y, width, height of each region of interest.
        doppler_roi: the same for the Doppler pictures.
        grey_sections: truth of the grey-scale pictures.
        doppler_sections: truth of the Doppler pictures.
        colour_fraction: share of the synovial area that flows, 0 where there is no synovium.
        shown_fraction: share of the flow that the machine shows; 1 where there is no flow.
        effusion: whether there is an effusion.
        notch: whether there is a notch of the metacarpal head.
        mimicry: 0-1, how much the effusion looks like synovium.
    """

    severity: Severity
    grey: Bytes
    doppler: Bytes
    grey_roi: list[Box]
    doppler_roi: list[Box]
    grey_sections: list[Section]
    doppler_sections: list[Section]
    colour_fraction: Floats
    shown_fraction: Floats
    effusion: Mask
    notch: Mask
    mimicry: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the probe is held: position of the joint in the scan and small differences between pictures."""

    centre_px: Floats
    shift_mm: Floats
    lift_mm: Floats
    tilt: Floats
    mirrored: Mask


def make_exams(
    rng: np.random.Generator,
    severity: Severity,
    device: Device,
    *,
    kinds: list[str],
    texts: list[Texts],
    roi_px: int = screen.REFERENCE_PX,
    phase: float = 0.0,
) -> Exams:
    """Make pairs of pictures.

    Args:
        rng: the patient's generator.
        severity: of the joints.
        device: the machine.
        kinds: ``MCP``, ``PIP``, ``DIP`` or ``wrist`` for each joint.
        texts: burned into the pictures of each joint.
        roi_px: side of the region of interest; the pictures are a third larger.
        phase: of the cardiac cycle, in [0, 1); 0 is systole.
    """
    layout = Layout(roi=roi_px)
    device = _rescaled(device, layout)
    joints = draw_joints(rng, severity, kinds=kinds)
    joints = _under_gel(joints, device, layout)
    texture = int(rng.integers(2**31))
    place = _hold(rng, len(severity), device, layout)
    grey, grey_sections = _scan(rng, joints, place, device, layout, texture=texture, doppler=False)
    moved = _held_again(rng, place)
    under, doppler_sections = _scan(rng, joints, moved, device, layout, texture=texture, doppler=True)
    speeds = [
        flow.draw_speed(rng, _scan_part(s.synovium, layout), vascularity=v, mm_per_px=device.mm_per_px)
        for s, v in zip(doppler_sections, severity.vascularity, strict=True)
    ]
    doppler, shown = _with_flow(rng, under, speeds, joints, moved, device, layout, phase=phase)
    doppler_sections = [
        replace(s, flow=np.pad(speed > 0, ((layout.header, 0), (0, 0))))
        for s, speed in zip(doppler_sections, speeds, strict=True)
    ]
    areas = [(float(s.synovium.sum()), float(s.flow.sum())) for s in doppler_sections]
    return Exams(
        severity=severity,
        grey=np.stack(
            [screen.annotate(p, device, t, layout, doppler=False) for p, t in zip(grey, texts, strict=True)]
        ),
        doppler=np.stack(
            [screen.annotate(p, device, t, layout, doppler=True) for p, t in zip(doppler, texts, strict=True)]
        ),
        grey_roi=_regions(rng, joints, place, device, layout),
        doppler_roi=_regions(rng, joints, moved, device, layout),
        grey_sections=grey_sections,
        doppler_sections=doppler_sections,
        colour_fraction=np.array([flowing / max(area, 1.0) for area, flowing in areas]),
        shown_fraction=np.array(
            [
                float((s & (v > 0)).sum()) / max(float((v > 0).sum()), 1.0) if v.any() else 1.0
                for s, v in zip(shown, speeds, strict=True)
            ]
        ),
        effusion=(joints.effusion > 0) & ((joints.hypertrophy >= 1) | (joints.mimic >= 1)),
        notch=joints.notch > 0,
        mimicry=np.where(joints.effusion > 0, np.clip((joints.effusion_db + 40) / 11, 0, 1), 0.0),
    )


def _rescaled(device: Device, layout: Layout) -> Device:
    """The same machine on a finer or coarser screen: the region of interest covers the same millimetres."""
    return replace(
        device,
        mm_per_px=device.mm_per_px / layout.zoom,
        axial_px=device.axial_px * layout.zoom,
        lateral_px=device.lateral_px * layout.zoom,
    )


def _under_gel(joints: Joints, device: Device, layout: Layout) -> Joints:
    """Put gel between probe and skin: the usual amount, or enough that the joint is in the middle of the region."""
    least = (JOINT_AT + 0.02) * layout.roi * device.mm_per_px
    gel = np.maximum(device.standoff_mm, least - joints.depth)
    return replace(joints, skin=joints.skin + gel, depth=joints.depth + gel)


def _hold(rng: np.random.Generator, n: int, device: Device, layout: Layout) -> Placement:
    return Placement(
        centre_px=layout.width / 2 + rng.uniform(-9, 9, n) * layout.zoom,
        shift_mm=np.zeros(n),
        lift_mm=np.zeros(n),
        tilt=np.zeros(n),
        mirrored=rng.random(n) >= device.proximal_left,
    )


def _held_again(rng: np.random.Generator, place: Placement) -> Placement:
    """The Doppler picture of the same section: nearly, not exactly, the same view."""
    n = len(place.shift_mm)
    return replace(
        place,
        shift_mm=rng.normal(0, 0.25, n),
        lift_mm=rng.normal(0, 0.12, n),
        tilt=rng.normal(0, 0.02, n),
    )


def _positions(place: Placement, device: Device, layout: Layout) -> Floats:
    """Millimetres from the joint's gap for each column."""
    columns = np.arange(layout.width)[None, :] - place.centre_px[:, None]
    return columns * device.mm_per_px + place.shift_mm[:, None]


def _scan(
    rng: np.random.Generator,
    joints: Joints,
    place: Placement,
    device: Device,
    layout: Layout,
    *,
    texture: int,
    doppler: bool,
) -> tuple[Bytes, list[Section]]:
    x_mm = _positions(place, device, layout)
    held = replace(
        joints,
        depth=joints.depth + place.lift_mm,
        skin=joints.skin + np.maximum(place.lift_mm, 0),
        tilt=joints.tilt + place.tilt,
    )
    borders = contours(held, x_mm)
    echoes = tissue.paint(
        rng, joints, _columns(borders, 2), depth=layout.depth, mm_per_px=device.mm_per_px, texture=texture
    )
    blur = device.doppler_blur if doppler else 1.0
    level = acoustics.scan(
        rng,
        echoes,
        axial_px=device.axial_px * blur,
        lateral_lines=device.lateral_px * blur / 2,
        attenuation_db=device.attenuation_db,
        noise_db=device.noise_db,
    )
    level += rng.normal(0, 1.3, len(joints)).astype(np.float32)[:, None, None]
    grey = device.grey(level, contrast=device.doppler_contrast if doppler else 1.0)
    picture = screen.frame(_convert(grey, layout), layout)
    picture = np.where(place.mirrored[:, None, None], picture[:, :, ::-1], picture)
    return picture, _sections(borders, place, device, layout)


def _columns(borders: Contours, step: int) -> Contours:
    return Contours(**{name: getattr(borders, name)[:, ::step] for name in Contours.__slots__})


def _convert(lines: Bytes, layout: Layout) -> Bytes:
    """Scan conversion: two columns for each scan line, the second between it and the next."""
    n = len(lines)
    rows = np.ascontiguousarray(lines.transpose(0, 2, 1))
    out = np.empty((n, layout.depth, layout.width), np.uint8)
    out[..., ::2] = rows
    wide = rows.astype(np.uint16)
    out[..., 1:-1:2] = (wide[..., :-1] + wide[..., 1:] + 1) >> 1
    out[..., -1] = rows[..., -1]
    return out


def _sections(borders: Contours, place: Placement, device: Device, layout: Layout) -> list[Section]:
    rows = (np.arange(layout.depth) * device.mm_per_px)[None, :, None]
    mask = (rows >= borders.synovium[:, None, :]) & (rows < borders.cartilage[:, None, :])
    mask = np.pad(mask, ((0, 0), (layout.header, 0), (0, 0)))
    sections = []
    for i in range(len(mask)):
        way = slice(None, None, -1 if place.mirrored[i] else 1)
        sections.append(
            Section(
                synovium=mask[i][:, way],
                upper_mm=borders.synovium[i][way],
                lower_mm=borders.cartilage[i][way],
                joint_line_mm=borders.joint_line[i][way],
                flow=np.zeros_like(mask[i]),
                mm_per_px=device.mm_per_px,
            )
        )
    return sections


def _scan_part(picture: Mask, layout: Layout) -> Mask:
    return picture[layout.header :]


def _with_flow(
    rng: np.random.Generator,
    grey: Bytes,
    speeds: list[Singles],
    joints: Joints,
    place: Placement,
    device: Device,
    layout: Layout,
    *,
    phase: float,
) -> tuple[Bytes, list[Mask]]:
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    shown = []
    for i, speed in enumerate(speeds):
        box = _doppler_box(rng, float(joints.depth[i]), float(_centre(place, layout)[i]), device, layout)
        shown.append(
            screen.colour_flow(rng, rgb[i], flow.at_phase(speed, phase), device, top=layout.header, box=box)
        )
        screen.outline(rgb[i], device, top=layout.header, box=box)
    return rgb, shown


def _centre(place: Placement, layout: Layout) -> Floats:
    """Column of the joint's gap in the picture as it is shown."""
    return np.where(place.mirrored, layout.width - 1 - place.centre_px, place.centre_px)


def _doppler_box(
    rng: np.random.Generator, depth_mm: float, centre: float, device: Device, layout: Layout
) -> tuple[int, int, int, int]:
    """The box covers the whole joint: left, top, right, bottom in the scan."""
    half = (6.8 + rng.uniform(0, 0.8)) / device.mm_per_px
    top = (depth_mm - 3.2 - rng.uniform(0, 0.8)) / device.mm_per_px
    bottom = (depth_mm + 3.4 + rng.uniform(0, 0.8)) / device.mm_per_px
    left, right = max(round(centre - half), 0), min(round(centre + half), layout.width)
    return left, max(round(top), 0), right, min(round(bottom), layout.depth)


def _regions(
    rng: np.random.Generator, joints: Joints, place: Placement, device: Device, layout: Layout
) -> list[Box]:
    """Regions of interest as somebody draws them: about the joint, wholly inside the scan."""
    n, side = len(joints), layout.roi
    jitter = rng.uniform(-0.03, 0.03, (2, n)) * side
    left = _centre(place, layout) - side / 2 + jitter[0]
    top = layout.header + (joints.depth + place.lift_mm) / device.mm_per_px - JOINT_AT * side + jitter[1]
    left = np.clip(left.round(), 0, layout.width - side).astype(int)
    top = np.clip(top.round(), layout.header, layout.header + layout.depth - side).astype(int)
    return [(int(x), int(y), side, side) for x, y in zip(left, top, strict=True)]
