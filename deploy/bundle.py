"""Makes the offline bundle: wheels, checksums, the hash of the app's package, and a script that installs them.

``make bundle`` writes ``dist/synofed-VERSION-MACHINE/`` and a ``.tar`` of it, beside it the list of what is in it
(``.cdx.json``, CycloneDX) and the checksums of both (``.SHA256SUMS``). Wheels are those that pip finds here
with the versions of ``constraints.txt``; what has none is built. Where the site has a GPU, run it on a
machine whose pip finds the CUDA build of torch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

import sbom

ROOT = Path(__file__).resolve().parents[1]
SBOM = "sbom.cdx.json"
EPOCH = "1577836800"  # 2020-01-01: the same sources give the same wheel


def main() -> None:
    """Make the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--own-only", action="store_true", help="leave out what synofed depends on")
    given = parser.parse_args()
    print(make(given.out, complete=not given.own_only))  # noqa: T201


def make(out: Path, *, complete: bool) -> Path:
    """Make the bundle beside its place, and put it there when it is whole.

    Args:
        out: folder that gets the bundle's folder, contents and checksums and, if it is complete, its ``.tar``.
        complete: with everything that synofed depends on.

    Returns:
        The bundle's folder.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    name = f"synofed-{version}-{platform.machine()}"
    draft = out / f".{name}"
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "wheels").mkdir(parents=True)
    _wheels(draft / "wheels", complete=complete)
    _describe(draft, version, complete=complete)
    place = out / name
    shutil.rmtree(place, ignore_errors=True)
    draft.rename(place)
    made = [out / f"{name}.cdx.json"]
    shutil.copy(place / SBOM, made[0])
    if complete:
        made.append(out / f"{name}.tar")
        with tarfile.open(made[-1], "w") as archive:
            archive.add(place, arcname=name)
    (out / f"{name}.SHA256SUMS").write_text(_sums(made, out, ""), encoding="utf-8")
    return place


def _wheels(folder: Path, *, complete: bool) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "--quiet",
        "--wheel-dir",
        str(folder),
    ]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    source = folder.parent / "source"
    _copy_source(source)
    subprocess.run([*pip, "--no-deps", str(source)], check=True, env=environment)
    shutil.rmtree(source)
    if complete:
        (own,) = folder.glob("synofed-*.whl")
        subprocess.run(
            [*pip, "--constraint", str(ROOT / "constraints.txt"), str(own)], check=True, env=environment
        )


def _copy_source(target: Path) -> None:
    """What the wheel is made of, without what a build leaves behind in the tree."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for folder in ("common", "client", "server", "simulation"):
        shutil.copytree(ROOT / folder, target / folder, ignore=ignored)
    (target / "docs").mkdir()
    for file in ("pyproject.toml", "README.md", "LICENSE", "synofed.py", "docs/verify_independently.py"):
        shutil.copy(ROOT / file, target / file)


def _describe(folder: Path, version: str, *, complete: bool) -> None:
    wheels = sorted((folder / "wheels").glob("*.whl"))
    requirements = "".join(f"{_requirement(wheel)} --hash=sha256:{sbom.sha256(wheel)}\n" for wheel in wheels)
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    facts = {
        "version": version,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "machine": platform.machine(),
        "fab_sha256": _fab_hash(),
        "complete": "yes" if complete else "no",
    }
    (folder / "BUNDLE").write_text(
        "".join(f"{key}={value}\n" for key, value in facts.items()), encoding="utf-8"
    )
    shutil.copy(ROOT / "deploy" / "install.sh", folder / "install.sh")
    shutil.copy(ROOT / "configs" / "mapping.example.toml", folder / "mapping.example.toml")
    for container in sorted((ROOT / "deploy" / "containers").glob("*")):
        shutil.copy(container, folder / container.name)
    bill = sbom.bill(folder, name="synofed", version=version)
    (folder / SBOM).write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    (folder / "SHA256SUMS").write_text(_sums(files, folder, "./"), encoding="utf-8")


def _sums(files: Sequence[Path], folder: Path, before: str) -> str:
    return "".join(f"{sbom.sha256(path)}  {before}{path.relative_to(folder)}\n" for path in files)


def _requirement(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name.replace('_', '-')}=={version}"


def _fab_hash() -> str:
    code = "from common import fab; print(fab.fab_hash())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
