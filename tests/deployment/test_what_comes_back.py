"""The signed ensemble over TLS to real sites, and a centre whose files hold nothing of their patients."""

from pathlib import Path

import pytest

from client.ensemble import delivery
from client.site.site import Site
from common.machine import network_files
from common.sections.campaign import CampaignSettings
from server.runs import submit
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation
from tests.deployment.test_end_to_end import configured
from tests.site_folders import read_table

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.ci]


def words_of(site: Path) -> set[bytes]:
    """A site's path, and whatever names its patients, exams, pictures and devices."""
    rows = read_table(site / "manifest.csv")
    columns = ("patient_id", "exam_id", "gs_path", "doppler_path", "device")
    words = {str(site), *(row[column] for row in rows for column in columns)}
    return {word.encode() for word in words}


def test_each_site_gets_the_ensemble_and_the_centre_keeps_nothing_of_patients(federation: Federation) -> None:
    settings = configured("comes-back", rounds=1)
    settings = settings.model_copy(update={"campaign": CampaignSettings(recipients=("sites",))})
    run = federation.ended(submit.submit(federation.home, settings))
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    assert run.status().ensemble == dict.fromkeys(SITES, "received")
    centre = {n.spec.name: n.weights.tobytes() for n in network_files.load_all(run.path / "networks")}
    for name in SITES:
        site = Site.open(federation.site(name))
        statement, committee = delivery.opened(site, run.settings().plan_hash())
        assert set(statement.networks) == set(centre)
        assert len(committee.specs) > 0
        place = delivery.folder(site.folder, run.settings().plan_hash())
        got = {n.spec.name: n.weights.tobytes() for n in network_files.load_all(place / "networks")}
        assert got == centre
    files = [path for path in federation.home.path.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".db") for path in files)
    words = set[bytes]().union(*(words_of(federation.site(name)) for name in SITES))
    for path in [*files, federation.folder / "up.out"]:
        content = path.read_bytes()
        assert not [word for word in words if word in content], path
