"""The whole protocol: sums are exact, sites may drop out anywhere, and the centre sees nothing else."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from common.errors import CampaignError, ConfigurationError, UpdateError, VerificationError
from common.secure_aggregation.agreement import pair_key, roster_digest, self_key
from common.secure_aggregation.centre import Attempt
from common.secure_aggregation.fixed_point import centred, to_ring
from common.secure_aggregation.masks import masked
from common.secure_aggregation.messages import (
    PHASES,
    KeysReply,
    MaskedReply,
    Phase,
    Reply,
    Request,
    SharesReply,
    UnmaskReply,
    to_fields,
)
from common.secure_aggregation.site_state import State
from common.secure_aggregation.terms import Terms
from tests.summing import (
    NAMES,
    PART,
    context,
    fresh,
    packed,
    play,
    registered,
    reply_of,
    request_of,
    sites,
    terms,
)


def vectors(count: int, length: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {name: rng.integers(-(10**6), 10**6, length) for name in NAMES[:count]}


def added(given_by: Mapping[str, np.ndarray], names: Iterable[str]) -> list[int]:
    return [int(number) for number in np.sum([given_by[name] for name in names], axis=0)]


def attempt(count: int, agreed: Terms, number: str = "1") -> Attempt:
    return Attempt(context=context(number), terms=agreed, registered=registered(count))


@settings(max_examples=20)
@given(st.data())
def test_the_sum_is_that_of_the_survivors_whoever_drops_out_in_whatever_phase(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 5), "sites")
    colluders = data.draw(st.integers(0, max(0, (count - 2) // 2)), "colluders")
    least = max((count + colluders) // 2 + 1, colluders + 2)
    length, bits = data.draw(st.integers(1, 9), "length"), data.draw(st.sampled_from([32, 64]), "bits")
    agreed = terms(count, survivors=least, colluders=colluders, length=length, bits=bits)
    largest = (2 ** (bits - 1) - 1) // count
    numbers = st.lists(st.integers(-largest, largest), min_size=length, max_size=length)
    given_by = {name: np.array(data.draw(numbers, name), np.int64) for name in NAMES[:count]}
    leaving = data.draw(st.permutations(NAMES[:count]))[
        : data.draw(st.integers(0, count - least), "dropouts")
    ]
    absent: dict[Phase, list[str]] = {}
    for name in leaving:
        absent.setdefault(data.draw(st.sampled_from(PHASES)), []).append(name)
    asked = attempt(count, agreed)

    play(asked, sites(given_by, agreed), absent=absent)

    early = {name for phase in ("keys", "shares", "masked") for name in absent.get(phase, ())}
    assert set(asked.survivors) == set(given_by) - early
    assert asked.sum().tolist() == added(given_by, asked.survivors)


@pytest.mark.parametrize("phase", PHASES)
def test_one_dropout_in_each_phase(phase: Phase) -> None:
    given_by, agreed = vectors(5), terms(5, colluders=1)
    asked = attempt(5, agreed)
    play(asked, sites(given_by, agreed), absent={phase: ["Cork"]})
    in_sum = [name for name in given_by if name != "Cork" or phase in ("survivors", "unmask")]
    assert asked.sum().tolist() == added(given_by, in_sum)


@pytest.mark.parametrize("phase", PHASES)
def test_too_few_sites_end_the_attempt_in_each_phase(phase: Phase) -> None:
    agreed = terms(5, colluders=1)
    asked = attempt(5, agreed)
    with pytest.raises(CampaignError, match=rf"at least 4 of 5 sites to answer in phase {phase}, got 3"):
        play(asked, sites(vectors(5), agreed), absent={phase: ["Cork", "Espoo"]})
    with pytest.raises(CampaignError, match="Expected all phases"):
        asked.sum()


def everything(
    label: str, number: str, given_by: Mapping[str, np.ndarray], agreed: Terms
) -> dict[str, list[Reply]]:
    """All that the centre receives, by site; Cork drops out before it sends its vector."""
    received: dict[str, list[Reply]] = {}
    asked = attempt(len(given_by), agreed, number)
    play(
        asked,
        sites(given_by, agreed, label=label),
        absent={"masked": ["Cork"]},
        seen=lambda name, reply: received.setdefault(name, []).append(reply),
    )
    return received


def is_uniform(values: np.ndarray) -> bool:
    counts = np.bincount(np.frombuffer(values.tobytes(), np.uint8), minlength=256)
    return float(chisquare(counts).pvalue) > 1e-3


def test_all_that_the_centre_receives_of_one_site_is_noise_but_for_the_sum() -> None:
    agreed = terms(5, colluders=1, length=20_000)
    same = {name: np.full(20_000, 7) for name in NAMES[:5]}
    first, second = (everything("a", "1", same, agreed), everything("b", "2", same, agreed))
    one, other = (
        next(r for r in replies["Aachen"] if isinstance(r, MaskedReply)) for replies in (first, second)
    )
    assert is_uniform(one.vector) and is_uniform(other.vector) and is_uniform(one.vector - other.vector)
    assert not np.intersect1d(one.vector, other.vector).size
    # Nothing that a site sends holds its vector, or the part of it that another site has.
    for replies in first.values():
        for reply in replies:
            flat = b"".join(_bytes(value) for value in to_fields(reply).values())
            assert np.int64(7).tobytes() * 2 not in flat


def test_what_the_centre_can_take_off_one_vector_leaves_it_masked() -> None:
    """Its own mask and that with the site that dropped out are opened; those with the others are not."""
    agreed = terms(5, colluders=1, length=20_000)
    given_by = {name: np.full(20_000, 7) for name in NAMES[:5]}
    asked = attempt(5, agreed)
    playing = sites(given_by, agreed)
    received: dict[str, dict[type, Reply]] = {name: {} for name in given_by}
    secrets: dict[str, State] = {}

    def note(name: str, reply: Reply) -> None:
        received[name][type(reply)] = reply
        if isinstance(reply, SharesReply):
            secrets[name] = State.parse(playing[name].written)

    play(asked, playing, absent={"masked": ["Cork"]}, seen=note)
    state = secrets["Aachen"]
    digest = roster_digest(state.binding, state.roster)
    reply = received["Aachen"][MaskedReply]
    assert isinstance(reply, MaskedReply)
    pairs = {
        peer: pair_key(state.mask_key, state.keys[peer], roster=digest, site="Aachen") for peer in NAMES[1:5]
    }
    own = self_key(state.seed, roster=digest, site="Aachen")
    opened = masked(reply.vector, plus=[], minus=[own, pairs["Cork"]])
    assert is_uniform(opened)
    # The other three are all that hides it, so each of them does.
    hiding = [pairs[name] for name in ("Bergen", "Dresden", "Espoo")]
    assert all(is_uniform(masked(opened, plus=[], minus=hiding[:at] + hiding[at + 1 :])) for at in range(3))
    assert (centred(masked(opened, plus=[], minus=hiding)) == 7).all()


def test_no_site_gives_both_secrets_of_one_peer() -> None:
    agreed = terms(5, colluders=1)
    received = everything("a", "1", vectors(5), agreed)
    opened = [r for replies in received.values() for r in replies if isinstance(r, UnmaskReply)]
    assert len(opened) == 4
    for reply in opened:
        assert reply.survivors == ("Aachen", "Bergen", "Dresden", "Espoo") and reply.dropped == ("Cork",)


def test_state_between_phases_is_small_secret_and_forgets_what_it_no_longer_needs() -> None:
    agreed = terms(5, colluders=1, length=50_000)
    playing = sites(vectors(5, 50_000), agreed)
    asked = attempt(5, agreed)
    play(asked, playing, until="masked")
    before = State.parse(playing["Aachen"].written)
    assert before.seed and before.mask_key and before.mask_key.hex() not in repr(before)
    play(asked, playing, until="survivors")
    after = State.parse(playing["Aachen"].written)
    assert (after.seed, after.mask_key, after.share_key) == (b"", b"", b"") and len(after.held) == 5
    assert len(playing["Aachen"].written) < 6000
    play(asked, playing)
    assert not State.parse(playing["Aachen"].written).held


def test_a_request_again_gets_the_same_reply() -> None:
    agreed = terms(3)
    playing = sites(vectors(3), agreed)
    asked = attempt(3, agreed)
    while asked.phase is not None:
        for name, request in asked.requests().items():
            first = playing[name].answer(request)
            assert playing[name].answer(request) is first
            asked.accept(name, first)
            with pytest.raises(UpdateError, match="got one of"):
                asked.accept(name, first)
        asked.next()
    assert asked.sum().tolist() == added(vectors(3), NAMES[:3])


def changed(message: Request | Reply, **fields: object) -> RecordDict:
    """A message on its way, with fields changed; ``None``: left out."""
    record = packed(message)
    found = {**record.config_records[PART], **fields}
    record[PART] = ConfigRecord({name: value for name, value in found.items() if value is not None})  # type: ignore[misc]
    return record


def test_messages_survive_their_way_and_others_are_refused() -> None:
    request = attempt(3, terms(3)).requests()["Aachen"]
    assert request_of(packed(request)) == request
    reply = KeysReply(site="Aachen", mask_key=b"1", share_key=b"2", signature=b"3")
    assert reply_of(packed(reply)) == reply
    wrong: Mapping[str, object]
    for wrong in ({"phase": "opened"}, {"server_round": "3"}, {"more": 1}, {"run": None}):
        with pytest.raises(UpdateError, match="Expected"):
            request_of(changed(request, **wrong))
    with pytest.raises(UpdateError, match="Expected"):
        reply_of(changed(reply, mask_key="1"))
    sum_ = packed(MaskedReply(site="Aachen", vector=np.zeros(3, np.uint64)))
    (arrays,) = (name for name in sum_ if name != PART)
    without = RecordDict({PART: sum_[PART]})
    with pytest.raises(UpdateError, match="Expected"):
        reply_of(without)
    sum_[arrays] = ArrayRecord({"masked": Array("float64", (3,), "raw", np.zeros(3).tobytes())})
    with pytest.raises(UpdateError, match="Expected raw uint32 or uint64"):
        reply_of(sum_)


def test_a_changed_share_is_found_at_the_centre() -> None:
    agreed = terms(4, survivors=3)
    for kind in ("seed_shares", "key_shares"):
        playing = sites(vectors(4), agreed)
        asked = attempt(4, agreed)
        play(asked, playing, absent={"masked": ["Dresden"]}, until="unmask")
        for name in asked.waiting:
            reply = playing[name].answer(asked.requests()[name])
            assert isinstance(reply, UnmaskReply)
            if name == "Bergen":
                other = bytes([0]) + fresh("changed")
                if kind == "seed_shares":
                    reply = replace(reply, seed_shares=(other, *reply.seed_shares[1:]))
                else:
                    reply = replace(reply, key_shares=(other, *reply.key_shares[1:]))
            asked.accept(name, reply)
        asked.next()
        with pytest.raises(VerificationError, match="secret do not give what it committed to"):
            asked.sum()


def test_the_centre_refuses_what_it_did_not_ask_for() -> None:
    agreed = terms(3)
    playing = sites(vectors(3), agreed)
    asked = attempt(3, agreed)
    requests = asked.requests()
    reply = playing["Aachen"].answer(requests["Aachen"])
    with pytest.raises(UpdateError, match="Expected Bergen's reply"):
        asked.accept("Bergen", reply)
    with pytest.raises(VerificationError, match="keys of Aachen are not signed"):
        attempt(3, agreed, "2").accept("Aachen", reply)
    asked.drop("Aachen")
    with pytest.raises(UpdateError, match="got one of Aachen"):
        asked.accept("Aachen", reply)
    wrong = MaskedReply(site="Bergen", vector=np.zeros(9, np.uint64))
    asked = attempt(3, agreed)
    play(asked, sites(vectors(3), agreed), until="masked")
    with pytest.raises(UpdateError, match="Expected Bergen's reply for the sites"):
        asked.accept("Bergen", wrong)
    with pytest.raises(CampaignError, match="Expected 2 to 3 sites"):
        attempt(1, agreed)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"sites": 5, "survivors": 3, "colluders": 2}, "fewer than two"),
        ({"sites": 5, "survivors": 6, "colluders": 0}, "survivors <= sites"),
        ({"sites": 5, "survivors": 3, "colluders": 1}, "at least 4 survivors of 5 sites with 1 colluders"),
        ({"sites": 10, "survivors": 5, "colluders": 0}, "at least 6 survivors"),
        ({"sites": 3, "survivors": 3, "colluders": 0, "bits": 16}, "32 or 64 bits"),
    ],
)
def test_terms_that_do_not_protect_are_refused(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Terms(**{"length": 3, "bits": 64, **numbers})


def test_masks_of_ten_million_numbers_take_little_time() -> None:
    """Five peers and the own mask; the bound is far above what is stated in the decision record."""
    vector = to_ring(np.arange(10**7), bits=32)
    start = time.process_time()
    hidden = masked(vector, plus=[fresh(at) for at in range(3)], minus=[fresh(at) for at in range(3, 6)])
    assert time.process_time() - start < 10
    back = masked(hidden, plus=[fresh(at) for at in range(3, 6)], minus=[fresh(at) for at in range(3)])
    assert (back == vector).all()


def _bytes(value: object) -> bytes:
    if isinstance(value, list):
        return b"".join(_bytes(part) for part in value)
    return value if isinstance(value, bytes) else str(value).encode()
