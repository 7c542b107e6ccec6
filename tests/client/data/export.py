"""A factory of a hospital's export: two machines, three patients, a list of files, grades."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.uid import RLELossless

from tests.client.data.dicom_files import FLOW, TISSUE, on_screen, speckle, with_flow, write_dicom

MAPPING = """\
patients = "patients.csv"

[facts]
patient_id = ["tag:PatientID", {of = "name", pattern = '/([^/_]+)_'}]
visit = ["tag:StudyDate", {of = "name", pattern = '_(\\d{8})_'}]
side = ["tag:Laterality", {of = "name", pattern = '_(L|R)_'}]
joint = [{of = "tag:SeriesDescription", pattern = '^(\\w+) '}, {of = "name", pattern = '_(MCP|PIP)'}]
digit = [{of = "tag:SeriesDescription", pattern = ' (\\d)$'}, {of = "name", pattern = '_(?:MCP|PIP)(\\d)'}]
device = ["tag:ManufacturerModelName", "is:HS40"]

[[devices]]
name = "hs40-dual"
size = [460, 220]
panels = [{box = [20, 40, 200, 160], image = "gs"}, {box = [240, 40, 200, 160], image = "doppler"}]

[grades]
path = "grades.csv"
exam = {patient_id = "Pat-ID", visit = "Datum", side = "Seite", joint = "Gelenk", digit = "Finger"}
reader = "Untersucher"
columns = {hypertrophy = "Höhe", vascularity = "PD"}
"""
DICOM_ID, DUAL_ID = "0004711-X", "HS40ID-90017733"
"""One person, as the two machines know her."""
SECRETS = (
    "Mustermann", "Erika", "19570312", "1957-03-12", "ACC-7741902", "Sonnenhang", "0004711-X", "4711-X",
    "HS40ID-90017733", "KOWALSKI-55123", "Weber", "US-ROOM-12", "PRIVATE-OF", "20240301", "2024-03-01", "IMG_0001",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Where an export lies, and every UID in it."""

    source: Path
    mapping: Path
    uids: tuple[str, ...]


def make_export(base: Path, *, mapping: str = MAPPING) -> Export:
    """Write an export of five exams.

    A machine's DICOM: two joints, each a grey-scale and a Doppler file with regions. Another's PNG screens with
    both side by side: two joints of the same person under another id, one of somebody else. Names are burned in.
    """
    source = base / "export"
    (source / "dicom").mkdir(parents=True)
    (source / "hs40").mkdir()
    uids: list[str] = []
    for i, joint in enumerate(("MCP 2", "PIP 3")):
        for j, doppler in enumerate((False, True)):
            scan = speckle(10 * i)
            regions = [(40, 30, 239, 189, TISSUE)]
            if doppler:
                scan = with_flow(scan)
                regions.append((70, 60, 189, 159, FLOW))
            data = write_dicom(
                source / "dicom" / f"IMG_0001{i}{j}.dcm",
                on_screen(scan),
                patient_id=DICOM_ID,
                syntax=RLELossless,
                regions=regions,
                tags={"SeriesDescription": joint, "AcquisitionTime": f"1015{i}{j}"},
            )
            uids += [data.SOPInstanceUID, data.SeriesInstanceUID, data.StudyInstanceUID]
    for i, name in enumerate(
        (f"{DUAL_ID}_20240301_L_MCP3", f"{DUAL_ID}_20240301_R_MCP3", "KOWALSKI-55123_20240301_R_PIP2")
    ):
        dual_screen(100 + i).save(source / "hs40" / f"{name}.png")
    (source / "hs40" / "notes.txt").write_text("Mustermann", encoding="utf-8")
    (base / "mapping.toml").write_text(mapping, encoding="utf-8")
    (base / "patients.csv").write_text(
        f"patient_id;person\n{DICOM_ID};Mustermann\n{DUAL_ID};Mustermann\n", encoding="utf-8"
    )
    rows = [
        "Pat-ID;Datum;Seite;Gelenk;Finger;Untersucher;Höhe;PD",
        f"{DICOM_ID};01.03.2024;links;MCP;2;Dr. Weber;2,0;1",
        f"{DICOM_ID};01.03.2024;links;MCP;2;Dr. Meyer;1;",
        f"{DUAL_ID};01.03.2024;re;MCP;3;Dr. Weber;Grad 3;2",
        "KOWALSKI-55123;2024-03-01;R;PIP;2;Dr. Weber;siehe Mustermann;0",
        "UNKNOWN-1;2024-03-01;R;PIP;2;Dr. Weber;0;0",
    ]
    (base / "grades.csv").write_bytes("\r\n".join(rows).encode("cp1252"))
    return Export(source=source, mapping=base / "mapping.toml", uids=tuple(uids))


def dual_screen(seed: int) -> Image.Image:
    """A screen of 460 x 220 pixels with a grey-scale and a Doppler scan, and a name above them."""
    scan = speckle(seed)
    both = np.concatenate([scan, np.zeros((160, 20, 3), np.uint8), with_flow(scan)], axis=1)
    return Image.fromarray(on_screen(both, left=20, top=40, right=20, bottom=20))
