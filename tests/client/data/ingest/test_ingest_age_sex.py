"""Age and sex of an export: only where the mapping asks for them, an age by its decade."""

import csv
from pathlib import Path

import pytest

from client.data.ingest import draft, mapping, proposal, samples, scans
from client.data.ingest.facts import translated
from client.data.ingest.ingest import ingest
from client.data.ingest.mapping import Mapping
from client.data.tables.manifest import OLDEST
from common.errors import DataError
from tests.client.data.dicom_files import FLOW, TISSUE, on_screen, speckle, with_flow, write_dicom

ASKED = '[facts]\nage = ["tag:PatientAge"]\nsex = ["tag:PatientSex"]\n'


def export(folder: Path, *, other: str = "F") -> Path:
    """Two patients, an exam each, of one a second exam whose files say another sex if asked to."""
    folder.mkdir()
    people = [("P-1", "047Y", "F", "MCP"), ("P-1", "047Y", other, "PIP"), ("P-2", "093Y", "M", "MCP")]
    for i, (patient, age, sex, joint) in enumerate(people):
        for doppler in (False, True):
            scan = speckle(10 * i)
            write_dicom(
                folder / f"{i}{'pd' if doppler else 'gs'}.dcm",
                on_screen(with_flow(scan) if doppler else scan),
                patient_id=patient,
                regions=[(40, 30, 239, 189, TISSUE), *([(70, 60, 189, 159, FLOW)] if doppler else [])],
                tags={"PatientAge": age, "PatientSex": sex, "SeriesDescription": joint},
            )
    return folder


def rows_of(base: Path, text: str, **changes: str) -> tuple[list[dict[str, str]], dict[str, int]]:
    joint = 'joint = ["tag:SeriesDescription"]\n'
    (base / "mapping.toml").write_text(
        (text or "[facts]\n").replace("[facts]\n", f"[facts]\n{joint}"), encoding="utf-8"
    )
    done = ingest(
        export(base / "export", **changes),
        base / "data",
        mapping.load(base / "mapping.toml"),
        private=base / "private",
    )
    with (base / "data" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)), dict(done.notes)


def test_without_a_source_there_is_neither(tmp_path: Path) -> None:
    rows, _ = rows_of(tmp_path, "")
    assert not {"age", "sex"} & rows[0].keys()


def test_an_age_is_kept_by_decade_and_the_oldest_together(tmp_path: Path) -> None:
    rows, notes = rows_of(tmp_path, ASKED)
    assert sorted((row["age"], row["sex"]) for row in rows) == [("40", "F"), ("40", "F"), ("90", "M")]
    assert "047" not in (tmp_path / "data" / "manifest.csv").read_text(encoding="utf-8")
    assert not any("two sexes" in note for note in notes)


def test_a_patient_of_two_sexes_has_none_that_is_known(tmp_path: Path) -> None:
    rows, notes = rows_of(tmp_path, ASKED, other="M")
    assert sorted(row["sex"] for row in rows) == ["", "", "M"]
    assert notes["files of one patient say two sexes: left empty"] == 1


@pytest.mark.parametrize(
    ("fact", "text", "ours"),
    [
        ("age", "47", "40"), ("age", "009Y", "0"), ("age", "018M", "0"), ("age", "010D", "0"), ("age", "130", "90"),
        ("sex", "w", "F"), ("sex", "O", "other"), ("sex", "männlich", "M"), ("sex", "U", ""),
    ],
)  # fmt: skip
def test_words_of_hospitals(fact: mapping.Fact, text: str, ours: str) -> None:
    assert translated(Mapping(), fact, text) == ours


@pytest.mark.parametrize("text", ["forty", "131", "1957-03-12", "47.5", "-1"])
def test_what_is_no_age_is_refused_unrepeated(text: str) -> None:
    with pytest.raises(DataError, match="expected whole years") as caught:
        translated(Mapping(), "age", text)
    assert text not in str(caught.value)
    assert OLDEST == 130


def test_a_draft_proposes_them_to_be_checked(tmp_path: Path) -> None:
    source = export(tmp_path / "export")
    seen = [samples.read(source, name) for name in scans.find(source).pictures]
    by_fact = {each.fact: each for each in proposal.propose(seen)}
    assert by_fact["age"].sources == ("tag:PatientAge",)
    assert by_fact["sex"].sources == ("tag:PatientSex",)
    assert {by_fact[fact].state for fact in ("age", "sex")} == {"check"}
    text = draft.toml(proposal.propose(seen), seen, files=6)
    assert "# CHECK age: in all files; kept by decade" in text
    (tmp_path / "draft.toml").write_text(text, encoding="utf-8")
    done = ingest(
        source, tmp_path / "data", mapping.load(tmp_path / "draft.toml"), private=tmp_path / "private"
    )
    assert done.exams == 3
