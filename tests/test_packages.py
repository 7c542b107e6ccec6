import importlib.util
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


def test_the_public_names_are_these() -> None:
    assert synofed.__all__ == ["Run", "main", "simulate"]
    methods = {name for name in vars(synofed.Run) if not name.startswith("_")}
    assert methods == {"path", "metrics", "predictions", "network", "pictures"}


def test_a_folder_that_hides_a_package_is_named(tmp_path: Path) -> None:
    hiding = tmp_path / "server"
    hiding.mkdir()
    (hiding / "__init__.py").write_text("", encoding="utf-8")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import synofed; synofed.main()"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert str(hiding) in done.stderr


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
