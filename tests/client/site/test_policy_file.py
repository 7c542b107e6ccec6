import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.log import chain
from client.site import officer, policy_file
from client.site.site import Site
from common.errors import DataError, PolicyError, VerificationError
from common.messages import Signed
from tests import asking
from tests.site_folders import make_site_folder

OFFICER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"x" * 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An enrolled site."""
    made = make_site_folder(tmp_path / "north", name="north", patients=1)
    (made / "federation.json").write_text("{}", encoding="utf-8")
    return made


def admit(folder: Path) -> None:
    policy_file.admit(Site.open(folder))


def sign(folder: Path, key: Ed25519PrivateKey = OFFICER, *, new_officer: bool = False) -> int:
    return policy_file.sign(Site.open(folder), key, new_officer=new_officer).serial


def events(folder: Path) -> list[str]:
    return [str(entry.content["event"]) for entry in chain.entries(folder / chain.NAME)]


def permit_more(folder: Path) -> None:
    asking.change_policy(folder, "minimum_cohort = 1", "minimum_cohort = 1\nmaximum_rounds = 77")


def test_a_site_of_no_federation_needs_no_signature(folder: Path) -> None:
    (folder / "federation.json").unlink()
    admit(folder)
    assert events(folder) == ["policy"]


def test_an_enrolled_site_needs_its_officers_signature(folder: Path) -> None:
    with pytest.raises(PolicyError, match=r"there is no .*policy\.sig: have the privacy officer sign it"):
        admit(folder)
    assert sign(folder) == 1
    for _ in range(3):
        admit(folder)
    assert events(folder) == ["officer", "policy"]
    assert officer.pinned(folder) == OFFICER.public_key().public_bytes_raw().hex()


def test_a_policy_that_was_changed_after_it_was_signed_counts_no_more(folder: Path) -> None:
    sign(folder)
    permit_more(folder)
    with pytest.raises(PolicyError, match="is not the one that was signed"):
        admit(folder)
    assert sign(folder) == 2
    admit(folder)
    last = chain.last(folder / chain.NAME)
    assert last is not None
    assert last.content["event"] == "policy"
    assert last.content["serial"] == 2
    policy = last.content["policy"]
    assert isinstance(policy, dict)
    assert policy["maximum_rounds"] == 77


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content | {"serial": 9}, "is not the one that was signed"),
        (lambda content: content | {"site": "south"}, "is not the one that was signed"),
        (lambda content: content | {"signed": "2020-01-01T00:00:00+00:00"}, "is not the one that was signed"),
        (lambda content: content | {"signature": "0" * 128}, "is not the one that was signed"),
        (lambda content: content | {"more": 1}, "something else"),
        (lambda content: {}, "something else"),
    ],
)
def test_a_signature_that_was_changed_counts_no_more(
    folder: Path, change: Callable[[dict[str, object]], dict[str, object]], says: str
) -> None:
    sign(folder)
    place = folder / policy_file.NAME
    place.write_text(json.dumps(change(json.loads(place.read_text()))), encoding="utf-8")
    with pytest.raises(PolicyError, match=says):
        admit(folder)


def test_another_sites_signature_does_not_fit(folder: Path, tmp_path: Path) -> None:
    south = make_site_folder(tmp_path / "south", name="south", patients=1)
    (south / "federation.json").write_text("{}", encoding="utf-8")
    sign(south)
    sign(folder)
    (folder / policy_file.NAME).write_bytes((south / policy_file.NAME).read_bytes())
    with pytest.raises(PolicyError, match="is not the one that was signed"):
        admit(folder)


def test_only_the_first_officers_key_counts_until_the_officer_changes(folder: Path) -> None:
    sign(folder)
    with pytest.raises(PolicyError, match=r"signed with the officer's key .*--new-officer"):
        sign(folder, OTHER)
    assert sign(folder, OTHER, new_officer=True) == 2
    admit(folder)
    with pytest.raises(PolicyError, match="signed with the officer's key"):
        sign(folder)
    assert events(folder).count("officer") == 2


def test_a_key_that_was_removed_or_exchanged_at_the_site_is_noticed(folder: Path) -> None:
    sign(folder)
    place = officer.path(folder)
    kept = place.read_bytes()
    place.unlink()
    with pytest.raises(PolicyError, match="to be the one in the log"):
        admit(folder)
    officer.pin(folder, OTHER.public_key().public_bytes_raw().hex())
    with pytest.raises(PolicyError, match="to be the one in the log"):
        admit(folder)
    place.write_text("no key", encoding="utf-8")
    with pytest.raises(VerificationError, match="restore it from a backup"):
        admit(folder)
    place.write_bytes(kept)
    admit(folder)


def test_an_older_policy_that_is_put_back_counts_no_more(folder: Path) -> None:
    sign(folder)
    admit(folder)
    old = {name: (folder / name).read_bytes() for name in ("site.toml", policy_file.NAME)}
    permit_more(folder)
    sign(folder)
    admit(folder)
    for name, content in old.items():
        (folder / name).write_bytes(content)
    with pytest.raises(PolicyError, match="Expected the policy with serial 2 or a later one, got 1"):
        admit(folder)


def test_two_policies_of_one_serial_are_noticed(folder: Path, tmp_path: Path) -> None:
    sign(folder)
    first = (folder / policy_file.NAME).read_bytes(), (folder / "site.toml").read_bytes()
    log = (folder / chain.NAME).read_bytes()
    entered = log.splitlines(keepends=True)
    (folder / chain.NAME).write_bytes(entered[0])  # as if the first had never been met
    permit_more(folder)
    assert sign(folder) == 1
    (folder / policy_file.NAME).write_bytes(first[0])
    (folder / "site.toml").write_bytes(first[1])
    with pytest.raises(PolicyError, match="Serial 1 was given to another policy"):
        admit(folder)


def test_through_the_app_everything_is_refused_until_the_policy_is_signed(tmp_path: Path) -> None:
    centre = asking.Centre(
        asking.site(tmp_path / "north", policy=asking.CAUTIOUS + 'approval = "automatic"\n')
    )
    (centre.folder / "federation.json").write_text("{}", encoding="utf-8")
    centre.refused(centre.plan(centre.plan_request()), "policy", says="there is no")
    sign(centre.folder)
    assert isinstance(centre.plan(centre.plan_request()), Signed)
    asking.change_policy(centre.folder, "maximum_rounds = 20", "maximum_rounds = 21")
    centre.refused(centre.train(centre.train_request()), "policy", says="is not the one that was signed")


def test_the_officers_key_is_made_once_and_opens_with_its_passphrase(tmp_path: Path) -> None:
    place = tmp_path / "officer.pem"
    with pytest.raises(DataError, match="12 characters"):
        officer.make(place, passphrase="short")
    public_key = officer.make(place, passphrase="correct horse battery")
    assert place.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in place.read_bytes()
    opened = officer.load(place, passphrase="correct horse battery")
    assert opened.public_key().public_bytes_raw().hex() == public_key
    with pytest.raises(VerificationError, match="does not open"):
        officer.load(place, passphrase="wrong horse battery")
    with pytest.raises(DataError, match="never replaced"):
        officer.make(place, passphrase="correct horse battery")
    with pytest.raises(DataError, match="officer's key at"):
        officer.load(tmp_path / "none", passphrase="")
