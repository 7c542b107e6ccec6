import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

import synofed
from common import settings as configuration
from common.errors import CampaignError, ConfigurationError, DataError, SynofedError
from common.sections.cohort import PhantomSettings
from simulation.cohorts import cohort as cohorts
from simulation.engine.site_logs import SiteLogs
from simulation.runs import cost_card
from tests.simulation.runs.test_simulate import CONFIG, FAST
from tests.site_folders import make_site_folder, read_table, write_table

PHANTOM = "cohort={phantom={sites=2, patients=16, exams_per_patient=2, image_px=64, held_out=0.01}}"


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    for seed, name in enumerate(("north", "south")):
        make_site_folder(
            tmp_path / "sites" / name,
            name=name,
            patients=9,
            exams_per_patient=4,
            seed=seed,
            held_out_patients=3,
        )
    return tmp_path / "sites"


@pytest.fixture
def config(cohort: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(CONFIG.format(folder=cohort), encoding="utf-8")
    return path


def refused(config: Path, run: Path, *overrides: str) -> str:
    """What ``plan`` and ``simulate`` say, which is the same and before a run's folder is made."""
    given = [*FAST, *overrides]
    with pytest.raises(SynofedError) as by_plan:
        cost_card.plan(configuration.load(config, overrides=given))
    with pytest.raises(type(by_plan.value)) as by_simulate:
        synofed.simulate(config, out=run, overrides=given)
    assert by_simulate.value.exit_code == by_plan.value.exit_code
    assert str(by_simulate.value) == str(by_plan.value)
    assert not run.exists()
    assert by_plan.value.exit_code in (3, 4)
    return str(by_plan.value)


def change(cohort: Path, table: str, **cells: str) -> None:
    for site in cohort.iterdir():
        rows = read_table(site / table)
        write_table(site / table, [row | {k: v for k, v in cells.items() if k in row} for row in rows])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (['compute.devices=["cpu", ""]'], "got \\['cpu', ''\\]: '' is none of them"),
        (["compute.devices=[]"], "nothing is none of them"),
        (['compute.devices=["gpu:1"]'], "'gpu:1' is none of them"),
        (['compute.devices=["auto", "cpu"]'], "'auto' is none of them"),
        (["federation.quorum=3"], "quorum of at most 2, the sites that train, got 3"),
        (["network.backbone=vgg16"], "Raise network.image_px to 32"),
        pytest.param(
            ["network.backbone=resnet18", "training.batch_size=1"],
            "training.batch_size .* to 2 or more",
            marks=pytest.mark.soak,
        ),
        (['cohort.leave_out=["nobodys"]'], "Expected cohort.leave_out among \\['Resona 7'\\]"),
        (['cohort.leave_out=["Resona 7"]'], "Expected a site that trains"),
        (["rating.folds=7"], "at least 7 training patients for 7 folds"),
        (["federation.rule=krum"], "federation.rule cannot be used with 2 sites"),
    ],
)
def test_simulate_and_plan_refuse_alike(
    config: Path, tmp_path: Path, overrides: list[str], said: str
) -> None:
    message = refused(config, tmp_path / "run", *overrides)
    assert re.search(said, message), message


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is meant")
def test_a_gpu_that_is_not_there(config: Path, tmp_path: Path) -> None:
    assert "got cuda:0, cuda:1: it has no CUDA device" in refused(
        config, tmp_path / "run", 'compute.devices=["0", "1"]'
    )


def test_nobody_is_held_out(config: Path, cohort: Path, tmp_path: Path) -> None:
    change(cohort, "manifest.csv", split="train")
    assert "Expected held-out patients to test on, got none" in refused(config, tmp_path / "run")


def test_nobody_of_a_phantom_cohort_is_held_out(config: Path) -> None:
    """Known from the settings: no cohort is made for it."""
    with pytest.raises(DataError, match="Expected held-out patients"):
        cost_card.plan(
            configuration.load(config, overrides=[*FAST, f"{PHANTOM[:-2]}, unseen_device=false}}}}"])
        )


def test_phantom_sites_below_their_cohort_are_said(config: Path) -> None:
    """Seven training patients in two folds: three or four behind each network, five have to be."""
    few = PHANTOM.replace("patients=16", "patients=14").replace("0.01", "0.5")
    with pytest.raises(
        DataError, match=r"no site has any for .*patients stand behind a network, policy.minimum_cohort"
    ):
        cost_card.plan(configuration.load(config, overrides=[*FAST, few]))


def test_no_site_has_a_grade_of_a_measurement(config: Path, cohort: Path, tmp_path: Path) -> None:
    for site in cohort.iterdir():
        held_out = {row["exam_id"] for row in read_table(site / "manifest.csv") if row["split"] == "test"}
        rows = read_table(site / "grades.csv")
        kept = [row if row["exam_id"] in held_out else row | {"vascularity": ""} for row in rows]
        write_table(site / "grades.csv", kept)
    said = refused(config, tmp_path / "run")
    assert "no site has any for vascularity" in said
    assert "no training exam has a grade of it" in said


def test_nobody_held_out_has_a_grade_of_a_measurement(config: Path, cohort: Path, tmp_path: Path) -> None:
    for site in cohort.iterdir():
        held_out = {row["exam_id"] for row in read_table(site / "manifest.csv") if row["split"] == "test"}
        rows = read_table(site / "grades.csv")
        write_table(
            site / "grades.csv",
            [row | {"vascularity": ""} if row["exam_id"] in held_out else row for row in rows],
        )
    assert "held-out exams with a grade of vascularity, got none" in refused(config, tmp_path / "run")


def test_one_class_only_at_every_site(config: Path, cohort: Path, tmp_path: Path) -> None:
    change(cohort, "grades.csv", hypertrophy="2", vascularity="1")
    said = refused(config, tmp_path / "run")
    assert "no site has any for " in said
    assert "all training exams are of one class" in said


def test_a_site_with_nothing_to_train(config: Path, cohort: Path, tmp_path: Path) -> None:
    toml = cohort / "south" / "site.toml"
    toml.write_text(toml.read_text().replace("minimum_cohort = 1", "minimum_cohort = 9"), encoding="utf-8")
    said = refused(config, tmp_path / "run")
    assert "Expected 2 of 2 sites that train something (federation.quorum)" in said
    assert "south: 3 patients stand behind a network, policy.minimum_cohort is 9" in said
    run = synofed.simulate(config, out=tmp_path / "run", overrides=[*FAST, "federation.quorum=1"])
    assert (run.path / "manifest.json").read_text().count("COMPLETE_SUBSET") == 1


@pytest.mark.soak
def test_a_site_that_cannot_train_alone_has_no_baseline(
    config: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_table(cohort / "south" / "grades.csv")
    write_table(cohort / "south" / "grades.csv", [row | {"hypertrophy": "1"} for row in rows])
    given = ["federation.rounds=1", "rating.models=1"]
    run = synofed.simulate(config, out=tmp_path / "run", overrides=given)
    assert set(run.metrics()["baselines"]["alone"]) == {"north"}
    assert "south has no baseline of its own" in (run.path / "log.txt").read_text()


@pytest.mark.parametrize(
    "engine", ["in-process", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.soak])]
)
@pytest.mark.parametrize("baselines", ["false", "true"])
def test_a_sites_own_error_is_shown_in_full(
    config: Path, cohort: Path, tmp_path: Path, engine: str, baselines: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training step that fails at the site: its text, where its log lies, and no advice that cannot help."""
    overrides = [
        "federation.rounds=1",
        "rating.models=1",
        f"evaluate.baselines={baselines}",
        f"compute.engine={engine}",
    ]
    place = cohort / "south" / "state"
    place.write_text("in the way", encoding="utf-8")
    with pytest.raises(CampaignError) as raised:
        synofed.simulate(
            config, out=tmp_path / "run", overrides=[*overrides, "federation.algorithm=scaffold"]
        )
    said = str(raised.value)
    assert f"south says ({cohort / 'south' / 'log.txt'}):" in said
    assert "NotADirectoryError" in said or "state" in said.split("says (")[1]
    assert "Resume when the sites are back" not in said
    assert "log.txt in the site's folder): mend it there, then resume" in said


@pytest.mark.soak
def test_a_baselines_own_error_is_shown_too(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.rounds import node

    train = node.train

    def fails(site: object, *args: object, **named: object) -> object:
        if getattr(site, "name", "") == "pooled":
            raise ZeroDivisionError("nothing is left to divide by")
        return train(site, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(node, "train", fails)
    with pytest.raises(CampaignError) as raised:
        synofed.simulate(config, out=tmp_path / "run", overrides=["federation.rounds=1", "rating.models=1"])
    said = str(raised.value)
    assert said.startswith("centralised: ")
    assert "ZeroDivisionError: nothing is left to divide by" in said
    assert "raised in File" in said
    assert str(tmp_path / "run" / "baselines" / "centralised" / "site" / "log.txt") in said


def test_a_phantom_picture_that_differs_is_said_before_training(config: Path, tmp_path: Path) -> None:
    """Heatmaps are compared with where its synovium is: that a picture is another's is known before a round."""
    phantom = PhantomSettings(sites=1, patients=20, exams_per_patient=2, image_px=64, unseen_device=False)
    made = cohorts.make(phantom, seed=1, out=tmp_path / "phantoms", workers=1)
    (site,) = made.sites
    for row in read_table(site.folder / "manifest.csv"):
        if row["split"] == "test":
            with Image.open(site.folder / row["gs_path"]) as picture:
                ImageOps.invert(picture).save(site.folder / row["gs_path"])
    given = [*FAST, f'cohort={{folder="{made.folder}"}}', "evaluate.heatmaps=2"]
    given += ["federation.group_bytes=50_000_000"]  # a rare grade may be missing, a group may not
    with pytest.raises(DataError, match="its file differs: make the cohort anew"):
        synofed.simulate(config, out=tmp_path / "run", overrides=given)
    assert not (tmp_path / "run").exists()


def test_heatmaps_that_cannot_be_are_refused_alike(config: Path, tmp_path: Path) -> None:
    asked = "evaluate.heatmaps=2"
    assert "Expected a cohort of phantoms" in refused(config, tmp_path / "run", asked)
    assert "gives no heatmaps" in refused(config, tmp_path / "run", asked, "rating.codes=classes")


def test_only_what_is_new_in_a_log_is_shown(tmp_path: Path) -> None:
    site = tmp_path / "north"
    site.mkdir()
    log = site / "log.txt"
    log.write_text("2026-01-01T00:00:00+00:00 ERROR of another day\n", encoding="utf-8")
    logs = SiteLogs([site, tmp_path / "absent"])
    assert logs.errors() == ""
    with log.open("a", encoding="utf-8") as file:
        file.write("2026-01-01T00:00:01+00:00 WARNING small\n")
        file.write(
            "2026-01-01T00:00:02+00:00 ERROR manifest.csv has 2 errors:\n  line 3: [a]\n  line 4: b\n" * 2
        )
    assert (
        logs.errors() == f"north says ({log}):\n  manifest.csv has 2 errors:\n    line 3: [a]\n    line 4: b"
    )


def test_a_device_that_is_named_well_is_taken() -> None:
    from common.sections.compute import ComputeSettings
    from simulation.engine import engines

    assert engines.devices(ComputeSettings(devices=("cpu", "cpu"))) == ("cpu", "cpu")
    with pytest.raises(ConfigurationError):
        engines.devices(ComputeSettings(devices=("cuda:99",)))


def graded_by(cohort: Path, grades: Mapping[str, Sequence[int]]) -> None:
    """Each patient's four exams have a site's grades, one each; all readers agree."""
    for site in cohort.iterdir():
        exams = [row["exam_id"] for row in read_table(site / "manifest.csv")]
        of_exam = {exam: str(grades[site.name][i % 4]) for i, exam in enumerate(exams)}
        rows = read_table(site / "grades.csv")
        both = ("hypertrophy", "vascularity")
        write_table(site / "grades.csv", [row | dict.fromkeys(both, of_exam[row["exam_id"]]) for row in rows])


def test_plan_warns_where_the_site_tells_a_grade(config: Path, cohort: Path) -> None:
    graded_by(cohort, {"north": (0, 1, 2, 3), "south": (0, 1, 2, 3)})
    assert cost_card.plan(configuration.load(config, overrides=FAST), budget_s=0.1).warnings == ()
    graded_by(cohort, {"north": (0, 2, 3, 3), "south": (0, 0, 1, 2)})
    said = cost_card.plan(configuration.load(config, overrides=FAST), budget_s=0.1).warnings
    assert [warning.split(" to a degree")[0] for warning in said] == [
        "The site tells hypertrophy",
        "The site tells vascularity",
    ]
