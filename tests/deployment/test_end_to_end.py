import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from client.app import app as client_app
from common.settings import Settings
from server.campaign import campaign
from server.campaign.roster import Roster
from server.runs import submit
from server.service import presence
from simulation.engine.grid import App, InProcessGrid, StrictGrid, Workers
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation, simulated_sites
from tests.site_folders import make_settings, read_table

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.ci]


def configured(name: str, *, rounds: int = 2, federation: str = "") -> Settings:
    text = 'fusion = "joint"\nreplicas = 1\n[training]\nlocal_steps = 2\nbatch_size = 8\n'
    settings = make_settings(
        measurements=("hypertrophy",), grades=3, text=f"{text}[federation]\nrounds = {rounds}\n{federation}"
    )
    return settings.model_copy(update={"name": name})


def networks(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    found = sorted((folder / "networks").rglob("*.safetensors"))
    return {str(path.relative_to(folder)): load_file(path) for path in found}


def leaked(federation: Federation, folders: list[Path]) -> list[str]:
    """Central files that hold an id, a file's name or a folder of a site, in their bytes."""
    secrets = {str(folder).encode() for folder in folders}
    for folder in folders:
        for row in read_table(folder / "manifest.csv"):
            names = (
                row["patient_id"],
                row["exam_id"],
                *(Path(row[f"{kind}_path"]).name for kind in ("gs", "doppler")),
            )
            secrets |= {name.encode() for name in names}
    assert len(secrets) > 100
    files = [path for path in federation.home.path.rglob("*") if path.is_file()]
    assert any(path.name == "link.db" for path in files)
    return [str(path) for path in files if any(secret in path.read_bytes() for secret in secrets)]


def assert_same_bits(deployed: Path, alone: Path) -> None:
    """Two runs' networks are the same, and there are some."""
    first, second = networks(deployed), networks(alone)
    assert first.keys() == second.keys() != set()
    for name, tensors in second.items():
        for key, tensor in tensors.items():
            assert torch.equal(first[name][key], tensor), (name, key)


def in_process(settings: Settings, folders: list[Path], out: Path, *, app: App = client_app) -> Path:
    out.mkdir()
    with Workers(("cpu",), threads=1) as workers:
        campaign.run(
            StrictGrid(InProcessGrid(app, folders, workers)),
            settings,
            roster=Roster.anyone(len(folders)),
            folder=out,
            campaign=settings.name,
            observer=lambda event: None,
        )
    return out


def test_a_campaign_over_tls_gives_the_same_bits_as_in_one_process(
    federation: Federation, tmp_path: Path
) -> None:
    settings = configured("bits")
    copies = simulated_sites(federation, SITES, tmp_path)
    run = federation.ended(submit.submit(federation.home, settings))
    status = run.status()
    assert status.state == "COMPLETE_ALL_SITES", run.log.read_text()
    assert {name: site.used for name, site in status.sites.items()} == dict.fromkeys(SITES, status.total)
    assert_same_bits(run.path, in_process(settings, copies, tmp_path / "alone"))
    assert leaked(federation, [federation.site(name) for name in SITES]) == []
    rounds = run.rounds()
    assert len(rounds) == status.total
    assert all(record["participants"] == list(SITES) for record in rounds)
    assert {name for name, site in presence.read(federation.home).items() if site.online} >= set(SITES)
    assert json.loads((run.path / "manifest.json").read_text())["status"] == "COMPLETE_ALL_SITES"
