from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import synofed
from tests.client.data.pacs.studies import PATIENTS, Studies, make_studies
from tests.dicom_archive import DicomArchive, Faults, basic, dicom_archive, place_in

ROOT = Path(synofed.__file__).parent
PROGRAM = (sys.executable, "-c", "import synofed; synofed.main()", "data", "ingest")
LOGIN = "reader:w0rd-planted"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    return make_studies(tmp_path_factory.mktemp("held"))


@pytest.fixture
def archive(held: Studies) -> Iterator[DicomArchive]:
    with dicom_archive(held.everything, faults=Faults(authorization=basic(LOGIN))) as running:
        yield running
        assert running.methods <= {"GET"}


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, archive: DicomArchive
) -> Command:
    """``data ingest`` in an empty folder: exit code, output, errors."""
    monkeypatch.setenv("SYNOFED_DICOMWEB_LOGIN", LOGIN)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        words = ["--dicomweb", archive.url, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["synofed", "data", "ingest", *words])
        with pytest.raises(SystemExit) as ended:
            synofed.main()
        said = capsys.readouterr()
        assert "planted" not in said.out + said.err
        return int(ended.value.code or 0), said.out, said.err

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def run_ingest(*words: object) -> subprocess.CompletedProcess[bytes]:
    """``data ingest`` in a process of its own."""
    return subprocess.run([*PROGRAM, *map(str, words)], check=False, capture_output=True, cwd=ROOT)


def imported_from_a_folder(held: Studies, base: Path, key: Path) -> dict[str, bytes]:
    """What an import of the same files in a folder gives, with the same key."""
    place_in(held.ultrasound, base / "export")
    (base / "out.private").mkdir(mode=0o700, parents=True)
    (base / "out.private" / "key").write_bytes(key.read_bytes())
    (base / "out.private" / "key").chmod(0o600)
    done = run_ingest(base / "export", "--out", base / "out", "--mapping", held.mapping)
    assert done.returncode == 0, done.stderr
    return contents(base / "out")


def test_an_archive_gives_what_the_same_files_in_a_folder_give(
    command: Command, held: Studies, tmp_path: Path
) -> None:
    code, out, err = command("--from", "2024-01-01", "--mapping", held.mapping, "--out", "data")
    assert code == 0, err
    assert "Found in the archive" in out
    private = tmp_path / "data.private"
    assert not (private / "data-fetched").exists()
    assert contents(tmp_path / "data") == imported_from_a_folder(held, tmp_path / "folder", private / "key")
    assert (private / "data-not-fetched.csv").read_text(encoding="utf-8").count("\n") == 1


def test_what_did_not_come_is_counted_on_the_screen_and_named_in_a_private_file(
    command: Command, archive: DicomArchive, held: Studies, tmp_path: Path
) -> None:
    archive.faults.retrieve = {2: 404}
    code, out, err = command("--to", "2024-12-31", "--mapping", held.mapping, "--out", "data")
    missing = tmp_path / "data.private" / "data-not-fetched.csv"
    assert code == 0, err
    assert "1 ids or pictures did not come: data.private/data-not-fetched.csv names them." in out
    assert archive.retrieved[1] in missing.read_text(encoding="utf-8")
    assert "the archive answers 404" in missing.read_text(encoding="utf-8")
    assert all(word not in out for word in (*PATIENTS, archive.retrieved[1]))


def test_only_what_is_asked_for_is_fetched(
    command: Command, archive: DicomArchive, held: Studies, tmp_path: Path
) -> None:
    code, out, err = command(
        "--graded", "--to", "2024-12-31", "--mapping", held.mapping, "--out", "data", "--keep", "--json"
    )
    assert code == 0, err
    said = json.loads(out)
    assert said["archive"] == {
        "studies": 1, "series": 1, "instances": 2, "not_found": 1, "not_asked_for": 0,
        "fetched": 2, "fetched_before": 0, "not_fetched": 0,
    }  # fmt: skip
    assert (said["exams"], said["readings"]) == (1, 1)
    assert all(patient not in out for patient in PATIENTS)
    private = tmp_path / "data.private"
    assert "NOBODY-1" in (private / "data-not-fetched.csv").read_text(encoding="utf-8")
    for path in (private, private / "data-fetched", private / "data-not-fetched.csv"):
        assert path.stat().st_mode & 0o077 == 0
    assert len(contents(private / "data-fetched")) == 2
    code, out, _ = command("--graded", "--mapping", held.mapping, "--out", "data", "--replace", "--json")
    assert (code, json.loads(out)["archive"]["fetched_before"], len(archive.retrieved)) == (0, 2, 2)
    assert not (private / "data-fetched").exists()


def test_an_import_that_fails_keeps_what_was_fetched(
    command: Command, archive: DicomArchive, held: Studies, tmp_path: Path
) -> None:
    (tmp_path / "wrong.toml").write_text('[table]\npath = "nothere.csv"\nfile = "x"\n', encoding="utf-8")
    code, _, err = command("--to", "2024-12-31", "--mapping", "wrong.toml", "--out", "data")
    assert code == 4 and "nothere.csv" in err
    assert len(archive.retrieved) == 7
    code, out, _ = command("--to", "2024-12-31", "--mapping", held.mapping, "--out", "data", "--json")
    assert (code, json.loads(out)["archive"]["fetched_before"]) == (0, 7)
    assert len(archive.retrieved) == 7


def test_a_dry_run_shows_what_was_found_and_keeps_nothing(
    command: Command, archive: DicomArchive, tmp_path: Path
) -> None:
    code, out, err = command("--from", "2024-02-01", "--dry-run", "--propose", "--mapping", "draft.toml")
    assert code == 0, err
    assert "Found in the archive" in out and "Drafted from" in out
    assert f"synofed data ingest --dicomweb {archive.url} ... --dry-run --mapping draft.toml" in out
    assert len(archive.retrieved) == 5
    assert {path.name for path in tmp_path.iterdir()} == {
        "draft.toml", "draft-files.csv", "mapping.example.toml"
    }  # fmt: skip
    code, out, _ = command("--from", "2024-02-01", "--dry-run", "--mapping", "draft.toml", "--json")
    assert (code, json.loads(out)["archive"]["studies"]) == (0, 2)


@pytest.mark.soak
def test_an_import_that_is_killed_goes_on_where_it_was(
    command: Command, archive: DicomArchive, held: Studies, tmp_path: Path
) -> None:
    words = ["--from", "2024-01-01", "--mapping", str(held.mapping), "--out", str(tmp_path / "data")]
    started: list[subprocess.Popen[bytes]] = []

    def kill(number: int) -> None:
        if number == 4:
            started[0].send_signal(signal.SIGKILL)
            started[0].wait()

    archive.faults.before = kill
    started.append(
        subprocess.Popen([*PROGRAM, "--dicomweb", archive.url, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    )
    assert started[0].wait() == -signal.SIGKILL
    private = tmp_path / "data.private"
    assert len(contents(private / "data-fetched")) == 3
    assert not (tmp_path / "data").exists()
    code, out, err = command(*words, "--json")
    assert code == 0, err
    counts = json.loads(out)["archive"]
    assert (counts["fetched"], counts["fetched_before"], len(archive.retrieved)) == (4, 3, 8)
    assert contents(tmp_path / "data") == imported_from_a_folder(held, tmp_path / "folder", private / "key")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "data"], "never fetched whole"),
        (["--out", "data", "--from", "2024-06-01", "--to", "2024-01-01"], "--from before --to"),
        (["--from", "2024-06-01"], "Expected --out"),
        (["--from", "2024-06-01", "--propose", "--out", "data"], "Expected --dry-run beside --propose"),
        (["--graded", "--out", "data"], "with [grades] beside --graded"),
        (["export", "--from", "2024-06-01", "--out", "data"], "one of the two"),
        (["--from", "2024-06-01", "--out", "data", "--mapping", "nothere.toml"], "Expected a mapping at"),
        (["--from", "2024-06-01", "--out", "data", "--login", "nothere"], "USER:PASSWORD or Bearer TOKEN in"),
        (["--from", "2024-06-01", "--out", "data", "--ca", "nothere"], "Expected certificates in PEM"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_asked(
    command: Command, archive: DicomArchive, tmp_path: Path, words: list[str], message: str
) -> None:
    code, out, err = command(*words)
    assert (code, out) == (3, "")
    assert message in " ".join(err.split())
    assert archive.asked == []
    assert not (tmp_path / "data").exists()


def test_a_folder_that_is_there_is_refused_before_anything_is_asked(
    command: Command, archive: DicomArchive, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.csv").write_text("", encoding="utf-8")
    code, _, err = command("--from", "2024-06-01", "--out", "data")
    assert code == 4 and "--replace" in err
    assert archive.asked == []


def test_an_archive_with_nothing_that_fits_is_told(command: Command, tmp_path: Path) -> None:
    code, _, err = command("--from", "2030-01-01", "--out", "data")
    assert code == 4 and "found none that fit" in " ".join(err.split())
    assert not (tmp_path / "data").exists()


def test_a_login_that_does_not_fit_is_told(command: Command, archive: DicomArchive) -> None:
    archive.faults.authorization = "Bearer other"
    code, _, err = command("--from", "2024-01-01", "--out", "data")
    assert code == 3 and "wants another login" in err


@pytest.mark.parametrize("words", [["--keep"], ["--from", "2024-01-01"], ["--login", "x"], ["--plain-http"]])
def test_what_is_of_an_archive_alone_is_refused_for_a_folder(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["synofed", "data", "ingest", "export", "--out", "data", *words])
    with pytest.raises(SystemExit) as ended:
        synofed.main()
    assert ended.value.code == 3
    assert "Expected --dicomweb URL beside --from" in capsys.readouterr().err


def test_without_the_package_it_is_said_how_to_get_it(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("client.data.pacs.re")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dicomweb_client", None)
    monkeypatch.setitem(sys.modules, "dicomweb_client.api", None)
    for name in ("fetch", "search"):
        monkeypatch.delitem(sys.modules, f"client.data.pacs.{name}", raising=False)
    code, _, err = command("--from", "2024-01-01", "--out", "data")
    assert code == 3 and "pip install 'synofed[dicomweb]'" in " ".join(err.split())
