from dataclasses import replace

import pytest

from client.data.ingest.facts import FACTS, gather, moment_s, translated
from client.data.ingest.mapping import Fact, PairSection
from client.data.ingest.mapping import Mapping as Meaning
from client.data.ingest.pairing import Candidate, Paired, pair
from client.data.ingest.pseudonyms import Pseudonyms
from client.ledger.identifiers import look_alikes, plain
from common.errors import DataError

RULES = PairSection()


def candidate(source: int, image: str, *, panel: int = 1, patient: str = "p1", **facts: str) -> Candidate:
    known: dict[Fact, str] = dict.fromkeys(FACTS, "")
    known.update({"patient_id": "1", "visit": "2024-03-01", "side": "left", "joint": "MCP", "digit": "2"})
    known["image"] = image
    known.update(facts)  # type: ignore[arg-type]  # keywords are facts
    return Candidate(source=source, panel=panel, facts=known, patient=patient)


def sources(exams: tuple[Paired, ...]) -> list[tuple[int, ...]]:
    return sorted(
        tuple(each.images[i].source for i in ("gs", "doppler") if i in each.images) for each in exams
    )


def test_the_only_two_of_a_joint_go_together_without_times() -> None:
    exams, left = pair([candidate(1, "gs"), candidate(2, "doppler")], RULES)
    assert (sources(exams), left) == ([(1, 2)], ())


@pytest.mark.parametrize(
    ("fact", "other"), [("side", "right"), ("joint", "PIP"), ("digit", "3"), ("visit", "2024-03-02")]
)
def test_another_joint_or_visit_is_another_exam(fact: str, other: str) -> None:
    doppler = candidate(2, "doppler")
    doppler = replace(doppler, facts={**doppler.facts, fact: other})  # type: ignore[dict-item]
    exams, left = pair([candidate(1, "gs"), doppler], RULES)
    assert exams == ()
    assert {each.reason for each in left} == {
        "no Doppler picture goes with it",
        "no grey-scale picture goes with it",
    }


def test_of_several_the_nearest_in_time_go_together() -> None:
    pictures = [
        candidate(1, "gs", time="100"),
        candidate(2, "gs", time="200"),
        candidate(3, "doppler", time="205"),
        candidate(4, "doppler", time="90"),
        candidate(5, "doppler", time="500"),
    ]
    exams, left = pair(pictures, RULES)
    assert sources(exams) == [(1, 4), (2, 3)]
    assert [each.candidate.source for each in left] == [5]
    assert len({each.parts for each in exams}) == 2


def test_too_far_apart_in_time_is_no_pair() -> None:
    pictures = [candidate(1, "gs", time="100"), candidate(2, "doppler", time="500")]
    assert sources(pair(pictures, PairSection(within_s=400))[0]) == [(1, 2)]
    assert pair(pictures, PairSection(within_s=399))[0] == ()


@pytest.mark.parametrize("rules", [RULES, PairSection(within_s=60)])
def test_without_times_nothing_is_guessed(rules: PairSection) -> None:
    pictures = [candidate(1, "gs"), candidate(2, "doppler"), candidate(3, "doppler")]
    exams, left = pair(pictures, rules)
    assert exams == ()
    assert all("times are not known" in each.reason for each in left)
    assert len(left) == 3


def test_both_on_one_screen_go_together_before_all_others() -> None:
    pictures = [
        candidate(1, "gs"),
        candidate(1, "doppler", panel=2),
        candidate(2, "doppler", panel=1),
        candidate(2, "gs", panel=2),
    ]
    assert sources(pair(pictures, RULES)[0]) == [(1, 1), (2, 2)]


def test_two_ids_of_a_linked_person_are_one() -> None:
    pictures = [candidate(1, "gs", patient_id="A"), candidate(2, "doppler", patient_id="B")]
    assert len(pair(pictures, RULES)[0]) == 1


def test_pictures_paired_by_series_may_not_contradict_each_other() -> None:
    rules = PairSection(same=("series",))
    pictures = [candidate(1, "gs", series="s"), candidate(2, "doppler", series="s", side="right")]
    exams, left = pair(pictures, rules)
    assert exams == ()
    assert {each.reason for each in left} == {
        "its grey-scale and Doppler picture contradict each other: side"
    }


def test_one_image_alone_is_an_exam_where_that_is_asked_for() -> None:
    exams, left = pair([candidate(1, "gs"), candidate(2, "doppler")], PairSection(images=("gs",)))
    assert sources(exams) == [(1,)]
    assert [each.reason for each in left] == ["Doppler pictures are not asked for"]


def test_sources_are_asked_in_order_and_may_not_contradict_each_other() -> None:
    meaning = Meaning.model_validate(
        {"facts": {"side": ["tag:Laterality", {"of": "name", "pattern": "_(l|r)_"}, "table:Seite"]}}
    )

    def side(laterality: str, name: str, row: str) -> str:
        return gather(meaning, name=name, tags={"Laterality": laterality}, row={"Seite": row})["side"]

    assert side("L", "a_L_b", "links") == "left"
    assert side("", "a_R_b", "") == "right"
    assert side("U", "a", "rechts") == "right"
    assert side("", "a", "") == ""
    with pytest.raises(DataError, match="side: tag:Laterality and name contradict each other"):
        side("L", "a_R_b", "")
    with pytest.raises(DataError, match=r"say under \[values.side\]") as caught:
        side("", "", "Mustermann")
    assert "Mustermann" not in str(caught.value)


@pytest.mark.parametrize(
    ("fact", "text", "ours"),
    [
        ("visit", "20240301", "2024-03-01"),
        ("visit", "01.03.2024", "2024-03-01"),
        ("visit", "2024-03-01T10:00:00", "2024-03-01"),
        ("time", "101530.25", "36930.25"),
        ("time", "20240301101530.250000+0100", "36930.25"),
        ("time", "10:15:30", "36930.0"),
        ("time", "later", ""),
        ("digit", "Dig. 2", "2"),
        ("digit", "D5", "5"),
        ("joint", "Handgelenk", "wrist"),
        ("joint", "Daumensattel", "CMC"),
        ("image", "PD", "doppler"),
    ],
)
def test_words_of_hospitals_become_ours(fact: Fact, text: str, ours: str) -> None:
    meaning = Meaning.model_validate({"values": {"joint": {"daumensattel": "CMC"}}})
    assert translated(meaning, fact, text) == ours


@pytest.mark.parametrize(
    ("fact", "text"),
    [("visit", "March"), ("digit", "6"), ("joint", "nose"), ("device", "a\nb"), ("view", "x")],
)
def test_words_that_are_not_known_are_refused_unrepeated(fact: Fact, text: str) -> None:
    with pytest.raises(DataError, match=f"^{fact}: ") as caught:
        translated(Meaning(), fact, text)
    assert text not in str(caught.value).removeprefix(fact)


def test_a_moment_counts_the_day() -> None:
    one = candidate(1, "gs", time="10", visit="2024-03-01").facts
    other = candidate(2, "gs", time="10", visit="2024-03-02").facts
    first, second = moment_s(one), moment_s(other)
    assert first is not None
    assert second is not None
    assert second - first == 86400


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0012", "12", True),
        ("P-0012", "p12", True),
        ("P 12", "P_12", True),
        ("MÜLLER1", "muller-01", True),
        ("12", "120", False),
        ("1-2", "12", True),
        ("P1", "Q1", False),
    ],
)
def test_ids_look_alike_without_zeros_case_and_separators(one: str, other: str, *, same: bool) -> None:
    assert (plain(one) == plain(other)) is same
    assert bool(look_alikes([one, other, "zzz"])) is same


def test_pseudonyms_depend_on_key_purpose_and_person() -> None:
    names = Pseudonyms(key=b"k" * 32, persons={"A": "x", "B": "x", "C": "y"})
    assert names.patient("A") == names.patient("B")
    assert len({names.patient(i) for i in ("A", "C", "D", "x", "person:x")}) == 5
    assert names.patient("A") != Pseudonyms(key=b"l" * 32, persons=names.persons).patient("A")
    assert names.exam("D", ("a", "bc")) != names.exam("D", ("ab", "c"))
    uid = names.uid("1.2.3")
    assert uid == names.uid("1.2.3") != names.uid("1.2.4")
    assert uid.startswith("2.25.")
    assert len(uid) <= 64
    assert names.uid("") == ""
