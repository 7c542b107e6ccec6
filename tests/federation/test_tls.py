"""A site's connection to a real TLS server with the centre's certificates, and what it says when it fails."""

import http.client
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from client.connection import enrolment as joining
from client.connection.tls import Failure, explain_tls, failure, tls_context
from common.errors import ConnectionLostError
from server.federation import certificates, enrolment, provision
from server.federation.certificates import Certified
from server.federation.home import Home

# Python 3.11 forgets to close a server's socket whose client is gone before the handshake begins.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
DAY = timedelta(days=1)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
Serve = Callable[[socket.socket], None]


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False  # server_close waits for them


@contextmanager
def _listening(serve: Serve, host: str = "127.0.0.1") -> Iterator[int]:
    """A server on loopback whose connections are handed to ``serve``; gives its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            serve(self.request)

    with _Server((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _answering(certificate: Path, key: Path) -> Serve:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(65_536)
                secured.sendall(ANSWER)
        except OSError:
            pass  # the site refused

    return serve


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("centre"))
    provision.provision(home.path, name="Test", address="localhost:8443", now=_now())
    return home


@pytest.fixture(scope="module")
def trusted(centre: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate as an enrolled site keeps it."""
    folder = tmp_path_factory.mktemp("sites") / "north"
    joining.enrol(folder, enrolment.invite(centre.path, "north", now=_now()), now=_now())
    return joining.ca_certificate(folder)


def _now() -> datetime:
    return datetime.now(UTC)


def _certificate(
    folder: Path,
    authority: Certified,
    *,
    host: str = "localhost",
    now: datetime | None = None,
    validity: timedelta = 30 * DAY,
) -> tuple[Path, Path]:
    key = certificates.new_key()
    certificate = certificates.certify_server(authority, key, host, now=now or _now(), validity=validity)
    folder.mkdir(exist_ok=True)
    files = folder / "server.crt", folder / "server.key"
    files[0].write_bytes(certificates.certificate_pem(certificate))
    files[1].write_bytes(certificates.key_pem(key))
    return files


def _get(
    trusted: Path, port: int, *, host: str = "localhost", timeout_s: float = 20, proxy: str | None = None
) -> str:
    context = tls_context(trusted)
    with httpx.Client(verify=context, timeout=timeout_s, proxy=proxy, trust_env=False) as client:
        return client.get(f"https://{host}:{port}/").text


def _get_by_the_standard_library(trusted: Path, port: int, host: str) -> None:
    connection = http.client.HTTPSConnection(host, port, context=tls_context(trusted), timeout=20)
    with closing(connection):
        connection.request("GET", "/")
        connection.getresponse().read()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_an_enrolled_site_trusts_the_centre(centre: Home, trusted: Path, host: str) -> None:
    with _listening(_answering(centre.server_certificate, centre.server_key)) as port:
        assert _get(trusted, port, host=host) == "ok"


def test_the_chain_stands_the_strictest_check(centre: Home, trusted: Path) -> None:
    context = tls_context(trusted)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    with (
        _listening(_answering(centre.server_certificate, centre.server_key)) as port,
        socket.create_connection(("localhost", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        assert secured.version() == "TLSv1.3"


def test_a_site_trusts_nobody_else(trusted: Path) -> None:
    assert len(tls_context(trusted).get_ca_certs()) == 1
    with pytest.raises(ConnectionLostError, match="run synofed site init again"):
        tls_context(trusted.with_name("nowhere.crt"))


def test_a_renewed_certificate_needs_nothing_of_the_site(
    tmp_path: Path,
) -> None:
    home, folder = Home(tmp_path / "centre"), tmp_path / "north"
    made = _now() - 390 * DAY
    provision.provision(home.path, name="Test", address="localhost:8443", now=made)
    joining.enrol(folder, enrolment.invite(home.path, "north", now=made), now=made)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    provision.renew(home.path, now=_now())
    with _listening(_answering(home.server_certificate, home.server_key)) as port:
        assert _get(joining.ca_certificate(folder), port) == "ok"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def _wrong_authority(centre: Home, folder: Path) -> tuple[Path, Path]:
    return _certificate(folder, certificates.make_authority("Test", now=_now()))


def _self_signed(centre: Home, folder: Path) -> tuple[Path, Path]:
    authority = certificates.make_authority("Test", now=_now())
    (folder / "server.crt").write_bytes(certificates.certificate_pem(authority.certificate))
    (folder / "server.key").write_bytes(certificates.key_pem(authority.key))
    return folder / "server.crt", folder / "server.key"


def _replacing_proxy(centre: Home, folder: Path) -> tuple[Path, Path]:
    """As a proxy that inspects TLS does: its own authority, the chain sent along."""
    authority = certificates.make_authority("Inspection", now=_now())
    certificate, key = _certificate(folder, authority)
    with certificate.open("ab") as file:
        file.write(certificates.certificate_pem(authority.certificate))
    return certificate, key


def _expired(centre: Home, folder: Path) -> tuple[Path, Path]:
    authority = certificates.read_authority(centre)
    return _certificate(folder, authority, now=_now() - 40 * DAY, validity=39 * DAY)


def _clock_behind(centre: Home, folder: Path) -> tuple[Path, Path]:
    """As it looks to a site whose clock is two hours behind the centre's."""
    return _certificate(folder, certificates.read_authority(centre), now=_now() + timedelta(hours=2))


def _good(centre: Home, folder: Path) -> tuple[Path, Path]:
    return centre.server_certificate, centre.server_key


CASES: list[tuple[Callable[[Home, Path], tuple[Path, Path]], str, Failure, str]] = [
    (_wrong_authority, "localhost", "wrong_authority", "not of this federation's authority"),
    (_self_signed, "localhost", "wrong_authority", "not of this federation's authority"),
    (_replacing_proxy, "localhost", "wrong_authority", "a proxy or firewall here replaces certificates"),
    (_expired, "localhost", "expired", "the centre has to run synofed federation renew"),
    (_clock_behind, "localhost", "not_yet_valid", f"says {datetime.now(UTC):%Y}"),
    (_good, "127.0.0.2", "other_host", "compare the address in federation.json"),
]


@pytest.mark.parametrize(("certificate", "host", "kind", "says"), CASES)
def test_each_wrong_certificate_has_its_own_message(
    centre: Home,
    trusted: Path,
    tmp_path: Path,
    certificate: Callable[[Home, Path], tuple[Path, Path]],
    host: str,
    kind: Failure,
    says: str,
) -> None:
    bound = "127.0.0.1" if host == "localhost" else host
    with _listening(_answering(*certificate(centre, tmp_path)), bound) as port:
        with pytest.raises(httpx.ConnectError) as by_httpx:
            _get(trusted, port, host=host)
        with pytest.raises(ssl.SSLCertVerificationError) as by_ssl:
            _get_by_the_standard_library(trusted, port, host)
    for error in (by_httpx.value, by_ssl.value, str(by_httpx.value), f"Error 305: {by_ssl.value}"):
        assert failure(error) == kind
        explained = explain_tls(error, address=f"{host}:{port}")
        assert says in str(explained)
        assert f"{host}:{port}" in str(explained)
        assert explained.exit_code == 9


def test_another_name_than_the_certificates_is_told(centre: Home, trusted: Path) -> None:
    with (
        _listening(_answering(centre.server_certificate, centre.server_key)) as port,
        socket.create_connection(("localhost", port)) as plain,
        pytest.raises(ssl.SSLCertVerificationError) as refused,
    ):
        tls_context(trusted).wrap_socket(plain, server_hostname="centre.example.org")
    assert failure(refused.value) == "other_host"


def _speaks_plain_http(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def _cuts(connection: socket.socket) -> None:
    connection.recv(65_536)


def _resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


@pytest.mark.parametrize(
    ("serve", "kind", "says"),
    [
        (_speaks_plain_http, "no_tls", "does not speak TLS"),
        (_cuts, "cut", "a firewall here cuts TLS"),
        (_resets, "cut", "a firewall here cuts TLS"),
    ],
)
def test_what_is_no_tls_server_is_told(trusted: Path, serve: Serve, kind: Failure, says: str) -> None:
    with _listening(serve) as port, pytest.raises(httpx.TransportError) as refused:
        _get(trusted, port)
    assert failure(refused.value) == kind
    assert says in str(explain_tls(refused.value, address=f"localhost:{port}"))


def test_a_port_where_nothing_listens_is_told(trusted: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, never listening
        with pytest.raises(httpx.ConnectError) as refused:
            _get(trusted, held.getsockname()[1], host="127.0.0.1")
    assert failure(refused.value) == "refused"


def test_a_server_that_never_answers_is_told(trusted: Path) -> None:
    ended = threading.Event()

    def says_nothing(_connection: socket.socket) -> None:
        ended.wait()

    with _listening(says_nothing) as port:
        try:
            with pytest.raises(httpx.TimeoutException) as refused:
                _get(trusted, port, timeout_s=0.2)
        finally:
            ended.set()
    assert failure(refused.value) == "timeout"


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        ("407 Proxy Authentication Required", "proxy_login", "network.proxy in site.toml"),
        ("403 Forbidden", "proxy_refused", "ask its administrators to permit CONNECT"),
    ],
)
def test_a_forward_proxy_that_refuses_is_told(trusted: Path, status: str, kind: Failure, says: str) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())

    with _listening(refuse) as port, pytest.raises(httpx.ProxyError) as refused:
        _get(trusted, 8443, host="centre.example.org", proxy=f"http://127.0.0.1:{port}")
    assert failure(refused.value) == kind
    assert says in str(explain_tls(refused.value))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (socket.gaierror(-2, "Name or service not known"), "unknown_host"),
        ("httpx.ConnectError: [Errno -3] Temporary failure in name resolution", "unknown_host"),
        (OSError(101, "Network is unreachable"), "unreachable"),
        (ValueError("something else"), "unknown"),
    ],
)
def test_other_failures_are_told(error: BaseException | str, kind: Failure) -> None:
    assert failure(error) == kind
    assert "the centre" in str(explain_tls(error)) or kind == "unknown_host"


def test_what_is_not_known_is_repeated() -> None:
    assert "ValueError: something else" in str(explain_tls(ValueError("something else")))


def test_an_error_that_leads_to_itself_ends() -> None:
    first, second = OSError("one"), OSError("certificate has expired")
    first.__cause__, second.__cause__ = second, first
    assert failure(first) == "expired"
