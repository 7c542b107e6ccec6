"""A change of the policy in words, and in ``site.toml`` with everything else as it stood."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from client.site import policy_file, policy_words
from client.site.policy import Policy
from client.site.site import Site
from common.errors import ConfigurationError

EXAMPLE = Path(__file__).parents[3] / "configs" / "site.example.toml"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "site.toml").write_bytes(EXAMPLE.read_bytes())
    return Site.open(tmp_path)


def lines(site: Site) -> list[str]:
    return (site.folder / "site.toml").read_text(encoding="utf-8").splitlines()


def test_every_setting_has_words_and_a_kind() -> None:
    assert set(policy_words.WORDS) | policy_words.NEVER == set(Policy.model_fields)
    kinds = {name: policy_words.kind(name)[0] for name in policy_words.WORDS}
    assert {name for name, kind in kinds.items() if kind == "number"} == {
        "maximum_rounds",
        "minimum_cohort",
        "diagnosis_cohort",
        "maximum_update_bytes",
        "maximum_epsilon",
        "maximum_delta",
        "minimum_peers",
        "colluders",
        "keep_outbox_days",
    }
    assert policy_words.kind("few_peers") == ("choice", ("refuse", "full_noise"))


@pytest.mark.parametrize(
    ("values", "permits"),
    [
        ({"allow_unprotected": True}, "more"),
        ({"maximum_rounds": 999}, "less"),
        ({"maximum_epsilon": 1.0}, "more"),
        ({"minimum_cohort": 6}, "less"),
        ({"diagnosis": True}, "more"),
        ({"diagnosis_cohort": 19}, "more"),
        ({"colluders": 1}, "less"),
        ({"metrics": ["losses"]}, "more"),
        ({"out_of_memory": "cpu"}, ""),
        ({"hours": ["sat-sun"]}, ""),
    ],
)
def test_a_change_says_whether_more_is_permitted(values: dict[str, object], permits: str) -> None:
    before = policy_words.renewed(Policy(), {})
    (change,) = policy_words.changes(before, policy_words.renewed(before, values))
    assert change.permits == permits


def test_what_is_added_counts_whatever_is_taken_out_beside_it() -> None:
    before = policy_words.renewed(Policy(), {"methods": ["rating", "probe"]})
    (change,) = policy_words.changes(before, policy_words.renewed(before, {"methods": ["andersen"]}))
    assert (change.permits, change.sentence) == ("more", "Methods that may run: rating, probe → andersen")


def test_a_budget_that_goes_permits_less() -> None:
    before = policy_words.renewed(Policy(), {"maximum_epsilon": 3})
    (change,) = policy_words.changes(before, policy_words.renewed(before, {"maximum_epsilon": None}))
    assert (change.permits, change.sentence.rpartition(": ")[2]) == ("less", "3 → no private campaign")


def test_signing_brings_the_newest_version_and_says_so() -> None:
    (change,) = policy_words.changes(Policy(), policy_words.renewed(Policy(), {}))
    assert change.sentence.startswith("Version: 1 → 2")
    with pytest.raises(ValidationError):
        policy_words.renewed(Policy(), {"minimum_cohort": 0})


def test_a_policy_is_written_line_by_line_and_remarks_stay(site: Site) -> None:
    before = lines(site)
    values = {
        "maximum_rounds": 12,
        "methods": ["rating"],
        "maximum_epsilon": 3.5,
        "hours": ["mon-fri 19:00-07:00"],
    }
    wished = policy_words.renewed(site.policy, values)
    site = policy_file.put(site, wished)
    assert site.policy == Site.open(site.folder).policy == wished
    after = lines(site)
    assert [line for line in after if line not in before] == [
        "maximum_epsilon = 3.5",
        'hours = ["mon-fri 19:00-07:00"]',
        'methods = ["rating"]                # for example ["rating"]; ["*"]: all that are built in',
        "maximum_rounds = 12       # of a campaign, all its stages together",
    ]
    site = policy_file.put(site, policy_words.renewed(wished, {"maximum_epsilon": None, "hours": []}))
    assert "maximum_epsilon = 3.5" not in lines(site)
    assert site.policy.maximum_epsilon is None


def test_a_setting_over_several_lines_is_replaced_as_a_whole(tmp_path: Path) -> None:
    text = (
        'name = "n"\n[policy]\nmethods = [\n  "rating",  # one\n  "probe",\n]  # both\nminimum_cohort = 3\n'
    )
    (tmp_path / "site.toml").write_text(text, encoding="utf-8")
    site = Site.open(tmp_path)
    policy_file.put(site, site.policy.model_copy(update={"methods": ("andersen",)}))
    assert lines(site) == [
        'name = "n"', "[policy]", 'methods = ["andersen"]  # both', "minimum_cohort = 3"
    ]  # fmt: skip


def test_a_policy_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    text = 'name = "n"\npolicy.minimum_cohort = 3\n'
    (tmp_path / "site.toml").write_text(text, encoding="utf-8")
    site = Site.open(tmp_path)
    with pytest.raises(ConfigurationError, match="by hand"):
        policy_file.put(site, site.policy.model_copy(update={"minimum_cohort": 4}))
    assert (tmp_path / "site.toml").read_text(encoding="utf-8") == text
