import json
import stat
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_public_key,
)
from pydantic import SecretStr
from typer.testing import CliRunner

from client.cli import init_cli
from client.connection import enrolment
from client.connection.enrolment import Enrolment
from client.site import keys
from client.site.policy import Policy
from client.site.site import Site, SiteFile
from common.enrolment import Invitation, Registration, certificate_fingerprint, spoken
from common.errors import ConfigurationError, DataError, SynofedError
from common.sections.section import Section
from common.version import VERSION
from server.federation import certificates
from tests.enrolling import NOW, holds, secrets_of_site

ROOT = Path(__file__).resolve().parents[3]
AUTHORITY = certificates.certificate_pem(certificates.make_authority("Test", now=NOW).certificate).decode()


def _invitation(**changes: object) -> Invitation:
    content = {
        "federation": "Test",
        "site": "north",
        "address": "localhost:8443",
        "ca_certificate": AUTHORITY,
    }
    expires = NOW + timedelta(days=14)
    return Invitation.model_validate({**content, "code": "5a" * 32, "expires": expires, **changes})


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "north"
    enrolment.enrol(path, _invitation(), now=NOW)
    return path


def test_the_folder_is_laid_out_and_private(folder: Path) -> None:
    assert set(_content(folder)) == {
        "federation.json",
        "federation/ca.crt",
        "keys/node",
        "keys/node.pub",
        "keys/receipt.pem",
        "request.json",
        "site.toml",
    }
    assert {_mode(path) for path in (folder, folder / "keys")} == {0o700}
    private = (folder / "keys" / "node", folder / "keys" / "receipt.pem", folder / "site.toml")
    assert {_mode(path) for path in private} == {0o600}
    opened = Enrolment.open(folder)
    assert (opened.federation, opened.site, opened.address) == ("Test", "north", "localhost:8443")
    assert opened.ca_fingerprint == certificate_fingerprint(AUTHORITY)


def test_the_request_has_the_public_keys_and_fits_the_code(folder: Path) -> None:
    request = Registration.parse((folder / "request.json").read_text())
    request.check(SecretStr("5a" * 32))
    assert (request.site, request.version) == ("north", VERSION)
    assert request.receipt_key == keys.public_key(folder)
    assert (folder / "keys" / "node.pub").read_text() == request.node_key + "\n"


@pytest.mark.parametrize("attempt", range(5))
def test_nothing_that_is_sent_or_may_be_read_holds_a_private_key(tmp_path: Path, attempt: int) -> None:
    folder = tmp_path / f"site-{attempt}"
    enrolment.enrol(folder, _invitation(), now=NOW)
    private = {"keys/node", "keys/receipt.pem"}
    for name, content in _content(folder).items():
        found = [holds(content, secret) for secret in secrets_of_site(folder)]
        if name in private:
            assert any(found)  # the search finds what is there
        else:
            assert (any(found), b"PRIVATE" in content) == (False, False), name


def test_flower_takes_the_keys(folder: Path) -> None:
    from argparse import Namespace

    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supercore.primitives.asymmetric import uses_nist_ec_curve
    from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

    public = load_ssh_public_key((folder / "keys" / "node.pub").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert uses_nist_ec_curve(public)
    assert try_load_public_key(folder / "keys" / "node.pub").startswith(b"-----BEGIN PUBLIC KEY")
    arguments = Namespace(
        auth_supernode_private_key=str(folder / "keys" / "node"), auth_supernode_public_key=None
    )
    loaded = _try_setup_client_authentication(arguments)
    assert loaded is not None
    assert loaded[1].public_numbers() == public.public_numbers()


def test_a_new_site_permits_nothing(folder: Path) -> None:
    site = Site.open(folder)
    assert site.name == "north"
    assert site.policy == Policy(version=2)
    assert site.file == SiteFile(name="north", policy=Policy(version=2))


def test_the_template_names_every_setting_and_is_the_example() -> None:
    template = enrolment.TEMPLATE.read_text(encoding="utf-8")
    example = (ROOT / "configs" / "site.example.toml").read_text(encoding="utf-8")
    assert template.replace("$name", "hospital-a") == example
    document = tomllib.loads(example)
    commented = "\n".join(line.removeprefix("# ") if " = " in line else line for line in example.splitlines())
    for name, field in SiteFile.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            assert set(tomllib.loads(commented)[name]) == set(section.model_fields), name
    assert SiteFile.model_validate(document) == SiteFile(name="hospital-a", policy=Policy(version=2))
    SiteFile.model_validate(tomllib.loads(commented))


def test_enrolling_again_keeps_keys_and_settings(folder: Path) -> None:
    (folder / "site.toml").write_text('name = "north"\n[policy]\nmaximum_rounds = 7\n')
    before = _content(folder)
    again = enrolment.enrol(folder, _invitation(), now=NOW)
    assert _content(folder) == before
    assert (again.made, set(again.kept)) == ((), {"keys/receipt.pem", "keys/node", "site.toml"})


def test_a_later_invitation_makes_a_new_request_with_the_same_keys(folder: Path) -> None:
    before = _content(folder)
    enrolment.enrol(folder, _invitation(code="6b" * 32, address="new.example.org:443"), now=NOW)
    after = _content(folder)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"request.json", "federation.json"}
    Registration.parse(after["request.json"].decode()).check(SecretStr("6b" * 32))
    assert Enrolment.open(folder).address == "new.example.org:443"


@pytest.mark.parametrize("steps", range(8))
def test_a_site_that_was_killed_while_it_enrolled_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    folder, left = tmp_path / "north", [steps]

    def until_the_kill(step: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return step(*arguments)

        return counted

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", until_the_kill(Path.replace))
        patched.setattr(Path, "hardlink_to", until_the_kill(Path.hardlink_to))
        if steps < 7:
            with pytest.raises(KeyboardInterrupt):
                enrolment.enrol(folder, _invitation(), now=NOW)
            assert not (folder / "federation.json").exists()
        else:
            enrolment.enrol(folder, _invitation(), now=NOW)
    made = {
        name: content for name, content in _content(folder).items() if not Path(name).name.startswith(".")
    }
    enrolment.enrol(folder, _invitation(), now=NOW)
    assert made.items() <= _content(folder).items()
    assert Enrolment.open(folder).site == "north"
    assert Site.open(folder).name == "north"


def test_what_a_kill_left_of_a_key_is_removed(tmp_path: Path) -> None:
    (tmp_path / "north" / "keys").mkdir(parents=True)
    draft = tmp_path / "north" / "keys" / ".node-0123"
    draft.write_bytes(b"half a key")
    enrolment.enrol(tmp_path / "north", _invitation(), now=NOW)
    assert not draft.exists()


def test_keys_that_were_left_open_are_closed(folder: Path) -> None:
    (folder / "keys").chmod(0o755)
    (folder / "keys" / "node").chmod(0o644)
    (folder / "keys" / "receipt.pem").chmod(0o640)
    enrolment.enrol(folder, _invitation(), now=NOW)
    names = ("keys", "keys/node", "keys/receipt.pem")
    assert [_mode(folder / name) for name in names] == [0o700, 0o600, 0o600]


def _of_another_form() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _of_another_curve() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"no key", _of_another_form(), _of_another_curve()])
def test_a_damaged_key_is_never_replaced(folder: Path, content: bytes) -> None:
    (folder / "keys" / "node").write_bytes(content)
    with pytest.raises(DataError, match=r"Expected an EC P-384 key without a passphrase in .*restore it"):
        enrolment.enrol(folder, _invitation(), now=NOW)
    assert (folder / "keys" / "node").read_bytes() == content


def _other_authority() -> str:
    return certificates.certificate_pem(certificates.make_authority("Test", now=NOW).certificate).decode()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"site": "south"}, r"Expected the folder of site south, .* is of north"),
        ({"ca_certificate": _other_authority()}, r"belongs to the federation 'Test' with authority"),
        (
            {"expires": NOW},
            r"expired on 2030-05-06 12:00 UTC, this machine's clock says 2030-05-06 12:00 UTC",
        ),
    ],
)
def test_an_invitation_that_does_not_fit_the_folder_changes_nothing(
    folder: Path, changes: dict[str, object], says: str
) -> None:
    before = _content(folder)
    with pytest.raises(ConfigurationError, match=says):
        enrolment.enrol(folder, _invitation(**changes), now=NOW)
    assert _content(folder) == before


def test_a_folder_with_the_settings_of_another_site_is_refused(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('name = "south"\n')
    with pytest.raises(ConfigurationError, match=r"is of south"):
        enrolment.enrol(tmp_path, _invitation(), now=NOW)
    assert set(_content(tmp_path)) == {"site.toml"}


@pytest.mark.parametrize("days", [-1, 4000])
def test_a_clock_outside_the_authoritys_time_is_told(tmp_path: Path, days: int) -> None:
    now = NOW + timedelta(days=days)
    with pytest.raises(
        ConfigurationError, match=r"authority's certificate is valid from .* this machine's clock"
    ):
        enrolment.enrol(tmp_path / "north", _invitation(expires=now + timedelta(days=1)), now=now)
    assert not (tmp_path / "north").exists()


def test_a_site_that_is_not_enrolled_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no federation.json .* ask the centre for an invitation"):
        Enrolment.open(tmp_path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: (path / "federation" / "ca.crt").write_text(_other_authority()), "somebody changed it"),
        (lambda path: (path / "federation" / "ca.crt").unlink(), "run synofed site init again"),
        (
            lambda path: (path / "federation" / "ca.crt").write_text("no"),
            "certificate of a certificate authority",
        ),
        (lambda path: (path / "federation.json").write_text("{}"), "federation: is missing"),
    ],
)
def test_an_enrolment_that_was_changed_is_refused(
    folder: Path, damage: Callable[[Path], object], says: str
) -> None:
    damage(folder)
    with pytest.raises(ConfigurationError, match=says):
        Enrolment.open(folder)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Expected to make the site's folder"):
        enrolment.enrol(tmp_path / "file" / "north", _invitation(), now=NOW)


def _init(*arguments: object) -> str:
    app = typer.Typer()
    app.command("init")(init_cli.init)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, SynofedError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_site_is_enrolled_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    now = datetime.now(UTC)
    pem = certificates.certificate_pem(certificates.make_authority("Test", now=now).certificate).decode()
    text = _invitation(ca_certificate=pem, expires=now + timedelta(days=1)).dump()
    Path("north.invitation.json").write_text(text)
    told = _init("north.invitation.json")
    request = Registration.parse(Path("north/request.json").read_text())
    assert spoken(certificate_fingerprint(pem)) in told
    assert spoken(request.fingerprint) in told
    assert "Made keys/receipt.pem, keys/node, site.toml" in told
    assert "5a5a5a" not in told
    again = json.loads(_init("north.invitation.json", "--folder", "north", "--json"))
    assert (again["site"], again["made"], again["keys_fingerprint"]) == ("north", [], request.fingerprint)


def test_invitations_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, says in (("nowhere", "Expected an invitation at"), ("binary", "not text")):
        with pytest.raises(DataError, match=says):
            _init(tmp_path / name)
