import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.data import store as store_module
from client.data.pictures import clips, decoder
from client.data.pictures.clips import evenly
from client.data.pictures.pictures import read_cut
from client.data.site_store import site_store
from client.data.store import Store
from client.reading import pictures as reading
from client.site.site import Site
from common.errors import DataError
from common.exam import ImageRef, Roi
from common.imaging.roi import stored_px
from common.sections.networks import ImageSettings
from common.settings import Settings
from tests.site_folders import make_settings, make_site_folder, read_table, write_table

FRAMES = 6
CLIP = ImageSettings(kind="grey", frames=3)
SETTINGS = make_settings(
    images=("gs", "doppler"), text="\n".join(["[images.gs_clip]", 'kind = "grey"', "frames = 3"])
)


def shades(count: int = FRAMES, *, size: tuple[int, int] = (40, 30)) -> list[Image.Image]:
    return [Image.new("L", size, 20 * (i + 1)) for i in range(count)]


def write_clip(path: Path, frames: list[Image.Image], how: str) -> Path:
    """A moving picture at ``path``, whose suffix is the way's."""
    first, *others = frames
    if how == "folder":
        path.mkdir()
        for number, frame in enumerate(frames, start=8):  # frame8, frame9, frame10: counted, not spelled
            frame.save(path / f"frame{number}.png")
    elif how == "film":
        write_film(path, frames)
    else:
        first.save(path, format=how, save_all=True, append_images=others)
    return path


def write_film(path: Path, frames: list[Image.Image], *, rate: int = 10, form: str = "avi") -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=form) as out:
        stream = out.add_stream("ffv1" if form == "avi" else "mpeg4", rate=rate)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "gray" if form == "avi" else "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_image(frame.convert("RGB"))))
        out.mux(stream.encode(None))


def levels(images: tuple[Image.Image, ...]) -> list[int]:
    return [round(float(np.asarray(image).mean())) for image in images]


def test_frames_are_taken_evenly_and_a_short_clip_repeats_some() -> None:
    assert evenly(16, 8) == [1, 3, 5, 7, 9, 11, 13, 15]
    assert evenly(3, 3) == [0, 1, 2]
    assert evenly(2, 5) == [0, 0, 1, 1, 1]
    for frames in range(1, 40):
        for wanted in range(1, 20):
            found = evenly(frames, wanted)
            assert found == sorted(found) and found[0] >= 0 and found[-1] < frames
            assert len(found) == wanted and len(set(found)) == min(frames, wanted)


@pytest.mark.parametrize("how", ["TIFF", "PNG", "folder", "film"])
def test_a_clip_is_read_from_a_file_of_several_a_folder_or_a_film(tmp_path: Path, how: str) -> None:
    path = write_clip(tmp_path / "clip", shades(), how)
    found = clips.read(path, mode="L", wanted=None)
    assert levels(found.images) == [20, 40, 60, 80, 100, 120] and found.frames == FRAMES
    assert levels(clips.read(path, mode="L", wanted=3).images) == [40, 80, 120]
    assert levels(clips.read(path, mode="L", wanted=8).images) == [20, 40, 40, 60, 80, 100, 100, 120]
    assert found.frame_rate == (10 if how == "film" else None)
    assert all(image.mode == "RGB" for image in clips.read(path, mode="RGB", wanted=2).images)
    for number in (1, 4, 6):
        image, frames = clips.frame(path, number)
        assert frames == FRAMES and round(float(np.asarray(image).mean())) == 20 * number
    with pytest.raises(DataError, match="expected at least 7 pictures"):
        clips.frame(path, 7)


def test_an_mp4_is_a_film(tmp_path: Path) -> None:
    write_film(tmp_path / "clip.mp4", shades(size=(64, 48)), form="mp4")
    found = clips.read(tmp_path / "clip.mp4", mode="L", wanted=None)
    assert levels(found.images) == pytest.approx([20, 40, 60, 80, 100, 120], abs=4)


def test_without_pyav_a_film_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"pip install 'synofed\[video\]'"):
        clips.of_content(b"\x00\x00\x00\x18ftypmp42" + bytes(40), mode="L", wanted=None)


@pytest.mark.parametrize(
    ("frames", "how", "message"),
    [
        (shades(1), "TIFF", "expected a moving picture, got 1 frame"),
        ([shades()[0], shades(size=(41, 30))[1]], "folder", "frames of one size, got 40 x 30 and 41 x 30"),
        ([Image.fromarray(np.full((8, 8), v, np.uint16)) for v in (900, 4000)], "folder", "different depths"),
    ],
    ids=["one", "sizes", "depths"],
)
def test_what_is_no_clip_is_refused(
    tmp_path: Path, frames: list[Image.Image], how: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        clips.read(write_clip(tmp_path / "clip", frames, how), mode="L", wanted=None)


def test_damaged_clips_are_refused_in_words(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.tif", shades(), "TIFF")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="expected a whole TIFF"):
        clips.read(path, mode="L", wanted=None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected a moving picture, got 0 frames"):
        clips.read(tmp_path / "empty", mode="L", wanted=None)
    with pytest.raises(DataError, match="cannot be read"):
        clips.read(tmp_path / "none", mode="L", wanted=None)
    with pytest.raises(DataError, match="cannot be read"):
        clips.frame(tmp_path / "none", 1)


def test_no_frame_is_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = decoder._page

    def counted(*args: Any, **named: Any) -> decoder.Decoded:
        decoded.append(args[2])
        return original(*args, **named)

    monkeypatch.setattr(decoder, "_page", counted)
    path = write_clip(tmp_path / "clip", shades(3), "TIFF")
    assert len(clips.read(path, mode="L", wanted=8).images) == 8
    assert decoded == [0, 1, 2]


def test_a_cut_has_all_frames_with_one_region(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) + i, (30, 1))) for i in range(3)]
    write_clip(tmp_path / "clip.tif", frames, "TIFF")
    ref = ImageRef(path="clip.tif", roi=Roi(x=10, y=5, width=16, height=16), kind="clip", frames=3)
    cut = read_cut(tmp_path, ref, CLIP, image_px=16)
    side = stored_px(16)
    assert cut.pixels.shape == (3, 1, side, side)
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"{number}.png")
        still = ImageRef(path=f"{number}.png", roi=ref.roi)
        alone = read_cut(tmp_path, still, ImageSettings(kind="grey"), image_px=16)
        assert (cut.pixels[number] == alone.pixels).all()
    wrong = ImageRef(path="clip.tif", kind="clip", frames=4)
    with pytest.raises(DataError, match="expected 4 frames, as the manifest says, got 3"):
        read_cut(tmp_path, wrong, CLIP, image_px=16)


def test_a_clip_where_a_still_is_expected_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.tif", shades(), "TIFF")
    with pytest.raises(DataError, match="expected one picture in the file, got 6"):
        read_cut(tmp_path, ImageRef(path="clip.tif"), ImageSettings(kind="grey"), image_px=16)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Exams with stills, and a clip each: of the first patient a folder, of the others a TIFF."""
    folder = make_site_folder(tmp_path / "site", patients=4, exams_per_patient=2, held_out_patients=1)
    rows = read_table(folder / "manifest.csv")
    for index, row in enumerate(rows):
        how = "folder" if index < 2 else "TIFF"
        row["gs_clip_path"] = f"images/clip{index}"
        frames = [Image.new("L", (48, 40), 10 * index + i) for i in range(5)]
        write_clip(folder / row["gs_clip_path"], frames, how)
        row |= {"gs_clip_roi": "6 4 30 28", "gs_clip_frames": "5", "gs_clip_frame_rate": "12.5"}
    write_table(folder / "manifest.csv", rows)
    return folder


def open_anew(folder: Path, settings: Settings = SETTINGS) -> Store:
    store_module._opened.clear()
    return site_store(Site.open(folder), settings)


def test_a_store_has_clips_memory_mapped_beside_stills(site: Path) -> None:
    opened, side = open_anew(site), stored_px(SETTINGS.network.image_px)
    assert opened.tensors.images["gs"].shape == (8, 1, side, side)
    found = opened.tensors.images["gs_clip"]
    assert found.shape == (8, 3, 1, side, side)
    assert found.float().mean((2, 3, 4)).tolist() == [[10 * i, 10 * i + 2, 10 * i + 4] for i in range(8)]
    (store,) = (site / "store").glob("*/gs_clip.npy")
    assert np.load(store, mmap_mode="r").shape == (8, 3, 1, side, side)
    assert not opened.quarantined


def test_a_frame_that_changes_in_its_folder_makes_the_store_anew(site: Path) -> None:
    before = open_anew(site)
    Image.new("L", (48, 40), 200).save(site / "images/clip0/frame10.png")
    after = open_anew(site)
    assert after.fingerprint != before.fingerprint
    assert after.tensors.images["gs_clip"][0].float().mean((1, 2, 3)).tolist() == [0, 200, 4]


def test_a_clip_that_cannot_be_used_is_quarantined(site: Path) -> None:
    rows = read_table(site / "manifest.csv")
    rows[3]["gs_clip_frames"] = "7"
    rows[5]["gs_clip_path"] = rows[5]["gs_path"]
    write_table(site / "manifest.csv", rows)
    reasons = {entry.line: entry.reason for entry in open_anew(site).quarantined}
    assert reasons == {
        5: "gs_clip_path: expected 7 frames, as the manifest says, got 5",
        7: "gs_clip_path: expected a moving picture, got 1 frame",
    }


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("gs_clip_frames", "many"),
        ("gs_clip_frames", "0"),
        ("gs_clip_frame_rate", "-3"),
        ("gs_clip_frame_rate", "1e9"),
    ],
)
def test_frames_and_their_rate_are_numbers(site: Path, column: str, value: str) -> None:
    rows = read_table(site / "manifest.csv")
    rows[0][column] = value
    write_table(site / "manifest.csv", rows)
    with pytest.raises(DataError, match=f"line 2: {column} is '{value}', expected"):
        open_anew(site)


def test_the_reading_room_shows_every_kind_of_clip(tmp_path: Path) -> None:
    for how in ("TIFF", "folder", "film"):
        path = write_clip(tmp_path / how, shades(), how)
        shown = reading.frame(path, 4)
        assert (shown.frames, shown.width, shown.height) == (6, 40, 30)
        assert round(float(shown.pixels.mean())) == 80
        with Image.open(io.BytesIO(shown.png)) as png:
            assert png.size == (40, 30)


def test_stills_keep_the_plan_that_they_had() -> None:
    assert "frames" not in ImageSettings(kind="grey").model_dump()
    assert ImageSettings(kind="grey", frames=8).model_dump()["frames"] == 8
