"""A centre that does not ship the package of the installed version, against real SuperNodes."""

import hashlib
import json
from pathlib import Path

import pytest
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab

from client.log import chain
from common.fab import refusal
from common.version import VERSION
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation
from tests.flower_package import package

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.ci]

PROJECT = """\
[project]
name = "synofed"
version = "{version}"
[tool.flwr.app]
publisher = "synofed"
[tool.flwr.app.components]
serverapp = "{name}_server:app"
clientapp = "{client}:app"
[tool.flwr.app.config]
campaign = ""
"""
SERVER = """\
import json, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    messages = [Message(RecordDict(), node, "query.plan", ttl=300.0) for node in grid.get_node_ids()]
    found = []
    for reply in grid.send_and_receive(messages, timeout=200.0):
        error = reply.error.reason if reply.has_error() else ""
        found.append({{"node": reply.metadata.src_node_id, "error": error}})
    Path({found!r} + ".tmp").write_text(json.dumps(found))
    Path({found!r} + ".tmp").rename({found!r})
"""
CLIENT = """\
from pathlib import Path
Path({marker!r}).write_text("this code ran in a hospital")
from flwr.clientapp import ClientApp
app = ClientApp()
"""


def ship(federation: Federation, content: bytes, found: Path) -> list[dict[str, str]]:
    """Start a run of a package; what the sites answered."""
    request = StartRunRequest(
        fab=Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content),
        override_config=user_config_to_proto({"campaign": "demo"}),
    )
    with federation.control() as link:
        link.client.StartRun(request)
    federation.wait(found.exists, what="answers to a malicious centre")
    answers: list[dict[str, str]] = json.loads(found.read_text())
    return answers


@pytest.mark.parametrize("with_code", [True, False], ids=["code", "not listed"])
def test_a_package_that_is_not_the_installed_version_s_is_refused_before_any_of_it_is_imported(
    federation: Federation, tmp_path: Path, with_code: bool
) -> None:
    federation.wait(lambda: federation.online() == set(SITES), what="three connected sites")
    found, marker = tmp_path / "found.json", tmp_path / "marker"
    name = "coded" if with_code else "other"
    files = {
        "pyproject.toml": PROJECT.format(
            name=name, client=f"{name}_client" if with_code else "client.app", version=VERSION
        ),
        f"{name}_server.py": SERVER.format(found=str(found)),
    }
    if with_code:
        files[f"{name}_client.py"] = CLIENT.format(marker=str(marker))
    before = {site: chain.head(federation.site(site) / chain.NAME).sequence for site in SITES}
    answers = ship(federation, package(files), found)
    assert len(answers) == len(SITES)
    assert {answer["error"] for answer in answers} == {refusal()}
    assert not marker.exists()
    for site in SITES:
        unpacked = [path.name for path in federation.site(site).glob("flower/apps/*/*")]
        assert set(unpacked) <= {"pyproject.toml"}
        assert chain.head(federation.site(site) / chain.NAME).sequence == before[site]
