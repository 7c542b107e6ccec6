"""The notebooks run from the first cell to the last, with nothing but what they make themselves."""

import ast
import json
from pathlib import Path

import pytest

import synofed
from tests.marks import SOAK_CI

pytestmark = [*SOAK_CI]
FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"


def cells(path: Path) -> list[str]:
    """The code of a notebook's cells; what they showed when they were run is no part of the file."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(code: str, names: dict[str, object]) -> object:
    """What a cell shows: the value of its last line, where that is an expression."""
    *statements, last = ast.parse(code).body
    exec(compile(ast.Module(body=statements, type_ignores=[]), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    exec(compile(ast.Module(body=[last], type_ignores=[]), "cell", "exec"), names)
    return None


def test_own_pictures_become_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "notebook"}
    shown = [run(code, names) for code in cells(FOLDER / "own_pictures.ipynb")]
    assert shown[2] == ["north", "south", "west"]
    trained = names["run"]
    assert isinstance(trained, synofed.Run)
    metrics = trained.metrics()
    federated, commonest = (
        metrics["baselines"][name]["effusion"]["accuracy"] for name in ("federated", "commonest")
    )
    assert federated["ci95"][0] > commonest["value"], "it has learnt from the pictures"
    answer = shown[-1]
    assert isinstance(answer, dict)
    assert set(answer["measurements"]["effusion"]) >= {"decision", "votes", "plurality"}
    said = capsys.readouterr().out
    assert said.startswith("\\begin{table}")
    assert said.count("{table}") == 2
