"""A centre that does what it likes: each of its tricks is refused at a site, before anything of use leaves."""

import dataclasses
from typing import Any, TypeVar

import numpy as np
import pytest

from common.errors import (
    ConfigurationError,
    PolicyError,
    SiteStateError,
    SynofedError,
    UpdateError,
    VerificationError,
)
from common.secure_aggregation import site
from common.secure_aggregation.agreement import public_key
from common.secure_aggregation.centre import Attempt
from common.secure_aggregation.identity import Identity, sign_keys, sign_survivors
from common.secure_aggregation.messages import (
    KeysRequest,
    MaskedRequest,
    Phase,
    Request,
    SharesRequest,
    SurvivorsRequest,
    UnmaskRequest,
)
from common.secure_aggregation.site_state import State
from common.secure_aggregation.terms import binding
from tests.summing import NAMES, Site, context, fresh, identity, play, registered, signing_key, sites, terms

AGREED = terms(5, colluders=1)
VECTORS = {name: np.full(8, 3) for name in NAMES[:5]}


class Round:
    """An attempt played honestly up to a phase, and its request to Aachen, which the centre then changes."""

    def __init__(self, phase: Phase, *, attempt: str = "1", label: str = "") -> None:
        self.sites = sites(VECTORS, AGREED, label=label)
        self.centre = Attempt(context=context(attempt), terms=AGREED, registered=registered(5))
        play(self.centre, self.sites, until=phase)
        self.request = self.centre.requests()["Aachen"]

    @property
    def aachen(self) -> Site:
        return self.sites["Aachen"]

    def refuses(self, request: Request, message: str, error: type[SynofedError] = VerificationError) -> None:
        before = self.aachen.written
        with pytest.raises(error, match=message):
            self.aachen.answer(request)
        assert self.aachen.written == before


T = TypeVar("T")


def replaced(values: tuple[T, ...], at: int, value: T) -> tuple[T, ...]:
    return (*values[:at], value, *values[at + 1 :])


def of_bergen(request: SharesRequest, **changes: bytes) -> SharesRequest:
    fields: dict[str, Any] = {
        name: replaced(getattr(request, name), 1, value) for name, value in changes.items()
    }
    return dataclasses.replace(request, **fields)


@pytest.mark.parametrize("which", ["mask_keys", "share_keys", "signatures"])
def test_a_swapped_key_is_refused(which: str) -> None:
    round_ = Round("shares")
    assert isinstance(round_.request, SharesRequest)
    value = bytes(64) if which == "signatures" else public_key(fresh("centre"))
    round_.refuses(of_bergen(round_.request, **{which: value}), "keys of Bergen are not signed")


def test_keys_signed_by_another_than_the_pinned_key_are_refused() -> None:
    """The centre runs the registry, and says that Bergen has a new receipt key."""
    round_ = Round("shares")
    assert isinstance(round_.request, SharesRequest)
    mine = public_key(fresh("mask")), public_key(fresh("share"))
    forged = sign_keys(
        signing_key("the centre"),
        binding=binding(context(), AGREED),
        site="Bergen",
        mask_key=mine[0],
        share_key=mine[1],
    )
    changed = of_bergen(round_.request, mask_keys=mine[0], share_keys=mine[1], signatures=forged)
    round_.refuses(changed, "keys of Bergen are not signed with the key known for it")


def test_an_invented_site_is_refused() -> None:
    round_ = Round("shares")
    request = round_.request
    assert isinstance(request, SharesRequest)
    mine = public_key(fresh("mask")), public_key(fresh("share"))
    signature = sign_keys(
        signing_key("Zenith"),
        binding=binding(context(), AGREED),
        site="Zenith",
        mask_key=mine[0],
        share_key=mine[1],
    )
    invented = dataclasses.replace(
        request,
        sites=(*request.sites[:4], "Zenith"),
        mask_keys=(*request.mask_keys[:4], mine[0]),
        share_keys=(*request.share_keys[:4], mine[1]),
        signatures=(*request.signatures[:4], signature),
    )
    round_.refuses(invented, "names a site whose key is not known here")


def without(request: SharesRequest, *names: str) -> SharesRequest:
    kept = [at for at, name in enumerate(request.sites) if name not in names]
    return SharesRequest(
        context=request.context,
        sites=tuple(request.sites[at] for at in kept),
        mask_keys=tuple(request.mask_keys[at] for at in kept),
        share_keys=tuple(request.share_keys[at] for at in kept),
        signatures=tuple(request.signatures[at] for at in kept),
    )


def test_lists_of_keys_that_are_too_short_or_lack_the_site_itself_or_repeat_one_are_refused() -> None:
    round_ = Round("shares")
    request = round_.request
    assert isinstance(request, SharesRequest)
    round_.refuses(without(request, "Bergen", "Cork"), "at least 4 sites, got 3", PolicyError)
    round_.refuses(without(request, "Aachen"), "Expected the keys that Aachen gave")
    twice = dataclasses.replace(
        request,
        sites=replaced(request.sites, 1, "Aachen"),
        mask_keys=replaced(request.mask_keys, 1, request.mask_keys[0]),
        share_keys=replaced(request.share_keys, 1, request.share_keys[0]),
        signatures=replaced(request.signatures, 1, request.signatures[0]),
    )
    round_.refuses(twice, "in order, each once")
    round_.refuses(
        dataclasses.replace(request, signatures=request.signatures[:4]), "two keys and a signature"
    )


def test_keys_of_an_old_attempt_are_refused() -> None:
    old, new = Round("shares", attempt="1", label="old"), Round("shares", attempt="2", label="new")
    assert isinstance(old.request, SharesRequest) and isinstance(new.request, SharesRequest)
    changed = of_bergen(
        new.request,
        mask_keys=old.request.mask_keys[1],
        share_keys=old.request.share_keys[1],
        signatures=old.request.signatures[1],
    )
    new.refuses(changed, "keys of Bergen are not signed .* another attempt")
    new.refuses(old.request, "Expected attempt 2 .* got another one: 1", SiteStateError)


def test_other_terms_at_another_site_give_keys_that_do_not_count() -> None:
    round_ = Round("shares")
    assert isinstance(round_.request, SharesRequest)
    weaker = terms(5, survivors=4, colluders=0)
    reply, _ = site.keys(
        identity("Bergen", 5), KeysRequest(context=context()), terms=weaker, entropy=fresh("bergen")
    )
    changed = of_bergen(
        round_.request, mask_keys=reply.mask_key, share_keys=reply.share_key, signatures=reply.signature
    )
    round_.refuses(changed, "or its plan is another")


def test_two_views_of_the_keys_end_before_any_vector_is_used() -> None:
    """Aachen is told that Espoo is away, the others are not: their shares do not open for each other."""
    round_ = Round("shares")
    requests = round_.centre.requests()
    narrow = requests["Aachen"]
    assert isinstance(narrow, SharesRequest)
    replies = {name: round_.sites[name].answer(requests[name]) for name in NAMES[1:5]}
    round_.aachen.answer(without(narrow, "Espoo"))
    bergen = replies["Bergen"]
    request = MaskedRequest(
        context=context(),
        sharers=NAMES[:4],
        senders=NAMES[1:4],
        ciphertexts=tuple(
            reply.ciphertexts[reply.receivers.index("Aachen")]  # type: ignore[union-attr]
            for reply in (bergen, replies["Cork"], replies["Dresden"])
        ),
    )
    round_.refuses(request, "shares of Bergen do not open")


def test_shares_that_were_changed_or_are_for_another_are_refused() -> None:
    round_ = Round("masked")
    request, other = round_.request, round_.centre.requests()["Cork"]
    assert isinstance(request, MaskedRequest) and isinstance(other, MaskedRequest)
    for foreign in (other.ciphertexts[1], request.ciphertexts[1], b"", bytes(94)):
        changed = dataclasses.replace(request, ciphertexts=(foreign, *request.ciphertexts[1:]))
        round_.refuses(changed, "shares of Bergen do not open")


def test_lists_of_sharers_that_do_not_fit_are_refused() -> None:
    round_ = Round("masked")
    request = round_.request
    assert isinstance(request, MaskedRequest)

    def listed(*names: str) -> MaskedRequest:
        senders = tuple(name for name in names if name != "Aachen")
        texts = dict(zip(request.senders, request.ciphertexts, strict=True))
        return MaskedRequest(
            context=request.context,
            sharers=names,
            senders=senders,
            ciphertexts=tuple(texts.get(name, b"") for name in senders),
        )

    round_.refuses(listed(*NAMES[:3]), "at least 4 sites that made shares, got 3", PolicyError)
    round_.refuses(listed(*NAMES[1:5]), "Expected Aachen itself")
    round_.refuses(listed(*NAMES[:4], "Zenith"), "got Zenith")
    round_.refuses(dataclasses.replace(request, senders=request.senders[:3]), "shares of every other site")


def test_a_second_vector_is_never_masked_in_one_attempt() -> None:
    """With two vectors under the same masks, the centre would have their difference."""
    round_ = Round("survivors")
    state = State.parse(round_.aachen.written)
    request = next(iter(round_.centre.requests().values()))
    assert request.phase == "survivors"
    first = Round("masked")
    assert isinstance(first.request, MaskedRequest)
    fewer = dataclasses.replace(
        first.request,
        sharers=NAMES[:4],
        senders=NAMES[1:4],
        ciphertexts=first.request.ciphertexts[:3],
    )
    round_.refuses(fewer, "second time in phase masked")
    with pytest.raises(VerificationError, match="answered already: send the reply that was kept"):
        site.masked(state, first.request, np.zeros(8, np.int64))


def test_lists_of_survivors_that_do_not_fit_are_refused() -> None:
    round_ = Round("survivors")
    for names, message, error in (
        (NAMES[:3], "at least 4 survivors, got 3", PolicyError),
        (NAMES[1:5], "Expected Aachen itself", VerificationError),
        ((*NAMES[:4], "Zenith"), "got Zenith", VerificationError),
        ((NAMES[1], NAMES[0], *NAMES[2:5]), "in order", VerificationError),
    ):
        round_.refuses(SurvivorsRequest(context=context(), survivors=names), message, error)


def test_a_second_list_of_survivors_is_never_signed() -> None:
    round_ = Round("survivors")
    round_.aachen.answer(round_.request)
    round_.refuses(SurvivorsRequest(context=context(), survivors=NAMES[:4]), "second time in phase survivors")


def test_different_lists_at_different_sites_are_never_opened() -> None:
    """Aachen and Bergen sign that all survive, Cork and Dresden that Espoo dropped out."""
    round_ = Round("survivors")
    every, fewer = (SurvivorsRequest(context=context(), survivors=names) for names in (NAMES[:5], NAMES[:4]))
    shown = {"Aachen": every, "Bergen": every, "Cork": fewer, "Dresden": fewer}
    signed = {name: round_.sites[name].answer(request) for name, request in shown.items()}
    signatures = {name: reply.signature for name, reply in signed.items()}  # type: ignore[union-attr]
    mixed = UnmaskRequest(context=context(), signers=NAMES[:4], signatures=tuple(signatures.values()))
    round_.refuses(mixed, "Cork did not sign this list of survivors")
    few = UnmaskRequest(
        context=context(), signers=NAMES[:2], signatures=(signatures["Aachen"], signatures["Bergen"])
    )
    round_.refuses(few, "signed by at least 4 sites, got 2")
    with pytest.raises(VerificationError, match="Aachen did not sign"):
        round_.sites["Cork"].answer(mixed)


def test_signatures_of_strangers_or_counted_twice_are_refused() -> None:
    round_ = Round("unmask")
    request = round_.request
    assert isinstance(request, UnmaskRequest)
    strange = sign_survivors(signing_key("Zenith"), lists="")
    for signers, signatures, message in (
        ((*NAMES[:4], "Zenith"), (*request.signatures[:4], strange), "of survivors"),
        ((*NAMES[:4], NAMES[3]), (*request.signatures[:4], request.signatures[3]), "in order, each once"),
        (NAMES[:5], (*request.signatures[:4], request.signatures[3]), "Espoo did not sign"),
        (NAMES[:5], request.signatures[:4], "of survivors"),
    ):
        changed = UnmaskRequest(context=context(), signers=signers, signatures=signatures)
        round_.refuses(changed, message)


def test_both_shares_of_one_peer_cannot_be_had() -> None:
    """Not by another list, not by asking again, not from what a site still keeps."""
    round_ = Round("unmask")
    round_.aachen.answer(round_.request)
    assert isinstance(round_.request, UnmaskRequest)
    again = dataclasses.replace(
        round_.request, signers=round_.request.signers[:4], signatures=round_.request.signatures[:4]
    )
    round_.refuses(again, "second time in phase unmask")
    round_.refuses(SurvivorsRequest(context=context(), survivors=NAMES[:4]), "second time in phase survivors")
    assert not State.parse(round_.aachen.written).held


def test_phases_are_not_left_out() -> None:
    later = Round("unmask")
    early = Round("shares")
    early.refuses(later.request, "Expected phase shares of the attempt, got unmask", SiteStateError)


def test_an_attempt_does_not_begin_twice_with_other_keys() -> None:
    round_ = Round("shares")
    kept = round_.aachen.kept["keys"]
    assert round_.aachen.answer(KeysRequest(context=context())) is kept


def test_a_round_that_was_opened_has_no_other_sum() -> None:
    """The difference of a sum over all sites and one without Aachen would be Aachen's vector."""

    def begin(previous: State, server_round: int, *, run: str = "run") -> None:
        another = dataclasses.replace(context("2"), server_round=server_round, run=run)
        request = KeysRequest(context=another)
        site.keys(identity("Aachen", 5), request, terms=AGREED, entropy=fresh("again"), previous=previous)

    round_ = Round("unmask")
    unopened = State.parse(round_.aachen.written)
    begin(unopened, 3)
    with pytest.raises(PolicyError, match=r"not past .* got 2 after 3"):
        begin(unopened, 2)
    round_.aachen.answer(round_.request)
    opened = State.parse(round_.aachen.written)
    with pytest.raises(PolicyError, match="has not helped to open, got 3 after 3"):
        begin(opened, 3)
    begin(opened, 4)
    begin(opened, 1, run="another")


def test_signed_lists_of_an_old_attempt_are_refused() -> None:
    old, new = Round("unmask", attempt="1"), Round("unmask", attempt="2")
    assert isinstance(old.request, UnmaskRequest)
    new.refuses(dataclasses.replace(old.request, context=context("2")), "Aachen did not sign this list")
    new.refuses(old.request, "Expected attempt 2", SiteStateError)


def test_a_site_takes_no_part_in_sums_that_protect_less_than_it_asks_for() -> None:
    request = KeysRequest(context=context())
    usual = identity("Aachen", 5)
    for careful in (dataclasses.replace(usual, minimum_peers=4), dataclasses.replace(usual, colluders=2)):
        with pytest.raises(PolicyError, match="Expected sums over at least"):
            site.keys(careful, request, terms=AGREED, entropy=fresh("careful"))


def test_peers_that_are_not_pinned_properly_are_refused() -> None:
    own = signing_key("Aachen")
    for peers, message in (
        ({"Aachen": registered(2)["Bergen"]}, "Aachen in .peers. with this site's own key"),
        ({"Bergen": "12"}, "64 hex digits for Bergen"),
        ({"Bergen": registered(1)["Aachen"]}, "one key twice"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            Identity(site="Aachen", key=own, peers=peers)
    with pytest.raises(ConfigurationError, match="minimum_peers >= 1"):
        Identity(site="Aachen", key=own, peers={}, minimum_peers=0)


def test_vectors_that_do_not_fit_and_states_that_are_none_are_refused() -> None:
    round_ = Round("masked")
    state = State.parse(round_.aachen.written)
    assert isinstance(round_.request, MaskedRequest)
    with pytest.raises(UpdateError, match="a vector of 8 numbers, got 9"):
        site.masked(state, round_.request, np.zeros(9, np.int64))
    for text in ("", "{}", "[]", '{"context": 3}', round_.aachen.written.replace("1", "g")):
        with pytest.raises(SiteStateError, match="Expected the state of an attempt"):
            State.parse(text)
    with pytest.raises(ValueError, match="32 fresh bytes"):
        site.keys(identity("Aachen", 5), KeysRequest(context=context()), terms=AGREED, entropy=bytes(32))


def test_a_site_that_was_told_of_other_contents_has_keys_that_do_not_count() -> None:
    """Zeros for the others would leave one site's vector in the open sum (Pasquini et al. 2022)."""
    round_ = Round("shares")
    assert isinstance(round_.request, SharesRequest)
    reply, _ = site.keys(
        identity("Bergen", 5),
        KeysRequest(context=context(content="ef" * 32)),
        terms=AGREED,
        entropy=fresh("bergen"),
    )
    changed = of_bergen(
        round_.request, mask_keys=reply.mask_key, share_keys=reply.share_key, signatures=reply.signature
    )
    round_.refuses(changed, "keys of Bergen are not signed .* for this attempt")
