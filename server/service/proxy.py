"""The one open port of a federation: TLS outside, the SuperLink's fleet routes inside.

``python -m server.service.proxy --listen HOST:PORT --upstream URL --certificate FILE --key FILE`` runs it as a
process.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import logging.handlers
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import httpx
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.errors import ConfigurationError, SynofedError
from server.service.proxy_app import Forwarder, Limits
from server.service.proxy_tls import follow, tls, upstream_tls

LOG_BYTES = 10_000_000
LOG_FILES = 5


def serve(
    listen: tuple[str, int],
    upstream: str,
    certificate: Path | None,
    key: Path | None,
    *,
    upstream_ca: Path | None = None,
    limits: Limits | None = None,
    ready: Callable[[int], None] | None = None,
) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        listen: host and port; port 0 takes a free one.
        upstream: of the SuperLink, such as ``https://127.0.0.1:28000``.
        certificate: chain in PEM; ``None`` with ``key``: no TLS, for trials on one machine only.
        key: of the certificate.
        upstream_ca: what the SuperLink's certificate is checked against, PEM.
        limits: what one client may take.
        ready: told the port once connections are taken.

    Raises:
        ConfigurationError: if the port is taken or the certificate cannot be used.
    """
    trusted = upstream_tls(upstream_ca) if upstream_ca is not None else None
    asyncio.run(_serve(listen, upstream, certificate, key, trusted, limits=limits or Limits(), ready=ready))


async def _serve(
    listen: tuple[str, int],
    upstream: str,
    certificate: Path | None,
    key: Path | None,
    trusted: ssl.SSLContext | None,
    *,
    limits: Limits,
    ready: Callable[[int], None] | None,
) -> None:
    context = tls(certificate, key) if certificate is not None and key is not None else None
    with _listener(listen) as listener:
        async with _client(upstream, trusted, limits) as client:
            config = uvicorn.Config(
                Forwarder(client, limits=limits),
                http=_protocol(limits),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=limits.connections,
                timeout_keep_alive=int(limits.header_s),
                timeout_graceful_shutdown=5,
                h11_max_incomplete_event_size=16 * 1024,
                ssl_context_factory=(lambda _config, _default: context) if context else None,
            )
            server = uvicorn.Server(config)
            following = [asyncio.create_task(_announce(server, listener, ready))]
            if context and certificate and key:
                following.append(asyncio.create_task(follow(context, certificate, key)))
            try:
                await server.serve(sockets=[listener])
            finally:
                for task in following:
                    task.cancel()


async def _announce(
    server: uvicorn.Server, listener: socket.socket, ready: Callable[[int], None] | None
) -> None:
    port = listener.getsockname()[1]
    while not server.started:
        await asyncio.sleep(0.02)
    if ready is not None:
        ready(port)


def _listener(listen: tuple[str, int]) -> socket.socket:
    try:
        found = socket.getaddrinfo(*listen, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(found[0][4][:2], family=found[0][0], backlog=1024)
    except OSError as error:
        raise ConfigurationError(
            f"Expected a free port at {listen[0]}:{listen[1]} to listen on: {error.strerror or error}. "
            f"Stop what uses it, or set another port in federation.toml."
        ) from None


def _client(upstream: str, trusted: ssl.SSLContext | None, limits: Limits) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=upstream,
        verify=trusted if trusted is not None else True,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(limits.upstream_s, connect=5.0, pool=5.0),
        # The SuperLink closes idle connections after 5 s: give them up before it does.
        limits=httpx.Limits(
            max_connections=limits.connections, max_keepalive_connections=64, keepalive_expiry=2.0
        ),
    )


def _protocol(limits: Limits) -> type[H11Protocol]:
    """HTTP/1.1 that gives up on clients who do not send a whole header in time."""

    class Impatient(H11Protocol):
        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_header()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            try:
                super().data_received(data)
            except h11.ProtocolError:  # after an answer began there is no way to say so
                self.transport.abort()
            if self.conn.their_state is not h11.IDLE:
                self._stop_waiting()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                self._await_header()

        def _await_header(self) -> None:
            self._stop_waiting()
            self._waiting = self.loop.call_later(limits.header_s, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

    return Impatient


def main(arguments: list[str] | None = None) -> int:
    """Run the proxy as a process of its own; prints its port as the one line of output.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m server.service.proxy", description=__doc__)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--upstream", required=True, metavar="URL")
    parser.add_argument(
        "--upstream-ca", type=Path, help="what the SuperLink's certificate is checked against"
    )
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--insecure", action="store_true", help="without TLS, for trials on one machine")
    parser.add_argument("--log", type=Path, help="access log; else standard error")
    for name, value in (("body-bytes", Limits().body_bytes), ("connections", Limits().connections)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name in ("header-s", "idle-s", "request-s", "upstream-s"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Limits(), name.replace("-", "_")))
    given = parser.parse_args(arguments)
    if given.insecure == bool(given.certificate and given.key):
        parser.error("expected --certificate and --key, or --insecure")
    host, _, port = given.listen.rpartition(":")
    _log_to(given.log)
    try:
        serve(
            (host.strip("[]"), int(port)),
            given.upstream,
            given.certificate,
            given.key,
            upstream_ca=given.upstream_ca,
            limits=_limits(given),
            ready=lambda port: print(port, flush=True),  # noqa: T201
        )
    except SynofedError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _limits(given: argparse.Namespace) -> Limits:
    fields: dict[str, Any] = {name: getattr(given, name) for name in Limits.__dataclass_fields__}
    return Limits(**fields)


def _log_to(path: Path | None) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if path is not None:
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
