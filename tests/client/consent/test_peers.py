"""Keys of other sites, pinned by people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli.site_cli import site as commands
from client.consent import peers
from client.site import keys
from client.site.policy import Policy
from client.site.site import Site
from common.errors import ConfigurationError, PolicyError
from tests.site_folders import make_settings

KEY, OTHER = ("ab" * 32, "cd" * 32)
TOML = 'name = "north"  # a comment\n\n[policy]\nmethods = ["*"]\n{section}\n[compute]\nthreads = 1\n'
SECURE = "[federation.secure]\nsites = 5\nsurvivors = {survivors}\ncolluders = {colluders}\n"


def made(folder: Path, section: str = "") -> Site:
    folder.mkdir()
    (folder / "site.toml").write_text(TOML.format(section=section))
    return Site.open(folder)


@pytest.mark.parametrize("section", ["", "[peers]\n", "[peers]  # of others\n"])
def test_a_key_is_added_and_all_else_stays(tmp_path: Path, section: str) -> None:
    site = made(tmp_path / "north", section)
    peers.add(site, "south", KEY)
    peers.add(Site.open(site.folder), "west", keys.public_key(made(tmp_path / "west").folder))
    found = Site.open(site.folder)
    assert list(found.peers) == ["west", "south"] if section else ["south", "west"]
    assert found.peers["south"] == KEY
    assert found.file.compute.threads == 1
    assert "# a comment" in (site.folder / "site.toml").read_text()
    before = (site.folder / "site.toml").read_bytes()
    peers.add(found, "south", KEY)
    assert (site.folder / "site.toml").read_bytes() == before


def test_what_is_pinned_is_not_replaced_and_a_key_is_one_sites(tmp_path: Path) -> None:
    site = made(tmp_path / "north", f'[peers]\nsouth = "{KEY}"\n')
    for name, key, told in (
        ("south", OTHER, "as pinned before"),
        ("west", KEY, "one key twice"),
        ("west", "abc", "64 hex digits"),
        ("north", OTHER, "own key"),
        ("no name", OTHER, "no name"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            peers.add(site, name, key)
    inline = made(tmp_path / "inline")
    text = f'peers = {{ south = "{KEY}" }}\n' + (inline.folder / "site.toml").read_text()
    (inline.folder / "site.toml").write_text(text)
    with pytest.raises(ConfigurationError, match="by hand"):
        peers.add(Site.open(inline.folder), "west", OTHER)
    assert (inline.folder / "site.toml").read_text() == text


def test_the_commands(tmp_path: Path) -> None:
    site = made(tmp_path / "north")
    run = CliRunner()
    own = json.loads(run.invoke(commands, ["peers", "own", str(site.folder), "--json"]).stdout)
    assert own["key"] == keys.public_key(site.folder)
    assert "No keys yet" in run.invoke(commands, ["peers", "list", str(site.folder)]).stdout
    added = run.invoke(commands, ["peers", "add", str(site.folder), "south", KEY.upper()])
    assert added.exit_code == 0
    assert "is pinned" in added.stdout
    assert json.loads(run.invoke(commands, ["peers", "list", str(site.folder), "--json"]).stdout) == {
        "south": KEY
    }


@pytest.mark.parametrize(
    ("policy", "survivors", "colluders", "permitted"),
    [
        ({}, 3, 0, False),
        ({"allow_secure_only": True}, 3, 0, True),
        ({"allow_unprotected": True}, 3, 0, True),
        ({"allow_secure_only": True, "minimum_peers": 3}, 3, 0, False),
        ({"allow_secure_only": True, "minimum_peers": 3}, 4, 0, True),
        ({"allow_secure_only": True, "colluders": 1}, 4, 0, False),
        ({"allow_secure_only": True, "colluders": 1}, 4, 1, True),
        ({"allow_secure_only": True, "minimum_peers": 3, "few_peers": "full_noise"}, 3, 0, False),
    ],
)
def test_what_a_policy_asks_of_sums(
    policy: dict[str, object], survivors: int, colluders: int, permitted: bool
) -> None:
    settings = make_settings(text=SECURE.format(survivors=survivors, colluders=colluders))
    own = Policy.model_validate({"metrics": ["counts"], "methods": ["*"], **policy})
    if permitted:
        own.check_plan(settings)
    else:
        with pytest.raises(PolicyError, match=r"policy\.(allow_secure_only|minimum_peers)"):
            own.check_plan(settings)


def test_settings_that_hide_nobody_are_refused() -> None:
    for text, told in (
        (SECURE.format(survivors=2, colluders=0), "at least 3 survivors"),
        (SECURE.format(survivors=3, colluders=2), "colluders"),
        ('[federation]\nrule = "median"\n' + SECURE.format(survivors=3, colluders=0), "rule mean"),
        ('[federation]\noutliers = "flag"\n' + SECURE.format(survivors=3, colluders=0), "outliers off"),
        ('[federation]\nalgorithm = "scaffold"\n' + SECURE.format(survivors=3, colluders=0), "fedavg"),
        (
            SECURE.format(survivors=3, colluders=0) + "[privacy]\npatients = 9\nnoise_multiplier = 2.0\n",
            'method "probe"',
        ),
    ):
        with pytest.raises(ConfigurationError, match=told):
            make_settings(text=text)
    without = make_settings()
    assert "secure" not in without.plan_json()


def test_a_plan_whose_noise_a_fellow_site_sees_less_of_does_not_run() -> None:
    """Approved before, or sent by another centre than ours."""
    text = SECURE.format(survivors=4, colluders=1) + "[privacy]\npatients = 9\nnoise_multiplier = 2.0\n"
    settings = make_settings(method="probe", weights="imagenet", text=text)
    own = Policy.model_validate({"methods": ["*"], "maximum_epsilon": 9.0})
    own.check_plan(settings)
    assert settings.federation.secure is not None
    secure = settings.federation.secure.model_copy(update={"colluders": 0})
    federation = settings.federation.model_copy(update={"secure": secure})
    with pytest.raises(PolicyError, match="needs colluders of at least 1"):
        own.check_plan(settings.model_copy(update={"federation": federation}))
