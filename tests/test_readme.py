import re
from pathlib import Path

import pytest

from tests.simulation.test_simulate import CONFIG
from tests.site_folders import make_site_folder

README = Path(__file__).parents[1] / "README.md"


def test_the_example_in_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("north", "south")):
        make_site_folder(
            tmp_path / "cohort" / name,
            name=name,
            patients=8,
            exams_per_patient=4,
            seed=seed,
            held_out_patients=2,
        )
    (tmp_path / "small.toml").write_text(CONFIG.format(folder=tmp_path / "cohort"), encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    smaller = example.replace("configs/quickstart.toml", "small.toml").replace("rounds=20", "rounds=1")
    assert smaller.count("small.toml") == smaller.count("rounds=1") == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(smaller, str(README), "exec"), {})
    assert "ci95" in capsys.readouterr().out


def test_every_command_in_the_readme_names_what_exists() -> None:
    text = README.read_text(encoding="utf-8")
    for path in set(re.findall(r"(?:configs|docs)/[\w./-]+\.(?:toml|md|png)", text)):
        assert (README.parent / path).exists(), path
