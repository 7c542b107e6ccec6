"""What of the SuperLink hospitals can reach: an exact list, compared byte by byte.

Open-source Flower does not authenticate the users of its control API, so whoever reaches that can ship code to
every hospital. A test on a prefix is not enough: ``/v1/fleet/../control/start-run`` passes one and is
normalised later. A contract test compares this list with the router of the installed Flower.
"""

from __future__ import annotations

PREFIX = "/v1/fleet/"
CALLS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
"""What a SuperNode that authenticates itself by a registered key calls."""

WITHHELD = ("register-node", "unregister-node")
"""Fleet calls for nodes that register themselves: a federation's sites are registered by its centre."""

ROUTES = {("POST", f"{PREFIX}{call}".encode()): f"{PREFIX}{call}" for call in CALLS}
"""(method, raw path of the request) -> the constant path that is asked of the SuperLink in its place."""

REQUEST_HEADERS = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"content-type",
        b"content-length",
        b"flwr-component-name",
        b"flwr-package-name",
        b"flwr-package-version",
        b"flwr-public-key",
        b"flwr-signature",
        b"flwr-timestamp",
    }
)
"""Headers that reach the SuperLink; all others are dropped."""

RESPONSE_HEADERS_DROPPED = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"date",
        b"server",
    }
)
"""Hop-by-hop headers (RFC 9110, 7.6.1), and the two that this server writes or hides itself."""
