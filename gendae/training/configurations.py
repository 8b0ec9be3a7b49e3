"""Configurations of `gendae fit`, as commands read them that carry out several trainings."""

import tempfile
from argparse import ArgumentError
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser

from gendae.data.base import Data
from gendae.registry import import_public, instantiated
from gendae.rules.base import Rule
from gendae.storage.atomic import write_whole
from gendae.training.fit import add_callbacks
from gendae.training.mistakes import explained, read_yaml
from gendae.training.sizes import fit_sizes, is_open
from gendae.training.spaces import SECTIONS

Config = dict[str, Any]
#: Entries that are left out: each training starts from nothing, and has a seed of the command's.
OWN = ("seed_everything", "ckpt_path", "weights_only")
#: Largest seed that Lightning takes.
MOST_SEED = 2**32 - 1
#: Options of a training that says nothing of itself.
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def read_config(path: str | Path) -> Config:
    """A configuration of `gendae fit` as plain data.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not YAML, or names no rule.
    """
    config = read_yaml(path)
    if not _is_training(config):
        raise ValueError(
            f"{path} is not a configuration of a training: model with class_path, and data, are "
            "needed"
        )
    if not isinstance(config.get("trainer", {}), dict):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{path}: trainer={config['trainer']!r}; options of a Trainer by name are needed"
        )
    return {key: value for key, value in config.items() if key not in OWN}


def _is_training(config: Any) -> bool:  # noqa: ANN401 - whatever a YAML file holds
    """Whether a configuration names a model's class and data."""
    if not isinstance(config, dict) or "data" not in config:
        return False

    model = config.get("model")
    return isinstance(model, dict) and isinstance(model.get("class_path"), str)


def write_config(path: Path, config: Config) -> Path:
    """A configuration as a YAML file."""
    return write_whole(path, yaml.safe_dump(config, sort_keys=False).encode())


def build(config: Config, options: Sequence[str]) -> tuple[Rule, Data]:
    """Rule and data set of a configuration, built as `gendae fit` builds them, but not trained."""
    parser = _parser()
    parsed = parse(parser, config, options)
    data = instantiated(parser, Namespace(data=parsed.data)).data
    if is_open(parsed.model):
        fit_sizes(parsed.model, data)

    return instantiated(parser, Namespace(model=parsed.model)).model, data


def check_options(config: Config, options: Sequence[str], callbacks: bool = False) -> None:
    """Raise a ValueError for options that a configuration does not have, or of a wrong kind.

    Args:
        config: of the training.
        options: words of the command line.
        callbacks: whether options of callbacks, such as --credit.every, are accepted.
    """
    parser = _parser()
    if callbacks:
        add_callbacks(parser)
    parse(parser, config, options)


def parse(parser: LightningArgumentParser, config: Config, options: Sequence[str]) -> Namespace:
    """A configuration with options, checked as far as it can be before anything is built."""
    sections = {key: config[key] for key in SECTIONS if key in config}
    with tempfile.TemporaryDirectory() as folder:
        file = write_config(Path(folder) / "config.yaml", sections)
        try:
            parsed = parser.parse_args(["--config", str(file), *options])
        except ArgumentError as error:
            raise ValueError(explained(str(error), parser)) from None

    epochs = parsed.trainer.max_epochs
    every = parsed.trainer.check_val_every_n_epoch or 1
    if epochs is not None and 0 <= epochs < every:
        raise ValueError(
            f"max_epochs={epochs} ends before the first validation: "
            f"check_val_every_n_epoch={every}"
        )
    return parsed


def _parser() -> LightningArgumentParser:
    """A parser of the sections of a configuration that a rule and its data are built from."""
    import_public()
    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_subclass_arguments(Rule, "model", required=True)
    parser.add_subclass_arguments(Data, "data", required=True)
    return parser


def refuse_processes(base: dict[str, Any], options: Sequence[str], what: str) -> None:
    """Raise a ValueError for several processes: each would run all trainings of the command."""
    trainer = base.get("trainer", {})
    counts = {name: trainer.get(name) for name in ("devices", "num_nodes")}

    parts: list[str] = []
    for option in options:
        parts += option.split("=", 1)

    for option, value in pairwise([*parts, ""]):
        name = option.removeprefix("--trainer.")
        if option.startswith("--trainer.") and name in counts:
            counts[name] = value

    for name, value in counts.items():
        if value is not None and str(value) not in ("1", "auto"):
            raise ValueError(f"trainer.{name}={value}: {what} runs in one process; accepted: 1")
