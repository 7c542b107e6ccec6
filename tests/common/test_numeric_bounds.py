import math
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from client.data.ingest.mapping import Mapping as IngestMapping
from client.site.site import SiteFile
from common.ensemble.heatmaps import HeatmapSettings
from common.sections.section import Section
from common.settings import Settings
from server.federation.home import Federation
from simulation.studies.study import StudyFile

ROOTS: tuple[type[Section], ...] = (Settings, SiteFile, IngestMapping, StudyFile, Federation, HeatmapSettings)
EXTREMES = (math.nan, math.inf, -math.inf, float("1e400"), 1e308, -1e308, 10**30, -(10**30), 2**63, -1e-300)
UNBOUNDED: Mapping[str, str] = {
    "StudyFile.sweep": "values of any setting, which has bounds of its own: every run's configuration is read at once"
}
"""``Section.field`` -> why it needs no bounds."""
Wrap = Callable[[Any], Any]


def _at(place: int, count: int, wrap: Wrap) -> Wrap:
    return lambda value: wrap([value if i == place else 1 for i in range(count)])


def numbers(annotation: Any, wrap: Wrap = lambda value: value, limits: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Every number in a type: its kind, its limits, and how a value of it stands in the whole."""
    if annotation in (int, float):
        yield annotation, limits, wrap
        return
    arguments = get_args(annotation)
    if isinstance(annotation, type) and not arguments:
        return
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = arguments
        found = [one for item in more for one in (item.metadata if isinstance(item, FieldInfo) else [item])]
        yield from numbers(inner, wrap, (*found, *limits))
    elif origin in (Union, UnionType):
        for inner in arguments:
            if inner is not NoneType:
                yield from numbers(inner, wrap, limits)
    elif origin is tuple:
        parts = arguments[:1] if Ellipsis in arguments else arguments
        for place, inner in enumerate(parts):
            yield from numbers(inner, _at(place, len(parts), wrap))
    elif origin is not Literal and len(arguments) == 2:
        yield from numbers(arguments[1], lambda value: wrap({"a": value}))


def sections() -> list[type[Section]]:
    """Every section of every file that people write."""
    found: list[type[Section]] = []

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if annotation not in found:
                assert issubclass(annotation, Section)
                found.append(annotation)
                for field in annotation.model_fields.values():
                    visit(field.annotation)
            return
        for inner in get_args(annotation):
            visit(inner)

    for root in ROOTS:
        visit(root)
    return found


FIELDS = [
    pytest.param(section, name, kind, limits, wrap, id=f"{section.__name__}.{name}")
    for section in sections()
    for name, field in section.model_fields.items()
    for kind, limits, wrap in numbers(field.annotation, limits=tuple(field.metadata))
]


def test_the_walk_finds_what_is_known_to_be_there() -> None:
    found = {str(param.id) for param in FIELDS}
    assert len(found) > 80
    assert found >= {
        "Settings.seed", "FederationSettings.rounds", "PublicSettings.alpha", "PublicSettings.weights",
        "PrivacySettings.class_weights", "DeviceSection.mask", "AugmentationSettings.grey_scale", "Policy.colluders",
        "ProxySection.port", "StudyFile.seeds", "HeatmapSettings.noise_sigma", "AndersenSettings.batch_sizes",
    }  # fmt: skip


@pytest.mark.parametrize(("section", "name", "kind", "limits", "wrap"), FIELDS)
def test_a_number_has_bounds_and_extremes_are_refused(
    section: type[Section], name: str, kind: type, limits: tuple[Any, ...], wrap: Wrap
) -> None:
    if f"{section.__name__}.{name}" in UNBOUNDED:
        return
    least = [getattr(one, end) for one in limits for end in ("ge", "gt") if hasattr(one, end)]
    most = [getattr(one, end) for one in limits for end in ("le", "lt") if hasattr(one, end)]
    assert least and most, "a number without bounds"
    assert all(map(math.isfinite, [*least, *most]))
    assert max(map(abs, [*least, *most])) < 2**63 + 1
    for extreme in EXTREMES:
        if extreme == -1e-300 and min(least) < 0:
            continue
        with pytest.raises(ValidationError) as refused:
            section.model_validate({name: wrap(extreme)})
        assert any(error["loc"][0] == name for error in refused.value.errors()), extreme
    del kind
