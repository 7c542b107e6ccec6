"""What every section of a settings file is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from common.errors import ConfigurationError
from common.extensions import is_object_path
from common.text.redaction import redacted

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64)]
"""It becomes a part of the names of files."""
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1, le=1_000_000)]
"""How many there are of something; more than a million is a slip of the pen."""
Rate = Annotated[float, Field(gt=1e-12, le=1e6)]
"""A positive factor, far from where doubles overflow or vanish."""
Seconds = Annotated[float, Field(gt=0, le=10 * 365 * 24 * 3600.0)]
Bytes = Annotated[int, Field(ge=1, le=2**50)]
Share = Annotated[float, Field(ge=1e-30, lt=1)]
Threads = Annotated[int, Field(ge=1, le=4096)]
LAST_SEED = 2**63 - 1
Seed = Annotated[int, Field(ge=0, le=LAST_SEED)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Criterion: TypeAlias = Literal["youden", "accuracy", "kappa"]
"""What a threshold of probabilities makes largest."""
Backbone = Annotated[str, Field(pattern=r"^(small|resnet18|mobilenet_v2|vgg16|inception_v3|[\w.]+:\w+)$")]


Option = (
    bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | Annotated[float, Field(ge=-1e12, le=1e12)] | str
)
Options = dict[Name, Option]
"""Settings of somebody's own code, by name; what they mean is for that code to say."""


def secret(check: Callable[[str], str | None]) -> BeforeValidator:
    """Of a :class:`pydantic.SecretStr`: refuses what cannot be one, and never repeats it.

    Args:
        check: says what was expected; ``None``: it is well.
    """

    def checked(given: object) -> object:
        value = given.get_secret_value() if isinstance(given, SecretStr) else given
        problem = check(value) if isinstance(value, str) else "expected a text"
        if problem:
            raise PydanticCustomError("secret", "{problem}", {"problem": problem})
        return given

    return BeforeValidator(checked)


class Section(BaseModel):
    """A frozen section of the configuration; an unknown key is an error, and so are NaN and infinity.

    Every number has a least and a largest value, so that a slip is caught before anything is done with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GrowingSection(Section):
    """A section that got fields after some of it had been hashed or signed.

    Those in ``later`` are left out where they have their default, so that what uses none of them has the bytes that
    it had before there were any.
    """

    later: ClassVar[tuple[str, ...]]

    @model_serializer(mode="wrap")
    def _without_unused_later_fields(self, handler: Callable[[Any], Any]) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        for name in self.later:
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if getattr(self, name) == default:
                fields.pop(name, None)
        return fields


AnySection = TypeVar("AnySection", bound=Section)


def section(kind: type[AnySection], values: Mapping[str, object], *, source: str) -> AnySection:
    """A section from a document, a command's options or a caller's arguments.

    Args:
        kind: of section.
        values: by field.
        source: what they are of, in error messages.

    Raises:
        ConfigurationError: listing every unknown name and every value out of range at once.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(describe(error, source=source, kind=kind)) from None


def describe(error: ValidationError, *, source: str, kind: type[BaseModel] | None = None) -> str:
    """Every unknown key and every value out of range, one line each.

    Args:
        error: of pydantic.
        source: what cannot be used.
        kind: of model that it was to be; then an unknown key is set beside those that may be meant.
    """
    known = list(_paths(kind)) if kind is not None else []
    lines = [_describe(detail, known) for detail in error.errors()]
    return redacted(f"{source} cannot be used:\n" + "\n".join(lines))


def _paths(kind: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every setting by its full name, without the names that are the user's own."""
    for name, field in kind.model_fields.items():
        yield above + name
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _paths(part, f"{above}{name}.")


def _meant(where: str, known: Sequence[str]) -> str:
    """Settings of this name in other sections, or else the nearest name."""
    name = where.rpartition(".")[2]
    others = sorted((path for path in known if path.endswith("." + name)), key=lambda path: path.count("."))
    near = others[:3] or get_close_matches(where, known, n=1, cutoff=0.85)
    return f": is {' or '.join(near)} meant?" if near else ""


def _describe(detail: Any, known: Sequence[str]) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "(top level)"
    if detail["type"] == "extra_forbidden":
        return f"  {where}: no such setting{_meant(where, known)}"
    if detail["type"] == "missing":
        return f"  {where}: is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "secret":
        return f"  {where}: {message}"
    if isinstance(detail["input"], dict):  # of a whole section, which says itself what came
        return f"  {where}: {message}"
    return f"  {where}: {message}, got {detail['input']!r:.80}"


def check_options(options: Options, name: str, where: str, of: str) -> None:
    """Whether settings of somebody's own code have a code of their own; raises ``ValueError`` for pydantic."""
    if options and not is_object_path(name):
        raise ValueError(
            f"{where} is for code of your own, but {of} is {name!r}: remove it, or name your own"
        )
