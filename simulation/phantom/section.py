"""Pictures of joints: anatomy, acoustics, flow and machine put together.

A patient's joints are made together: everything below works on a batch of ``n`` exams of one device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simulation.phantom import acoustics, flow, screen, tissue
from simulation.phantom.anatomy import Contours, Joints, draw_joints
from simulation.phantom.arrays import Bytes, Floats, Mask, Singles
from simulation.phantom.devices import Device
from simulation.phantom.diagnosis import Signs
from simulation.phantom.screen import Box, Layout, Texts
from simulation.phantom.severity import Severity
from simulation.phantom.view import View

GAIN_SPREAD_DB = 1.3
"""Spread of the gain from picture to picture."""


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

    @property
    def colour_fraction(self) -> float:
        """Share of the synovial area that flows; 0 without synovium."""
        return float(self.flow.sum()) / max(float(self.synovium.sum()), 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What pictures of a patient's joints are taken of, for further ones at other moments.

    Attributes:
        grey: how the probe is held for the grey-scale picture.
        doppler: the same for the Doppler picture.
        texture: seed of the tissues' texture.
        speeds: of the flow at systole in each Doppler picture's scan, in the synovium.
        outside: of the flow outside of it, along the tendon too, which does not count.
        texts: burned into the pictures.
    """

    grey: View
    doppler: View
    texture: int
    speeds: list[Singles]
    outside: list[Singles]
    texts: list[Texts]


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
        shown_fraction: share of the flow that the machine shows; 1 where there is no flow.
        flow_outside: whether it shows flow outside the synovium, which does not count.
        signs: of a diagnosis; nothing else depends on them, and no reader's grade.
        peritendinous_mm2: area of the flow along the tendon that the machine shows.
        effusion: whether there is an effusion.
        notch: whether there is a notch of the metacarpal head.
        mimicry: 0-1, how much the effusion looks like synovium.
        scene: what the pictures were taken of.
    """

    severity: Severity
    grey: Bytes
    doppler: Bytes
    grey_roi: list[Box]
    doppler_roi: list[Box]
    grey_sections: list[Section]
    doppler_sections: list[Section]
    shown_fraction: Floats
    flow_outside: Mask
    signs: Signs
    peritendinous_mm2: Floats
    effusion: Mask
    notch: Mask
    mimicry: Floats
    scene: Scene

    @property
    def colour_fraction(self) -> Floats:
        """Share of the synovial area that flows, ``(n,)``."""
        return np.array([section.colour_fraction for section in self.doppler_sections])


def make_exams(
    rng: np.random.Generator,
    severity: Severity,
    device: Device,
    *,
    kinds: list[str],
    texts: list[Texts],
    roi_px: int = screen.REFERENCE_PX,
    phase: float | None = None,
    pulsatility: float = flow.PULSATILITY,
    signs: Signs | None = None,
) -> Exams:
    """Make pairs of pictures.

    The same generator and another phase give another frame of the same clip: only the flow differs. A still is the
    best of a few frames at random phases, as its operator keeps it.

    Args:
        rng: the patient's generator.
        severity: of the joints.
        device: the machine.
        kinds: ``MCP``, ``PIP``, ``DIP`` or ``wrist`` for each joint.
        texts: burned into the pictures of each joint.
        roi_px: side of the region of interest; the pictures are a third larger.
        phase: of the cardiac cycle, in [0, 1); 0 is systole. ``None``: a still for each joint.
        pulsatility: half of the share of its speed that flow loses between systole and diastole.
        signs: of a diagnosis; ``None``: there are none.
    """
    signs = Signs.absent(len(severity)) if signs is None else signs
    joints = draw_joints(rng, severity, kinds=kinds, signs=signs)
    texture = int(rng.integers(2**31))
    grey_view = View.hold(rng, joints, device, Layout(roi=roi_px))
    grey, grey_sections = _scan(rng, grey_view, texture=texture)
    doppler_view = grey_view.for_doppler(rng)
    under, sections = _scan(rng, doppler_view, texture=texture)
    speeds = _speeds(rng, doppler_view, sections, severity)
    outside = _outside(rng, doppler_view, sections)
    along = _peritendinous(doppler_view, sections, signs)
    stills = flow.still_phases(rng, joints=len(severity))
    moments = [still if phase is None else phase for still in stills]
    seen = [
        flow.at_phase(np.maximum(s + o, a), p, pulsatility=pulsatility)
        for s, o, a, p in zip(speeds, outside, along, moments, strict=True)
    ]
    doppler, shown = _with_flow(rng, doppler_view, under, seen)
    return Exams(
        severity=severity,
        grey=annotated(grey, grey_view, texts, doppler=False),
        doppler=annotated(doppler, doppler_view, texts, doppler=True),
        grey_roi=grey_view.regions(rng),
        doppler_roi=doppler_view.regions(rng),
        grey_sections=grey_sections,
        doppler_sections=[
            replace(section, flow=screen.frame(speed[None] > 0, doppler_view.layout)[0])
            for section, speed in zip(sections, speeds, strict=True)
        ],
        shown_fraction=np.array([shown_share(s, v > 0) for s, v in zip(shown, speeds, strict=True)]),
        flow_outside=np.array([bool((s & (o > 0)).any()) for s, o in zip(shown, outside, strict=True)]),
        signs=signs,
        peritendinous_mm2=np.array([(s & (a > 0)).sum() for s, a in zip(shown, along, strict=True)])
        * doppler_view.device.mm_per_px**2,
        effusion=joints.effusion > 0,
        notch=joints.notch > 0,
        mimicry=_mimicry(joints),
        scene=Scene(
            grey=grey_view,
            doppler=doppler_view,
            texture=texture,
            speeds=speeds,
            outside=[np.maximum(o, a) for o, a in zip(outside, along, strict=True)],
            texts=texts,
        ),
    )


def echo_levels(rng: np.random.Generator, view: View, borders: Contours, *, texture: int) -> Singles:
    """What the machine receives, in dB before its tone curve: ``(n, lines, depth)``, a line for two columns.

    Args:
        rng: for scatterers and gain.
        view: joints, machine, sizes.
        borders: of the view.
        texture: seed of the tissues' texture, the same for pictures of the same section.
    """
    device, depth = view.device, view.layout.depth
    lines = Contours(**{name: getattr(borders, name)[:, ::2] for name in Contours.__slots__})
    echoes = tissue.paint(rng, view.joints, lines, depth=depth, mm_per_px=device.mm_per_px, texture=texture)
    level = acoustics.scan(
        rng,
        echoes,
        axial_px=device.axial_px,
        lateral_lines=device.lateral_px / 2,
        attenuation_db=device.attenuation_db,
        noise_db=device.noise_db,
    )
    return level + rng.normal(0, GAIN_SPREAD_DB, len(level)).astype(np.float32)[:, None, None]


def _scan(rng: np.random.Generator, view: View, *, texture: int) -> tuple[Bytes, list[Section]]:
    borders = view.borders()
    return on_screen(echo_levels(rng, view, borders, texture=texture), view), _sections(borders, view)


def on_screen(level: Singles, view: View) -> Bytes:
    """The pictures ``(n, height, width)`` of echo levels, without text."""
    picture = screen.frame(screen.convert(view.device.grey(level)), view.layout)
    return np.where(view.mirrored[:, None, None], picture[:, :, ::-1], picture)


def _sections(borders: Contours, view: View) -> list[Section]:
    rows = (np.arange(view.layout.depth) * view.device.mm_per_px)[None, :, None]
    inside = (rows >= borders.synovium[:, None, :]) & (rows < borders.cartilage[:, None, :])
    masks, sections = screen.frame(inside, view.layout), []
    for i, mask in enumerate(masks):
        way = slice(None, None, -1 if view.mirrored[i] else 1)
        sections.append(
            Section(
                synovium=mask[:, way],
                upper_mm=borders.synovium[i, way],
                lower_mm=borders.cartilage[i, way],
                joint_line_mm=borders.joint_line[i, way],
                flow=np.zeros_like(mask),
                mm_per_px=view.device.mm_per_px,
            )
        )
    return sections


def _speeds(
    rng: np.random.Generator, view: View, sections: list[Section], severity: Severity
) -> list[Singles]:
    return [
        flow.draw_speed(
            rng, section.synovium[view.layout.header :], vascularity=float(v), mm_per_px=view.device.mm_per_px
        )
        for section, v in zip(sections, severity.vascularity, strict=True)
    ]


def _outside(rng: np.random.Generator, view: View, sections: list[Section]) -> list[Singles]:
    """Speeds outside the synovium of each joint: of most none."""
    mm, header = view.device.mm_per_px, view.layout.header
    found = []
    for section, centre in zip(sections, view.shown_centre_px, strict=True):
        drawn = flow.draw_outside(
            rng,
            section.upper_mm,
            section.lower_mm,
            depth=view.layout.depth,
            centre_px=float(centre),
            mm_per_px=mm,
        )
        found.append(np.where(section.synovium[header:], np.float32(0), drawn))
    return found


def _peritendinous(view: View, sections: list[Section], signs: Signs) -> list[Singles]:
    """Speeds along the tendon of each joint, none inside the synovium."""
    borders, header, found = view.borders(), view.layout.header, []
    middle = borders.tendon_top + signs.paratenon_mm[:, None] / 2
    for i, (section, centre) in enumerate(zip(sections, view.shown_centre_px, strict=True)):
        drawn = flow.draw_peritendinous(
            middle[i, :: -1 if view.mirrored[i] else 1],
            amount=float(signs.peritendinous[i]),
            place=float(signs.places[i, 0]),
            depth=view.layout.depth,
            centre_px=float(centre),
            mm_per_px=view.device.mm_per_px,
        )
        found.append(np.where(section.synovium[header:], np.float32(0), drawn))
    return found


def _with_flow(
    rng: np.random.Generator, view: View, grey: Bytes, speeds: list[Singles]
) -> tuple[Bytes, list[Mask]]:
    """Pictures with colour, box and colour bar, and masks of the flow that is shown."""
    rgb, shown = np.repeat(grey[..., None], 3, axis=-1), []
    for i, speed in enumerate(speeds):
        shown.append(paint_flow(rng, rgb[i], speed, view, view.doppler_box(rng, i)))
    return rgb, shown


def paint_flow(rng: np.random.Generator, rgb: Bytes, speed: Singles, view: View, box: Box) -> Mask:
    """Paint colour, box and colour bar over one picture ``(height, width, 3)``, in place; what flow is shown."""
    shown = screen.colour_flow(rng, rgb, speed, view.device, top=view.layout.header, box=box)
    screen.outline(rgb, view.device, top=view.layout.header, box=box)
    return shown


def annotated(pictures: Bytes, view: View, texts: list[Texts], *, doppler: bool) -> Bytes:
    """The pictures with what is burned into them."""
    pairs = zip(pictures, texts, strict=True)
    return np.stack([screen.annotate(p, view.device, t, view.layout, doppler=doppler) for p, t in pairs])


def shown_share(shown: Mask, flows: Mask) -> float:
    """Share of the flow that is shown; 1 where there is none."""
    return float((shown & flows).sum() / flows.sum()) if flows.any() else 1.0


def _mimicry(joints: Joints) -> Floats:
    return np.where(joints.effusion > 0, np.clip((joints.effusion_db + 40) / 11, 0, 1), 0.0)
