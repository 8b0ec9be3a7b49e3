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

from gendae import checks, plots
from gendae.commands.common import aligned, markdown
from gendae.commands.comparisons import (
    OF_IMAGES,
    OF_LABELS,
    Judge,
    Sampled,
    check_images,
    differences,
    mean_and_deviation,
    summary_of_images,
    table_of_differences,
    table_of_images,
)
from gendae.commands.predict import load_classifier
from gendae.data.base import SPLITS, Data
from gendae.errors import choice, reason
from gendae.metrics.report import NEIGHBOURS
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
from gendae.training.replaced import model_of

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
    samples: int = 1000,
) -> list[str]:
    """Train one network by several rules, on the same data with the same seeds.

    Classifiers are compared by their test errors; models of images by Parzen score, FID, recall
    and coverage of samples of the last epoch. Differences are paired by seed.

    Args:
        options: --trainer.OPTION and --data.OPTION of `gendae fit`.
        config: YAML file of `gendae fit`: network, data, trainer, hyper-parameters.
        rules: class names, such as BackpropRule, with what they take of the hyper-parameters; or
            YAML files, each with its own rule, hyper-parameters and network of the same sizes.
        out: folder for run folders RULE-SEED/0001, comparison.json, comparison.md and curves.png.
        seeds: of weights and noise.
        max_epochs: length of training; by default the configuration's.
        samples: how many are drawn of a model of images.

    Raises:
        ValueError: before any training, see `check`; if the folder holds a comparison.
    """
    folder = Path(out)
    passed = list(options)
    if (folder / "comparison.json").exists():
        raise ValueError(f"--out {out} holds a comparison already; name another folder")
    check_seeds(seeds)
    checks.whole("--samples", samples, NEIGHBOURS + 1)
    if max_epochs is not None:
        checks.whole("--max-epochs", max_epochs, 1)
        passed += ["--trainer.max_epochs", str(int(max_epochs))]

    base = read_config(config)
    refuse_processes(base, passed, "a comparison")
    entries = configurations(base, rules)
    data, generative = check(base, entries, passed)
    for name in (*WRITTEN, *(f"{entry}.yaml" for entry in entries)):
        inputs.refuse_input(folder / name)
    folder.mkdir(parents=True, exist_ok=True)

    judge = Judge(data, samples) if generative else None
    files = {name: write_config(folder / f"{name}.yaml", entries[name]) for name in entries}
    runs, diverged = carry_out(files, seeds, data, passed, judge)

    facts = {"config": str(config), "seeds": list(seeds), "options": passed}
    return report(folder, facts, runs, diverged, judge)


def carry_out(
    files: dict[str, Path],
    seeds: Sequence[int],
    data: Data,
    options: Sequence[str],
    judge: Judge | None,
) -> tuple[dict[str, list[Any]], dict[str, list[int]]]:
    """The trainings of all rules, each beside its configuration, and the seeds that diverged."""
    runs: dict[str, list[Any]] = {name: [] for name in files}
    diverged: dict[str, list[int]] = {name: [] for name in files}

    for name, file in files.items():
        for seed in seeds:
            root = file.with_name(f"{name}-{seed}")
            try:
                runs[name].append(train(file, seed, root, data, options, judge))
                said = in_short(runs[name][-1])
            except TrainingDiverged as error:
                diverged[name].append(seed)
                said = f"diverged: {error}"
            print(f"{name}, seed {seed}: {said}", file=sys.stderr, flush=True)

    return runs, diverged


def in_short(run: Run | Sampled) -> str:
    """What a run came to, in words."""
    if isinstance(run, Run):
        return f"test error {100 * run.test:.2f} %"
    words = [f"{OF_IMAGES[k][0]} {value:.{OF_IMAGES[k][1]}f}" for k, value in run.measures.items()]
    return ", ".join(words)


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise a ValueError unless all seeds are usable, and different."""
    for seed in seeds:
        checks.whole("--seeds", seed, 0, MOST_SEED)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {list(seeds)}: different numbers are needed")


def named_rule(name: str) -> type[Rule]:
    """The rule of a class name, or of an import path for rules of your own."""
    try:
        cls = registered(name)
        if not cls and "." in name:
            cls = pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        raise ValueError(f"--rules {name!r} cannot be imported: {error.value}") from None

    if not inspect.isclass(cls) or not issubclass(cls, Rule) or cls.losses is Rule.losses:
        import_public()
        known = sorted(name for name, entry in REGISTRY.items() if issubclass(entry, Rule))
        raise ValueError(
            f"--rules {name!r}: neither a configuration file nor a rule; "
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
            model = model_of(cls, config["model"].get("init_args") or {})

        if name in entries:
            raise ValueError(f"--rules names {name!r} twice")
        entries[name] = copy.deepcopy({**config, "model": model})

    return entries


def check(config: Config, entries: dict[str, Config], options: Sequence[str]) -> tuple[Data, bool]:
    """The data, and whether the rules are of models of images: no training starts in vain.

    Raises:
        ValueError: for the first rule that cannot train this network; for classifiers, data
            without labels in a split; for models of images, data that are no images.
    """
    first = None
    for name, entry in [("--config", config), *entries.items()]:
        try:
            rule, data = build(entry, options)
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"{name}: {reason(error)}") from None

        first = first or rule
        _check_same(name, rule, first)
        if not isinstance(rule, SupervisedRule):
            check_images(data, rule.stack, name)

    if not isinstance(first, SupervisedRule):
        return data, True
    for split in SPLITS:
        _check_split(data, split, first.stack)
    return data, False


def _check_same(name: str, rule: Rule, first: Rule) -> None:
    """Raise a ValueError unless a rule trains what the first one does, of the same sizes."""
    for where, one, other in ((name, rule, first), ("--config", first, rule)):
        if isinstance(other, SupervisedRule) and not isinstance(one, SupervisedRule):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"{where}: {type(one).__name__} trains no classifier, and has no error to compare "
                f"with {type(other).__name__}"
            )

    network, needed = _sizes_of(rule), _sizes_of(first)
    if network != needed:
        raise ValueError(
            f"{name}: its network has the sizes {network}, that of --config {needed}; "
            "a comparison needs the same"
        )


def _sizes_of(rule: Rule) -> list[int]:
    """Sizes of all layers of a rule's network, with its number of classes."""
    classes = [rule.stack.classes] if isinstance(rule, SupervisedRule) else []
    return [*rule.stack.sizes, *classes]


def _check_split(data: Data, split: str, network: Classifier) -> None:
    """Raise a ValueError unless a split has images and labels that fit a network."""
    kind = type(data).__name__
    x, y, _ = data.split(split)
    if y is None or len(x) == 0:
        lacking = "no labels" if y is None else "no images"
        raise ValueError(f"{kind}: the {split} split has {lacking}; a comparison needs both")

    checks.width(f"{kind} {split} images", x, network.sizes[0])
    network.answers(f"{kind} {split} labels", y, len(x))


def validation_curve(folder: Path, score: str = "val/error") -> list[tuple[int, float]]:
    """(epoch, validation score) from the log of a run."""
    with (folder / "metrics.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get(score)]
    return [(int(row["epoch"]) + 1, float(row[score])) for row in rows]


def train(
    file: Path,
    seed: int,
    root: Path,
    data: Data,
    options: Sequence[str],
    judge: Judge | None,
) -> Run | Sampled:
    """One training, and what is measured of it: the test error, or its samples by a judge."""
    own = ["--seed_everything", str(seed), "--trainer.default_root_dir", str(root)]
    folder = fit.main(["fit", "--config", str(file), *QUIET, *options, *own])
    if judge is not None:
        return judge(folder, validation_curve(folder, Rule.score[0]))
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
    runs: dict[str, list[Any]],
    diverged: dict[str, list[int]],
    judge: Judge | None,
) -> list[str]:
    """Write comparison.json, comparison.md and curves.png; the lines to print."""
    generative = judge is not None
    if judge is not None:
        facts |= {"samples": judge.n, "features": judge.features}
        results = {name: summary_of_images(runs[name], diverged[name]) for name in runs}
        rows = table_of_images(results)
    else:
        results = {name: summary(runs[name], diverged[name]) for name in runs}
        rows = [HEADER, *table(results)]

    names = OF_IMAGES if generative else OF_LABELS
    found = differences(runs, names)
    parts = [part for part in (rows, table_of_differences(found, names)) if part]

    text = "\n".join(markdown(part) for part in parts)
    written = [write_whole(folder / "comparison.md", text.encode())]
    if any(runs.values()):
        drawn = plots.learning_curves(curves(runs))
        if generative:
            drawn = plots.score_curves(curves(runs), "Parzen score of validation images [nats]")
        written.append(plots.save(drawn, folder / "curves.png"))
    content = {**facts, "rules": results, "differences": found}
    written.append(write_json(folder / "comparison.json", content))

    lines = [line for part in parts for line in ["", *aligned(part)]]
    return [*lines[1:], *(f"written: {path}" for path in written)]
