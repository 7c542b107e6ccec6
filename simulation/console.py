"""What the researcher's commands show on a terminal: tables, and the sentences that go with them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from common.committee import Scores
from common.settings import Settings

RESEARCH_ONLY = "Research use only: not a medical device, not for diagnosis or treatment."
NO_PRIVACY = "No differential privacy: epsilon is unbounded."


def score_table(scores: Scores, settings: Settings) -> Table:
    """One exam's grades, and what each scoring model votes."""
    models = scores.votes.shape[1]
    table = Table(title=f"Scored by {scores.probabilities.shape[1]} networks in {models} models")
    for title in ("", "score", "votes of the models", "plurality"):
        table.add_column(title, justify="left" if title == "" else "right", no_wrap=True)
    for index, name in enumerate(settings.measurements):
        votes = " ".join(str(vote) for vote in scores.votes[0, :, index])
        table.add_row(name, str(scores.decision[0, index]), votes, str(scores.majority[0, index]))
    if scores.combined is not None:
        table.add_section()
        table.add_row("combined", str(scores.combined[0]), "", "")
    return table


def score_lines(scores: Scores, settings: Settings) -> Iterator[str]:
    """How sure the ensemble is, in words."""
    most = scores.votes.shape[1] ** len(settings.measurements)
    yield f"Weight of the answer {scores.weight[0]} of {most}, of the runner-up {scores.runner_up_weight[0]}"
    if not scores.contested[0]:
        yield "Not contested"
    elif scores.weight[0] == 0:
        yield "Contested: no model voted for a combination that can be; a human should look"
    else:
        yield "Contested: the answer differs from a measurement's own plurality; a human should look"


def score_json(scores: Scores, settings: Settings) -> dict[str, object]:
    """The same as :func:`score_table` and :func:`score_lines`, as JSON values."""
    measurements = {
        name: {
            "decision": int(scores.decision[0, index]),
            "votes": scores.votes[0, :, index].tolist(),
            "plurality": int(scores.majority[0, index]),
        }
        for index, name in enumerate(settings.measurements)
    }
    return {
        "measurements": measurements,
        "combined": None if scores.combined is None else int(scores.combined[0]),
        "weight": int(scores.weight[0]),
        "runner_up_weight": int(scores.runner_up_weight[0]),
        "largest_weight": scores.votes.shape[1] ** len(settings.measurements),
        "contested": bool(scores.contested[0]),
        "networks": scores.probabilities.shape[1],
        "notice": [RESEARCH_ONLY, NO_PRIVACY],
    }
