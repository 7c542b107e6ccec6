"""Several processes at once: one cohort for all, one writer per folder, none stopped by what a killed one left."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import synofed
from common import settings
from common.errors import BusyError, DataError
from common.machine import file_lock, network_files
from common.sections.cohort import PhantomSettings
from server.runs.run_folder import RunFolder
from simulation.cohorts import cohort, public
from simulation.studies import study as studies
from tests.patience import PATIENCE_S
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder, read_table, write_table

TINY = PhantomSettings(sites=1, patients=2, exams_per_patient=1, image_px=64, unseen_device=False)
FAST = [
    "evaluate.baselines=false",
    "rating.models=1",
    "evaluate.bootstrap=100",
    "rating.fusion=joint",
    "training.local_steps=1",
    "federation.group_bytes=50_000_000",
]
PUBLIC = """
[cohort.public]
images = "pictures"
labels = "pictures/labels.csv"
by = "size"
sites = 2
held_out = 0.4
[cohort.public.columns]
patient_id = "patient_id"
exam_id = "exam_id"
gs_path = "gs_path"
doppler_path = "doppler_path"
hypertrophy = "hypertrophy"
vascularity = "vascularity"
"""


COUNT = 4
"""Processes at once."""


def started(folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "import synofed; synofed.main()", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(synofed.__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    said = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def options(*overrides: str) -> list[str]:
    return [part for override in (*FAST, *overrides) for part in ("--set", override)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a configuration over public pictures of which no cohort was made yet."""
    pictures = make_site_folder(tmp_path / "pictures", name="p", patients=16, exams_per_patient=2)
    grades = {row["exam_id"]: row for row in read_table(pictures / "grades.csv")}
    rows = read_table(pictures / "manifest.csv")
    write_table(
        pictures / "labels.csv",
        [row | {m: grades[row["exam_id"]][m] for m in ("hypertrophy", "vascularity")} for row in rows],
    )
    text = CONFIG[: CONFIG.index("[cohort]")] + PUBLIC
    (tmp_path / "public.toml").write_text(text, encoding="utf-8")
    make_site_folder(tmp_path / "cohort" / "north", name="north", patients=6, held_out_patients=2)
    make_site_folder(tmp_path / "cohort" / "south", name="south", patients=6, seed=1, held_out_patients=2)
    (tmp_path / "small.toml").write_text(CONFIG.format(folder=tmp_path / "cohort"), encoding="utf-8")
    return tmp_path


@pytest.mark.soak
def test_a_folder_in_use_is_refused_by_name_and_left_as_it_is(folder: Path) -> None:
    (folder / "runs" / "same").mkdir(parents=True)
    with RunFolder.alone(folder / "runs" / "same"):
        process = started(folder, "simulate", "small.toml", *options("name=same"))
        ((code, said),) = ended([process])
    assert code == 1, said
    assert re.search(rf"runs/same is being written by process {os.getpid()} on \S+ since 20\d\d-", said), said
    assert not list((folder / "runs" / "same").iterdir())


def test_the_lock_follows_links_and_is_let_go_of(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "runs")
    with (
        RunFolder.alone(tmp_path / "runs" / "r"),
        pytest.raises(BusyError),
        RunFolder.alone(tmp_path / "linked" / "r"),
    ):
        pass
    with RunFolder.alone(tmp_path / "linked" / "r"):
        pass


def test_a_lock_that_cannot_be_is_no_lock_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OSError, match="No locks"), file_lock.alone(tmp_path):
        pass


def test_who_needs_a_cohort_that_is_being_made_says_so_and_waits(tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    said: list[str] = []
    found: list[cohort.Cohort] = []
    with file_lock.alone_beside(out):
        thread = threading.Thread(
            target=lambda: found.append(cohort.ensure(TINY, seed=1, out=out, workers=1, say=said.append))
        )
        thread.start()
        while not said:
            time.sleep(0.01)
        made = cohort.make(TINY, seed=1, out=out, workers=1)
        assert not found
    thread.join()
    assert found == [made]
    assert said == [f"{out} is being made by process {os.getpid()} on " + said[0].split(" on ", 1)[1]]
    assert said[0].endswith(": waiting for it")


def test_threads_that_need_one_cohort_share_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    configured = settings.load(folder / "public.toml")
    assert configured.cohort is not None and configured.cohort.public is not None
    wanted = configured.cohort.public
    found: list[object] = []
    barrier = threading.Barrier(3)

    def ensure() -> None:
        barrier.wait()
        try:
            found.append(public.ensure(wanted, settings=configured, folder=Path("cohorts")))
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == found[2]
    assert isinstance(found[0], cohort.Cohort)


def test_a_folder_that_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    def overtake(done: int, total: int) -> None:
        if done == total:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "mine").write_text("kept")

    with pytest.raises(DataError, match="another process has made one meanwhile"):
        cohort.make(TINY, seed=1, out=tmp_path / "out", workers=1, progress=overtake)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "mine").read_text() == "kept"


@pytest.mark.soak
def test_runs_at_once_make_their_cohort_once(folder: Path) -> None:
    runs = [
        started(folder, "simulate", "public.toml", *options(f"name=r{i}", "federation.rounds=1"))
        for i in range(COUNT)
    ]
    assert [code for code, _ in ended(runs)] == [0] * COUNT
    (made,) = (path for path in (folder / "cohorts").iterdir() if path.is_dir())
    assert not made.name.startswith(".")
    weights = [
        {
            n.spec.name: n.weights.tobytes()
            for n in network_files.load_all(folder / "runs" / f"r{i}" / "networks")
        }
        for i in range(COUNT)
    ]
    assert weights[0] and all(other == weights[0] for other in weights)


@pytest.mark.soak
def test_of_runs_in_one_folder_one_goes_on_alone(folder: Path) -> None:
    rates = [0.01, 0.003, 0.001, 0.0003]
    runs = [
        started(
            folder, "simulate", "small.toml", *options("name=same", f"training.learning_rate={rate}"),
            *(["--resume"] if rate == rates[-1] else []),
        )
        for rate in rates
    ]  # fmt: skip
    results = ended(runs)
    first = [i for i, (code, _) in enumerate(results) if code == 0]
    assert first, results
    for code, said in results:
        assert (
            code == 0
            or (code == 1 and "is being written by process" in said)
            or "Expected a run's folder" in said
            or "is of another plan" in said  # the one that resumes came when another had ended
        )
    place = RunFolder(folder / "runs" / "same")
    manifest, lines = place.manifest(), (place.path / "rounds.jsonl").read_text().splitlines()
    assert manifest["plan_hash"] == place.settings().plan_hash()
    assert (manifest["status"], "error" in manifest) == ("COMPLETE_ALL_SITES", False)
    keys = [(line["group"], line["round"]) for line in map(json.loads, lines)]
    assert len(keys) == len(set(keys))
    fresh = synofed.simulate(
        folder / "small.toml",
        out=folder / "fresh",
        overrides=[*FAST, f"training.learning_rate={place.settings().training.learning_rate}"],
    )
    assert fresh.metrics() == synofed.Run(place.path).metrics()


@pytest.mark.soak
@pytest.mark.ci
@pytest.mark.slow
def test_what_a_killed_process_left_stops_nobody(folder: Path) -> None:
    command = ["simulate", "small.toml", *options("name=same", "federation.rounds=3")]
    process = started(folder, *command)
    while not (folder / "runs" / "same" / "rounds.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)
    busy = ended([started(folder, *command, "--resume")])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert busy[0][0] == 1 and f"written by process {process.pid} on" in busy[0][1]
    ((code, said),) = ended([started(folder, *command, "--resume")])
    assert code == 0, said


@pytest.mark.soak
def test_an_array_job_does_its_indices_at_once_and_each_once(folder: Path) -> None:
    (folder / "study.toml").write_text(
        'name = "array"\nbase = "small.toml"\nreference = "one"\nseeds = [1]\n'
        f"set = {json.dumps([*FAST, 'federation.rounds=1'])}\n[rows.one]\n[rows.two]\n"
        "set = ['evaluate.bootstrap=150']\n",
        encoding="utf-8",
    )
    runs = [started(folder, "study", "study.toml", "run", "--index", str(i)) for i in (0, 1, 0)]
    results = ended(runs)
    assert results[1][0] == 0, results
    twice = sorted((results[0], results[2]))
    assert twice[0][0] == 0
    assert twice[1][0] == 0 or "is being written by process" in twice[1][1]
    ((code, said),) = ended([started(folder, "study", "study.toml", "all")])
    assert code == 0, said
    opened = studies.load(folder / "study.toml", out=folder / "runs" / "array")
    assert all(opened.done(run) for run in opened.runs)
