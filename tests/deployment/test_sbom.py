"""The list of what is in a bundle, as CycloneDX 1.6 asks of it."""

import hashlib
import importlib.util
import json
import re
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from common.version import VERSION
from tests.deployment.test_bundle import ROOT, make

Document = dict[str, Any]


@pytest.fixture(scope="module")
def bill_of() -> Any:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "deploy" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.bill


def wheel(folder: Path, name: str, version: str, *, headers: str = "") -> None:
    (folder / "wheels").mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / "wheels" / f"{stem}-py3-none-any.whl", "w") as archive:
        text = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{headers}\n\nName: not-a-header\n"
        archive.writestr(f"{stem}.dist-info/METADATA", text)


def check(bill: Mapping[str, Any], folder: Path) -> None:
    """What the schema requires, and that every file is in it with its hash."""
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", bill["metadata"]["timestamp"])
    components = [bill["metadata"]["component"], *bill["components"]]
    refs = [each["bom-ref"] for each in components]
    assert len(set(refs)) == len(refs)
    for each in components:
        assert each["type"] in ("application", "library", "file")
        assert each["name"]
        for licence in each.get("licenses", []):
            assert set(licence) == {"expression"} or set(licence["license"]) == {"name"}
    for each in bill["dependencies"]:
        assert {each["ref"], *each["dependsOn"]} <= set(refs)
    hashes = {
        (each["properties"][0]["value"] if each["type"] == "library" else each["name"]): each["hashes"]
        for each in bill["components"]
    }
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in files.keys() - {"sbom.cdx.json", "SHA256SUMS"}:
        digest = hashlib.sha256(files[name].read_bytes()).hexdigest()
        assert hashes.pop(name) == [{"alg": "SHA-256", "content": digest}]
    assert hashes == {}


@pytest.mark.soak
@pytest.mark.ci
def test_the_bundle_lists_itself_and_what_was_made_has_checksums(tmp_path: Path) -> None:
    bundle = make(tmp_path, "--own-only")
    bill = json.loads((bundle / "sbom.cdx.json").read_text(encoding="utf-8"))
    check(bill, bundle)
    own = bill["metadata"]["component"]
    assert (own["name"], own["version"], own["licenses"]) == (
        "synofed",
        VERSION,
        [{"expression": "Apache-2.0"}],
    )
    assert (tmp_path / f"{bundle.name}.cdx.json").read_bytes() == (bundle / "sbom.cdx.json").read_bytes()
    sums = f"{bundle.name}.SHA256SUMS"
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", sums], cwd=tmp_path, check=True)


def test_licences_and_dependencies_are_as_each_wheel_says(tmp_path: Path, bill_of: Any) -> None:
    wheel(
        tmp_path,
        "synofed",
        "1.0",
        headers="Requires-Dist: My_Lib>=1\nRequires-Dist: absent\nRequires-Dist: odd; extra == 'x'",
    )
    wheel(tmp_path, "my-lib", "2.0+cpu", headers="License-Expression: MIT OR Apache-2.0\nLicense: other")
    wheel(tmp_path, "odd", "3", headers="License: BSD\nClassifier: License :: OSI Approved :: BSD License")
    wheel(tmp_path, "long", "4", headers=f"License: {'word ' * 50}")
    wheel(tmp_path, "silent", "5", headers="Classifier: License :: OSI Approved")
    bill = bill_of(tmp_path, name="synofed", version="1.0")
    check(bill, tmp_path)
    by_name = {each["name"]: each for each in bill["components"]}
    assert by_name["my-lib"]["purl"] == "pkg:pypi/my-lib@2.0%2Bcpu"
    assert by_name["my-lib"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert by_name["odd"]["licenses"] == [{"license": {"name": name}} for name in ("BSD", "BSD License")]
    assert "licenses" not in by_name["long"] | by_name["silent"]
    needs = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    assert needs["pkg:pypi/synofed@1.0"] == ["pkg:pypi/my-lib@2.0%2Bcpu"]
    assert len(needs["synofed-bundle"]) == 5


def test_the_same_files_have_the_same_serial_number(tmp_path: Path, bill_of: Any) -> None:
    wheel(tmp_path, "synofed", "1.0")
    first = bill_of(tmp_path, name="synofed", version="1.0")["serialNumber"]
    assert bill_of(tmp_path, name="synofed", version="1.0")["serialNumber"] == first
    (tmp_path / "install.sh").write_text("x", encoding="utf-8")
    assert bill_of(tmp_path, name="synofed", version="1.0")["serialNumber"] != first
