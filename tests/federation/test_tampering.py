import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from client.app import app as client_app
from client.ledger import issued_receipts as site_receipts
from client.log import chain
from common import wire
from common.errors import VerificationError
from common.messages import Signed, TrainReply
from common.receipts import parse
from server.campaign.campaign import Event, StageStarted, Status
from server.rounds.journal import RoundRecord
from tests.federation.test_campaign import App, assert_same, configured, run
from tests.site_folders import small_site

SITES = ("north", "south", "west")
TWO_ROUNDS = "[federation]\nrounds = 2\nquorum = 2"


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [small_site(tmp_path / name, seed=seed) for seed, name in enumerate(SITES)]


def on_the_way(change: Callable[[RecordDict, Signed[TrainReply]], RecordDict]) -> App:
    """The real client, and somebody between it and the centre who can write to every reply of a round."""

    def app(message: Message, context: Context) -> Message:
        answer = client_app(message, context)
        if message.metadata.message_type != wire.TRAIN:
            return answer
        signed = wire.decode_round_reply(TrainReply, answer.content)
        assert isinstance(signed, Signed)
        return Message(change(answer.content, signed), reply_to=message)

    return app


def dropped(folders: list[Path], folder: Path, app: App, text: str = TWO_ROUNDS) -> list[dict[str, str]]:
    """What was dropped in each round."""
    events: list[Event] = []
    outcome = run(folders, configured(text), folder, app=app, observer=events.append)
    assert outcome.status is Status.COMPLETE_SUBSET
    return [dict(event.dropped) for event in events if isinstance(event, RoundRecord)]


def kept(folder: Path, site: str) -> list[tuple[int, str]]:
    """Round and request of every receipt that the centre kept of a site."""
    lines = (folder / "receipts" / f"{site}.jsonl").read_text(encoding="utf-8").splitlines()
    return [(r.server_round, r.request_id) for r in (parse(line).receipt for line in lines)]


def test_every_reply_is_in_the_sites_log_and_its_receipt_at_the_centre(
    folders: list[Path], tmp_path: Path
) -> None:
    settings = configured("[federation]\nrounds = 2\ngroup_bytes = 1\n[compute]\ngroups_in_flight = 3")
    run(folders, settings, tmp_path / "run", workers=3)
    for folder in folders:
        receipts = site_receipts.read(tmp_path / "run" / "receipts" / f"{folder.name}.jsonl")
        found = site_receipts.check(folder, receipts)
        assert found.replies == found.receipts == len(receipts) > 3
        # the policy, the approval, and each request and its reply
        assert found.head.sequence == 2 + 2 * len(receipts)


def test_an_update_changed_on_the_way_is_dropped(folders: list[Path], tmp_path: Path) -> None:
    def change(record: RecordDict, signed: Signed[TrainReply]) -> RecordDict:
        updates = record.array_records["updates"]
        if signed.reply.site != "south" or not updates:
            return record
        name, array = next(iter(updates.items()))
        data = array.data[:-1] + bytes([array.data[-1] ^ 1])  # of one number, the sign or the exponent
        altered = ArrayRecord(
            {**updates, name: Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=data)}
        )
        return RecordDict({**record, "updates": altered})

    first, second, scoring = dropped(folders, tmp_path / "run", on_the_way(change))
    assert first["south"].startswith("receipt: Expected a receipt for reply_hash")
    assert list(first) == list(second) == ["south"]
    assert scoring == {}
    assert [server_round for server_round, _ in kept(tmp_path / "run", "south")] == [0, 3]


def test_a_number_or_a_receipt_changed_on_the_way_is_dropped(folders: list[Path], tmp_path: Path) -> None:
    def change(record: RecordDict, signed: Signed[TrainReply]) -> RecordDict:
        if signed.reply.site == "south":
            counts = record.config_records["reply"]["num-examples"]
            assert isinstance(counts, list)
            record.config_records["reply"]["num-examples"] = [int(count) * 1000 + 1 for count in counts]
            if signed.receipt.server_round == 2:  # and the receipt is made to fit
                record.config_records["receipt"]["reply_hash"] = wire.contents(record).hash
        return record

    first, second, _ = dropped(folders, tmp_path / "run", on_the_way(change))
    assert "reply_hash" in first["south"]
    assert "signature does not fit" in second["south"]


def test_a_reply_without_a_receipt_is_dropped(folders: list[Path], tmp_path: Path) -> None:
    def change(record: RecordDict, signed: Signed[TrainReply]) -> RecordDict:
        if signed.reply.site == "south":
            del record["receipt"]
        return record

    for round_ in dropped(folders, tmp_path / "run", on_the_way(change)):
        assert "Expected a receipt with" in round_["south"]


@pytest.mark.parametrize(
    ("site", "same_group", "says"),
    [pytest.param("north", True, "signature", marks=pytest.mark.soak), ("south", False, "request_id")],
)
def test_receipts_of_two_sites_or_two_groups_cannot_be_exchanged(
    folders: list[Path], tmp_path: Path, site: str, same_group: bool, says: str
) -> None:
    seen: list[tuple[Signed[TrainReply], RecordDict]] = []

    def change(record: RecordDict, signed: Signed[TrainReply]) -> RecordDict:
        seen.append((signed, record))
        if signed.reply.site != "south":
            return record
        for other, others in seen:
            same = other.receipt.group == signed.receipt.group
            if other.reply.site == site and same == same_group:
                return RecordDict({**record, "receipt": others["receipt"]})
        return record

    rounds = dropped(folders, tmp_path / "run", on_the_way(change), f"{TWO_ROUNDS}\ngroup_bytes = 1")
    reasons = [round_["south"] for round_ in rounds if round_]
    assert reasons
    assert all(says in reason for reason in reasons)


def test_a_reply_of_an_earlier_round_sent_again_is_dropped(folders: list[Path], tmp_path: Path) -> None:
    first_round: dict[str, RecordDict] = {}

    def change(record: RecordDict, signed: Signed[TrainReply]) -> RecordDict:
        if signed.reply.site != "south":
            return record
        return first_round.setdefault("south", record)

    first, second, _ = dropped(folders, tmp_path / "run", on_the_way(change))
    assert first == {}
    assert "request_id" in second["south"]


@pytest.mark.soak
def test_a_reply_from_before_an_interruption_is_used_after_it(folders: list[Path], tmp_path: Path) -> None:
    """The request is the same after it, so a site may answer with the bytes that it answered before."""
    before: dict[int, RecordDict] = {}
    interrupted = False

    def change(record: RecordDict, signed: Signed[TrainReply]) -> RecordDict:
        if signed.reply.site != "south":
            return record
        if interrupted:
            return before.get(signed.receipt.server_round, record)
        before[signed.receipt.server_round] = record
        if signed.receipt.server_round == 2:
            raise KeyboardInterrupt
        return record

    settings = configured(TWO_ROUNDS)
    run(folders, settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(folders, settings, tmp_path / "run", app=on_the_way(change))
    interrupted = True
    outcome = run(folders, settings, tmp_path / "run", app=on_the_way(change))
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_after_an_interruption_the_numbers_go_on_and_the_bits_are_the_same(
    folders: list[Path], tmp_path: Path
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, RoundRecord):
            raise KeyboardInterrupt

    settings = configured("[federation]\nrounds = 2")
    run(folders, settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(folders, settings, tmp_path / "parts", observer=stop)
    run(folders, settings, tmp_path / "parts")
    assert_same(tmp_path / "whole", tmp_path / "parts")
    receipts = site_receipts.read(tmp_path / "parts" / "receipts" / "south.jsonl")
    numbers = [one.receipt.sequence for one in receipts]
    assert numbers == sorted(set(numbers))
    assert [one.receipt.server_round for one in receipts] == [0, 1, 0, 2, 3]


def test_a_site_put_back_to_an_older_copy_stops_the_campaign(folders: list[Path], tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, RoundRecord) and event.round == 2:
            raise KeyboardInterrupt

    log = folders[1] / chain.NAME
    settings = configured("[federation]\nrounds = 2")
    run(folders, settings, tmp_path / "other")
    shutil.copy(log, tmp_path / "yesterday")
    with pytest.raises(KeyboardInterrupt):
        run(folders, settings, tmp_path / "run", observer=stop)
    shutil.copy(tmp_path / "yesterday", log)
    with pytest.raises(VerificationError, match=r"south.*an older copy of the site's folder was put back"):
        run(folders, settings, tmp_path / "run")


def test_a_site_that_lost_its_key_stops_the_campaign_that_it_began_with_it(
    folders: list[Path], tmp_path: Path
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StageStarted):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folders, configured(), tmp_path / "run", observer=stop)
    shutil.rmtree(folders[1] / "keys")
    with pytest.raises(VerificationError, match=r"south to sign with key .* as before in this run"):
        run(folders, configured(), tmp_path / "run")


def test_a_site_whose_log_is_damaged_answers_nothing(folders: list[Path], tmp_path: Path) -> None:
    events: list[Event] = []

    def damage(event: Event) -> None:
        events.append(event)
        if isinstance(event, RoundRecord) and event.round == 1:
            log = folders[1] / chain.NAME
            log.write_bytes(log.read_bytes() + b"edited\n")

    run(folders, configured(TWO_ROUNDS), tmp_path / "run", observer=damage)
    reasons = [dict(event.dropped) for event in events if isinstance(event, RoundRecord)]
    assert reasons == [{}, {"south": "refused: verification"}, {"south": "refused: verification"}]
    assert "last line" in (folders[1] / "log.txt").read_text(encoding="utf-8")
