"""What the pictures show against the manifest: copies, swapped kinds, text, ROIs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from statistics import median

from client.data.doctor.findings import Finding, Kind
from client.data.doctor.hashes import alike
from client.data.doctor.looks import Look, Place

GREY, DOPPLER = "gs", "doppler"
DARK, FLAT = 32, 12
"""Shades of 255. Of 518 real frames of ten machines none is darker than 92, nor flatter than 51."""
GRAIN = 0.25
"""Of the logarithm of changes downwards over those across; of the same frames it is 0.28 and more."""


def findings(looks: Sequence[Look], *, flow: Collection[str]) -> Iterator[Finding]:
    """What is wrong with the pictures.

    Args:
        looks: at every picture.
        flow: exams in which some reader saw flow.
    """
    for seen in looks:
        place = seen.place
        if not seen.roi_inside:
            yield at(
                place, "roi", f"{place.image}: the ROI reaches out of {seen.size[0]} x {seen.size[1]} pixels"
            )
        if seen.text_in_roi:
            yield at(place, "text", f"{place.image}: {seen.text_in_roi} places in or near the ROI")
        elif seen.text_outside:
            what = f"{place.image}: {seen.text_outside} places away from the ROI"
            yield at(place, "text", what, problem=False)
        yield from _shades(seen)
        for guess in seen.guesses:
            yield at(place, "guess", f"{place.image}, {place.path}: {guess}", problem=False)
    yield from _turned(looks)
    yield from _duplicates(looks)
    yield from _copies(looks)
    yield from _swapped(looks, flow)


def at(place: Place, check: Kind, what: str, *, problem: bool = True) -> Finding:
    """A finding on one picture."""
    return Finding(check=check, problem=problem, line=place.line, exam_id=place.exam_id, what=what)


def _shades(seen: Look) -> Iterator[Finding]:
    place = seen.place
    if not seen.roi_inside:
        return
    if seen.brightest < DARK:
        what = f"hardly a pixel of the ROI is brighter than {seen.brightest:.0f} of 255"
        yield at(place, "dark", f"{place.image}: {what}")
    elif seen.spread < FLAT:
        yield at(
            place, "flat", f"{place.image}: nearly all of the ROI is within {seen.spread:.0f} of 255 shades"
        )


def _turned(looks: Sequence[Look]) -> Iterator[Finding]:
    """Pictures whose sides are those of most others exchanged, or whose speckle is drawn out the other way."""
    for image in dict.fromkeys(seen.place.image for seen in looks):
        mine = [seen for seen in looks if seen.place.image == image]
        usual_grain = median(seen.grain for seen in mine)
        sizes = Counter(seen.size for seen in mine)
        for seen in mine:
            width, height = seen.size
            if width != height and sizes[height, width] > sizes[width, height]:
                what = (
                    f"{width} x {height} pixels, where {sizes[height, width]} others are {height} x {width}"
                )
            elif usual_grain > GRAIN and seen.grain < -GRAIN / 2:
                what = "its speckle is drawn out downwards, of most others across"
            else:
                continue
            yield at(seen.place, "turned", f"{image}: {what}", problem=False)


def _duplicates(looks: Sequence[Look]) -> Iterator[Finding]:
    first: dict[str, Place] = {}
    for seen in looks:
        place, other = seen.place, first.setdefault(seen.digest, seen.place)
        if other is not place:
            yield at(place, "duplicate", f"{place.image}: the pixels of {other.image} in line {other.line}")


def _copies(looks: Sequence[Look]) -> Iterator[Finding]:
    """Pictures of one kind at two patients; a patient's own may well look alike."""
    for image in dict.fromkeys(seen.place.image for seen in looks):
        mine = [seen for seen in looks if seen.place.image == image]
        for i, j in alike([seen.likeness for seen in mine]):
            one, other = mine[i], mine[j]
            if one.place.patient_id != other.place.patient_id and one.digest != other.digest:
                what = f"{image}: looks like line {one.place.line}, of another patient"
                yield at(other.place, "copy", what)


def _swapped(looks: Sequence[Look], flow: Collection[str]) -> Iterator[Finding]:
    pairs: dict[tuple[int, str], dict[str, Look]] = {}
    for seen in looks:
        pairs.setdefault((seen.place.line, seen.place.exam_id), {})[seen.place.image] = seen
    for pair in pairs.values():
        grey, doppler = pair.get(GREY), pair.get(DOPPLER)
        if grey is not None and grey.coloured:
            bare = doppler is not None and not doppler.coloured
            yield at(grey.place, "swapped", "gs shows colour" + (", doppler none" if bare else ""))
        elif doppler is not None and not doppler.coloured_anywhere:
            seen_flow = doppler.place.exam_id in flow
            what = "doppler shows no colour at all" + (", and a reader saw flow" if seen_flow else "")
            yield at(doppler.place, "swapped", what, problem=seen_flow)
