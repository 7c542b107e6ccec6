"""A proxy as a process, what stands before and behind it, and what attackers send."""

import datetime
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.machine.flower_environment import FLOWER_ENVIRONMENT
from server.service.proxy_app import Receive, Send
from tests.patience import PATIENCE_S, wait_for

PROTOBUF = b"Content-Type: application/protobuf\r\nAccept: application/protobuf\r\n"
HIDDEN = b"POST /v1/control/list-runs HTTP/1.1\r\nHost: a\r\n" + PROTOBUF + b"Content-Length: 0\r\n\r\n"
"""A request that hides in another one's body."""

TARGETS = (
    b"/v1/control/list-runs",
    b"/v1/runtime/acquire-task",
    b"/v1/fleet/../control/list-runs",
    b"/v1/fleet/pull-messages/../../control/list-runs",
    b"/v1/fleet/%2e%2e/control/list-runs",
    b"/v1/fleet/%2E%2E/control/list-runs",
    b"/v1/fleet/.%2e/control/list-runs",
    b"/v1/fleet/..%2fcontrol/list-runs",
    b"/v1/fleet/%252e%252e/control/list-runs",
    b"/v1/fleet/..;/control/list-runs",
    b"/v1/fleet/..\\control\\list-runs",
    b"\\v1\\control\\list-runs",
    b"/v1/fleet//pull-messages",
    b"//v1/control/list-runs",
    b"//v1/fleet/pull-messages",
    b"/v1//control/list-runs",
    b"/v1/./control/list-runs",
    b"/v1/fleet/./pull-messages",
    b"/v1/Control/list-runs",
    b"/V1/CONTROL/LIST-RUNS",
    b"/V1/fleet/pull-messages",
    b"/v1/Fleet/Pull-Messages",
    b"/v1/%63ontrol/list-runs",
    b"/v1/fleet/%70ull-messages",
    b"/v1/fleet/pull%2dmessages",
    b"/v1/fleet/pull-messages/",
    b"/v1/fleet/pull-messages;x",
    b"/v1/fleet/pull-messages%00",
    b"/v1/fleet/pull-messages?x=1",
    b"/v1/fleet/pull-messages?../../control/list-runs",
    b"/v1/fleet/pull-messages#/v1/control/list-runs",
    b"/v1/fleet/register-node",
    b"/v1/fleet/unregister-node",
    b"/v1/fleet/",
    b"/v1/fleet",
    b"http://127.0.0.1/v1/control/list-runs",
    b"https://127.0.0.1/v1/fleet/../control/list-runs",
    b"127.0.0.1:443",
    b"*",
    b"v1/control/list-runs",
    b"/docs",
    b"/openapi.json",
    b"/",
)
"""Targets of a POST that must not pass."""


def request(target: bytes, *, method: bytes = b"POST", more: bytes = PROTOBUF, body: bytes = b"") -> bytes:
    """A request as it is written to the wire, with nothing made right."""
    length = b"Content-Length: %d\r\n" % len(body)
    head = b"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" % (method, target)
    return head + more + length + b"\r\n" + body


def smuggling() -> dict[str, bytes]:
    """Requests whose length can be read in two ways."""
    start = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: 127.0.0.1\r\n" + PROTOBUF
    hidden = b"%d" % len(HIDDEN)
    return {
        "two lengths": start + b"Content-Length: 0\r\nContent-Length: " + hidden + b"\r\n\r\n" + HIDDEN,
        "lengths in one": start + b"Content-Length: 0, " + hidden + b"\r\n\r\n" + HIDDEN,
        "chunked and length": start
        + b"Transfer-Encoding: chunked\r\nContent-Length: "
        + hidden
        + b"\r\n\r\n0\r\n\r\n"
        + HIDDEN,
        "length and chunked": start
        + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        + HIDDEN,
        "another coding": start + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        "coding with a space": start + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        "signed length": start + b"Content-Length: +0\r\n\r\n" + HIDDEN,
        "null in a header": start + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    }


def certificate(folder: Path, name: str = "server", *, common_name: str = "proxy") -> tuple[Path, Path]:
    """A certificate of this machine that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def trusting(certificate: Path) -> ssl.SSLContext:
    """A client's TLS that trusts this one certificate."""
    return ssl.create_default_context(cafile=certificate)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def process(command: Sequence[object], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own group, whose standard error goes to ``log``; ended, with its children, at the end."""
    with log.open("wb") as errors:
        started = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env={**os.environ, **FLOWER_ENVIRONMENT, **environment},
        )
    try:
        yield started
    finally:
        os.killpg(started.pid, signal.SIGKILL) if started.poll() is None else None
        started.communicate()


@contextmanager
def proxy(
    upstream: str, pair: tuple[Path, Path], log: Path, *more: object
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The proxy as a process, and its port."""
    command = [
        sys.executable,
        "-m",
        "server.service.proxy",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        upstream,
    ]
    command += ["--certificate", str(pair[0]), "--key", str(pair[1]), *map(str, more)]
    with process(command, log) as started:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line.strip().isdigit(), log.read_text()
        yield int(line), started


@contextmanager
def superlink(folder: Path, pair: tuple[Path, Path]) -> Iterator[tuple[str, Path]]:
    """A real SuperLink with node authentication, its address and its log."""
    port = free_port()
    log = folder / "superlink.log"
    binary = Path(sys.executable).with_name("flower-superlink")
    command = [binary, "--ssl-certfile", pair[0], "--ssl-keyfile", pair[1], "--ssl-ca-certfile", pair[0]]
    command += ["--enable-supernode-auth", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--database", folder / "link.db", "--isolation", "process"]
    out = folder / "superlink.out"
    with process(["sh", "-c", 'exec "$0" "$@" >"$LOG"', *command], out, FLWR_HOME=str(folder), LOG=str(log)):
        wait_for(
            lambda: exchange(port, pair[0], request(b"/health", method=b"GET")) is not None,
            told=lambda: log.read_text() + out.read_text(),
        )
        yield f"https://127.0.0.1:{port}", log


@contextmanager
def plain_upstream() -> Iterator[str]:
    """A server that stands in for the SuperLink where a test is about size, failure or time; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(_upstream, lifespan="off", ws="none", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(PATIENCE_S)
        listener.close()


async def _upstream(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Counts what ``push-object`` sends, streams what ``pull-object`` asks for, fails in ``get-fab``."""
    received = 0
    while (message := await receive())["type"] == "http.request":
        received += len(message["body"])
        if not message["more_body"]:
            break
    status = 500 if scope["path"].endswith("get-fab") else 200
    said = b"\n".join(b"%s: %s" % header for header in scope["headers"])
    hop = [(b"connection", b"x-secret"), (b"keep-alive", b"timeout=99"), (b"upgrade", b"h2c")]
    await send({"type": "http.response.start", "status": status, "headers": [*hop, (b"x-kept", b"yes")]})
    if scope["path"].endswith("pull-object"):
        for _ in range(256):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
    answer = b"%d bytes\n%s\nquery=%s" % (received, said, scope["query_string"])
    await send({"type": "http.response.body", "body": answer})


def exchange(port: int, trusted: Path, sent: bytes, *, wait_s: float = 30.0) -> bytes | None:
    """Send bytes over TLS and read to the end; ``None``: nobody there, or cut without an answer."""
    try:
        with connected(port, trusted, wait_s=wait_s) as connection:
            connection.sendall(sent)
            return received(connection)
    except ConnectionRefusedError:
        return None


def received(connection: ssl.SSLSocket) -> bytes | None:
    """All that comes until the other side closes."""
    found = bytearray()
    try:
        while piece := connection.recv(65536):
            found += piece
    except (ConnectionResetError, ssl.SSLEOFError):
        pass
    return bytes(found) or None


@contextmanager
def connected(port: int, trusted: Path, *, wait_s: float = 30.0) -> Iterator[ssl.SSLSocket]:
    """A TLS connection."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=wait_s) as plain,
        trusting(trusted).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        yield connection


def status(answer: bytes | None) -> int:
    """Of an answer; 0: the connection was cut without one."""
    return int(answer.split(b" ", 2)[1]) if answer else 0
