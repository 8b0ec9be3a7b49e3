"""`gendae export`."""

from pathlib import Path

from gendae import checks
from gendae.commands.card import write_card
from gendae.commands.common import Table, checkpoint_of
from gendae.commands.data import data_of
from gendae.metrics import parzen
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.models.stack import Stack
from gendae.priors.gaussian import GaussianPrior
from gendae.storage import model_file, programs
from gendae.storage.hub import FILE, is_of_hub


def export(
    run: str,
    *,
    out: str | None = None,
    hub: str | None = None,
    what: str | None = None,
    which: str = "best",
    choose_prior: bool = False,
    half: bool = False,
    root: str | None = None,
    n: int = 3000,
    license: str | None = None,
) -> Table:
    """Make a file to ship of a run or a model: its weights, a graph, or a folder for the hub.

    Args:
        run: run folder, a .ckpt, a .safetensors, or the name of a model.
        out: FILE.safetensors; or FILE.onnx or FILE.pt2, the graph of a part of the model.
        hub: new folder to upload to the Hugging Face Hub: model.safetensors, config.json, and
            README.md, a card with samples.
        what: of a graph: encode, decode or predict.
        which: checkpoint of the run: best or last.
        choose_prior: choose covariance and variance multiplier of the Gaussian top on validation
            data.
        half: store weights in half precision: half the size.
        root: folder of the model's data set.
        n: with --choose-prior, how many samples score each top.
        license: with --hub, of the weights, as the card names it; by default it names none.
    """
    path = _place(out, hub)
    _check_options(path, what, choose_prior, half)
    checks.whole("--n", n, 1)
    if root is not None and not choose_prior:
        raise ValueError(f"--root {root}: a folder of data is read only with --choose-prior")

    stack = _model_of(run, which)
    if what is not None:
        return [f"exported: {programs.save_program(stack, path, what)}"]

    lines = []
    if choose_prior:
        lines += _choose_prior(stack, run, root, n)
    if not isinstance(stack, Classifier):
        lines.append(f"{stack.prior!r}")
    if hub is not None:
        return [*lines, *write_card(stack, path, run, license, half)]
    return [*lines, f"exported: {model_file.save(stack, path, half)}"]


def _place(out: str | None, hub: str | None) -> Path:
    """The file or the folder that is to be written, which is new."""
    if (out is None) == (hub is None):
        raise ValueError("export: needed: --out FILE, or --hub FOLDER")

    if out is not None:
        suffixes = (".safetensors", *programs.SUFFIXES)
        checks.one_of("suffix of --out", Path(out).suffix, suffixes)

    option, place = ("--out", out) if hub is None else ("--hub", hub)
    if Path(place).exists():
        raise FileExistsError(f"{option} {place} exists already; name another")
    return Path(place)


def _check_options(path: Path, what: str | None, choose_prior: bool, half: bool) -> None:
    """Raise a ValueError for a suffix that there is not, and options that it does not have."""
    is_graph = path.suffix in programs.SUFFIXES
    if not is_graph and what is not None:
        raise ValueError(f"--what {what}: a part is written as .onnx or .pt2, and not to {path}")
    if not is_graph:
        return

    if what is None:
        parts = ", ".join(programs.WHAT)
        raise ValueError(f"--out {path} holds a part of a model; name it: --what, one of {parts}")
    checks.one_of("--what", what, programs.WHAT)
    if choose_prior or half:
        option = "--choose-prior" if choose_prior else "--half"
        raise ValueError(f"{option} is of weights, and --out {path} is a graph; leave it out")


def _model_of(run: str, which: str) -> Stack:
    """The model of a run, or of any name by which one is loaded."""
    path = checks.path("RUN", run)
    is_model = is_of_hub(run) or run in model_file.shipped() or (path / FILE).is_file()
    return model_file.load(run if is_model else checkpoint_of(run, which))


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
