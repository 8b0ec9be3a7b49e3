"""`gendae list`."""

import gendae
from gendae.commands.fit import first_comment
from gendae.priors.base import Prior
from gendae.rules.base import Rule
from gendae.sampling.samplers import SAMPLERS
from gendae.storage.shipped import manifest, shipped_files


def list() -> list[str]:
    """Rules, priors, samplers, configurations and models that come with gendae, a line each."""
    configurations = shipped_files("configs/*.yaml").values()
    folder = next(iter(configurations)).parent
    samplers = {name: getattr(gendae, kind) for name, kind in SAMPLERS.items()}

    tables = {
        "rules: gendae fit --model RULE": _described(_public(Rule)),
        "priors: class_path of a stack's prior": _described(_public(Prior)),
        "samplers: gendae sample MODEL --sampler NAME": _described(samplers),
        f"configurations, in {folder}: gendae fit --config FILE": {
            file.name: first_comment(file) for file in configurations
        },
        f"spaces, in {folder}/spaces: gendae tune --config FILE --space FILE": {
            file.name: first_comment(file)
            for file in shipped_files("configs/spaces/*.yaml").values()
        },
        "models: gendae sample MODEL, or predict; their cards: docs/zoo.md": {
            entry["name"]: _model(entry) for entry in manifest()
        },
    }

    width = max(len(name) for table in tables.values() for name in table) + 2
    lines = []
    for title, table in tables.items():
        lines += [title, *(f"  {name:<{width}}{text}" for name, text in table.items()), ""]
    return lines[:-1]


def _public(base: type) -> dict[str, type]:
    """Public classes of a kind, by name, without the base class."""
    classes = {name: getattr(gendae, name) for name in gendae.__all__}
    return {
        name: cls
        for name, cls in classes.items()
        if isinstance(cls, type) and issubclass(cls, base) and cls is not base
    }


def _described(classes: dict[str, type]) -> dict[str, str]:
    """First lines of docstrings."""
    return {name: cls.__doc__.splitlines()[0] for name, cls in classes.items()}


def _model(entry: dict[str, str]) -> str:
    """What the manifest says of a shipped model."""
    facts = [entry["rule"], entry.get("prior"), entry["dataset"]]
    return ", ".join(fact for fact in facts if fact)
