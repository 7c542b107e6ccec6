"""The study's report in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from common.evaluation.bootstrap import Estimate
from common.networks.spec import COMBINED
from private_utility import networks_view, records
from private_utility.records import FOUND, Before, Record, Told
from private_utility.utility_view import GOAL, NAME, CellResult, Study, chart, interval, numbers, short, worst

MUST = ((8.0, 450), (3.0, 1500))
"""Epsilon, and from how many patients on the goal is set for it."""


def write(record: Record, folder: Path) -> None:
    """Keep what was found, and write ``private_utility`` as ``.csv``, ``.md`` and ``.svg`` from it."""
    records.write(record, folder)
    made = text(record, records.before(folder))
    (folder / f"{NAME}.csv").write_text(numbers(record.study.found), encoding="utf-8")
    (folder / f"{NAME}.md").write_text("\n".join(made) + "\n", encoding="utf-8")
    (folder / f"{NAME}.svg").write_text(chart(record.study.found), encoding="utf-8")


def text(record: Record, before: Before) -> Iterator[str]:
    """The report: a pure function of what was kept."""
    found = record.study.found
    frozen = [row for row in found.rows if row.frozen]
    several = [row for row in frozen if row.sites > 1]
    draws = max(m.draws for row in frozen if row.epsilon is not None for m in row.scores.values())
    yield "# What differential privacy costs in weighted kappa"
    yield ""
    command = "python -m private_utility"
    yield f"`{command}` ({record.study.by}). On the phantom: no figure here is about patients."
    yield ""
    yield f"![Loss of weighted kappa against epsilon]({NAME}.svg)"
    yield ""
    yield "## What it says"
    yield ""
    yield from _goals(several)
    yield from _alone([row for row in frozen if row.sites == 1])
    yield from _gap(found)
    yield ""
    yield "## How it was measured"
    yield ""
    yield (
        f"* Linear heads ({found.weights} numbers in all) on frozen encoders (`{found.encoders[:12]}`), which "
        f"`synofed pretrain` made from phantoms of another seed and of other machines. Five sites with a machine "
        f"each; training patients spread evenly, three exams each; {found.exams} held-out exams of {found.patients} "
        f"patients at the same sites, scored against the phantoms' true grades."
    )
    yield (
        f"* {max(row.rounds for row in frozen)} rounds of the whole cohort; epsilon is a patient's, for one patient "
        f"added or removed, at delta {short(found.delta)}. A cell is the mean over {draws} campaigns: noise comes "
        f"from the operating system's entropy and cannot be had twice, so **these numbers move from run to run**, a "
        f"single campaign's by about the standard deviation in the table."
    )
    yield (
        "* Own noise is the production step at each site. Under secure aggregation each of five sites adds the share "
        "that suffices if one of them tells the centre its own (U = 5, t = 1), drawn in whole numbers as in "
        "production. Patients' gradients are not rounded to its grid: the noise has thousands of its steps."
    )
    yield (
        "* The learning rate of each cell was chosen on a rehearsal: another cohort of phantoms (another seed, five "
        "drawn machines) with the same numbers of patients, scored on its own held-out patients. That costs no "
        "privacy, and anybody can do it before a campaign. Without privacy it was chosen in the same way."
    )
    yield (
        "* Loss: kappa of the same heads trained without clipping and noise, less that with. In parentheses 95 % "
        "intervals by bootstrap over held-out patients, paired."
    )
    yield ""
    yield "## Frozen encoders, linear weighted kappa"
    yield ""
    yield from _markdown(frozen)
    whole = [row for row in found.rows if not row.frozen]
    if whole:
        yield ""
        yield "## All weights trained, without privacy, all exams pooled"
        yield ""
        yield from _whole(whole)
    yield ""
    if record.study.cost:
        yield f"Made with {record.study.cost}."
        yield ""
    if record.networks is not None:
        yield from networks_view.text(record.networks.found, by=record.networks.by, cost=record.networks.cost)
        yield ""
    for told in before.section:
        yield from _told(told)
    yield (
        f"All numbers: `{NAME}.csv`, `{FOUND}`. Plans read `common/privacy/planning/utility.csv`: of each cell the "
        f"score that loses most."
    )


def _told(told: Told) -> Iterator[str]:
    yield f"## {told.title}"
    yield ""
    yield f"*Not made by the command: {told.versions}.*"
    for part in (told.text.strip(), "\n".join(_cells(told)), told.after.strip()):
        if part:
            yield ""
            yield part
    yield ""


def _cells(told: Told) -> Iterator[str]:
    if told.columns:
        yield f"| {' | '.join(told.columns)} |"
        yield f"|{'---|' * len(told.columns)}"
        yield from (f"| {' | '.join(row)} |" for row in told.rows)


def _goals(rows: Sequence[CellResult]) -> Iterator[str]:
    for epsilon, least in MUST:
        for secure in (True, False):
            asked = [r for r in rows if r.epsilon == epsilon and r.patients >= least and r.secure is secure]
            if not asked:
                continue
            met = all(worst(row).value <= GOAL for row in asked)
            how = "with secure aggregation" if secure else "with each site's own noise"
            parts = ", ".join(f"{interval(worst(row))} with {row.patients:,} patients" for row in asked)
            yield (
                f"* Epsilon {epsilon:g}, at least {least:,} patients, {how}: the goal (at most {GOAL}) is "
                f"**{'met' if met else 'not met'}**: of its scores the one that loses most loses {parts}."
            )
    others = [
        row
        for row in rows
        if row.epsilon is not None and not any(row.epsilon == e and row.patients >= n for e, n in MUST)
    ]
    within = [row for row in others if worst(row).value <= GOAL]
    beyond = [row for row in others if worst(row).value > GOAL]
    for found, said in ((within, "lose at most"), (beyond, "lose more than")):
        if found:
            yield f"* Where no goal was set, these {said} {GOAL}: {'; '.join(map(_brief, found))}."


def _brief(row: CellResult) -> str:
    how = "secure" if row.secure else "own noise"
    return f"epsilon {row.epsilon:g}, {row.patients:,}, {how} ({worst(row).value:+.3f})"


def _alone(rows: Sequence[CellResult]) -> Iterator[str]:
    private = [row for row in rows if row.epsilon is not None]
    if private:
        parts = ", ".join(f"{interval(worst(row))} at epsilon {row.epsilon:g}" for row in private)
        failed = [f"{row.epsilon:g}" for row in private if worst(row).value > GOAL]
        said = (
            f"More than {GOAL} at epsilon {' and '.join(failed)}" if failed else f"Nowhere more than {GOAL}"
        )
        yield (
            f"* **One site of {private[0].patients} patients by itself** (mean of the five, and the deviation over "
            f"campaigns is over sites, too) loses {parts}, of the kappa that the same site has without privacy. "
            f"{said}."
        )


def _gap(found: Study) -> Iterator[str]:
    for row in found.rows:
        if not row.frozen:
            gained = row.scores[COMBINED].loss
            yield (
                f"* Frozen against trained, {row.patients:,} patients, no privacy: training all weights changes the "
                f"combined score's kappa by {-gained.value:+.3f} ({-gained.high:+.3f} to {-gained.low:+.3f})."
            )


def _markdown(rows: Sequence[CellResult]) -> Iterator[str]:
    scores = list(rows[0].scores)
    header = [
        "patients",
        "sites",
        "epsilon",
        "noise",
        "sigma",
        "rate",
        *scores,
        "sd over campaigns (combined)",
    ]
    header += [f"loss, {score}" for score in scores]
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        private = row.epsilon is not None
        yield (
            " | ".join(
                (
                    f"| {row.patients:,}",
                    f"{row.sites}",
                    f"{row.epsilon:g}" if private else "none",
                    ("secure" if row.secure else "own") if private else "none",
                    f"{row.noise_multiplier:.2f}" if private else "",
                    f"{row.rate:g}",
                    *(
                        f"{m.kappa.value:.3f} ({m.kappa.low:.3f} to {m.kappa.high:.3f})"
                        for m in row.scores.values()
                    ),
                    f"{row.scores[COMBINED].draws_sd:.3f}" if private else "",
                    *(interval(m.loss) if private else "" for m in row.scores.values()),
                )
            )
            + " |"
        )


def _whole(rows: Sequence[CellResult]) -> Iterator[str]:
    scores = list(rows[0].scores)
    header = ["patients", *scores, *(f"trained - frozen, {score}" for score in scores)]
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        found = row.scores.values()
        gained = [Estimate(value=-m.loss.value, low=-m.loss.high, high=-m.loss.low) for m in found]
        cells = [f"{m.kappa.value:.3f} ({m.kappa.low:.3f} to {m.kappa.high:.3f})" for m in found]
        yield f"| {row.patients:,} | {' | '.join([*cells, *map(interval, gained)])} |"
