"""`gendae prior`."""

import io
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendae import checks
from gendae.commands.common import Table
from gendae.commands.data import data_of
from gendae.commands.sections import adjusted
from gendae.data.loader import Split
from gendae.errors import choice
from gendae.models.classifier import Classifier
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.priors.denoising import DenoisingPrior
from gendae.registry import REGISTRY, build, describe, import_public, registered
from gendae.storage import model_file
from gendae.storage.atomic import write_whole

#: Seconds between two times at which a training is kept.
KEPT_EVERY = 30.0
BATCH = 1000  # examples encoded at a time


def prior(
    model: str,
    kind: str = "DenoisingPrior",
    *,
    out: str | None = None,
    data: str | None = None,
    root: str | None = None,
    device: str = "cpu",
    **options: str,
) -> Table:
    """Fit another prior on a model's codes of its training images, and write the model with it.

    The layers stay as they are. The training of a DenoisingPrior is kept in OUT.fitting, every
    half a minute and where it is interrupted: the same command goes on from there.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        kind: class of the prior, such as DenoisingPrior, ParzenPrior or GaussianPrior.
        out: FILE.safetensors, which is new.
        data: images in the place of the model's own training images.
        root: folder of the model's data set.
        device: cpu, cuda, cuda:0, mps.
        options: --prior.OPTION, arguments of the prior, such as --prior.blocks 4 or
            --prior.learning.epochs 50, which --prior.help lists.
    """
    chosen = adjusted("prior", _prior_named(kind), Prior, options)
    path = _new_file(out)

    stack = model_file.load(model, device)
    if isinstance(stack, Classifier):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{model} is a classifier, which has no prior"
        )

    train = data_of(stack, data, root).split("train")
    codes = _codes(stack, train.x)
    told = _conditions(stack, chosen, train)
    stack.prior = chosen.to(codes.device)
    stack.prior.prepare(stack.sizes[-1])

    began = time.perf_counter()
    kept = path.with_name(f"{path.name}.fitting")
    if isinstance(chosen, DenoisingPrior):
        _fit(chosen, codes, told, kept)
    else:
        chosen.fit(codes)

    seconds = time.perf_counter() - began
    fitted = f"{chosen!r}, fitted on {len(codes):,} codes in {seconds:.1f} s"

    stack.facts.pop("prior_scores", None)  # of the prior that was
    written = model_file.save(stack.cpu(), path)
    kept.unlink(missing_ok=True)

    return [fitted, f"written: {written}"]


def _new_file(out: str | None) -> Path:
    """The file that is to be written."""
    if out is None:
        raise ValueError("prior: needed: --out FILE.safetensors")

    path = Path(out)
    checks.one_of("suffix of --out", path.suffix, (".safetensors",))
    if path.exists():
        raise FileExistsError(f"--out {out} exists already; name another")

    return path


def _prior_named(kind: str) -> Prior:
    """A prior of a class with its default arguments."""
    cls = registered(kind)
    if cls is not None and issubclass(cls, Prior):
        return build({"type": kind})

    names = sorted(name for name in _known() if name.endswith("Prior"))
    raise ValueError(f"no prior {kind!r}; {choice(kind, names)}")


def _known() -> list[str]:
    import_public()
    return [name for name, cls in REGISTRY.items() if issubclass(cls, Prior)]


@torch.no_grad()
def _codes(stack: Stack, x: Tensor) -> Tensor:
    """h_L of all examples."""
    return torch.cat([stack.encode(rows.to(stack.device))[-1] for rows in x.split(BATCH)])


@torch.no_grad()
def _conditions(stack: Stack, chosen: Prior, train: Split) -> Tensor | None:
    """What the prior conditions each code on; None for most priors."""
    condition = chosen.condition
    if condition is None:
        return None

    parts = []
    for start in range(0, len(train.x), BATCH):
        x, labels, _ = train[start : start + BATCH]
        given = stack.condition(condition.name, x.to(stack.device), labels)
        parts.append(condition.values(given))

    return torch.cat(parts)


def _fit(chosen: DenoisingPrior, codes: Tensor, told: Tensor | None, kept: Path) -> None:
    """Train on the codes, from where the same training was kept.

    What is kept is the state after a whole epoch, from which the training is the same again.
    """
    fitting = chosen.begin(codes, told)
    marks = _marks(chosen, codes)
    if kept.is_file():
        fitting.load_state_dict(_kept(kept, marks))
        print(f"gendae: goes on after {fitting.epoch} epochs of {kept}", file=sys.stderr)

    state = fitting.state_dict()
    written = time.monotonic()

    def keep() -> None:
        content = io.BytesIO()
        torch.save({**marks, "fitting": state}, content)
        write_whole(kept, content.getvalue())

    def after_epoch() -> None:
        nonlocal state, written
        state = fitting.state_dict()
        if time.monotonic() - written > KEPT_EVERY:
            keep()
            written = time.monotonic()

    try:
        fitting.run(after_epoch)
    except KeyboardInterrupt:
        keep()
        raise
    except ValueError:  # diverged: the next training is another one
        kept.unlink(missing_ok=True)
        raise

    chosen.finish(fitting)


def _marks(chosen: DenoisingPrior, codes: Tensor) -> dict[str, Any]:
    """By what a kept training is known to be the same: all but how many learn at once."""
    described = describe(chosen)
    described["learning"].pop("processes")

    return {"prior": described, "codes": [*codes.shape, float(codes.double().sum())]}


def _kept(path: Path, marks: dict[str, Any]) -> dict[str, Any]:
    """What was kept of the same training.

    The file is not among the command's inputs, which may not be written again. A training that was
    kept on a GPU goes on elsewhere.

    Raises:
        ValueError: for a damaged file, or one of another prior or other codes.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        same = all(content[name] == value for name, value in marks.items())
        fitting = content["fitting"]
    except Exception as error:  # noqa: BLE001 - a damaged file can ask for anything
        raise ValueError(
            f"{path} is no training that was kept ({type(error).__name__}); remove it, to "
            "begin anew"
        ) from None

    if not same:
        raise ValueError(
            f"{path} was kept of another prior, or of other codes; remove it to begin anew"
        )
    return fitting
