"""What the researcher's commands show on a terminal: tables, and the sentences that go with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from client.ensemble import scoring
from common.ensemble.committee import Scores
from common.evaluation.conformal import LEVEL
from common.networks.spec import COMBINED
from common.text.terminal import Table
from server.campaign.campaign_cost import StageCost
from simulation.engine.measure import Measured
from simulation.runs.cost_card import PlanCard


def score_table(scores: Scores, thresholds: Mapping[str, float]) -> Table:
    """One exam's grades, what each scoring model votes, and with ``thresholds`` the sets of grades."""
    models = scores.votes.shape[1]
    table = Table(title=f"Scored by {len(scores.outputs)} networks in {models} models")
    sets = scoring.sets(scores, thresholds)
    titles = ("", "score", "votes of the models", "plurality", "above 0, 1 .., %")
    for title in (*titles, f"set at {100 * LEVEL:.0f} %") if sets else titles:
        table.add_column(title, justify="left" if title == "" else "right", no_wrap=title != "")
    above = scores.above()
    for index, name in enumerate(scores.names):
        votes = " ".join(str(vote) for vote in scores.votes[0, :, index])
        chances = " ".join(f"{100 * p:.0f}" for p in above[name][0]) if name in above else ""
        named = " ".join(map(str, sets[name])) if name in sets else ""
        cells = (str(scores.decision[0, index]), votes, str(scores.majority[0, index]), chances, named)
        table.add_row(name, *cells[: len(table.columns) - 1])
    if scores.combined is not None and COMBINED not in scores.names:
        table.add_section()
        table.add_row("combined", str(scores.combined[0]))
    return table


def score_lines(scores: Scores) -> Iterator[str]:
    """How sure the ensemble is, in words."""
    most = scores.votes.shape[1] ** len(scores.names)
    yield f"Weight of the answer {scores.weight[0]} of {most}, of the runner-up {scores.runner_up_weight[0]}"
    if scores.contested[0] and scores.weight[0] == 0:
        yield "Contested: no model voted for a combination that can be; a human should look"
    elif scores.contested[0]:
        yield "Contested: the answer differs from a measurement's own plurality; a human should look"
    if scores.tie[0]:
        yield "Tie: another answer fits the votes as well, the lower grade went first; a human should look"
    elif not scores.contested[0]:
        yield "Not contested, no tie"


def plan_table(card: PlanCard) -> Table:
    """A cost card."""
    table = Table(title=f"What {card.name} will cost", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for rows in (*(_stage_rows(stage) for stage in card.stages), _campaign_rows(card), _hour_rows(card)):
        for name, value in rows:
            table.add_row(name, value)
        table.add_section()
    table.add_row("privacy", card.privacy)
    for warning in card.warnings:
        table.add_row("warning", warning)
    return table


def _stage_rows(stage: StageCost) -> Iterator[tuple[str, str]]:
    yield f"stage {stage.name}", f"{_count(stage.networks, 'network')} in {_count(stage.groups, 'group')}"
    if stage.after:
        yield "  starts after", " and ".join(stage.after)
    for shape in stage.shapes:
        frozen = f", {shape.frozen_values:,} frozen" if shape.frozen_values else ""
        yield (
            "  networks",
            f"{shape.networks} x {shape.label}: {shape.parameters:,} parameters that travel{frozen}",
        )
    yield "  parameters", f"{stage.parameters:,}"
    yield "  a message", f"up to {_bytes(stage.request_bytes)} down, {_bytes(stage.reply_bytes)} up"
    yield (
        "  a round and site",
        f"{_count(stage.groups, 'message')} and as many replies, "
        f"{_bytes(stage.round_down_bytes)} down, {_bytes(stage.round_up_bytes)} up",
    )
    yield "  rounds", f"{stage.rounds}, and one that scores the final weights"
    yield (
        "  a site in all",
        f"{stage.site_messages} messages, {_bytes(stage.site_down_bytes)} down"
        f"{f' ({_bytes(stage.frozen_bytes)} of it frozen weights, sent once)' if stage.frozen_bytes else ''}, "
        f"{_bytes(stage.site_up_bytes)} up",
    )


def _campaign_rows(card: PlanCard) -> Iterator[tuple[str, str]]:
    yield "networks", f"{card.networks}, {card.parameters:,} parameters, sent as {card.encoding}"
    yield "a site in all", f"{_bytes(card.site_down_bytes)} down, {_bytes(card.site_up_bytes)} up"
    if card.cohort is not None:
        size = card.cohort
        both = size.sites * (card.site_down_bytes + card.site_up_bytes)
        yield "sites", f"{size.sites} that train, {_bytes(both)} between them and the centre"
        yield "exams", f"about {size.training_exams} for training, {size.held_out_exams} held out"
    yield "centre's memory", f"up to {_bytes(card.centre_memory_bytes)} of weights and messages"
    yield "disk: networks", _bytes(card.networks_bytes)
    yield "disk: journal", f"up to {_bytes(card.journal_bytes)}"
    if card.spool_bytes is not None:
        yield "disk: replies", f"up to {_bytes(card.spool_bytes)}, until their round is complete"
    if card.site_state_bytes:
        yield (
            "disk: what a site keeps",
            f"up to {_bytes(card.site_state_bytes)} at each site, until the campaign ends",
        )
    if card.baselines_bytes:
        yield "disk: baselines", f"up to {_bytes(card.baselines_bytes)}"


def _hour_rows(card: PlanCard) -> Iterator[tuple[str, str]]:
    for measured in card.measured:
        yield "a step", f"{measured.label}: {_how(measured)}"
    known = "" if card.cohort is not None else ", without validation: no cohort is named"
    yield "a site trains", f"about {_time(card.site_hours)}{known}"
    if card.total_hours is None:
        yield "simulation", "needs a [cohort]"
        return
    parts = {
        "federation": card.federated_hours,
        "baselines": card.baselines_hours,
        "networks of each site's own": card.personal_hours,
        "evaluation": card.evaluation_hours,
    }
    for name, hours in parts.items():
        if hours:
            yield f"  {name}", f"about {_time(hours)}"
    workers = _count(card.workers, "worker")
    yield "simulation", f"about {_time(card.total_hours)} on this machine's {workers}"


def _how(measured: Measured) -> str:
    size = f"{measured.batch_size} exams"
    if measured.measured_batch_size < measured.batch_size:
        size += f" (scaled from {measured.measured_batch_size})"
    return (
        f"{_time(measured.step_s / 3600)} for {size}: measured now, {_count(measured.steps, 'step')} of random "
        f"pixels after a warm-up on {measured.device}, {_count(measured.at_once, 'worker')} at once with "
        f"{_count(measured.threads, 'thread')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _bytes(number: int) -> str:
    value, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"


def _time(hours: float) -> str:
    seconds = hours * 3600
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"
