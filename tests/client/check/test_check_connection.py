"""What stands between a site and its centre, each told apart and named."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from client.check import clock_and_certificate
from client.check.report import Finding
from client.connection.connection import _ahead_s, look
from client.connection.enrolment import Enrolment, enrol
from client.connection.join import what_keeps
from client.site.site import Site
from common.enrolment import Invitation
from common.errors import ConnectionLostError
from server.federation import certificates
from server.federation.certificates import Certified
from tests.forward_proxy import forward_proxy

NOW = datetime.now(UTC)
UP = json.dumps({"proxy": "up", "superlink": "up"})


@dataclass(frozen=True)
class Centre:
    """What a centre shows: its certificate, its body, its clock."""

    authority: Certified
    certified_for: str = "localhost"
    since: datetime = NOW
    validity: timedelta = timedelta(days=100)
    body: str = UP
    clock: timedelta = timedelta(0)

    @contextmanager
    def listening(self, folder: Path) -> Iterator[str]:
        """The address of one that answers every request so."""
        key = certificates.new_key()
        made = certificates.certify_server(
            self.authority, key, self.certified_for, now=self.since, validity=self.validity
        )
        (folder / "pair").write_bytes(certificates.certificate_pem(made) + certificates.key_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "pair")
        body, clock = self.body.encode(), self.clock

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/health" else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def date_time_string(self, timestamp: float | None = None) -> str:
                del timestamp
                return super().date_time_string((datetime.now(UTC) + clock).timestamp())

            def log_message(self, format: str, *arguments: object) -> None:
                del format, arguments

        class Server(HTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that hangs up in the handshake is what the tests are about."""

        with Server(("127.0.0.1", 0), Handler) as server:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield f"localhost:{server.server_port}"
            finally:
                server.shutdown()
                thread.join(30)


@pytest.fixture(scope="module")
def authority() -> Certified:
    return certificates.make_authority("Test", now=NOW - timedelta(days=400))


@pytest.fixture
def ca(authority: Certified, tmp_path: Path) -> Path:
    place = tmp_path / "ca.crt"
    place.write_bytes(certificates.certificate_pem(authority.certificate))
    return place


def enrolled(folder: Path, authority: Certified, address: str) -> Site:
    invitation = Invitation(
        federation="Test",
        site="north",
        address=address,
        ca_certificate=certificates.certificate_pem(authority.certificate).decode(),
        code="5a" * 32,
        expires=NOW + timedelta(days=1),
    )
    enrol(folder, invitation, now=NOW)
    return Site.open(folder)


def states(found: list[Finding]) -> dict[str, str]:
    return {finding.found: finding.state for finding in found}


def test_a_centre_that_is_up(authority: Certified, ca: Path, tmp_path: Path) -> None:
    with Centre(authority).listening(tmp_path) as address:
        seen = look(address, ca)
        site = enrolled(tmp_path / "north", authority, address)
        found = list(clock_and_certificate.findings(site, now=NOW))
    assert (seen.status, seen.proxy, seen.superlink) == (200, True, True)
    assert seen.ahead_s is not None and abs(seen.ahead_s) < 5
    assert {finding.state for finding in found} == {"ok"}
    assert [finding.facts["days"] for finding in found if "days" in finding.facts] == [3251, 99]
    assert Enrolment.open(site.folder).ca_fingerprint[:16] in found[0].found


def test_a_centre_whose_superlink_is_down_or_that_is_something_else(
    authority: Certified, tmp_path: Path
) -> None:
    down = Centre(authority, body=json.dumps({"proxy": "up", "superlink": "down"}))
    with down.listening(tmp_path) as address:
        site = enrolled(tmp_path / "north", authority, address)
        told = states(list(clock_and_certificate.findings(site, now=NOW)))
        assert told[f"{address} is reached, but the SuperLink behind it is down"] == "warning"
        assert "is down" in what_keeps(site.folder, "", address=address)
    with Centre(authority, body="<html>").listening(tmp_path) as address:
        site = enrolled(tmp_path / "south", authority, address)
        found = list(clock_and_certificate.findings(site, now=NOW))
        assert [f.exit_code for f in found if "is not synofed's proxy" in f.found] == [9]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"since": NOW - timedelta(days=300)}, r"has expired by this machine's clock.*This clock is \d s"),
        ({"since": NOW + timedelta(days=3)}, r"is not valid yet"),
    ],
)
def test_a_certificate_that_is_not_good(
    change: dict[str, object], says: str, authority: Certified, ca: Path, tmp_path: Path
) -> None:
    with (
        Centre(authority, **change).listening(tmp_path) as address,  # type: ignore[arg-type]
        pytest.raises(ConnectionLostError, match=says),
    ):
        look(address, ca)


def test_an_expired_certificate_and_a_clock_that_is_off_are_told_apart(
    authority: Certified, ca: Path, tmp_path: Path
) -> None:
    late = Centre(authority, since=NOW - timedelta(days=300), clock=timedelta(days=-250))
    with (
        late.listening(tmp_path) as address,
        pytest.raises(ConnectionLostError, match=r"This clock is 216000\d\d s ahead of"),
    ):
        look(address, ca)


def test_a_proxy_that_replaces_certificates_is_named(ca: Path, tmp_path: Path) -> None:
    inspecting = certificates.make_authority("Hospital Inspection", now=NOW)
    with Centre(inspecting).listening(tmp_path) as address, pytest.raises(ConnectionLostError) as raised:
        look(address, ca)
    assert "replaces certificates" in str(raised.value)
    assert "is of localhost, 127.0.0.1, issued by" in str(raised.value) and "Hospital Inspection" in str(
        raised.value
    )


def test_the_hospitals_forward_proxy(authority: Certified, ca: Path, tmp_path: Path) -> None:
    with (
        Centre(authority, certified_for="centre.invalid").listening(tmp_path) as address,
        forward_proxy("u:p", {"centre.invalid:443": ("127.0.0.1", int(address.split(":")[1]))}) as proxy,
    ):

        def ask(login: str, target: str = "centre.invalid:443") -> None:
            look(target, ca, forward_proxy=f"http://{login}@127.0.0.1:{proxy.port}")

        ask("u:p")
        assert proxy.connected == ["centre.invalid:443"]
        with pytest.raises(ConnectionLostError, match="wants a login") as raised:
            ask("u:other")
        assert "other" not in str(raised.value)
        with pytest.raises(ConnectionLostError, match="does not let us through"):
            ask("u:p", "centre.invalid:444")


def test_a_certificate_for_another_host(authority: Certified, ca: Path, tmp_path: Path) -> None:
    with (
        Centre(authority, certified_for="elsewhere.example").listening(tmp_path) as address,
        forward_proxy("u:p", {"centre.invalid:443": ("127.0.0.1", int(address.split(":")[1]))}) as proxy,
        pytest.raises(
            ConnectionLostError, match=r"is for another host.*is of elsewhere\.example, .* issued by"
        ),
    ):
        look("centre.invalid:443", ca, forward_proxy=f"http://u:p@127.0.0.1:{proxy.port}")


def test_nobody_there(ca: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ConnectionLostError, match="Nothing listens"):
            look(address, ca)
        bound.listen()
        with pytest.raises(ConnectionLostError, match="does not answer"):
            look(address, ca, wait_s=0.3)
    with pytest.raises(ConnectionLostError, match="is not known here"):
        look("centre.invalid:443", ca)


def test_a_service_without_tls(ca: Path) -> None:
    def answer(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1000)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        with pytest.raises(ConnectionLostError, match="does not speak TLS"):
            look(f"127.0.0.1:{listener.getsockname()[1]}", ca)
        thread.join(30)


@pytest.mark.parametrize(
    ("ahead_s", "state"),
    [
        (0.0, "ok"), (3.5, "warning"), (6.0, "problem"), (-50.0, "ok"), (-61.0, "warning"), (-306.0, "problem"),
        (3600.0, "problem"), (None, "warning"),
    ],
)  # fmt: skip
def test_the_clock_is_held_against_the_window_of_the_centre(ahead_s: float | None, state: str) -> None:
    found = clock_and_certificate.clock(ahead_s)
    assert (found.state, found.exit_code) == (state, 9 if state == "problem" else 0)


@pytest.mark.parametrize("minutes", [-60, 60])
def test_a_clock_that_is_off_is_measured(
    minutes: int, authority: Certified, ca: Path, tmp_path: Path
) -> None:
    with Centre(authority, clock=timedelta(minutes=minutes)).listening(tmp_path) as address:
        ahead_s = look(address, ca).ahead_s
    assert ahead_s is not None and abs(ahead_s + 60 * minutes) < 5


def test_a_slow_answer_is_no_clock_that_is_off() -> None:
    date = "Sat, 21 Nov 2026 12:00:08 GMT"
    began = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
    assert _ahead_s(date, began, began + timedelta(seconds=9)) == 0
    assert _ahead_s(date, began, began + timedelta(seconds=4)) == pytest.approx(-4.5)
    assert _ahead_s("yesterday", began, began) is None
    assert _ahead_s(None, began, began) is None


def test_a_site_that_is_not_enrolled_has_no_centre(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('name = "north"\n')
    (found,) = clock_and_certificate.findings(Site.open(tmp_path), now=NOW)
    assert found.state == "warning" and "not enrolled" in found.found


def test_another_authority_than_that_of_the_invitation(authority: Certified, tmp_path: Path) -> None:
    site = enrolled(tmp_path / "north", authority, "localhost:1")
    other = certificates.make_authority("Other", now=NOW)
    (site.folder / "federation" / "ca.crt").write_bytes(certificates.certificate_pem(other.certificate))
    (found,) = clock_and_certificate.findings(site, now=NOW)
    assert (found.state, found.exit_code) == ("problem", 3) and "somebody changed it" in found.found


def test_what_keeps_a_supernode_that_prints_nothing(authority: Certified, tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        site = enrolled(tmp_path / "north", authority, address)
        assert "Nothing listens" in what_keeps(site.folder, "INFO: Starting", address=address)
        assert "not known here" in what_keeps(site.folder, "socket.gaierror: Name", address=address)
    with Centre(authority).listening(tmp_path) as address:
        assert what_keeps(site.folder, "INFO: Starting", address=address) == ""
