"""The options of a command: the signature of its function, and their help: its docstring.

An argument without default is positional, but behind the star an option that must be given. One
with a default is an option; before a star, it is positional and may be left out.
`max_epochs: int` is `--max-epochs N`, a `list[str]` takes several values, and a `bool` none.
`options` are those of the sections that their description names, such as --sampler.rounds 20. Each
has one value, and reaches the command as it was typed (`*options`) or by name (`**options`).

Files of commands import torch, and --help has to answer at once. So signature and docstring are
read from the text of the file, which is not imported.
"""

import argparse
import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from docstring_parser import Docstring, DocstringStyle, parse

from gendae.errors import choice

#: All commands, as `gendae --help` groups them.
GROUPS = {
    "train": ("fit", "validate", "test", "compare", "tune", "reproduce", "quickstart"),
    "models and what they hold": ("list", "info", "export", "prior"),
    "models of images": ("sample", "inpaint", "evaluate", "chain", "spectrum", "filters", "demo"),
    "classifiers and joint models": ("predict", "complete"),
    "tables of numbers": ("impute",),
    "the theory": ("stdp",),
}
#: What others call a command.
SYNONYMS = {
    "train": "fit",
    "generate": "sample",
    "classify": "predict",
    "search": "tune",
    "sweep": "tune",
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
#: Commands whose options are those of a Trainer, a rule and a data set: Lightning parses them.
TRAINING = ("fit", "validate", "test")


def head(name: str) -> ast.FunctionDef:
    """The function of a command, as its file says it."""
    file = Path(__file__).with_name("fit.py" if name in TRAINING else f"{name}.py")
    statements = ast.parse(file.read_text(encoding="utf-8")).body
    return next(s for s in statements if isinstance(s, ast.FunctionDef) and s.name == name)


def documentation(function: ast.FunctionDef) -> Docstring:
    return parse(ast.get_docstring(function), DocstringStyle.GOOGLE)


class Argument(NamedTuple):
    """An argument of a command's function."""

    name: str
    annotation: str
    needed: bool
    positional: bool
    default: Any


def signature(function: ast.FunctionDef) -> list[Argument]:
    """The arguments of a function, without `options`."""
    arguments = []
    given = function.args
    first_default = len(given.args) - len(given.defaults)
    defaults = [*[None] * first_default, *given.defaults, *given.kw_defaults]

    for argument, default in zip([*given.args, *given.kwonlyargs], defaults, strict=True):
        needed = default is None
        arguments.append(
            Argument(
                argument.arg,
                ast.unparse(argument.annotation),
                needed,
                argument in given.args and (needed or bool(given.kwonlyargs)),
                None if needed else ast.literal_eval(default),
            )
        )
    return arguments


def overview() -> list[str]:
    """The lines of `gendae --help`."""
    lines = [
        "usage: gendae COMMAND [--OPTION VALUE ..]",
        "",
        "Deep generative models as stacks of auto-encoders, trained by target propagation.",
    ]
    for group, names in GROUPS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {name:<12}{documentation(head(name)).short_description}" for name in names]

    return [*lines, "", "`gendae COMMAND --help` names the options of a command."]


class Parser(argparse.ArgumentParser):
    """A parser that raises what is wrong, in one line, where others print their usage and exit.

    Attributes:
        sections: the first parts of options with a dot that the command takes.
    """

    sections: tuple[str, ...] = ()

    def error(self, message: str) -> NoReturn:
        _, required, names = message.partition(" are required: ")
        if required:
            message = f"needed: {names}; `{self.prog} --help` says what for"

        raise ValueError(f"{self.prog.split()[-1]}: {message.removeprefix('argument ')}")

    def check_names(self, arguments: Sequence[str]) -> None:
        """Raise a ValueError for the first option that the command does not have."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        known += [f"--{section}.OPTION" for section in self.sections]
        for argument in arguments:
            name = argument.partition("=")[0]
            if name.startswith("--") and name not in known:
                self.error(f"no option {name}; {choice(name, known)}")


def parser(name: str) -> Parser:
    """The parser of a command."""
    function = head(name)
    documented = documentation(function)
    helps = {p.arg_name: " ".join(p.description.split()).rstrip(".") for p in documented.params}

    texts = (documented.short_description, documented.long_description)
    made = Parser(
        prog=f"gendae {name}",
        description=" ".join(text for text in texts if text),
        allow_abbrev=False,
    )
    for argument in signature(function):
        add_option(made, argument, helps[argument.name])

    options = function.args.vararg or function.args.kwarg
    if options:
        made.epilog = f"Other options: {helps[options.arg]}"
        made.sections = tuple(re.findall(r"--(\w+)\.", helps[options.arg]))

    return made


def add_option(made: Parser, argument: Argument, text: str) -> None:
    """Add an argument of a function to the parser."""
    if argument.positional:
        values: dict[str, Any] = {}
        if not argument.needed:
            values = {"nargs": "?", "default": argument.default}
            text += f" (default: {shown(argument.default)})"

        made.add_argument(argument.name, metavar=argument.name.upper(), help=text, **values)
        return

    option = f"--{argument.name.replace('_', '-')}"
    if argument.annotation == "bool":
        made.add_argument(option, action="store_true", help=text)
        return

    values = {"required": argument.needed, "default": argument.default}
    if argument.default is not None:
        text += f" (default: {shown(argument.default)})"

    kind = argument.annotation.removesuffix(" | None")
    if kind.startswith(("list[", "Sequence[")):
        kind = kind.split("[")[1].rstrip("]")
        values["nargs"] = "+"
    if kind in METAVARS:
        values["metavar"] = METAVARS[kind]
    made.add_argument(option, type=KINDS[kind], help=text, **values)


def shown(default: object) -> str:
    """A default as it would be typed."""
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return str(default)


def whole(text: str) -> int:
    """A whole number; argparse names the option before the message."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


KINDS = {"str": str, "int": whole, "float": number}
METAVARS = {"int": "N", "float": "X"}


def parsed(name: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """What a command gets: options as they were typed, and values by name.

    Raises:
        ValueError: in one line, for options and values that the command does not take.
        SystemExit: after --help.
    """
    made = parser(name)
    own, of_sections = apart(arguments, made.sections)

    made.check_names(own)
    values, rest = made.parse_known_args(own)
    if rest:
        made.error(f"{rest[0]!r} is one argument too many")

    if head(name).args.kwarg:
        return [], vars(values) | dict(named(made, words) for words in of_sections)
    return [word for words in of_sections for word in words], vars(values)


def apart(arguments: Sequence[str], sections: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """A command's own arguments, and the options of sections, each with its value.

    Example:
        >>> apart(["m", "--sampler.rounds", "3", "--n", "5", "--sampler.level=1"], ["sampler"])
        (['m', '--n', '5'], [['--sampler.rounds', '3'], ['--sampler.level=1']])
    """
    own = []
    of_sections = []
    prefixes = tuple(f"--{section}." for section in sections)
    rest = [*arguments]

    while rest:
        argument = rest.pop(0)
        if not argument.startswith(prefixes):
            own.append(argument)
            continue

        words = [argument]
        if "=" not in argument and rest and not rest[0].startswith("--"):
            words.append(rest.pop(0))
        of_sections.append(words)

    return own, of_sections


def named(made: Parser, words: Sequence[str]) -> tuple[str, str]:
    """Name and value of an option of a section."""
    name, equals, value = words[0].partition("=")
    if not all(part.isidentifier() for part in name[2:].split(".")):
        made.error(f"no option {name}: after each dot, the name of an argument is needed")
    asks_for_help = name.split(".")[1:] == ["help"]
    if len(words) == 1 and not equals and not asks_for_help:
        made.error(f"{name}: expected one argument")

    return name[2:], words[1] if len(words) > 1 else value


def known(name: str) -> str:
    """The name of a command, or a ValueError with the nearest one."""
    if name in COMMANDS:
        return name
    if name in SYNONYMS:
        raise ValueError(f"no command {name!r}; it is called {SYNONYMS[name]}")

    raise ValueError(f"no command {name!r}; {choice(name, COMMANDS)}")
