"""Learning rules side by side: one network, one data set, the same seeds, one table: `gendae compare`."""

import copy
import csv
import inspect
import pydoc
import sys
import tempfile
from argparse import ArgumentError
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor

import gendae.toys  # noqa: F401 - registers Toys2D, which configurations may name as their data
from gendae import checks, fit, plots
from gendae.data import SPLITS, ImageData
from gendae.errors import reason
from gendae.evaluation import write_json
from gendae.prediction import error_rate, load_classifier
from gendae.rules import Rule, SupervisedRule, TrainingDiverged
from gendae.spec import REGISTRY

Config = dict[str, Any]
#: What a comparison does not take over from a configuration: it starts from nothing and names its own seeds.
OWN = ("seed_everything", "ckpt_path", "weights_only")
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


class Run(NamedTuple):
    """One training; errors are fractions, epochs count from 1, `curve` holds (epoch, validation error)."""

    seed: int
    folder: str
    epoch: int
    validation: float
    test: float
    seconds_per_epoch: float
    curve: list[tuple[int, float]]


def read_config(path: str | Path) -> Config:
    """A configuration of `gendae fit` as plain data.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not YAML, or names no rule.
    """
    try:
        config = yaml.safe_load(Path(path).read_text())
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: of a scalar such as an impossible date
        raise ValueError(f"{path} is not a YAML file: {reason(error)}") from None
    model = config.get("model") if isinstance(config, dict) else None
    if (
        not isinstance(model, dict)
        or not isinstance(model.get("class_path"), str)
        or "data" not in config
    ):
        raise ValueError(
            f"{path} is not a configuration of a training: model with class_path, and data, are needed"
        )
    if not isinstance(config.get("trainer", {}), dict):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{path}: trainer={config['trainer']!r}; options of a Trainer by name are needed"
        )
    return {key: value for key, value in config.items() if key not in OWN}


def named_rule(name: str) -> type[SupervisedRule]:
    """The rule of a class name, or of an import path for rules of your own."""
    try:
        cls = REGISTRY.get(name) or (pydoc.locate(name) if "." in name else None)
    except pydoc.ErrorDuringImport as error:
        raise ValueError(f"--rules {name!r} cannot be imported: {error.value}") from None
    if (
        not inspect.isclass(cls)
        or not issubclass(cls, SupervisedRule)
        or cls.losses is Rule.losses
    ):
        known = sorted(k for k, v in REGISTRY.items() if issubclass(v, SupervisedRule))
        raise ValueError(
            f"--rules {name!r}: neither a configuration file nor a rule that trains classifiers; "
            f"accepted: {', '.join(known)}, or a .yaml file"
        )
    return cls


def configurations(config: Config, rules: Sequence[str]) -> dict[str, Config]:
    """The configuration of each rule, by the name that its results go by.

    A class name keeps those of the configuration's arguments that the rule takes; a file brings its own rule, with
    its network and hyper-parameters. Everything else is the configuration's.
    """
    found: dict[str, Config] = {}
    for entry in rules:
        if Path(entry).suffix in (".yaml", ".yml"):
            name, model = Path(entry).stem, read_config(entry)["model"]
        else:
            cls = named_rule(entry)
            accepted = inspect.signature(cls).parameters
            own = config["model"].get("init_args") or {}
            name = cls.__name__
            model = {
                "class_path": f"{cls.__module__}.{cls.__qualname__}",
                "init_args": {k: v for k, v in own.items() if k in accepted},
            }
        if name in found:
            raise ValueError(f"--rules names {name!r} twice")
        found[name] = copy.deepcopy({**config, "model": model})
    return found


def build(config: Config, options: Sequence[str]) -> tuple[Rule, ImageData]:
    """Rule and data set of a configuration, built as `gendae fit` builds them, without a training."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_subclass_arguments(Rule, "model", required=True)
    parser.add_subclass_arguments(ImageData, "data", required=True)
    sections = {key: config[key] for key in ("trainer", "model", "data") if key in config}
    with tempfile.TemporaryDirectory() as folder:
        file = write_config(Path(folder) / "config.yaml", sections)
        parsed = parser.parse_args(["--config", str(file), *options])
    epochs, every = parsed.trainer.max_epochs, parsed.trainer.check_val_every_n_epoch or 1
    if epochs is not None and 0 <= epochs < every:
        raise ValueError(
            f"max_epochs={epochs} ends before the first validation: check_val_every_n_epoch={every}"
        )
    instantiate = (
        getattr(parser, "instantiate", None) or parser.instantiate_classes
    )  # the former name
    built = instantiate(Namespace(model=parsed.model, data=parsed.data))
    return built.model, built.data


def check(config: Config, entries: dict[str, Config], options: Sequence[str]) -> ImageData:
    """The data, after a look at them and at every rule, built: so that no training starts in vain.

    Raises:
        ValueError: for the first rule that cannot train this network, and data without labels in every split.
    """
    sizes, data = None, None
    for name, entry in [("--config", config), *entries.items()]:
        try:
            rule, data = build(entry, options)
        except (ValueError, TypeError, OSError, ArgumentError) as error:
            raise ValueError(f"{name}: {reason(error)}") from None
        if not isinstance(rule, SupervisedRule):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"{name}: {type(rule).__name__} trains no classifier, and has no error to compare"
            )
        network = [*rule.stack.sizes, rule.stack.classes]
        sizes = sizes or network
        if network != sizes:
            raise ValueError(
                f"{name}: its network has the sizes {network}, that of --config {sizes}; a comparison "
                "needs the same"
            )
    for split in SPLITS:
        x, y = data.split(split)
        if y is None or len(x) == 0:
            raise ValueError(
                f"{type(data).__name__}: the {split} split has "
                f"{'no images' if y is not None else 'no labels'}; a comparison needs both"
            )
        checks.width(f"{type(data).__name__} {split} images", x, sizes[0])
        checks.labels(f"{type(data).__name__} {split} labels", y, len(x), sizes[-1])
    return data


def write_config(path: Path, config: Config) -> Path:
    """A configuration as a YAML file."""
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def validation_curve(folder: Path) -> list[tuple[int, float]]:
    """(epoch, validation error) from the log of a run."""
    with (folder / "metrics.csv").open() as stream:
        return [
            (int(row["epoch"]) + 1, float(row["val/error"]))
            for row in csv.DictReader(stream)
            if row.get("val/error")
        ]


def train(file: Path, seed: int, root: Path, data: ImageData, options: Sequence[str]) -> Run:
    """One training, and the test error of its best epoch."""
    folder = fit.main(
        [
            "fit",
            "--config",
            str(file),
            *QUIET,
            *options,
            "--seed_everything",
            str(seed),
            "--trainer.default_root_dir",
            str(root),
        ]
    )
    return measure(folder, data)


def measure(folder: Path, data: ImageData) -> Run:
    """What came out of a run: its learning curve, and the test error of its best epoch."""
    checkpoint = folder / "checkpoints/best.ckpt"
    if not checkpoint.is_file():
        raise ValueError(f"{folder} has no best.ckpt: the training was never validated")
    classifier = load_classifier(checkpoint)
    last = load_classifier(folder / "checkpoints/last.ckpt").facts
    curve = validation_curve(folder)
    epoch = classifier.facts["epochs"]
    x, y = data.split("test")
    return Run(
        classifier.facts["seed"],
        str(folder),
        epoch,
        dict(curve)[epoch],
        error_rate(classifier.predict(x), y),
        last["seconds"] / last["epochs"],
        curve,
    )


def mean_and_deviation(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation (n - 1); None where there are too few values.

    Example:
        >>> mean_and_deviation([1.0, 3.0])["mean"], mean_and_deviation([1.0])
        (2.0, {'mean': 1.0, 'sd': None})
    """
    v = torch.tensor(list(values), dtype=torch.float64)
    return {
        "mean": v.mean().item() if len(v) else None,
        "sd": v.std().item() if len(v) > 1 else None,
    }


def summary(runs: list[Run], diverged: list[int]) -> dict[str, Any]:
    """What the table says of a rule, with all its runs; diverged ones count in no mean."""
    return {
        "validation_error": mean_and_deviation([run.validation for run in runs]),
        "test_error": mean_and_deviation([run.test for run in runs]),
        "seconds_per_epoch": mean_and_deviation([run.seconds_per_epoch for run in runs])["mean"],
        "diverged": diverged,
        "runs": [run._asdict() for run in runs],
    }


HEADER = ["rule", "seeds", "validation error", "test error", "s/epoch"]


def table(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of text: rule, seeds, errors of the best epoch in percent (mean ± sd), seconds per epoch."""

    def percent(value: dict[str, float | None]) -> str:
        if value["mean"] is None:
            return "diverged"
        sd = "" if value["sd"] is None else f" ± {100 * value['sd']:.2f}"
        return f"{100 * value['mean']:.2f}{sd} %"

    rows = []
    for name, result in results.items():
        n, lost, seconds = (
            len(result["runs"]),
            len(result["diverged"]),
            result["seconds_per_epoch"],
        )
        rows.append(
            [
                name,
                f"{n}" + (f" ({lost} diverged)" if lost else ""),
                percent(result["validation_error"]),
                percent(result["test_error"]),
                "" if seconds is None else f"{seconds:.2f}",
            ]
        )
    return rows


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def markdown(rows: list[list[str]]) -> str:
    """Rows as a table in Markdown; the first is the header."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def curves(results: dict[str, list[Run]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Epochs (n,) and validation errors (seeds, n) of each rule, as far as all its runs went."""
    found = {}
    for name, runs in results.items():
        if runs:
            n = min(len(run.curve) for run in runs)
            values = torch.tensor([run.curve[:n] for run in runs], dtype=torch.float64)
            found[name] = values[0, :, 0], values[..., 1]
    return found


def refuse_processes(base: dict[str, Any], options: Sequence[str]) -> None:
    """Raise a ValueError for several processes: each would run the whole comparison."""
    found = {name: base.get("trainer", {}).get(name) for name in ("devices", "num_nodes")}
    for option, value in pairwise([*(part for o in options for part in o.split("=", 1)), ""]):
        found |= {name: value for name in found if option == f"--trainer.{name}"}
    for name, value in found.items():
        if value is not None and str(value) not in ("1", "auto"):
            raise ValueError(
                f"trainer.{name}={value}: a comparison runs in one process; accepted: 1"
            )


def compare(
    config: str,
    rules: list[str],
    seeds: list[int],
    out: str,
    max_epochs: int | None = None,
    options: Sequence[str] = (),
) -> list[str]:
    """Train each rule with each seed, and write the table, its numbers and the learning curves into a folder.

    Args:
        config: YAML file: network, data, trainer, and hyper-parameters for the rules named by class.
        rules: class names, or configuration files.
        seeds: of weights and noise.
        out: folder for run folders RULE-SEED/0001, comparison.json, comparison.md and curves.png.
        max_epochs: length of training; the configuration's if None.
        options: options of `gendae fit`, such as --trainer.accelerator gpu.

    Raises:
        ValueError: before any training, see `check`; if the folder holds a comparison.
    """
    folder, options = Path(out), list(options)
    if (folder / "comparison.json").exists():
        raise ValueError(f"--out {out} holds a comparison already; name another folder")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"--seeds {seeds}: different numbers >= 0 are needed")
    if max_epochs is not None:
        options += [
            "--trainer.max_epochs",
            str(int(checks.at_least("--max-epochs", max_epochs, 1))),
        ]
    base = read_config(config)
    refuse_processes(base, options)
    entries = configurations(base, rules)
    data = check(base, entries, options)
    folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Run]] = {}
    diverged: dict[str, list[int]] = {}
    for name, entry in entries.items():
        file = write_config(folder / f"{name}.yaml", entry)
        runs[name], diverged[name] = [], []
        for seed in seeds:
            try:
                runs[name].append(train(file, seed, folder / f"{name}-{seed}", data, options))
                said = f"test error {100 * runs[name][-1].test:.2f} %"
            except TrainingDiverged as error:
                diverged[name].append(seed)
                said = f"diverged: {error}"
            print(f"{name}, seed {seed}: {said}", file=sys.stderr, flush=True)
    return report(
        folder, {"config": str(config), "seeds": list(seeds), "options": options}, runs, diverged
    )


def report(
    folder: Path,
    facts: dict[str, Any],
    runs: dict[str, list[Run]],
    diverged: dict[str, list[int]],
) -> list[str]:
    """Write comparison.json, comparison.md and curves.png; the lines to print."""
    results = {name: summary(runs[name], diverged[name]) for name in runs}
    rows = [HEADER, *table(results)]
    written = [folder / "comparison.md"]
    written[0].write_text(markdown(rows))
    if any(runs.values()):
        written.append(plots.save(plots.learning_curves(curves(runs)), folder / "curves.png"))
    written.append(write_json(folder / "comparison.json", {**facts, "rules": results}))
    return [*aligned(rows), *(f"written: {path}" for path in written)]
