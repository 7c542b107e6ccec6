"""Numbers on the command line: whatever is given, it works or is refused, and nothing breaks."""

from pathlib import Path

import click
import pytest

import synofed
from tests.failing_commands import every_command

EXTREMES = ("nan", "inf", "-inf", "1e400", "1e308", "-1e308", "1e-300", "-0.0", "-1", str(10**30), str(2**63))
CONFIG = str(Path(__file__).parents[1] / "configs" / "rating_private.toml")
WITH = {
    "cohort make": ("--out", "made"),
    "cohort hands": ("--out", "made"),
    "cohort joints": ("--out", "made"),
    "cohort import": (
        *("--images", "nothere", "--labels", "nothere.csv", "--column", "image_path=file"),
        *("--measurement", "grade", "--out", "made"),
    ),
    "cohort split": ("nothere.csv", "--out", "made"),
    "cohort show": ("nothere",),
    "privacy plan": (CONFIG, "--total-patients", "300", "--sites", "3"),
    "privacy audit": ("nothere", "--empirical"),
    "federation provision": ("--name", "n", "--address", "localhost:8443"),
    "readers": ("nothere.csv",),
    "serve": ("nothere",),
    "score": ("nothere", "--gs", "nothere.png", "--heatmap", "made"),
    "site log show": ("nothere",),
    "site personalise": ("nothere", "abc"),
    "site alone": ("nothere", "abc"),
    "study": ("nothere.toml", "run"),
}  # fmt: skip
WORKS = {("site log show", "--last"), ("privacy plan", "--delta")}
"""A large or a small value means something there."""
NUMBERS = [
    (" ".join(path), parameter.name, parameter.opts[0])
    for path, command in every_command()
    for parameter in command.params
    if isinstance(parameter, click.Option)
    and isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType)
]  # fmt: skip


def test_every_number_is_tried() -> None:
    assert {command for command, _, _ in NUMBERS} == set(WITH)
    assert len(NUMBERS) >= 20


@pytest.mark.parametrize(("command", "name", "option"), NUMBERS)
def test_an_extreme_number_is_refused(
    command: str,
    name: str,
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del name
    monkeypatch.chdir(tmp_path)
    for extreme in EXTREMES:
        monkeypatch.setattr("sys.argv", ["synofed", *command.split(), *WITH[command], f"{option}={extreme}"])
        with pytest.raises(SystemExit) as ended:
            synofed.main()
        assert ended.value.code in ((0, 2, 3, 4) if (command, option) in WORKS else (2, 3, 4)), extreme
        shown = capsys.readouterr().err
        assert "Traceback" not in shown, extreme
        assert not (tmp_path / "made").exists()
