"""What could be the source of each fact in an export's names and tags, and which facts nothing tells.

Only words of the closed list (:data:`client.data.ingest.facts.WORDS`), DICOM's own elements and dates are
recognised. Who the patient is cannot be known from a name, so that it is always marked to be checked; what has no
source stays a gap.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

from client.data.ingest.facts import WORDS, translated
from client.data.ingest.mapping import USUAL, Fact, Part, Source
from client.data.ingest.mapping import Mapping as Meaning
from client.data.ingest.samples import Sample
from common.errors import DataError

PROPOSED: tuple[Fact, ...] = (
    "patient_id", "visit", "time", "side", "joint", "digit", "view", "device", "image", "age", "sex",
)  # fmt: skip
TEXTS: tuple[Source, ...] = (
    "tag:SeriesDescription", "tag:ProtocolName", "tag:BodyPartExamined", "tag:StudyDescription", "name",
)  # fmt: skip
"""Where words are looked for."""
FEWEST = 0.25
"""Share of the DICOM files, or of the others, that must have a word in a text, or else it stands there by chance."""
MOST_TORN = 0.1
"""Share of files in which a text says two things, or contradicts an earlier source, above which it is left out."""
NO_DOPPLER = "a Doppler picture without flow would be taken for a grey-scale one"
DATE = r"(?<!\d)((?:19|20)\d\d(?:(?:0\d|1[0-2])(?:[0-2]\d|3[01])|-\d\d-\d\d)|\d\d\.\d\d\.(?:19|20)\d\d)(?!\d)"
CLOCK = r"(?<!\d)(?:19|20)\d{6}[_T -]?((?:[01]\d|2[0-3])[0-5]\d[0-5]\d)(?!\d)"
FINGER = r"(?:MCP|PIP|DIP|MTP)"
DIGITS = (rf"{FINGER} ?([1-5])(?!\d)", rf"{FINGER}[ _.-]*(?:D|dig|digit)[ _.-]?([1-5])(?!\d)")
LOOSE_DIGIT = rf"{FINGER}[_.-]([1-5])(?!\d)"
State = Literal["found", "check", "gap"]
Origin = Source | Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """What is proposed for one fact.

    Attributes:
        fact: which.
        sources: where it comes from; none in a gap.
        files: how many of the files that were looked at have it.
        state: ``check``: found, but may be something else; ``gap``: nothing tells.
        why: in words, nothing of a name or a value in them.
        hints: what could be its source, for a person to choose from.
    """

    fact: Fact
    sources: tuple[Origin, ...]
    files: int
    state: State
    why: str
    hints: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A possible source: what it says of which file, and what is doubtful about it."""

    source: Origin
    said: Mapping[int, str]
    doubt: str = ""


def propose(samples: Sequence[Sample]) -> tuple[Proposed, ...]:
    """A proposal for each fact that names and tags can tell.

    Args:
        samples: files of the export, at least one.
    """
    return tuple(_PROPOSALS.get(fact, _usual)(fact, samples) for fact in PROPOSED)


def _usual(fact: Fact, samples: Sequence[Sample]) -> Proposed:
    """From the elements of DICOM that are meant for it."""
    return _chosen(fact, samples, list(_tags(fact, samples, USUAL.get(fact, ()))))


def _of_the_patient(fact: Fact, samples: Sequence[Sample]) -> Proposed:
    """Of the patient, not of the picture: proposed where a tag has it, and taken over if a person leaves it in."""
    source: Source = "tag:PatientAge" if fact == "age" else "tag:PatientSex"
    told = _chosen(fact, samples, list(_tags(fact, samples, [source])))
    if not told.sources:
        return told
    kept = "by decade, for results by age" if fact == "age" else "for results by sex"
    return replace(told, state="check", why=f"{told.why}; kept {kept}: take the line out if you want none")


def _words(fact: Fact, samples: Sequence[Sample]) -> Proposed:
    """From the elements that are meant for it, and from words in texts and names."""
    found = [*_tags(fact, samples, USUAL.get(fact, ()))]
    for of in TEXTS:
        words = _seen_words(fact, samples, of)
        if words:
            found += _parts(fact, samples, of, [_pattern(fact, words)])
    return _chosen(fact, samples, found)


def _visit(fact: Fact, samples: Sequence[Sample]) -> Proposed:
    found = list(_tags(fact, samples, USUAL[fact]))
    if not found:
        others: tuple[Source, ...] = ("tag:SeriesDate", "tag:AcquisitionDate", "tag:ContentDate")
        found = list(_tags(fact, samples, others))
    doubt = "a date in a name may be one of birth"
    return _chosen(fact, samples, [*found, *_parts(fact, samples, "name", [DATE], doubt=doubt)])


def _time(fact: Fact, samples: Sequence[Sample]) -> Proposed:
    doubt = "six digits after a date were taken for a time"
    found = [*_tags(fact, samples, USUAL[fact]), *_parts(fact, samples, "name", [CLOCK], doubt=doubt)]
    return _chosen(fact, samples, found)


def _digit(fact: Fact, samples: Sequence[Sample]) -> Proposed:
    found: list[_Candidate] = []
    for of in TEXTS:
        mine = list(_parts(fact, samples, of, DIGITS))
        doubt = "the number after a joint may be that of a picture"
        found += mine or _parts(fact, samples, of, [LOOSE_DIGIT], doubt=doubt)
    return _chosen(fact, samples, found)


def _image(fact: Fact, samples: Sequence[Sample]) -> Proposed:
    told = _words(fact, samples)
    without = sum(not sample.regions for sample in samples)
    if told.sources:
        return told
    if not without:
        return Proposed(fact=fact, sources=(), files=len(samples), state="found", why="by the region tag")
    why = f"{without} of {len(samples)} files have no region tag: there colour decides, and {NO_DOPPLER}"
    return Proposed(fact=fact, sources=(), files=len(samples) - without, state="gap", why=why)


def _patient(fact: Fact, samples: Sequence[Sample]) -> Proposed:
    """The element, and for files without it the part of their names that could be it: if it is one, with a number."""
    tags = list(_tags(fact, samples, USUAL[fact]))
    rest = [sample for i, sample in enumerate(samples) if not any(i in each.said for each in tags)]
    places = list(_places(rest)) if len(rest) > 1 else []
    if len(places) == 1 and all(re.search(r"\d", value) for value in _values(places[0], rest)):
        doubt = "a part of the name that several files share was taken for the patient"
        tags += _parts(fact, samples, "name", places, doubt=doubt)
        places = []
    told = _chosen(fact, samples, tags)
    ids = Counter(word for each in tags for word in each.said.values())
    why, state = told.why, told.state
    if len(ids) == 1 < len(samples):
        why, state = f"{why}; all files have the same: was the export made anonymous?", "check"
    elif 1 < len(samples) == len(ids):
        why, state = f"{why}; no two files have the same: is it the patient?", "check"
    if rest and not any(isinstance(each, Part) for each in told.sources):
        why, state = f"{why}; {len(places) or 'no'} parts of names could be it", "gap"
    hints = tuple(Part(of="name", pattern=place) for place in places)
    return Proposed(fact=fact, sources=told.sources, files=told.files, state=state, why=why, hints=hints)


_PROPOSALS: Mapping[Fact, Callable[[Fact, Sequence[Sample]], Proposed]] = {
    "patient_id": _patient,
    "visit": _visit,
    "time": _time,
    "side": _words,
    "joint": _words,
    "digit": _digit,
    "view": _words,
    "image": _image,
    "age": _of_the_patient,
    "sex": _of_the_patient,
}


def _places(samples: Sequence[Sample]) -> Iterator[str]:
    """Patterns of the parts of names that could be the patient: some values in several files, none known."""
    paths = [PurePosixPath(sample.name) for sample in samples]
    mark = next((each for each in "_ " if sum(each in path.stem for path in paths) > len(paths) / 2), "-")
    patterns = [r"^([^/]+)/"] if all(len(path.parts) > 1 for path in paths) else []
    fewest = min(len(path.stem.split(mark)) for path in paths)
    for number in range(fewest):
        before = f"(?:[^/{mark}]+{mark}){{{number}}}" if number else ""
        last = number == fewest - 1
        patterns.append(
            rf"(?:^|/){before}([^/.{mark}]+)" + ("[^/]*$" if last else f"[^/{mark}]*{mark}[^/]*$")
        )
    for pattern in patterns:
        values = Counter(_values(pattern, samples))
        if values.total() == len(samples) and 1 < len(values) < len(samples) and not _known(values):
            yield pattern


def _values(pattern: str, samples: Sequence[Sample]) -> list[str]:
    found = (re.search(pattern, sample.name, re.IGNORECASE) for sample in samples)
    return [match[1] for match in found if match]


def _known(values: Mapping[str, int]) -> bool:
    """Whether most of these texts are words, dates or joints."""
    plain = {word for words in WORDS.values() for word in words}
    known = re.compile(rf"{DATE}|{FINGER}\d?", re.IGNORECASE)
    return (
        sum(value.casefold() in plain or bool(known.fullmatch(value)) for value in values) > len(values) / 2
    )


def _tags(fact: Fact, samples: Sequence[Sample], sources: Sequence[Origin]) -> Iterator[_Candidate]:
    for source in sources:
        if isinstance(source, Part):
            continue
        said = {
            i: word for i, sample in enumerate(samples) if (word := said_by(fact, text_of(sample, source)))
        }
        if said:
            yield _Candidate(source=source, said=said)


def _parts(
    fact: Fact, samples: Sequence[Sample], of: Source, patterns: Sequence[str], *, doubt: str = ""
) -> Iterator[_Candidate]:
    """Patterns that match often enough, and say one thing of nearly each file."""
    for pattern in patterns:
        said: dict[int, str] = {}
        torn = 0
        for i, sample in enumerate(samples):
            texts = re.findall(pattern, text_of(sample, of), re.IGNORECASE)
            words = [word for text in texts if (word := said_by(fact, text))]
            if words:
                said[i] = words[0]
                torn += len(set(words)) > 1
        often = fact == "digit" or _often(samples, said)
        if said and often and torn <= MOST_TORN * len(said):
            two = f"in {torn} files it says two things, and the first counts" if torn else ""
            what = "; ".join(filter(None, (doubt, two)))
            yield _Candidate(source=Part(of=of, pattern=pattern), said=said, doubt=what)


def _chosen(fact: Fact, samples: Sequence[Sample], found: Sequence[_Candidate]) -> Proposed:
    """Those that fit together, the first before the later."""
    said: dict[int, str] = {}
    sources: list[Origin] = []
    doubts: list[str] = []
    for each in found:
        both = said.keys() & each.said.keys()
        against = (
            0 if fact in ("patient_id", "time", "device") else sum(said[i] != each.said[i] for i in both)
        )
        of = each.source.of if isinstance(each.source, Part) else each.source
        if against > MOST_TORN * len(both):
            doubts.append(f"{of} says otherwise in {against} of {len(both)} files and is left out")
        elif each.said.keys() - said.keys() or fact in ("side", "image", "visit"):
            sources.append(each.source)
            confirmed = bool(both) and all(said[i] == each.said[i] for i in both)
            doubts += [each.doubt] if each.doubt and not confirmed else []
            doubts += [f"{of} contradicts it in {against} files, which are then left out"] if against else []
            said = {**each.said, **said}
    if not sources:
        return Proposed(
            fact=fact, sources=(), files=0, state="gap", why="no tag and no part of a name tells it"
        )
    some = f"in {len(said)} of {len(samples)} files" if len(said) < len(samples) else "in all files"
    state: State = "check" if doubts else "found"
    return Proposed(
        fact=fact, sources=tuple(sources), files=len(said), state=state, why="; ".join([some, *doubts])
    )


def _often(samples: Sequence[Sample], said: Mapping[int, str]) -> bool:
    """Whether it is said of enough of the DICOM files, or of the others."""
    alike = [{i for i, sample in enumerate(samples) if sample.dicom is kind} for kind in (True, False)]
    return any(len(group & said.keys()) >= max(FEWEST * len(group), 1) for group in alike if group)


def _seen_words(fact: Fact, samples: Sequence[Sample], of: Source) -> list[str]:
    """Known words that stand in a text, the longest first; a lone B is no word for a kind of picture."""
    known = [word for word, ours in WORDS[fact].items() if ours and word != "b"]
    pattern = re.compile(_pattern(fact, sorted(known, key=len, reverse=True)), re.IGNORECASE)
    found = (word for sample in samples for word in pattern.findall(text_of(sample, of)))
    seen = {word.casefold(): word for word in found}
    return sorted(seen.values(), key=lambda word: (-len(word), word))


def _pattern(fact: Fact, words: Sequence[str]) -> str:
    """Words that stand alone; a number may follow a joint and a kind of picture."""
    after = "[A-Za-z]" if fact in ("joint", "image") else "[A-Za-z0-9]"
    return f"(?<![A-Za-z0-9])({'|'.join(map(re.escape, words))})(?!{after})".replace("\\ ", " ")


def text_of(sample: Sample, source: Source) -> str:
    """What a name or a tag says, in the hospital's words; empty where it says nothing."""
    kind, _, keyword = source.partition(":")
    return sample.name if kind == "name" else sample.tags.get(keyword, "")


def said_by(fact: Fact, text: str) -> str | None:
    """The same in our words; ``None`` for what is not known."""
    if not text.strip():
        return ""
    try:
        return translated(Meaning(), fact, text.strip())
    except DataError:
        return None
