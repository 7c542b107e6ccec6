"""What sites told of an ensemble, as tables and sentences of a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.networks.spec import COMBINED
from common.text import csv_text
from server.report import numbers
from server.report.content import Json
from server.report.tables import NOTHING, Rows, cell, number, signed, title
from server.rounds import site_results

NUMBERS: Mapping[str, str] = {name: text for name, text in numbers.NUMBERS.items() if name != "spearman"}
"""Ranks need single exams, so sites' sums say nothing of them."""


SUREST = "Right among the surest two thirds"
CASES = ("site", "score", "device", "case", "reference", "decision", "contested")


def by_place(judged: Json, blocks: Json) -> dict[str, Json]:
    """Label -> block: all sites, each site, and machines that are not all of one site's and nobody else's.

    Args:
        judged: of :func:`server.report.inside.block`.
        blocks: what has ``pooled``, ``sites`` and ``devices``.
    """
    machines = judged["machines"]
    named = {site: f"{site} (trained nothing)" if site in judged["strangers"] else site for site in machines}
    sites = {f"{named[site]}\n{', '.join(machines[site])}": one for site, one in blocks["sites"].items()}
    owners = Counter(device for of_site in machines.values() for device in of_site)
    alone = {of_site[0] for of_site in machines.values() if len(of_site) == 1 and owners[of_site[0]] == 1}
    devices = {device: block for device, block in blocks["devices"].items() if device not in alone}
    return {"All sites": blocks["pooled"], **sites, **devices}


def table(judged: Json) -> tuple[Sequence[str], Rows]:
    """Header and rows: exams, accuracy and linear kappa of every score, by place; no rows where no table came."""
    scores = list(judged["pooled"])
    header = [f"{title(score)}, {what}" for what in ("accuracy", "kappa") for score in scores]
    rows = []
    for place, scored in by_place(judged, judged).items() if scores else ():
        entries = [scored.get(score) for score in scores]
        largest = max((e for e in entries if e), key=lambda e: int(e["exams"]), default=None)
        size = (str(largest["exams"]), f"{largest['patients']} patients") if largest else (NOTHING, "")
        cells = [
            cell(entry[metric], metric) if entry else (NOTHING, "")
            for metric in ("accuracy", "kappa_linear")
            for entry in entries
        ]
        rows.append((place, [size, *cells]))
    return ("", "Exams", *header), rows


def calibration_table(places: Mapping[str, Json]) -> tuple[Sequence[str], Rows]:
    """Header and rows: how far the probabilities of every cut hold; no rows where no site tells scores.

    Args:
        places: label -> score -> its entry, as :func:`by_place` has them.
    """
    rows = []
    for place, scored in places.items():
        for score, entry in scored.items():
            for cut in entry["cuts"]:
                label = f"{title(score)} > {cut['above']}\n{place.replace(chr(10), ', ')}"
                errors = [(f"{100 * cut['ece']:.1f}", ""), (f"{cut['brier']:.3f}", "")]
                rows.append((label, [(number(cut["auc"], "auc"), ""), *errors, (str(cut["exams"]), "")]))
    return ("", "AUC", "Calibration error, points", "Brier score", "Exams"), rows


def grades_table(run: Path) -> tuple[Sequence[str], Rows]:
    """Header and rows: exams by reference and decided grade, of each site's machines; empty where no table came.

    Raises:
        DataError: if what sites told cannot be read.
    """
    found = [(site, one) for site, sent in site_results.tables(run).items() for one in sent.tables]
    grades = max((len(one.confusion) for _, one in found), default=0)
    rows = []
    for site, one in sorted(found, key=lambda each: (each[1].score == COMBINED, each[1].score, each[0])):
        for reference, counts in enumerate(one.confusion):
            cells = [*map(str, counts), *[""] * (grades - len(counts)), str(sum(counts))]
            label = f"{title(one.score)} {reference}\n{site}, {one.device}"
            rows.append((label, [(text, "") for text in cells]))
    return ("Reference", *(f"Decided {grade}" for grade in range(grades)), "Exams"), rows


def matrix(campaigns: Mapping[str, Json], score: str) -> tuple[Sequence[str], Rows]:
    """Header and rows: accuracy of one score, campaigns by where they trained, sites by where they are judged.

    Args:
        campaigns: name -> what :func:`server.report.inside.read` gives.
        score: which.
    """
    machines: dict[str, set[str]] = {}
    for judged in campaigns.values():
        for site, of_site in judged["machines"].items():
            machines.setdefault(site, set()).update(of_site)
    rows = []
    for name, judged in campaigns.items():
        cells = []
        for site in sorted(machines):
            value, interval = cell(
                (judged["sites"].get(site) or {}).get(score, {}).get("accuracy"), "accuracy"
            )
            own = "trained there" if site in judged["trained"] and value != NOTHING else ""
            cells.append((value, " · ".join(filter(None, (interval, own)))))
        rows.append((f"{', '.join(judged['trained'])}\n{name}", cells))
    return (
        "Trained at",
        *(f"{site}, {', '.join(sorted(machines[site]))}" for site in sorted(machines)),
    ), rows


def scores(campaigns: Mapping[str, Json]) -> list[str]:
    """What sites were asked to judge in any of them, a combined score first."""
    told = {score for judged in campaigns.values() for of in judged["sites"].values() for score in of}
    return sorted(told, key=lambda score: (score != COMBINED, score))


def numbers_table(judged: Json) -> tuple[Sequence[str], Rows]:
    """Header and rows: exams, correlation and errors of every number, by place; no rows where no site told any."""
    found = judged.get("numbers") or {"pooled": {}}
    rows = []
    for place, of_place in by_place(judged, found).items() if found["sites"] else ():
        for name, block in of_place.items():
            size = (str(block["exams"]), f"{block['patients']} patients")
            shown = [numbers.shown(block[metric]) for metric in NUMBERS]
            rows.append((f"{title(name)}\n{place.replace(chr(10), ', ')}", [size, *shown]))
    return ("", "Exams", *NUMBERS.values()), rows


def cases_table(run: Path) -> tuple[Sequence[str], list[Sequence[csv_text.Cell]]]:
    """Header and rows: the single exams that sites told, each score on its own.

    Raises:
        DataError: if what they told cannot be read.
    """
    rows: list[Sequence[csv_text.Cell]] = []
    for site, sent in site_results.tables(run).items():
        for one in sent.tables:
            if one.cases is None:
                continue
            cuts = list(zip(*one.cases.above, strict=True)) or [()] * one.exams
            columns = zip(one.cases.reference, one.cases.decision, one.cases.contested, cuts, strict=True)
            rows += [
                (site, one.score, one.device, number, reference, decision, int(divided), *above)
                for number, (reference, decision, divided, above) in enumerate(columns)
            ]
    return (
        *CASES,
        *(f"above_{cut}_of_256" for cut in range(max(map(len, rows), default=0) - len(CASES))),
    ), rows


def gains_table(judged: Json) -> tuple[Sequence[str], Rows]:
    """Header and rows: points of accuracy by which the ensemble is ahead of training alone, on own patients."""
    found = judged["gains"]
    sites = sorted({site for of in found.values() for site in of["sites"]})
    rows: list[tuple[str, list[tuple[str, str]]]] = []
    for place in ("Mean of the sites", *sites) if sites else ():
        entries = [of["sites"].get(place) if place in sites else of["mean"] for of in found.values()]
        rows.append((place, [_gained((entry or {}).get("accuracy")) for entry in entries]))
    return ("", *(f"{title(score)}, points" for score in found)), rows


def _gained(entry: Json | None) -> tuple[str, str]:
    if entry is None or entry["gain"]["value"] is None:
        return NOTHING, ""
    alone, together = (number(entry[system]["value"], "accuracy") for system in ("alone", "together"))
    gain, spread = signed(entry["gain"], digits=1, scale=100)
    return f"{gain} ({spread})", f"{alone} alone, {together} together"


def sets_table(judged: Json, unseen: Json) -> tuple[Sequence[str], Rows]:
    """Header and rows: coverage and size of sets of grades, by measurement and place."""
    rows = []
    for score, sets in judged["sets"].items():
        places = by_place(judged, sets)
        if score in unseen:
            places["Never trained on"] = {"calibration": 0, "common": unseen[score], "own": None}
        for place, block in places.items():
            common, own = block["common"], block["own"]
            if common is None:
                continue
            interval = f"{100 * common['low']:.1f} to {100 * common['high']:.1f} %"
            cells = [
                (f"{100 * common['coverage']:.1f} %", interval),
                (f"{100 * own['coverage']:.1f} %" if own else NOTHING, ""),
                (f"{common['size']:.2f}", ""),
                (f"{100 * common['single']:.0f} %", ""),
                _left_to_readers(common),
                (str(common["exams"]), f"{block['calibration']} set the threshold"),
            ]
            rows.append((f"{title(score)}\n{place.replace(chr(10), ', ')}", cells))
    header = ("", "Coverage", "With its own threshold", "Grades in a set", "One grade", SUREST, "Exams")
    return header, rows


def _left_to_readers(common: Json) -> tuple[str, str]:
    """What is right where the doubtful third goes to a reader, and of all exams; runs of before know it not."""
    if common.get("surest") is None:
        return NOTHING, ""
    return f"{100 * common['surest']:.1f} %", f"{100 * common['right']:.1f} % of all"


def promises(judged: Json, unseen: Json) -> list[str]:
    """What sets of grades promise, where that fails, and what is won where the doubtful go to a reader."""
    said = []
    for score, sets in judged["sets"].items():
        level = f"{100 * sets['level']:.0f} %"
        if sets["threshold"] >= 1:
            said.append(f"{title(score)}: {sets['calibration']} exams are too few to promise {level}.")
        failing = {place.replace("\n", ", "): one["common"] for place, one in by_place(judged, sets).items()}
        failing |= {"machines never trained on": unseen.get(score)}
        said += [
            f"{title(score)}: on {place} the promise of {level} fails: {100 * block['coverage']:.1f} % "
            f"({100 * block['low']:.1f} to {100 * block['high']:.1f} %)."
            for place, block in failing.items()
            if block and block["high"] < sets["level"]
        ]
        if surest := sets["surest"]:
            said.append(
                f"{title(score)}: where the ensemble answers the {100 * surest['answered']:.0f} % of exams that it "
                f"is surest of, and a reader the others, {100 * surest['right']:.1f} % of its answers are right."
            )
    return said


def kept_back(judged: Json) -> list[str]:
    """What is not in the tables, and why, one sentence per site."""
    few = [
        f"{site} keeps {count} table{'' if count == 1 else 's'} back, of fewer than "
        f"{judged['minimum_cohort'][site]} patients"
        for site, count in judged["suppressed"].items()
        if count
    ]
    return few + [f"{site} gave none: {reason}" for site, reason in judged["without"].items()]


def statistics(run: Path) -> tuple[Sequence[str], Rows]:
    """Header and rows: patients by characteristic and value, of each site that told any before it trained.

    Raises:
        DataError: if what they told cannot be read.
    """
    found = site_results.statistics(run)
    names = dict.fromkeys(name for sent in found.values() for name in sent.characteristics)
    rows = []
    for name in names:
        counted = {site: sent.characteristics.get(name) for site, sent in found.items()}
        values = dict.fromkeys(value for one in counted.values() if one for value in one.values)
        for value in values:
            cells = [
                (str(one.values.get(value, NOTHING)) if one else NOTHING, "") for one in counted.values()
            ]
            rows.append((f"{title(name)}\n{value}", cells))
        if any(one and one.others for one in counted.values()):
            others = [(str(one.others or NOTHING) if one else NOTHING, "") for one in counted.values()]
            rows.append((f"{title(name)}\nothers together", others))
    return ("Patients with such an exam", *found), rows
