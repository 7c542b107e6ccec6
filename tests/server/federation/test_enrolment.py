import errno
import json
import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from client.connection import enrolment as joining
from common.enrolment import Registration
from common.errors import ConfigurationError, VerificationError
from common.version import VERSION
from server.federation import enrolment
from server.federation.home import Home
from server.federation.registry import RegisteredSite, Registry
from tests.enrolling import NOW, holds, join, make_home, secrets_of_home

DAY = timedelta(days=1)


def _request(home: Home, folder: Path, *, now: datetime = NOW) -> str:
    """Invite a site and enrol it, without accepting it."""
    joining.enrol(folder, enrolment.invite(home.path, folder.name, now=now), now=now)
    return joining.request_file(folder).read_text(encoding="utf-8")


def _site(home: Home, name: str) -> RegisteredSite:
    return next(site for site in Registry.open(home.path).sites() if site.name == name)


def test_a_site_is_invited_and_registered(tmp_path: Path) -> None:
    home = make_home(tmp_path / "centre")
    request = Registration.parse(_request(home, tmp_path / "north"))
    assert _site(home, "north").status == "invited"
    assert Registry.open(home.path).registered() == ()
    site = enrolment.accept(home.path, request.dump(), fingerprint=request.fingerprint, now=NOW + DAY)
    assert Registry.open(home.path).registered() == (site,)
    assert (site.node_key, site.receipt_key) == (request.node_key, request.receipt_key)
    assert not (home.codes / "north.json").exists()
    assert enrolment.accept(home.path, request.dump(), now=NOW + 99 * DAY) == site


def test_an_invitation_holds_no_key_of_the_centre(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    text = enrolment.invite(home.path, "north", now=NOW).dump()
    assert "PRIVATE" not in text
    assert not any(holds(text.encode(), secret) for secret in secrets_of_home(home))
    assert all(
        holds(path.read_bytes(), secret)
        for path, secret in zip((home.ca_key, home.server_key), secrets_of_home(home), strict=True)
    )  # the search finds what is there


@pytest.mark.parametrize("name", ["", "../north", "no rth", ".north", "n" * 65, "nörd", "north\n", "a/b"])
def test_names_that_cannot_be_files_are_refused(tmp_path: Path, name: str) -> None:
    home = make_home(tmp_path)
    with pytest.raises(ConfigurationError, match=r"Expected a site's name"):
        enrolment.invite(home.path, name, now=NOW)


def test_names_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    enrolment.invite(home.path, "north", now=NOW)
    with pytest.raises(ConfigurationError, match=r"there is a site 'north'"):
        enrolment.invite(home.path, "North", now=NOW)


def _expired(home: Home, request: str, _folder: Path) -> str:
    code = home.codes / "north.json"
    code.write_text(code.read_text().replace("2030-05-20", "2030-05-06"))
    return request


def _without_code(home: Home, request: str, _folder: Path) -> str:
    (home.codes / "north.json").unlink()
    return request


def _replaced(home: Home, request: str, _folder: Path) -> str:
    enrolment.invite(home.path, "north", now=NOW)
    return request


def _of_another_version(home: Home, request: str, _folder: Path) -> str:
    kept = json.loads((home.codes / "north.json").read_text())
    content = json.loads(request)
    del content["proof"]
    return Registration.make(**{**content, "version": "0.0.1"}, code=SecretStr(kept["code"])).dump()


def _of_other_keys(home: Home, request: str, folder: Path) -> str:
    join(home, folder.parent / "south")
    kept = json.loads((home.codes / "north.json").read_text())
    content = json.loads(request)
    del content["proof"]
    theirs = _site(home, "south")
    return Registration.make(**{**content, "node_key": theirs.node_key}, code=SecretStr(kept["code"])).dump()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda _home, text, _folder: text.replace('"north"', '"nerth"'),
            "run synofed federation invite nerth",
        ),
        (
            lambda _home, text, _folder: text.replace(VERSION, "9"),
            "does not fit the code of its latest",
        ),
        (lambda _home, text, _folder: text + "\n", "incomplete or was changed"),
        (
            lambda _home, request, _folder: enrolment.invite(_home.path, "x", now=NOW).dump(),
            "got an invitation",
        ),
        (_expired, r"expired on 2030-05-06 12:00 UTC.*invite north again"),
        (_replaced, "made from an earlier one"),
        (_of_another_version, r"Expected synofed .* at north, as at the centre, got 0\.0\.1"),
        (_of_other_keys, "has a key of south"),
        (
            lambda home, request, _folder: (home.codes / "north.json").unlink() or request,
            "Expected the code of north",
        ),
    ],
)
def test_each_request_that_does_not_fit_is_refused_for_its_own_reason(
    tmp_path: Path, spoil: Callable[[Home, str, Path], str], says: str
) -> None:
    home = make_home(tmp_path / "centre")
    request = spoil(home, _request(home, tmp_path / "north"), tmp_path / "north")
    before = home.registry.read_bytes()
    with pytest.raises(VerificationError, match=says):
        enrolment.accept(home.path, request, now=NOW)
    assert home.registry.read_bytes() == before
    assert _site(home, "north").status == "invited"


def test_a_request_with_another_fingerprint_than_the_site_read_out_is_refused(tmp_path: Path) -> None:
    home = make_home(tmp_path / "centre")
    request = _request(home, tmp_path / "north")
    with pytest.raises(VerificationError, match="somebody else may have written it"):
        enrolment.accept(home.path, request, fingerprint="ab cd " * 16, now=NOW)
    begins = Registration.parse(request).fingerprint[:16]
    with pytest.raises(VerificationError, match="of 64 digits, got 16: have the site read out all of it"):
        enrolment.accept(home.path, request, fingerprint=begins, now=NOW)
    told = Registration.parse(request).fingerprint.upper()
    in_groups = ":".join(told[start : start + 2] for start in range(0, 64, 2))
    assert enrolment.accept(home.path, request, fingerprint=in_groups, now=NOW).status == "registered"


def test_a_code_serves_for_fourteen_days(tmp_path: Path) -> None:
    home = make_home(tmp_path / "centre")
    for name, days, good in (("north", 13.9, True), ("south", 14, False)):
        request = _request(home, tmp_path / name)
        if good:
            enrolment.accept(home.path, request, now=NOW + days * DAY)
        else:
            with pytest.raises(VerificationError, match="expired"):
                enrolment.accept(home.path, request, now=NOW + days * DAY)


def test_a_centre_that_was_killed_between_registry_and_code_accepts_again(tmp_path: Path) -> None:
    home = make_home(tmp_path / "centre")
    request = _request(home, tmp_path / "north")
    code = (home.codes / "north.json").read_bytes()
    site = enrolment.accept(home.path, request, now=NOW)
    (home.codes / "north.json").write_bytes(code)
    assert enrolment.accept(home.path, request, now=NOW) == site
    assert not (home.codes / "north.json").exists()


def test_a_disk_that_is_full_is_told_and_nothing_is_half_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path / "centre")
    request = _request(home, tmp_path / "north")
    before = home.registry.read_bytes()

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    actions: tuple[Callable[[], object], ...] = (
        lambda: enrolment.accept(home.path, request, now=NOW),
        lambda: enrolment.revoke(home.path, "north", now=NOW),
    )
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for action in actions:
            with pytest.raises(
                ConfigurationError, match=r"No space left on device.*run the same command again"
            ):
                action()
    assert home.registry.read_bytes() == before
    assert enrolment.accept(home.path, _request(home, tmp_path / "north"), now=NOW).status == "registered"


def test_sites_that_are_invited_at_once_are_all_kept(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    names = [f"site-{index:02d}" for index in range(12)]
    threads = [
        threading.Thread(target=enrolment.invite, args=(home.path, name), kwargs={"now": NOW})
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [site.name for site in Registry.open(home.path).sites()] == names


def test_adding_and_revoking_a_site_touches_no_other(tmp_path: Path) -> None:
    home = make_home(tmp_path / "centre")
    north = join(home, tmp_path / "north")
    enrolment.invite(home.path, "west", now=NOW)
    ours = {path: path.read_bytes() for path in (tmp_path / "north").rglob("*") if path.is_file()}
    code, west = (home.codes / "west.json").read_bytes(), _site(home, "west")
    join(home, tmp_path / "south")
    revoked = enrolment.revoke(home.path, "south", now=NOW)
    assert (revoked.status, _site(home, "south")) == ("revoked", revoked)
    assert Registry.open(home.path).registered() == (north,)
    assert (_site(home, "west"), (home.codes / "west.json").read_bytes()) == (west, code)
    assert {path: path.read_bytes() for path in (tmp_path / "north").rglob("*") if path.is_file()} == ours


def test_revoking_twice_changes_nothing_and_an_unknown_site_is_told(tmp_path: Path) -> None:
    home = make_home(tmp_path / "centre")
    join(home, tmp_path / "north")
    enrolment.revoke(home.path, "north", now=NOW)
    before = home.registry.read_bytes()
    enrolment.revoke(home.path, "north", now=NOW + DAY)
    assert home.registry.read_bytes() == before
    with pytest.raises(ConfigurationError, match=r"a site of the registry \(north\), got 'south'"):
        enrolment.revoke(home.path, "south", now=NOW)


def test_an_invitation_that_was_revoked_is_of_no_use(tmp_path: Path) -> None:
    home = make_home(tmp_path / "centre")
    request = _request(home, tmp_path / "north")
    enrolment.revoke(home.path, "north", now=NOW)
    with pytest.raises(VerificationError, match=r"north was revoked on 2030-05-06"):
        enrolment.accept(home.path, request, now=NOW)


def test_a_site_that_lost_its_keys_comes_back_with_new_ones_only(tmp_path: Path) -> None:
    home, folder = make_home(tmp_path / "centre"), tmp_path / "north"
    former = join(home, folder)
    with pytest.raises(ConfigurationError, match=r"run synofed federation revoke north first"):
        enrolment.invite(home.path, "north", now=NOW)
    enrolment.revoke(home.path, "north", now=NOW)
    with pytest.raises(VerificationError, match=r"a key that was revoked.*move its folder keys aside"):
        enrolment.accept(home.path, _request(home, folder), now=NOW)
    (folder / "keys").rename(tmp_path / "lost")
    back = join(home, folder, now=NOW + DAY)
    assert {back.node_key, back.receipt_key}.isdisjoint({former.node_key, former.receipt_key})
    assert Registry.open(home.path).registered() == (back,)
    assert Registry.open(home.path).revoked_keys() == {former.node_key, former.receipt_key}


def test_a_registered_site_cannot_change_its_keys_by_a_request(tmp_path: Path) -> None:
    home, folder = make_home(tmp_path / "centre"), tmp_path / "north"
    invitation = enrolment.invite(home.path, "north", now=NOW)
    joining.enrol(folder, invitation, now=NOW)
    site = enrolment.accept(home.path, joining.request_file(folder).read_text(), now=NOW)
    (folder / "keys").rename(tmp_path / "lost")
    joining.enrol(folder, invitation, now=NOW)
    with pytest.raises(VerificationError, match=r"north is registered with other keys"):
        enrolment.accept(home.path, joining.request_file(folder).read_text(), now=NOW)
    assert Registry.open(home.path).registered() == (site,)
