"""Mistakes in options and files of `gendae fit`, each in one line.

jsonargparse tells over many lines where a value failed: the keys and classes on the way to it,
from the outside inwards. What is wrong, what is accepted and the nearest name are read off them.
"""

import inspect
import pydoc
import re
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

import gendae
from gendae import checks
from gendae.errors import choice, nearest, reason, shortened
from gendae.storage.owned import SHARED, owned
from gendae.storage.shipped import configuration_file, shipped_files

#: Arguments in 0.1, and where they stand now, by the section that they are of.
RENAMED = {
    "model": {
        "lr_f": "rates.f",
        "lr_g": "rates.g",
        "weight_decay_f": "rates.decay_f",
        "weight_decay_g": "rates.decay_g",
        "hold": "rates.hold",
        "optimizer": "rates.optimizer",
        "sampler": "stack.settings.sampler",
        "inpainter": "stack.settings.inpainter",
        "completer": "stack.settings.completer",
        "eval_samples": "stack.settings.samples",
    },
    "model.loop": {"kl": "prior_weight"},
    "data": {
        "kind": "distribution",
        "label_seed": "labelled.seed",
        "share": "labelled.share",
        "only_labelled": "labelled.only",
    },
}
#: What other programs call an option, and where it stands here.
ELSEWHERE = {
    "lr": "model.rates.f and --model.rates.g",
    "learning_rate": "model.rates.f and --model.rates.g",
    "weight_decay": "model.rates.decay_f and --model.rates.decay_g",
    "optimizer": "model.rates.optimizer",
    "lr_scheduler": "model.rates.decline and --model.rates.hold",
    "epochs": "trainer.max_epochs",
    "batch_size": "data.batch_size",
    "seed": "seed_everything",
    "device": "trainer.accelerator",
}
#: Python's types as a user writes them.
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "Sequence": "a list",
}


def explained(message: str, parser: ArgumentParser) -> str:
    """What jsonargparse says over many lines, in one.

    Args:
        message: of the error that the parser raised.
        parser: the parser of the command, or of the configuration.
    """
    for explain in (_file, _needed, _argument, _option, _class, _value):
        line = explain(message, parser)
        if line is not None:
            return shortened(" ".join(line.split()))

    return reason(ValueError(message))


def _place(text: str) -> str:
    """The keys on the way to what failed, such as model.stack.sizes."""
    return ".".join(re.findall(r'Parser key "([^"]+)"', text))


def _file(message: str, _: ArgumentParser) -> str | None:
    """A file of --config that is not there, or holds no sections."""
    holds = re.search(r"Unexpected config: ?(.*)", message, re.DOTALL)
    if holds:
        return f"--config: {holds[1][:60]!r} has no sections; model and data are needed"

    failed = re.search(r"Parser key \"config\": ([^:]*): '(.*)'", message)
    if not failed:
        return None

    line = f"--config {failed[2]}: {failed[1].lower()}; `gendae list` names configurations"
    files = shipped_files("configs/*.yaml")
    near = nearest(failed[2].split("/")[-1].removesuffix(".yaml"), files)
    if near is not None:
        line += f"; did you mean {files[near]}?"
    return line


def _needed(message: str, _: ArgumentParser) -> str | None:
    """An option without its value, or a class without an argument."""
    alone = re.search(r"argument (?:-c/)?(\S+): expected", message)
    if alone:
        return f"{alone[1]}, or an option below it, lacks its value"

    needed = re.search(r"the following arguments are required: (.*)", message)
    if not needed:
        return None

    before = message[: needed.start()]
    classes = _classes(before)
    if not classes:
        return "needed: --config FILE.yaml, or a rule with its network, and data"
    return f"{_place(before)}: {classes[-1].split('.')[-1]} needs {needed[1]}"


def _argument(message: str, _: ArgumentParser) -> str | None:
    """A name that is no argument of a class."""
    unknown = re.search(
        r"Option '([^']*)' is not accepted|unrecognized arguments: --([^=]*)", message
    )
    if not unknown or not _classes(message[: unknown.start()]):
        return None

    before = message[: unknown.start()]
    place = _place(before)
    holder = _located(_classes(before)[-1])
    names = (unknown[1] or unknown[2]).split(".")
    while len(names) > 1 and names[0] in _arguments(holder):
        place += f".{names[0]}"
        holder = _kind(holder, names.pop(0))

    present = RENAMED.get(place, {}).get(names[0])
    if present is not None and present.split(".")[0] in _arguments(holder):
        return f"{place}.{names[0]} is {place}.{present} since gendae 0.2"

    name = f"{place}.{names[0]}"
    elsewhere = ELSEWHERE.get(names[0], name)
    if not elsewhere.startswith(name):
        return f"no option --{name}; it is --{elsewhere}"

    owner = getattr(holder, "__name__", place)
    accepted = _arguments(holder)
    if not accepted and inspect.isclass(holder) and _public(holder):  # a base class
        kinds = ", ".join(sorted(_public(holder)))
        return f"{place}.{names[0]}: no {owner} is named; set {place} to one of {kinds}"

    return f"{place}.{names[0]}: no argument of {owner}; {choice(names[0], accepted)}"


def _option(message: str, parser: ArgumentParser) -> str | None:
    """An option, or a key of a file, that belongs to no section."""
    unknown = re.search(
        r"unrecognized arguments: (\S+)|(?:not accept option|Option|Key) '([^']*)'", message
    )
    if not unknown:
        return None
    if unknown[1] and not unknown[1].startswith("--"):
        return f"{unknown[1]!r} is one argument too many; options are --NAME VALUE"

    name = (unknown[1] or unknown[2]).removeprefix("--").partition("=")[0]
    if name in ELSEWHERE:
        return f"no option --{name}; it is --{ELSEWHERE[name]}"

    options = [action.dest for action in parser._actions]
    section, dot, _ = name.rpartition(".")
    accepted = _below(options, section + dot) or _below(options, "")

    line = f"no option --{name}; accepted: {', '.join(accepted)}"
    near = _nearest_option(name, options)
    if near is not None:
        line += f"; did you mean --{near}?"
    return line


def _nearest_option(name: str, options: list[str]) -> str | None:
    """The option of the nearest section, or the nearest of all where the section is known."""
    first, dot, rest = name.partition(".")
    sections = _below(options, "")
    section = nearest(first, sections)
    if section is None or first in sections:
        return nearest(name, options)

    option = f"{section}{dot}{rest}"
    return option if option in options else section


def _below(options: Iterable[str], prefix: str) -> list[str]:
    """The next part of the names of options with a prefix, each once."""
    rests = [option.removeprefix(prefix) for option in options if option.startswith(prefix)]
    return list(dict.fromkeys(rest.split(".")[0] for rest in rests))


def _class(message: str, _: ArgumentParser) -> str | None:
    """A class that there is not."""
    unknown = re.search(
        r"Expected a dot import path string: (.*)|(has no attribute '|No module named ')", message
    )
    if not unknown:
        return None

    before = message[: unknown.start()]
    path = unknown[1]
    if path is None:
        path = _classes(before)[-1]
    name = path.split(".")[-1]
    place = _place(before) or before.partition(":")[0]

    base = _base(before)
    if base is not None and not _public(base):  # one class, which its arguments tell of
        arguments = ", ".join(f"{place}.{name}" for name in _arguments(base))
        return f"{place}={path!r} is no {base.__name__}; set {arguments}"
    if base is not None:
        return f"{place}={path!r} is unknown; {choice(name, sorted(_public(base)))}"

    if path in gendae.__all__:
        return f"{place}={path!r} makes another kind of object than is needed"

    line = f"{place}={path!r} is unknown; a public name of gendae or an import path is needed"
    near = nearest(name, gendae.__all__)
    if near is not None:
        line += f"; did you mean {near}?"
    return line


def _base(before: str) -> type | None:
    """The base class of what was wanted at the last key."""
    _, _, last = before.rpartition("Parser key")
    for path in re.findall(r"Subtypes: .*", last):
        for name in re.findall(r"[\w.]+\.[A-Z]\w*", path):
            found = _located(name)
            if inspect.isclass(found):
                return found

    return None


def _public(base: type) -> set[str]:
    """Names of subclasses; of gendae's own, those that are public."""
    names = set()
    for cls in base.__subclasses__():
        names |= _public(cls)
        own = cls.__module__.startswith("gendae.")
        if cls.__name__ in gendae.__all__ or not (own or cls.__name__.startswith("_")):
            names.add(cls.__name__)

    return names


def _value(message: str, _: ArgumentParser) -> str | None:
    """A value of another type."""
    given = re.search(r"(?:Given|Got) value: (.*)", message)
    if not given:
        return None

    before = message[: given.start()]
    _, _, last = before.rpartition("Parser key")
    base = re.search(r"Not a valid subclass of (\w+)", last)
    if base:
        wanted = f"a class_path of {base[1]}, with its init_args,"
    else:
        expected = re.findall(r"Expected an? (.*?)(?:\. |\n|$)", last)
        wanted = " or ".join(dict.fromkeys(_in_words(text) for text in expected))
    if given[1] == "None" and "null" in wanted:  # jsonargparse makes text of it on its way there
        return f"{_place(before)}=null: null this deep is taken from a configuration file only"
    return f"{_place(before)}={shortened(given[1], 80)}: {wanted} is needed"


# -- classes and types -----------------------------------------------------------------------


def _classes(text: str) -> list[str]:
    """Paths of the classes and functions on the way to what failed."""
    return re.findall(r"Problem with given class_path '([^']+)'", text)


def _located(path: str) -> Callable | None:
    """The class or function of a path, if there is one."""
    try:
        return pydoc.locate(path)
    except pydoc.ErrorDuringImport:
        return None


def _arguments(holder: Callable | None) -> list[str]:
    """Names of the arguments of a class or function."""
    if holder is None:
        return []

    parameters = inspect.signature(holder).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _kind(holder: Callable, name: str) -> Callable | None:
    """The class of an argument's values, as far as its default or annotation says it."""
    parameter = inspect.signature(holder).parameters[name]
    if parameter.default is not None and parameter.default is not parameter.empty:
        return type(parameter.default)

    kinds = [parameter.annotation, *typing.get_args(parameter.annotation)]
    classes = [kind for kind in kinds if inspect.isclass(kind) and kind is not type(None)]
    return next(iter(classes), None)


def _in_words(kind: str) -> str:
    """A type as jsonargparse writes it, such as <class 'int'>, in words."""
    choices = re.search(r"Literal\['?(.*?)'?\]", kind)
    if choices:
        return choices[1]

    name = re.sub(r"<class '(.*)'>", r"\1", kind).split("[")[0].split(".")[-1]
    return TYPES.get(name, name)


# -- configurations ------------------------------------------------------------------------------


def read_yaml(path: str | Path) -> Any:  # noqa: ANN401 - any plain data
    """The plain data in a YAML file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not YAML, or its aliases make far more of it than it holds.
    """
    try:
        file = checks.path("--config", configuration_file(str(path)))
        text = file.read_text(encoding="utf-8")
        return owned(yaml.safe_load(text), 0, SHARED * len(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: impossible dates
        raise ValueError(f"{path} is not a YAML file: {reason(error)}") from None


def configured(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the file of each --config where a shipped one is named.

    Raises:
        ValueError: for a file that is not YAML, or makes far more than it holds.
    """
    found = []
    before = ""
    for argument in arguments:
        name, _, value = argument.partition("=")
        if before == "--config":
            argument = _configuration(argument)
        elif name == "--config" and value:
            argument = f"{name}={_configuration(value)}"

        found.append(argument)
        before = argument

    return found


def _configuration(name: str) -> str:
    """The file of a configuration, which is YAML if it is there."""
    file = configuration_file(name)
    if Path(file).is_file():
        read_yaml(file)

    return file
