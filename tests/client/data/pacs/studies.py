"""A factory of what a hospital's archive holds: three patients, a clip, a file without a picture, an X-ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import RLELossless

from tests.client.data.dicom_files import FLOW, TISSUE, on_screen, speckle, with_flow, write_dicom

ROOT = "1.2.826.0.1.99"
PATIENTS = ("00123", "KOWALSKI-55123", "Mustermann 9")
MAPPING = """\
[facts]
joint = [{of = "tag:SeriesDescription", pattern = '^(\\w+) '}]
digit = [{of = "tag:SeriesDescription", pattern = ' (\\d)$'}]

[grades]
path = "grades.csv"
exam = {patient_id = "Pat-ID", digit = "Finger"}
columns = {hypertrophy = "GS", vascularity = "PD"}
"""
GRADES = """\
Pat-ID;Finger;GS;PD
KOWALSKI-55123;2;1;0
NOBODY-1;2;3;3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Studies:
    """Files of an archive: what an import by modality US gets, all of them, and a mapping for them."""

    ultrasound: tuple[Path, ...]
    everything: tuple[Path, ...]
    mapping: Path


def make_studies(base: Path) -> Studies:
    """A study a patient in January, February and March 2024, each with one joint in grey-scale and Doppler.

    The first patient's Doppler picture is a clip; the last study has a file without a picture too, and an X-ray.
    """
    folder = base / "archive"
    folder.mkdir(parents=True)
    files = [
        _picture(folder, number, doppler)
        for number in range(1, len(PATIENTS) + 1)
        for doppler in (False, True)
    ]
    files.append(_picture(folder, len(PATIENTS), False, instance=9, empty=True))
    xray = _picture(folder, len(PATIENTS), False, instance=8, series=7, modality="DX")
    (base / "mapping.toml").write_text(MAPPING, encoding="utf-8")
    (base / "grades.csv").write_text(GRADES, encoding="utf-8")
    return Studies(ultrasound=tuple(files), everything=(*files, xray), mapping=base / "mapping.toml")


def _picture(
    folder: Path,
    number: int,
    doppler: bool,
    *,
    instance: int = 0,
    series: int = 1,
    modality: str = "US",
    empty: bool = False,
) -> Path:
    uid = f"{ROOT}.{number}.{series}.{instance or 1 + doppler}"
    path = folder / f"{uid}.dcm"
    scan, regions = speckle(number), [(40, 30, 239, 189, TISSUE)]
    if doppler:
        scan = with_flow(scan)
        regions.append((70, 60, 189, 159, FLOW))
    data = write_dicom(
        path,
        on_screen(scan),
        patient_id=PATIENTS[number - 1],
        syntax=RLELossless,
        regions=regions,
        frames=3 if doppler and number == 1 else 1,
        tags={
            "StudyInstanceUID": f"{ROOT}.{number}",
            "SeriesInstanceUID": f"{ROOT}.{number}.{series}",
            "SOPInstanceUID": uid,
            "StudyDate": f"2024{number:02}15",
            "AccessionNumber": f"ACC-{number}",
            "SeriesDescription": "MCP 2",
            "AcquisitionTime": f"10150{int(doppler)}",
            "Modality": modality,
        },
    )
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    if empty:
        del data.PixelData
    data.save_as(path)
    return path
