"""The proxy's answer to one request: forward what is on the list, refuse the rest.

Bodies go through in pieces in both directions, never whole. A site's SuperNode tries again on 502, 503 and 504
and stops for good on 500, so nothing here answers 500, not even when the SuperLink does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import httpx

from server.service.proxy_routes import REQUEST_HEADERS, RESPONSE_HEADERS_DROPPED, ROUTES

logger = logging.getLogger("synofed.proxy")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEALTH = ("GET", b"/health")
HEALTH_KEPT_S = 2.0
"""So long one look at the SuperLink serves all who ask for its health."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may take.

    Attributes:
        body_bytes: largest body of a request; Flower cuts tensors into chunks of 5 MB.
        header_s: from a connection's or answer's end to a whole header of a request.
        idle_s: between two pieces of a body, and for the client to take a piece of the answer.
        request_s: for a whole request's body.
        upstream_s: for the SuperLink to begin to answer; SuperNodes themselves wait for 30 s.
        connections: open at one time.
    """

    body_bytes: int = 16 * 2**20
    header_s: float = 15.0
    idle_s: float = 30.0
    request_s: float = 900.0
    upstream_s: float = 25.0
    connections: int = 512


class _RefusalError(Exception):
    """A request that ends here."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class _GoneError(Exception):
    """The client went away."""


@dataclass(slots=True)
class _Exchange:
    """One request and its answer, as far as they got."""

    scope: MutableMapping[str, Any]
    receive: Receive
    send: Send
    limits: Limits
    received: int = 0
    sent: int = 0
    status: int = 0
    whole: bool = False
    """The request was read to its end."""

    async def body(self) -> AsyncIterator[bytes]:
        """The request's body, piece by piece, within the limits."""
        end = time.monotonic() + self.limits.request_s
        while True:
            try:
                async with asyncio.timeout(min(self.limits.idle_s, end - time.monotonic())):
                    message = await self.receive()
            except TimeoutError:
                raise _RefusalError(408, "The request came too slowly.") from None
            if message["type"] == "http.disconnect":
                raise _GoneError
            piece: bytes = message.get("body", b"")
            self.received += len(piece)
            if self.received > self.limits.body_bytes:
                raise _RefusalError(413, f"Expected at most {self.limits.body_bytes} bytes.")
            self.whole = not message.get("more_body", False)
            if piece:
                yield piece
            if self.whole:
                return

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the answer's head; a connection whose request was not read to its end is closed after it."""
        closing = [] if self.whole else [(b"connection", b"close")]
        self.status = status
        await self._sent({"type": "http.response.start", "status": status, "headers": headers + closing})

    async def piece(self, content: bytes, *, last: bool) -> None:
        """Send a piece of the answer."""
        await self._sent({"type": "http.response.body", "body": content, "more_body": not last})
        self.sent += len(content)

    async def answer(self, status: int, content: bytes, kind: bytes) -> None:
        """Send a whole answer."""
        length = str(len(content)).encode()
        await self.start(status, [(b"content-type", kind), (b"content-length", length)])
        await self.piece(content, last=True)

    async def _sent(self, message: MutableMapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(self.limits.idle_s):
                await self.send(message)
        except TimeoutError:
            raise _GoneError from None


class Forwarder:
    """An ASGI application that shows the SuperLink's fleet routes and nothing else."""

    def __init__(self, client: httpx.AsyncClient, *, limits: Limits) -> None:
        self._client = client
        self._limits = limits
        self._health: tuple[float, bool] = (float("-inf"), False)
        self._asking = asyncio.Lock()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        begun = time.monotonic()
        exchange = _Exchange(scope, receive, send, self._limits)
        asked = (scope["method"], scope["raw_path"])
        path = None if scope["query_string"] else ROUTES.get(asked)
        try:
            if path is not None:
                await self._forward(exchange, path)
            elif asked == HEALTH and not scope["query_string"]:
                await self._answer_health(exchange)
            else:
                await exchange.answer(404, b"Not found.", b"text/plain")
        except _RefusalError as refused:
            if not exchange.status:
                await exchange.answer(refused.status, refused.text.encode(), b"text/plain")
        except _GoneError:
            exchange.status = exchange.status or 499
        except Exception:
            logger.exception("unexpected")
            if not exchange.status:
                await exchange.answer(502, b"The proxy failed. Try again.", b"text/plain")
        finally:
            _note(exchange, path or ascii(asked)[:200], time.monotonic() - begun)

    async def _forward(self, exchange: _Exchange, path: str) -> None:
        _check_framing(exchange)
        headers = [(k, v) for k, v in exchange.scope["headers"] if k in REQUEST_HEADERS]
        if not any(name == b"accept-encoding" for name, _ in headers):
            headers.append((b"accept-encoding", b"identity"))  # httpx would ask for what the site cannot read
        request = self._client.build_request("POST", path, headers=headers, content=exchange.body())
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        try:
            await self._return(exchange, response)
        finally:
            await response.aclose()

    async def _return(self, exchange: _Exchange, response: httpx.Response) -> None:
        if response.status_code == 500:
            raise _RefusalError(502, "The federation's server failed. Try again.")
        await exchange.start(
            response.status_code,
            [(k.lower(), v) for k, v in response.headers.raw if k.lower() not in RESPONSE_HEADERS_DROPPED],
        )
        try:
            async for piece in response.aiter_raw():
                await exchange.piece(piece, last=False)
        except httpx.HTTPError as error:
            logger.warning("the SuperLink broke off an answer: %s", type(error).__name__)
            return  # without the last piece the server cuts the connection, and the site tries again
        await exchange.piece(b"", last=True)

    async def _answer_health(self, exchange: _Exchange) -> None:
        exchange.whole = True
        async with self._asking:
            if time.monotonic() - self._health[0] > HEALTH_KEPT_S:
                self._health = (time.monotonic(), await self._upstream_is_up())
        up = self._health[1]
        content = json.dumps({"proxy": "up", "superlink": "up" if up else "down"}).encode()
        await exchange.answer(200 if up else 503, content, b"application/json")

    async def _upstream_is_up(self) -> bool:
        try:
            response = await self._client.get("/health", timeout=2.0)
        except httpx.HTTPError:
            return False
        return response.is_success


def _check_framing(exchange: _Exchange) -> None:
    """Refuse requests whose length can be read in two ways, and those announced as too long."""
    names = [name for name, _ in exchange.scope["headers"]]
    if names.count(b"content-length") > 1 or {b"content-length", b"transfer-encoding"} <= set(names):
        raise _RefusalError(400, "Expected one length of the body.")
    lengths = [value for name, value in exchange.scope["headers"] if name == b"content-length"]
    if lengths and int(lengths[0]) > exchange.limits.body_bytes:
        raise _RefusalError(413, f"Expected at most {exchange.limits.body_bytes} bytes.")


def _unreachable(error: httpx.HTTPError) -> _RefusalError:
    if isinstance(error, httpx.PoolTimeout):
        return _RefusalError(503, "The federation's server is busy. Try again.")
    if isinstance(error, httpx.TimeoutException):
        return _RefusalError(504, "The federation's server is slow. Try again.")
    return _RefusalError(502, "The federation's server is down. Try again.")


def _note(exchange: _Exchange, what: str, seconds: float) -> None:
    """A line of the access log: no headers, no bodies."""
    client = exchange.scope.get("client") or ("-", 0)
    logger.log(
        logging.WARNING if exchange.status >= 500 else logging.INFO,
        "%s %s %d in=%d out=%d %.3fs",
        client[0],
        what,
        exchange.status,
        exchange.received,
        exchange.sent,
        seconds,
    )
