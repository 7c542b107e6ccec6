"""Logins, codes and keys that were planted are in nothing that a site's processes print, log or are started with."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.connection import enrolment as site_enrolment
from client.connection.connection import look
from client.connection.join import joining
from client.connection.supernode import free_port, services
from client.site.site import Site
from common.errors import ConfigurationError, ConnectionLostError
from common.text.redaction import redacted
from server.federation import enrolment
from tests.command_lines import command
from tests.enrolling import holds, join, make_home, secrets_of_site
from tests.patience import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[3]
PASSWORD = "s3cret-planted"
PROXY = f"http://planted-user:{PASSWORD}@127.0.0.1:9"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An enrolled site behind a forward proxy that does not answer."""
    now = datetime.now(UTC)
    home = make_home(tmp_path / "home", address="127.0.0.1:9", now=now)
    join(home, tmp_path / "north", now=now)
    toml = tmp_path / "north" / "site.toml"
    text = re.sub(r"(?m)^#? ?\[network\]\n.*\n?", "", toml.read_text())
    toml.write_text(text + f'\n[network]\nproxy = "{PROXY}"\n')
    return tmp_path / "north"


def started_by(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "synofed", *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def started(parent: int) -> Iterator[int]:
    """The processes that a process started, and theirs."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == parent:
                yield int(entry.name)
                yield from started(int(entry.name))


@pytest.mark.soak
@pytest.mark.ci
def test_a_joined_site_prints_logs_and_starts_nothing_with_a_secret_in_it(site: Path, tmp_path: Path) -> None:
    printed = tmp_path / "printed.txt"
    with printed.open("wb") as file:
        process = subprocess.Popen(
            started_by("site", "join", str(site)), stdout=file, stderr=subprocess.STDOUT, env=environment()
        )
    logs = site / "flower" / "supernode.log"
    try:
        wait_for(lambda: b"goes on trying" in printed.read_bytes() or b"next try" in printed.read_bytes())
        arguments = b"".join(
            (Path("/proc") / str(pid) / "cmdline").read_bytes()
            for pid in [process.pid, *started(process.pid)]
        )
        assert b"guarded_supernode" in arguments or b"next try" in printed.read_bytes()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)
    assert logs.exists()
    told = [printed.read_bytes(), arguments]
    told += [path.read_bytes() for path in site.rglob("*") if path.suffix in (".log", ".txt", ".json", ".toml")
             and path.name != "site.toml"]  # fmt: skip
    for content in told:
        assert PASSWORD.encode() not in content
        assert not any(holds(content, secret) for secret in secrets_of_site(site))


@pytest.mark.parametrize(
    "proxy",
    [
        f"http://u:{PASSWORD}/x@127.0.0.1:9",
        f"http://u:{PASSWORD}#x@127.0.0.1:9",
        f"http://u:x@{PASSWORD}@127.0.0.1:9",
        f"http://u:{PASSWORD}@127.0.0.1:port",
        f"http://u:{PASSWORD}@127.0.0.1:99999",
        f"http://u:{PASSWORD}@[::1:9",
        f"http://u:{PASSWORD}@:9",
        f"socks5://u:{PASSWORD}@127.0.0.1:9",
        f"u:{PASSWORD}@127.0.0.1:9",
        f"http://u:{PASSWORD} @127.0.0.1:9",
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(
    site: Path, proxy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = site / "site.toml"
    text = toml.read_text()
    toml.write_text(text.replace(PROXY, proxy))
    with pytest.raises(ConfigurationError, match=r"network\.proxy: expected http") as refused:
        Site.open(site)
    assert PASSWORD not in str(refused.value)
    toml.write_text(text.replace(f'proxy = "{PROXY}"', ""))
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert command(monkeypatch, "site", "join", str(site)) == 3
    said = capsys.readouterr()
    assert "HTTPS_PROXY" in said.err
    assert PASSWORD not in said.out + said.err


@pytest.mark.parametrize(
    "text",
    [
        f'network = "{PROXY}"',
        f'[network]\nproxi = "{PROXY}"',
        f'[network]\nproxy = ["{PROXY}"]',
        f'[network]\nproxy = "{PROXY}',
        f'[network]\nproxy = {{url = "{PROXY}"}}',
        f'[data]\nx = "{PROXY}"',
        f'[compute]\ndevice = "{PROXY}"',
    ],
)
def test_a_login_in_the_wrong_place_is_not_repeated(site: Path, text: str) -> None:
    (site / "site.toml").write_text(f'name = "north"\n{text}\n')
    with pytest.raises(ConfigurationError) as refused:
        Site.open(site)
    assert PASSWORD not in str(refused.value)


def test_settings_and_what_is_started_do_not_show_secrets(site: Path) -> None:
    opened, start = Site.open(site), joining(site)
    shown = [
        repr(opened),
        str(opened.file),
        opened.file.model_dump_json(),
        repr(opened.file.model_dump()),
        repr(start),
    ]
    shown += [repr(service) for service in services(start, port=free_port())]
    for text in shown:
        assert PASSWORD not in text
    node, _executor = services(start, port=free_port())
    assert node.environment["HTTPS_PROXY"] == PROXY  # there alone: others cannot read it


def test_an_invitations_code_is_written_into_its_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    home = make_home(tmp_path / "home")
    invitation = enrolment.invite(home.path, "north", now=datetime.now(UTC))
    code = invitation.code.get_secret_value()
    assert code in invitation.dump()
    assert code not in repr(invitation) + str(invitation) + repr(invitation.model_dump())
    place = tmp_path / "north.json"
    for changed in (
        invitation.dump()[:-3],
        invitation.dump().replace("north", "no/rth"),
        invitation.dump() * 2,
    ):
        place.write_text(changed)
        assert command(monkeypatch, "site", "init", str(place)) == 3
        said = capsys.readouterr()
        assert code not in said.out + said.err


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "proxy", [f"http://u:{PASSWORD}@[bad", f"http://u:{PASSWORD}@h:port", f"ftp://u:{PASSWORD}@h:1"]
)
def test_a_connection_that_fails_does_not_tell_the_login(site: Path, proxy: str) -> None:
    with pytest.raises(ConnectionLostError) as refused:
        look("127.0.0.1:9", site_enrolment.ca_certificate(site), forward_proxy=proxy, wait_s=1.0)
    assert PASSWORD not in str(refused.value)
    assert "planted" not in str(refused.value)


def test_text_of_others_is_cleaned() -> None:
    for text in (
        f"ProxyError('Cannot connect', url='{PROXY}')",
        f"GET https://a:{PASSWORD}@x/y failed",
        f"Proxy-Authorization: Basic {PASSWORD}",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{PASSWORD}\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{PASSWORD}",
        f'{{"code": "{PASSWORD}"}}',
        f"password={PASSWORD}",
    ):
        assert PASSWORD not in redacted(text)
    plain = "see https://synofed.example.org/a, or write to a@b: 12 @ 3"
    assert redacted(plain) == plain


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@pytest.mark.parametrize("begun", [pytest.param(False, marks=pytest.mark.soak), True])
def test_a_site_joins_when_there_is_room_on_the_disk_again(site: Path, tmp_path: Path, begun: bool) -> None:
    if begun:
        (site / "flower").mkdir(mode=0o700)
        (site / "flower" / ".lock").touch()
    process = subprocess.Popen(
        started_by("site", "join", str(site)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(),
        text=True, preexec_fn=_limit_files,  # noqa: PLW1509
    )  # fmt: skip
    assert process.stdout is not None
    try:
        said = ""
        while "next try" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        assert "joining" in said
        assert "File too large" in said or "No space left" in said
        assert "The next try is in" in said
        assert process.poll() is None
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        state = site / "flower" / "state.json"
        wait_for(lambda: state.exists() and (site / "flower" / "supernode.log").exists())
        assert json.loads(state.read_text())["state"] in ("connecting", "waiting")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
