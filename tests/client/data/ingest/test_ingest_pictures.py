"""``data ingest`` on pictures as hospitals have them: each read right, left out with its reason, or said."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian

from client.data.ingest import mapping
from client.data.ingest.ingest import Ingested, ingest
from common.errors import DataError
from tests.client.data.dicom_files import speckle, with_text, write_dicom
from tests.client.data.export import make_export
from tests.client.data.picture_files import png16
from tests.client.data.speckles import fine_speckle

MEANING = """\
[facts]
patient_id = [{of = "name", pattern = '^([^/.]+)'}]
visit = ["is:2024-03-01"]
side = ["is:left"]
joint = ["is:wrist"]
image = ["is:gs"]
[pair]
images = ["gs"]
"""
BROKEN = {
    "empty.png": (b"", "is empty (0 bytes)"),
    "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "is HEIC"),
    "clip.gif": (b"GIF89a" + bytes(200), "is GIF"),
    "old.bmp": (b"BM" + bytes(200), "is BMP"),
    "web.webp": (b"RIFF\x10\0\0\0WEBPVP8 " + bytes(200), "is WebP"),
    "wave.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200), "is JPEG 2000"),
    "scan.jpg": (b"this is a note", "no known picture"),
    "huge.png": (png16(np.zeros((4, 4), np.uint16), claimed=(9000, 9000)), "at most 50 million pixels"),
}
OTHERS = {"readme.txt": b"hello", "report.pdf": b"%PDF-1.7", ".hidden.png": b"\x89PNG\r\n\x1a\n"}


def run(tmp_path: Path, *, meaning: str = MEANING) -> Ingested:
    (tmp_path / "m.toml").write_text(meaning, encoding="utf-8")
    return ingest(
        tmp_path / "export",
        tmp_path / "data",
        mapping.load(tmp_path / "m.toml"),
        private=tmp_path / "private",
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def problems(tmp_path: Path) -> dict[str, str]:
    return {row["where"]: row["what"] for row in rows(tmp_path / "private" / "data-problems.csv")}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    return folder


def spoil(export: Path) -> None:
    for name, content in (OTHERS | {name: content for name, (content, _) in BROKEN.items()}).items():
        (export / name).write_bytes(content)


def test_every_file_that_is_left_out_has_its_true_reason(export: Path, tmp_path: Path) -> None:
    spoil(export)
    Image.fromarray(speckle(1)).save(export / "good.png")
    done = run(tmp_path)
    assert (done.exams, done.files, done.other_files) == (1, 2, 3)
    said = problems(tmp_path)
    for name, (_, reason) in BROKEN.items():
        assert reason in said[f"file {name}"]
        assert [count for listed, count in done.left_out.items() if reason in listed] == [1]
    assert all(f"file {name}" in said for name in OTHERS)
    listed = rows(tmp_path / "data" / "quarantine.csv")
    assert len(listed) == len(BROKEN) + len(OTHERS)
    assert not any(name in (tmp_path / "data" / "quarantine.csv").read_text() for name in (*BROKEN, *OTHERS))


@pytest.mark.parametrize("good", [False, True])
def test_a_failing_import_says_of_every_file_why_and_leaves_nothing(
    export: Path, tmp_path: Path, good: bool
) -> None:
    spoil(export)
    meaning = MEANING
    if good:  # a whole picture, and nothing that tells whose it is
        Image.fromarray(speckle(1)).save(export / "good.png")
        meaning = MEANING.replace("'^([^/.]+)'", "'^(nobody)'")
    with pytest.raises(DataError, match=r"Why each file was left out: .*data-quarantine\.csv") as caught:
        run(tmp_path, meaning=meaning)
    assert "1 x is empty (0 bytes)" in str(caught.value)
    assert not (tmp_path / "data").exists()
    assert not list(tmp_path.glob(".data*"))
    listed = rows(tmp_path / "private" / "data-quarantine.csv")
    assert len(listed) == len(BROKEN) + len(OTHERS) + good
    assert all(row["reason"] for row in listed)
    said = problems(tmp_path)
    assert {f"file {name}" for name in (*BROKEN, *OTHERS)} <= said.keys()
    assert ("patient_id: no source has one" in said.get("file good.png", "")) == good
    (export / "other.png").write_bytes(b"")
    Image.fromarray(speckle(2)).save(export / "better.png")
    run(tmp_path)
    assert not (tmp_path / "private" / "data-quarantine.csv").exists()  # the data folder has its own now


def test_an_import_whose_grades_fit_nothing_lists_what_it_left_out_too(tmp_path: Path) -> None:
    made = make_export(tmp_path)
    (made.source / "torn.png").write_bytes(b"")
    (tmp_path / "grades.csv").write_text(
        "Pat-ID;Datum;Seite;Gelenk;Finger;Untersucher;Höhe;PD\nX;2024-03-01;R;PIP;2;W;1;1\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match="none of its rows could be used"):
        ingest(made.source, tmp_path / "data", mapping.load(made.mapping), private=tmp_path / "private")
    said = problems(tmp_path)
    assert "is empty" in said["file torn.png"]
    assert "grades line 2" in said
    assert not (tmp_path / "data").exists()


def test_guesses_are_counted_on_the_screen_and_named_in_private(export: Path, tmp_path: Path) -> None:
    grey = speckle(1)[..., 0].astype(np.uint16)
    (export / "deep.png").write_bytes(png16((grey << 4).astype(np.uint16)))
    Image.fromarray(speckle(2)).save(
        export / "pages.tif", save_all=True, append_images=[Image.fromarray(speckle(3))]
    )
    write_dicom(export / "clip.dcm", speckle(4), syntax=ExplicitVRLittleEndian, frames=3)
    done = run(tmp_path)
    assert done.exams == 3
    assert sorted(done.notes.values()) == [1, 1, 1]
    said = problems(tmp_path)
    assert "of which" in said["file deep.png"]
    assert said["file pages.tif"].startswith("with 2 frames or pages of which the first was taken")
    assert said["file clip.dcm"].startswith("with 3 frames or pages of which the first was taken")
    shown = [np.asarray(Image.open(p).convert("RGB")) for p in (tmp_path / "data" / "images").iterdir()]
    for seed in (1, 2, 4):
        assert any(np.array_equal(picture, speckle(seed)) for picture in shown)


def test_a_chosen_frame_is_no_guess(export: Path, tmp_path: Path) -> None:
    Image.fromarray(speckle(2)).save(
        export / "pages.tif", save_all=True, append_images=[Image.fromarray(speckle(3))]
    )
    done = run(tmp_path, meaning="frame = 2\n" + MEANING)
    assert done.notes == {}
    (path,) = (tmp_path / "data" / "images").iterdir()
    assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), speckle(3))


def test_the_share_that_is_painted_over_is_said(export: Path, tmp_path: Path) -> None:
    Image.fromarray(with_text(speckle(5), "ID 4711 WEBER", (40, 100))).save(export / "written.png")
    Image.fromarray(speckle(6)).save(export / "plain.png")
    done = run(tmp_path)
    shares = sorted(float(row["painted"]) for row in rows(tmp_path / "data" / "pictures.csv"))
    assert shares[0] == 0 < shares[1] < 0.15
    assert done.painted_most == pytest.approx(shares[1], abs=1e-4)
    assert done.painted == pytest.approx(shares[1] / 2, abs=1e-4)


def test_a_scan_that_would_mostly_be_painted_over_is_left_out(export: Path, tmp_path: Path) -> None:
    page = np.full((200, 200, 3), 12, np.uint8)
    for line in range(9):
        page = with_text(page, "KOWALSKI 1957-03-12 MCP2 left", (4, 4 + 20 * line))
    Image.fromarray(page).save(export / "page.png")
    Image.fromarray(speckle(6)).save(export / "plain.png")
    done = run(tmp_path)
    assert done.exams == 1
    assert [reason for reason in done.left_out if "more than 15% of it" in reason]


@pytest.mark.parametrize(("axial", "lateral", "range_db"), [(0.6, 0.6, 60), (1.0, 1.0, 60), (1.0, 1.0, 45)])
def test_fine_grained_speckle_is_brought_in_untouched(
    export: Path, tmp_path: Path, axial: float, lateral: float, range_db: float
) -> None:
    picture = fine_speckle(3, axial=axial, lateral=lateral, range_db=range_db)
    Image.fromarray(picture).save(export / "S1.png")
    done = run(tmp_path)
    assert (done.exams, done.masked, done.painted_most) == (1, 0, 0)
    (path,) = (tmp_path / "data" / "images").iterdir()
    assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), picture)
