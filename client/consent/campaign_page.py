"""The one page that somebody reads before approving a campaign: all that its hash covers, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

from client.consent import sum_tasks
from client.data import prospects
from client.site.site import Site
from client.state import approved_budget, decisions
from client.state.decisions import State
from common.encodings import update_bytes
from common.errors import SynofedError
from common.methods.rounds import rounds_by_stage
from common.methods.stages import networks, stacked
from common.privacy.planning import notice
from common.sections.methods import SPLIT_BY_IMAGE
from common.sections.secure import SecureSettings
from common.settings import Settings

SUMMED_BYTES = 8
TABLES = "tables"
NORMS = " of heads and of the norms of their public encoders"
BYTES_TITLE = "Bytes"
LATER = "sites that the centre admits later: they train, or judge the networks"
"""Among the recipients of a campaign whose list of sites may grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a campaign asks of a site.

    Attributes:
        plan_hash: what is approved.
        name: the campaign's name; not part of the plan.
        status: what the site decided, by whom and when.
        purpose: what the networks are for, as the centre says.
        recipients: who gets the networks, as the centre says.
        method: the published system.
        rounds: of all stages together, one that scores in each not counted.
        stages: stage -> rounds; empty if the policy forbids the campaign, whose code is not run then.
        images: that are read.
        measurements: what is graded -> number of grades.
        columns: that are read of the site's tables, and what is in them.
        networks: kind -> number of networks.
        reply_bytes: all updates of one round, at most.
        leaves: what leaves the site.
        stays: what the policy keeps, of what the centre could ask for.
        trains: what this site's exams would train, one line per measurement, and why not all; empty under
            differential privacy, where who is eligible is not decided by the policy's cohort, and of secure sums.
        takes_part: of sums without noise: in which tasks the site takes part, and what it has for each.
        guarantee: of differential privacy.
        objection: why the policy forbids the campaign; empty if it does not.
    """

    plan_hash: str
    name: str
    status: str
    purpose: str
    recipients: tuple[str, ...]
    method: str
    rounds: int
    stages: dict[str, int]
    images: tuple[str, ...]
    measurements: dict[str, int]
    columns: tuple[str, ...]
    diagnoses: tuple[str, ...]
    networks: dict[str, int]
    reply_bytes: int
    leaves: tuple[str, ...]
    stays: tuple[str, ...]
    trains: tuple[str, ...]
    takes_part: tuple[str, ...]
    guarantee: str
    objection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnExams:
    """The part of a page that only the site itself can say, since it is of its exams."""

    trains: tuple[str, ...] = ()
    takes_part: tuple[str, ...] = ()


def page(site: Site, plan_hash: str, state: State) -> Page:
    """The page of a campaign that a site was asked about.

    Raises:
        PolicyError: if its plan was changed.
        DataError: if it cannot be understood.
    """
    settings = decisions.plan(site, plan_hash, name=state.names[-1])
    return of_plan(site, plan_hash, settings, state, own=own_exams(site, settings, state))


def own_exams(site: Site, settings: Settings, state: State) -> OwnExams:
    """What a site's exams would train of a plan; nothing where the policy forbids it."""
    if _objection(site, settings):
        return OwnExams()
    told = not (settings.private or settings.federation.secure)
    return OwnExams(
        trains=_trains(site, settings) if told else (), takes_part=_takes_part(site, settings, state)
    )


def of_plan(site: Site, plan_hash: str, settings: Settings, state: State, *, own: OwnExams) -> Page:
    """The page of a plan under a site's policy; no file of the site is read for it."""
    objection = _objection(site, settings)
    found, size = ({}, 0) if objection else _networks(settings)
    stages = {} if objection else rounds_by_stage(settings)
    leaves, stays = (
        _private(settings)
        if settings.private
        else _metrics(site, settings, stacks=_stacks(settings, objection))
    )
    if settings.federation.secure is not None:
        leaves = (*_summed(settings.federation.secure), *leaves)
    decided = f", by {state.by} at {state.decided}" if state.by else ""
    return Page(
        plan_hash=plan_hash,
        name=state.names[-1],
        status=f"{state.status}{decided}",
        purpose=settings.campaign.purpose,
        recipients=settings.campaign.recipients + ((LATER,) if settings.campaign.late_joining else ()),
        method=settings.method,
        rounds=sum(stages.values()),
        stages=stages,
        images=tuple(settings.images),
        measurements={name: measured.grades for name, measured in settings.measurements.items()},
        columns=settings.columns,
        diagnoses=_diagnoses(site, settings),
        networks=found,
        reply_bytes=size,
        leaves=leaves,
        stays=stays,
        trains=own.trains,
        takes_part=own.takes_part,
        guarantee=" ".join(filter(None, (notice.sentence(settings), _again(site, settings, objection)))),
        objection=objection,
    )


def rows(page: Page) -> dict[str, tuple[str, ...]]:
    """The page as titles and their lines, for whatever shows it."""
    said = {
        "Campaign": page.name,
        "Hash": page.plan_hash,
        "Status": page.status,
        "Purpose": page.purpose or "not stated",
        "Recipients": ", ".join(page.recipients) or "not stated",
        "Method": page.method,
        "Rounds": f"{page.rounds} in all: {', '.join(f'{name} {count}' for name, count in page.stages.items())}"
        if page.stages
        else "not looked at",
        "Reads": f"images {', '.join(page.images)}; "
        + "; ".join(f"column {column}" for column in page.columns),
        "Diagnosis": "\n".join(page.diagnoses),
        "Networks": "; ".join(f"{count} {kind}" for kind, count in page.networks.items()) or "not looked at",
        "Trains": "\n".join(page.trains),
        "Leaves": "\n".join(page.leaves),
        BYTES_TITLE: f"at most {page.reply_bytes / 1e6:.1f} MB per round, through the whole campaign"
        if page.networks
        else "",
        "Stays here": "\n".join(page.stays),
        "Takes part": "\n".join(page.takes_part),
        "Privacy": page.guarantee,
        "Policy": f"REFUSES: {page.objection}" if page.objection else "permits this campaign",
    }
    return {name: tuple(value.split("\n")) for name, value in said.items() if value}


def text(page: Page) -> str:
    """The page for a terminal."""
    return aligned(rows(page))


def aligned(rows: Mapping[str, Sequence[str]]) -> str:
    """Rows for a terminal."""
    return "\n".join(
        f"{name if number == 0 and name != BYTES_TITLE else '':<11} {line}"
        for name, lines in rows.items()
        for number, line in enumerate(lines)
    )


def as_json(page: Page) -> dict[str, object]:
    """The page as JSON's types."""
    return asdict(page)


def _diagnoses(site: Site, settings: Settings) -> tuple[str, ...]:
    """What is learnt of patients' diagnoses, and who stands behind it."""
    if not settings.diagnoses:
        return ()
    learnt = (
        f"{name}: " + " or ".join("/".join(values) for values in settings.measurements[name].classes)
        for name in settings.diagnoses
    )
    behind = (
        "noise stands for the patients behind what leaves"
        if settings.private
        else f"behind each update of these at least {site.policy.diagnosis_cohort} patients of each class "
        f"(policy.diagnosis_cohort)"
    )
    return ("networks learn what disease a patient has, as the manifest names it:", *learnt, behind)


def _takes_part(site: Site, settings: Settings, state: State) -> tuple[str, ...]:
    if not settings.sums_tasks:
        return ()
    try:
        lines = sum_tasks.participation_lines(site, settings, state.without)
    except SynofedError as error:
        return (f"not known: {error}",)
    return (*lines, "the centre learns this, and it stays fixed for the campaign (`approve --without`)")


def _again(site: Site, settings: Settings, objection: str) -> str:
    """What an approval permits beyond one run without a mishap."""
    if objection or not settings.private:
        return ""
    budget = approved_budget.of(site, settings, after=0)
    return (
        f"An approval covers epsilon {budget.epsilon:.3f} (delta {budget.delta:g}): {budget.steps} private "
        f"steps, and "
        f"{budget.again} of them drawn a second time; a second run needs a second approval."
    )


def _objection(site: Site, settings: Settings) -> str:
    try:
        site.policy.check_plan(settings)
    except SynofedError as error:
        return str(error)
    return ""


def _networks(settings: Settings) -> tuple[dict[str, int], int]:
    """Networks by kind, and the bytes of all their updates; only after the policy permits the method's code."""
    from common.networks import build  # noqa: PLC0415  torch

    specs = list(networks(settings).values())
    layouts = [build.layout(spec, settings.network) for spec in specs]
    kinds = sorted(f"reading {'+'.join(spec.images)}" for spec in specs)
    encoding = settings.federation.encoding
    size = (
        sum(update_bytes(encoding, size=layout.size, trained=layout.trained_size) for layout in layouts)
        if settings.federation.secure is None
        else sum(SUMMED_BYTES * layout.size for layout in layouts)
    )
    return {kind: len(list(same)) for kind, same in groupby(kinds)}, size


def _trains(site: Site, settings: Settings) -> tuple[str, ...]:
    """What the site's tables have for the plan; said before anybody approves it."""
    try:
        found = prospects.prospects(site, settings)
    except SynofedError as error:
        return (f"nothing: {str(error).splitlines()[0]}",)
    warned = (f"WARNING: {SPLIT_BY_IMAGE}",) if settings.split_by == "image" else ()
    return (*warned, *(prospect.sentence(name) for name, prospect in found.items()))


def _beside_tables(settings: Settings, crowd: str) -> dict[str, str]:
    """What a policy permits beside tables of held-out patients, and not without them."""
    found: dict[str, str] = {}
    if settings.numbers:
        found["number_sums"] = (
            f"with the tables, by machine: sums over held-out exams of {', '.join(settings.numbers)} by readers and "
            f"by the ensemble, their squares, products and differences, {crowd}"
        )
    if settings.campaign.cases:
        found["cases"] = (
            f"with the tables, SINGLE EXAMS: of each held-out exam behind a table the readers' grade, the "
            f"ensemble's, whether the networks were divided, and where score_histograms leave its scores in 256 "
            f"steps; no name or number of exam or patient, in an order that tells nothing; "
            f"{crowd.replace('them', 'the table')}"
        )
    return found


def _summed(secure: SecureSettings) -> tuple[str, ...]:
    """How the centre gets what leaves; see :mod:`client.rounds.sum_allow_list`."""
    return (
        f"under secure aggregation: the centre opens the sum over {secure.survivors} sites or more, of which it may "
        f"know {secure.colluders}, and no single update; what is summed:",
    )


def _private(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What :mod:`client.rounds.allow_list` lets through."""
    assert settings.privacy is not None
    privacy = settings.privacy
    norms = settings.method == "probe" and settings.probe.train == "norms"
    leaves = (
        f"noised sums of gradients{NORMS if norms else ''}: each patient's is clipped to {privacy.max_grad_norm:g}, "
        f"the noise {'of all sites together ' if settings.federation.secure is not None else ''}has "
        f"{privacy.noise_multiplier:g} times that as standard deviation",
        "the site's name, version and training hours, and hashes of the log, the ledger and the policy",
    )
    return leaves, (
        "tables of how the networks grade held-out patients, and counts of patients: they would leave without noise, "
        "whatever policy.federated_evaluation permits",
        "everything else: counts, losses, scores, timings, whatever policy.metrics permits",
    )


def _stacks(settings: Settings, objection: str) -> bool:
    """Whether the campaign asks for sums for a stacking; only after the policy permits the method's code."""
    return not objection and bool(stacked(networks(settings).values(), settings))


def _metrics(site: Site, settings: Settings, *, stacks: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    policy = site.policy
    crowd = f"only where {policy.minimum_cohort} patients or more stand behind them"
    told: dict[str, str] = {
        "counts": f"number of exams a network was trained on, training exams per measurement, {crowd}",
        "losses": "mean training loss per network and round",
        "score_histograms": f"validation scores per network as counts in 256 bins per class, {crowd}",
        "timings": "seconds that a round takes",
    }
    if settings.campaign.statistics:
        told["statistics"] = (
            f"before training: patients by machine, joint, diagnosis, decade of age and grade, {crowd}"
        )
    if stacks:
        told["stacking_sums"] = (
            f"once, of the final weights, for each fold: sums over its exams of the networks' numbers, of products "
            f"of two of them and of number and label, and how many exams there are, {crowd}"
        )
    permitted: set[str] = set(policy.metrics)
    if settings.campaign.evaluation:
        told[TABLES] = (
            f"once, of the finished ensemble on held-out patients: tables of grades by score and machine, as the "
            f"manifest names it, {crowd}; beside them, if the site was told to train alone (site alone), the same "
            f"counts of that"
        )
        told |= _beside_tables(settings, crowd)
        permitted = (
            permitted | {TABLES} if policy.federated_evaluation else permitted - {"number_sums", "cases"}
        )
    updates = "updates: how this site's exams changed the networks' weights"
    if settings.federation.feeds_back:
        updates += ", in 4 bits a number; what that loses stays here and goes with the network's next update"
    always = "the site's name, version and training hours, and hashes of the log and the policy"
    leaves = tuple(text for what, text in told.items() if what in permitted)
    return (updates, *leaves, always), tuple(text for what, text in told.items() if what not in permitted)
