"""``data ingest --dicomweb`` against a real archive: Orthanc, as Debian packs it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.client.data.pacs.studies import Studies, make_studies
from tests.client.data.pacs.test_dicomweb_ingest import contents, imported_from_a_folder, run_ingest

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LOGIN = ("reader", "w0rd-planted")
PATIENCE_S = 60
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        ORTHANC is None or not PLUGIN.exists(),
        reason="Orthanc is not installed here (apt-get install orthanc orthanc-dicomweb)",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Orthanc:
    """A running archive: its address, its folder, and what it wrote of itself."""

    url: str
    folder: Path

    @property
    def web(self) -> str:
        return f"{self.url}/dicom-web"

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}{path}", auth=LOGIN, timeout=PATIENCE_S)

    def state(self) -> tuple[object, object]:
        """What it holds, and every change that it ever recorded."""
        return self.get("/statistics").json(), self.get("/changes?limit=1000").json()

    def methods(self) -> list[str]:
        """Of all requests to its DICOMweb service, as it logged them."""
        text = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
        return re.findall(r"\(http\) ([A-Z]+) /dicom-web/", text)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    return make_studies(tmp_path_factory.mktemp("held"))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, held: Studies) -> Iterator[Orthanc]:
    """One that listens on this machine alone, asks for a login, and got all files by its own REST API."""
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {LOGIN[0]: LOGIN[1]},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    assert ORTHANC is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [ORTHANC, "--verbose-http", folder / "orthanc.json"], cwd=folder, stdout=log, stderr=log
        )
    running = Orthanc(url=f"http://127.0.0.1:{port}", folder=folder)
    try:
        _wait(running, process)
        for path in held.everything:
            sent = requests.post(
                f"{running.url}/instances", data=path.read_bytes(), auth=LOGIN, timeout=PATIENCE_S
            )
            assert sent.status_code == 200, sent.text
        yield running
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _wait(orthanc: Orthanc, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if orthanc.get("/system").ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError((orthanc.folder / "log").read_text(encoding="utf-8", errors="replace"))


@pytest.fixture
def login(tmp_path: Path) -> Path:
    path = tmp_path / "login"
    path.touch(mode=0o600)
    path.write_text(":".join(LOGIN), encoding="utf-8")
    return path


def test_orthanc_gives_what_the_same_files_in_a_folder_give_and_is_not_changed(
    orthanc: Orthanc, held: Studies, login: Path, tmp_path: Path
) -> None:
    before = orthanc.state()
    assert orthanc.methods() == []
    done = run_ingest(
        "--dicomweb", orthanc.web, "--from", "2024-01-01", "--to", "2024-12-31", "--login", login,
        "--mapping", held.mapping, "--out", tmp_path / "data", "--keep", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["archive"]
    assert (counts["studies"], counts["series"], counts["instances"], counts["fetched"]) == (3, 3, 7, 7)
    private = tmp_path / "data.private"
    fetched = contents(private / "data-fetched")
    assert sorted(fetched.values()) == sorted(path.read_bytes() for path in held.ultrasound)
    assert contents(tmp_path / "data") == imported_from_a_folder(held, tmp_path / "folder", private / "key")
    assert orthanc.state() == before
    assert set(orthanc.methods()) == {"GET"}
    assert len(orthanc.methods()) > 7


@pytest.mark.parametrize(
    ("words", "instances"),
    [
        (("--graded",), 2),
        (("--patients", "accessions.csv"), 2),
        (("--from", "2024-02-01", "--to", "2024-02-29"), 2),
        (("--to", "2024-02-29"), 4),
        (("--from", "2024-03-01"), 3),
    ],
)
def test_orthanc_filters_as_it_is_asked(
    orthanc: Orthanc, held: Studies, login: Path, tmp_path: Path, words: tuple[str, ...], instances: int
) -> None:
    (tmp_path / "accessions.csv").write_text("accession_number;x\nACC-1;1\nACC-77;2\n", encoding="utf-8")
    done = run_ingest(
        "--dicomweb", orthanc.web, "--login", login, "--mapping", held.mapping, "--dry-run", "--json",
        *(tmp_path / word if word.endswith(".csv") else word for word in words),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["archive"]
    assert (counts["instances"], counts["fetched"], counts["not_asked_for"]) == (instances, instances, 0)


def test_what_orthanc_wants_is_told(orthanc: Orthanc, login: Path, tmp_path: Path) -> None:
    for words, code, message in (
        (("--dicomweb", orthanc.web), 3, "wants another login"),
        (("--dicomweb", orthanc.url, "--login", login), 3, "Expected DICOMweb at"),
        (("--dicomweb", f"{orthanc.url}/app", "--login", login), 3, "Expected DICOMweb at"),
        (("--dicomweb", orthanc.web, "--login", login, "--modality", "MR"), 4, "found none that fit"),
    ):
        done = run_ingest(*words, "--from", "2024-01-01", "--out", tmp_path / "data")
        assert done.returncode == code, done.stderr
        assert message in " ".join(done.stderr.decode().split())
        assert LOGIN[1] not in done.stderr.decode()
        assert not (tmp_path / "data").exists()
