"""The options of a command: the signature of its function, and their help: its docstring.

An argument without default is positional, but behind the star an option that must be given.
`max_epochs: int` is `--max-epochs N`, a `list[str]` takes several values, and a `bool` none.
`*options` are options of `gendae fit` for the trainer and the data, which the command passes on.

Files of commands import torch, and --help has to answer at once. So signature and docstring are
read from the text of the file, which is not imported.
"""

import argparse
import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from docstring_parser import Docstring, DocstringStyle, parse

from gendae.errors import choice

#: All commands, as `gendae --help` groups them.
GROUPS = {
    "train": ("fit", "validate", "test", "compare", "quickstart"),
    "models and what they hold": ("list", "info", "export"),
    "models of images": ("sample", "inpaint", "evaluate", "chain", "spectrum", "filters"),
    "classifiers and joint models": ("predict", "complete"),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
#: Commands whose options are those of a Trainer, a rule and a data set: Lightning parses them.
TRAINING = ("fit", "validate", "test")
PASSED_ON = ("--trainer.", "--data.")


def head(name: str) -> ast.FunctionDef:
    """The function of a command, as its file says it."""
    file = Path(__file__).with_name("fit.py" if name in TRAINING else f"{name}.py")
    statements = ast.parse(file.read_text()).body
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
    """The arguments of a function, without `*options`."""
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
                needed and argument in given.args,
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
    """A parser that raises what is wrong, in one line, where others print their usage and exit."""

    def error(self, message: str) -> NoReturn:
        _, required, names = message.partition(" are required: ")
        if required:
            message = f"needed: {names}; `{self.prog} --help` says what for"

        raise ValueError(f"{self.prog.split()[-1]}: {message.removeprefix('argument ')}")

    def check_names(self, arguments: Sequence[str]) -> None:
        """Raise a ValueError for the first option that the command does not have."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
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
    if function.args.vararg:
        made.epilog = f"Other options: {helps[function.args.vararg.arg]}"

    return made


def add_option(made: Parser, argument: Argument, text: str) -> None:
    """Add an argument of a function to the parser."""
    if argument.positional:
        made.add_argument(argument.name, metavar=argument.name.upper(), help=text)
        return

    option = f"--{argument.name.replace('_', '-')}"
    if argument.annotation == "bool":
        made.add_argument(option, action="store_true", help=text)
        return

    values: dict[str, Any] = {"required": argument.needed, "default": argument.default}
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
    """What is passed on, and the values of a command's own options, by name.

    Raises:
        ValueError: in one line, for options and values that the command does not take.
        SystemExit: after --help.
    """
    made = parser(name)
    own, passed = list(arguments), []
    if made.epilog:
        own, passed = passed_on(arguments)

    made.check_names(own)
    values, rest = made.parse_known_args(own)
    if rest:
        made.error(f"{rest[0]!r} is one argument too many")
    return passed, vars(values)


def passed_on(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command's own arguments, and those that it hands to `gendae fit`."""
    own: list[str] = []
    passed: list[str] = []
    target = own
    for argument in arguments:
        if argument.startswith("--"):
            target = passed if argument.startswith(PASSED_ON) else own
        target.append(argument)

    return own, passed


def known(name: str) -> str:
    """The name of a command, or a ValueError with the nearest one."""
    if name in COMMANDS:
        return name

    raise ValueError(f"no command {name!r}; {choice(name, COMMANDS)}")
