from datetime import date
from pathlib import Path

import pytest

from client.data.ingest.mapping import GradesSection
from client.data.pacs.archive import LOGIN_VARIABLE, Archive, archive
from client.data.pacs.wanted import Wanted, graded, listed
from common.errors import ConfigurationError, DataError
from tests import proxy_parties
from tests.dicom_archive import basic

URL = "https://pacs.hospital.example/dicom-web"
JANUARY, MARCH = date(2024, 1, 15), date(2024, 3, 1)


def made(url: str = URL, *, login: Path | None = None, said: str = "", plain_http: bool = False) -> Archive:
    return archive(url, login=login, ca=None, plain_http=plain_http, environment={LOGIN_VARIABLE: said})


def owners(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8042/dicom-web",
        "http://127.8.0.1/",
        "http://[::1]:8042/x",
        "http://localhost/x",
        f"{URL}/",
    ],
)
def test_addresses_that_nobody_else_can_listen_to(url: str) -> None:
    assert made(url).url == url.rstrip("/")


@pytest.mark.parametrize(
    "host", ["pacs", "10.0.0.1", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0"]
)
def test_plain_http_to_another_machine_has_to_be_permitted(host: str) -> None:
    with pytest.raises(ConfigurationError, match="--plain-http"):
        made(f"http://{host}/dicom-web")
    assert made(f"http://{host}/dicom-web", plain_http=True).url == f"http://{host}/dicom-web"


@pytest.mark.parametrize(
    "url",
    [
        "pacs/dicom-web", "ftp://pacs/x", "file:///etc/passwd", "https://", "https://pacs:0/x", "https://pacs:x/",
        "https://pacs:99999/", "https://pacs/x?y=1", "https://pacs/x#y", "https://[pacs/", "https://pacs/\nx", "",
        "https://user:w0rd-planted@pacs/x", "https://pacs/ü",
    ],
)  # fmt: skip
def test_other_addresses_are_refused_without_repeating_a_login(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Expected --dicomweb https://HOST") as refused:
        made(url, plain_http=True)
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize(
    ("said", "header"),
    [
        ("reader:pass:word\n", basic("reader:pass:word")),
        ("Änne:ö ö", basic("Änne:ö ö")),
        ("Bearer abc.def\n", "Bearer abc.def"),
        ("bearer abc", "Bearer abc"),
        ("", ""),
    ],
)
def test_logins_from_a_file_or_the_environment(tmp_path: Path, said: str, header: str) -> None:
    assert made(said=said).authorization.get_secret_value() == header
    place = owners(tmp_path / "login", said)
    assert made(login=place, said="other:one").authorization.get_secret_value() == header
    assert "w0rd" not in repr(made(said="user:w0rd"))


@pytest.mark.parametrize(
    "said", ["w0rd-planted", "a:b\nc:w0rd-planted", "Bearer w0rd-plantedü", "a:\x07w0rd-planted"]
)
def test_logins_that_are_none_are_not_repeated(said: str) -> None:
    with pytest.raises(ConfigurationError, match="USER:PASSWORD or Bearer TOKEN") as refused:
        made(said=said)
    assert "planted" not in str(refused.value)


def test_a_login_that_others_can_read_is_refused(tmp_path: Path) -> None:
    place = owners(tmp_path / "login", "a:b")
    place.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        made(login=place)
    with pytest.raises(ConfigurationError, match="No such file"):
        made(login=tmp_path / "nothere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "binary").chmod(0o600)
    with pytest.raises(ConfigurationError, match="is no text"):
        made(login=tmp_path / "binary")


def test_an_authority_has_to_be_one(tmp_path: Path) -> None:
    good = proxy_parties.certificate(tmp_path)[0]
    assert archive(URL, login=None, ca=good, plain_http=False, environment={}).ca == good
    for path in (owners(tmp_path / "text", "none"), tmp_path / "nothere", tmp_path):
        with pytest.raises(ConfigurationError, match="Expected certificates in PEM at --ca"):
            archive(URL, login=None, ca=path, plain_http=False, environment={})


def test_an_archive_is_never_fetched_whole() -> None:
    with pytest.raises(ConfigurationError, match="never fetched whole"):
        Wanted().check()
    with pytest.raises(ConfigurationError, match="--from before --to"):
        Wanted(first=MARCH, last=JANUARY).check()
    for modality in ("", "*", "us", "U S"):
        with pytest.raises(ConfigurationError, match="--modality"):
            Wanted(first=MARCH, modality=modality).check()
    for wanted in (Wanted(first=MARCH), Wanted(last=MARCH), Wanted(keys=({"PatientID": "a"},))):
        assert wanted.check() is wanted


@pytest.mark.parametrize(
    ("first", "last", "asked", "fitting"),
    [
        (JANUARY, None, "20240115-", {"20240115", "20240301", "20250101"}),
        (None, JANUARY, "-20240115", {"20231231", "20240115"}),
        (JANUARY, MARCH, "20240115-20240301", {"20240115", "20240301"}),
    ],
)
def test_days_are_asked_for_and_checked(
    first: date | None, last: date | None, asked: str, fitting: set[str]
) -> None:
    wanted = Wanted(first=first, last=last)
    assert wanted.queries({}) == [{"ModalitiesInStudy": "US", "StudyDate": asked}]
    days = {"20231231", "20240115", "20240301", "20250101", "", "January"}
    assert {day for day in days if wanted.fits({}, {"StudyDate": day})} == fitting


def test_ids_come_from_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("patient_id;accession_number;note\n00123;;x\nA 1;ACC-1;\n00123;;y\n", encoding="utf-8")
    assert listed(path) == ({"PatientID": "00123"}, {"PatientID": "A 1", "AccessionNumber": "ACC-1"})
    path.write_text("accession_number\nACC-1\n", encoding="utf-8")
    assert listed(path) == ({"AccessionNumber": "ACC-1"},)


@pytest.mark.parametrize("identifier", ["*", "A?", "A\\B", "00123*"])
def test_an_id_that_an_archive_takes_for_a_pattern_is_refused(tmp_path: Path, identifier: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"patient_id;x\n00123;1\n{identifier};2\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 3"):
        listed(path)


@pytest.mark.parametrize("text", ["patient_id;x\n00123;1\n;2\n", "name\nx\n", "patient_id\n"])
def test_a_list_without_ids_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError):
        listed(path)


def test_ids_come_from_the_grades(tmp_path: Path) -> None:
    path = tmp_path / "grades.csv"
    path.write_text("Befunde\nPat;GS\nA 1;2\nB;1\nA 1;0\n;1\n", encoding="utf-8")
    section = GradesSection(path=path, exam={"patient_id": "Pat"}, columns={"hypertrophy": "GS"})
    assert graded(section) == ({"PatientID": "A 1"}, {"PatientID": "B"})
    with pytest.raises(ConfigurationError, match=r"patient_id in grades\.exam"):
        graded(GradesSection(path=path, exam={"file": "Pat"}, columns={"hypertrophy": "GS"}))
