"""A run of a row, trained and measured by a process: its memory and its end are its own.

    python -m gendae.training.scores JOB.json

A job holds the words of `gendae fit`, the folder of its run folders, how many samples, how much
annealing, the names of measures, the shipped model that is made again, if any, and the file that
the result is written to.

| measure | what it is | of |
|---|---|---|
| error | errors of test examples, in percent, as `gendae test` takes them | best.ckpt |
| ll | Parzen log-likelihood of test images, nats | last.ckpt |
| fid, recall | of samples, see `metrics.quality` | last.ckpt |
| bound | importance-weighted bound on log p(x), nats | last.ckpt |
| annealed, gap | log p(x) from below by annealing, and how far below, nats | last.ckpt |

In a row that says how much `annealing`, the bound is of its `hidden` levels, and of 1,000 test
images that are drawn.
| cosine | of updates with back-propagation's, mean of layers, logged last | metrics.csv |
| weights | largest relative difference from those of the shipped model, see `zoo` | its export |

Where a shipped model is made again, `ll` is of the export too, as the shipped one's is.
"""

import csv
import errno
import functools
import hashlib
import json
import platform
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

import gendae
from gendae.data.base import SPLITS, Data
from gendae.errors import reason
from gendae.metrics.report import (
    BOUND_IMAGES,
    Annealing,
    annealed_rows,
    bound,
    evaluation,
    images_to_anneal,
)
from gendae.models.stack import Stack
from gendae.rules.ledger import TrainingDiverged
from gendae.storage import model_file
from gendae.storage.atomic import write_json
from gendae.training import fit, zoo
from gendae.training.alone import forget_unreadable
from gendae.training.configurations import QUIET, build, read_config
from gendae.training.rows import OF_ANNEALING

#: Where a run folder keeps what its training goes on from.
LAST = "checkpoints/last.ckpt"
#: Libraries whose versions numbers depend on.
LIBRARIES = ("torch", "pytorch-lightning", "torchmetrics", "numpy", "scikit-learn")
#: What an operating system says where the disk, the memory or a permission do not suffice.
REFUSALS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
)
#: How torch says, in a RuntimeError, that the memory does not suffice.
NO_MEMORY = "can't allocate memory"
#: Exit code of a run that lacks data, memory or disk; it is that of a test that is skipped.
LACKING = 77
#: Measures of samples, by their names in `metrics.report.evaluation`.
OF_SAMPLES = {"ll": "parzen_ll", "fid": "fid", "recall": "recall", "bound": "iw_bound"}


class Kept(Callback):
    """Keeps what a test logs."""

    def __init__(self) -> None:
        self.logged: dict[str, float] = {}

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


def measured(
    run: Path,
    config: Path,
    samples: int,
    names: list[str],
    model: str = "",
    annealing: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures of a run, and what they were taken on.

    Args:
        run: its folder.
        config: its configuration.
        samples: of the model, for the measures of samples.
        names: of measures.
        model: the shipped model that it makes again, if any.
        annealing: of test images, see `Annealing`, for the measures by annealing.

    Raises:
        ValueError: for a measure that this run does not have.
    """
    last = run / LAST
    stack = model_file.load(last)
    _, data = build(read_config(config), [])

    values: dict[str, float | None] = {}
    if model:
        values |= made_again(run, data, samples, names, model)
    if "error" in names:
        values["error"] = test_error(run, config)
    if "cosine" in names:
        values["cosine"] = cosine(run / "metrics.csv")
    if annealing:
        values |= likelihoods(stack, data, names, Annealing(**annealing))
    of_samples = [name for name in names if name in OF_SAMPLES and name not in values]
    if of_samples:
        result = evaluation(stack, data, samples)
        values |= {name: result[OF_SAMPLES[name]] for name in of_samples}

    lacking = [name for name in names if values.get(name) is None]
    if lacking:
        raise ValueError(f"{run}: no {lacking[0]} of a {stack.facts.get('rule')}'s model")

    facts = {key: stack.facts.get(key) for key in ("rule", "seed", "epochs", "updates", "seconds")}
    return {
        "measures": values,
        "facts": facts,
        "sha256": {"data": data_digest(data), "model": model_file.digest(stack.state_dict())},
        "versions": versions(),
        "made": place(),
    }


def likelihoods(
    stack: Stack, data: Data, names: list[str], annealing: Annealing
) -> dict[str, float | None]:
    """Measures of log p(x), by annealing and by a bound, on test images that seed 0 draws."""
    test = data.split("test").x
    values: dict[str, float | None] = {}

    if "bound" in names:
        result = bound(stack, images_to_anneal(test, BOUND_IMAGES), hidden=annealing.hidden)
        values["bound"] = result["iw_bound"]
    of_annealing = [name for name in names if name in OF_ANNEALING]
    if of_annealing:
        result = annealed_rows(stack, images_to_anneal(test, annealing.images), annealing)
        values |= {name: result.get(OF_ANNEALING[name]) for name in of_annealing}
    return values


def made_again(
    run: Path, data: Data, samples: int, names: list[str], model: str
) -> dict[str, float | None]:
    """Measures of a shipped model made again, which are those of its export."""
    entry = zoo.entry_of(model)
    file = zoo.exported(run, entry, data)
    values: dict[str, float | None] = {}

    if "weights" in names:
        values["weights"] = zoo.distance(file, entry)
    if "ll" in names:
        values["ll"] = zoo.score(file, data, samples)
    return values


def test_error(run: Path, config: Path) -> float | None:
    """Errors of test examples by the best epoch, in percent; None of rules without labels."""
    kept = Kept()
    best = run / "checkpoints/best.ckpt"
    fit.main(["test", "--config", str(config), "--ckpt_path", str(best), *QUIET], [kept])

    error = kept.logged.get("test/error")
    return None if error is None else 100.0 * error


def cosine(log: Path) -> float | None:
    """The mean over layers of the cosines that were logged last; None if none was."""
    last: dict[str, float] = {}
    with log.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            cosines = {k: v for k, v in row.items() if k.startswith("credit/cosine") and v}
            last |= {name: float(value) for name, value in cosines.items()}

    return sum(last.values()) / len(last) if last else None


def data_digest(data: Data) -> str:
    """SHA-256 over the arrays of all splits."""
    tensors: dict[str, Tensor] = {}
    for name in SPLITS:
        parts = data.split(name)._asdict()
        tensors |= {f"{name}.{k}": v for k, v in parts.items() if isinstance(v, Tensor)}

    return model_file.digest(tensors)


def place() -> dict[str, Any]:
    """What the bits of a training depend on, beside its configuration and its data."""
    return {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()

    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def versions() -> dict[str, str]:
    """Versions of gendae, Python and the libraries that numbers depend on."""
    own = {"gendae": gendae.__version__, "code": code(), "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            own[name] = version(name)
        except PackageNotFoundError:
            continue
    return own


@functools.cache
def code() -> str:
    """SHA-256 of the sources of gendae, as they were when this was asked first.

    The version stays the same from one release to the next, whatever changes in between.
    """
    home = Path(gendae.__file__).parent
    sha = hashlib.sha256()
    for file in sorted(home.rglob("*.py")):
        sha.update(f"{file.relative_to(home).as_posix()}\n".encode())
        sha.update(file.read_bytes())

    return sha.hexdigest()[:12]


def run_folders(root: Path) -> list[Path]:
    """Run folders below a root that can be gone on with, in their order."""
    return sorted(path.parents[1] for path in root.glob(f"*/{LAST}"))


def carried_out(job: dict[str, Any]) -> dict[str, Any]:
    """Train and measure; a training that had ended already is measured alone.

    Raises:
        FileNotFoundError: if the training left no last.ckpt.
    """
    made = fit.main(job["words"])
    left = [folder for folder in (made, job["resumed"]) if folder is not None]
    trained = [Path(folder) for folder in left if (Path(folder) / LAST).is_file()]
    if not trained:
        raise FileNotFoundError(f"{job['root']}: the training left no last.ckpt")

    config = trained[0] / "config.yaml"
    wanted = (job["samples"], job["measures"], job["model"], job["annealing"])
    return measured(trained[0], config, *wanted)


def lacks(error: BaseException) -> bool:
    """Whether data, memory, disk or a permission are missing, and nothing is wrong with the code.

    Errors of reading data count, and those that other errors were made of.

    Example:
        >>> lacks(OSError(errno.ENOSPC, "no space")), lacks(MemoryError())
        (True, True)
        >>> lacks(ValueError("a wrong shape")), lacks(FileNotFoundError("no last.ckpt"))
        (False, False)
    """
    if isinstance(error, MemoryError) or NO_MEMORY in str(error):
        return True
    if type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and (error.errno in REFUSALS or _of_data(error)):
        return True

    before = error.__cause__ or error.__context__
    return before is not None and lacks(before)


def _of_data(error: BaseException) -> bool:
    """Whether an error was raised while data were read."""
    frames = traceback.walk_tb(error.__traceback__)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    return any(module.startswith("gendae.data.") for module in modules)


def main(file: str) -> int:
    """Carry out a job and write the result; what went wrong is the last line on stderr."""
    forget_unreadable()
    code()
    job = json.loads(Path(file).read_text(encoding="utf-8"))
    try:
        content = carried_out(job)
    except (TrainingDiverged, ValueError, OSError, MemoryError, RuntimeError) as error:
        traceback.print_exc()  # the log says where
        print(f"gendae: error: {reason(error)}", file=sys.stderr)
        return LACKING if lacks(error) else 1

    write_json(Path(job["out"]), content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
