import fcntl
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli.site_cli import site as commands
from client.ledger import ledger, ledger_check, ledger_file, ledger_patients
from client.ledger.ledger_spent import spent
from client.log import audit, chain
from client.site import keys
from client.site.site import Site
from common.errors import BudgetError, DataError, PolicyError, StorageError, VerificationError
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.privacy.accounting.chain import spoken
from common.receipts import Kept, payload
from tests.full_disk import limited_files
from tests.ledgers import make_release, make_site, make_unbounded, patients
from tests.receipts import make_receipt

SIGMA = 5.0
STEPS = 40


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    ledger_file._known.clear()
    yield
    ledger_file._known.clear()


def epsilon_of(steps: int, sigma: float = SIGMA) -> float:
    return epsilon([PrivateSteps(sample_rate=1, noise_multiplier=sigma, count=steps)], delta=1e-5)


def content(site: Site) -> bytes:
    return (site.folder / ledger_file.NAME).read_bytes()


def spend(site: Site, count: int, names: list[str], *, campaign: str = "a") -> None:
    for number in range(count):
        release = make_release(f"{campaign}{number}", campaign=campaign)
        assert ledger.reserve(site, release, names).patients == set(names)


def put_back(site: Site, copy: Path) -> None:
    shutil.rmtree(site.folder)
    shutil.copytree(copy, site.folder)


def test_a_release_is_on_disk_with_all_that_it_costs(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    reserved = ledger.reserve(site, make_release("r1", sigma=2.5, server_round=7), patients(3))
    opened, booked = (json.loads(line) for line in content(site).splitlines())
    assert opened["public_key"] == keys.public_key(site.folder)
    assert (booked["seq"], booked["event"], booked["request_id"]) == (2, "private", "r1")
    assert (booked["noise_multiplier"], booked["sample_rate"], booked["steps"]) == (2.5, 1.0, 1)
    assert (booked["max_grad_norm"], booked["patients"], booked["images"]) == (1.0, 150, 4)
    assert (booked["server_round"], booked["eligible"], len(booked["new"])) == (7, [[0, 2]], 3)
    assert reserved.head == ledger_file.read(site.folder).head
    assert b"p000" not in content(site) + (site.folder / "ledger" / "patients.json").read_bytes()
    for name in (ledger_file.NAME, "ledger/patients.json", "ledger/secret"):
        assert (site.folder / name).stat().st_mode & 0o077 == 0


def test_who_has_spent_the_budget_is_left_out_and_nothing_is_debited_to_them(tmp_path: Path) -> None:
    """One patient who had spent most stopped a site, and its refusal told of who was there."""
    site = make_site(tmp_path / "site", maximum_epsilon=epsilon_of(STEPS) + 1e-9)
    spend(site, STEPS, patients(4))
    more = ledger.reserve(site, make_release("more"), patients(6))
    assert more.patients == set(patients(2, first=4))
    last = ledger_file.read(site.folder).entries[-1].content
    assert (last["eligible"], last["left_out"]) == ([[4, 5]], 4)
    assert spent(site).left == pytest.approx(0, abs=1e-6)
    assert [(one.patients, one.left_out) for one in spent(site).campaigns] == [(6, 4)]
    shown = CliRunner().invoke(commands, ["ledger", str(site.folder)]).output
    assert "4 patients had too little left for the last release of a" in shown


@pytest.mark.parametrize("who", [[], patients(4)])
def test_where_nobody_is_left_the_release_is_booked_all_the_same(tmp_path: Path, who: list[str]) -> None:
    site = make_site(tmp_path / "site", maximum_epsilon=epsilon_of(STEPS) + 1e-9)
    spend(site, STEPS, patients(4))
    more = ledger.reserve(site, make_release("more"), who)
    assert more.patients == frozenset()
    assert ledger_file.read(site.folder).entries[-1].content["eligible"] == []
    assert ledger_check.check(site.folder).private == STEPS + 1


def test_a_release_beyond_the_cap_is_refused_whoever_is_here(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", maximum_epsilon=epsilon_of(STEPS) - 1e-3)
    for who in ([], patients(4)):
        with pytest.raises(BudgetError, match="Expected to stay within epsilon") as caught:
            ledger.reserve(site, make_release("more", steps=STEPS), who)
        assert caught.value.exit_code == 6
    assert not ledger.book(site.folder).releases


@pytest.mark.parametrize(
    ("one", "other"), [("P12", "p12"), ("0012", "12"), ("P 12", "P12"), ("p12 ", "p12"), ("P-007", "p-7")]
)
def test_one_patient_has_one_budget_however_the_identifier_is_typed(
    tmp_path: Path, one: str, other: str
) -> None:
    site = make_site(tmp_path / "site")
    with pytest.raises(DataError, match="look like one patient's"):
        ledger.reserve(site, make_release("both"), ["x1", one, other])
    ledger.reserve(site, make_release("r1"), ["x1", one])
    ledger.reserve(site, make_release("r2"), ["x1", other])  # the manifest was typed anew
    book = ledger.book(site.folder)
    assert [history.steps[0].count for history in book.histories()] == [2, 2]


def test_separators_tell_patients_apart(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    reserved = ledger.reserve(site, make_release("r1"), ["1-12", "11-2", "1 12", "112"])
    assert len(reserved.patients) == 4


def test_an_identifier_that_an_older_version_entered_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path / "site")
    with monkeypatch.context() as older:
        older.setattr(ledger_patients, "spelling", lambda identifier: identifier)
        ledger.reserve(site, make_release("r1"), ["P-007"])
    ledger.reserve(site, make_release("r2"), ["P-007"])
    assert [history.steps[0].count for history in ledger.book(site.folder).histories()] == [2]


def test_a_patient_who_joins_changes_nothing_for_the_others(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", maximum_epsilon=epsilon_of(3) + 1e-9)
    spend(site, 3, patients(4))
    assert ledger.reserve(site, make_release("x"), patients(5)).patients == set(patients(1, first=4))
    ledger.reserve(site, make_release("y"), patients(2, first=4))
    assert [h.steps[0].count for h in ledger.book(site.folder).histories()] == [3, 3, 3, 3, 2, 1]


def test_a_patient_who_is_gone_and_comes_back_has_spent_what_they_had(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", maximum_epsilon=epsilon_of(3) + 1e-9)
    spend(site, 2, patients(4))
    ledger.reserve(site, make_release("without p000"), patients(3, first=1))
    assert spent(site).epsilon == pytest.approx(epsilon_of(3))
    ledger.reserve(site, make_release("p000 again"), patients(1))
    assert not ledger.reserve(site, make_release("x"), patients(1)).patients


def test_two_studies_share_the_budget_of_the_patients_whom_they_share(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", maximum_epsilon=epsilon_of(5) + 1e-9)
    spend(site, 3, patients(6), campaign="a")
    spend(site, 2, patients(6, first=5), campaign="b")
    left = ledger.reserve(site, make_release("x", campaign="b"), patients(6, first=5)).patients
    assert left == set(patients(5, first=6))
    found = spent(site)
    assert [(one.campaign, one.private, one.patients) for one in found.campaigns] == [
        ("a", 3, 6),
        ("b", 3, 6),
    ]
    assert [one.epsilon for one in found.campaigns] == pytest.approx([epsilon_of(3), epsilon_of(3)])
    assert found.epsilon == pytest.approx(epsilon_of(5))


def test_every_draw_is_charged_and_a_repeat_is_found(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    assert ledger.find(site.folder, "r1") is None
    ledger.reserve(site, make_release("r1"), patients(2))
    booked = ledger.find(site.folder, "r1")
    assert booked is not None
    assert booked.release == make_release("r1")
    before = content(site)
    assert ledger.find(site.folder, "r2") is None
    assert content(site) == before
    ledger.reserve(site, make_release("r1"), patients(2))
    again = ledger.find(site.folder, "r1")
    assert again is not None
    assert again.sequence == booked.sequence + 1
    assert spent(site).epsilon == pytest.approx(epsilon_of(2))


def test_sampled_steps_are_composed_with_those_of_the_whole_cohort(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    ledger.reserve(site, make_release("r1", sigma=4.0), patients(2))
    ledger.reserve(site, make_release("r2", sigma=4.0, sample_rate=0.2, steps=100), patients(2))
    steps = [
        PrivateSteps(sample_rate=1, noise_multiplier=4.0, count=1),
        PrivateSteps(sample_rate=0.2, noise_multiplier=4.0, count=100),
    ]
    assert spent(site).epsilon == epsilon(steps, delta=1e-5)


def test_without_a_cap_nothing_private_is_released(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", maximum_epsilon=None)
    with pytest.raises(PolicyError, match="maximum_epsilon"):
        ledger.reserve(site, make_release(), patients(2))
    assert not (site.folder / ledger_file.NAME).exists()


def test_releases_without_privacy_are_booked_once_a_campaign_and_said(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    for server_round in range(1, 4):
        ledger.book_unbounded(site, make_unbounded(server_round=server_round), patients(3))
    assert len(ledger.book(site.folder).releases) == 1
    ledger.book_unbounded(site, make_unbounded(server_round=4), patients(2))
    assert len(ledger.book(site.folder).releases) == 1
    ledger.book_unbounded(site, make_unbounded(server_round=5), patients(4))
    ledger.book_unbounded(site, make_unbounded(campaign="b"), patients(1))
    assert len(ledger.book(site.folder).releases) == 3
    ledger.reserve(site, make_release(), patients(2, first=3))
    found = spent(site)
    assert (found.patients, found.unbounded_patients) == (5, 4)
    assert [one.unbounded for one in found.campaigns] == [True, True]
    shown = CliRunner().invoke(commands, ["ledger", str(site.folder)]).output
    assert "4 of 5 patients stand behind releases without differential" in shown
    assert "no bound" in shown


def _spend_all(folder: Path) -> int:
    site, booked = Site.open(folder), 0
    while True:
        if not ledger.reserve(site, make_release(f"{os.getpid()}-{booked}"), patients(3)).patients:
            return booked
        booked += 1


def test_processes_cannot_spend_the_last_of_it_twice(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", maximum_epsilon=epsilon_of(STEPS) + 1e-9)
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        booked = processes.map(_spend_all, [site.folder] * 3, chunksize=1)
    assert sum(booked) == STEPS
    assert spent(site).epsilon == pytest.approx(epsilon_of(STEPS))


def _edit(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"noise_multiplier":5.0', b'"noise_multiplier":50.0') for line in lines]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_edit, "line 2 was edited"),
        (lambda lines: [*lines[:3], *lines[4:]], "line 4: expected entry 4, got entry 5"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "line 2: expected entry 2, got entry 3"),
        (lambda lines: [*lines[:4], b"a note to self"], "line 5: expected a signed entry"),
    ],
)
def test_a_ledger_that_was_changed_stops_everything(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], says: str
) -> None:
    site = make_site(tmp_path / "site")
    spend(site, 4, patients(3))
    lines = change(content(site).splitlines())
    (site.folder / ledger_file.NAME).write_bytes(b"".join(line + b"\n" for line in lines))
    ledger_file._known.clear()
    for action in (
        lambda: ledger.reserve(site, make_release("x"), patients(3)),
        lambda: ledger_check.check(site.folder),
        lambda: spent(site),
    ):
        with pytest.raises(VerificationError, match=says):
            action()


def reply(site: Site, sequence: int = 1) -> Kept:
    """Enter in the log that a reply left, and what the centre gets with it."""
    end = ledger_file.read(site.folder).head
    chain.append(
        site.folder / chain.NAME, audit.REPLY, {"ledger_sequence": end.sequence, "ledger_head": end.hash}
    )
    receipt = replace(
        make_receipt(sequence=sequence, format=1), ledger_sequence=end.sequence, ledger_head=end.hash
    )
    signature = keys.signing_key(site.folder).sign(payload(receipt)).hex()
    signed = replace(receipt, signature=signature)
    return Kept(received="now", public_key=keys.public_key(site.folder), receipt=signed)


def test_a_site_that_is_made_anew_in_the_place_of_another_has_a_ledger_of_its_own(tmp_path: Path) -> None:
    """As where a study is run twice in one process; an older copy of the same site is refused."""
    site = make_site(tmp_path / "site")
    spend(site, 1, patients(2))
    shutil.copytree(site.folder, tmp_path / "copy")
    spend(site, 2, patients(2), campaign="b")
    shutil.rmtree(site.folder)
    spend(make_site(tmp_path / "site"), 1, patients(2))
    assert len(ledger_file.read(site.folder).entries) == 2
    spend(site, 1, patients(2), campaign="b")
    put_back(site, tmp_path / "copy")
    spend(site, 1, patients(2), campaign="c")  # the first site again, and all that it had booked by then
    older = tmp_path / "older"
    shutil.copytree(site.folder, older)
    spend(site, 1, patients(2), campaign="d")
    put_back(site, older)
    with pytest.raises(VerificationError, match="as this process knows it"):
        ledger.reserve(site, make_release("e0"), patients(2))


def test_yesterdays_ledger_is_refused_by_the_sites_own_log(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    spend(site, 2, patients(3))
    yesterday = content(site)
    ledger.reserve(site, make_release("today"), patients(3))
    reply(site)
    (site.folder / ledger_file.NAME).write_bytes(yesterday)
    with pytest.raises(VerificationError, match="older copy was put back"):
        ledger.reserve(site, make_release("x"), patients(3))
    ledger_file._known.clear()
    with pytest.raises(VerificationError, match="older copy was put back"):
        ledger.reserve(site, make_release("x"), patients(3))
    with pytest.raises(VerificationError, match="ends with entry 3, entry 1 of the site's log knows entry 4"):
        ledger_check.check(site.folder)


@pytest.mark.parametrize("written_on", [False, True])
def test_yesterdays_whole_folder_is_found_by_receipts_and_by_paper(tmp_path: Path, written_on: bool) -> None:
    site = make_site(tmp_path / "site")
    spend(site, 2, patients(3))
    first = reply(site)
    shutil.copytree(site.folder, tmp_path / "yesterday")
    ledger.reserve(site, make_release("today"), patients(3))
    second = reply(site, sequence=2)
    code = spoken(ledger_file.read(site.folder).head)
    assert ledger_check.check(site.folder, [first, second], [code]).receipts == 2
    put_back(site, tmp_path / "yesterday")
    ledger_file._known.clear()
    if written_on:
        spend(site, 2, patients(3), campaign="b")
    ledger_check.check(site.folder, [first])
    with pytest.raises(VerificationError, match="older copy was put back"):
        ledger_check.check(site.folder, [first, second])
    with pytest.raises(VerificationError, match=f"the note {code}"):
        ledger_check.check(site.folder, noted=[code])


def test_a_tail_cut_off_is_found(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    spend(site, 3, patients(3))
    kept = reply(site)
    (site.folder / ledger_file.NAME).write_bytes(b"".join(content(site).splitlines(keepends=True)[:-1]))
    with pytest.raises(VerificationError, match="the tail was cut off"):
        ledger_check.check(site.folder, [kept])


@pytest.mark.parametrize(
    "name", ["ledger/patients.json", "ledger/secret", "keys/receipt.pem", ledger_file.NAME]
)
def test_nothing_that_is_lost_lets_anybody_begin_anew(tmp_path: Path, name: str) -> None:
    site = make_site(tmp_path / "site")
    spend(site, 2, patients(3))
    (site.folder / name).unlink()
    ledger_file._known.clear()
    with pytest.raises(VerificationError):
        ledger.reserve(site, make_release("x"), patients(3))


def test_a_line_of_the_table_that_is_lost_is_missed(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    spend(site, 2, patients(3))
    place = site.folder / "ledger" / "patients.json"
    table = json.loads(place.read_text(encoding="utf-8"))
    table.popitem()
    place.write_text(json.dumps(table), encoding="utf-8")
    for action in (
        lambda: ledger.reserve(site, make_release("x"), patients(3)),
        lambda: ledger_check.check(site.folder),
    ):
        with pytest.raises(VerificationError, match="1 are missing"):
            action()


def test_a_first_line_cut_short_is_written_again(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    (site.folder / ledger_file.NAME).write_bytes(b'{"seq":1,')
    ledger.reserve(site, make_release("x"), patients(3))
    assert [entry.content["event"] for entry in ledger_file.read(site.folder).entries] == [
        "opened",
        "private",
    ]


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_torn_line_is_repaired_by_the_next_entry(tmp_path: Path, cut: int) -> None:
    site = make_site(tmp_path / "site")
    spend(site, 2, patients(3))
    whole = content(site)
    torn = whole.splitlines()[-1][:cut]
    (site.folder / ledger_file.NAME).write_bytes(whole + torn)
    assert ledger_check.check(site.folder).head.torn_bytes == len(torn)
    ledger.reserve(site, make_release("x"), patients(3))
    events = [entry.content["event"] for entry in ledger_file.read(site.folder).entries]
    assert events == ["opened", "private", "private", "repaired", "private"]
    assert spent(site).epsilon == pytest.approx(epsilon_of(3))


def test_a_lock_that_keeps_nobody_out_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(tmp_path / "site")
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(StorageError, match="two processes could both spend"):
        ledger.reserve(site, make_release(), patients(3))
    assert content(site) == b""


@pytest.mark.parametrize("call", ["flock", "fsync"])
def test_a_folder_that_cannot_lock_or_sync_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    site = make_site(tmp_path / "site")

    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl if call == "flock" else os, call, fail)
    with pytest.raises(StorageError, match="No locks available"):
        ledger.reserve(site, make_release(), patients(3))
    assert content(site) == b""


@pytest.mark.parametrize("room", [0, 5, 300])
def test_a_full_disk_books_nothing_and_releases_nothing(tmp_path: Path, room: int) -> None:
    site = make_site(tmp_path / "site")
    spend(site, 30, patients(3))
    before = content(site)
    with limited_files(len(before) + room), pytest.raises(StorageError, match="nothing leaves"):
        ledger.reserve(site, make_release("x"), patients(3))
    assert content(site) == before
    ledger.reserve(site, make_release("x"), patients(3))
    assert spent(site).epsilon == pytest.approx(epsilon_of(31))


def test_the_commands_of_a_ledger(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    spend(site, 3, patients(4))
    run = CliRunner()
    shown = run.invoke(commands, ["ledger", str(site.folder)]).output
    assert f"{epsilon_of(3):.3f} of 8" in shown
    assert f"{8 - epsilon_of(3):.3f}" in shown
    found = json.loads(run.invoke(commands, ["ledger", "--json", str(site.folder)]).output)
    assert found["left"] == pytest.approx(8 - epsilon_of(3))
    assert [one["private"] for one in found["campaigns"]] == [3]
    found = json.loads(run.invoke(commands, ["ledger", "patients", str(site.folder), "--json"]).output)
    assert [one["number"] for one in found["patients"]] == [0, 1, 2, 3]
    assert [one["epsilon"] for one in found["patients"]] == pytest.approx([epsilon_of(3)] * 4)
    shown = run.invoke(commands, ["ledger", "patients", str(site.folder)]).output
    assert (shown.count(f"{epsilon_of(3):.3f}"), "p000" in shown) == (4, False)
    code = run.invoke(commands, ["ledger", "head", str(site.folder)]).output.strip()
    assert code == spoken(ledger_file.read(site.folder).head)
    verified = run.invoke(commands, ["ledger", "verify", str(site.folder), "--noted", code, "--json"])
    assert json.loads(verified.output)["private"] == 3
    (site.folder / ledger_file.NAME).write_bytes(content(site).replace(b'"images":4', b'"images":5', 1))
    failed = run.invoke(commands, ["ledger", "verify", str(site.folder)])
    assert isinstance(failed.exception, VerificationError)
    assert failed.exception.exit_code == 8


def test_a_site_without_a_ledger_has_spent_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", maximum_epsilon=None)
    found = spent(site)
    assert (found.campaigns, found.epsilon, found.left) == ((), 0.0, None)
    assert ledger_check.check(site.folder).head.sequence == 0
    assert sorted(path.name for path in site.folder.iterdir()) == ["site.toml"]
