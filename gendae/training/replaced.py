"""The rule of a configuration, with another in its place that takes what it has of its arguments.

jsonargparse replaces a class as well, but forgets meanwhile which class a data class inside of its
arguments is, such as a network's `Settings`. So the parser never sees the rule that was replaced.
"""

import inspect
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

import gendae
from gendae.registry import registered
from gendae.rules.base import Rule
from gendae.training.mistakes import read_yaml


def model_of(cls: type[Rule], arguments: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a rule's class, with those of the arguments that it takes."""
    accepted = inspect.signature(cls).parameters
    home = "gendae" if cls.__name__ in gendae.__all__ else cls.__module__

    return {
        "class_path": f"{home}.{cls.__qualname__}",
        "init_args": {name: value for name, value in arguments.items() if name in accepted},
    }


def replaced(words: Sequence[str]) -> list[str]:
    """Words of the command line, in which configurations have the rule that --model names.

    Args:
        words: with files of configurations; those of another rule are given as text.
    """
    cls = _named(words)
    if cls is None:
        return list(words)

    found = []
    before = ""
    for word in words:
        name, _, value = word.partition("=")
        if before == "--config":
            found.append(_with_rule(word, cls))
        elif name == "--config" and value:
            found.append(f"{name}={_with_rule(value, cls)}")
        else:
            found.append(word)
        before = word

    return found


def _named(words: Sequence[str]) -> type[Rule] | None:
    """The rule that --model names last; None if it names none."""
    last = ""
    for before, word in pairwise(["", *words]):
        if before == "--model":
            last = word
        if word.startswith("--model="):
            last = word.removeprefix("--model=")

    return _rule(last) if last else None


def _rule(path: object) -> type[Rule] | None:
    """The rule of this name or class path."""
    cls = registered(str(path).rpartition(".")[2])
    return cls if cls is not None and issubclass(cls, Rule) else None


def _with_rule(file: str, cls: type[Rule]) -> str:
    """The text of a configuration with this rule; the file, if it has no other one."""
    content = read_yaml(file) if Path(file).is_file() else None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or _rule(model.get("class_path")) in (None, cls):
        return file

    content["model"] = model_of(cls, model.get("init_args") or {})
    return yaml.safe_dump(content, sort_keys=False)
