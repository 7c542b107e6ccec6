"""What every section of a settings file is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_serializer
from pydantic_core import PydanticCustomError

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
