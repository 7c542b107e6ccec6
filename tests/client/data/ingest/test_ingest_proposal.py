"""A drafted mapping: what it finds, what it leaves open, and that it shows nobody."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

import synofed
from client.data.ingest import draft as drafts
from client.data.ingest import mapping, preview, proposal, samples, scans
from client.data.ingest.ingest import ingest
from client.data.ingest.samples import Sample
from tests.client.cli.test_site_cli import Command
from tests.client.data.dicom_files import speckle, with_flow, write_dicom
from tests.client.data.export import SECRETS, make_export

NAMES = [
    f"P{patient:03d}_{day}_{side}_{joint}_{image}.png"
    for patient in (1, 2)
    for day in ("20230105", "20240606")
    for side in ("L", "R")
    for joint in ("MCP2", "HG")
    for image in ("GS", "PD")
]


def of_names(names: Sequence[str]) -> list[Sample]:
    return [Sample(name=name, dicom=False, tags={}, regions=False, size=(800, 600)) for name in names]


def of_tags(tags: Sequence[Mapping[str, str]]) -> list[Sample]:
    return [
        Sample(name=f"IM_{i:04d}", dicom=True, tags=each, regions=True, size=(800, 600))
        for i, each in enumerate(tags)
    ]


def by_fact(seen: Sequence[Sample]) -> dict[str, proposal.Proposed]:
    return {each.fact: each for each in proposal.propose(seen)}


def written(folder: Path, names: Sequence[str]) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        scan = speckle(i)
        Image.fromarray(with_flow(scan) if "_PD" in name else scan).save(folder / name)
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(arguments: Sequence[object]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["synofed", "data", "ingest", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            synofed.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out + output.err

    return call


def test_a_draft_from_names_imports_what_they_say(tmp_path: Path) -> None:
    source = written(tmp_path / "export", NAMES)
    seen = [samples.read(source, name) for name in NAMES]
    (tmp_path / "draft.toml").write_text(
        drafts.toml(proposal.propose(seen), seen, files=len(NAMES)), encoding="utf-8"
    )
    meaning = mapping.load(tmp_path / "draft.toml")
    done = ingest(source, tmp_path / "data", meaning, private=tmp_path / "private")
    assert (done.exams, done.patients, done.left_out) == (16, 2, {})
    first = preview.preview(source, meaning, scans.find(source))
    assert {(row.side, row.joint, row.digit) for row in first.rows} == {
        (side, joint, digit) for side in ("left", "right") for joint, digit in (("MCP", "2"), ("wrist", ""))
    }
    assert [row.exam for row in first.rows[:4]] == ["1", "1", "2", "2"]
    assert first.rows[0].not_told == ("view", "device")


def test_what_could_be_something_else_is_marked_and_what_nothing_tells_is_a_gap() -> None:
    found = by_fact(of_names(NAMES))
    states = {fact: each.state for fact, each in found.items()}
    assert states == {
        "patient_id": "check", "visit": "check", "time": "gap", "side": "found", "joint": "found",
        "digit": "found", "view": "gap", "device": "gap", "image": "found", "age": "gap", "sex": "gap",
    }  # fmt: skip
    assert found["digit"].files == 16  # a wrist has none
    assert all(each.sources for each in found.values() if each.state != "gap")


@pytest.mark.parametrize(
    ("names", "hints"),
    [
        (["A_1_a.png", "A_2_b.png", "B_1_c.png", "B_2_d.png"], 2),  # two parts could be the patient
        (["weber_a.png", "weber_b.png", "meyer_c.png", "meyer_d.png"], 1),  # a word, no number
        (["a.png", "b.png", "c.png"], 0),
        (["x_1.png", "x_2.png"], 0),
        (["x-A.png", "x-A1.png", "y-A.png"], 2),
    ],
)
def test_who_the_patient_is_stays_open_unless_one_numbered_part_could_be(
    names: list[str], hints: int
) -> None:
    found = by_fact(of_names(names))["patient_id"]
    assert (found.state, found.sources, len(found.hints)) == ("gap", (), hints)
    text = drafts.toml([found], of_names(names), files=len(names))
    assert "patient_id = [" not in [line[: len("patient_id = [")] for line in text.splitlines()]


@pytest.mark.parametrize(
    ("ids", "says"),
    [(["4711"] * 4, "made anonymous"), (["1", "2", "3", "4"], "no two files"), (["1", "1", "2", "2"], "")],
)
def test_ids_that_tell_nobody_apart_are_to_be_checked(ids: list[str], says: str) -> None:
    found = by_fact(of_tags([{"PatientID": each} for each in ids]))["patient_id"]
    assert found.state == ("check" if says else "found")
    assert says in found.why


def test_a_source_that_contradicts_the_tag_is_left_out_and_that_is_said() -> None:
    tags = {"StudyDate": "20240301", "Laterality": "L"}
    seen = [Sample(name=f"20240302_R_{i}", dicom=True, tags=tags, regions=True, size=None) for i in range(4)]
    found = by_fact(seen)
    for fact, tag in (("visit", "tag:StudyDate"), ("side", "tag:Laterality")):
        assert found[fact].sources == (tag,)
        assert found[fact].state == "check"
        assert "name says otherwise in 4 of 4 files" in found[fact].why


def test_a_date_in_a_name_that_the_tag_confirms_is_no_doubt() -> None:
    seen = [
        Sample(name=f"IM_20240301_{i}", dicom=True, tags={"StudyDate": "20240301"}, regions=True, size=None)
        for i in range(4)
    ]
    found = by_fact(seen)["visit"]
    assert (found.state, len(found.sources)) == ("found", 2)


def test_words_that_stand_in_few_names_are_taken_for_chance() -> None:
    names = [f"Weber{i}_x.png" for i in range(20)] + ["CD_x.png"]
    assert by_fact(of_names(names))["image"].state == "gap"


@pytest.mark.parametrize("name", ["B_512_{}.png", "standard_{}.png", "L3_{}.png", "whip_{}.png"])
def test_letters_within_words_are_no_words(name: str) -> None:
    found = by_fact(of_names([name.format(i) for i in range(4)]))
    assert {found[fact].state for fact in ("side", "joint", "image")} == {"gap"}


def test_the_text_of_an_element_tells_the_joint() -> None:
    found = by_fact(of_tags([{"SeriesDescription": text} for text in ("MCP 2 dorsal", "PIP 3 dorsal")]))
    assert {fact: found[fact].files for fact in ("joint", "digit", "view")} == dict.fromkeys(
        ("joint", "digit", "view"), 2
    )


def test_codes_of_a_side_that_are_unknown_are_listed_to_be_explained() -> None:
    seen = of_tags([{"Laterality": "L"}, {"Laterality": "LH"}, {"Laterality": "LH"}])
    text = drafts.toml(proposal.propose(seen), seen, files=3)
    assert "# 'LH' = \"left\"   # in 2 files" in text


def test_the_draft_and_the_screen_show_nobody(tmp_path: Path, command: Command) -> None:
    export = make_export(tmp_path)
    draft = tmp_path / "draft.toml"
    code, said = command([export.source, "--dry-run", "--propose", "--mapping", draft])
    assert code == 0
    code, as_json = command([export.source, "--dry-run", "--mapping", draft, "--json"])
    assert code == 0
    other = tmp_path / "other.toml"
    code, proposed = command([export.source, "--dry-run", "--propose", "--mapping", other, "--json"])
    facts = json.loads(proposed)["facts"]
    assert facts[0]["state"] == "check"  # of one machine's files the name was taken for the patient's
    assert facts[3]["sources"][0] == '"tag:Laterality"'
    assert other.read_bytes() == draft.read_bytes()
    shown = (said + as_json + proposed + draft.read_text(encoding="utf-8")).casefold()
    assert not [secret for secret in SECRETS if secret.casefold() in shown]
    rows = tmp_path / "draft-files.csv"
    assert mapping.load(tmp_path / "mapping.example.toml").grades is not None
    assert "0004711-X" in rows.read_text(encoding="utf-8")
    assert {path.stat().st_mode & 0o777 for path in (draft, rows)} == {0o600}
    first = json.loads(as_json)["first"]
    assert [row["exam"] for row in first[:4]] == ["1", "1", "2", "2"]
    assert first[0]["device"] == "MyLab Twice"


def test_nothing_is_overwritten_and_nothing_is_written_into_the_export(
    tmp_path: Path, command: Command
) -> None:
    source = written(tmp_path / "export", NAMES[:4])
    before = sorted(path.name for path in source.iterdir())
    draft = tmp_path / "m.toml"
    draft.write_text("mine", encoding="utf-8")
    assert command([source, "--dry-run", "--propose", "--mapping", draft])[0] == 4
    assert draft.read_text(encoding="utf-8") == "mine"
    assert command([source, "--dry-run", "--propose", "--mapping", source / "m.toml"])[0] == 4
    assert sorted(path.name for path in source.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "m.toml"]


@pytest.mark.parametrize(
    ("options", "says"), [(["--propose"], "--dry-run beside --propose"), ([], "Expected --out")]
)
def test_options_that_do_not_go_together_are_named(
    tmp_path: Path, command: Command, options: list[str], says: str
) -> None:
    code, said = command([tmp_path, *options])
    assert code == 3
    assert says in said


def test_a_dry_run_without_a_mapping_shows_what_the_tags_say(tmp_path: Path, command: Command) -> None:
    (tmp_path / "export").mkdir()
    write_dicom(tmp_path / "export" / "a", speckle(1))
    (tmp_path / "export" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, said = command([tmp_path / "export", "--dry-run", "--json"])
    assert code == 0
    rows = json.loads(said)["first"]
    assert (rows[0]["image"], rows[0]["side"], rows[0]["patient"]) == ("gs", "left", "1")
    assert "its start is damaged" in rows[1]["reason"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_samples_are_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST", 5)
    assert samples.spread([str(i) for i in range(9)]) == ["0", "2", "4", "6", "8"]
    assert samples.spread(["a", "b"]) == ["a", "b"]


def test_what_could_be_the_patient_is_listed_in_json_too(tmp_path: Path, command: Command) -> None:
    source = written(tmp_path / "export", ["A_1_a.png", "A_2_b.png", "B_1_c.png", "B_2_d.png"])
    mapping_file = tmp_path / "m.toml"
    code, said = command([source, "--dry-run", "--propose", "--mapping", mapping_file, "--json"])
    assert code == 0
    patient = json.loads(said)["facts"][0]
    assert (patient["fact"], patient["state"], patient["sources"]) == ("patient_id", "gap", [])
    draft = mapping_file.read_text(encoding="utf-8")
    assert len(patient["hints"]) == 2
    assert all(f"# patient_id = [{hint}]" in draft for hint in patient["hints"])
