"""`gendae export`."""

from pathlib import Path

from gendae import checks
from gendae.commands.common import Table, checkpoint_of
from gendae.commands.data import data_of
from gendae.metrics import parzen
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.models.stack import Stack
from gendae.priors.gaussian import GaussianPrior
from gendae.storage import model_file


def export(
    run: str,
    *,
    out: str,
    which: str = "best",
    choose_prior: bool = False,
    half: bool = False,
    root: str | None = None,
    n: int = 3000,
) -> Table:
    """Make a .safetensors to ship from a run folder.

    Args:
        run: run folder, or a .ckpt.
        out: FILE.safetensors.
        which: checkpoint of the run: best or last.
        choose_prior: choose covariance and variance multiplier of the Gaussian top on validation
            data.
        half: store weights in half precision: half the size.
        root: folder of the model's data set.
        n: with --choose-prior, how many samples score each top.
    """
    if Path(out).suffix != ".safetensors":
        raise ValueError(f"--out {out}: a model is exported as .safetensors")
    if Path(out).exists():
        raise FileExistsError(f"--out {out} exists already; name another file")

    checks.whole("--n", n, 1)
    if root is not None and not choose_prior:
        raise ValueError(f"--root {root}: a folder of data is read only with --choose-prior")

    stack = model_file.load(checkpoint_of(run, which))
    lines = []
    if choose_prior:
        lines += _choose_prior(stack, run, root, n)
    if not isinstance(stack, Classifier):
        lines.append(f"{stack.prior!r}")
    return [*lines, f"exported: {model_file.save(stack, out, half)}"]


def _choose_prior(stack: Stack, run: str, root: str | None, n: int) -> Table:
    """Give a stack the Gaussian top of the best validation score; the scores, one a line."""
    if isinstance(stack, Classifier):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"--choose-prior: {run} is a classifier, which has no prior; export it without"
        )
    if isinstance(stack, JointStack):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"--choose-prior: {run} is a joint model, whose samples have no score of their own; "
            "export it without"
        )
    if not isinstance(stack.prior, GaussianPrior):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"--choose-prior chooses among Gaussian tops, and {run} has a "
            f"{type(stack.prior).__name__}: export it without"
        )

    data = data_of(stack, root=root)
    scores = parzen.choose_prior(stack, data.split("train").x, data.split("valid").x, n)
    stack.facts["prior_scores"] = scores
    return [
        f"{name:<24}{score:>10.2f} nats on validation images" for name, score in scores.items()
    ]
