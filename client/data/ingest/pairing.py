"""Which pictures make an exam: a grey-scale one and the Doppler one that goes with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from client.data.ingest.facts import Facts, moment_s
from client.data.ingest.mapping import Fact, PairSection
from common.errors import DataError

NAMES = {
    "gs": "grey-scale", "doppler": "Doppler", "gs_clip": "moving grey-scale", "doppler_clip": "moving Doppler",
}  # fmt: skip
SHARED: tuple[Fact, ...] = ("patient_id", "visit", "side", "joint", "digit", "view")
"""Facts in which the pictures of an exam may not differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A picture that is ready to be part of an exam.

    Attributes:
        source: number of the file.
        panel: number of the scan on its screen.
        facts: what is known of it; ``image`` is always known.
        patient: pseudonym, so that two ids of a linked person are one.
    """

    source: int
    panel: int
    facts: Facts
    patient: str

    @property
    def image(self) -> str:
        """``gs`` or ``doppler``, of a clip ``gs_clip`` or ``doppler_clip``."""
        return self.facts["image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """An exam.

    Attributes:
        images: image -> its picture, in the order of the ``[pair]`` section.
        parts: what tells it from the patient's others.
    """

    images: Mapping[str, Candidate]
    parts: tuple[str, ...]

    def fact(self, name: Fact) -> str:
        """A fact of the exam, from the first of its pictures that has it."""
        return next((word for each in self.images.values() if (word := each.facts[name])), "")

    @property
    def patient(self) -> str:
        """The patient's pseudonym."""
        return next(iter(self.images.values())).patient


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpaired:
    """A picture without an exam, and why."""

    candidate: Candidate
    reason: str


def pair(
    candidates: Sequence[Candidate], rules: PairSection
) -> tuple[tuple[Paired, ...], tuple[Unpaired, ...]]:
    """Make exams.

    Pictures on one screen go together; then, among those that agree in ``rules.same``, the one with the other
    or, where there are several, those nearest in time. Each of ``rules.images`` is so paired with the first of them.

    Args:
        candidates: all pictures.
        rules: the ``[pair]`` section.

    Returns:
        The exams, and the pictures left over.
    """
    exams: list[Paired] = []
    left: list[Unpaired] = []
    groups: dict[tuple[str, ...], list[Candidate]] = {}
    for each in candidates:
        if each.image in rules.images:
            groups.setdefault(_key(each, rules), []).append(each)
        else:
            left.append(Unpaired(candidate=each, reason=f"{NAMES[each.image]} pictures are not asked for"))
    for key, members in groups.items():
        found, alone = _pairs(members, rules)
        left += alone
        number = 0
        for images in found:
            try:
                _check(images)
            except DataError as error:
                left += [Unpaired(candidate=each, reason=str(error)) for each in images.values()]
                continue
            number += 1
            exams.append(Paired(images=images, parts=(*key, str(number))))
    return tuple(exams), tuple(left)


def _key(candidate: Candidate, rules: PairSection) -> tuple[str, ...]:
    return tuple(candidate.patient if fact == "patient_id" else candidate.facts[fact] for fact in rules.same)


def _pairs(
    members: Sequence[Candidate], rules: PairSection
) -> tuple[list[dict[str, Candidate]], list[Unpaired]]:
    names: tuple[str, ...] = rules.images
    first, *others = names
    found = [{first: each} for each in members if each.image == first]
    left: list[Unpaired] = []
    for other in others:
        exam_of = {id(images[first]): images for images in found}
        pairs, alone = _two(
            [each for each in members if each.image == other or id(each) in exam_of], (first, other), rules
        )
        found = [{**exam_of[id(both[first])], **both} for both in pairs]
        for each in alone:
            lost = exam_of.get(id(each.candidate), {other: each.candidate})
            left += [Unpaired(candidate=candidate, reason=each.reason) for candidate in lost.values()]
    return found, left


def _two(
    members: Sequence[Candidate], names: tuple[str, str], rules: PairSection
) -> tuple[list[dict[str, Candidate]], list[Unpaired]]:
    """Pairs of the pictures of two images."""
    first, second = names
    found = list(_on_one_screen(members, names))
    used = {id(each) for images in found for each in images.values()}
    grey = [each for each in members if each.image == first and id(each) not in used]
    doppler = [each for each in members if each.image == second and id(each) not in used]
    if not grey or not doppler:
        return found, [_alone(each, names) for each in (*grey, *doppler)]
    timed = all(moment_s(each.facts) is not None for each in (*grey, *doppler))
    several = len(grey) + len(doppler) > 2
    if not timed and (several or rules.within_s is not None):
        reason = "several pictures could go together" if several else "[pair] within_s is set"
        reason += ", and their times are not known: name a source of time, or another fact in [pair] same"
        return found, [Unpaired(candidate=each, reason=reason) for each in (*grey, *doppler)]
    nearest = _nearest(grey, doppler, rules.within_s) if timed else [(grey[0], doppler[0])]
    found += [{first: one, second: other} for one, other in nearest]
    used = {id(each) for both in nearest for each in both}
    return found, [_alone(each, names) for each in (*grey, *doppler) if id(each) not in used]


def _on_one_screen(members: Sequence[Candidate], names: tuple[str, str]) -> Iterator[dict[str, Candidate]]:
    screens: dict[int, list[Candidate]] = {}
    for each in members:
        screens.setdefault(each.source, []).append(each)
    for panels in screens.values():
        if sorted(each.image for each in panels) == sorted(names):
            yield {each.image: each for each in sorted(panels, key=lambda each: names.index(each.image))}


def _nearest(
    grey: Sequence[Candidate], doppler: Sequence[Candidate], within_s: float | None
) -> list[tuple[Candidate, Candidate]]:
    """Pairs, each picture in one, the nearest in time first; in the order of the grey-scale pictures."""
    distances = sorted(
        (abs((moment_s(one.facts) or 0) - (moment_s(other.facts) or 0)), i, j)
        for i, one in enumerate(grey)
        for j, other in enumerate(doppler)
    )
    taken: dict[int, int] = {}
    for distance, i, j in distances:
        if i not in taken and j not in taken.values() and (within_s is None or distance <= within_s):
            taken[i] = j
    return [(grey[i], doppler[j]) for i, j in sorted(taken.items())]


def _alone(candidate: Candidate, names: tuple[str, str]) -> Unpaired:
    other = NAMES[names[1] if candidate.image == names[0] else names[0]]
    return Unpaired(candidate=candidate, reason=f"no {other} picture goes with it")


def _check(images: Mapping[str, Candidate]) -> None:
    one, *others = images.values()
    for other in others:
        for fact in SHARED:
            mine, theirs = (
                (each.patient if fact == "patient_id" else each.facts[fact]) for each in (one, other)
            )
            if mine and theirs and mine != theirs:
                raise DataError(f"its grey-scale and Doppler picture contradict each other: {fact}")
