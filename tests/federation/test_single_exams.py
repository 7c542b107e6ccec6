"""Single exams behind tables leave where plan and policy both say so, without a name, and as they left once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from client.app import app as client_app
from client.consent import campaign_page, campaigns
from client.data.site_store import site_store
from client.ensemble import beside_tables
from client.ensemble.held_out import Behind
from client.ledger import ledger
from client.site.site import Site
from client.state import decisions
from client.state.decisions import Status
from common import wire
from common.errors import ConfigurationError, UpdateError
from common.messages import PlanReply, PlanRequest, Refusal
from common.privacy.accounting.spending import UnboundedRelease
from common.settings import Settings
from common.version import VERSION
from server.campaign import evaluation
from server.report import inside, inside_tables
from server.rounds import site_results
from tests.federation.faults import in_process
from tests.federation.test_ensemble import Federation, configured, grid
from tests.federation.test_evaluation import ask, judged, log_of, request, tables_of, with_policy
from tests.site_folders import make_settings

MINIMUM, HELD_OUT = 3, 7
METRICS = '"losses", "score_histograms"'


def asking(settings: Settings, **campaign: bool) -> Settings:
    return settings.model_copy(update={"campaign": settings.campaign.model_copy(update=campaign)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    made = Federation.made(
        tmp_path_factory.mktemp("federation"),
        asking(configured(), evaluation=True, cases=True),
        patients=14,
        held_out_patients=HELD_OUT,
        policy="federated_evaluation = true\n",
        minimum_cohort=MINIMUM,
    )
    with_policy(made.folders[0], METRICS, f'{METRICS}, "cases"')
    for folder in made.folders:
        shutil.copytree(folder, folder.with_name(f"{folder.name}-as-trained"))
    return made


@pytest.fixture
def federation(trained: Federation, tmp_path: Path) -> Federation:
    """The same, before anything was judged; north permits single exams."""
    folders = tuple(
        Path(shutil.copytree(folder.with_name(f"{folder.name}-as-trained"), tmp_path / folder.name))
        for folder in trained.folders
    )
    return replace(trained, folders=folders, run=Path(shutil.copytree(trained.run, tmp_path / "run")))


def page(federation: Federation, folder: Path) -> campaign_page.Page:
    site, plan_hash = Site.open(folder), federation.settings.plan_hash()
    return campaign_page.page(site, plan_hash, decisions.listed(site)[plan_hash])


def test_who_permits_it_tells_exams_that_add_up_to_the_table_and_no_name(federation: Federation) -> None:
    north, south = federation.folders
    reply = ask(federation, request(federation))
    (table,) = tables_of(reply).tables
    assert table.cases is not None
    np.testing.assert_array_equal(table.cases.confusion(3), np.array(table.confusion))
    assert len(table.cases.above) == 2
    exams = site_store(Site.open(north), federation.settings).exams
    sent = tables_of(reply).dump()
    assert not any(str(name) in sent for column in ("exam_id", "patient_id") for name in exams[column])
    (booked,) = [
        one.release
        for one in ledger.book(north).releases
        if isinstance(one.release, UnboundedRelease) and "tables" in one.release.kind
    ]
    assert booked.kind == "tables, single exams"
    other = ask(federation, request(federation), site=1)
    assert tables_of(other).tables[0].cases is None
    assert "cases" not in tables_of(other).dump()  # by its policy, whatever the plan asks for
    assert any("SINGLE EXAMS" in line and "3 patients" in line for line in page(federation, north).leaves)
    assert any("SINGLE EXAMS" in line for line in page(federation, south).stays)


def test_neighbours_in_the_manifest_are_no_neighbours_in_the_table(federation: Federation) -> None:
    """By the order of its rows nobody can tell which exams are of one patient, or which campaign's exam is which."""
    site = Site.open(federation.folders[0])
    rows = np.arange(60)
    behind = Behind(score="hypertrophy", device="A", rows=rows, reference=rows, block=rows)
    names = [f"exam-{row}" for row in rows]
    orders = [
        beside_tables.order(site, plan, one, names, federation.settings)
        for plan, one in (("ab" * 32, behind), ("cd" * 32, behind), ("ab" * 32, replace(behind, device="B")))
    ]
    assert all(order is not None and sorted(order) == list(rows) for order in orders)
    for one, other in ((orders[0], rows), (orders[0], orders[1]), (orders[0], orders[2])):
        assert one is not None
        assert other is not None
        assert (one == other).mean() < 0.2


def test_what_left_is_what_leaves_again_and_nothing_once_it_is_forbidden(federation: Federation) -> None:
    north = federation.folders[0]
    first = tables_of(ask(federation, request(federation)))
    assert tables_of(ask(federation, request(federation, request_id="again"))) == first
    with_policy(north, ', "cases"', "")
    refused = ask(federation, request(federation, request_id="third"))
    assert isinstance(refused, Refusal)
    assert refused.code == "policy"
    assert "'cases'" in log_of(north)


def test_a_centre_cannot_ask_for_them_beside_the_approved_plan(tmp_path: Path) -> None:
    """With the permission in the policy, and without the question in the plan that people approved."""
    made = Federation.made(
        tmp_path,
        asking(configured(), evaluation=True),
        patients=14,
        held_out_patients=HELD_OUT,
        policy="federated_evaluation = true\n",
        minimum_cohort=MINIMUM,
    )
    north = made.folders[0]
    with_policy(north, METRICS, f'{METRICS}, "cases"')
    with_policy(north, 'approval = "automatic"', 'approval = "each"')
    campaigns.decide(Site.open(north), made.settings.plan_hash(), Status.APPROVED, by="test")
    assert tables_of(ask(made, request(made))).tables[0].cases is None
    other = asking(made.settings, cases=True)
    plan = PlanRequest(
        campaign="more",
        request_id="1" * 32,
        version=VERSION,
        plan=other.plan_json(),
        plan_hash=other.plan_hash(),
    )
    message = Message(wire.encode(plan), 100, wire.PLAN)
    message.metadata.__dict__["_message_id"] = "1"
    grid(made.folders)
    answer = wire.decode_reply(PlanReply, in_process(client_app)(north, message).content)
    assert isinstance(answer, Refusal)
    assert answer.code == "unapproved"
    asked = ask(made, replace(request(made, request_id="more"), plan_hash=other.plan_hash()))
    assert isinstance(asked, Refusal)


def test_the_centre_lists_them_and_takes_none_that_the_plan_does_not_have(federation: Federation) -> None:
    assert judged(federation) == {}
    found = site_results.tables(federation.run)
    header, rows = inside_tables.cases_table(federation.run)
    assert header[:4] == ("site", "score", "device", "case")
    assert {row[0] for row in rows} == {"north"}
    assert [row[3] for row in rows] == list(range(found["north"].tables[0].exams))
    assert inside.read(federation.run)["cases"] == {"north": len(rows)}
    with pytest.raises(UpdateError, match="of the plan"):
        evaluation._check(found["north"], "north", asking(federation.settings, cases=False))


def test_they_are_of_tables_and_not_with_privacy() -> None:
    with pytest.raises(ConfigurationError, match="needs campaign"):
        make_settings(text="[campaign]\ncases = true\n")
    plain = make_settings(text="[campaign]\nevaluation = true\n")
    assert "cases" not in json.loads(plain.plan_json())["campaign"]
