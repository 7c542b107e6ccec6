import json
from collections.abc import Iterator
from pathlib import Path

import openpyxl
import pytest
from typer.testing import CliRunner

from client.cli.data_cli import data as commands
from client.data import patient_data
from client.data.site_store import site_store
from client.ledger import ledger, ledger_check, ledger_file
from client.ledger.ledger_spent import spent
from client.log import audit, chain
from client.site.site import Site
from client.withdrawal import withdrawal
from client.withdrawal.withdrawal_statement import Statement
from common.errors import DataError, PolicyError, VerificationError
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from tests.ledgers import make_release, make_unbounded
from tests.site_folders import PUZZLES, make_settings, make_site_folder, read_table, ungrade

SETTINGS = make_settings()
GONE = "site-a-p001"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    ledger_file._known.clear()
    folder = make_site_folder(tmp_path / "site", patients=6, exams_per_patient=2, held_out_patients=0)
    toml = folder / "site.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + "maximum_epsilon = 8.0\n", encoding="utf-8")
    yield Site.open(folder)
    ledger_file._known.clear()


def names(site: Site) -> list[str]:
    return sorted({row["patient_id"] for row in read_table(site.data_folder / "manifest.csv")})


def take_part(site: Site) -> None:
    """Two private rounds, and three rounds of another campaign without privacy."""
    everybody = names(site)
    for server_round in (1, 2):
        ledger.reserve(site, make_release(f"r{server_round}", server_round=server_round), everybody)
    for server_round in (1, 2, 3):
        ledger.book_unbounded(site, make_unbounded(campaign="b", server_round=server_round), everybody)
        facts = {"plan_hash": make_unbounded(campaign="b").plan_hash, "server_round": server_round}
        chain.append(site.folder / chain.NAME, audit.REPLY, facts)


def epsilon_of(steps: int) -> float:
    return epsilon([PrivateSteps(sample_rate=1, noise_multiplier=5.0, count=steps)], delta=1e-5)


def test_a_patient_who_withdraws_is_gone_from_pictures_tables_and_store(site: Site) -> None:
    before = site_store(site, SETTINGS)
    stores = {path.name for path in (site.folder / "store").iterdir() if path.is_dir()}
    rows = (site.data_folder / "grades.csv").read_bytes().splitlines()
    done = withdrawal.withdraw(site, GONE)
    assert (done.statement.deleted_exams, done.statement.deleted_pictures) == (2, 4)
    assert stores
    assert not any(path.is_dir() for path in (site.folder / "store").iterdir())
    assert not list((site.data_folder / "images").glob(f"{GONE}-*"))
    assert len(list((site.data_folder / "images").iterdir())) == 20
    assert GONE not in names(site)
    left = (site.data_folder / "grades.csv").read_bytes().splitlines()
    assert left == [row for row in rows if GONE.encode() not in row]
    after = site_store(site, SETTINGS)
    assert set(before.exams["patient_id"]) - set(after.exams["patient_id"]) == {GONE}


@pytest.mark.parametrize("exams", [(2,), (2, 3)])
def test_an_exam_that_nobody_graded_goes_as_any_other(site: Site, exams: tuple[int, ...]) -> None:
    puzzles = make_settings(text=PUZZLES)
    ungrade(site.data_folder, exams)
    before = site_store(site, puzzles)
    assert (before.exams["patient_id"] == GONE).sum() == 2
    manifest = (site.data_folder / "manifest.csv").read_bytes()
    done = withdrawal.withdraw(site, GONE)
    assert (done.statement.deleted_exams, done.statement.deleted_pictures) == (2, 4)
    assert not any(path.is_dir() for path in (site.folder / "store").iterdir())
    assert not list((site.data_folder / "images").glob(f"{GONE}-*"))
    (site.data_folder / "manifest.csv").write_bytes(manifest)  # the row comes back: nobody reads for it
    after = site_store(site, puzzles)
    assert set(before.exams["patient_id"]) - set(after.exams["patient_id"]) == {GONE}
    assert not any(GONE in entry.exam_id for entry in after.quarantined)


def test_whoever_withdrew_is_refused_though_the_data_come_back(site: Site, tmp_path: Path) -> None:
    tables = {name: (site.data_folder / name).read_bytes() for name in ("manifest.csv", "grades.csv")}
    pictures = {path: path.read_bytes() for path in (site.data_folder / "images").glob(f"{GONE}-*")}
    take_part(site)
    withdrawal.withdraw(site, GONE)
    for name, content in tables.items():
        (site.data_folder / name).write_bytes(content)
    for path, content in pictures.items():
        path.write_bytes(content)
    store = site_store(site, SETTINGS)
    assert GONE not in set(store.exams["patient_id"])
    assert len(store.tensors) == 10
    assert not store.reader_grades["exam_id"].str.startswith(GONE).any()
    assert "2 exams of 1 patients who withdrew are left out" in store.notes
    assert GONE in names(site)
    assert ledger.reserve(site, make_release("r9"), names(site)).patients == set(names(site)) - {GONE}
    with pytest.raises(PolicyError, match="has withdrawn"):
        ledger.book_unbounded(site, make_unbounded(campaign="c"), names(site))
    again = withdrawal.withdraw(site, GONE)
    assert again.statement.deleted_pictures == 4
    assert GONE not in names(site)


def test_a_store_that_is_open_lets_nobody_stay_who_withdrew(site: Site) -> None:
    """Cut short right after the list: the pictures are there still, and yet not used."""
    site_store(site, SETTINGS)
    secret = ledger_file.site_secret(site.folder)
    withdrawal._refuse(site.folder, secret, GONE)
    assert GONE in names(site)
    assert GONE not in set(site_store(site, SETTINGS).exams["patient_id"])


def test_a_list_that_was_shortened_stops_the_store(site: Site) -> None:
    tables = (site.data_folder / "manifest.csv").read_bytes()
    withdrawal.withdraw(site, GONE)
    (site.data_folder / "manifest.csv").write_bytes(tables)
    (site.folder / "ledger" / "withdrawn.json").unlink()
    with pytest.raises(VerificationError, match="1 are missing"):
        site_store(site, SETTINGS)


def test_the_statement_says_what_was_released_and_is_signed(site: Site) -> None:
    take_part(site)
    done = withdrawal.withdraw(site, GONE)
    statement = Statement.model_validate_json(done.path.read_text(encoding="utf-8"))
    assert statement == done.statement
    statement.verify()
    private, unbounded = statement.campaigns
    assert (private.campaign, private.rounds, private.private_releases) == ("a", (1, 2), 2)
    assert private.epsilon == pytest.approx(epsilon_of(2))
    assert not private.unbounded
    assert (unbounded.campaign, unbounded.rounds, unbounded.unbounded) == ("b", (1, 2, 3), True)
    assert statement.epsilon == pytest.approx(epsilon_of(2))
    assert statement.unbounded
    printed = done.path.with_suffix(".txt").read_text(encoding="utf-8")
    assert "rounds 1-2: 2 private releases, epsilon" in printed
    assert "without differential privacy: nothing bounds" in printed
    assert all(sentence in printed for sentence in statement.cannot_be_undone)
    changed = statement.model_copy(update={"epsilon": 0.1})
    with pytest.raises(VerificationError, match="was changed"):
        changed.verify()
    assert done.path.stat().st_mode & 0o077 == 0


def test_the_chain_still_verifies_and_nobody_else_gets_anything_back(site: Site) -> None:
    take_part(site)
    before = spent(site)
    withdrawal.withdraw(site, GONE)
    found = ledger_check.check(site.folder)
    assert (found.patients, found.withdrawn) == (6, 1)
    assert spent(site) == before
    assert len(json.loads((site.folder / "ledger" / "patients.json").read_bytes())) == 5
    ledger.reserve(site, make_release("r3", server_round=3), names(site))
    booked = ledger.book(site.folder).releases
    assert len(booked[-1].eligible) == 5
    sizes = {one.release.patients for one in booked if hasattr(one.release, "patients")}
    assert sizes == {150}
    assert spent(site).epsilon == pytest.approx(epsilon_of(3))


def test_a_patient_who_took_part_in_nothing_may_withdraw(site: Site) -> None:
    done = withdrawal.withdraw(site, GONE)
    assert done.statement.campaigns == ()
    assert "taken part in nothing" in done.path.with_suffix(".txt").read_text(encoding="utf-8")
    assert withdrawal.withdraw(site, GONE) == done
    assert not ledger.reserve(site, make_release(), [GONE]).patients
    assert not ledger.reserve(site, make_release("r2"), [f" {GONE.upper()}"]).patients


def test_a_name_that_nobody_knows_is_said(site: Site) -> None:
    with pytest.raises(DataError, match="got a name that neither knows"):
        withdrawal.withdraw(site, "somebody")
    assert withdrawal.unfinished(site.folder) == 0


def test_two_patients_may_withdraw_one_after_the_other(site: Site) -> None:
    take_part(site)
    first, second = (withdrawal.withdraw(site, name) for name in (GONE, "site-a-p004"))
    assert first.path != second.path
    assert len(names(site)) == 4
    assert ledger_check.check(site.folder).withdrawn == 2


def test_pictures_and_rows_of_others_stay_letter_by_letter(site: Site) -> None:
    manifest = site.data_folder / "manifest.csv"
    shared = read_table(manifest)[0]["gs_path"]
    text = manifest.read_text(encoding="utf-8").replace("images/site-a-p001-e0_gs.png", shared)
    text = "\ufeff" + text.replace("\n", "\r\n").replace("Resona 7", '"Resona\u2028 7,\r\nnew"', 1)
    manifest.write_bytes(text.encode())
    withdrawal.withdraw(site, GONE)
    assert (site.data_folder / shared).exists()
    lines = text.encode().split(b"\r\n")
    assert manifest.read_bytes() == b"\r\n".join(line for line in lines if GONE.encode() not in line)


class _Stopped(BaseException):
    """A kill, as far as the files are concerned: nothing after it is done."""


@pytest.mark.parametrize("step", ["_refuse", "delete", "_statement", "_erase", "unlink"])
@pytest.mark.parametrize("after", [False, True])
def test_cut_short_at_any_step_the_same_command_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    take_part(site)
    owner = {"delete": patient_data, "unlink": Path}.get(step, withdrawal)
    real = getattr(owner, step)

    def stop(*arguments: object, **options: object) -> object:
        if step == "unlink" and not str(arguments[0]).endswith(".pending"):
            return real(*arguments, **options)
        if after:
            real(*arguments, **options)
        raise _Stopped

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, stop)
        with pytest.raises(_Stopped):
            withdrawal.withdraw(site, GONE)
    ledger_file._known.clear()
    done = withdrawal.withdraw(site, GONE)
    assert withdrawal.unfinished(site.folder) == 0
    assert [one.campaign for one in done.statement.campaigns] == ["a", "b"]
    assert (done.statement.deleted_exams, done.statement.deleted_pictures) == (2, 4)
    assert GONE not in names(site)
    assert ledger_check.check(site.folder).withdrawn == 1
    events = [entry.content["event"] for entry in ledger_file.read(site.folder).entries]
    assert events.count("withdrawn") == 1


def test_the_command_prints_the_statement(site: Site) -> None:
    run = CliRunner()
    printed = run.invoke(commands, ["withdraw", str(site.folder), GONE])
    assert "Withdrawal from the training of networks" in printed.output
    again = run.invoke(commands, ["withdraw", str(site.folder), GONE, "--json"])
    said = json.loads(again.output)
    assert said.pop("left") == []
    Statement.model_validate(said).verify()


def test_a_table_of_another_form_is_named_and_stops_nothing(site: Site) -> None:
    (site.data_folder / "check.csv").write_text(
        f"exam_id,reason\n{GONE}-e0,blurred\nother,dark\n", encoding="utf-8"
    )
    (site.data_folder / "notes.csv").write_bytes(f"patient;note\n{GONE};m\xfcde\n".encode("latin-1"))
    (site.data_folder / "prices.csv").write_bytes(b"a;b\n\xfc;2\n")
    done = withdrawal.withdraw(site, GONE)
    assert done.left == ("notes.csv",)
    assert (site.data_folder / "check.csv").read_text(encoding="utf-8") == "exam_id,reason\nother,dark\n"
    assert GONE not in names(site)


@pytest.mark.parametrize(("encoding", "separator"), [("cp1252", ";"), ("utf-16", "\t"), ("utf-8-sig", ",")])
def test_a_patient_withdraws_from_tables_of_any_program(site: Site, encoding: str, separator: str) -> None:
    kept: dict[str, bytes] = {}
    for name in ("manifest.csv", "grades.csv"):
        place = site.data_folder / name
        text = place.read_text(encoding="utf-8").replace(",", separator).replace("Resona", "Müsona")
        lines = ["Tabelle", "", *text.splitlines()]
        place.write_bytes("\r\n".join([*lines, ""]).encode(encoding))
        kept[name] = "\r\n".join([*(line for line in lines if GONE not in line), ""]).encode(encoding)
    done = withdrawal.withdraw(site, GONE)
    assert (done.statement.deleted_exams, done.statement.deleted_pictures) == (2, 4)
    assert {name: (site.data_folder / name).read_bytes() for name in kept} == kept
    assert GONE not in set(site_store(site, SETTINGS).exams["patient_id"])


def test_from_a_workbook_nobody_is_taken_and_nothing_is_deleted(site: Site) -> None:
    book = openpyxl.Workbook()
    book.save(site.data_folder / "grades.csv")
    with pytest.raises(DataError, match="is a workbook, from which rows cannot be taken"):
        withdrawal.withdraw(site, GONE)
    assert len(list((site.data_folder / "images").iterdir())) == 24


def test_a_name_that_begins_like_a_formula_is_found_in_what_was_written(site: Site) -> None:
    for name in ("manifest.csv", "grades.csv"):
        place = site.data_folder / name
        place.write_text(place.read_text(encoding="utf-8").replace(f",{GONE},", ",'=id,"), encoding="utf-8")
    assert withdrawal.withdraw(site, "=id").statement.deleted_exams == 2
