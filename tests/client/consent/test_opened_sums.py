"""Which sums a site has helped to open: noted before anything leaves, whatever groups and runs are called."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from client.consent import opened_sums
from client.site.site import Site
from client.state import decisions
from common.errors import PolicyError, StorageError
from common.secure_aggregation.terms import Context
from tests.site_folders import make_site_folder

CONTEXT = Context(
    plan_hash="ab" * 32, run="a" * 32, group="g", server_round=3, attempt="1" * 32, content="cd" * 32
)
OTHER = replace(CONTEXT, attempt="2" * 32)


@pytest.fixture(params=["each", "automatic"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    folder = make_site_folder(tmp_path / "site", patients=1, exams_per_patient=1)
    toml = folder / "site.toml"
    toml.write_text(toml.read_text().replace("automatic", request.param))
    return Site.open(folder)


def test_a_networks_round_is_opened_by_one_attempt(site: Site) -> None:
    opened_sums.check(site, CONTEXT, ["a", "b"])
    opened_sums.note(site, CONTEXT, ["a", "b"])
    opened_sums.note(site, CONTEXT, ["a", "b"])  # the same again, as after a crash
    for context in (OTHER, replace(OTHER, group="another")):
        for networks in (["a"], ["b", "c"]):
            with pytest.raises(PolicyError, match=r"not helped to open, got round 3 of \w once more"):
                opened_sums.check(site, context, networks)
            with pytest.raises(PolicyError, match="not helped to open"):
                opened_sums.note(site, context, networks)
    opened_sums.note(site, OTHER, ["c"])
    opened_sums.note(site, replace(OTHER, server_round=4), ["a", "b"])
    opened_sums.note(site, replace(OTHER, plan_hash="ef" * 32), ["a", "b"])


def test_a_run_is_what_the_centre_calls_it_unless_people_approve(site: Site) -> None:
    opened_sums.note(site, CONTEXT, ["a"])
    another = replace(OTHER, run="b" * 32)
    if site.policy.approval == "automatic":
        opened_sums.note(site, another, ["a"])
        with pytest.raises(PolicyError):
            opened_sums.check(site, OTHER, ["a"])  # the first run's is still known
    else:
        with pytest.raises(PolicyError, match="synofed site campaigns approve"):
            opened_sums.note(site, another, ["a"])
        opened_sums.forget(site.folder, CONTEXT.plan_hash)
        opened_sums.note(site, another, ["a"])
        with pytest.raises(PolicyError):
            opened_sums.note(site, CONTEXT, ["a"])


def test_a_second_approval_is_for_another_run(site: Site) -> None:
    """A site that had left and approved again opened the round of the same run a second time, over other sites."""
    opened_sums.note(site, CONTEXT, ["a"])
    for _ in range(2):
        opened_sums.forget(site.folder, CONTEXT.plan_hash)
        with pytest.raises(PolicyError, match="not helped to open"):
            opened_sums.check(site, OTHER, ["a"])
    opened_sums.check(site, OTHER, ["b"])
    opened_sums.note(site, replace(OTHER, run="b" * 32), ["a"])
    opened_sums.forget(site.folder, CONTEXT.plan_hash)
    for run in ("a", "b"):
        with pytest.raises(PolicyError, match="not helped to open"):
            opened_sums.note(site, replace(OTHER, run=run * 32, attempt="3" * 32), ["a"])
    opened_sums.note(site, replace(OTHER, run="c" * 32), ["a"])


def test_what_cannot_be_read_or_written_lets_nothing_be_opened(site: Site) -> None:
    place = decisions.folder(site.folder, CONTEXT.plan_hash) / opened_sums.FOLDER
    opened_sums.note(site, CONTEXT, ["a"])
    assert {path.stat().st_mode & 0o077 for path in place.iterdir()} == {0}
    for content in ("", "[]", '{"a": 3}', "\x00"):
        (place / "3.json").write_text(content)
        with pytest.raises(PolicyError, match="cannot be read: approve the campaign again"):
            opened_sums.check(site, CONTEXT, ["b"])
    opened_sums.forget(site.folder, CONTEXT.plan_hash)
    place.write_text("a file in the folder's place")
    with pytest.raises((StorageError, PolicyError)):
        opened_sums.note(site, CONTEXT, ["a"])


def test_of_many_attempts_at_once_one_is_opened(site: Site) -> None:
    def note(number: int) -> bool:
        try:
            opened_sums.note(
                site, replace(CONTEXT, attempt=f"{number:032x}", group=f"g{number}"), ["a", f"n{number}"]
            )
        except PolicyError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(note, range(24))) == 1
