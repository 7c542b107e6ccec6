import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import synofed

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["common", "client", "server", "simulation", "synofed"])
def test_each_package_is_the_repositorys_own(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)


def public_interface() -> str:
    """Every public name with its signature, a line each; attributes of classes have none."""
    lines = []
    for name in synofed.__all__:
        found = getattr(synofed, name)
        lines.append(f"{name}{inspect.signature(found)}")
        if inspect.isclass(found):
            lines += [
                f"{name}.{inner}{inspect.signature(value) if callable(value) else ''}"
                for inner, value in sorted(vars(found).items())
                if not inner.startswith("_")
            ]
    return "\n".join(lines).replace("'", "") + "\n"


def test_the_public_names_and_their_signatures_are_these() -> None:
    """A line that changes here breaks somebody's script: say so in the changelog."""
    assert public_interface() == (ROOT / "tests/evidence/public_interface.txt").read_text(encoding="utf-8")
    for name in synofed.__all__:
        assert inspect.getdoc(getattr(synofed, name)), name


def test_importing_it_imports_nothing_of_ours_and_nothing_slow() -> None:
    code = (
        "import sys; before = set(sys.modules); import synofed; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert set(done.stdout.split()) <= {"synofed", *sys.stdlib_module_names}


def test_a_folder_that_hides_a_package_is_named(tmp_path: Path) -> None:
    hiding = tmp_path / "server"
    hiding.mkdir()
    (hiding / "__init__.py").write_text("", encoding="utf-8")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import synofed; synofed.main()"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert str(hiding) in done.stderr


@pytest.mark.soak
@pytest.mark.ci
def test_training_with_the_small_backbone_does_not_import_torchvision_or_ray() -> None:
    code = "import sys, simulation.runs.simulate; sys.exit(bool({'torchvision', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT)
    assert done.returncode == 0


def test_the_product_names_no_machine() -> None:
    texts = [p for p in ROOT.rglob("*") if p.suffix in {".py", ".md", ".toml", ".html", ".txt", ".cff"}]
    own = [
        p for p in texts if not any(part.startswith((".", "runs", "cohorts", "build")) for part in p.parts)
    ]
    assert own
    for path in own:
        text = path.read_text(encoding="utf-8")
        assert "/" + "work/" not in text, path
        assert "/" + "root/" not in text, path
