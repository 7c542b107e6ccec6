from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from client.data.pacs.archive import Archive
from client.data.pacs.fetch import Fetched, fetch
from client.data.pacs.read_only import ReadOnly
from client.data.pacs.reader import Reader
from client.data.pacs.search import Instances, Studies, find_instances, find_studies, is_uid
from client.data.pacs.wanted import Wanted
from common.errors import ConfigurationError, ConnectionLostError, DataError, PolicyError
from tests import proxy_parties
from tests.client.data.pacs import studies
from tests.client.data.pacs.studies import PATIENTS, ROOT, make_studies
from tests.dicom_archive import DicomArchive, Faults, basic, dicom_archive
from tests.full_disk import limited_files

AT_ONCE = (0.0,) * 3
KEYS = tuple({"PatientID": patient} for patient in PATIENTS)


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> studies.Studies:
    return make_studies(tmp_path_factory.mktemp("held"))


@pytest.fixture
def archive(held: studies.Studies) -> Iterator[DicomArchive]:
    with dicom_archive(held.everything) as running:
        yield running
        assert running.methods <= {"GET"}


def reader(
    archive: DicomArchive, *, login: str = "", ca: Path | None = None, largest_bytes: int = 10**8
) -> Reader:
    where = Archive(url=archive.url, authorization=SecretStr(login), ca=ca)
    return Reader(where, waits_s=AT_ONCE, largest_bytes=largest_bytes)


def search(archive: DicomArchive, wanted: Wanted) -> tuple[Studies, Instances]:
    found = find_studies(reader(archive), wanted, quiet)
    return found, find_instances(reader(archive), found.uids, wanted.modality, quiet)


def get(archive: DicomArchive, folder: Path, *, largest_bytes: int = 10**8) -> Fetched:
    _, found = search(archive, Wanted(keys=KEYS))
    return fetch(reader(archive, largest_bytes=largest_bytes), found.each, folder, quiet)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def originals(held: studies.Studies) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in held.ultrasound}


def test_what_is_fetched_is_what_is_stored_and_nobody_elses(
    archive: DicomArchive, held: studies.Studies, tmp_path: Path
) -> None:
    done = get(archive, tmp_path / "fetched")
    assert (done.new, done.there, done.left_out) == (7, 0, {})
    assert files(tmp_path / "fetched") == originals(held)
    for path in ((tmp_path / "fetched"), *(tmp_path / "fetched").rglob("*.dcm")):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "faults",
    [Faults(page=1), Faults(page=2), Faults(no_offset=True), Faults(unannounced=True), Faults(bare=True)],
)
def test_archives_of_many_habits_give_the_same(held: studies.Studies, tmp_path: Path, faults: Faults) -> None:
    with dicom_archive(held.everything, faults=faults) as archive:
        get(archive, tmp_path / "fetched")
        assert files(tmp_path / "fetched") == originals(held)
        assert archive.methods == {"GET"}


def test_filters_that_an_archive_passes_over_hold_all_the_same(archive: DicomArchive) -> None:
    archive.faults.no_filters = True
    found, instances = search(archive, Wanted(keys=(KEYS[1],)))
    assert found.uids == (f"{ROOT}.2",)
    assert found.strange == 2
    assert (len(instances.each), instances.series, instances.studies) == (2, 1, 1)
    found, instances = search(archive, Wanted(keys=(KEYS[2],)))
    assert (len(instances.each), instances.strange) == (3, 1)  # the X-ray


def test_names_of_files_come_from_uids_alone(archive: DicomArchive) -> None:
    for uid in ("../../etc/passwd", "1.2.826/3", "1..2", ".", "1.2.", "", "٣.٤", "1." * 40 + "1", "1.2\n3"):
        assert not is_uid(uid)
        archive.faults.strange.append(
            {
                key: {"Value": [value]}
                for key, value in {
                    **dict.fromkeys(("0020000D", "0020000E", "00080018"), uid),
                    "00100020": PATIENTS[1],
                    "00080060": "US",
                }.items()
            }
        )
    found, instances = search(archive, Wanted(keys=(KEYS[1],)))
    assert (found.uids, found.strange) == ((f"{ROOT}.2",), 9)
    assert {each.name for each in instances.each} == {
        f"{ROOT}.2/{ROOT}.2.1/{ROOT}.2.1.{i}.dcm" for i in (1, 2)
    }
    assert instances.strange == 18


@pytest.mark.parametrize("strange", [7, None, "text", ["list"]])
def test_a_list_of_something_else_is_refused(archive: DicomArchive, strange: object) -> None:
    archive.faults.strange.append(strange)
    with pytest.raises(ConfigurationError, match="Expected a list in JSON"):
        search(archive, Wanted(keys=KEYS))


@pytest.mark.parametrize(
    "value", [None, 7, [], {}, {"Value": 7}, {"Value": []}, {"Value": [None]}, {"Value": [{}]}]
)
def test_values_of_another_kind_are_passed_over(archive: DicomArchive, value: object) -> None:
    archive.faults.strange.append({"0020000D": value, "00100020": {"Value": [PATIENTS[1]]}})
    found, _ = search(archive, Wanted(keys=(KEYS[1],)))
    assert (found.uids, found.strange) == ((f"{ROOT}.2",), 1)


def test_ids_without_a_study_are_told(archive: DicomArchive) -> None:
    found, _ = search(archive, Wanted(keys=({"PatientID": "NOBODY"}, KEYS[0], {"AccessionNumber": "ACC-3"})))
    assert found.missing == ({"PatientID": "NOBODY"},)
    assert found.uids == (f"{ROOT}.1", f"{ROOT}.3")


def test_ids_are_padded_as_the_mapping_says(archive: DicomArchive) -> None:
    wanted = Wanted(keys=({"PatientID": "123"},))
    assert search(archive, wanted)[0].uids == ()
    assert search(archive, Wanted(keys=wanted.keys, digits=5))[0].uids == (f"{ROOT}.1",)


def test_a_connection_that_breaks_half_way_is_tried_again(
    archive: DicomArchive, held: studies.Studies, tmp_path: Path
) -> None:
    archive.faults.breaks = {2, 3, 6}
    archive.faults.retrieve = {4: 503, 7: 429}
    done = get(archive, tmp_path / "fetched")
    assert (done.new, done.left_out) == (7, {})
    assert files(tmp_path / "fetched") == originals(held)
    assert len(archive.retrieved) == 7 + 5


def test_a_file_whose_end_cannot_be_told_is_not_taken(held: studies.Studies, tmp_path: Path) -> None:
    faults = Faults(unannounced=True, bare=True)
    with dicom_archive(held.everything, faults=faults) as archive, pytest.raises(ConnectionLostError):
        get(archive, tmp_path / "fetched")
    assert files(tmp_path / "fetched") == {}


@pytest.mark.parametrize("faults", [Faults(), Faults(unannounced=True), Faults(bare=True)])
def test_a_part_of_a_file_never_looks_whole_and_what_is_there_is_not_fetched_again(
    held: studies.Studies, tmp_path: Path, faults: Faults
) -> None:
    with dicom_archive(held.everything, faults=faults) as archive:
        faults.breaks = set(range(4, 100))
        with pytest.raises(ConnectionLostError, match="run the same command again"):
            get(archive, tmp_path / "fetched")
        assert len(archive.retrieved) == 3 + 1 + len(AT_ONCE)
        stayed = files(tmp_path / "fetched")
        assert len(stayed) == 3
        assert stayed.items() <= originals(held).items()
        faults.breaks = set()
        done = get(archive, tmp_path / "fetched")
        assert (done.new, done.there) == (4, 3)
        assert files(tmp_path / "fetched") == originals(held)


def test_what_another_search_had_found_is_removed(
    archive: DicomArchive, held: studies.Studies, tmp_path: Path
) -> None:
    get(archive, tmp_path / "fetched")
    _, found = search(archive, Wanted(keys=(KEYS[0],)))
    (tmp_path / "fetched" / ".draft-1").write_text("torn", encoding="utf-8")
    done = fetch(reader(archive), found.each, tmp_path / "fetched", quiet)
    assert (done.new, done.there, len(files(tmp_path / "fetched"))) == (0, 2, 2)


def test_what_an_archive_does_not_give_is_left_out_with_a_reason(
    archive: DicomArchive, tmp_path: Path
) -> None:
    archive.faults.retrieve = {1: 404, 3: 500, 5: 406}
    done = get(archive, tmp_path / "fetched")
    assert sorted(done.left_out.values()) == [f"the archive answers {code}" for code in (404, 406, 500)]
    assert len(files(tmp_path / "fetched")) == 4


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (Faults(garbage=b"<html>log in</html>"), "no whole DICOM file"),
        (Faults(garbage=b"\0" * 128 + b"DICM"), "no whole DICOM file"),
        (Faults(garbage=b"\0" * 200_000_0), "more than 1000000 bytes"),
    ],
)
def test_an_archive_that_gives_no_picture_is_named(
    held: studies.Studies, tmp_path: Path, faults: Faults, reason: str
) -> None:
    refused = pytest.raises(DataError, match=f"gave none of 7: .*{reason}")
    with dicom_archive(held.everything, faults=faults) as archive, refused:
        get(archive, tmp_path / "fetched", largest_bytes=1_000_000)
    assert files(tmp_path / "fetched") == {}


def test_another_instance_than_was_asked_for_is_not_taken(archive: DicomArchive, tmp_path: Path) -> None:
    archive.faults.swapped = True
    done = get(archive, tmp_path / "fetched")
    assert set(done.left_out.values()) == {"the archive gives another instance than was asked for"}
    assert (done.new, len(done.left_out)) == (1, 6)


def test_a_full_disk_leaves_no_part_of_a_file(
    archive: DicomArchive, held: studies.Studies, tmp_path: Path
) -> None:
    smallest = min(map(len, originals(held).values()))
    with limited_files(smallest // 2), pytest.raises(OSError):
        get(archive, tmp_path / "fetched")
    assert files(tmp_path / "fetched") == {}


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (Faults(html=True), "perhaps a page to log in"),
        (Faults(search=404), "is answered by 404"),
        (Faults(search=400), "is answered by 400"),
        (Faults(search=500), "is answered by 500"),
        (Faults(search=403), "does not permit this login to read"),
        (Faults(authorization="Bearer other"), "wants another login"),
        (
            Faults(redirect="https://elsewhere.example/login?id=00123"),
            "redirects to elsewhere.example, which",
        ),
        (Faults(redirect="http://[broken"), "redirects to something else"),
    ],
)
def test_an_address_or_login_that_does_not_fit_is_named_without_ids(
    held: studies.Studies, faults: Faults, message: str
) -> None:
    with dicom_archive(held.everything, faults=faults) as archive:
        with pytest.raises(ConfigurationError, match=message) as refused:
            find_studies(reader(archive, login="Bearer w0rd-planted"), Wanted(keys=KEYS), quiet)
        assert len(archive.asked) == 1
    assert "00123" not in str(refused.value)
    assert "planted" not in str(refused.value)


def test_an_archive_that_is_busy_throughout_is_given_up(archive: DicomArchive) -> None:
    archive.faults.search = 503
    with pytest.raises(ConnectionLostError, match="too busy"):
        search(archive, Wanted(keys=KEYS))
    assert len(archive.asked) == 1 + len(AT_ONCE)


def test_an_archive_that_never_answered_is_not_waited_for(archive: DicomArchive) -> None:
    gone = Archive(url="http://127.0.0.1:1/dicom-web", authorization=SecretStr(""), ca=None)
    with pytest.raises(ConnectionLostError, match="cannot be reached"):
        find_studies(Reader(gone, waits_s=(3600.0,)), Wanted(keys=KEYS), quiet)
    assert archive.asked == []


def test_neither_the_environments_proxy_nor_its_logins_are_used(
    held: studies.Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with dicom_archive(held.everything, faults=Faults(authorization=basic("reader:word"))) as archive:
        found = find_studies(reader(archive, login=basic("reader:word")), Wanted(keys=KEYS), quiet)
        assert len(found.uids) == 3
        with pytest.raises(ConfigurationError, match="wants another login"):
            find_studies(reader(archive), Wanted(keys=KEYS), quiet)


def test_only_the_named_authority_is_trusted(held: studies.Studies, tmp_path: Path) -> None:
    pair = proxy_parties.certificate(tmp_path)
    other = proxy_parties.certificate(tmp_path, "other")
    with dicom_archive(held.everything, pair=pair) as archive:
        assert len(find_studies(reader(archive, ca=pair[0]), Wanted(keys=KEYS), quiet).uids) == 3
        for authority in (None, other[0]):
            with pytest.raises(ConfigurationError, match="not trusted"):
                find_studies(reader(archive, ca=authority), Wanted(keys=KEYS), quiet)
    with dicom_archive(held.everything) as archive:
        archive.url = archive.url.replace("http://", "https://")
        with pytest.raises(ConnectionLostError, match="cannot be reached"):
            find_studies(reader(archive), Wanted(keys=KEYS), quiet)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "get"])
def test_nothing_but_get_leaves_the_session(archive: DicomArchive, method: str) -> None:
    where = Archive(url=archive.url, authorization=SecretStr(""), ca=None)
    session = ReadOnly(where, waits_s=(), largest_bytes=1)
    request = requests.Request("GET", f"{archive.url}/studies").prepare()
    request.method = method
    with pytest.raises(PolicyError, match="only to read"):
        session.send(request)
    assert archive.asked == []


def test_the_library_itself_cannot_store_or_delete(archive: DicomArchive, held: studies.Studies) -> None:
    import pydicom

    client = reader(archive)._client
    with pytest.raises(PolicyError):
        client.store_instances([pydicom.dcmread(held.ultrasound[0])])
    with pytest.raises(PolicyError):
        client.delete_study(f"{ROOT}.1")
    assert archive.asked == []
