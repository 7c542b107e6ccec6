"""A site whose officer has a key, and campaigns that wait there."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.log import chain
from client.officer import answering
from client.officer.question import Answer, Question
from client.officer.spool import Spool
from client.site import officer, policy_file
from client.site.site import Site
from tests import asking
from tests.asking import Centre

KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"x" * 32)
PASSPHRASE = "correct horse battery"


def public(key: Ed25519PrivateKey = KEY) -> str:
    return key.public_key().public_bytes_raw().hex()


def enrolled(folder: Path) -> Path:
    """A site of a federation, whose policy nobody has signed yet."""
    made = asking.site(folder)
    (made / "federation.json").write_text("{}", encoding="utf-8")
    return made


def signed(folder: Path, key: Ed25519PrivateKey = KEY) -> Path:
    """A site whose officer has signed its policy."""
    made = enrolled(folder)
    policy_file.sign(Site.open(made), key)
    return made


def keyed(base: Path) -> tuple[Path, tuple[object, ...]]:
    """A site whose policy is signed, and how the officer's key is named to the command."""
    site = enrolled(base / "north")
    key, phrase = base / "officer.pem", base / "passphrase"
    officer.make(key, passphrase=PASSPHRASE)
    phrase.write_text(f"{PASSPHRASE}\n", encoding="utf-8")
    policy_file.sign(Site.open(site), officer.load(key, passphrase=PASSPHRASE))
    return site, ("--key", key, "--passphrase-file", phrase)


def waiting(folder: Path, *, purpose: str = "Score synovitis", rounds: int = 3, name: str = "spring") -> str:
    """A campaign that waits at a site."""
    settings = asking.settings('[campaign]\nrecipients = ["Odense"]')
    federation = settings.federation.model_copy(update={"rounds": rounds})
    campaign = settings.campaign.model_copy(update={"purpose": purpose})
    settings = settings.model_copy(update={"federation": federation, "campaign": campaign, "name": name})
    centre = Centre(folder, settings)
    centre.refused(centre.plan(centre.plan_request()), "unapproved", says="Nobody has approved")
    return settings.plan_hash()


def asked(folder: Path) -> Question:
    """The one question that a site asks."""
    (question,) = Spool.of(Site.open(folder)).questions()
    return question


def answered(folder: Path, key: Ed25519PrivateKey = KEY) -> Answer:
    """The officer's process agrees to the one question."""
    question = asked(folder)
    answer = answering.sign(answering.shown(question, public(key)), key)
    Spool.of(Site.open(folder)).put(answer)
    return answer


def became(folder: Path) -> tuple[str, str]:
    """What became of the last question."""
    last = Spool.of(Site.open(folder)).settled()[0]
    return last.outcome, last.said


def last(folder: Path) -> dict[str, object]:
    """The last entry of a site's log."""
    entry = chain.last(folder / chain.NAME)
    assert entry is not None
    return dict(entry.content)
