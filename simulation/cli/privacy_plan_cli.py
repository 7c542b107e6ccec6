"""``synofed privacy plan``: what a private campaign would cost, whether it can learn anything, the annex to sign."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from client.site import policy_file
from client.site.site import Site
from common import settings as configuration
from common.errors import ConfigurationError
from common.machine import atomic
from common.privacy.accounting import accounting
from common.privacy.planning import budget_plan, designs, dpia, private_steps, utility
from common.privacy.planning.budget_plan import Budget, Cohort, Plan
from common.privacy.planning.promise import Promise, SitePromise
from common.sections.secure import SecureSettings, overstated
from common.settings import Settings
from common.text.overrides import SetOption
from common.text.terminal import Console
from common.version import VERSION
from simulation.cli import privacy_plan_view

USUAL_EPSILON = 3.0
"""What is planned for where neither the command nor the configuration says."""
USUAL_DELTA = 1e-5


def plan(
    config: Annotated[Path, typer.Argument(help="TOML configuration.")],
    sites: Annotated[int, typer.Option(max=10**6, help="Number of sites they are spread over.")],
    total_patients: Annotated[
        int | None, typer.Option(max=10**9, help="Number of training patients, all sites together; required.")
    ] = None,
    patients: Annotated[int | None, typer.Option(max=10**9, hidden=True)] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Epsilon that no patient may exceed; the plan finds the noise.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Noise multiplier of each step; the plan finds epsilon.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Delta; default: the configuration's privacy.delta, or 1e-5.")
    ] = None,
    overrides: SetOption = None,
    annex: Annotated[
        Path | None,
        typer.Option(
            "--dpia", metavar="FILE.html", help="Write the annex to be signed, and its .json next to it."
        ),
    ] = None,
    site_folder: Annotated[
        Path | None, typer.Option(help="Folder of the site that signs the annex, to include its policy.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show what differential privacy would cost, design by design, before anything is spent."""
    if epsilon is not None and noise_multiplier is not None:
        raise typer.BadParameter("Expected --epsilon or --noise-multiplier, not both")
    if site_folder is not None and annex is None:
        raise typer.BadParameter("Expected --site-folder with --dpia only")
    if total_patients is not None and patients is not None:
        raise typer.BadParameter("Expected --total-patients alone: --patients is its former name")
    everybody = patients if total_patients is None else total_patients
    if everybody is None:
        raise typer.BadParameter("Expected --total-patients: the training patients of all sites together")
    settings = configuration.load(config, overrides=overrides or [])
    cohort = cohort_of(settings.federation.secure, patients=everybody, sites=sites)
    budget = budget_of(settings, epsilon=epsilon, noise_multiplier=noise_multiplier, delta=delta)
    with Console(stderr=True, quiet=as_json).status("accounting for each design"):
        found = make(settings, cohort=cohort, budget=budget)
    written = () if annex is None else write_annex(annex, settings, found, site_folder=site_folder)
    if as_json:
        typer.echo(
            json.dumps(privacy_plan_view.as_json(settings, found) | {"written": list(map(str, written))})
        )
        return
    console = Console()
    console.print(privacy_plan_view.table(settings.name, found))
    for line in privacy_plan_view.lines(settings, found):
        console.print(line)
    if written:
        console.print(f"Written: {', '.join(map(str, written))}")


def cohort_of(secure: SecureSettings | None, *, patients: int, sites: int) -> Cohort:
    """Whom to train on, with the configuration's secure aggregation where it has one.

    Raises:
        ConfigurationError: for values out of range, or sums whose noise a fellow site would see less of.
    """
    if secure is None:
        return Cohort(patients=patients, sites=sites)
    if problem := overstated(secure):  # where the configuration has no noise yet, it is no error there
        raise ConfigurationError(problem)
    return Cohort(patients=patients, sites=sites, survivors=secure.survivors, colluders=secure.colluders)


def budget_of(
    settings: Settings, *, epsilon: float | None, noise_multiplier: float | None, delta: float | None
) -> Budget:
    """What the command says, or else the configuration, or else epsilon 3.

    Raises:
        ConfigurationError: for values out of range.
    """
    privacy = settings.privacy
    if epsilon is None and noise_multiplier is None:
        noise_multiplier = privacy.noise_multiplier if privacy is not None and settings.private else None
        epsilon = USUAL_EPSILON if noise_multiplier is None else None
    if delta is None:
        delta = USUAL_DELTA if privacy is None else privacy.delta
    return Budget(
        delta=delta,
        sample_rate=1.0 if privacy is None else privacy.sample_rate,
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
    )


def make(settings: Settings, *, cohort: Cohort, budget: Budget) -> Plan:
    """The plan, with the committed table of phantom runs.

    Raises:
        ConfigurationError: if the method or the cohort cannot be.
    """
    table = utility.read(files("common.privacy.planning").joinpath("utility.csv").read_text(encoding="utf-8"))
    return budget_plan.plan(
        designs.designs(settings),
        cohort=cohort,
        budget=budget,
        chosen=designs.configured(settings.method),
        secure_aggregation=settings.federation.secure is not None,
        steps_per_round=private_steps.steps_per_round(settings),
        table=table,
    )


def write_annex(page: Path, settings: Settings, found: Plan, *, site_folder: Path | None) -> Sequence[Path]:
    """Write the annex and, beside it, its promise.

    Raises:
        ConfigurationError: if the plan is not the configuration's, or ``page`` is not named ``.html``.
        DataError: if the site's folder cannot be read.
    """
    if page.suffix != ".html":
        raise ConfigurationError(f"Expected --dpia to name an .html file, got {page}")
    from common.machine import pretrained  # noqa: PLC0415  torch

    dpia.check(settings, found)
    settings = pretrained.resolved(settings)
    promised = dpia.promise(
        settings,
        found,
        plan_hash=settings.plan_hash(),
        leaves=designs.leaves(settings),
        version=VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        site=None if site_folder is None else _site(Site.open(site_folder), found),
    )
    beside = page.with_suffix(".json")
    _write(beside, promised)
    atomic.write(page, dpia.render(promised, settings, found).encode())
    return page, beside


def _write(path: Path, promised: Promise) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, (promised.model_dump_json(indent=2) + "\n").encode())


def _site(site: Site, found: Plan) -> SitePromise:
    """The site's policy, and what the campaign costs at its delta."""
    steps = accounting.PrivateSteps(
        sample_rate=found.budget.sample_rate,
        noise_multiplier=found.chosen.noise_multiplier,
        count=found.chosen.design.charged,
    )
    return SitePromise(
        site=site.name,
        policy_hash=policy_file.policy_hash(site),
        maximum_epsilon=site.policy.maximum_epsilon,
        maximum_delta=site.policy.maximum_delta,
        epsilon=accounting.epsilon([steps], delta=site.policy.maximum_delta),
        keep_outbox_days=site.policy.keep_outbox_days,
    )
