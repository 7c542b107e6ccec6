import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import typer
from PIL import Image

from common.text.table_forms import FORMS
from simulation.cli import command_line
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder, read_table
from tests.test_names import call

README = Path(__file__).parents[1] / "README.md"
DOCUMENTS = (README, README.parent / "CONTRIBUTING.md", *sorted((README.parent / "docs").rglob("*.md")))
MESSAGES = ("troubleshooting.md", "operator.md")


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
    fewer = '[rating]\nfusion = "joint"\nmodels = 1'
    config = CONFIG.format(folder=tmp_path / "cohort").replace("[rating]", fewer)
    (tmp_path / "small.toml").write_text(config, encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    smaller = example.replace("configs/quickstart.toml", "small.toml").replace("rounds=20", "rounds=1")
    assert smaller.count("small.toml") == smaller.count("rounds=1") == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(smaller, str(README), "exec"), {})
    assert "ci95" in capsys.readouterr().out


RESEARCHER = README.parent / "docs" / "researcher.md"


def draw_pictures(folder: Path, header: str) -> None:
    """More rows and pictures for the table of labels that the guide shows."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    rows = [header]
    for number in range(48):
        name, patient, hospital = (
            f"a{number + 17:03}.png",
            f"P{number // 2:02}",
            ["Oslo", "Bergen", "Molde"][number // 2 % 3],
        )
        grade = number // 6 % 3
        picture = rng.integers(0, 90, (40, 40)) + 60 * grade
        Image.fromarray(picture.astype(np.uint8)).save(folder / "pictures" / name)
        machine = "HDI 5000" if hospital == "Oslo" else "Aplio"
        rows.append(
            f"{name},{patient},{hospital},{machine},{('normal', 'benign', 'malignant')[grade]},{40 + number}"
        )
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    sites = [f"P{patient:02},{'ab'[patient % 2]}" for patient in range(24)]
    (folder / "assignment.csv").write_text("\n".join(["patient_id,site", *sites]) + "\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_the_guides_way_from_own_pictures_to_a_score_runs_word_by_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = (
        RESEARCHER.read_text(encoding="utf-8")
        .partition("### Your own or public pictures")[2]
        .partition("\n## ")[0]
    )
    (header,) = re.findall(r"```\n(file,.*)\n", section)
    (configuration,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    draw_pictures(tmp_path, header)
    (tmp_path / "own.toml").write_text(configuration, encoding="utf-8")
    given = list(fenced(section))
    assert [" ".join(words[:2]) for words in given[:6]] == ["cohort import", *["cohort split"] * 5]
    for words in given:
        # what takes minutes is done with less of it, and all else as it is written
        less = ["--set", "federation.rounds=1", "--set", "network.width=4"] if words[0] == "simulate" else []
        assert call(monkeypatch, *words, *less) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "graded: grade; passed through: hospital\n" in said
    assert "votes of the models" in said
    sites = {
        name: sorted(path.parent.name for path in Path(name).glob("*/manifest.csv"))
        for name in ("sites", "by-device", "unlike", "sizes", "assigned")
    }
    assert sites["sites"] == ["bergen", "molde", "oslo"]
    assert sites["by-device"] == ["aplio", "hdi-5000"]
    assert sites["assigned"] == ["a", "b"]
    assert [len(names) for names in sites.values()] == [3, 2, 3, 3, 2]
    sizes = [
        len({row["patient_id"] for row in read_table(Path("sizes", name, "manifest.csv"))})
        for name in sites["sizes"]
    ]
    assert sizes == [12, 8, 4]


def test_every_command_in_the_readme_names_what_exists() -> None:
    text = README.read_text(encoding="utf-8")
    for path in set(re.findall(r"(?:configs|docs)/[\w./-]+\.(?:toml|md|png)", text)):
        assert (README.parent / path).exists(), path


def fenced(text: str) -> Iterator[list[str]]:
    """The commands of a document's blocks, without ``$`` and comments; ``...`` is for the reader to fill in."""
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            command = line.strip().removeprefix("$ ")
            if command.startswith("synofed "):
                words = shlex.split(command, comments=True)[1:]
                if "..." not in words:
                    yield words


def mentioned(text: str) -> Iterator[list[str]]:
    """The commands that stand in a document's sentences."""
    outside = re.sub(r"^ *```\w*\n.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    for command in re.findall(r"`synofed ([^`]*)`", outside):
        if not re.search(r" \d", command):  # else it is the name of a format
            yield [word for word in shlex.split(command) if word != "..."]


@functools.cache
def commands() -> click.Command:
    return typer.main.get_command(command_line.commands())


def command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and what follows its name."""
    found = commands()
    if words[:1] == ["--tables"]:
        assert words[1] in FORMS
        words = words[2:]
    while isinstance(found, click.Group) and words and words != ["--help"]:
        if found.name == "ledger" and words[0] not in found.commands:
            words = ["show", *words]
        assert words[0] in found.commands, words
        found, words = found.commands[words[0]], words[1:]
    return found, words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_documents_is_one(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for words in fenced(text):
        found, arguments = command(words)
        found.make_context(words[0], arguments)
    for words in mentioned(text):
        found, arguments = command(words)
        known = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
        known |= set(found.get_help_option_names(click.Context(found)))
        assert {word.partition("=")[0] for word in arguments if word.startswith("--")} <= known, words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        place = document.parent / name if name else document
        assert place.exists(), target
        assert not anchor or anchor in anchors(place.read_text(encoding="utf-8")), target


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def said() -> Iterator[str]:
    """Every text of the source; what is filled in is one character."""
    root = README.parent
    for package in ("client", "server", "common", "simulation"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values
                    )
    yield from (root / "deploy" / "install.sh").read_text(encoding="utf-8").splitlines()


def test_every_message_that_is_explained_is_one() -> None:
    texts = list(said())
    for name in MESSAGES:
        document = (README.parent / "docs" / name).read_text(encoding="utf-8")
        quoted = re.findall(r"(?<![*\w])\*([^*|]+ [^*|]+)\*(?!\*)", document)
        assert len(quoted) > 10
        for message in quoted:
            parts = [part.strip() for part in " ".join(message.split()).split("…")]
            pattern = re.compile(".*".join(map(re.escape, filter(None, parts))), re.DOTALL)
            assert any(map(pattern.search, texts)), f"{name}: nothing says {message!r}"
