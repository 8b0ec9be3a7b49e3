"""`gendae compare`: learning rules side by side: one network, one data set, the same seeds."""

import copy
import csv
import inspect
import pydoc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import gendae
from gendae import checks, plots
from gendae.commands.common import aligned, markdown
from gendae.commands.predict import load_classifier
from gendae.data.base import SPLITS, Data
from gendae.errors import choice, reason
from gendae.models.classifier import Classifier, error_of
from gendae.registry import REGISTRY, import_public, registered
from gendae.rules.base import Rule
from gendae.rules.ledger import TrainingDiverged
from gendae.rules.supervised import SupervisedRule
from gendae.storage import inputs
from gendae.storage.atomic import write_json, write_whole
from gendae.training import fit
from gendae.training.configurations import (
    MOST_SEED,
    QUIET,
    Config,
    build,
    read_config,
    refuse_processes,
    write_config,
)

#: Files of a comparison, beside the configuration of each rule.
WRITTEN = ("comparison.json", "comparison.md", "curves.png")


class Run(NamedTuple):
    """One training: errors are fractions, epochs count from 1.

    `curve` holds (epoch, validation error).
    """

    seed: int
    folder: str
    epoch: int
    validation: float
    test: float
    seconds_per_epoch: float
    curve: list[tuple[int, float]]


def compare(
    *options: str,
    config: str,
    rules: list[str],
    out: str,
    seeds: Sequence[int] = (0,),
    max_epochs: int | None = None,
) -> list[str]:
    """Train classifiers by several rules on the same network, data and seeds.

    Args:
        options: --trainer.OPTION and --data.OPTION of `gendae fit`.
        config: YAML file of `gendae fit`: network, data, trainer, hyper-parameters.
        rules: class names, such as BackpropRule, with what they take of the hyper-parameters; or
            YAML files, each with its own rule, hyper-parameters and network of the same sizes.
        out: folder for run folders RULE-SEED/0001, comparison.json, comparison.md and curves.png.
        seeds: of weights and noise.
        max_epochs: length of training; by default the configuration's.

    Raises:
        ValueError: before any training, see `check`; if the folder holds a comparison.
    """
    folder = Path(out)
    passed = list(options)
    if (folder / "comparison.json").exists():
        raise ValueError(f"--out {out} holds a comparison already; name another folder")
    check_seeds(seeds)
    if max_epochs is not None:
        checks.whole("--max-epochs", max_epochs, 1)
        passed += ["--trainer.max_epochs", str(int(max_epochs))]

    base = read_config(config)
    refuse_processes(base, passed, "a comparison")
    entries = configurations(base, rules)
    data = check(base, entries, passed)
    for name in (*WRITTEN, *(f"{entry}.yaml" for entry in entries)):
        inputs.refuse_input(folder / name)
    folder.mkdir(parents=True, exist_ok=True)

    runs: dict[str, list[Run]] = {name: [] for name in entries}
    diverged: dict[str, list[int]] = {name: [] for name in entries}
    for name, entry in entries.items():
        file = write_config(folder / f"{name}.yaml", entry)
        for seed in seeds:
            try:
                run = train(file, seed, folder / f"{name}-{seed}", data, passed)
                runs[name].append(run)
                said = f"test error {100 * run.test:.2f} %"
            except TrainingDiverged as error:
                diverged[name].append(seed)
                said = f"diverged: {error}"
            print(f"{name}, seed {seed}: {said}", file=sys.stderr, flush=True)

    facts = {"config": str(config), "seeds": list(seeds), "options": passed}
    return report(folder, facts, runs, diverged)


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise a ValueError unless all seeds are usable, and different."""
    for seed in seeds:
        checks.whole("--seeds", seed, 0, MOST_SEED)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {list(seeds)}: different numbers are needed")


def named_rule(name: str) -> type[SupervisedRule]:
    """The rule of a class name, or of an import path for rules of your own."""
    try:
        cls = registered(name)
        if not cls and "." in name:
            cls = pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        raise ValueError(f"--rules {name!r} cannot be imported: {error.value}") from None

    supervised = inspect.isclass(cls) and issubclass(cls, SupervisedRule)
    if not supervised or cls.losses is Rule.losses:
        import_public()
        known = sorted(k for k, v in REGISTRY.items() if issubclass(v, SupervisedRule))
        raise ValueError(
            f"--rules {name!r}: neither a configuration file nor a rule that trains classifiers; "
            f"{choice(name, [*known, 'FILE.yaml'])}"
        )
    return cls


def configurations(config: Config, rules: Sequence[str]) -> dict[str, Config]:
    """The configuration of each rule, by the name that its results go by.

    A class name keeps the configuration's arguments that the rule takes. A file brings its own
    rule, with its network and hyper-parameters. Everything else is the configuration's.
    """
    entries: dict[str, Config] = {}
    for entry in rules:
        if Path(entry).suffix in (".yaml", ".yml"):
            name = Path(entry).stem
            model = read_config(entry)["model"]
        else:
            cls = named_rule(entry)
            name = cls.__name__
            model = _model_of(cls, config["model"].get("init_args") or {})

        if name in entries:
            raise ValueError(f"--rules names {name!r} twice")
        entries[name] = copy.deepcopy({**config, "model": model})

    return entries


def _model_of(cls: type[SupervisedRule], arguments: Config) -> Config:
    """The configuration of a rule's class, with the arguments that it takes."""
    accepted = inspect.signature(cls).parameters
    home = "gendae" if cls.__name__ in gendae.__all__ else cls.__module__

    return {
        "class_path": f"{home}.{cls.__qualname__}",
        "init_args": {name: value for name, value in arguments.items() if name in accepted},
    }


def check(config: Config, entries: dict[str, Config], options: Sequence[str]) -> Data:
    """The data, after a check of them and of every rule: no training starts in vain.

    Raises:
        ValueError: for the first rule that cannot train this network, and data without labels in
            every split.
    """
    sizes = None
    data = None
    for name, entry in [("--config", config), *entries.items()]:
        try:
            rule, data = build(entry, options)
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"{name}: {reason(error)}") from None

        network = _sizes_of(name, rule)
        sizes = sizes or network
        if network != sizes:
            raise ValueError(
                f"{name}: its network has the sizes {network}, that of --config {sizes}; "
                "a comparison needs the same"
            )

    for split in SPLITS:
        _check_split(data, split, rule.stack)
    return data


def _sizes_of(name: str, rule: Rule) -> list[int]:
    """Sizes of all layers of a rule's network, with its number of classes."""
    if not isinstance(rule, SupervisedRule):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{name}: {type(rule).__name__} trains no classifier, and has no error to compare"
        )
    return [*rule.stack.sizes, rule.stack.classes]


def _check_split(data: Data, split: str, network: Classifier) -> None:
    """Raise a ValueError unless a split has images and labels that fit a network."""
    kind = type(data).__name__
    x, y, _ = data.split(split)
    if y is None or len(x) == 0:
        lacking = "no labels" if y is None else "no images"
        raise ValueError(f"{kind}: the {split} split has {lacking}; a comparison needs both")

    checks.width(f"{kind} {split} images", x, network.sizes[0])
    network.answers(f"{kind} {split} labels", y, len(x))


def validation_curve(folder: Path) -> list[tuple[int, float]]:
    """(epoch, validation error) from the log of a run."""
    with (folder / "metrics.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("val/error")]
    return [(int(row["epoch"]) + 1, float(row["val/error"])) for row in rows]


def train(file: Path, seed: int, root: Path, data: Data, options: Sequence[str]) -> Run:
    """One training, and the test error of its best epoch."""
    own = ["--seed_everything", str(seed), "--trainer.default_root_dir", str(root)]
    folder = fit.main(["fit", "--config", str(file), *QUIET, *options, *own])
    return measure(folder, data)


def measure(folder: Path, data: Data) -> Run:
    """The learning curve of a run, and the test error of its best epoch."""
    checkpoint = folder / "checkpoints/best.ckpt"
    if not checkpoint.is_file():
        raise ValueError(f"{folder} has no best.ckpt: the training was never validated")

    classifier = load_classifier(checkpoint)
    last = load_classifier(folder / "checkpoints/last.ckpt").facts
    curve = validation_curve(folder)
    epoch = classifier.facts["epochs"]

    x, y, _ = data.split("test")
    return Run(
        classifier.facts["seed"],
        str(folder),
        epoch,
        dict(curve)[epoch],
        error_of(classifier.predict(x).double(), classifier.answers("y", y, len(x))).item(),
        last["seconds"] / last["epochs"],
        curve,
    )


def mean_and_deviation(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation (n - 1); each is None for too few values.

    Example:
        >>> mean_and_deviation([1.0, 3.0])["mean"], mean_and_deviation([1.0])
        (2.0, {'mean': 1.0, 'sd': None})
    """
    v = torch.tensor(list(values), dtype=torch.float64)
    statistics: dict[str, float | None] = {"mean": None, "sd": None}

    if len(v):
        statistics["mean"] = v.mean().item()
    if len(v) > 1:
        statistics["sd"] = v.std().item()
    return statistics


def summary(runs: list[Run], diverged: list[int]) -> dict[str, Any]:
    """The entries of a rule in the table, with all its runs; diverged ones count in no mean."""
    seconds = mean_and_deviation([run.seconds_per_epoch for run in runs])
    return {
        "validation_error": mean_and_deviation([run.validation for run in runs]),
        "test_error": mean_and_deviation([run.test for run in runs]),
        "seconds_per_epoch": seconds["mean"],
        "diverged": diverged,
        "runs": [run._asdict() for run in runs],
    }


HEADER = ["rule", "seeds", "validation error", "test error", "s/epoch"]


def table(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of text: rule, seeds, errors of the best epoch (mean ± sd), seconds per epoch."""
    rows = []
    for name, result in results.items():
        seeds = f"{len(result['runs'])}"
        if result["diverged"]:
            seeds += f" ({len(result['diverged'])} diverged)"

        seconds = ""
        if result["seconds_per_epoch"] is not None:
            seconds = f"{result['seconds_per_epoch']:.2f}"

        errors = [_percent(result["validation_error"]), _percent(result["test_error"])]
        rows.append([name, seeds, *errors, seconds])

    return rows


def _percent(error: dict[str, float | None]) -> str:
    """Mean and deviation of an error in percent."""
    if error["mean"] is None:
        return "diverged"

    mean = f"{100 * error['mean']:.2f}"
    if error["sd"] is None:
        return f"{mean} %"
    return f"{mean} ± {100 * error['sd']:.2f} %"


def curves(results: dict[str, list[Run]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Epochs (n,) and validation errors (seeds, n) of each rule, as far as all its runs went."""
    drawn = {}
    for name, runs in results.items():
        if runs:
            n = min(len(run.curve) for run in runs)
            points = torch.tensor([run.curve[:n] for run in runs], dtype=torch.float64)
            drawn[name] = points[0, :, 0], points[..., 1]
    return drawn


def report(
    folder: Path,
    facts: dict[str, Any],
    runs: dict[str, list[Run]],
    diverged: dict[str, list[int]],
) -> list[str]:
    """Write comparison.json, comparison.md and curves.png; the lines to print."""
    results = {name: summary(runs[name], diverged[name]) for name in runs}
    rows = [HEADER, *table(results)]

    written = [write_whole(folder / "comparison.md", markdown(rows).encode())]
    if any(runs.values()):
        written.append(plots.save(plots.learning_curves(curves(runs)), folder / "curves.png"))
    written.append(write_json(folder / "comparison.json", {**facts, "rules": results}))

    return [*aligned(rows), *(f"written: {path}" for path in written)]
