"""nginx with TLS and accounts before the pages, as it stands in ``deploy/``."""

import base64
import hashlib
import re
import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from common.machine import desk, desk_live
from server.desk import centre_desk
from tests import events, watched_campaigns
from tests import proxy_parties as parties
from tests.patience import wait_for

CONFIGURATION = Path(__file__).parents[3] / "deploy" / "nginx" / "synofed-pages.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
HOST = "pages.example.org"
ACCOUNT = ("anna", "secret")


def test_it_fits_the_pages() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    values = dict(re.findall(r"^ +(\w+) ([^;]+);$", text, re.M))
    assert values["proxy_set_header"] and f"--behind https://{HOST}" in text
    assert f"proxy_set_header Host {HOST};" in text
    assert values["proxy_buffering"] == "off"
    assert (
        float(values["proxy_read_timeout"].removesuffix("s")) > 2 * desk_live.QUIET_LOOKS * desk_live.LOOK_S
    )
    assert int(values["client_max_body_size"].removesuffix("m")) << 20 == desk.LARGEST_BODY
    assert "$request_uri" not in text  # it would hold the links' tokens
    assert '"$request"' not in text


@contextmanager
def pages(folder: Path, told: list[str]) -> Iterator[int]:
    """The pages of a centre behind the proxy's name: their port."""
    listener = desk.bound(0)
    port = int(listener.getsockname()[1])
    way = desk.door(port, behind=f"https://{HOST}", announce=lambda person, url: told.append(url))
    way.link()
    routers, places, _ = centre_desk.pages(folder)
    server = desk.server(desk.application(way, routers, places))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield port
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def adapted(folder: Path, pair: tuple[Path, Path], *, port: int, inner: int) -> Path:
    """The configuration with this machine's paths and ports, and what stands around it."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    password = base64.b64encode(hashlib.sha1(ACCOUNT[1].encode()).digest()).decode()
    (folder / "accounts").write_text(f"{ACCOUNT[0]}:{{SHA}}{password}\n", encoding="utf-8")
    for old, new in {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen [::]:443 ssl;": "",
        "/etc/ssl/certs/pages.example.org.crt": str(pair[0]),
        "/etc/ssl/private/pages.example.org.key": str(pair[1]),
        "/etc/nginx/synofed-pages.accounts": str(folder / "accounts"),
        "127.0.0.1:8600": f"127.0.0.1:{inner}",
        "/var/log/nginx/synofed-pages.log": str(folder / "access.log"),
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    around = f"user root; pid {folder}/pid; error_log stderr; events {{}} http {{ {temporary}\n{text}}}\n"
    (folder / "nginx.conf").write_text(around, encoding="utf-8")
    return folder / "nginx.conf"


@pytest.mark.soak
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed here")
def test_nginx_asks_for_an_account_and_passes_what_changes(tmp_path: Path) -> None:
    assert NGINX is not None
    home, links = watched_campaigns.make_home(tmp_path / "centre"), list[str]()
    pair, port = parties.certificate(tmp_path), parties.free_port()
    with watched_campaigns.told(home) as told, pages(home.path, links) as inner:
        file = adapted(tmp_path, pair, port=port, inner=inner)
        with parties.process(
            [NGINX, "-c", file, "-p", tmp_path, "-g", "daemon off;"], tmp_path / "nginx.err"
        ):
            trusted = ssl.create_default_context(cafile=str(pair[0]))
            with httpx.Client(
                base_url=f"https://localhost:{port}", trust_env=False, timeout=60, verify=trusted
            ) as browser:
                wait_for(lambda: answers(browser), told=(tmp_path / "nginx.err").read_text)
                path = links[0].removeprefix(f"https://{HOST}")
                assert browser.get(path).status_code == 401
                browser.auth = ACCOUNT
                assert "newest stands last" in browser.get("/").text  # an account alone opens nothing
                assert browser.get(path).status_code == 200
                with events.told(browser, "/api/campaigns/demo") as page:
                    page.next()
                    told.stage()
                    page.until(lambda now: now["facts"]["total"] == 40)
    log = (tmp_path / "access.log").read_text()
    assert "/enter" in log
    assert "token" not in log


def answers(browser: httpx.Client) -> bool:
    try:
        return browser.get("/").status_code == 401
    except httpx.TransportError:
        return False
