"""Exams that nobody graded: taken in for pretraining, where a plan has any that needs no grades."""

from __future__ import annotations

from dataclasses import replace

from client.data.tables.folds import is_held_out
from client.data.tables.tables import Tables
from common.methods.stages import learns_without_grades
from common.settings import Settings


def with_ungraded(tables: Tables, settings: Settings, *, secret: bytes) -> Tables:
    """Tables in which the training patients' exams that nobody graded follow the graded ones.

    They come last, so that a graded exam has the place that it has without them. Those of held-out patients stay
    quarantined: there is nothing to test on them. Where no network of the plan learns without grades, all do.

    Args:
        tables: of the site.
        settings: the plan.
        secret: decides who is held out where the manifest does not say.
    """
    if not learns_without_grades(settings):
        return tables
    share = settings.held_out
    used = [exam for exam in tables.ungraded if not is_held_out(exam, secret=secret, share=share)]
    names = {exam.exam_id for exam in used}
    return replace(
        tables,
        exams=(*tables.exams, *used),
        quarantined=tuple(entry for entry in tables.quarantined if entry.exam_id not in names),
        ungraded=tuple(exam for exam in tables.ungraded if exam.exam_id not in names),
    )
