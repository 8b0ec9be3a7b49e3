"""Objects as plain data: what a checkpoint stores instead of code.

A registered object is described by its class name and its constructor's arguments, which it keeps
as attributes of the same names. `build` is the inverse and calls registered classes only, so that
reading a file written by somebody else runs no code of theirs.

Files outlive names. A renamed class keeps its former names as aliases, and a class whose arguments
were renamed turns the old ones into the present ones by a classmethod `upgrade`:

    @register(aliases=["FormerName"])
    class Name:
        @classmethod
        def upgrade(cls, arguments): ...

It gets a dictionary of its own with the arguments of a description, of any version, and returns
the present ones. With a key "type" they are the arguments of another class, which took over. It is
inherited like any method.

A class whose arguments can name code, such as the path of a function, has a classmethod
`check_description(arguments)`, which raises a ValueError for what only a user may name.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

import gendae
from gendae import checks
from gendae.errors import choice, reason, shortened

T = TypeVar("T", bound=type)
K = TypeVar("K")
Plain = Any  # None, bool, int, float, str, or lists and dictionaries of them: what JSON can hold
REGISTRY: dict[str, type] = {}
#: Registered classes by the names that they had in earlier versions.
ALIASES: dict[str, type] = {}
#: What constructors raise for values of another type or of absurd size.
UNFIT = (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, MemoryError)


@overload
def register(cls: T) -> T: ...


@overload
def register(*, aliases: Sequence[str]) -> Callable[[T], T]: ...


def register(cls: T | None = None, *, aliases: Sequence[str] = ()) -> T | Callable[[T], T]:
    """Class decorator, bare or called: instances can be described and built from plain data.

    Args:
        cls: the class; it keeps each argument of its constructor under the argument's name.
        aliases: its names in earlier versions, which old files still say.

    Example:
        >>> import gendae
        >>> @gendae.register(aliases=["Hue"])
        ... class Colour:
        ...     def __init__(self, rgb):
        ...         self.rgb = rgb
        ...
        ...     @classmethod
        ...     def upgrade(cls, arguments):                # `rgb` was once called `value`
        ...         if "value" in arguments:
        ...             arguments["rgb"] = arguments.pop("value")
        ...         return arguments
        >>> describe(build({"type": "Hue", "value": "red"}))
        {'type': 'Colour', 'rgb': 'red'}
    """

    def enter(cls: T) -> T:
        REGISTRY[cls.__name__] = cls
        ALIASES.update(dict.fromkeys(aliases, cls))
        return cls

    if cls is None:
        return enter
    return enter(cls)


def registered(name: str) -> type | None:
    """The registered class of this name, present or former; None if there is none.

    A public class of gendae's is imported where it was not yet. All of them are where nothing else
    has the name, since it may be the former name of any.

    Example:
        >>> registered("Toys2D").__name__, registered("Unheard")
        ('Toys2D', None)
    """
    if name not in REGISTRY and name in gendae.__all__:
        getattr(gendae, name)
    if name not in REGISTRY and name not in ALIASES:
        import_public()

    return REGISTRY.get(name) or ALIASES.get(name)


def import_public() -> None:
    """Import all public names, so that a parser knows every class by its bare name.

    Estimators are no parts of a configuration, and scikit-learn takes its time.
    """
    for name, home in gendae.HOME.items():
        if "estimators" not in (name, *home.split(".")):
            getattr(gendae, name)


def _parameters(cls: Callable[..., object]) -> list[inspect.Parameter]:
    """Those of the constructor; behind **options stand those of the class above."""
    parameters = list(inspect.signature(cls).parameters.values())
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    if len(named) == len(parameters) or not inspect.isclass(cls):
        return parameters

    holders = [base for base in cls.__mro__ if "__init__" in vars(base)]
    own = {p.name for p in named}
    above = [p for p in _parameters(holders[1]) if p.name not in own]
    return named + [p for p in above if p.kind is not p.VAR_POSITIONAL]


def arguments(obj: object, foreign: bool = False) -> dict[str, Plain]:
    """Constructor arguments of `obj` as plain data, by name, without its class's UNDESCRIBED ones.

    An object keeps an argument under the argument's name, or as given_NAME where the constructor
    stores something derived from it under that name.
    """
    skip = getattr(obj, "UNDESCRIBED", ())
    names = [p.name for p in _parameters(type(obj)) if p.name not in skip]
    return {name: describe(_kept_argument(obj, name), foreign) for name in names}


def _kept_argument(obj: object, name: str) -> Any:  # noqa: ANN401 - any argument
    given = f"given_{name}"
    if hasattr(obj, given):
        return getattr(obj, given)

    if not hasattr(obj, name):
        cls = type(obj).__name__
        raise ValueError(
            f"{cls} has no attribute {name!r}: arguments of a constructor are kept under their "
            "names, by which an object is saved and made again"
        )
    return getattr(obj, name)


def describe(obj: object, foreign: bool = False) -> Plain:
    """Plain data from which `build` makes an equal object.

    Args:
        obj: plain data, a registered object, or lists and dictionaries of them.
        foreign: describe objects of other classes by the class's name, from which nothing can be
            built; otherwise they are refused.

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
        return {"type": type(obj).__name__, **arguments(obj, foreign)}

    if isinstance(obj, dict):
        return {str(key): describe(value, foreign) for key, value in obj.items()}
    if _is_module(obj):
        if foreign:
            return {"type": type(obj).__name__}
    elif hasattr(obj, "__iter__"):
        return [describe(item, foreign) for item in obj]

    raise ValueError(f"a {type(obj).__name__} cannot be stored: use gendae.register on its class")


def _is_module(obj: object) -> bool:
    """Whether an object is a module that computes, not a list of them."""
    return hasattr(obj, "state_dict") and type(obj).__name__ != "ModuleList"


def build(data: Plain) -> Any:  # noqa: ANN401 - any registered class
    """The object that `data` describes; anything that is not a description is returned unchanged.

    Descriptions of earlier versions are `upgraded` first.

    Raises:
        ValueError: for an unknown type name, arguments its constructor does not take, and data too
            deep to follow.
    """
    try:
        return _build(upgraded(data))
    except RecursionError:
        raise ValueError("the description is nested too deep to be followed") from None


def built(name: str, data: Plain, cls: type[K]) -> K:
    """What an argument describes, or is, if that is a `cls`.

    Raises:
        ValueError: for an object of another kind; see `build` too.

    Example:
        >>> from gendae.corruption import Corruption
        >>> built("noise", {"type": "GaussianNoise", "sigma": 0.5}, Corruption).sigma
        0.5
        >>> built("noise", 0.5, Corruption)
        Traceback (most recent call last):
        ValueError: noise=0.5: a Corruption is needed
    """
    return checks.kind(name, build(data), cls)


def upgraded(data: Plain) -> Plain:
    """A description by the names of the present version; `data` itself is left as it is.

    Raises:
        ValueError: for arguments that no version has written, and data too deep to follow.
    """
    try:
        return _upgraded(data)
    except RecursionError:
        raise ValueError("the description is nested too deep to be followed") from None


def _upgraded(data: Plain) -> Plain:
    if isinstance(data, list | tuple):
        return type(data)(_upgraded(item) for item in data)
    if not isinstance(data, dict):
        return data

    if isinstance(data.get("type"), str):
        data = _by_present_names(data)
    return {key: _upgraded(value) for key, value in data.items()}


def _by_present_names(data: dict[str, Plain]) -> dict[str, Plain]:
    """A description whose class and own arguments have their present names."""
    cls = registered(data["type"])
    if cls is None:
        return data

    arguments = {key: value for key, value in data.items() if key != "type"}
    if hasattr(cls, "upgrade"):
        try:
            arguments = cls.upgrade(arguments)
        except UNFIT as error:
            raise ValueError(f"{cls.__name__}: {reason(error)}") from None

    present = {"type": cls.__name__, **arguments}
    if present["type"] != cls.__name__:  # the description of a class that took over
        return _by_present_names(present)
    return present


def grouped(
    arguments: dict[str, Plain], name: str, kind: str, members: Mapping[str, str]
) -> dict[str, Plain]:
    """Arguments among which former ones became members of one, for use in `upgrade`.

    Args:
        arguments: of a description; left as they are.
        name: of the argument that takes the former ones' place.
        kind: name of its class.
        members: the class's arguments, by the former names.

    Example:
        >>> grouped({"width": 3, "lr": 0.1}, "rates", "Rates", {"lr": "f", "lr_back": "g"})
        {'width': 3, 'rates': {'type': 'Rates', 'f': 0.1}}
    """
    group = {new: arguments[old] for old, new in members.items() if old in arguments}
    if not group:
        return arguments

    others = {key: value for key, value in arguments.items() if key not in members}
    return {**others, name: {"type": kind, **group}}


def _build(data: Plain) -> Any:  # noqa: ANN401
    if isinstance(data, list | tuple):
        return type(data)(_build(item) for item in data)
    if not isinstance(data, dict):
        return data
    if not isinstance(data.get("type"), str):
        return {key: _build(value) for key, value in data.items()}

    cls = registered(data["type"])
    if cls is None:
        name = data["type"]
        raise ValueError(
            f"unknown type {shortened(repr(name), 60)}; {choice(name, sorted(REGISTRY))}"
        )

    values = {key: _build(value) for key, value in data.items() if key != "type"}
    return _call(cls, values)


def instantiated(parser: Any, parsed: Any) -> Any:  # noqa: ANN401 - jsonargparse's
    """What a parser of jsonargparse parsed, with objects in the place of their descriptions."""
    # `instantiate_classes` is the former name
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return instantiate(parsed)


def _call(cls: Callable, values: dict[str, Any]) -> Any:  # noqa: ANN401
    positional: list[Any] = []
    try:
        if hasattr(cls, "check_description"):
            cls.check_description(values)

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
