"""The configuration of nginx that stands in ``deploy/``."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.service.proxy_app import Limits
from server.service.proxy_routes import CALLS, ROUTES
from tests import proxy_parties as parties
from tests.patience import wait_for
from tests.proxy_parties import TARGETS, exchange, request, status

CONFIGURATION = Path(__file__).parents[3] / "deploy" / "nginx" / "synofed.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def test_the_routes_are_those_of_the_proxy() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    found = re.findall(r"^ +location = (\S+) \{ proxy_pass https://synofed_proxy(\S+); \}$", text, re.M)
    assert all(outside == inside for outside, inside in found)
    assert [outside for outside, _ in found] == [*ROUTES.values(), "/health"]
    listed = re.search(r"\^POST /v1/fleet/\(\?:(.*?)\)", text)
    assert listed is not None and tuple(listed[1].split("|")) == CALLS
    assert len(re.findall(r"proxy_pass", text)) == len(found)


def test_sizes_and_times_fit_those_of_the_proxy() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    values = dict(re.findall(r"^ +(\w+) ([^;]+);$", text, re.M))
    assert values["client_max_body_size"] == f"{Limits().body_bytes // 2**20}m"
    assert values["proxy_request_buffering"] == values["proxy_buffering"] == "off"
    inner, outer = Limits().upstream_s, float(values["proxy_read_timeout"].removesuffix("s"))
    assert inner < outer < 30  # the inner proxy answers first, and both before the SuperNode gives up


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[int, Path, Path]]:
    """nginx before our proxy before a real SuperLink: port, certificate, the SuperLink's log."""
    assert NGINX is not None
    pair = parties.certificate(tmp_path)
    with (
        parties.superlink(tmp_path, pair) as (address, link_log),
        parties.proxy(address, pair, tmp_path / "inner", "--upstream-ca", pair[0]) as (inner, _),
    ):
        port = parties.free_port()
        file = _adapted(tmp_path, pair, port=port, inner=inner)
        command = [NGINX, "-c", file, "-p", tmp_path, "-g", "daemon off;"]
        with parties.process(command, tmp_path / "nginx.err"):
            wait_for(
                lambda: exchange(port, pair[0], request(b"/health", method=b"GET")) is not None,
                told=(tmp_path / "nginx.err").read_text,
            )
            yield port, pair[0], link_log


def _adapted(folder: Path, pair: tuple[Path, Path], *, port: int, inner: int) -> Path:
    """The configuration with this machine's paths and ports, and what stands around it."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    for old, new in {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen [::]:443 ssl;": "",
        "/var/lib/synofed/federation/server/server.crt": str(pair[0]),
        "/var/lib/synofed/federation/server/server.key": str(pair[1]),
        "/var/lib/synofed/federation/ca/ca.crt": str(pair[0]),
        "127.0.0.1:8443": f"127.0.0.1:{inner}",
        "/var/log/nginx/synofed.log": str(folder / "access.log"),
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    around = f"pid {folder}/pid; error_log stderr; events {{}} http {{ {temporary}\n{text}}}\n"
    (folder / "nginx.conf").write_text(around, encoding="utf-8")
    return folder / "nginx.conf"


@pytest.mark.soak
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed here")
def test_nginx_passes_the_list_and_nothing_else(running: tuple[int, Path, Path]) -> None:
    port, trusted, link_log = running
    for path in ROUTES.values():
        answer = exchange(port, trusted, request(path.encode()))
        assert status(answer) == 401, path
        assert answer is not None and b"Invalid SuperNode authentication" in answer
    assert status(exchange(port, trusted, request(b"/health", method=b"GET"))) == 200
    before = link_log.read_text()
    answers = {target: status(exchange(port, trusted, request(target))) for target in TARGETS}
    assert {target: code for target, code in answers.items() if code not in (400, 404, 405)} == {}
    for method in (b"GET", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"post"):
        assert status(exchange(port, trusted, request(b"/v1/fleet/get-run", method=method))) in (
            400,
            404,
            405,
        )
    for name, sent in parties.smuggling().items():
        found = exchange(port, trusted, sent, wait_s=60)
        assert found is None or b" 200 " not in found, name
    assert "/v1/control/" not in link_log.read_text()[len(before) :]
    large = request(b"/v1/fleet/push-object").replace(b"Content-Length: 0", b"Content-Length: 16777217")
    assert status(exchange(port, trusted, large)) == 413
