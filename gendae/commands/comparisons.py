"""What `gendae compare` measures of models of images, and differences between rules by seed."""

from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gendae import checks
from gendae.commands.common import only_generative
from gendae.commands.reproduction_report import in_words, pair_by_seed
from gendae.data.base import SPLITS, Data
from gendae.metrics.paired import Paired
from gendae.metrics.quality import Quality
from gendae.metrics.report import NEIGHBOURS, feature_network, measures
from gendae.models.stack import Stack
from gendae.storage import model_file

#: Measures of samples, by their names in `metrics.report.measures`: words and digits.
OF_IMAGES = {
    "ll": ("LL [nats]", 2),
    "fid": ("FID", 3),
    "recall": ("recall", 3),
    "coverage": ("coverage", 3),
}
#: That of classifiers, in percent.
OF_LABELS = {"test_error": ("test error [%]", 2)}
PAIRED = ["rule", "minus", "measure", "difference", "95 % of bootstraps", "p"]


class Sampled(NamedTuple):
    """One training of a model of images: last epoch, measures of its samples by name."""

    seed: int
    folder: str
    epoch: int
    measures: dict[str, float]
    seconds_per_epoch: float
    curve: list[tuple[int, float]]


def check_images(data: Data, stack: Stack, name: str) -> None:
    """Raise a ValueError unless every split has enough images that fit a model of images."""
    only_generative(stack, name)
    kind = type(data).__name__
    for split in SPLITS:
        x = data.split(split).x
        if len(x) <= NEIGHBOURS:
            raise ValueError(
                f"{kind}: the {split} split has {len(x)} images; a comparison needs more than "
                f"{NEIGHBOURS}"
            )
        checks.width(f"{kind} {split} images", x, stack.sizes[0])


class Judge:
    """Measures of samples against one data set.

    Args:
        data: of which every split is used: training images for copying, validation images for the
            Parzen score's width, test images for all measures.
        n: how many samples.
    """

    def __init__(self, data: Data, n: int) -> None:
        self.splits = [data.split(name).x for name in ("train", "valid", "test")]
        self.n = n
        network, self.features = feature_network(data)
        self.quality = Quality(self.splits[0], self.splits[2], network)

    def __call__(self, folder: Path, curve: list[tuple[int, float]]) -> Sampled:
        """The measures of the last epoch of a run: the same samples' seed for all rules."""
        stack = model_file.load(folder / "checkpoints/last.ckpt")
        facts = stack.facts
        of_samples = measures(stack, *self.splits, self.n, judge=self.quality)

        return Sampled(
            facts["seed"],
            str(folder),
            facts["epochs"],
            {name: float(of_samples[name]) for name in OF_IMAGES},
            facts["seconds"] / facts["epochs"],
            curve,
        )


def mean_and_deviation(values: list[float]) -> dict[str, float | None]:
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


def summary_of_images(runs: list[Sampled], diverged: list[int]) -> dict[str, Any]:
    """The entries of a rule in the table, with all its runs; diverged ones count in no mean."""
    seconds = mean_and_deviation([run.seconds_per_epoch for run in runs])
    of_rule = {
        name: mean_and_deviation([run.measures[name] for run in runs]) for name in OF_IMAGES
    }
    return {
        **of_rule,
        "seconds_per_epoch": seconds["mean"],
        "diverged": diverged,
        "runs": [run._asdict() for run in runs],
    }


def table_of_images(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of text, header first: rule, seeds, measures (mean ± sd), seconds per epoch."""
    rows = [["rule", "seeds", *(words for words, _ in OF_IMAGES.values()), "s/epoch"]]
    for name, result in results.items():
        seeds = f"{len(result['runs'])}"
        if result["diverged"]:
            seeds += f" ({len(result['diverged'])} diverged)"

        cells = [_cell(result[key], digits) for key, (_, digits) in OF_IMAGES.items()]
        seconds = result["seconds_per_epoch"]
        rows.append([name, seeds, *cells, "" if seconds is None else f"{seconds:.2f}"])
    return rows


def _cell(value: dict[str, float | None], digits: int) -> str:
    """Mean and deviation of a measure."""
    if value["mean"] is None:
        return "diverged"

    mean = f"{value['mean']:.{digits}f}"
    return mean if value["sd"] is None else f"{mean} ± {value['sd']:.{digits}f}"


# -- differences between rules --------------------------------------------------------------------


def by_seed(runs: list[Any], name: str) -> dict[int, float]:
    """A measure of the runs of a rule, by seed; errors in percent."""
    if name in OF_LABELS:
        return {run.seed: 100.0 * run.test for run in runs}
    return {run.seed: run.measures[name] for run in runs}


def differences(runs: dict[str, list[Any]], names: dict[str, Any]) -> list[dict[str, Any]]:
    """Each rule minus each later one, over the seeds that both went through with, by measure."""
    pairs = []
    for a, b in combinations(runs, 2):
        for name in names:
            pair = pair_by_seed(by_seed(runs[a], name), by_seed(runs[b], name))
            if pair is not None:
                pairs.append({"rule": a, "minus": b, "measure": name, **pair._asdict()})
    return pairs


def table_of_differences(pairs: list[dict[str, Any]], names: dict[str, Any]) -> list[list[str]]:
    """Rows of text, header first; none for single rules."""
    rows = []
    for entry in pairs:
        words, digits = names[entry["measure"]]
        numbers = {key: value for key, value in entry.items() if key in Paired._fields}
        rows.append([entry["rule"], entry["minus"], words, *in_words(Paired(**numbers), digits)])
    return [PAIRED, *rows] if rows else []
