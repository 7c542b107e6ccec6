"""A site behind a hospital's forward proxy, which alone knows the centre's name and asks for a login."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.connection.enrolment import enrol, request_file
from common.machine.flower_environment import FLOWER_ENVIRONMENT
from server.federation.enrolment import accept, invite
from server.federation.provision import provision
from tests.forward_proxy import ForwardProxy, forward_proxy
from tests.patience import PATIENCE_S, wait_for
from tests.proxy_parties import free_port

ADDRESS = "centre.invalid:443"  # no resolver ever knows this name (RFC 6761)
LOGIN = "site:pass%word"
NOW = datetime.now(UTC)


@contextmanager
def command(log: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """``synofed`` as a process, ended with all that it started."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    bare = {key: value for key, value in os.environ.items() if key.upper() not in names}
    with log.open("wb") as output:
        started = subprocess.Popen(
            [str(Path(sys.executable).with_name("synofed")), *map(str, arguments)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**bare, **FLOWER_ENVIRONMENT},
        )
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def wait_until(found: Callable[[], bool], log: Path, process: subprocess.Popen[bytes]) -> None:
    def ended_or_found() -> bool:
        return process.poll() is not None or found()

    wait_for(ended_or_found, told=log.read_text)
    assert found(), log.read_text()


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A centre's home and the port of its proxy."""
    home = tmp_path_factory.mktemp("centre") / "federation"
    port = free_port()
    listen = f"127.0.0.1:{port}"
    provision(home, name="test", address=ADDRESS, listen=listen, superlink_port=free_port(), now=NOW)
    return home, port


@pytest.fixture(scope="module")
def running_port(provisioned: tuple[Path, int], site: Path) -> Iterator[int]:
    """The port of the proxy of the centre, which runs and knows the site."""
    home, port = provisioned
    log = home.parent / "up.txt"
    with command(log, "federation", "up", "--home", home) as up:
        wait_until(lambda: "the SuperLink answers" in log.read_text(), log, up)
        yield port


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, provisioned: tuple[Path, int]) -> Path:
    """An accepted site."""
    home, _ = provisioned
    folder = tmp_path_factory.mktemp("north") / "north"
    enrol(folder, invite(home, "north", now=NOW), now=NOW)
    accept(home, request_file(folder).read_text(), now=NOW)
    return folder


def use(site: Path, proxy: str) -> None:
    """Write the forward proxy into ``site.toml``."""
    lines = (site / "site.toml").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("proxy ="))
    lines[at] = f'proxy = "{proxy}"'
    (site / "site.toml").write_text("\n".join(lines) + "\n")


@pytest.mark.soak
@pytest.mark.ci
@pytest.mark.timeout(900)
def test_a_site_joins_through_a_forward_proxy_alone(running_port: int, site: Path) -> None:
    with forward_proxy(LOGIN, {ADDRESS: ("127.0.0.1", running_port)}) as proxy:
        use(site, f"http://site:pass%25word@127.0.0.1:{proxy.port}")
        log = site.parent / "join.txt"
        with command(log, "site", "join", site) as joined:
            wait_until(lambda: f"connected to {ADDRESS}" in log.read_text(), log, joined)
            assert set(proxy.connected) == {ADDRESS} and proxy.turned_away == []
            secret = f"/proc/{joined.pid}/task/{joined.pid}/children"
            children = Path(secret).read_text().split()
            assert children
            for child in children:  # what other accounts see of it
                assert b"word" not in Path(f"/proc/{child}/cmdline").read_bytes()
            before = len(proxy.connected)
            proxy.cut()
            wait_until(lambda: len(proxy.connected) > before, log, joined)
            assert json.loads((site / "flower" / "state.json").read_text())["state"] == "connected"
    assert "word" not in log.read_text() and "word" not in (site / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("login", "routes", "says"),
    [
        ("site:changed", {ADDRESS: ("127.0.0.1", 1)}, "wants a login"),
        (LOGIN, {}, "does not let us through"),
    ],
)
@pytest.mark.soak
def test_says_what_the_forward_proxy_refused(
    site: Path, login: str, routes: dict[str, tuple[str, int]], says: str
) -> None:
    with forward_proxy(login, routes) as proxy:
        use(site, f"http://site:pass%25word@127.0.0.1:{proxy.port}")
        log = site.parent / "refused.txt"
        with command(log, "site", "join", site, "--once") as joined:
            assert joined.wait(PATIENCE_S) == 9, log.read_text()
        assert _refused(proxy)
    text = " ".join(log.read_text().split())
    assert says in text and ADDRESS in text and "word" not in text.replace("PASSWORD", "")


def _refused(proxy: ForwardProxy) -> bool:
    return bool(proxy.turned_away) and not proxy.connected
