"""Options such as --sampler.rounds 20: constructor arguments of what a command uses.

They change the object that is named, or the model's own, and leave its other arguments as they
are. An argument that is an object itself has options one dot further: --sampler.corruption
SpikeNoise --sampler.corruption.draws 2. And --sampler.help says what there is.
"""

from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from typing import TypeVar

from gendae.registry import Plain, describe, import_public, instantiated, registered

T = TypeVar("T")


def adjusted(section: str, thing: T, base: type[T], options: Mapping[str, str]) -> T:
    """A thing with other arguments: all those of its section among the options.

    Args:
        section: first part of the options' names.
        thing: an object of a registered class; it stays as it is.
        base: the class of which all that the section can hold are members.
        options: values as they were typed, by name; those of other sections are not looked at.

    Raises:
        ValueError: in one line, for names that are no argument and values that do not fit.
        SystemExit: after the help that SECTION.help asks for, of a class that is named or, if
            none is, of the thing's own.

    Example:
        >>> from gendae.corruption import Corruption, GaussianNoise
        >>> noise = adjusted("noise", GaussianNoise(0.5), Corruption, {"noise.decay": "0.1"})
        >>> noise.sigma, noise.decay
        (0.5, 0.1)
    """
    own = {name: value for name, value in options.items() if is_of(name, section)}
    if not own:
        return thing
    if own.get(f"{section}.help") == "":
        own[f"{section}.help"] = type(thing).__name__

    # only where there are options, with all that they can name
    from jsonargparse import ArgumentParser

    from gendae.training.mistakes import explained

    import_public()
    described = describe(thing)
    for name in own:
        _check_depth(name, described)

    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_subclass_arguments(base, section)
    parser.set_defaults({section: _by_class_path(described)})
    try:
        parsed = parser.parse_args([f"--{name}={value}" for name, value in own.items()])
    except ArgumentError as error:
        raise ValueError(explained(str(error), parser)) from None

    return instantiated(parser, parsed)[section]


def is_of(name: str, section: str) -> bool:
    """Whether an option is one of a section."""
    return name.partition(".")[0] == section


def refuse(section: str, options: Mapping[str, str], needed: str) -> None:
    """Raise a ValueError for the first option of a section that the command does not use."""
    for name in options:
        if is_of(name, section):
            raise ValueError(f"--{name}: {needed}")


def with_synonym(
    option: str, value: int | None, name: str, options: Mapping[str, str]
) -> dict[str, str]:
    """The options, with the value of a short option that stands for one of them.

    Raises:
        ValueError: if both are given.

    Example:
        >>> with_synonym("rounds", 3, "completer.rounds", {})
        {'completer.rounds': '3'}
    """
    if value is None:
        return dict(options)
    if name in options:
        raise ValueError(
            f"--{option} {value} and --{name} {options[name]} set the same argument: give one"
        )

    return {**options, name: str(value)}


def _check_depth(name: str, described: Plain) -> None:
    """A ValueError that says where an argument is, if it is one of an object further in."""
    section, argument, *_ = name.split(".")
    if argument in described:
        return

    for place in _places(argument, described):
        raise ValueError(
            f"--{name}: no argument of {described['type']}; did you mean --{section}.{place}?"
        )


def _places(argument: str, described: Plain, before: str = "") -> Iterator[str]:
    """Where objects within an object have an argument of this name."""
    for name, value in described.items():
        if isinstance(value, dict) and "type" in value:
            yield from _places(argument, value, f"{before}{name}.")
        elif before and name == argument:
            yield before + name


def _by_class_path(described: Plain) -> Plain:
    """A description as jsonargparse writes it."""
    if isinstance(described, list):
        return [_by_class_path(item) for item in described]
    if not isinstance(described, dict):
        return described
    if "type" not in described:
        return {name: _by_class_path(value) for name, value in described.items()}

    cls = registered(described["type"])
    arguments = {k: _by_class_path(value) for k, value in described.items() if k != "type"}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}
