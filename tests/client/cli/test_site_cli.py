import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import synofed
from client.ledger import issued_receipts
from client.log import chain
from client.site import keys, policy_file
from client.site.site import Site
from common.messages import PlanRequest, TrainRequest
from common.receipts import Contents, Kept, Receipt, dump
from tests.site_folders import make_site_folder

Lines = list[bytes]
Command = Callable[[Sequence[object]], tuple[int, str]]


class Answering:
    """A site that has answered, and the receipts that its centre keeps."""

    def __init__(self, base: Path) -> None:
        self.folder = make_site_folder(base / "north", name="north", patients=1)
        self.log = self.folder / chain.NAME
        self.kept = base / "receipts.jsonl"
        plan = PlanRequest(campaign="c", request_id="q", version="1", plan="{}", plan_hash="p")
        self.keep(
            issued_receipts.of_consent(Site.open(self.folder), plan, Contents(hash="a" * 64, size_bytes=0))
        )

    def answer(self, server_round: int) -> Receipt:
        request = TrainRequest(
            campaign="c",
            plan_hash="p",
            request_id=f"r{server_round}",
            group="g",
            server_round=server_round,
            encoding="float32",
            weights={},
            layouts={},
        )
        contents = Contents(hash=f"{server_round:064x}", size_bytes=12)
        return issued_receipts.of_reply(Site.open(self.folder), request, contents)

    def keep(self, receipt: Receipt) -> None:
        line = dump(Kept(received="now", public_key=keys.public_key(self.folder), receipt=receipt))
        with self.kept.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def change(self, change: Callable[[Lines], Lines]) -> None:
        self.log.write_bytes(b"".join(line + b"\n" for line in change(self.log.read_bytes().splitlines())))


@pytest.fixture
def answering(tmp_path: Path) -> Answering:
    site = Answering(tmp_path)
    for server_round in (1, 2, 3):
        site.keep(site.answer(server_round))
    return site


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(arguments: Sequence[object]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["synofed", "site", "log", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            synofed.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out + output.err

    return run


def test_a_log_that_fits_passes_with_and_without_receipts(answering: Answering, command: Command) -> None:
    code, said = command([answering.folder])
    assert code == 0
    assert "north: 4 entries, 4 replies" in said
    assert "--receipts" in said
    code, said = command([answering.folder, "--receipts", answering.kept])
    assert code == 0
    assert "All 4 receipts" in said
    code, said = command([answering.folder, "--receipts", answering.kept, "--json"])
    assert code == 0
    assert json.loads(said)["head"]["hash"] == chain.head(answering.log).hash


def test_the_log_holds_the_policy_in_full_and_nothing_of_patients(answering: Answering) -> None:
    site = Site.open(answering.folder)
    for _ in range(2):
        policy_file.admit(site)
    entries = [entry.content for entry in chain.entries(answering.log)]
    assert [entry["event"] for entry in entries] == ["consent", "reply", "reply", "reply"]  # the same policy

    toml = answering.folder / "site.toml"
    toml.write_text(toml.read_text().replace("minimum_cohort = 1", "minimum_cohort = 2"), encoding="utf-8")
    site = Site.open(answering.folder)
    for _ in range(2):
        policy_file.admit(site)
    entries = [entry.content for entry in chain.entries(answering.log)]
    assert [entry["event"] for entry in entries[4:]] == ["policy"]
    assert entries[4]["policy"] == site.policy.model_dump(mode="json")
    assert "north-p000" not in answering.log.read_text(encoding="utf-8")
    assert len({str(entry["policy_hash"]) for entry in entries}) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda lines: [lines[0], lines[1].replace(b'"reply_bytes":12', b'"reply_bytes":1'), *lines[2:]],
            "line 2",
        ),
        (lambda lines: [lines[0], *lines[2:]], "line 2"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1"),
    ],
)
def test_an_edited_dropped_or_moved_line_fails(
    answering: Answering, command: Command, change: Callable[[Lines], Lines], says: str
) -> None:
    answering.change(change)
    code, said = command([answering.folder])
    assert code == 8
    assert says in said


def test_a_tail_that_was_cut_off_shows_against_the_receipts(answering: Answering, command: Command) -> None:
    answering.change(lambda lines: lines[:-1])
    assert command([answering.folder])[0] == 0
    code, said = command([answering.folder, "--receipts", answering.kept])
    assert code == 8
    assert "receipt 4 of campaign p knows: its tail was cut off" in said


def test_an_edit_of_the_last_line_shows_against_the_receipts(answering: Answering, command: Command) -> None:
    answering.change(lambda lines: [*lines[:-1], lines[-1].replace(b'"reply_bytes":12', b'"reply_bytes":1')])
    code, said = command([answering.folder, "--receipts", answering.kept])
    assert code == 8
    assert "line 4" in said


def test_yesterdays_copy_put_back_and_written_on_shows(
    answering: Answering, command: Command, tmp_path: Path
) -> None:
    yesterday = tmp_path / "yesterday"
    shutil.copy(answering.log, yesterday)
    answering.keep(answering.answer(4))
    shutil.copy(yesterday, answering.log)
    code, said = command([answering.folder, "--receipts", answering.kept])
    assert (code, "an older copy was put back" in said) == (8, True)
    answering.answer(5)
    code, said = command([answering.folder, "--receipts", answering.kept])
    assert (code, "put back and written on" in said) == (8, True)
    answering.keep(answering.answer(6))
    shutil.copy(yesterday, answering.log)
    answering.keep(answering.answer(7))
    code, said = command([answering.folder, "--receipts", answering.kept])
    assert (code, "two receipts for reply" in said) == (8, True)


def test_two_copies_of_one_site_that_both_answer_show(
    answering: Answering, command: Command, tmp_path: Path
) -> None:
    """Restored on a second machine, say, while the first still runs."""
    shutil.copytree(answering.folder, tmp_path / "copy" / "north")
    twin = Answering.__new__(Answering)
    twin.folder, twin.kept = tmp_path / "copy" / "north", answering.kept
    twin.log = twin.folder / chain.NAME
    answering.keep(answering.answer(4))
    twin.keep(twin.answer(5))
    for folder in (answering.folder, twin.folder):
        code, said = command([folder, "--receipts", answering.kept])
        assert (code, "two receipts for reply" in said) == (8, True)
    assert [command([folder])[0] for folder in (answering.folder, twin.folder)] == [0, 0]


def test_a_log_removed_altogether_fails(answering: Answering, command: Command) -> None:
    answering.log.unlink()
    code, said = command([answering.folder])
    assert (code, "it was removed" in said) == (8, True)


def test_receipts_of_another_site_fail(answering: Answering, command: Command, tmp_path: Path) -> None:
    other = Answering(tmp_path / "other")
    code, said = command([answering.folder, "--receipts", other.kept])
    assert (code, "signature does not fit" in said) == (8, True)


def test_a_line_cut_short_by_a_crash_is_told_and_passes(answering: Answering, command: Command) -> None:
    with answering.log.open("ab") as file:
        file.write(b'{"seq":5,"ti')
    code, said = command([answering.folder, "--receipts", answering.kept])
    assert (code, "12 bytes" in said) == (0, True)


def test_what_cannot_be_read_has_its_own_code(answering: Answering, command: Command, tmp_path: Path) -> None:
    assert command([tmp_path / "nowhere"])[0] == 4
    assert command([answering.folder, "--receipts", tmp_path / "nowhere"])[0] == 4


def test_a_site_that_was_never_asked_passes_and_gets_no_key(command: Command, tmp_path: Path) -> None:
    folder = make_site_folder(tmp_path / "fresh", name="fresh", patients=1)
    assert command([folder])[0] == 0
    assert not keys.path(folder).exists()
