import csv
import io
import json
import re
import shutil
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.errors import DataError
from common.settings import Settings
from server.report import tables
from server.report.content import Json, read
from server.report.examples import Example, write_examples
from server.report.page import write
from simulation.evaluation.metrics import metrics

SITES = {"site-a": ("ge", True), "site-b": ("mindray", True), "site-c": ("samsung", False)}
IMAGES = {"gs": {"kind": "grey"}}


def settings(names: Sequence[str] = ("hypertrophy", "vascularity"), grades: int = 4) -> Settings:
    return Settings.model_validate(
        {
            "name": "test",
            "validity": "eoss" if len(names) == 2 else "any",
            "images": IMAGES,
            "measurements": {name: {"grades": grades, "images": ["gs"]} for name in names},
            "evaluate": {"bootstrap": 100},
        }
    )


def table(
    chosen: Settings,
    *,
    right: float,
    seed: int,
    truth: bool = True,
    sites: Mapping[str, tuple[str, bool]] = SITES,
    models: int = 1,
) -> pd.DataFrame:
    base, generator = np.random.default_rng(5), np.random.default_rng(seed)
    parts = []
    for site, (device, trained) in sites.items():
        columns = {
            "exam_id": [f"e{i}" for i in range(40)],
            "patient_id": np.arange(40) // 4,
            "site": site,
            "device": device,
            "trained_site": trained,
            "contested": np.arange(40) % 8 == 0,
            "tie": np.arange(40) % 5 == 0,
        }
        for name, measurement in chosen.measurements.items():
            grade = base.integers(1, measurement.grades, size=40)
            wrong = 1 + generator.integers(0, measurement.grades - 1, size=40)
            decision = np.where(generator.random(40) < right, grade, wrong)
            columns |= {f"vote_{name}_{model}": decision for model in range(models)}
            columns |= {f"commonest_{name}": 2}
            if name == "vascularity":
                columns[f"colour_{name}"] = np.where(np.arange(40) % 9 == 0, 1, grade)
            columns |= {f"label_{name}": grade, f"decision_{name}": decision, f"majority_{name}": decision}
            if truth:
                columns |= {f"truth_{name}": grade, f"reader_r1_{name}": wrong}
            columns[f"p:rating/fold0/{name}/gt1/a"] = np.clip(generator.normal(grade / 4, 0.2), 0, 1)
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def rounds() -> Iterator[Json]:
    for system, group, number in product(
        ("federated", "centralised", "alone:site-a"), ("g0", "g1"), (1, 2, 3)
    ):
        yield {
            "system": system,
            "stage": "train",
            "group": group,
            "round": number,
            "loss": 1 / number,
            "auc": None if number == 1 else 0.5 + 0.1 * number,
            "participants": ["site-a", "site-b"],
        }


def examples() -> Iterator[Example]:
    grey = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=2)
    for number, decided in enumerate((2, 3)):
        yield Example(
            exam_id=f"exam-{number}",
            site="site-a",
            pictures={"gs": grey, "doppler": colour},
            reference={"hypertrophy": 2, "vascularity": 1},
            decision={"hypertrophy": decided, "vascularity": 1},
        )


def make(
    folder: Path,
    *,
    scores: Json | None = None,
    config: str = "",
    manifest: Json | None = None,
    lines: Iterable[Json] = (),
    shown: Iterable[Example] = (),
) -> Path:
    folder.mkdir()
    (folder / "config.toml").write_text(config)
    facts = {"name": "trial", "status": "COMPLETE_ALL_SITES", "seed": 3, "packages": {"torch": "2.13"}}
    (folder / "manifest.json").write_text(json.dumps(facts | (manifest or {})))
    if scores is not None:
        (folder / "metrics.json").write_text(json.dumps(scores))
    if lines:
        (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if shown:
        write_examples(folder / "figures" / "examples", shown)
    return folder


CHOSEN = {
    "hypertrophy": {"weights": "network", "sentence": "weights: network (by 9 validation patients)"},
    "vascularity": {"weights": "common", "sentence": "the common networks (by 8 validation patients)"},
}


def full_scores(*, models: int = 2, personal: bool = False) -> Json:
    """A run of some scoring models, beside systems of one; perhaps with networks of each site's own."""
    return deepcopy(_full_scores(models, personal))


@cache
def _full_scores(models: int, personal: bool) -> Json:
    chosen = settings()
    others = {
        "centralised": table(chosen, right=0.8, seed=1),
        "alone:site-a": table(chosen, right=0.3, seed=2),
        "alone:site-b": table(chosen, right=0.4, seed=3),
        "federated": table(chosen, right=0.7, seed=4),
    }
    if models == 1:
        del others["federated"]
    if personal:
        own = table(chosen, right=0.9, seed=6)
        others["personal"] = own[own["trained_site"]]
    scores = metrics(table(chosen, right=0.75, seed=0, models=models), settings=chosen, baselines=others)
    return scores | ({"personal": dict.fromkeys(("site-a", "site-b"), CHOSEN)} if personal else {})


def make_full(folder: Path, *, models: int = 2) -> Path:
    config = f"[rating]\nmodels = {models}\n"
    config = 'validity = "eoss"\n[cohort.phantom]\nsites = 2\n' + config
    config += "[evaluate]\nbootstrap = 100\nbaseline_models = 1\n"
    return make(folder, scores=full_scores(models=models), config=config, lines=rounds(), shown=examples())


def data_of(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "figures" / f"{name}.csv").read_text(encoding="utf-8"))))


class Page(HTMLParser):
    """Collects what a test asks about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_full(tmp_path_factory.mktemp("report") / "run")
    assert write(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_whole_in_itself(page: Page) -> None:
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)


def test_the_page_says_what_it_is_about(page: Page) -> None:
    for words in ("What this does not show", "How to read it", "No patient is in it", "site-b alone"):
        assert words in page.text
    scored = json.loads(json.dumps(full_scores()))
    assert f"{100 * scored['combined']['accuracy']['value']:.1f} %" in page.text
    # Beside the title and the heading of every section that shows numbers.
    assert page.text.count("no differential privacy") >= 7


def test_every_figure_is_an_svg_with_its_data(run: Path) -> None:
    names = {path.stem for path in (run / "figures").glob("*.svg")}
    assert names == {
        "confusion_hypertrophy", "confusion_vascularity", "confusion_combined", "confusion_combined_unseen",
        "comparison_accuracy", "comparison_kappa_linear", "sites_accuracy", "binary_auc",
        "learning_loss", "learning_auc", "own_patients",
        "roc_hypertrophy_gt1", "roc_vascularity_gt1",
        "reliability_hypertrophy_gt1", "reliability_vascularity_gt1",
        "readers", "failures_hypertrophy", "failures_vascularity", "failures_combined",
    }  # fmt: skip
    for name in names:
        root = ElementTree.parse(run / "figures" / f"{name}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        rows = list(csv.reader(io.StringIO((run / "figures" / f"{name}.csv").read_text(encoding="utf-8"))))
        assert len(rows) > 1
        assert {len(row) for row in rows} == {len(rows[0])}


def test_the_csv_holds_the_numbers_of_metrics_json(run: Path) -> None:
    scored = json.loads((run / "metrics.json").read_text())
    counts = [int(row["exams"]) for row in data_of(run, "confusion_combined")]
    assert counts == [n for row in scored["combined"]["confusion"] for n in row]
    rows = {row["row"]: row for row in data_of(run, "comparison_accuracy")}
    entry = scored["baselines"]["centralised"]["combined"]["accuracy"]
    assert float(rows["All data in one place"]["value"]) == entry["value"]
    assert float(rows["All data in one place"]["ci95_low"]) == entry["ci95"][0]


def words(estimate: Json) -> str:
    return f"{100 * estimate['value']:+.1f}"


def test_cards_and_tables_compare_as_many_models_and_say_so(run: Path, page: Page) -> None:
    scored = json.loads((run / "metrics.json").read_text())
    each = "with 1 of 2 scoring models each"
    for name, text in (
        ("federated_minus_alone_mean", "points on all sites' patients, federated minus alone"),
        ("centralised_minus_federated", "points, pooled data minus federated"),
    ):
        difference = scored["differences"][name]["combined"]["accuracy"]
        assert difference["value"] != scored["combined"]["accuracy"]["value"]
        assert f"{words(difference)} {text}, {each}" in page.text
    mean = scored["own_patients"]["mean"]["combined"]["accuracy"]
    card = f"{words(mean['gain'])} points on a site's own patients, federated minus alone, {each}; "
    assert f"{card}{mean['losing']} of 2 sites lose" in page.text
    assert "accuracy, combined, 2 scoring models" in page.text
    rows = {row["row"]: float(row["value"]) for row in data_of(run, "comparison_accuracy")}
    cut = scored["baselines"]["federated"]["combined"]["accuracy"]["value"]
    assert rows["Federated"] == cut != scored["combined"]["accuracy"]["value"]
    for figure in ("comparison_accuracy", "own_patients"):
        assert each in page.text.split(figure)[0]
    lines = {row["line"] for row in data_of(run, "learning_loss")}
    assert lines == {"Federated", "g0", "g1"}  # the mean over other models is no curve beside this one


def test_a_mean_by_round_is_of_one_stage(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    lines = [
        {**line, "stage": "features" if line["group"] == "g0" else "fusion", "loss": loss}
        for line in rounds()
        for loss in [1.0 if line["group"] == "g0" else 3.0]
        if line["group"] == "g0" or line["round"] < 3
    ]
    (folder / "rounds.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    write(folder)
    means = [(row["line"], row["round"], row["value"]) for row in data_of(folder, "learning_loss")]
    for name, number, value in (
        ("Federated, features", "3", "1.0"),
        ("Federated, fusion", "2", "3.0"),
    ):
        assert (name, number, value) in means
    assert "2.0" not in {value for _, _, value in means}


@pytest.mark.soak
def test_with_as_many_models_the_run_itself_is_in_every_comparison(tmp_path: Path) -> None:
    folder = make_full(tmp_path / "run", models=1)
    page = Page(write(folder).read_text(encoding="utf-8"))
    scored = json.loads((folder / "metrics.json").read_text())
    rows = {row["row"]: float(row["value"]) for row in data_of(folder, "comparison_accuracy")}
    assert rows["Federated"] == scored["combined"]["accuracy"]["value"]
    assert "with 1 scoring model each" in page.text
    assert "cut down" not in page.text
    assert "Sites alone, mean" in {row["line"] for row in data_of(folder, "learning_loss")}


def test_the_matrix_of_sites_and_the_folds_are_tables(run: Path) -> None:
    content = read(run)
    header, rows = tables.cross_site(content)
    assert header[0] == "Trained at"
    assert [label for label, _ in rows] == ["All sites together", "site-a", "site-b", "All data in one place"]
    matrix = content.metrics["cross_site"]["scores"]["combined"]
    for (label, cells), of in zip(rows, matrix.values(), strict=True):
        assert [text for text, _ in cells] == [f"{100 * of[site]['accuracy']:.1f} %" for site in header[1:]]
        assert [small for _, small in cells].count("its own patients") == label.startswith("site-")
    assert "Trained at one site, judged at another" in (run / "report.html").read_text(encoding="utf-8")

    networks = {
        f"rating/fold{fold}/hypertrophy/gt0/{letter}": {"auc": auc}
        for fold, letter, auc in ((0, "a", 0.8), (0, "b", 0.6), (1, "a", 0.9), (2, "a", None))
    }
    alone = replace(content, manifest={"networks": networks})
    ((label, (mean, each)),) = tables.cross_validated(alone)[1]
    assert (label, mean) == ("Hypertrophy > 0", ("0.800 (0.141)", "2 folds"))
    assert each == ("0.700, 0.900", "")


def test_own_patients_are_shown_by_site_with_the_mean(run: Path, page: Page) -> None:
    scored = json.loads((run / "metrics.json").read_text())["own_patients"]
    rows = {row["row"]: row for row in data_of(run, "own_patients")}
    assert list(rows) == ["site-a", "site-b", "Mean over sites"]
    for site in ("site-a", "site-b"):
        gain = scored["sites"][site]["combined"]["accuracy"]["gain"]
        assert float(rows[site]["value"]) == pytest.approx(100 * gain["value"])
        assert words(gain) in page.text


@pytest.mark.soak
def test_networks_of_a_sites_own_stand_beside_the_common_ones(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", scores=full_scores(personal=True), lines=rounds())
    page = Page(write(folder).read_text(encoding="utf-8"))
    scored = json.loads((folder / "metrics.json").read_text())
    rows = {row["row"]: row for row in data_of(folder, "own_patients")}
    assert list(rows) == [
        label for site in ("site-a", "site-b", "Mean over sites") for label in (site, f"{site}, own networks")
    ]
    mean = scored["own_patients"]["mean"]["combined"]["accuracy"]
    assert float(rows["Mean over sites, own networks"]["value"]) == pytest.approx(
        100 * mean["gain_personal"]["value"]
    )
    assert mean["gain_personal"]["value"] > mean["gain"]["value"]
    card = "points on a site's own patients, its own networks made of them minus alone"
    assert f"{words(mean['gain_personal'])} {card}" in page.text
    assert f"with its own networks {mean['losing_personal']} of 2 sites lose" in page.text
    assert "What each site made for itself" in page.text
    for choice in CHOSEN.values():
        assert page.text.count(choice["sentence"]) == 2
    compared = {row["row"] for row in data_of(folder, "comparison_accuracy")}
    assert {"Federated", "Each site's own networks"} < compared


def test_trivial_answers_ties_and_far_errors_are_shown(run: Path, page: Page) -> None:
    scored = json.loads((run / "metrics.json").read_text())
    colour = scored["baselines"]["counted_colour"]["vascularity"]["accuracy"]["value"]
    assert f"Counted colour n/a {100 * colour:.1f} %" in page.text
    assert "Always the commonest grade" in page.text
    assert "A single model votes a pair that cannot be in 0.0 % of the exams" in page.text
    assert f"in 0.0 % (0 of {scored['exams']}): only there can MULTITUDE answer otherwise." in page.text
    assert "Federated minus counted colour Vascularity" in page.text
    right = scored["ties"]["combined"]["accuracy"]["value"]
    assert f"20.0 % of the answers are ties that a rule settled; {100 * right:.1f} % of those" in page.text
    far = scored["far_off"]["hypertrophy"]
    first = far["examples"][0]
    assert (
        f"{first['site']} · {first['exam_id']}: {first['reference']} decided as {first['decision']}"
        in page.text
    )


def test_a_run_whose_differences_mixed_numbers_of_models_shows_none_of_them(tmp_path: Path) -> None:
    """As version 0.1.0 wrote them: no entry says with how many models it was computed."""
    scores = full_scores()
    scores["baselines"]["federated_same_models"] = scores["baselines"].pop("federated")
    for block in (*scores["differences"].values(), *scores["baselines"]["federated_same_models"].values()):
        if isinstance(block, dict):
            block.pop("models", None)
    for key in ("models", "own_patients", "ties", "far_off"):
        del scores[key]
    page = Page(write(make(tmp_path / "run", scores=scores)).read_text(encoding="utf-8"))
    assert "federated minus alone" not in page.text
    assert "Differences, paired" not in page.text
    assert "Federated, majority vote" in page.text


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    again = make_full(tmp_path / "run")
    write(again)
    for path in [run / "report.html", *sorted((run / "figures").glob("*.*"))]:
        assert path.read_bytes() == (again / path.relative_to(run)).read_bytes(), path.name


def test_examples_are_shown_right_and_wrong(page: Page) -> None:
    assert "Right" in page.text
    assert "Wrong" in page.text
    pictures = [link for link in page.links if link.startswith("data:")]
    assert len(pictures) == 4
    with Image.open(io.BytesIO(b64decode(pictures[1].split(",")[1]))) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


def test_one_measurement_of_three_grades_without_truth_or_baselines(tmp_path: Path) -> None:
    chosen = settings(names=("steatosis",), grades=3)
    sites = {"one": ("x", True), "two": ("y", True)}
    scores = metrics(table(chosen, right=0.6, seed=0, truth=False, sites=sites), settings=chosen)
    page = Page(write(make(tmp_path / "run", scores=scores, lines=rounds())).read_text(encoding="utf-8"))
    assert "consensus of each site's readers" in page.text
    assert "No device was kept out" in page.text
    assert "No patient is in it" not in page.text
    assert "Steatosis > 1" in page.text
    assert (tmp_path / "run" / "figures" / "confusion_steatosis.svg").exists()


def test_numbers_that_cannot_be_computed(tmp_path: Path) -> None:
    chosen = settings()
    predictions = table(chosen, right=0.6, seed=0)
    predictions[["truth_hypertrophy", "truth_vascularity"]] = predictions[
        ["truth_hypertrophy", "truth_vascularity"]
    ].where(predictions["site"] != "site-b", -1)
    scores = metrics(predictions, settings=chosen)
    page = Page(write(make(tmp_path / "run", scores=scores)).read_text(encoding="utf-8"))
    assert "n/a" in page.text
    assert "nan" not in page.text


def test_a_failed_run_still_has_a_page(tmp_path: Path) -> None:
    facts = {"status": "FAILED", "error": "site-b has no manifest.csv"}
    page = Page(write(make(tmp_path / "run", manifest=facts)).read_text(encoding="utf-8"))
    assert "This run is not complete" in page.text
    assert "site-b has no manifest.csv" in page.text
    assert "There are no metrics" in page.text


def test_missing_sites_and_networks_are_named(tmp_path: Path) -> None:
    network = {"best_round": 4, "auc": 0.8123, "threshold": 0.25}
    facts = {"status": "COMPLETE_SUBSET", "missing": {"site-c": 3}, "networks": {"rating/fold0/a": network}}
    page = Page(write(make(tmp_path / "run", manifest=facts)).read_text(encoding="utf-8"))
    assert "site-c (in 3 rounds)" in page.text
    assert "rating/fold0/a 4 0.8123 0.25" in page.text


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    chosen = settings()
    hostile = "<script>alert(1)</script>"
    sites = {hostile: ("<img src=x onerror=y>", True)}
    scores = metrics(table(chosen, right=0.6, seed=0, sites=sites), settings=chosen)
    text = write(make(tmp_path / "run", scores=scores, manifest={"name": hostile})).read_text(
        encoding="utf-8"
    )
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert hostile in page.text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected a run's folder"):
        write(tmp_path / "nowhere")
    broken = make(tmp_path / "run")
    (broken / "metrics.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        write(broken)


def test_a_picture_of_another_type_is_refused(tmp_path: Path) -> None:
    example = Example(
        exam_id="e", site="s", pictures={"gs": np.zeros((4, 4))}, reference={"a": 0}, decision={"a": 0}
    )
    with pytest.raises(DataError, match="picture gs as uint8"):
        write_examples(tmp_path, [example])


@pytest.mark.soak
@pytest.mark.ci
def test_contrasts_and_failures_are_pictures_with_what_they_are_an_example_of(tmp_path: Path) -> None:
    run = make_full(tmp_path / "run")
    note = "Fusion helped against GS alone: hypertrophy 0 from it, 2 from both"
    example = Example(
        exam_id="e7",
        site="site-a",
        pictures={"gs": np.full((20, 30), 90, np.uint8), "doppler": np.zeros((20, 30, 3), np.uint8)},
        reference={"hypertrophy": 2},
        decision={"hypertrophy": 2},
        note=note,
    )
    for name in ("contrasts", "failures"):
        write_examples(run / "figures" / name, [example])
    page = Page(write(run).read_text(encoding="utf-8"))
    assert "What fusion and MULTITUDE change" in page.text
    assert "Failures by kind" in page.text
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    before = (run / "figures" / "contrasts_pictures.svg").read_text()
    assert "Fusion helped against GS alone" in before
    rows = list(csv.DictReader(io.StringIO((run / "figures" / "contrasts_pictures.csv").read_text())))
    assert [(row["exam_id"], row["note"], row["decision"]) for row in rows] == [("e7", note, "2")]
    write(run)
    assert (run / "figures" / "contrasts_pictures.svg").read_text() == before, "the same data, the same bytes"


def test_failures_are_shares_of_the_reference_grades_exams(run: Path) -> None:
    scored = json.loads((run / "metrics.json").read_text())["combined"]["confusion"]
    rows = list(csv.DictReader(io.StringIO((run / "figures" / "failures_combined.csv").read_text())))
    assert sum(int(row["exams"]) for row in rows) == np.sum(scored) - np.trace(scored)
    for row in rows:
        reference, decision = int(row["reference"]), int(row["decision"])
        assert row["kind"] == ("over" if decision > reference else "under")
        assert float(row["share_of_reference"]) == pytest.approx(int(row["exams"]) / sum(scored[reference]))


def test_kappas_have_words_and_comparisons_a_signed_rank(page: Page) -> None:
    assert "Wilcoxon by patient, p" in page.text
    assert re.search(r"0\.\d\d to 0\.\d\d · (slight|fair|moderate|substantial|almost perfect)", page.text)
    assert "By joint, machine, site, age and sex" in page.text
