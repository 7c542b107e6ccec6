"""What `make test` leaves out is named in CONTRIBUTING.md, and of each kind `make soak-ci` has a test."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CONTRIBUTING = (TESTS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)` \|$", CONTRIBUTING, flags=re.MULTILINE)


def marked_for_ci(module: ast.Module, name: str) -> bool:
    """Whether the test, a parameter of it, or one of a fixture that it asks for has the mark."""
    named = {one.name: one for one in module.body if isinstance(one, ast.FunctionDef)}
    constants = {
        target.id: ast.unparse(one.value)
        for one in module.body
        if isinstance(one, ast.Assign)
        for target in one.targets
        if isinstance(target, ast.Name)
    }
    test = named[name]
    asked = [test, *(named[a.arg] for a in test.args.args if a.arg in named)]
    decorators = [d for function in asked for d in function.decorator_list]
    words = {n.id for d in decorators for n in ast.walk(d) if isinstance(n, ast.Name)}
    said = [*map(ast.unparse, decorators), *(constants.get(word, "") for word in words)]
    return any("mark.ci" in text or "SOAK_CI" in text for text in said)


def test_the_table_has_every_kind_by_a_test() -> None:
    rows = [line for line in CONTRIBUTING.splitlines() if line.startswith("| ")]
    assert len(NAMED) == sum("::" in row for row in rows) > 10


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_of_each_kind_that_is_left_out_one_runs_with_every_change(path: str, name: str) -> None:
    assert marked_for_ci(ast.parse((TESTS / path).read_text(encoding="utf-8")), name)
