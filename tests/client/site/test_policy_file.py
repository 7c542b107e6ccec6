import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.log import chain
from client.site import officer, policy_file
from client.site.site import Site
from common.errors import ConfigurationError, DataError, PolicyError, VerificationError
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


EARLIER = 'name = "north"\n\n[policy]  # ours\nmethods = ["rating"]\nmaximum_rounds = 20\n'
"""A policy as it was signed before there was a version."""
EARLIER_SIGNATURE = (
    '{"site":"north","serial":1,"signed":"2026-11-29T06:37:23+00:00",'
    '"public_key":"c86d01ad8b2fb694b22ff60e3c9d9e7ed90db5604772b74450d40913b9a9cbaf",'
    '"signature":"d17a408351d0072b21e674811aaea055f0fb623b6f812c10ed57a9ed3cff8753'
    'd53f3fddf6ac9bd8bd890282148b48f8cfa753baad299b1bc3440c195ef3be0d"}'
)
"""Of it by :data:`OFFICER`, as `site policy sign` of commit 3f4dde5 wrote it."""


def test_a_policy_that_was_signed_before_there_was_a_version_counts_as_it_was(folder: Path) -> None:
    (folder / "site.toml").write_text(EARLIER, encoding="utf-8")
    (folder / policy_file.NAME).write_text(EARLIER_SIGNATURE, encoding="utf-8")
    admit(folder)
    policy = Site.open(folder).policy
    assert policy.version == 1
    assert "version" not in policy.model_dump()
    last = chain.last(folder / chain.NAME)
    assert last is not None
    assert last.content["policy"] == policy.model_dump(mode="json")


def test_signed_again_it_has_the_newest_version_and_nothing_else_is_changed(folder: Path) -> None:
    (folder / "site.toml").write_text(EARLIER, encoding="utf-8")
    (folder / policy_file.NAME).write_text(EARLIER_SIGNATURE, encoding="utf-8")
    admit(folder)
    with pytest.raises(PolicyError, match="signed with the officer's key"):
        sign(folder, OTHER)
    assert (folder / "site.toml").read_text(encoding="utf-8") == EARLIER
    before = policy_file.policy_hash(Site.open(folder))
    assert sign(folder) == 2
    text = (folder / "site.toml").read_text(encoding="utf-8")
    assert text == EARLIER.replace("# ours\n", "# ours\nversion = 2\n")
    admit(folder)
    assert policy_file.policy_hash(Site.open(folder)) != before
    assert sign(folder) == 3
    assert (folder / "site.toml").read_text(encoding="utf-8") == text
    (folder / "site.toml").write_text(EARLIER, encoding="utf-8")
    with pytest.raises(PolicyError, match="is not the one that was signed"):
        admit(folder)


def test_a_policy_that_cannot_be_given_a_version_is_not_signed(folder: Path) -> None:
    text = 'name = "north"\npolicy.methods = ["rating"]\n'
    (folder / "site.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"add version = 2 there by hand"):
        sign(folder)
    assert (folder / "site.toml").read_text(encoding="utf-8") == text
    assert not (folder / policy_file.NAME).exists()


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


def test_whom_the_site_tells_of_a_campaign_is_no_part_of_what_was_signed(folder: Path) -> None:
    sign(folder)
    before = policy_file.policy_hash(Site.open(folder))
    with (folder / "site.toml").open("a", encoding="utf-8") as file:
        file.write('\n[notify]\ncommand = ["/usr/local/bin/tell", "--all"]\n')
    site = Site.open(folder)
    assert site.file.notify.command == ("/usr/local/bin/tell", "--all")
    assert (policy_file.policy_hash(site), policy_file.check(site).serial) == (before, 1)
    admit(folder)
    assert events(folder) == ["officer", "policy"]
