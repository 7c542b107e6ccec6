"""An archive (PACS) that speaks as much DICOMweb as a search and a fetch need, and misbehaves on request.

It answers from real files, over real sockets, and records each request. What it does wrong stands in ``Faults``.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pydicom
from pydicom.datadict import tag_for_keyword

BOUNDARY = "part-of-it"
STUDY, SERIES, INSTANCE = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"
TOLD = ("PatientID", "StudyDate", "AccessionNumber", "Modality", "PatientName", STUDY, SERIES, INSTANCE)


@dataclass(kw_only=True)
class Faults:
    """What an archive does wrong.

    Attributes:
        authorization: that it asks for.
        page: as many results as it gives at once, whatever was asked.
        no_offset: it always begins with the first.
        no_filters: it passes over all of them.
        html: it answers searches with a page to log in.
        redirect: where it sends everybody.
        search: status of every search.
        retrieve: status of an instance, by its number in order of requests, from 1.
        breaks: numbers of retrievals whose connection ends half-way.
        unannounced: an answer's length is not told, and its end is that of the connection.
        bare: instances come without parts around them.
        swapped: every retrieval gives the first instance.
        garbage: what it gives in place of every instance.
        strange: further answers to every search.
        before: called with its number before each retrieval.
    """

    authorization: str = ""
    page: int = 1000
    no_offset: bool = False
    no_filters: bool = False
    html: bool = False
    redirect: str = ""
    search: int = 200
    retrieve: dict[int, int] = field(default_factory=dict)
    breaks: set[int] = field(default_factory=set)
    unannounced: bool = False
    bare: bool = False
    swapped: bool = False
    garbage: bytes = b""
    strange: list[object] = field(default_factory=list)
    before: Callable[[int], object] = lambda _: None


@dataclass(kw_only=True)
class DicomArchive:
    """A running archive: its address, what it does wrong, and what it was asked: method and target."""

    url: str
    faults: Faults
    asked: list[tuple[str, str]] = field(default_factory=list)
    retrieved: list[str] = field(default_factory=list)

    @property
    def methods(self) -> set[str]:
        return {method for method, _ in self.asked}


@contextmanager
def dicom_archive(
    files: Sequence[Path], *, pair: tuple[Path, Path] | None = None, faults: Faults | None = None
) -> Iterator[DicomArchive]:
    """Serve these files; with a certificate and a key, over TLS."""
    held = [(path.read_bytes(), _described(path)) for path in files]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            archive.asked.append((self.command, self.path))
            wrong = archive.faults
            if wrong.authorization and self.headers.get("Authorization") != wrong.authorization:
                return self.reply(401, b"")
            if wrong.redirect:
                return self.reply(302, b"", location=wrong.redirect)
            parts = urlsplit(self.path)
            place = [unquote(each) for each in parts.path.removeprefix("/dicom-web").strip("/").split("/")]
            if not parts.path.startswith("/dicom-web/"):
                return self.reply(404, b"")
            if len(place) == 6:
                return self.retrieve(place)
            return self.search(place, {key: each[0] for key, each in parse_qs(parts.query).items()})

        def refuse(self) -> None:
            archive.asked.append((self.command, self.path))
            self.reply(405, b"")

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self.refuse
            raise AttributeError(name)

        def search(self, place: list[str], query: dict[str, str]) -> None:
            wrong = archive.faults
            if wrong.search != 200 or wrong.html:
                return self.reply(wrong.search, b"<html>log in</html>", kind="text/html")
            level = {1: STUDY, 3: SERIES, 5: INSTANCE}[len(place)]
            within = dict(zip((STUDY, SERIES), place[1::2], strict=False))
            found: dict[str, object] = {}
            for _, tags in held:
                asked = {} if wrong.no_filters else query
                if all(tags[key] == value for key, value in within.items()) and _fits(tags, asked):
                    found.setdefault(tags[level], _json(tags))
            results = [*found.values(), *wrong.strange]
            start = 0 if wrong.no_offset else int(query.get("offset", 0))
            results = results[start:][: min(wrong.page, int(query.get("limit", 10**6)))]
            if not results:
                return self.reply(204, b"")
            self.reply(200, json.dumps(results).encode(), kind="application/dicom+json")

        def retrieve(self, place: list[str]) -> None:
            archive.retrieved.append(place[5])
            number, wrong = len(archive.retrieved), archive.faults
            wrong.before(number)
            if number in wrong.retrieve:
                return self.reply(wrong.retrieve[number], b"no")
            content = next(content for content, tags in held if tags[INSTANCE] == place[5])
            content = wrong.garbage or (held[0][0] if wrong.swapped else content)
            if wrong.bare:
                return self.reply(200, content, kind="application/dicom", breaks=number in wrong.breaks)
            body = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + content
            body += f"\r\n--{BOUNDARY}--\r\n".encode()
            kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
            self.reply(200, body, kind=kind, breaks=number in wrong.breaks)

        def reply(
            self, status: int, body: bytes, *, kind: str = "", location: str = "", breaks: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Location": location}.items():
                if value:
                    self.send_header(name, value)
            if archive.faults.unannounced:
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if breaks else body)
            if breaks:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "https" if pair else "http"
    url = f"{scheme}://127.0.0.1:{server.server_port}/dicom-web"
    archive = DicomArchive(url=url, faults=faults or Faults())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def basic(login: str) -> str:
    """The header of a login."""
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def place_in(files: Sequence[Path], folder: Path) -> None:
    """Copy files to where a fetch puts them."""
    for path in files:
        tags = _described(path)
        place = folder / tags[STUDY] / tags[SERIES] / f"{tags[INSTANCE]}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())


def _described(path: Path) -> dict[str, str]:
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    return {keyword: str(dataset.get(keyword, "")) for keyword in TOLD}


def _json(tags: dict[str, str]) -> dict[str, object]:
    return {
        f"{tag_for_keyword(key):08X}": {"vr": "LO", "Value": [value]} if value else {"vr": "LO"}
        for key, value in tags.items()
    }


def _fits(tags: dict[str, str], query: dict[str, str]) -> bool:
    for key, asked in query.items():
        value = tags.get({"ModalitiesInStudy": "Modality"}.get(key, key))
        if value is None:
            continue
        if key == "StudyDate":
            first, _, last = asked.partition("-")
            if not (first or "0") <= value <= (last or "9"):
                return False
        elif not re.fullmatch(re.escape(asked).replace(r"\*", ".*").replace(r"\?", "."), value):
            return False
    return True
