"""The container files in ``deploy/``: linted, and strict about what matters in a hospital."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

FOLDER = Path(__file__).parents[2] / "deploy" / "containers"
CONTAINERFILE = FOLDER / "Containerfile"
SECRET = re.compile(r"passw|secret|token|private|BEGIN ", re.IGNORECASE)
PINNED = re.compile(r"docker\.io/library/python(:\d+\.\d+\.\d+-slim-\w+|@sha256:[0-9a-f]{64})")


def service(name: str) -> dict[str, Any]:
    document = yaml.safe_load((FOLDER / f"compose.{name}.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = document["services"][name]
    assert list(document["services"]) == [name]
    return found


def instructions() -> list[tuple[str, str]]:
    text = CONTAINERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.partition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in lines]


def test_the_linter_finds_nothing() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter is not None, "the linter comes with synofed[dev]"
    done = subprocess.run([linter, CONTAINERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_pinned_unprivileged_and_fetches_nothing() -> None:
    found = instructions()
    bases = [rest for word, rest in found if word == "ARG"]
    assert len(bases) == 1 and PINNED.fullmatch(bases[0].removeprefix("BASE="))
    assert all(rest.split()[0] == "${BASE}" for word, rest in found if word == "FROM")
    users = [rest for word, rest in found if word == "USER"]
    assert users == ["10001:10001"] and found.index(("USER", users[0])) > max(
        at for at, (word, _) in enumerate(found) if word in {"RUN", "COPY"}
    )
    assert not any(word in {"ADD", "EXPOSE", "VOLUME", "SHELL"} for word, _ in found)
    assert not any(re.search(r"https?:|curl|wget|pip |apt", rest) for _, rest in found)
    assert ("ENTRYPOINT", '["synofed"]') in found


@pytest.mark.parametrize("name", ["site", "centre"])
def test_containers_can_do_little_and_hold_no_secrets(name: str) -> None:
    found = service(name)
    assert found["user"] == "10001:10001" and found["userns_mode"].startswith("keep-id")
    assert found["read_only"] is True and found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges"] and found["ulimits"] == {"core": 0}
    assert found["restart"] == "always" and found["init"] is True
    forbidden = {
        "privileged",
        "network_mode",
        "pid",
        "ipc",
        "cap_add",
        "devices",
        "environment",
        "env_file",
        "secrets",
    }
    assert not forbidden & set(found)
    assert all(mount["type"] == "bind" and mount["source"].startswith("${") for mount in found["volumes"])
    assert not SECRET.search((FOLDER / f"compose.{name}.yaml").read_text(encoding="utf-8"))
    assert not SECRET.search(CONTAINERFILE.read_text(encoding="utf-8"))


def test_a_site_only_connects_outwards_and_cannot_change_scans() -> None:
    found = service("site")
    assert "ports" not in found and "expose" not in found
    (scans,) = [mount for mount in found["volumes"] if mount["target"] == "/scans"]
    assert scans["read_only"] is True
    assert found["command"] == ["site", "join", "/site"]


def test_a_centre_opens_one_port_and_says_whether_it_works() -> None:
    found = service("centre")
    assert found["ports"] == ["8443:8443"]
    compile(found["healthcheck"]["test"][-1], "healthcheck", "exec")
    assert found["command"] == ["federation", "up", "--home", "/federation"]
