"""What ``--jaxtyping-packages`` puts before each function and dataclass of the product: the same checks, cheaper.

jaxtyping's own decorator builds two checks when a function is defined, nested ones at each call of what surrounds
them, binds each call's arguments once more, and checks them twice: half the time of a training test. Here a check is
built when a function is first called, once for all closures of the same code, and every argument and result is looked
at once. What names no array needs no scope for its axes. As there, a hint that names what only type checkers import
says nothing.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.door import die_if_unbearable
from numpy.typing import ArrayLike

_TOLD = BeartypeConf(violation_type=jaxtyping.TypeCheckError)
"""What does not fit raises what it would raise there, a ``TypeError``."""
_AXES = jaxtyping.jaxtyped("context")
"""Within it, an axis's name stands for one number."""
_OF_CODE: dict[CodeType, tuple[inspect.Signature, dict[str, Any]]] = {}


def install() -> None:
    """Let modules imported from now on be checked by :func:`checked`."""
    setattr(jaxtyping, "jaxtyped", checked)  # noqa: B010  # mypy knows the library's own alone


def checked(*, typechecker: object = None) -> Callable[[Any], Any]:
    """Decorator of a function, a method of any kind, or a class: it changes ``__init__`` of a dataclass.

    Args:
        typechecker: what jaxtyping would check with; here it is beartype in any case.
    """

    def decorate(what: Any) -> Any:
        match what:
            case type():
                if "__dataclass_fields__" in vars(what) and isinstance(
                    vars(what).get("__init__"), FunctionType
                ):
                    setattr(what, "__init__", decorate(vars(what)["__init__"]))  # noqa: B010
                return what
            case classmethod() | staticmethod():
                return type(what)(decorate(what.__func__))
            case property():
                return property(*(part and decorate(part) for part in (what.fget, what.fset, what.fdel)))
        return _function(what) if what.__annotations__ else what

    return decorate


def _function(function: FunctionType) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):
        return _beartype(function)
    if "<locals>" in function.__qualname__ or inspect.isgeneratorfunction(function):
        return _one_by_one(function)
    return _at_first_call(function)


def _at_first_call(function: FunctionType) -> Callable[..., Any]:
    check: Callable[..., Any] | None = None

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal check
        if check is None:
            function.__annotations__ = hints = _hints(function)
            made = _beartype(function)
            # Whole before other threads see it: without its scope it would bind the axes of whoever called.
            check = _with_axes(made) if any(map(_names_array, hints.values())) else made
        return check(*args, **kwargs)

    return wrapped


def _beartype(function: FunctionType) -> Callable[..., Any]:
    check: Callable[..., Any] = beartype(conf=_TOLD)(function)
    return check


def _with_axes(check: Callable[..., Any]) -> Callable[..., Any]:
    def scoped(*args: Any, **kwargs: Any) -> Any:
        with _AXES:
            return check(*args, **kwargs)

    return scoped


def _one_by_one(function: FunctionType) -> Callable[..., Any]:
    """A closure, of which there are many, or a generator, whose values are not looked at."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        signature, hints = _of_code(function)
        where = f"{function.__module__}.{function.__qualname__}()"
        given = signature.bind(*args, **kwargs).arguments
        with _AXES:
            for name, value in given.items():
                die_if_unbearable(
                    value,
                    hints.get(name, object),
                    conf=_TOLD,
                    exception_prefix=f"{where} parameter {name} ",
                )
            result = function(*args, **kwargs)
            die_if_unbearable(
                result, hints.get("return", object), conf=_TOLD, exception_prefix=f"{where} return "
            )
        return result

    return wrapped


def _of_code(function: FunctionType) -> tuple[inspect.Signature, dict[str, Any]]:
    """How it is called, and name -> hint of what is looked at: what closures of the same code share."""
    if function.__code__ not in _OF_CODE:
        signature = inspect.signature(function)
        kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
        hints = {name: _of_all(hint, kinds.get(name)) for name, hint in _hints(function).items()}
        _OF_CODE[function.__code__] = signature, hints
    return _OF_CODE[function.__code__]


def _of_all(hint: Any, kind: Any) -> Any:
    """The hint of one argument, or of all that ``*`` or ``**`` collect."""
    if isinstance(hint, typing.ParamSpecArgs | typing.ParamSpecKwargs):
        return object
    if kind is inspect.Parameter.VAR_POSITIONAL:
        return tuple[hint, ...]
    return dict[str, hint] if kind is inspect.Parameter.VAR_KEYWORD else hint


def _hints(function: FunctionType) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def one() -> None:
        pass

    for name, hint in function.__annotations__.items():
        one.__annotations__ = {name: hint}
        try:
            found |= typing.get_type_hints(one, function.__globals__, include_extras=True)
        except NameError:
            found[name] = Any
        if (
            found[name] == ArrayLike
        ):  # nearly everything; finding that out takes longer than most of what is asked
            found[name] = Any
    return found


def _names_array(hint: Any) -> bool:
    if isinstance(hint, list):  # arguments of a Callable
        return any(map(_names_array, hint))
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_names_array, typing.get_args(hint)))
