"""``--resume``: over the same sites and data or not at all, with the settings that are given now."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageOps

import synofed
from common import settings as configuration
from common.errors import CampaignError, ChangedDataError
from server.runs.run_folder import RunFolder
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder, read_table, write_table

FAST = [
    "federation.rounds=1",
    "evaluate.baselines=false",
    "rating.models=1",
    "rating.fusion=joint",
    "evaluate.bootstrap=100",
    "federation.group_bytes=50_000_000",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites that train and one that is only tested on, and their finished run."""
    base = tmp_path_factory.mktemp("finished")
    names = ("north", "south", "unseen")
    for seed, name in enumerate(names):
        make_site_folder(
            base / "cohort" / name, name=name, patients=6, exams_per_patient=2, seed=seed, held_out_patients=2
        )
    sites = [{"name": name, "trains": name != "unseen"} for name in names]
    (base / "cohort" / "cohort.json").write_text(json.dumps({"sites": sites}))
    (base / "small.toml").write_text(CONFIG.format(folder=base / "cohort"), encoding="utf-8")
    synofed.simulate(base / "small.toml", out=base / "run", overrides=FAST)
    return base


@pytest.fixture
def config(finished: Path, tmp_path: Path) -> Path:
    """A copy of them, that may be changed."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "small.toml"
    path.write_text(CONFIG.format(folder=tmp_path / "cohort"), encoding="utf-8")
    return path


def resume(config: Path, *overrides: str) -> synofed.Run:
    return synofed.simulate(config, out=config.parent / "run", overrides=[*FAST, *overrides], resume=True)


def regrade(site: Path, *, split: str) -> None:
    exams = {row["exam_id"] for row in read_table(site / "manifest.csv") if row["split"] == split}
    rows = read_table(site / "grades.csv")
    write_table(
        site / "grades.csv",
        [
            row
            | ({"hypertrophy": "1" if row["hypertrophy"] != "1" else "2"} if row["exam_id"] in exams else {})
            for row in rows
        ],
    )


def redraw(site: Path) -> None:
    path = next((site / "images").glob("*-e0_gs.png"))
    ImageOps.invert(Image.open(path).convert("L")).convert("RGB").save(path)


def crop(site: Path) -> None:
    rows = read_table(site / "manifest.csv")
    write_table(site / "manifest.csv", [row | {"gs_roi": "0 0 20 20"} for row in rows])


def exchange(site: Path) -> None:
    shutil.rmtree(site)
    make_site_folder(site, name=site.name, patients=6, exams_per_patient=2, seed=77, held_out_patients=2)


def leave(site: Path) -> None:
    index = site.parent / "cohort.json"
    sites = [one for one in json.loads(index.read_text())["sites"] if one["name"] != site.name]
    index.write_text(json.dumps({"sites": sites}))


def join(site: Path) -> None:
    make_site_folder(site.parent / "west", name="west", patients=6, exams_per_patient=2, held_out_patients=2)
    index = site.parent / "cohort.json"
    sites = [*json.loads(index.read_text())["sites"], {"name": "west", "trains": True}]
    index.write_text(json.dumps({"sites": sites}))


def sit_out(site: Path) -> None:
    index = site.parent / "cohort.json"
    index.write_text(index.read_text().replace("true", "false", 1))


@pytest.mark.parametrize(
    ("change", "site", "said"),
    [
        (
            lambda site: regrade(site, split="train"),
            "south",
            r"data of south .* 8 exams with other grades",
        ),
        (lambda site: regrade(site, split="test"), "south", r"data of south .* 4 exams with other grades"),
        (lambda site: regrade(site, split="test"), "unseen", r"data of unseen .* 4 exams with other grades"),
        (redraw, "north", r"data of north .* 1 exam with other pictures"),
        (crop, "unseen", r"data of unseen .* 12 exams with other pictures or regions"),
        (exchange, "south", r"data of south .* 12 exams with other"),
        (leave, "south", "south is gone"),
        (leave, "unseen", "unseen is gone"),
        (join, "south", "west is new"),
        (sit_out, "north", "north does not train now and did then"),
    ],
)
def test_other_data_are_refused_before_anything_is_trained_or_written(
    config: Path, tmp_path: Path, change: Callable[[Path], None], site: str, said: str
) -> None:
    run = tmp_path / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    change(tmp_path / "cohort" / site)
    with pytest.raises(ChangedDataError, match=said) as raised:
        resume(config)
    assert raised.value.exit_code == 4
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_cohort_that_was_moved_or_whose_rows_have_another_order_is_the_same(
    config: Path, tmp_path: Path
) -> None:
    metrics = synofed.Run(tmp_path / "run").metrics()
    shutil.move(tmp_path / "cohort", tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "north" / "manifest.csv"
    write_table(moved, list(reversed(read_table(moved))))
    run = resume(config, f"cohort.folder={tmp_path / 'elsewhere'}")
    assert run.metrics()["combined"]["confusion"] == metrics["combined"]["confusion"]
    assert (
        RunFolder(run.path).settings().cohort
        == configuration.load(config, overrides=[f"cohort.folder={tmp_path / 'elsewhere'}"]).cohort
    )


@pytest.mark.soak
def test_what_is_not_in_the_plan_holds_as_it_is_given_now_and_is_written_down(
    config: Path, tmp_path: Path
) -> None:
    run = resume(
        config, "evaluate.baselines=true", "evaluate.bootstrap=120", "name=renamed", "compute.threads=2"
    )
    kept = RunFolder(run.path).settings()
    assert (kept.evaluate.baselines, kept.evaluate.bootstrap, kept.name, kept.compute.threads) == (
        True, 120, "renamed", 2,
    )  # fmt: skip
    manifest = RunFolder(run.path).manifest()
    assert (manifest["name"], manifest["status"]) == ("renamed", "COMPLETE_ALL_SITES")
    assert set(run.metrics()["baselines"]["alone"]) == {"north", "south"}
    assert (run.path / "predictions_baselines.parquet").exists()
    lines = [json.loads(line) for line in (run.path / "rounds.jsonl").read_text().splitlines()]
    assert {line["system"] for line in lines} == {"federated", "alone:north", "alone:south", "centralised"}
    resume(config)
    assert "alone" not in run.metrics()["baselines"]
    assert not (run.path / "predictions_baselines.parquet").exists()


@pytest.mark.soak
def test_baselines_of_other_settings_are_trained_anew(config: Path) -> None:
    both = ["rating.models=2", "rating.fusion=joint", "evaluate.baselines=true"]
    one, two = ([*both, f"evaluate.baseline_models={models}"] for models in (1, 2))
    out = config.parent / "two"
    synofed.simulate(config, out=out, overrides=[*FAST, *one])
    again = synofed.simulate(config, out=out, overrides=[*FAST, *two], resume=True)
    fresh = synofed.simulate(config, out=config.parent / "fresh", overrides=[*FAST, *two])
    assert again.metrics() == fresh.metrics()
    assert "trained anew" in (out / "log.txt").read_text(encoding="utf-8")


def test_another_plan_is_refused_with_what_differs_and_nothing_is_written(
    config: Path, tmp_path: Path
) -> None:
    before = (tmp_path / "run" / "config.toml").read_bytes()
    with pytest.raises(CampaignError, match=r"differs in seed, training\.learning_rate"):
        resume(config, "seed=4", "training.learning_rate=0.1")
    assert (tmp_path / "run" / "config.toml").read_bytes() == before


def test_a_run_of_an_earlier_version_is_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "sites.json").unlink()
    with pytest.raises(CampaignError, match="an earlier version did not note it"):
        resume(config)


PHANTOM = """
[cohort.phantom]
sites = 2
patients = 24
exams_per_patient = 1
image_px = 64
unseen_device = false
machines = ["machine.toml"]
"""


@pytest.mark.slow
@pytest.mark.soak
def test_another_machine_is_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, machine = tmp_path / "small.toml", tmp_path / "machine.toml"
    config.write_text(CONFIG[: CONFIG.index("[cohort]")] + PHANTOM, encoding="utf-8")
    shutil.copy(Path(__file__).parents[3] / "docs" / "examples" / "machine.toml", machine)
    run = synofed.simulate(config, out="run", overrides=FAST)
    settings = RunFolder(run.path).settings()
    text = machine.read_text(encoding="utf-8")
    machine.write_text(text.replace("noise_db = -50.0", "noise_db = -40.0"), encoding="utf-8")
    assert configuration.load(config, overrides=FAST).plan_hash() == settings.plan_hash()
    with pytest.raises(ChangedDataError, match="site-a"):
        synofed.simulate(config, out="run", overrides=FAST, resume=True)
    machine.unlink()
    again = synofed.simulate(run.path / "config.toml", out="run", resume=True)
    assert again.path == run.path
    assert len(list(Path("cohorts").glob("phantom-*"))) == 2
