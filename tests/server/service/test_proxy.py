"""The proxy before a real SuperLink, under attack, and under load."""

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore import constant
from flwr.superlink.routers.fleet.router import router

from common.errors import ConfigurationError
from server.service import proxy
from server.service.proxy_routes import REQUEST_HEADERS, ROUTES, WITHHELD
from tests import proxy_parties as parties
from tests.patience import wait_for
from tests.proxy_parties import PROTOBUF, TARGETS, exchange, request, status

BODY_BYTES = 256 * 2**20
PULL = b"/v1/fleet/pull-messages"


class Running:
    """A proxy's port and certificate."""

    def __init__(self, port: int, trusted: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.trusted = trusted
        self.process = process
        self.log = log

    def ask(self, sent: bytes) -> bytes | None:
        return exchange(self.port, self.trusted, sent)

    def peak_bytes(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return parties.certificate(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with parties.plain_upstream() as address:
        yield address


@pytest.fixture(scope="module")
def roomy(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, Path], upstream: str
) -> Iterator[Running]:
    """A proxy that lets 256 MB through."""
    log = tmp_path_factory.mktemp("roomy") / "log"
    with parties.proxy(upstream, pair, log, "--body-bytes", BODY_BYTES) as (port, process):
        yield Running(port, pair[0], process, log)


@pytest.fixture(scope="module")
def real(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, Path]
) -> Iterator[tuple[Running, str, Path]]:
    """A proxy before a real SuperLink; the SuperLink's address and log."""
    folder = tmp_path_factory.mktemp("real")
    with (
        parties.superlink(folder, pair) as (address, log),
        parties.proxy(address, pair, folder / "log", "--upstream-ca", pair[0]) as (port, process),
    ):
        yield Running(port, pair[0], process, folder / "log"), address, log


def test_the_list_is_flowers_own() -> None:
    offered = {(method, route.path) for route in router.routes for method in route.methods}  # type: ignore[attr-defined]
    ours = {(method, path.decode()) for method, path in ROUTES}
    assert offered == ours | {("POST", f"/v1/fleet/{call}") for call in WITHHELD}
    assert all(raw.decode() == path for (_, raw), path in ROUTES.items())


def test_the_headers_are_flowers_own() -> None:
    used = {
        TIMESTAMP_HEADER,
        constant.FLEET_HTTP_PUBLIC_KEY_HEADER,
        constant.FLEET_HTTP_SIGNATURE_HEADER,
        constant.FLWR_PACKAGE_NAME_METADATA_KEY,
        constant.FLWR_PACKAGE_VERSION_METADATA_KEY,
        constant.FLWR_COMPONENT_NAME_METADATA_KEY,
    }
    assert {name for name in REQUEST_HEADERS if name.startswith(b"flwr-")} == {one.encode() for one in used}


def test_fleet_routes_reach_the_superlink(real: tuple[Running, str, Path]) -> None:
    running, _, _ = real
    for _, path in ROUTES:
        answer = running.ask(request(path))
        assert status(answer) == 401  # it asks who calls: the SuperLink's own word
        assert answer is not None and b"Invalid SuperNode authentication" in answer


def test_nothing_else_reaches_the_superlink(real: tuple[Running, str, Path]) -> None:
    running, address, log = real
    inside = int(address.rpartition(":")[2])
    assert status(exchange(inside, running.trusted, request(b"/v1/control/list-runs"))) == 200  # open inside
    before = log.read_text()
    answers = {target: status(running.ask(request(target))) for target in TARGETS}
    assert {target: code for target, code in answers.items() if code not in (400, 404)} == {}
    for method in (b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"post"):
        assert status(running.ask(request(PULL, method=method))) in (400, 404)
    assert log.read_text() == before


def test_no_request_hides_in_another(real: tuple[Running, str, Path]) -> None:
    running, _, log = real
    before = log.read_text().count("/v1/control/")
    for name, sent in parties.smuggling().items():
        answer = running.ask(sent)
        assert status(answer) in (0, 400, 404), name
        assert answer is None or b" 200 " not in answer, name
    assert log.read_text().count("/v1/control/") == before


def test_equal_lengths_are_one(roomy: Running) -> None:
    more = PROTOBUF + b"Content-Length: 3\r\n"
    answer = roomy.ask(request(b"/v1/fleet/push-object", more=more, body=b"abc"))
    assert answer is not None and b"3 bytes" in answer and answer.count(b"content-length: 3") == 1


def test_headers_are_a_list_too(roomy: Running) -> None:
    more = (
        b"Flwr-Timestamp: t\r\nFlwr-Task-Token: x\r\nFlwr-Superexec-Signature: x\r\nAuthorization: x\r\n"
        b"Cookie: x\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=x\r\nProxy-Authorization: x\r\nTE: trailers\r\n"
        b"Upgrade: h2c\r\nX-Secret: x\r\n"
    )
    answer = roomy.ask(request(b"/v1/fleet/get-run", more=more))
    assert answer is not None
    head, _, said = answer.lower().partition(b"\r\n\r\n")
    assert b"flwr-timestamp: t" in said
    for name in (
        b"token",
        b"superexec",
        b"authorization",
        b"cookie",
        b"forwarded",
        b"secret",
        b"trailers",
        b"h2c",
    ):
        assert name not in said, name
    assert b"x-kept: yes" in head
    for name in (b"x-secret", b"keep-alive:", b"upgrade:", b"server:"):
        assert name not in head, name


def test_256_mb_pass_in_little_memory(roomy: Running) -> None:
    assert status(roomy.ask(request(b"/v1/fleet/get-run"))) == 200
    before = roomy.peak_bytes()
    with parties.connected(roomy.port, roomy.trusted, wait_s=120) as connection:
        connection.sendall(
            b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % BODY_BYTES
        )
        piece = bytes(2**20)
        for _ in range(BODY_BYTES // len(piece)):
            connection.sendall(piece)
        answer = parties.received(connection)
    assert answer is not None and b"%d bytes" % BODY_BYTES in answer
    with parties.connected(roomy.port, roomy.trusted, wait_s=120) as connection:
        connection.sendall(request(b"/v1/fleet/pull-object"))
        count = 0
        while piece := connection.recv(2**20):
            count += len(piece)
    assert count > BODY_BYTES
    assert roomy.peak_bytes() - before < 32 * 2**20


def test_a_reader_that_stops_costs_no_memory(roomy: Running) -> None:
    before = roomy.peak_bytes()
    with parties.connected(roomy.port, roomy.trusted) as connection:
        connection.sendall(request(b"/v1/fleet/pull-object"))
        assert connection.recv(100)
        time.sleep(0.5)
        assert roomy.peak_bytes() - before < 32 * 2**20


def test_bodies_have_a_limit(real: tuple[Running, str, Path]) -> None:
    running = real[0]
    announced = request(PULL).replace(b"Content-Length: 0", b"Content-Length: 16777217")
    assert status(running.ask(announced)) == 413
    start = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with parties.connected(running.port, running.trusted) as connection:
        connection.sendall(start)
        chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
        try:
            for _ in range(18):
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            pass  # cut: it did not read on
        assert status(parties.received(connection)) in (0, 413)


def test_a_superlink_that_is_down_slow_or_failing_never_shows_500(
    tmp_path: Path, pair: tuple[Path, Path], roomy: Running
) -> None:
    assert status(roomy.ask(request(b"/v1/fleet/get-fab"))) == 502  # it said 500
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        slow = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with parties.proxy(slow, pair, tmp_path / "slow", "--upstream-s", 0.5) as (port, _):
            assert status(exchange(port, pair[0], request(PULL))) == 504
    down = f"http://127.0.0.1:{parties.free_port()}"
    with parties.proxy(down, pair, tmp_path / "down") as (port, _):
        assert status(exchange(port, pair[0], request(PULL, body=bytes(10**6)))) == 502
        answer = exchange(port, pair[0], request(b"/health", method=b"GET"))
        assert status(answer) == 503 and answer is not None and b'"superlink": "down"' in answer


def test_health_tells_no_versions(real: tuple[Running, str, Path]) -> None:
    answer = real[0].ask(request(b"/health", method=b"GET"))
    assert status(answer) == 200
    assert answer is not None and answer.endswith(b'{"proxy": "up", "superlink": "up"}')
    assert b"uvicorn" not in answer and b"flwr" not in answer.lower()


def test_slow_clients_are_cut(tmp_path: Path, pair: tuple[Path, Path], upstream: str) -> None:
    limits = ("--header-s", 1, "--idle-s", 1, "--request-s", 3)
    with parties.proxy(upstream, pair, tmp_path / "log", *limits) as (port, _):
        for begun in (b"", b"POST /v1/fleet/pull-mess"):
            with parties.connected(port, pair[0]) as connection:
                connection.sendall(begun)
                assert parties.received(connection) is None  # cut before 30 s, else this raises TimeoutError
        stalled = request(PULL, body=b"").replace(b"Content-Length: 0", b"Content-Length: 9")
        assert status(exchange(port, pair[0], stalled)) == 408
        with parties.connected(port, pair[0]) as connection:  # a byte at a time is not activity enough
            connection.sendall(request(PULL).replace(b"Content-Length: 0", b"Content-Length: 9999"))
            answer = _dripped(connection)
        assert status(answer) in (0, 408)


def test_too_many_at_once_are_told_to_come_back(
    tmp_path: Path, pair: tuple[Path, Path], upstream: str
) -> None:
    with parties.proxy(upstream, pair, tmp_path / "log", "--connections", 2) as (port, _):
        with parties.connected(port, pair[0]) as first, parties.connected(port, pair[0]):
            assert status(exchange(port, pair[0], request(PULL))) == 503
            first.sendall(request(PULL))
            assert status(parties.received(first)) == 503  # it too: the limit is on all that are there
        wait_for(lambda: status(exchange(port, pair[0], request(PULL))) == 200)


def _dripped(connection: ssl.SSLSocket) -> bytes | None:
    connection.settimeout(0.2)
    for _ in range(100):
        try:
            connection.sendall(b"x")
            return connection.recv(65536)
        except TimeoutError:
            continue
        except (ConnectionError, ssl.SSLError):
            return None
    raise AssertionError("the proxy kept listening")


def test_a_renewed_certificate_is_used_without_restart(tmp_path: Path, upstream: str) -> None:
    old, new = parties.certificate(tmp_path, "live"), parties.certificate(tmp_path, "new")
    shutil.copy(old[0], kept := tmp_path / "kept.crt")
    with parties.proxy(upstream, old, tmp_path / "log") as (port, _):
        health = request(b"/health", method=b"GET")
        assert status(exchange(port, kept, health)) in (200, 503)
        new[1].replace(old[1])  # for a moment key and certificate do not fit
        time.sleep(2.5)
        assert status(exchange(port, kept, health)) in (200, 503)
        shutil.copy(new[0], old[0])

        def renewed() -> bool:
            try:
                return status(exchange(port, new[0], health)) in (200, 503)
            except ssl.SSLCertVerificationError:
                return False

        wait_for(renewed)


def test_old_tls_is_refused(roomy: Running) -> None:
    context = parties.trusting(roomy.trusted)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", roomy.port)) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_the_log_has_no_bodies_or_keys(roomy: Running) -> None:
    more = b"Flwr-Signature: secret-of-a-site\r\n"
    roomy.ask(request(b"/v1/fleet/get-run", more=more, body=b"patient-name"))
    roomy.ask(request(b"/v1/\x1b[31mred"))
    log = roomy.log.read_text(encoding="utf-8")
    assert "/v1/fleet/get-run 200 in=12" in log
    assert not any(word in log for word in ("secret-of-a-site", "patient-name", "\x1b"))


def test_says_what_to_do_where_it_cannot_start(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match="Stop what uses it"):
            proxy.serve(("127.0.0.1", port), "http://127.0.0.1:1", *pair)
    other = parties.certificate(tmp_path, "other")
    with pytest.raises(ConfigurationError, match="federation renew"):
        proxy.serve(("127.0.0.1", 0), "http://127.0.0.1:1", pair[0], other[1])
