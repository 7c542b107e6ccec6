"""Moving pictures of an export: kept with all frames, cut alike, without text in any of them."""

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from client.data.ingest import mapping, preview, scans
from client.data.ingest.ingest import Ingested, ingest
from client.data.ingest.mapping import PairSection
from client.data.ingest.pairing import pair
from client.data.pictures.arrays import write_arrays
from client.data.tables.manifest import read_manifest
from common.errors import ConfigurationError, DataError
from common.settings import parse
from tests.client.data.dicom_files import (
    FLOW,
    NAME,
    TISSUE,
    on_screen,
    speckle,
    with_flow,
    with_text,
    write_dicom,
)
from tests.client.data.ingest.test_ingest_pairing import candidate

Bytes = NDArray[np.uint8]
FRAMES = 4
WHOLE = [(40, 30, 239, 189, TISSUE)]
FACTS = """\
[facts]
patient_id = ["tag:PatientID", {of = "name", pattern = '([^/_]+)_'}]
joint = ["is:MCP"]
device = ["tag:ManufacturerModelName", "is:HS40"]
image = [{of = "name", pattern = '_(GS|PD)'}]
"""
STILLS_AND_CLIPS = (
    '[pair]\nimages = ["gs", "doppler", "gs_clip", "doppler_clip"]\nsame = ["patient_id", "joint"]\n'
)
CLIPS_ALONE = '[pair]\nimages = ["gs_clip", "doppler_clip"]\nsame = ["patient_id", "joint"]\n'
SECRET = "KOWALSKI 1957"


def moving(*, flow: bool = False, text_in: int | None = None, seed: int = 0) -> list[Bytes]:
    """Frames of a scan that gets brighter, of which one has a name in the middle of it."""
    frames = [np.clip(speckle(seed).astype(np.int16) + 5 * i, 0, 255).astype(np.uint8) for i in range(FRAMES)]
    if flow:
        frames[2] = with_flow(frames[2])  # in diastole there is none
    if text_in is not None:
        frames[text_in] = with_text(frames[text_in], SECRET, (40, 120), size=14)
    return frames


def write_moving_dicom(path: Path, frames: list[Bytes], *, regions: bool = True, **tags: str) -> None:
    shown = [on_screen(frame) for frame in frames]
    found = [(40, 30, 239, 189, TISSUE)] if regions else []
    data = write_dicom(path, shown[0], frames=len(frames), regions=found, tags={"FrameTime": "80.0", **tags})
    data.PixelData = b"".join(frame.tobytes() for frame in shown)
    data.save_as(path, enforce_file_format=True)


def write_folder(path: Path, frames: list[Bytes]) -> None:
    path.mkdir(parents=True)
    for number, frame in enumerate(frames, start=8):
        Image.fromarray(frame).save(path / f"{number}.png")


def run(base: Path, text: str) -> tuple[Path, Ingested]:
    (base / "mapping.toml").write_text(text, encoding="utf-8")
    out = base / "data"
    meaning = mapping.load(base / "mapping.toml")
    return out, ingest(base / "export", out, meaning, private=base / "private")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def frames_of(path: Path) -> list[Bytes]:
    with Image.open(path) as opened:
        found = []
        for number in range(getattr(opened, "n_frames", 1)):
            opened.seek(number)
            found.append(np.asarray(opened.convert("RGB")))
    return found


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    return folder


def test_clips_of_several_frames_are_kept_whole_and_cut_alike(export: Path, tmp_path: Path) -> None:
    grey, doppler = moving(), moving(flow=True)
    write_moving_dicom(export / "1_GS.dcm", grey)
    write_moving_dicom(export / "1_PD.dcm", doppler)
    data, done = run(tmp_path, FACTS + CLIPS_ALONE)
    (exam,) = rows(data / "manifest.csv")
    assert done.exams == 1 and done.kept_by == {"region tag": 2}
    for image, frames in (("gs_clip", grey), ("doppler_clip", doppler)):
        assert exam[f"{image}_path"].endswith(f"_{image}.tif")
        assert (exam[f"{image}_frames"], exam[f"{image}_frame_rate"]) == ("4", "12.500")
        kept = frames_of(data / exam[f"{image}_path"])
        assert len(kept) == FRAMES
        assert all((one == other).all() for one, other in zip(kept, frames, strict=True))


def test_a_site_can_train_on_them(export: Path, tmp_path: Path) -> None:
    for i in (1, 2):
        write_moving_dicom(export / f"{i}_GS.dcm", moving(seed=i), PatientID=f"P{i}")
        write_moving_dicom(export / f"{i}_PD.dcm", moving(seed=i, flow=True), PatientID=f"P{i}")
    data, _ = run(tmp_path, FACTS + CLIPS_ALONE)
    plan = parse(
        "\n".join([
            'name = "moving"', "[images.gs_clip]", 'kind = "grey"', "frames = 3", "[images.doppler_clip]",
            'kind = "doppler"', "frames = 3", "[measurements.vascularity]", 'images = ["doppler_clip"]',
            "[network]", "image_px = 32",
        ])
    )  # fmt: skip
    exams, unknown = read_manifest(data, data / "manifest.csv", plan)
    (tmp_path / "arrays").mkdir()
    written = write_arrays(tmp_path / "arrays", data, exams, plan, None)
    assert (len(written.kept), written.quarantined, unknown) == (2, (), ())
    flow = np.load(tmp_path / "arrays" / "doppler_clip.npy")[:, :, 1]
    assert flow.max(axis=(2, 3)).tolist() == [[0, 255, 0], [0, 255, 0]]


@pytest.mark.parametrize("frame", range(FRAMES))
def test_text_in_any_frame_is_painted_over_in_all(export: Path, tmp_path: Path, frame: int) -> None:
    plain, written = moving(), moving(text_in=frame)
    write_moving_dicom(export / "1_GS.dcm", written)
    write_moving_dicom(export / "1_PD.dcm", moving(flow=True))
    data, done = run(tmp_path, FACTS + CLIPS_ALONE)
    (exam,) = rows(data / "manifest.csv")
    kept = frames_of(data / exam["gs_clip_path"])
    letters = (written[frame] != plain[frame]).any(axis=2)
    assert done.masked == 1
    shown = (kept[frame] == written[frame]).all(axis=2) & (written[frame] > 200).all(axis=2)
    assert (shown & letters).sum() < 0.03 * letters.sum()
    for one, other in zip(kept, plain, strict=True):
        changed = (one != other).any(axis=2)
        assert changed[110:145, 35:160].mean() > 0.2, "the same place in every frame"
        assert not changed[:90].any()


def test_where_text_is_refused_one_frame_is_enough(export: Path, tmp_path: Path) -> None:
    write_moving_dicom(export / "1_GS.dcm", moving(text_in=3))
    write_moving_dicom(export / "1_PD.dcm", moving(flow=True))
    with pytest.raises(DataError, match="1 x text is burned in at 1 places"):
        run(tmp_path, FACTS + CLIPS_ALONE + '[burned_in]\naction = "refuse"\n')


def test_nothing_of_the_file_is_in_what_is_written(export: Path, tmp_path: Path) -> None:
    write_moving_dicom(export / "1_GS.dcm", moving())
    write_moving_dicom(export / "1_PD.dcm", moving(flow=True))
    data, _ = run(tmp_path, FACTS + CLIPS_ALONE)
    everything = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    original = pydicom.dcmread(export / "1_GS.dcm")
    secrets = (NAME, original.PatientID, original.SOPInstanceUID, "ACC-7741902", "US-ROOM-12", "1_GS")
    for secret in secrets:
        assert str(secret).encode() not in everything
    for path in data.rglob("*.tif"):
        with Image.open(path) as opened:
            tags = {int(tag) for tag in opened.tag_v2}  # type: ignore[attr-defined]  # a TIFF
        assert not tags & {270, 271, 272, 305, 306, 315, 33432, 34665}, (
            "no description, maker, date, artist, EXIF"
        )


def test_folders_of_frames_and_films_are_clips(export: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    write_folder(export / "clips" / "7_GS", moving())
    with av.open(str(export / "7_PD.avi"), "w") as out:
        stream = out.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 200, 160, "bgr0"
        for frame in moving(flow=True):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    data, done = run(tmp_path, FACTS + CLIPS_ALONE + "[clips]\nfolders = '^clips/'\n")
    (exam,) = rows(data / "manifest.csv")
    assert done.files == 2
    for image, frames in (("gs_clip", moving()), ("doppler_clip", moving(flow=True))):
        kept = frames_of(data / exam[f"{image}_path"])
        assert all((one == other).all() for one, other in zip(kept, frames, strict=True)), image
    assert (exam["gs_clip_frame_rate"], exam["doppler_clip_frame_rate"]) == ("", "8.000")


def test_a_film_inside_of_dicom_is_a_clip(export: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as out:
        stream = out.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 260, 200, "yuv420p"
        for frame in moving():
            out.mux(stream.encode(av.VideoFrame.from_ndarray(on_screen(frame), format="rgb24")))
        out.mux(stream.encode(None))
    path = export / "1_GS.dcm"
    data = write_dicom(
        path, on_screen(moving()[0]), regions=[(40, 30, 239, 189, TISSUE)], tags={"CineRate": "10"}
    )
    data.file_meta.TransferSyntaxUID = pydicom.uid.MPEG4HP41
    data.NumberOfFrames = FRAMES
    data.PixelData = pydicom.encaps.encapsulate([film.read_bytes()])
    data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)
    picture = scans.read(path, frame=None, moving=True)
    assert picture.moving is not None and picture.moving.shape == (FRAMES, 200, 260, 3)
    assert picture.frame_rate == 10
    with pytest.raises(DataError, match="ask for clips in pair"):
        scans.read(path, frame=None)


def test_stills_and_clips_of_a_joint_make_one_exam(export: Path, tmp_path: Path) -> None:
    for i in (1, 2):
        for image, flow in (("GS", False), ("PD", True)):
            frames = moving(flow=flow, seed=i)
            tags = {"PatientID": f"P{i}", "AcquisitionTime": "101500"}
            write_dicom(
                export / f"{i}_{image}_still.dcm",
                on_screen(frames[2]),
                regions=[(40, 30, 239, 189, TISSUE)],
                tags=tags,
            )
            if (i, image) != (2, "PD"):
                write_moving_dicom(
                    export / f"{i}_{image}_clip.dcm", frames, PatientID=f"P{i}", AcquisitionTime="101500"
                )
    data, done = run(tmp_path, FACTS + STILLS_AND_CLIPS)
    (exam,) = rows(data / "manifest.csv")
    paths = [exam[f"{image}_path"] for image in ("gs", "doppler", "gs_clip", "doppler_clip")]
    assert [path.rpartition(".")[2] for path in paths] == ["png", "png", "tif", "tif"]
    assert "gs_frames" not in exam and exam["doppler_clip_frames"] == "4"
    assert done.left_out == {"no moving Doppler picture goes with it": 3}


def test_of_several_clips_the_nearest_in_time_goes_with_the_still() -> None:
    rules = PairSection(images=("gs", "doppler", "doppler_clip"))
    members = [
        candidate(1, "gs", time="100"), candidate(2, "doppler", time="110"),
        candidate(3, "gs", time="500"), candidate(4, "doppler", time="505"),
        candidate(5, "doppler_clip", time="520"), candidate(6, "doppler_clip", time="90"),
        candidate(7, "doppler_clip", time="900"),
    ]  # fmt: skip
    exams, left = pair(members, rules)
    found = [[exam.images[image].source for image in rules.images] for exam in exams]
    assert sorted(found) == [[1, 2, 6], [3, 4, 5]]
    assert [(each.candidate.source, each.reason) for each in left] == [
        (7, "no grey-scale picture goes with it")
    ]


def test_who_asks_for_stills_is_told_that_a_clip_was_one(export: Path, tmp_path: Path) -> None:
    write_moving_dicom(export / "1_GS.dcm", moving())
    write_moving_dicom(export / "1_PD.dcm", [with_flow(frame) for frame in moving()])
    _, done = run(tmp_path, FACTS + '[pair]\nsame = ["patient_id", "joint"]\n')
    (note,) = done.notes
    assert note.startswith("4 frames or pages of which the first was taken") and "doppler_clip" in note


def test_the_dry_run_sees_clips(export: Path, tmp_path: Path) -> None:
    write_moving_dicom(export / "1_GS.dcm", moving())
    write_folder(export / "clips" / "1_PD", moving(flow=True))
    (tmp_path / "mapping.toml").write_text(
        FACTS + CLIPS_ALONE + "[clips]\nfolders = '^clips/'\n", encoding="utf-8"
    )
    meaning = mapping.load(tmp_path / "mapping.toml")
    found = preview.preview(
        export, meaning, scans.find(export, films=True, clip_folders=meaning.clips.folders)
    )
    assert sorted(row.image for row in found.rows) == ["doppler_clip", "gs_clip"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame = 2\n" + CLIPS_ALONE, "expected no frame where pair.images has clips"),
        ("[clips]\nfolders = 'x'\n", "expected gs_clip or doppler_clip in pair.images"),
    ],
)
def test_contradicting_settings_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mapping.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        mapping.load(tmp_path / "mapping.toml")


def test_the_colour_box_is_the_region_of_clips_too(export: Path, tmp_path: Path) -> None:
    write_moving_dicom(export / "1_GS.dcm", moving())
    path = export / "1_PD.dcm"
    write_moving_dicom(path, moving(flow=True), regions=False)
    from tests.client.data.dicom_files import _region

    data = pydicom.dcmread(path)
    data.SequenceOfUltrasoundRegions = [_region(40, 30, 239, 189, TISSUE), _region(70, 60, 189, 159, FLOW)]
    data.save_as(path, enforce_file_format=True)
    out, _ = run(tmp_path, FACTS + CLIPS_ALONE + '[roi]\nrule = "colour_box"\n')
    (exam,) = rows(out / "manifest.csv")
    assert exam["gs_clip_roi"] == exam["doppler_clip_roi"] == "30 30 120 100"
