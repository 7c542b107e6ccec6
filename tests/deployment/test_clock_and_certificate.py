"""A site whose clock is off, a centre whose certificate has expired: each is told, and mended without a new kit."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server.federation import provision
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@pytest.mark.skipif(not FAKETIME, reason="needs libfaketime (Debian's package faketime)")
@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_clock_off_by_an_hour_is_told_and_the_site_is_back_when_it_is_set(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, offset: str
) -> None:
    name = SITES[2]
    federation.end(name)
    before = len(federation.said(name))
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(FAKETIME[0]))
        patch.setenv("FAKETIME", offset)
        federation.join(name)
        federation.wait(lambda: "clock" in federation.said(name)[before:], what="a word about the clock")
        federation.end(name)
    federation.join(name)
    federation.wait(lambda: federation.online() == set(SITES), what="all sites connected again")


def test_an_expired_certificate_is_told_and_a_renewed_one_needs_no_new_kit(federation: Federation) -> None:
    name, home = SITES[0], federation.home.path
    provision.renew(home, now=datetime.now(UTC) - timedelta(days=400))
    federation.end(name)
    before = len(federation.said(name))
    federation.join(name)
    federation.wait(
        lambda: "has expired" in federation.said(name)[before:], what="a word about the certificate"
    )
    provision.renew(home, now=datetime.now(UTC))
    federation.wait(lambda: federation.online() == set(SITES), what="all sites connected again")
