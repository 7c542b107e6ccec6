"""What the figures of RATING's paper are made of: readers beside the ensemble, images alone, kinds of failure."""

import numpy as np
import pandas as pd

from common.evaluation import roc
from common.evaluation.agreement import confusion
from simulation.evaluation import examples
from simulation.evaluation.blocks import beside_readers, single_image, subgroups
from simulation.evaluation.metrics import scorer_of
from simulation.evaluation.scorer import Block
from tests.simulation.evaluation.test_metrics import RATING, combined, frame


def seen() -> pd.DataFrame:
    found = frame()
    return found[found["trained_site"]].reset_index(drop=True)


def at(block: Block, *path: str) -> float:
    found: object = block
    for name in path:
        assert isinstance(found, dict)
        found = found[name]
    assert isinstance(found, int | float)
    return found


def test_each_reader_stands_beside_the_ensemble_on_the_exams_that_he_graded() -> None:
    table = seen()
    table.loc[table["site"] == "site-b", ["reader_r1_hypertrophy", "reader_r1_vascularity"]] = -1
    found = beside_readers.block(scorer_of(table, RATING), table, ["r1", "r2"])
    mine = table[table["site"] == "site-a"]
    assert at(found, "readers", "r1", "exams") == len(mine)
    truth, answer = combined(mine, "truth"), combined(mine, "decision")
    accuracy = at(found, "readers", "r1", "ensemble", "combined", "accuracy", "value")
    assert accuracy == np.mean(truth == answer)
    read = confusion(truth, combined(mine, "reader_r1"), 4)
    for cut in range(3):
        youden = at(found, "readers", "r1", "reader", "combined", "youden", f"gt{cut}", "value")
        assert youden == roc.youden(read, cut=cut)
    mean = at(found, "mean", "combined", "accuracy", "value")
    each = [np.mean(truth == combined(mine, "reader_r1"))]
    each.append(np.mean(combined(table, "truth") == combined(table, "reader_r2")))
    assert mean == np.mean(each)
    assert beside_readers.block(scorer_of(table, RATING), table, []) == {}


def test_exams_on_which_fusion_helped_and_hurt_are_counted_and_the_farthest_is_shown() -> None:
    table = seen().head(40)
    table["decision_hypertrophy"] = table["truth_hypertrophy"]
    table.loc[:4, "decision_hypertrophy"] = 3 - table["truth_hypertrophy"]
    alone = table["truth_hypertrophy"].copy()
    alone[10:13] = (alone[10:13] - 1).abs()  # off by one: fusion helped
    alone[20] = 3 if alone[20] < 2 else 0  # off by more
    table["only_gs_hypertrophy"] = alone
    scorer = scorer_of(table, RATING)
    block = single_image.block(scorer, table)
    assert at(block, "hypertrophy", "gs", "helped") == 4
    assert at(block, "hypertrophy", "gs", "hurt") == 5
    assert set(block) == {"hypertrophy"}
    chosen = examples.contrasts(table, RATING, reference="truth", names=["hypertrophy", "vascularity"])
    (note, row) = chosen[0]
    assert note.startswith(f"Fusion helped against GS alone: hypertrophy {alone[20]} from it")
    assert row["exam_id"] == table["exam_id"][20]


def test_an_impossible_majority_that_multitude_put_right_is_shown() -> None:
    table = seen().head(20)
    for name in ("hypertrophy", "vascularity"):
        table[f"majority_{name}"] = table[f"decision_{name}"] = table[f"truth_{name}"]
    table.loc[5, ["majority_hypertrophy", "majority_vascularity"]] = 0, 2
    table.loc[5, ["decision_hypertrophy", "decision_vascularity"]] = 3, 2
    table.loc[5, ["truth_hypertrophy", "truth_vascularity"]] = 1, 2
    names = ["hypertrophy", "vascularity"]
    ((note, row),) = examples.contrasts(table, RATING, reference="truth", names=names)
    assert row["exam_id"] == table["exam_id"][5]
    majority, answer = "hypertrophy 0 with vascularity 2", "hypertrophy 3 with vascularity 2"
    assert note.endswith(f"majorities say {majority}, the answer is {answer}")
    table.loc[7] = table.loc[5]
    table.loc[7, "exam_id"] = "right"
    table.loc[7, "truth_hypertrophy"] = 3
    ((_, row),) = examples.contrasts(table, RATING, reference="truth", names=names)
    assert row["exam_id"] == "right", "of several one that it put right"


def test_failures_are_the_most_frequent_kinds_with_their_number() -> None:
    table = seen().head(30)
    for name in ("hypertrophy", "vascularity"):
        table[f"truth_{name}"] = table[f"decision_{name}"] = 1
    table.loc[:4, "decision_hypertrophy"] = 2
    table.loc[0, "decision_vascularity"] = 0
    table.loc[5:6, "decision_hypertrophy"] = 0
    found = examples.failures(table, reference="truth", names=["hypertrophy", "vascularity"])
    assert [note for note, _ in found] == [
        "Hypertrophy 1 decided as 2: overestimated, 5 exams",
        "Hypertrophy 1 decided as 0: underestimated, 2 exams",
        "Vascularity 1 decided as 0: underestimated, 1 exam",
    ]
    assert found[0][1]["exam_id"] == table["exam_id"][1], "the first that fails in nothing else"


def test_subgroups_have_their_patients_and_small_ones_are_marked() -> None:
    table = seen()
    table["joint"] = np.where(np.arange(len(table)) % 2 == 0, "MCP", "wrist")
    table["age"] = [np.nan if p == "p0" else 40 + int(p[1:]) for p in table["patient_id"]]
    table["sex"] = np.where(table["patient_id"].isin(["p1", "p2"]), "F", "M")
    found = subgroups.block(scorer_of(table, RATING), table)
    assert list(found) == ["joint", "device", "site", "age", "sex"]
    assert at(found, "sex", "F", "patients") == 4, "two of each site"
    assert at(found, "sex", "F", "few") == 1
    assert at(found, "sex", "M", "few") == 0
    forties = table[(table["age"] < 50)]
    assert at(found, "age", "40 to 49", "exams") == len(forties)
    right = np.mean(combined(forties, "truth") == combined(forties, "decision"))
    assert at(found, "age", "40 to 49", "combined", "accuracy", "value") == right
    assert at(found, "age", "not known", "patients") == 2
    table["sex"] = ""
    assert "sex" not in subgroups.block(scorer_of(table, RATING), table), "nothing is known of it"
