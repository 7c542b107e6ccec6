"""No command imports what it does not need: by what is imported, not by the clock."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
import typer

from simulation.cli.command_line import commands
from tests.site_folders import make_site_folder

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "ray", "flwr", "opacus", "captum", "dp_accounting")
SLOW = (*HEAVY, "pandas", "pyarrow", "scipy", "sklearn", "statsmodels", "matplotlib")
"""What takes long to import."""
MOST_MODULES = 1200
"""Commands that only say or read something have 1,110 of them together, the interpreter's own included."""
RUN = f"""
import contextlib, io, json, sys
import synofed

for words in json.loads(sys.argv[1]):
    sys.argv, said, code = ["synofed", *words], io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            synofed.main()
        except SystemExit as ended:
            code = ended.code
    slow = [name for name in {SLOW} if name in sys.modules]
    print(json.dumps([code or 0, slow, len(sys.modules), said.getvalue()]))
"""


def run(commands: Sequence[Sequence[object]], cwd: Path) -> Iterator[tuple[int, set[str], int, str]]:
    """Exit code, and all that was said, of each command; what is slow to import, and modules, so far: one process."""
    asked = json.dumps([[str(word) for word in words] for words in commands])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{RUN}", asked],
        check=True, capture_output=True, text=True, cwd=cwd,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        code, slow, modules, said = json.loads(line)
        yield code, set(slow), modules, said


def walk(
    command: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from walk(inner, (*words, name))


def everything() -> list[tuple[tuple[str, ...], click.Command]]:
    return list(walk(typer.main.get_command(commands())))


@pytest.mark.slow
def test_help_of_every_command_imports_nothing_slow(tmp_path: Path) -> None:
    commands = [(*words, "--help") for words, _ in everything()]
    found = list(run(commands, tmp_path))
    assert len(found) == len(commands) > 60
    for words, (code, slow, modules, said) in zip(commands, found, strict=True):
        assert (code, slow) == (0, set()), (words, said)
        assert "Usage: synofed" in said
        assert modules < MOST_MODULES, words


def test_lists_say_of_a_command_what_it_says_itself() -> None:
    context = click.Context(click.Command("synofed"))
    listed = 0
    for words, group in everything():
        if not isinstance(group, click.Group):
            continue
        for name, command in group.commands.items():
            line = group.get_command(context, name)
            assert line is not None and line.help and command.help
            assert command.help.split("\n\n")[0].replace("\n", " ") == line.help, (*words, name)
            listed += 1
    assert listed > 60


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A centre, a site of it, a reader study, a cohort."""
    base = tmp_path_factory.mktemp("places")
    make_site_folder(base / "north", name="north", patients=3)
    rows = [
        f"e{exam},p{exam},{reader},{condition},{(exam + len(condition)) % 4},{exam % 4}"
        for exam in range(8)
        for reader in ("a", "b")
        for condition in ("without", "with")
    ]
    head = "exam_id,patient_id,reader,condition,combined,truth_combined"
    (base / "readings.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    make = (
        ("federation", "provision", "--name", "Study", "--address", "localhost:8443"),
        ("federation", "invite", "south"),
        ("site", "init", "south.invitation.json"),
        ("cohort", "make", "--sites", "2", "--patients", "2", "--exams", "2", "--image-px", "64", "--out", "cohort"),
    )  # fmt: skip
    for words, (code, _, _, said) in zip(make, run(make, base), strict=True):
        assert code == 0, (words, said)
    return base


CONFIGS = ROOT / "configs"
NOT_THERE = 3
READS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("weights list", 0, ()),
    ("federation sites", 0, ()),
    ("federation status", 0, ()),
    ("federation renew", 0, ()),
    ("run list", 0, ()),
    ("run watch nothere", NOT_THERE, ()),
    ("site status south", 0, ()),
    ("site campaigns list south", 0, ()),
    ("site policy show south", 0, ()),
    ("site ledger show south", 0, ()),
    ("site ledger verify south", 0, ()),
    ("site ledger patients south", 0, ()),
    ("site log show south", 0, ()),
    ("site peers list south", 0, ()),
    ("site outbox list south", 0, ("flwr",)),
    ("readers readings.csv", 0, ("scipy",)),
    ("readers readings.csv --json", 0, ("scipy",)),
    ("readers readings.csv --out study", 0, ("matplotlib", "scipy")),
    (f"study {CONFIGS / 'rating_table_small.toml'} expand", 0, ()),
    (f"privacy plan {CONFIGS / 'rating_private.toml'} --total-patients 450 --sites 5", 0, ("scipy",)),
    ("cohort show cohort", 0, ("scipy",)),
    ("simulate nothere.toml", NOT_THERE, ()),
    ("simulate nothere.toml --seeds 1,2", NOT_THERE, ()),
    ("plan nothere.toml", NOT_THERE, ()),
    ("privacy plan nothere.toml --total-patients 9 --sites 2", NOT_THERE, ()),
    ("run submit nothere.toml", NOT_THERE, ()),
)
"""A command, its exit code, and what of the slow ones it needs."""


@pytest.mark.slow
def test_what_only_reads_imports_only_what_it_needs(places: Path) -> None:
    rows = sorted(READS, key=lambda row: len(row[2]))  # what needs nothing comes first
    found = run([command.split() for command, _, _ in rows], places)
    may: set[str] = set()
    for (command, code, needs), (ended, slow, modules, said) in zip(rows, found, strict=True):
        may |= set(needs)
        assert ended == code, (command, said)
        assert slow <= may, command
        assert modules < MOST_MODULES or needs, command


def test_privacy_is_accounted_without_torch() -> None:
    code = (
        "import sys; from common.privacy.accounting import adjacency, of_plan, spending; "
        f"sys.exit(bool(set({SLOW}) & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
