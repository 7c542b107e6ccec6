"""Ctrl-C and SIGTERM: a run ends within seconds with 130, says how to go on, and leaves no process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import synofed
from server.runs.run_folder import RunFolder
from simulation.engine import interruption
from tests.marks import SOAK_CI
from tests.patience import PATIENCE_S, wait_for
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder

PHANTOM = "[cohort.phantom]\nsites = 2\npatients = 400\nexams_per_patient = 8\n"
ENDLESS = "training.local_steps=1000000"
"""Hours of training: a run that ends has not waited for the end of its round."""
MARK = "SYNOFED_TEST_OF"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("north", "south")):
        make_site_folder(tmp_path / "cohort" / name, name=name, patients=9, seed=seed, held_out_patients=3)
    (tmp_path / "small.toml").write_text(CONFIG.format(folder=tmp_path / "cohort"), encoding="utf-8")
    (tmp_path / "phantom.toml").write_text(CONFIG[: CONFIG.index("[cohort]")] + PHANTOM, encoding="utf-8")
    return tmp_path


def left_over(mark: str) -> list[str]:
    """Processes that have the environment of a test's run."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (place / "environ").read_bytes():
                found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
        except OSError:  # gone, or another's
            continue
    return [command for command in found if command]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc for what is left")
@pytest.mark.parametrize(
    ("config", "number", "times", "options", "seen"),
    [
        pytest.param(
            "small",
            signal.SIGINT,
            1,
            ["--engine", "ray", "--set", "training.local_steps=2"],
            "rounds.jsonl",
            marks=SOAK_CI,
        ),
        pytest.param(
            "small",
            signal.SIGINT,
            2,
            ["--engine", "ray", "--set", ENDLESS],
            "journal",
            marks=pytest.mark.soak,
        ),
        pytest.param(
            "small",
            signal.SIGTERM,
            1,
            ["--engine", "ray", "--set", ENDLESS],
            "journal",
            marks=pytest.mark.soak,
        ),
        pytest.param("small", signal.SIGINT, 1, ["--set", ENDLESS], "journal", marks=SOAK_CI),
        pytest.param("small", signal.SIGTERM, 2, ["--set", ENDLESS], "journal", marks=pytest.mark.soak),
        pytest.param("phantom", signal.SIGINT, 1, [], "", marks=pytest.mark.soak),
    ],
)
def test_it_ends_within_seconds_and_leaves_nothing(
    folder: Path, config: str, number: signal.Signals, times: int, options: list[str], seen: str
) -> None:
    """The signal goes to the process group, as a terminal's does."""
    command = [
        sys.executable,
        "-c",
        "import synofed; synofed.main()",
        "simulate",
        f"{config}.toml",
        "--out",
        "run",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(synofed.__file__).parent), MARK: folder.name}
    process = subprocess.Popen(
        [*command, "--set", "federation.rounds=400", *options], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    pattern = f"run/{seen}*" if seen else "cohorts/.phantom-*/site-a/images/*.png"
    wait_for(lambda: bool(list(folder.glob(pattern))) or process.poll() is not None)
    if seen == "journal":
        time.sleep(2.0)  # into the local steps
    for _ in range(times):
        os.killpg(process.pid, number)
        time.sleep(0.2)
    try:
        said, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == interruption.EXIT_CODE, said
    assert "Traceback" not in said
    if seen:
        assert "Interrupted. Go on with --resume." in said
        assert RunFolder(folder / "run").manifest()["status"] == "INTERRUPTED"
    else:
        assert said.rstrip().endswith("Interrupted.")
        assert not (folder / "run").exists()
        assert not [path for path in (folder / "cohorts").iterdir() if path.is_dir()]
    wait_for(  # Ray's agents look now and then whether the rest of it is gone
        lambda: not left_over(folder.name), every_s=0.2, told=lambda: "\n".join(left_over(folder.name))
    )
