"""What every page in the browser is served by: on this machine alone, to whoever got a link, nothing from elsewhere.

Who can open a page has a link from the terminal, which works once and is exchanged for a cookie; the terminal prints
the next link then. What a browser could be tricked into is refused: another host's name for this address (DNS
rebinding), requests that another page makes, scripts, styles and pictures of anybody else, frames. Nothing that was
shown stays in a cache.

Sessions live in memory: they end with the process.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response

from common.errors import BusyError, ConfigurationError, PolicyError, SynofedError, VerificationError

logger = logging.getLogger("synofed.desk")

ADDRESS = "127.0.0.1"
LARGEST_BODY = 1 << 20
"""Bytes of a request: people's clicks and words."""
MOST_SESSIONS = 1000
ENTRY = "/enter"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
DOCUMENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
"""Of a page that a program of ours made into one file: no script runs in it, and it can ask for nothing."""
KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
STATUS: Mapping[type[SynofedError], int] = {
    PolicyError: 403,
    VerificationError: 403,
    BusyError: 409,
    ConfigurationError: 400,
}
"""Of answers to what is refused; 422 for all others."""

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class Session:
    """One browser that came by a link.

    Attributes:
        person: for whom the link was made, which nothing in the browser can change; empty: for whoever has it.
        name: as whom somebody works here: the person, or what was typed.
    """

    person: str
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or self.person


@dataclass(slots=True)
class Door:
    """Links that work once, and the sessions that came of them.

    Attributes:
        origins: of the pages, such as ``http://127.0.0.1:8000``; links are made with the first.
        cookie: name of the session's cookie: browsers give cookies to all ports of a machine, so each has its own.
        announce: told of each new link: for whom it is, and its URL.
    """

    origins: tuple[str, ...]
    cookie: str
    announce: Callable[[str, str], None]
    _links: dict[str, str] = field(default_factory=dict)
    _sessions: dict[str, Session] = field(default_factory=dict)

    def link(self, person: str = "") -> None:
        """Make a link and announce it."""
        token = secrets.token_urlsafe(32)
        self._links[token] = person
        self.announce(person, f"{self.origins[0]}{ENTRY}?token={token}")

    def enter(self, token: str) -> str | None:
        """Exchange a link's token for a session's; ``None``: it is none, or it was used."""
        found = next((known for known in self._links if secrets.compare_digest(known, token)), None)
        if found is None:
            return None
        person = self._links.pop(found)
        if len(self._sessions) >= MOST_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        session = secrets.token_urlsafe(32)
        self._sessions[session] = Session(person)
        self.link(person)
        return session

    def session(self, cookies: Mapping[str, str]) -> Session | None:
        """Whose request it is."""
        return self._sessions.get(cookies.get(self.cookie, ""))

    @property
    def hosts(self) -> frozenset[str]:
        """What a request's ``Host`` may be."""
        return frozenset(urlsplit(origin).netloc for origin in self.origins)


def document(content: bytes) -> Response:
    """A self-contained page, such as a run's report: with its own styles and pictures, and nothing else.

    Args:
        content: HTML without scripts.
    """
    return HTMLResponse(content, headers={"content-security-policy": DOCUMENT_POLICY})


def session(request: Request) -> Session:
    """Of a request that came through the guard."""
    found: Session = request.scope["synofed.session"]
    return found


def keeps_out_named(request: Request) -> None:
    """A dependency of routes that are not for who came by a link of one person.

    Raises:
        PolicyError: if the link was made for somebody.
    """
    person = session(request).person
    if person:
        raise PolicyError(f"This link was made for {person}, who has other pages here")


def ended(request: Request) -> asyncio.Event:
    """Set when the pages are served no longer: what goes on and on ends with it."""
    found: asyncio.Event = request.scope["synofed.ended"]
    return found


def bound(port: int) -> socket.socket:
    """A socket on this machine's own address.

    Args:
        port: 0: any that is free.

    Raises:
        ConfigurationError: if the port is taken.
    """
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        raise ConfigurationError(
            f"Port {port} of {ADDRESS} cannot be used ({error.strerror}): choose another"
        ) from None


def door(port: int, *, behind: str, announce: Callable[[str, str], None]) -> Door:
    """The way into pages on a port.

    Args:
        port: that they are served on.
        behind: origin under which the operator's own proxy shows them, ``https://pages.example``; empty: none.
        announce: told of each link.

    Raises:
        ConfigurationError: if ``behind`` is no such origin.
    """
    own = (f"http://{ADDRESS}:{port}", f"http://localhost:{port}")
    if not behind:
        return Door(own, f"synofed_{port}", announce)
    parts = urlsplit(behind)
    if (
        parts.scheme != "https"
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.username
    ):
        raise ConfigurationError(f"Expected the proxy's origin as https://HOST[:PORT], got {behind!r}")
    return Door((f"https://{parts.netloc}",), "__Host-synofed", announce)


def application(way: Door, routers: Iterable[APIRouter], pages: Sequence[Traversable]) -> App:
    """Pages and what they ask for, behind a door.

    Args:
        way: who may come in.
        routers: what pages ask for, below ``/api``.
        pages: folders of pages, scripts and styles; ``index.html`` of the first that has one is the start.

    Returns:
        An ASGI application.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(SynofedError, _refused)
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(Exception, _failed)
    for router in routers:
        app.include_router(router, prefix="/api")
    places = [*pages, files("common.machine").joinpath("desk_files"), files("common")]
    app.add_api_route("/", lambda: _file(places, "index.html"), include_in_schema=False)
    app.add_api_route("/favicon.ico", lambda: Response(status_code=204), include_in_schema=False)
    app.add_api_route("/{name}", lambda name: _file(places, name), include_in_schema=False)
    return _Guard(app, way)


def server(app: App) -> uvicorn.Server:
    """What serves an application, to be run with a bound socket; told to end, it waits for no open connection."""
    return _Server(
        uvicorn.Config(
            app,
            access_log=False,  # it would hold the links' tokens
            log_config=None,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
        )
    )


class _Server(uvicorn.Server):
    """Tells streams that they end, before it waits for whatever is open."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See :meth:`uvicorn.Server.shutdown`."""
        if isinstance(self.config.app, _Guard):
            self.config.app.ended.set()
        await super().shutdown(sockets)


class _Guard:
    """Lets in who has a session, from our own pages alone; everything that leaves has the headers."""

    def __init__(self, app: App, way: Door) -> None:
        self._app = app
        self._door = way
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        answer = self._answer(request)
        within = _Limited(receive)
        if answer is not None:
            await answer(scope, receive, _with_headers(send))
            return
        scope["synofed.ended"] = self.ended
        scope["synofed.session"] = self._door.session(request.cookies)
        await self._app(scope, within, _with_headers(send))

    def _answer(self, request: Request) -> Response | None:
        """What is said to a request that the pages don't see."""
        if request.headers.get("host", "") not in self._door.hosts:
            return _page(421, f"Expected the address {self._door.origins[0]}, as the terminal printed it.")
        if request.url.path == ENTRY and request.method == "GET":
            return self._enter(request)
        if self._door.session(request.cookies) is None:
            return _page(
                401, "Expected a link from the terminal: each works once, and the newest stands last."
            )
        foreign = request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        reads = request.method in ("GET", "HEAD")
        if (foreign and not _opened(request)) or (
            not reads and request.headers.get("origin", "") not in self._door.origins
        ):
            return _page(403, "Expected a request of these pages themselves, this one comes from another.")
        if not reads and int(request.headers.get("content-length", "0") or 0) > LARGEST_BODY:
            return _page(413, f"Expected at most {LARGEST_BODY} bytes.")
        return None

    def _enter(self, request: Request) -> Response:
        session = self._door.enter(request.query_params.get("token", ""))
        if session is None:
            return _page(401, "This link was used already, or is none: take the newest from the terminal.")
        # A redirect would go on without the cookie where the link was clicked on another site's page.
        answer = HTMLResponse(_text("Welcome", "One moment.", refresh=True))
        answer.set_cookie(
            self._door.cookie, session, httponly=True, samesite="strict", path="/",
            secure=self._door.origins[0].startswith("https"),
        )  # fmt: skip
        return answer


class _Limited:
    """A request's body that stops being read once it is too long."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read = 0

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self._read > LARGEST_BODY else message


def _opened(request: Request) -> bool:
    """Whether somebody opened a page, by a bookmark or a link elsewhere: pages themselves tell nothing."""
    return request.headers.get("sec-fetch-mode") == "navigate" and not request.url.path.startswith("/api/")


def _with_headers(send: Send) -> Send:
    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            given = message.get("headers", [])
            own = {name.encode(): value.encode() for name, value in _headers(dict(given)).items()}
            rest = [(name, value) for name, value in given if name.lower() not in own]
            message = {**message, "headers": [*rest, *own.items()]}
        await send(message)

    return sent


def _headers(given: Mapping[bytes, bytes]) -> Mapping[str, str]:
    """Of an answer: a document has its own policy, and is alone in its sandbox without another header's help."""
    if given.get(b"content-security-policy") != DOCUMENT_POLICY.encode():
        return HEADERS
    others = {name: value for name, value in HEADERS.items() if name != "cross-origin-opener-policy"}
    return {**others, "content-security-policy": DOCUMENT_POLICY}


def _file(places: Sequence[Traversable], name: str) -> Response:
    kind = KINDS.get(name.rpartition(".")[2])
    for place in places:
        found = place.joinpath(name)
        if kind is not None and "/" not in name and found.is_file():
            return Response(found.read_bytes(), media_type=kind)
    return _page(404, "There is no such page.")


async def _refused(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 422)
    return JSONResponse({"error": str(error)}, status)


async def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for it"
    what = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
    return JSONResponse({"error": f"Expected another request: {what}"}, 422)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "Something unexpected happened; the terminal says what."}, 500)


def _page(status: int, text: str) -> Response:
    return HTMLResponse(_text("synofed", text), status)


def _text(title: str, text: str, *, refresh: bool = False) -> str:
    again = '<meta http-equiv="refresh" content="0; url=/">' if refresh else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{again}</head>'
        f"<body><main><h1>{title}</h1><p>{text}</p></main></body></html>"
    )
