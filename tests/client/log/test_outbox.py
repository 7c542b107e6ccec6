import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict
from hypothesis import given
from hypothesis import strategies as st

from client.ledger import issued_receipts
from client.log import outbox
from client.log.audit import Asked
from client.site.site import Site
from common import wire
from common.errors import DataError, StorageError, VerificationError
from common.messages import NetworkReply, TrainReply, TrainRequest
from common.receipts import Contents
from tests.full_disk import limited_files
from tests.site_folders import make_site_folder

REQUEST = TrainRequest(
    campaign="c",
    plan_hash="a" * 64,
    request_id="r1",
    group="g",
    server_round=1,
    encoding="bfloat16",
    weights={},
    layouts={},
)
ASKED = Asked.of(REQUEST, Contents(hash="b" * 64, size_bytes=12))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.open(make_site_folder(tmp_path_factory.mktemp("sites") / "north", name="north", patients=1))


def packed(size: int, *, encoding: wire.Encoding = "bfloat16") -> RecordDict:
    generator = np.random.default_rng(size)
    network = NetworkReply(
        update=generator.normal(size=size).astype(np.float32),
        num_examples=size,
        loss=float("nan") if size % 2 else 0.1 + size,
        histograms=generator.integers(0, 9, (2, 256)) if size % 3 else None,
        extra={"control": generator.normal(size=size).astype(np.float32)} if size % 5 else {},
    )
    nothing = NetworkReply(update=None, num_examples=0, loss=float("nan"), histograms=None)
    reply = TrainReply(site="north", request_id="r1", networks={"a/b": network, "c": nothing})
    return wire.encode_train_reply(reply, encoding=encoding)


def keep(site: Site, record: RecordDict, asked: Asked = ASKED) -> Path:
    draft = outbox.Draft(site.folder, asked, record)
    draft.complete(issued_receipts.of_reply(site, REQUEST, wire.contents(record), asked))
    return outbox.path(site.folder, asked.request_id)


@given(st.integers(0, 40), st.sampled_from(["float32", "bfloat16"]))
def test_what_is_kept_is_what_left_to_the_last_bit(site: Site, size: int, encoding: wire.Encoding) -> None:
    record = packed(size, encoding=encoding)
    place = keep(site, record)
    kept = outbox.find(site.folder, "r1")
    assert kept is not None
    assert kept.asked == ASKED
    assert wire.contents(kept.record) == wire.contents(record)
    assert kept.receipt.reply_hash == wire.contents(record).hash
    sent, first = (
        wire.decode_train_reply(wire.with_receipt(one, kept.receipt)) for one in (kept.record, record)
    )
    assert isinstance(sent, wire.Signed)
    assert isinstance(first, wire.Signed)
    assert sent.contents_hash == first.contents_hash
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700


@given(st.data())
def test_any_changed_byte_is_found(site: Site, data: st.DataObject) -> None:
    place = keep(site, packed(4))
    content = bytearray(place.read_bytes())
    receipt = len(content) - outbox.RECEIPT_BYTES
    where = data.draw(st.integers(0, receipt + 400))
    content[where] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[where]))
    place.write_bytes(content)
    try:
        kept = outbox.find(site.folder, "r1")
    except VerificationError:
        return
    # what is not of the reply itself is held against the request and the site's key by who uses it
    assert kept is not None
    assert wire.contents(kept.record) == wire.contents(packed(4))


def test_a_file_cut_short_is_found(site: Site) -> None:
    place = keep(site, packed(4))
    whole = place.read_bytes()
    for length in (0, 5, 20, 300, len(whole) - outbox.RECEIPT_BYTES, len(whole) - 1):
        place.write_bytes(whole[:length])
        with pytest.raises(VerificationError, match="changed or damaged"):
            outbox.find(site.folder, "r1")


def test_a_draft_is_no_reply_and_a_discarded_one_leaves_nothing(site: Site) -> None:
    asked = replace(ASKED, request_id="r2")
    draft = outbox.Draft(site.folder, asked, packed(4))
    assert outbox.find(site.folder, "r2") is None
    assert "r2" not in outbox.ids(site.folder)
    draft.discard()
    assert not list((site.folder / "outbox").glob(".r2*"))


@pytest.mark.parametrize("room", [0, 10, 3000, 6000])
def test_a_full_disk_leaves_nothing_half_written(site: Site, room: int) -> None:
    asked = replace(ASKED, request_id="r3")
    with limited_files(room), pytest.raises(StorageError, match="does not leave"):
        outbox.Draft(site.folder, asked, packed(2000))
    assert not list((site.folder / "outbox").glob("*r3*"))
    assert not list((site.folder / "outbox").glob(".*r3*"))


def test_old_replies_and_left_drafts_go(site: Site) -> None:
    now = time.time()
    ages = {"old": 91, "young": 89}
    for request_id, days in ages.items():
        place = keep(site, packed(2), replace(ASKED, request_id=request_id))
        os.utime(place, (now - days * 86400,) * 2)
    left = site.folder / "outbox" / ".gone.reply-12345678"
    left.write_bytes(b"half")
    os.utime(left, (now - 2 * 86400,) * 2)
    assert outbox.prune(site.folder, keep_days=90, now=now) == 1
    assert not left.exists()
    assert "young" in outbox.ids(site.folder)
    assert outbox.find(site.folder, "old") is None
    assert outbox.prune(site.folder, keep_days=0, now=now + 1) >= 1
    assert outbox.ids(site.folder) == []
    assert outbox.prune(site.folder / "none", keep_days=1) == 0


@pytest.mark.parametrize("request_id", ["", "../x", "/x", ".x", "a/b", "x" * 65, "a\x00"])
def test_an_id_that_is_no_name_is_refused(site: Site, request_id: str) -> None:
    with pytest.raises(DataError, match="request ID"):
        outbox.path(site.folder, request_id)
