"""The items of TRIPOD+AI and of a model card, each as a run fills it, or open.

A run fills those that it knows, all others are marked open: people fill them in, or say why not.

Source: TRIPOD+AI (Collins et al. 2024, BMJ 385:e078378); Mitchell et al. 2019, Model Cards for Model Reporting
(doi:10.1145/3287560.3287596), section 4.
"""

from __future__ import annotations

from collections.abc import Iterator

from common.settings import Settings
from server.report.content import Json


def tripod(found: Json, settings: Settings) -> Iterator[tuple[int, str, str | None]]:
    """Item, its topic, and what the run says of it; ``None``: open."""
    sites, judged = found["sites"], found["judged"]
    performance = judged or found["scored"]
    stages = ", ".join(f"{name} {count}" for name, count in found["rounds"].items())
    scoring = sum(network["scores"] for network in found["networks"].values())
    patients = _patients(judged)
    yield 1, "Title", None
    yield 2, "Abstract", None
    yield 3, "Background", None
    yield 4, "Objectives", found["purpose"] or None
    yield (
        5,
        "Data",
        (f"{len(sites)} sites, each on its own scans, which did not leave it: {', '.join(sites)}."),
    )
    yield 6, "Participants", None
    yield (
        7,
        "Data preparation",
        f"Regions of interest of {', '.join(f'{n} ({k})' for n, k in found['images'].items())}, "
        f"{settings.network.image_px} px; exams that cannot be used are quarantined at the site with a reason.",
    )
    yield (
        8,
        "Outcome",
        "Grades by each site's readers, made one by the site's rule: "
        + ", ".join(
            [f"{name} 0 to {grades - 1}" for name, grades in found["measurements"].items()]
            + [f"{name} {low:g} to {high:g}, their mean" for name, (low, high) in found["numbers"].items()]
        ),
    )
    yield 9, "Predictors", "Pixels of the pictures; nothing else about a patient is read."
    yield 10, "Sample size", patients and f"{patients} No size was planned for it here."
    yield 11, "Missing data", "Exams without a grade of a measurement are left out of it; none is filled in."
    yield (
        12,
        "Analytical methods",
        f"{settings.method} in stages ({stages} rounds), {settings.federation.algorithm}; {scoring} networks score; "
        f"held-out patients took part in neither training nor selection.",
    )
    yield 13, "Class imbalance", f"Sampling of training exams: {settings.training.sampling}."
    yield 14, "Fairness", None
    yield (
        15,
        "Model output",
        "A grade of each measurement, decided by the ensemble from its networks' votes"
        + ("; sets of grades." if (judged or {}).get("sets") else "."),
    )
    yield (
        16,
        "Training versus evaluation",
        performance and f"The same sites and machines; other patients.{_strangers(judged)}",
    )
    yield 17, "Ethical approval", None
    yield 18, "Open science", "Software, plan and networks are named by version and hash in this passport."
    yield 19, "Patient and public involvement", None
    yield 20, "Participants (results)", patients
    yield (
        21,
        "Model development",
        f"{len(found['networks'])} networks; rounds that sites missed: "
        f"{sum(site['rounds_missed'] for site in sites.values())}.",
    )
    yield (
        22,
        "Model specification",
        f"Networks by SHA-256 below; the ensemble as a whole: {found['ensemble']}.",
    )
    yield (
        23,
        "Model performance",
        performance
        and "How well it grades, on this page: with intervals over patients, by site and machine.",
    )
    yield 24, "Model updating", None
    yield 25, "Interpretation", None
    yield 26, "Limitations", " ".join(found["not_for"][1:]) + f" {found['privacy']['statement']}"
    yield 27, "Usability", None


def model_card(found: Json) -> Iterator[tuple[str, str | None]]:
    """Section, and what the run says of it; ``None``: open."""
    judged = found["judged"]
    performance = judged or found["scored"]
    machines = {device for site in found["sites"].values() for device in site["machines"]}
    yield (
        "Model details",
        f"{len(found['networks'])} networks by {found['method']}, of which "
        f"{sum(network['scores'] for network in found['networks'].values())} score; synofed {found['synofed']}, "
        f"{found['made'][:10]}. Ensemble {found['ensemble']}.",
    )
    yield "Intended use", found["purpose"] and f"{found['purpose']} {' '.join(found['not_for'])}"
    yield (
        "Factors",
        f"Machines: {', '.join(sorted(machines))}. Not told apart: age, sex, disease." if machines else None,
    )
    yield (
        "Metrics",
        performance
        and "Accuracy and kappa with 95 % intervals over patients, AUC, calibration, sets of grades.",
    )
    yield "Evaluation data", _patients(judged)
    yield (
        "Training data",
        f"Exams of {len(found['sites'])} sites, graded by their readers: {', '.join(found['sites'])}.",
    )
    yield "Quantitative analyses", performance and "How well it grades, by site and machine, on this page."
    yield "Ethical considerations", None
    yield "Caveats and recommendations", " ".join([*found["not_for"][1:], found["privacy"]["statement"]])


def _strangers(judged: Json | None) -> str:
    named = ", ".join((judged or {}).get("strangers", ()))
    return f" Apart from them, judged at sites that trained nothing: {named}." if named else ""


def _patients(judged: Json | None) -> str | None:
    """How many patients it was judged on."""
    if not judged or not judged["pooled"]:
        return None
    entries = [
        f"{name}: {e['exams']} exams of {e['patients']} patients" for name, e in judged["pooled"].items()
    ]
    return f"Judged inside the sites, {'; '.join(entries)}."
