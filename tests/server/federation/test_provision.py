import json
import ssl
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import typer
from cryptography import x509
from typer.testing import CliRunner

from client.connection import enrolment as joining
from common.enrolment import Invitation
from common.errors import ConfigurationError, DataError, SynofedError
from common.machine import atomic
from server.cli import centre_cli as cli
from server.federation import certificates, enrolment, provision
from server.federation.home import Home
from server.federation.registry import Registry
from tests.enrolling import NOW, join, make_home

DAY = timedelta(days=1)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _content(home: Home) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in home.path.rglob("*") if path.is_file()}


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    home = make_home(tmp_path / "centre")
    enrolment.invite(home.path, "north", now=NOW)
    assert {_mode(path) for path in (home.ca_key, home.server_key, home.codes / "north.json")} == {0o600}
    assert {_mode(path) for path in (home.path, *home.folders)} == {0o700}


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("Centre.example.org:8443", ["centre.example.org", "localhost", "127.0.0.1"]),
        ("localhost:8443", ["localhost", "127.0.0.1"]),
        ("192.0.2.7:8443", ["localhost", "192.0.2.7", "127.0.0.1"]),
        ("[2001:db8::7]:8443", ["localhost", "2001:db8::7", "127.0.0.1"]),
    ],
)
def test_the_servers_certificate_is_what_auditors_accept(
    tmp_path: Path, address: str, hosts: list[str]
) -> None:
    home = make_home(tmp_path, address=address)
    authority = certificates.read_authority(home).certificate
    server = certificates.read_certificate(home.server_certificate)
    server.verify_directly_issued_by(authority)
    assert certificates.hosts(server) == hosts
    assert server.not_valid_after_utc - server.not_valid_before_utc <= 397 * DAY
    assert authority.not_valid_after_utc - NOW > 3650 * DAY
    constraints = server.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert not server.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.server_certificate, home.server_key)


def test_provisioning_again_overwrites_nothing_and_says_what_exists(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    join(home, tmp_path.parent / f"{tmp_path.name}-sites" / "north")
    before = _content(home)
    again = provision.provision(home.path, name="Test", address="localhost:8443", now=NOW + 900 * DAY)
    assert _content(home) == before
    assert (again.made, len(again.kept)) == ((), 6)


@pytest.mark.parametrize("writes", range(6))
def test_a_centre_that_was_killed_while_it_was_set_up_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    home, left = Home(tmp_path), [writes]
    write_bytes = atomic.write

    def until_the_kill(path: Path, content: bytes, *, mode: int = 0o666) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write_bytes(path, content, mode=mode)

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "write", until_the_kill)
        with pytest.raises(KeyboardInterrupt):
            make_home(home.path)
    assert not home.settings_file.exists()
    made = _content(home)
    make_home(home.path)
    assert made.items() <= _content(home).items()
    assert join(home, tmp_path / "north").status == "registered"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "Other"}, "give a new one another home"),
        ({"address": "localhost:9"}, "to move, change it in that file, run synofed federation renew"),
        ({"address": "localhost"}, "Expected an address as"),
        ({"listen": "8443"}, "Expected an address as"),
        ({"name": "x" * 49}, "name"),
        ({"name": "a\nb"}, "name"),
    ],
)
def test_what_would_be_another_centre_is_refused(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    home = make_home(tmp_path)
    before = _content(home)
    asked = {"name": "Test", "address": "localhost:8443", **changes}
    with pytest.raises(ConfigurationError, match=says):
        provision.provision(home.path, **asked, now=NOW)  # type: ignore[arg-type]
    assert _content(home) == before


def _other_key(home: Home) -> None:
    home.ca_key.write_bytes(certificates.key_pem(certificates.new_key()))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda home: home.ca_key.unlink(), r"Expected a key at .*ca\.key"),
        (lambda home: home.ca_certificate.unlink(), r"Expected a certificate at .*ca\.crt"),
        (lambda home: home.ca_certificate.write_text("no"), r"Expected a certificate in .*ca\.crt"),
        (_other_key, r"restore both from a backup"),
        (lambda home: home.registry.unlink(), r"Expected the registry .*restore it from a backup"),
        (lambda home: home.registry.write_text("{"), r"registry\.json is damaged, restore it from a backup"),
        (lambda home: home.registry.write_text('{"sites":[{"name":"n","status":"x"}]}'), "is damaged"),
    ],
)
def test_what_was_lost_is_never_quietly_made_anew(
    tmp_path: Path, damage: Callable[[Home], object], says: str
) -> None:
    home = make_home(tmp_path)
    damage(home)
    before = _content(home)
    for action in (
        lambda: make_home(tmp_path),
        lambda: enrolment.invite(home.path, "north", now=NOW),
    ):
        with pytest.raises(ConfigurationError, match=says):
            action()
    assert _content(home) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name = "Test"\naddress = "localhost"\n[proxy]\nport = 1', r"address: .*Expected an address as"),
        ('name = "Test"\naddress = "localhost:1"\n[proxy]\nport = 0', r"proxy\.port"),
        ('name = "Test"\naddress = "localhost:1"\n[proxi]\nport = 1', r"proxi: no such setting"),
        ("name", r"is not TOML"),
    ],
)
def test_settings_that_cannot_be_used_are_told(tmp_path: Path, text: str, says: str) -> None:
    home = make_home(tmp_path)
    home.settings_file.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        provision.renew(home.path, now=NOW)


def test_a_folder_that_is_no_home_is_told(tmp_path: Path) -> None:
    for action in (
        lambda: enrolment.invite(tmp_path, "north", now=NOW),
        lambda: enrolment.revoke(tmp_path, "north", now=NOW),
        lambda: provision.renew(tmp_path, now=NOW),
    ):
        with pytest.raises(ConfigurationError, match=r"name it with --home"):
            action()


def test_a_renewed_certificate_has_the_same_authority_and_key(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    before = {
        path: content for path, content in _content(home).items() if path != str(home.server_certificate)
    }
    former = certificates.read_certificate(home.server_certificate)
    assert provision.validity(home.path, now=NOW + 390 * DAY).server_days == 6
    renewed = provision.renew(home.path, now=NOW + 390 * DAY)
    assert (renewed.server_days, renewed.warnings) == (396, ())
    assert before.items() <= _content(home).items()
    certificate = certificates.read_certificate(home.server_certificate)
    assert certificate.serial_number != former.serial_number
    assert certificate.public_key() == former.public_key()
    certificate.verify_directly_issued_by(certificates.read_authority(home).certificate)


def test_renewal_follows_a_change_of_address(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    home.write_federation(home.federation().model_copy(update={"address": "new.example.org:443"}))
    provision.renew(home.path, now=NOW)
    assert "new.example.org" in certificates.hosts(certificates.read_certificate(home.server_certificate))


def test_a_servers_key_that_was_removed_is_made_anew_and_certified(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    home.server_key.unlink()
    provision.renew(home.path, now=NOW)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.server_certificate, home.server_key)
    assert _mode(home.server_key) == 0o600


@pytest.mark.parametrize(
    ("days", "says"),
    [
        (0, []),
        (366, []),
        (368, ["The server's certificate ends in 28 days: run synofed federation renew"]),
        (400, ["The server's certificate has ended: run synofed federation renew"]),
        (2900, ["has ended: run", "The authority's certificate ends in 751 days"]),
        (3700, ["has ended: run", "The authority's certificate has ended"]),
    ],
)
def test_what_nears_its_end_is_told(tmp_path: Path, days: int, says: list[str]) -> None:
    home = make_home(tmp_path)
    warnings = provision.validity(home.path, now=NOW + days * DAY).warnings
    assert len(warnings) == len(says)
    assert all(part in warning for part, warning in zip(says, warnings, strict=True))


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    late = provision.renew(home.path, now=NOW + 3600 * DAY)
    assert late.server_days == late.authority_days == 51
    with pytest.raises(ConfigurationError, match=r"The authority's certificate ended on 2040-05-05"):
        provision.renew(home.path, now=NOW + 3700 * DAY)


def _run(*arguments: object) -> str:
    app = typer.Typer()
    app.add_typer(cli.federation, name="federation")
    result = CliRunner().invoke(app, ["federation", *map(str, arguments)])
    if isinstance(result.exception, SynofedError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_centre_is_run_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = json.loads(_run("provision", "--name", "Test", "--address", "localhost:8443", "--json"))
    assert made["made"][0] == "ca/ca.key"
    assert "Kept ca/ca.key" in _run("provision", "--name", "Test", "--address", "localhost:8443")
    told = _run("invite", "north")
    invitation = Invitation.parse(Path("north.invitation.json").read_text())
    assert (invitation.code.get_secret_value() in told, _mode(Path("north.invitation.json"))) == (
        False,
        0o600,
    )
    assert made["ca_fingerprint"] in told.replace(" ", "")
    again = json.loads(_run("invite", "north", "--json"))
    assert (again["file"], Invitation.parse(Path(again["file"]).read_text()).code != invitation.code) == (
        "north.invitation.json",
        True,
    )
    joining.enrol(
        Path("north"), Invitation.parse(Path(again["file"]).read_text()), now=datetime.now().astimezone()
    )
    assert "Compare by telephone" in _run("accept", "north/request.json")
    accepted = json.loads(_run("accept", "north/request.json", "--json"))
    assert (accepted["status"], accepted["server_days"]) == ("registered", 396)
    assert "Days left: server's certificate 396, authority 3651" in _run("renew")
    assert "registered" in _run("sites")
    assert "is revoked since" in _run("revoke", "north")
    listed = json.loads(_run("sites", "--json"))
    assert [(site["name"], site["status"]) for site in listed["sites"]] == [("north", "revoked")]


def test_an_invitation_never_replaces_another_file(tmp_path: Path) -> None:
    home = make_home(tmp_path / "centre")
    other = tmp_path / "thesis.txt"
    other.write_text("chapter 1")
    with pytest.raises(ConfigurationError, match="name another with --out"):
        _run("invite", "north", "--out", other, "--home", home.path)
    assert other.read_text() == "chapter 1"
    assert Registry.open(home.path).sites() == ()


def test_requests_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    home = make_home(tmp_path / "centre")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, says in (("nowhere", "Expected a site's request at"), ("binary", "not text")):
        with pytest.raises(DataError, match=says):
            _run("accept", tmp_path / name, "--home", home.path)
