"""Objects as plain data: what a checkpoint stores instead of code.

A registered object is described by its class name and its constructor's arguments, which it keeps
as attributes of the same names. `build` is the inverse and calls registered classes only, so that
reading a file written by somebody else runs no code of theirs.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import gendae
from gendae.errors import reason

T = TypeVar("T", bound=type)
Plain = Any  # None, bool, int, float, str, or lists and dictionaries of them: what JSON can hold
REGISTRY: dict[str, type] = {}
#: What constructors raise for values of another type or of absurd size.
UNFIT = (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, MemoryError)


def register(cls: T) -> T:
    """Class decorator: instances can be described and built from plain data."""
    REGISTRY[cls.__name__] = cls
    return cls


def registered(name: str) -> type | None:
    """The registered class of this name; public ones of gendae are imported.

    Example:
        >>> registered("Toys2D").__name__, registered("Unheard")
        ('Toys2D', None)
    """
    if name not in REGISTRY and name in gendae.__all__:
        getattr(gendae, name)

    return REGISTRY.get(name)


def import_public() -> None:
    """Import all public names, so that a parser knows every class by its bare name."""
    for name in gendae.__all__:
        getattr(gendae, name)


def _parameters(cls: type) -> list[inspect.Parameter]:
    return list(inspect.signature(cls).parameters.values())


def arguments(obj: object) -> dict[str, Plain]:
    """Constructor arguments of `obj` as plain data, by name, without its class's UNDESCRIBED ones.

    An object keeps an argument under the argument's name, or as given_NAME where the constructor
    stores something derived from it under that name.
    """
    skip = getattr(obj, "UNDESCRIBED", ())
    names = [p.name for p in _parameters(type(obj)) if p.name not in skip]
    return {name: describe(_kept_argument(obj, name)) for name in names}


def _kept_argument(obj: object, name: str) -> Any:  # noqa: ANN401 - any argument
    given = f"given_{name}"
    if hasattr(obj, given):
        return getattr(obj, given)

    return getattr(obj, name)


def describe(obj: object) -> Plain:
    """Plain data from which `build` makes an equal object.

    Raises:
        ValueError: where `obj` holds something that is neither plain nor registered.

    Example:
        >>> from gendae.corruption import GaussianNoise
        >>> describe(GaussianNoise(0.5))
        {'type': 'GaussianNoise', 'sigma': 0.5, 'decay': 1.0, 'half_life': None}
        >>> build({'type': 'GaussianNoise', 'sigma': 0.5}).sigma
        0.5
    """
    if obj is None or isinstance(obj, bool | int | float | str):
        return obj

    if REGISTRY.get(type(obj).__name__) is type(obj):
        return {"type": type(obj).__name__, **arguments(obj)}

    if isinstance(obj, dict):
        return {str(key): describe(value) for key, value in obj.items()}
    if hasattr(obj, "__iter__"):
        return [describe(item) for item in obj]

    raise ValueError(f"{obj!r} cannot be stored: register its class with gendae.spec.register")


def build(data: Plain) -> Any:  # noqa: ANN401 - any registered class
    """The object that `data` describes; anything that is not a description is returned unchanged.

    Raises:
        ValueError: for an unknown type name, arguments its constructor does not take, and data too
            deep to follow.
    """
    try:
        return _build(data)
    except RecursionError:
        raise ValueError("the description is nested too deep to be followed") from None


def _build(data: Plain) -> Any:  # noqa: ANN401
    if isinstance(data, list | tuple):
        return type(data)(_build(item) for item in data)
    if not isinstance(data, dict):
        return data
    if not isinstance(data.get("type"), str):
        return {key: _build(value) for key, value in data.items()}

    cls = registered(data["type"])
    if cls is None:
        known = sorted({*REGISTRY, *gendae.__all__})
        raise ValueError(f"unknown type {data['type']!r}; known are {', '.join(known)}")

    values = {key: _build(value) for key, value in data.items() if key != "type"}
    return _call(cls, values)


def _call(cls: Callable, values: dict[str, Any]) -> Any:  # noqa: ANN401
    positional: list[Any] = []
    try:
        for parameter in _parameters(cls):
            if parameter.kind is parameter.VAR_POSITIONAL:
                positional = list(values.pop(parameter.name, []))

        return cls(*positional, **values)
    except UNFIT as error:  # a description is data, and may say anything
        raise ValueError(f"{cls.__name__}: {reason(error)}") from None
    except ValueError as error:
        message = str(error)
        names_its_source = any(name in message for name in (cls.__name__, *values))
        if type(error) is not ValueError or names_its_source:
            raise

        # Python's own words name no argument
        raise ValueError(f"{cls.__name__}: {reason(error)}") from None
