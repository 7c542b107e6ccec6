"""What speaks to a hospital's archive: GET and nothing else, to one address, tried again where a connection is lost.

No forward proxy is used, whatever site.toml or the environment names: it leads out of the hospital, and would read
which patients are asked for. Nor is a redirection followed: the login would go with it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from email.message import Message
from urllib.parse import urlsplit

import requests
import urllib3

from client.data.pacs.archive import LOGIN_VARIABLE, Archive
from common.errors import ConfigurationError, ConnectionLostError, DataError, PolicyError

LARGEST_LIST_BYTES = 50_000_000
CHUNK_BYTES = 1 << 20
UNSTEADY = (408, 429, 502, 503, 504)


class ReadOnly(requests.Session):
    """Sends GET alone, follows nothing, and reads no more than it was made for."""

    def __init__(self, archive: Archive, *, waits_s: Sequence[float], largest_bytes: int) -> None:
        """For one archive.

        Args:
            archive: to read from.
            waits_s: before each further try.
            largest_bytes: of an instance.
        """
        super().__init__()
        self.trust_env = False  # no proxy, .netrc or authorities that the environment names
        self.verify = str(archive.ca) if archive.ca else True
        self.headers["User-Agent"] = "synofed"
        if archive.authorization:
            self.headers["Authorization"] = archive.authorization.get_secret_value()
        self.archive, self.waits_s, self.largest_bytes, self.answered = archive, waits_s, largest_bytes, False

    def send(self, request: requests.PreparedRequest, **kwargs: object) -> requests.Response:
        """Send a request, again where the archive is lost that answered before.

        Raises:
            PolicyError: for anything but GET.
            ConfigurationError: if the address or the login does not fit.
            ConnectionLostError: if the archive cannot be reached.
            DataError: if the answer is too large.
        """
        if request.method != "GET":
            raise PolicyError(f"Expected only to read from the archive, got {request.method}")
        request.headers.pop("Host", None)  # which dicomweb-client writes without the port
        for wait_s in self.waits_s:
            try:
                return self._once(request, kwargs)
            except ConnectionLostError:
                if not self.answered:
                    raise
                time.sleep(wait_s)
        return self._once(request, kwargs)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None is followed, wherever it leads."""

    def _once(self, request: requests.PreparedRequest, kwargs: Mapping[str, object]) -> requests.Response:
        lists = "json" in request.headers.get("Accept", "")
        try:
            response = super().send(request, **{**kwargs, "stream": True})
            content = _content(response, LARGEST_LIST_BYTES if lists else self.largest_bytes)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY" in str(error):
                raise ConfigurationError(
                    f"The certificate of {self.archive.url} is not trusted, or is of another name: name the "
                    f"hospital's own authority by --ca"
                ) from None
            raise ConnectionLostError(
                f"{self.archive.url} cannot be reached or broke off ({type(error).__name__}): run the same command "
                f"again, it goes on where it stopped"
            ) from None
        self.answered = True
        self._refuse(response)
        if response.ok and not lists and not _is_whole(response, content):
            raise ConnectionLostError(f"{self.archive.url} broke off: run the same command again")
        response.raw = io.BytesIO(content)
        return response

    def _refuse(self, response: requests.Response) -> None:
        code = response.status_code
        if 300 <= code < 400:
            raise ConfigurationError(
                f"{self.archive.url} redirects to {_host(response)}, which is not followed: give --dicomweb the "
                f"address of DICOMweb itself, not of a page to log in"
            )
        if code == 401:
            raise ConfigurationError(
                f"{self.archive.url} wants another login: write it into --login FILE or {LOGIN_VARIABLE}"
            )
        if code == 403:
            raise ConfigurationError(f"{self.archive.url} does not permit this login to read")
        if code in UNSTEADY:
            raise ConnectionLostError(f"{self.archive.url} is too busy ({code}): run the same command later")


def _content(response: requests.Response, largest_bytes: int) -> bytes:
    """All of an answer; urllib3 raises where fewer bytes come than were announced."""
    content = bytearray()
    for chunk in response.raw.stream(CHUNK_BYTES, decode_content=True):
        content += chunk
        if len(content) > largest_bytes:
            response.close()
            raise DataError(f"the archive gives more than {largest_bytes} bytes")
    return bytes(content)


def _is_whole(response: requests.Response, content: bytes) -> bool:
    """Whether an answer came to its end: by its parts' last delimiter, else because its length was announced."""
    head = Message()
    head["Content-Type"] = response.headers.get("Content-Type", "")
    boundary = head.get_boundary()
    if boundary:
        return content.rstrip().endswith(f"--{boundary}--".encode())
    return not {"content-length", "transfer-encoding"}.isdisjoint(map(str.casefold, response.headers))


def _host(response: requests.Response) -> str:
    try:
        return urlsplit(response.headers.get("Location", "")).hostname or "another path"
    except ValueError:
        return "something else"
