"""The tables of a run of Andersen's method: layers by grade, and the binary vote of the classifiers."""

from __future__ import annotations

from collections.abc import Sequence

from server.report.content import Content, Json
from server.report.tables import Rows, cell, number


def by_layer(content: Content) -> tuple[Sequence[str], Rows]:
    """Header and rows: validation and held-out accuracy of each layer's classifier and of the ensemble, by grade."""
    found: Json = content.metrics.get("andersen") or {}
    if not found:
        return (), ()
    rows = [
        (f"Layer {k}" + ("\nkept" if int(k) == found["best"] else ""), _cells(block))
        for k, block in found["layers"].items()
    ]
    rows.append((f"Ensemble of {found['binary_vote']['classifiers']}", _cells(found["ensemble"])))
    grades = range(len(found["ensemble"]["by_grade"]))
    return ("Classifier on", "Validation", "Held out", *(f"Grade {grade}" for grade in grades)), rows


def binary_vote(content: Content) -> tuple[Sequence[str], Rows]:
    """Header and row: healthy or diseased by the majority of the classifiers."""
    vote: Json | None = (content.metrics.get("andersen") or {}).get("binary_vote")
    if not vote:
        return (), ()
    cells = [cell(vote["accuracy"], "accuracy"), cell(vote["kappa"], "kappa")]
    cells += [cell(vote[rate], "accuracy") for rate in ("sensitivity", "specificity")]
    label = f"Majority of {vote['classifiers']}\n{vote['even']} even votes, taken as healthy"
    return ("", "Accuracy", "Kappa, unweighted", "Sensitivity", "Specificity"), [(label, cells)]


def _cells(block: Json) -> list[tuple[str, str]]:
    validated = number(block.get("validation_accuracy"), "accuracy")
    by_grade = [(number(share, "accuracy"), "") for share in block["by_grade"]]
    return [(validated, ""), cell(block["accuracy"], "accuracy"), *by_grade]
