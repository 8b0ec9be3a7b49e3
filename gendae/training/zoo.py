"""Shipped models, trained again from their committed configurations.

Of a model of `checkpoints/manifest.json` the same training is made again and exported as the
shipped one was. Its weights, rounded to half precision if the shipped ones are, are compared:

    weights = max_k max|a_k - b_k| / max|b_k|     over tensors k, made again and shipped

It is 0 for the same bits. They are promised where processor, threads and versions of libraries are
those by which it was 0 before, or by which the model was made. Elsewhere rounding differs in the
last bit, which a training enlarges to that of another seed: there the score is compared, and may
be TOLERATED of its standard errors over test examples away.
"""

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from gendae.data.base import Data
from gendae.errors import choice
from gendae.metrics import parzen
from gendae.models.stack import Stack
from gendae.sampling.samplers import generate
from gendae.storage import model_file
from gendae.storage.shipped import MANIFEST, manifest, shipped_files

#: Standard errors of a score that one on another machine may be away.
TOLERATED = 4.0
#: Most minutes of a quick row, and least ones of any.
SWIFT = 2.0
LEAST = 0.1
#: The model made again, in the folder of its run.
AGAIN = "again.safetensors"
#: Samples that each top is chosen by, as `gendae export --choose-prior` has it.
CHOSEN_BY = 3000
#: Versions that weights are not promised for: those of gendae itself must not change them.
OWN = ("gendae", "code")


def entry_of(name: str) -> dict[str, Any]:
    """What the manifest says of a shipped model.

    Raises:
        ValueError: for a name of none.

    Example:
        >>> entry_of("toy-field")["rule"]
        'TargetPropRule'
    """
    entries = {entry["name"]: entry for entry in manifest()}
    if name not in entries:
        raise ValueError(f"no shipped model {name!r}; {choice(name, entries)}")
    return entries[name]


def rows() -> dict[str, dict[str, Any]]:
    """A row of a file of tables (see `training.rows`) for each shipped model, by name.

    Example:
        >>> row = rows()["toy-field"]
        >>> row["config"], row["seeds"], list(row["measures"])
        ('toy-field', [0], ['weights', 'll'])
    """
    return {entry["name"]: _row(entry) for entry in manifest()}


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    """The row of a model: quick, if what came of it is known and it does not take long."""
    seed, again = entry["seed"], entry.get("again")
    weights: dict[str, Any] = {"tolerance": 0.0}
    if again is not None:
        weights |= {"measured": {seed: again["weights"]}, "record": _place(entry, "again.weights")}

    minutes = max(LEAST, entry["minutes"])
    return {
        "says": f"{entry['rule']}, {entry['dataset']}",
        "model": entry["name"],
        "config": Path(entry["config"]).stem,
        "options": entry["options"],
        "seeds": [seed],
        "minutes": minutes,
        "quick": again is not None and minutes <= SWIFT and "gpu" not in entry["options"],
        "samples": entry["metrics"].get("n", 1),
        "measures": {"weights": weights, **score_of(entry)},
    }


def score_of(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The measure of a row by which a model is known again, `error` or `ll`; nothing without."""
    metrics, seed = entry["metrics"], entry["seed"]
    if "parzen_ll" in metrics:
        record = _place(entry, "metrics.parzen_ll")
        tolerance = TOLERATED * metrics["parzen_se"]
        known = {seed: metrics["parzen_ll"]}
        return {"ll": {"measured": known, "record": record, "tolerance": tolerance}}

    if "test_error" not in metrics:
        return {}

    error = metrics["test_error"]
    record = _place(entry, "metrics.test_error") | {"times": 100}
    tolerance = 100.0 * TOLERATED * error_se(error, entry["test"])
    known = {seed: 100.0 * error}
    return {"error": {"measured": known, "record": record, "tolerance": tolerance}}


def error_se(error: float, n: int) -> float:
    """Standard error of an error of n examples: sqrt(p (1 - p) / n).

    Example:
        >>> error_se(0.5, 100)
        0.05
    """
    return math.sqrt(error * (1.0 - error) / n)


def _place(entry: dict[str, Any], value: str) -> dict[str, Any]:
    """Where the manifest says a number."""
    return {"file": MANIFEST, "where": {"name": entry["name"]}, "value": value}


# -- made again -----------------------------------------------------------------------------------


def exported(run: Path, entry: dict[str, Any], data: Data) -> Path:
    """The model of a run, exported as a shipped one was.

    Args:
        run: its folder.
        entry: of the shipped model.
        data: on which its top is chosen, where that was done.
    """
    words = entry["export"].split()
    which = words[words.index("--which") + 1]
    stack = model_file.load(run / f"checkpoints/{which}.ckpt")

    if "--choose-prior" in words:
        train, valid = data.split("train").x, data.split("valid").x
        stack.facts["prior_scores"] = parzen.choose_prior(stack, train, valid, CHOSEN_BY)
    return model_file.save(stack, run / AGAIN, "--half" in words)


def distance(file: Path, entry: dict[str, Any]) -> float:
    """The largest relative difference of weights made again from those that are shipped.

    Args:
        file: of the model made again.
        entry: of the shipped one.
    """
    (shipped,) = shipped_files(f"checkpoints/{entry['file']}").values()
    _, ours = model_file.read_checked(file, model_file.FORMAT)
    _, theirs = model_file.read_checked(shipped, model_file.FORMAT)

    return difference(ours, theirs)


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest relative difference between tensors of the same names; 0 for the same bits.

    Tensors that only a later version of gendae writes are left out.

    Args:
        ours: of the model made again.
        theirs: of the shipped one, which tell the size.

    Raises:
        ValueError: where tensors are missing, or of other shapes or types.

    Example:
        >>> import torch
        >>> difference({"w": torch.tensor([1.0, -4.0])}, {"w": torch.tensor([2.0, -4.0])})
        0.25
    """
    largest = 0.0
    for name, shipped in theirs.items():
        again = ours.get(name)
        if again is None or again.shape != shipped.shape or again.dtype != shipped.dtype:
            raise ValueError(
                f"{name} of the model made again is not of the shape and type of the shipped one"
            )

        size = shipped.double().abs().max()
        off = (again.double() - shipped.double()).abs().max()
        largest = max(largest, (off / size if size > 0.0 else off).item())

    return largest


def score(file: Path, data: Data, n: int) -> float:
    """The Parzen score of samples of a model, as its file has it, in nats."""
    stack: Stack = model_file.load(file)
    samples = generate(stack, n, seed=0)

    return parzen.parzen_score(samples, data.split("test").x, data.split("valid").x)["ll"]


# -- what is promised -----------------------------------------------------------------------------


def promised(entry: dict[str, Any]) -> dict[str, Any] | None:
    """Where the same bits are expected: as it was when they were made again, or first.

    None, if they were made again and were others, or nothing is known.
    """
    again = entry.get("again")
    if again is not None:
        return again["made"] if again["weights"] == 0.0 else None

    made = entry.get("made")
    return made if made is not None and "versions" in made else None


def differs(made: dict[str, Any], other: dict[str, Any]) -> str:
    """What differs between two places where a model was made, in words; nothing if none does.

    Args:
        made, other: processor, capability, threads and versions, see `scores.place`.

    Example:
        >>> here = {"processor": "A", "threads": 1, "versions": {"torch": "2.13", "code": "1"}}
        >>> differs(here, here | {"versions": {"torch": "2.13", "code": "2"}})
        ''
        >>> differs(here, here | {"threads": 2, "versions": {"torch": "2.12"}})
        'threads 2 and not 1, torch 2.12 and not 2.13'
    """
    a, b = _parts(made), _parts(other)
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return ", ".join(f"{name} {b.get(name)} and not {a.get(name)}" for name in names)


def _parts(made: dict[str, Any]) -> dict[str, Any]:
    """All that rounding depends on, by name."""
    parts = {**made, **made.get("versions", {})}
    return {name: part for name, part in parts.items() if name not in ("versions", *OWN)}
