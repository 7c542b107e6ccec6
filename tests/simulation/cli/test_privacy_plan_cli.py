import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client.site import policy_file
from client.site.site import Site
from common import settings as configuration
from common.errors import ConfigurationError, SynofedError, VerificationError
from common.privacy.planning import promise
from simulation.cli.privacy_cli import privacy
from tests.site_folders import make_site_folder

PLAIN = """\
name = "one-network"
method = "rating"
[campaign]
purpose = "Grades of synovitis <for research>"
recipients = ["Hospital A & B"]
[images.gs]
kind = "grey"
[measurements.hypertrophy]
images = ["gs"]
[network]
width = 8
[training]
local_steps = 2
[rating]
codes = "classes"
models = 1
replicas = 1
[federation]
rounds = 30
"""
PRIVATE = PLAIN + "[privacy]\nnoise_multiplier = 10.78\npatients = 90\n"
"""Sixty steps of the whole cohort: epsilon 2.997 at delta 1e-5."""
FIVE = ("--total-patients", "450", "--sites", "5")


@pytest.fixture
def private(tmp_path: Path) -> Path:
    path = tmp_path / "private.toml"
    path.write_text(PRIVATE, encoding="utf-8")
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.toml"
    path.write_text(PLAIN, encoding="utf-8")
    return path


def run(config: Path, *arguments: str, cohort: Sequence[str] = FIVE) -> Result:
    return CliRunner().invoke(privacy, ["plan", str(config), *cohort, *arguments])


def planned(config: Path, *arguments: str, cohort: Sequence[str] = FIVE) -> dict[str, Any]:
    result = run(config, "--json", *arguments, cohort=cohort)
    assert result.exception is None, result.exception
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def refused(config: Path, *arguments: str, cohort: Sequence[str] = FIVE) -> SynofedError:
    error = run(config, *arguments, cohort=cohort).exception
    assert isinstance(error, SynofedError)
    return error


def test_epsilon_of_the_configured_noise(private: Path) -> None:
    content = planned(private)
    assert content["private"] is True
    assert content["chosen"]["design"]["key"] == "networks"
    assert content["chosen"]["design"]["charged"] == 60
    assert content["chosen"]["epsilon"] == pytest.approx(2.997, abs=0.001)
    assert content["chosen"]["verdict"] == "doubtful"
    assert content["consequences"]["odds"] == pytest.approx(20, abs=0.1)
    assert content["consequences"]["two_sites"] == pytest.approx(4.459, abs=0.001)
    keys = [(one["design"]["key"], one["secure_aggregation"]) for one in content["designs"]]
    assert keys == [(k, s) for k in ("published", "networks", "head_folds", "heads") for s in (False, True)]
    sixty = content["designs"][0]
    assert sixty["design"]["charged"] == 60 * content["chosen"]["design"]["charged"]
    assert sixty["epsilon"] > 10 * content["chosen"]["epsilon"]
    assert all(one["loss"] is None for one in content["designs"] if not one["design"]["heads"])


def test_noise_for_an_epsilon_in_a_configuration_without_privacy(plain: Path) -> None:
    content = planned(
        plain, "--epsilon", "8", "--delta", "1e-6", cohort=("--total-patients", "90", "--sites", "1")
    )
    assert content["private"] is False
    assert content["budget"]["delta"] == 1e-6
    assert 7.9 < content["chosen"]["epsilon"] <= 8
    text = "\n".join(content["text"])
    assert "this is what it would be" in text
    assert f"noise_multiplier = {content['chosen']['noise_multiplier']:g}" in text
    assert not any(one["secure_aggregation"] for one in content["designs"])


def test_the_printed_lines_make_the_configuration_private(plain: Path, tmp_path: Path) -> None:
    found = planned(plain, "--epsilon", "3")
    lines = next(line for line in found["text"] if line.startswith("Write into"))
    written = tmp_path / "written.toml"
    written.write_text(PLAIN + lines.partition("\n")[2] + "\n", encoding="utf-8")
    content = planned(written)
    assert content["private"] is True
    assert content["chosen"]["epsilon"] == found["chosen"]["epsilon"]


def test_epsilon_three_is_planned_for_where_nobody_says(plain: Path) -> None:
    assert planned(plain)["budget"]["epsilon"] == 3


def test_the_table_on_a_terminal(private: Path) -> None:
    result = run(private)
    assert result.exception is None
    shown = result.stdout
    for words in ("as configured", "doubtful", "20-fold", "two sites", "10.78", "epsilon", "together"):
        assert words in " ".join(shown.split()), shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_delta_that_permits_to_publish_somebody_is_named(private: Path) -> None:
    assert "permits to publish one" in "\n".join(planned(private, "--delta", "0.01")["text"])


def test_what_cannot_be_is_refused(private: Path, tmp_path: Path) -> None:
    for cohort in (("--total-patients", "0", "--sites", "1"), ("--total-patients", "2", "--sites", "3")):
        assert refused(private, cohort=cohort).exit_code == 3
    for option in (("--epsilon", "0"), ("--epsilon", "nan"), ("--noise-multiplier", "0"), ("--delta", "1")):
        assert refused(private, *option).exit_code == 3
    assert refused(tmp_path / "nowhere.toml").exit_code == 3
    assert run(private, "--epsilon", "1", "--noise-multiplier", "1").exit_code == 2
    assert run(private, "--site-folder", str(tmp_path)).exit_code == 2
    assert run(private, cohort=("--sites", "1")).exit_code == 2


def test_patients_is_the_former_name_of_total_patients(private: Path) -> None:
    assert planned(private, cohort=("--patients", "450", "--sites", "5")) == planned(private)
    both = run(private, cohort=("--patients", "450", *FIVE))
    assert both.exit_code == 2
    assert "--patients is its former name" in " ".join(both.output.replace("│", " ").split())
    shown = run(private, "--help").output
    assert "--total-patients" in shown
    assert "--patients" not in shown.replace("--total-patients", "")


def test_the_annex_and_its_promise(private: Path, tmp_path: Path) -> None:
    site = make_site_folder(tmp_path / "north", name="north", patients=1)
    toml = site / "site.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + "maximum_epsilon = 2.5\nmaximum_delta = 1e-6\n")
    page = tmp_path / "signed" / "annex.html"
    written = planned(private, "--dpia", str(page), "--site-folder", str(site))["written"]
    assert written == [str(page), str(page.with_suffix(".json"))]
    promised = promise.read(page.with_suffix(".json").read_text(encoding="utf-8"))
    settings = configuration.load(private)
    assert promised.plan_hash == settings.plan_hash()
    assert (promised.noise_multiplier, promised.steps, promised.rounds) == (10.78, 60, 30)
    assert promised.leaves == {"rating/fold0/hypertrophy/grades/a": 20172}
    assert promised.site is not None
    assert promised.site.policy_hash == policy_file.policy_hash(Site.open(site))
    assert promised.site.epsilon > promised.epsilon  # at a smaller delta
    html = page.read_text(encoding="utf-8")
    for words in (
        "risk-reducing measure",
        "Grades of synovitis &lt;for research&gt;",
        "Hospital A &amp; B",
        promised.plan_hash,
        promised.site.policy_hash,
        "the site will refuse it",
        "Privacy officer",
        "Signature",
        "20-fold",
        "<code>synofed site outbox show</code>",
    ):
        assert words in html, words
    assert "<script" not in html
    assert not re.findall(r'(?:src|href)\s*=\s*"', html)


def test_an_annex_without_a_site_leaves_its_policy_to_be_filled_in(private: Path, tmp_path: Path) -> None:
    page = tmp_path / "annex.html"
    planned(private, "--dpia", str(page))
    assert promise.read(page.with_suffix(".json").read_text(encoding="utf-8")).site is None
    assert page.read_text(encoding="utf-8").count('class="fill"') >= 9


def test_no_annex_for_another_plan_than_the_configurations(
    private: Path, plain: Path, tmp_path: Path
) -> None:
    page = tmp_path / "annex.html"
    for config, *options in ((private, "--epsilon", "2"), (private, "--delta", "1e-6"), (plain,)):
        error = refused(config, "--dpia", str(page), *options)
        assert isinstance(error, ConfigurationError)
        assert "noise_multiplier = " in str(error)
    assert "an .html file" in str(refused(private, "--dpia", str(tmp_path / "annex.pdf")))
    assert refused(private, "--dpia", str(page), "--site-folder", str(tmp_path / "nowhere")).exit_code == 4
    assert not page.exists()


def test_a_promise_of_another_format_is_refused() -> None:
    with pytest.raises(VerificationError, match="Expected a promise"):
        promise.read('{"format": "synofed promise 2"}')


SUMMED = [
    argument
    for setting in ("sites=5", "survivors=4", "colluders=1")
    for argument in ("--set", f"federation.secure.{setting}")
]


def test_epsilon_is_told_against_each_onlooker(tmp_path: Path) -> None:
    """Of sums, whose noise the sites share out: the centre, a fellow site, an outsider; and how many may drop out."""
    config = Path("configs/rating_private.toml")
    content = planned(config, *SUMMED)
    found = content["consequences"]["onlookers"]
    assert found["centre"] == pytest.approx(content["chosen"]["epsilon"])
    assert found["fellow"] == pytest.approx(2.997, abs=1e-3)
    assert found["outsider"] == pytest.approx(2.547, abs=1e-3)
    text = "\n".join(content["text"])
    assert "against another site that takes part, by itself: 2.997" in text
    assert "4 of 5 sites, so that 1 may drop out of a round; with three sites none may, with four one" in text
    assert planned(config)["consequences"]["onlookers"] is None


def test_noise_shared_out_without_colluders_is_not_planned_for(private: Path, plain: Path) -> None:
    alone = [*SUMMED[:-1], "federation.secure.colluders=0"]
    for config in (Path("configs/rating_private.toml"), plain):
        error = refused(config, *alone)
        assert isinstance(error, ConfigurationError)
        assert "needs colluders of at least 1, got 0" in str(error)
