"""What is known of a picture: from its tags, its name and the hospital's list, in our words.

What gets into the manifest is of a closed vocabulary, so that no free text of a hospital does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from typing import get_args

from client.data.ingest.mapping import Fact, Part, Source
from client.data.ingest.mapping import Mapping as Meaning
from common.errors import DataError

FACTS: tuple[Fact, ...] = get_args(Fact)
MUST_AGREE: tuple[Fact, ...] = ("visit", "side", "joint", "digit", "view", "image")
"""Facts of which no two sources may say different things."""
WORDS: Mapping[str, Mapping[str, str]] = {
    "side": {
        "l": "left", "left": "left", "li": "left", "links": "left", "lt": "left", "gauche": "left",
        "r": "right", "right": "right", "re": "right", "rechts": "right", "rt": "right", "droite": "right",
        "u": "", "b": "",
    },
    "joint": {
        "mcp": "MCP", "pip": "PIP", "dip": "DIP", "mtp": "MTP", "wrist": "wrist", "handgelenk": "wrist",
        "hg": "wrist", "knee": "knee", "elbow": "elbow", "ankle": "ankle", "shoulder": "shoulder", "hip": "hip",
    },
    "view": {
        view: view
        for surface in ("dorsal", "palmar", "volar", "radial", "ulnar")
        for view in (surface, f"{surface} longitudinal", f"{surface} transverse")
    },
    "diagnosis": {"ra+": "RA+", "ra-": "RA-", "psa": "PsA", "spa": "SpA"},
    "sex": {
        "f": "F", "female": "F", "w": "F", "weiblich": "F", "frau": "F", "femme": "F",
        "m": "M", "male": "M", "männlich": "M", "mann": "M", "homme": "M",
        "o": "other", "other": "other", "d": "other", "divers": "other", "u": "", "unknown": "",
    },
    "split": {"train": "train", "test": "test"},
    "image": {
        "gs": "gs", "gsus": "gs", "b": "gs", "bmode": "gs", "b-mode": "gs", "grey": "gs", "gray": "gs",
        "doppler": "doppler", "pd": "doppler", "cd": "doppler", "cf": "doppler", "pdus": "doppler",
        "cfm": "doppler", "colour": "doppler", "color": "doppler", "power": "doppler",
    },
}  # fmt: skip
"""Fact -> a hospital's word -> ours; empty: the word says nothing."""
DIGITS = r"(?:d|dig|digit)?\.?\s*([1-5])"
AGE = r"(\d{1,3})\s*([YMWD]?)"
PER_YEAR = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}
OLDEST_DECADE = 90
OLDEST = 130
DEVICE = r"[\w .+/()-]{1,64}"
Facts = Mapping[Fact, str]


def gather(
    meaning: Meaning, *, name: str, tags: Mapping[str, str], row: Mapping[str, str]
) -> dict[Fact, str]:
    """All facts of a picture, empty where no source has them.

    Args:
        meaning: the hospital's mapping.
        name: path of the file.
        tags: of the file.
        row: of the hospital's list.

    Raises:
        DataError: if a word is not known, or two sources contradict each other; no value is in the message.
    """
    facts: dict[Fact, str] = {}
    for fact in FACTS:
        found = [
            (source, translated(meaning, fact, text))
            for source, text in _texts(meaning, fact, name=name, tags=tags, row=row)
        ]
        said = [(source, word) for source, word in found if word]
        facts[fact] = said[0][1] if said else ""
        other = next((source for source, word in said if word != facts[fact]), None)
        if other is not None and fact in MUST_AGREE:
            raise DataError(f"{fact}: {said[0][0]} and {other} contradict each other")
    return facts


def translated(meaning: Meaning, fact: Fact, text: str) -> str:
    """A hospital's word in ours.

    Raises:
        DataError: if it is not known.
    """
    own = {word.casefold(): ours for word, ours in meaning.values.get(fact, {}).items()}
    if text.casefold() in own:
        return own[text.casefold()]
    return _CHECKS[fact](text) if fact in _CHECKS else _word(fact, text)


def _texts(
    meaning: Meaning, fact: Fact, *, name: str, tags: Mapping[str, str], row: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """What each source says, and its name; those that say nothing are left out."""
    for source in meaning.sources(fact):
        of = source.of if isinstance(source, Part) else source
        text = _text(of, name=name, tags=tags, row=row)
        if isinstance(source, Part):
            found = re.search(source.pattern, text, re.IGNORECASE)
            text = (found[1] or "") if found else ""
        if text.strip():
            yield of, text.strip()


def _text(source: Source, *, name: str, tags: Mapping[str, str], row: Mapping[str, str]) -> str:
    kind, _, value = source.partition(":")
    return {"name": name, "tag": tags.get(value, ""), "table": row.get(value, ""), "is": value}[kind]


def _word(fact: Fact, text: str) -> str:
    word = WORDS[fact].get(text.casefold())
    if word is None:
        raise DataError(f"{fact}: a word that is not known; say under [values.{fact}] what it means")
    return word


def _visit(text: str) -> str:
    """A day as ``2024-03-01``, from that, ``20240301``, ``01.03.2024``, or one of them with a time after it."""
    day = re.split(r"[T ]", text, maxsplit=1)[0]
    for form in ("%Y-%m-%d", "%Y%m%d", "%d.%m.%Y"):
        try:
            return datetime.strptime(day, form).date().isoformat()
        except ValueError:
            continue
    raise DataError("visit: expected a date as 2024-03-01, 20240301 or 01.03.2024")


def _time(text: str) -> str:
    """Seconds of the day, from DICOM's DT or TM, or ``12:30:59``, or a date and a time."""
    found = re.fullmatch(
        r"(?:\d{4}-?\d{2}-?\d{2}[T ]?)?(\d{2}):?(\d{2}):?(\d{2}(?:\.\d*)?)?(?:[+-]\d{4})?", text
    )
    if not found:
        return ""
    return str(int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3] or 0))


def _digit(text: str) -> str:
    found = re.fullmatch(DIGITS, text, re.IGNORECASE)
    if not found:
        raise DataError("digit: expected 1 to 5; say under [values.digit] what it means")
    return found[1]


def _age(text: str) -> str:
    """The first year of an age's decade, from years or DICOM's ``047Y``; 90 stands for all that is more.

    The manifest needs no more: results are told by decade, and the oldest are few.
    """
    found = re.fullmatch(AGE, text, re.IGNORECASE)
    years = int(found[1]) // PER_YEAR[found[2].upper()] if found else OLDEST + 1
    if years > OLDEST:
        raise DataError("age: expected whole years, or as DICOM has them: 047Y, 018M, 003W, 010D")
    return str(min(years // 10 * 10, OLDEST_DECADE))


def _device(text: str) -> str:
    if not re.fullmatch(DEVICE, text):
        raise DataError("device: expected at most 64 letters, digits and . + / ( ) -")
    return text


def _free(text: str) -> str:
    return text


_CHECKS: Mapping[Fact, Callable[[str], str]] = {
    "patient_id": _free,
    "series": _free,
    "pair": _free,
    "visit": _visit,
    "time": _time,
    "digit": _digit,
    "age": _age,
    "device": _device,
}


def moment_s(facts: Facts) -> float | None:
    """When a picture was taken, to compare with others; ``None`` where that is not known."""
    if not facts["time"]:
        return None
    day = date.fromisoformat(facts["visit"]).toordinal() if facts["visit"] else 0
    return day * 86400 + float(facts["time"])
