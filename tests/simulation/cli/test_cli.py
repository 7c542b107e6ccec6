import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import synofed
from common.errors import ConfigurationError
from tests.command_lines import command
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder

FAST = [
    *("--set", "federation.rounds=1", "--set", "evaluate.baselines=false"),
    *("--set", "rating.models=1", "--set", "rating.fusion=joint"),
]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    for seed, name in enumerate(("north", "south")):
        make_site_folder(
            tmp_path / "cohort" / name,
            name=name,
            patients=8,
            exams_per_patient=4,
            seed=seed,
            held_out_patients=2,
        )
    return tmp_path / "cohort"


@pytest.fixture
def config(cohort: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(CONFIG.format(folder=cohort), encoding="utf-8")
    return path


def test_json_is_the_metrics_and_nothing_else(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert command(monkeypatch, "simulate", str(config), *FAST, "--out", str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "metrics.json").read_text())
    assert command(monkeypatch, "report", str(out)) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")


def _overwrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "sabotage", "code", "says"),
    [
        (
            ["--set", "federation.round=3"],
            None,
            3,
            "federation.round: no such setting: is federation.rounds meant?",
        ),
        (["--set", "federation.rounds"], None, 3, "key=value"),
        (["--set", "federation.rounds", "3"], None, 3, "key=value in one word, as federation.rounds=10"),
        (["--set", "cohort.folder=nowhere"], None, 4, "nowhere"),
        (["--engine", "quantum"], None, 3, "compute.engine"),
        (["--resume"], None, 3, "Expected a run's folder"),
        ([], lambda c: shutil.rmtree(c / "north" / "images"), 4, "north"),
        ([], lambda c: (c / "south" / "grades.csv").unlink(), 4, "grades.csv"),
        ([], lambda c: _overwrite(c / "north" / "manifest.csv", "patient_id", "patient"), 4, "patient_id"),
        ([], lambda c: _overwrite(c / "north" / "site.toml", "median", "mean"), 3, "data.consensus"),
        ([], lambda c: _overwrite(c / "north" / "site.toml", "allow_unprotected = true", ""), 5, "refuses"),
        (
            [],
            lambda c: _overwrite(c / "north" / "site.toml", "automatic", "each"),
            5,
            "nobody is there to approve",
        ),
    ],
)
def test_every_error_is_one_clear_message_with_its_exit_code(
    config: Path,
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sabotage: object,
    code: int,
    says: str,
) -> None:
    if callable(sabotage):
        sabotage(cohort)
    out = tmp_path / "run"
    assert command(monkeypatch, "simulate", str(config), *FAST, "--out", str(out), *arguments) == code
    error = capsys.readouterr().err
    assert error.count("Error: ") == 1
    assert "Traceback" not in error
    assert says in error
    if out.exists():  # a site declined when asked: the run says so itself
        assert json.loads((out / "manifest.json").read_text())["status"] == "FAILED"


@pytest.mark.soak
def test_an_impossible_pair_is_quarantined_and_counted(
    config: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cohort / "north" / "grades.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= {"hypertrophy": "0", "vascularity": "2"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    out = tmp_path / "run"
    assert command(monkeypatch, "simulate", str(config), *FAST, "--out", str(out), "--json") == 0
    log = (out / "log.txt").read_text(encoding="utf-8")
    assert "1 quarantined" in log
    assert (
        f"  quarantined {rows[0]['exam_id']}: grades line 2: hypertrophy 0 with vascularity 2 cannot be"
        in log
    )


def test_a_cohort_is_made_shown_and_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    small = ["--sites", "2", "--patients", "3", "--exams", "2", "--image-px", "64"]
    assert command(monkeypatch, "cohort", "make", "--out", str(made), *small) == 0
    assert capsys.readouterr().out == f"2 sites in {made}, and unseen, never trained on\n"
    assert command(monkeypatch, "cohort", "make", "--out", str(made), *small) == 4
    assert "Expected nothing at" in capsys.readouterr().err
    assert command(monkeypatch, "cohort", "show", str(made), "--out", str(tmp_path / "sheet.png")) == 0
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    manifest = str(make_site_folder(tmp_path / "all", patients=12, exams_per_patient=2) / "manifest.csv")
    by_size = ["--by", "size", "--sites", "2"]
    assert command(monkeypatch, "cohort", "split", manifest, "--out", str(tmp_path / "split"), *by_size) == 0
    assert len(list((tmp_path / "split").glob("*/manifest.csv"))) == 2
    assert "2 sites" in capsys.readouterr().out


def test_import_names_what_is_graded_and_passes_the_rest_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(3)
    rows = []
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png;{('normal', 'benign', 'malignant')[i % 3]};{50 + i};{'AB'[i % 2]}")
    lines = ["Breast study 2024;;;", "file;class;age;hospital", *rows]
    (tmp_path / "labels.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    given = ["cohort", "import", "--images", str(tmp_path), "--labels", str(tmp_path / "labels.csv")]
    given += ["--column", "us_path=file", "--column", "age=age", "--column", "hospital=hospital"]
    given += ["--patient", "each-picture", "--out", str(tmp_path / "set")]
    assert command(monkeypatch, *given, "--measurement", "grade=class") == 4
    assert "--grades benign=0,malignant=1,normal=2" in capsys.readouterr().err
    for wrong in ("normal", "normal=x", "normal=0,normal=1", "normal=16"):
        assert command(monkeypatch, *given, "--measurement", "grade=class", "--grades", wrong) == 3
    capsys.readouterr()
    words = ["--grades", "normal=0, benign=1,malignant=2"]
    assert command(monkeypatch, *given, "--measurement", "grade=class", *words) == 0
    assert "graded: grade; passed through: hospital" in capsys.readouterr().out
    manifest = str(tmp_path / "set" / "manifest.csv")
    split = [
        "cohort",
        "split",
        manifest,
        "--by",
        "column:hospital",
        "--sites",
        "2",
        "--out",
        str(tmp_path / "c"),
    ]
    assert command(monkeypatch, *split) == 0
    for place in (tmp_path / "set", tmp_path / "c" / "a", tmp_path / "c" / "b"):
        grades = (place / "grades.csv").read_text(encoding="utf-8").splitlines()
        assert grades[0] == "exam_id,reader,session,grade"
        assert {line[-1] for line in grades[1:]} == {"0", "1", "2"}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_python_makes_what_the_commands_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(3)
    rows = ["file,class,clinic"]
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(tmp_path / f"pictures/{i}.png")
        rows.append(f"{i}.png,{('normal', 'ill')[i % 2]},{'ab'[i % 3 // 2]}")
    shutil.copy(tmp_path / "pictures" / "0.png", tmp_path / "pictures" / "twice.png")
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "twice.png,normal,a"]) + "\n", encoding="utf-8")
    given = "cohort import --images pictures --labels labels.csv --out one --patient each-picture"
    given += " --column us_path=file --column clinic=clinic --measurement grade=class --grades normal=0,ill=1"
    assert command(monkeypatch, *given.split()) == 0
    split = "cohort split one/manifest.csv --by column:clinic --sites 2 --held-out 0.4 --seed 5 --out sites"
    assert command(monkeypatch, *split.split()) == 0
    make = "cohort make --out made --sites 1 --patients 2 --exams 2 --image-px 64 --no-unseen --seed 7"
    assert command(monkeypatch, *make.split()) == 0
    assert command(monkeypatch, "cohort", "show", "made", "--out", "sheet.png", "--seed", "2") == 0
    capsys.readouterr()

    manifest = synofed.import_pictures(
        "pictures",
        "labels.csv",
        out="two",
        columns={"us_path": "file", "clinic": "clinic", "grade": "class"},
        measurements=["grade"],
        grades={"normal": 0, "ill": 1},
        patient="each-picture",
    )
    assert manifest == Path("two/manifest.csv")
    assert "copies.csv" in capsys.readouterr().err
    sites = synofed.split_cohort(
        "one/manifest.csv", out="again", by="column:clinic", sites=2, held_out=0.4, seed=5
    )
    made = synofed.make_cohort("drawn", sites=1, patients=2, exams=2, image_px=64, unseen=False, seed=7)
    synofed.show_cohort(made, "sheet-too.png", seed=2)
    for python, by_command in ((manifest.parent, "one"), (sites, "sites"), (made, "made")):
        assert files(tmp_path / python) == files(tmp_path / by_command) != {}
    assert Path("sheet-too.png").read_bytes() == Path("sheet.png").read_bytes()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"held_out": 2.0}, "held_out: .* got 2.0"),
        ({"alpha": 0.0}, "alpha: .* got 0.0"),
        ({"sites": 0}, "sites: .* got 0"),
        ({"weights": [1.0, -1.0]}, "weights.1: .* got -1.0"),
        ({"by": "nothing"}, "got 'nothing'"),
    ],
)
def test_python_says_what_is_wrong(asked: dict[str, Any], said: str, tmp_path: Path) -> None:
    manifest = make_site_folder(tmp_path / "all", patients=6, exams_per_patient=1) / "manifest.csv"
    with pytest.raises(ConfigurationError, match=said):
        synofed.split_cohort(manifest, out=tmp_path / "made", **asked)
    assert not (tmp_path / "made").exists()
