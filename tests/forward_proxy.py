"""A hospital's forward proxy: CONNECT alone, to permitted addresses, after a login."""

import base64
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

ANSWER_S = 30.0


@dataclass
class ForwardProxy:
    """What it permits, and what was asked of it.

    Attributes:
        login: ``USER:PASSWORD``.
        routes: ``HOST:PORT`` as asked -> where it really is; names that are known here alone.
        port: where it listens.
        connected: addresses that were connected, in order.
        turned_away: status codes of what was not.
    """

    login: str
    routes: Mapping[str, tuple[str, int]]
    port: int = 0
    connected: list[str] = field(default_factory=list)
    turned_away: list[int] = field(default_factory=list)
    _open: set[socket.socket] = field(default_factory=set)

    def cut(self) -> None:
        """Cut all connections that are open."""
        for one in tuple(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def handle(self, client: socket.socket) -> None:
        """Answer one client."""
        with client:
            self._open.add(client)
            with suppress(OSError):
                self._answer(client)
            self._open.discard(client)

    def _answer(self, client: socket.socket) -> None:
        head = bytearray()
        while b"\r\n\r\n" not in head:
            piece = client.recv(4096)
            if not piece:
                return
            head += piece
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        headers = {key.lower(): value.strip() for key, _, value in (one.partition(":") for one in lines)}
        expected = "Basic " + base64.b64encode(self.login.encode()).decode()
        if headers.get("proxy-authorization") != expected:
            self._turn_away(
                client, 407, 'Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="h"'
            )
        elif method != "CONNECT" or target not in self.routes:
            self._turn_away(client, 403, "Forbidden")
        else:
            with socket.create_connection(self.routes[target]) as server:
                self.connected.append(target)
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pass, args=(server, client), daemon=True)
                back.start()
                _pass(client, server)
                back.join(ANSWER_S)

    def _turn_away(self, client: socket.socket, code: int, text: str) -> None:
        self.turned_away.append(code)
        client.sendall(f"HTTP/1.1 {code} {text}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def forward_proxy(login: str, routes: Mapping[str, tuple[str, int]]) -> Iterator[ForwardProxy]:
    """The proxy, until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = ForwardProxy(login, routes, listener.getsockname()[1])

        def listen() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=proxy.handle, args=(client,), daemon=True).start()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(ANSWER_S)
            proxy.cut()
