"""`gendae complete` and `gendae sample --given`: answers of a joint model.

They are written to a .npz with one array per modality.
"""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendae import checks, plots
from gendae.completion.completer import Completer
from gendae.completion.inpainting import MASKS, named_mask
from gendae.completion.modalities import Values, complete
from gendae.data.files import read_images, write_npz
from gendae.data.multimodal import read_modality
from gendae.models.joint import JointStack, images_of
from gendae.models.modalities import Modality
from gendae.sampling.samplers import generate
from gendae.storage import model_file

#: Rounds of `gendae sample --given`: the start already is a sample that fits; long chains drift
#: (docs/results.md).
ROUNDS = 5
MODES = {"map": Completer.map, "mcmc": Completer.mcmc, "annealed": Completer.annealed}
#: What no array of a modality can be called in a .npz of answers: the arrays beside it, and
#: arguments of the functions that write it.
RESERVED = ("path", "file", "args", "kwds", "converged", "residual")


def load_joint(model: str | Path, device: str = "cpu") -> JointStack:
    """A trained model of several modalities.

    Raises:
        FileNotFoundError, CheckpointError: see `persistence.load`.
        ValueError: if the model has no modalities.
    """
    stack = model_file.load(model, device)
    if not isinstance(stack, JointStack):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{model} is a {type(stack).__name__} of one kind of data; a JointStack of named "
            "modalities is needed, which JointTargetPropRule trains"
        )
    return stack


def assignments(given: list[str]) -> dict[str, str]:
    """NAME=VALUE arguments as a dictionary.

    Example:
        >>> assignments(["label=3"])
        {'label': '3'}
    """
    values = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise ValueError(
                f"--given {item!r}: NAME=VALUE is needed, such as label=3 or image=FILE.npy"
            )
        if name in values:
            raise ValueError(f"--given names {name!r} twice")
        values[name] = value

    return values


def not_written_over(out: Path, given: dict[str, str]) -> dict[str, str]:
    """The given values, unless the result would be written over a file that holds one."""
    files = [Path(text).expanduser() for text in given.values()]
    if any(out.exists() and file.exists() and out.samefile(file) for file in files):
        raise ValueError(f"--out {out} is a file that values come from; name another")
    return given


def value_of(stack: JointStack, name: str, text: str, n: int | None = None) -> Tensor:
    """The given value of one modality, from a class index or a file of values.

    It has the rows of the file, or one; n of them if n is told.

    Raises:
        FileNotFoundError, ValueError: for text that is neither, and values of another width.
    """
    stack.index(name)
    modality = stack.modalities[name]
    if modality.kind in ("onehot", "latent") and re.fullmatch(r"-?[0-9]+", text):
        checks.labels(f"--given {name}", torch.tensor([int(text)]), 1, modality.width)
        return torch.full((n or 1,), int(text))

    path = Path(text).expanduser()
    if not path.exists():
        wanted = f"a file of {modality.kind} values of width {modality.width} is needed"
        if modality.kind == "onehot":
            wanted = f"a class 0 .. {modality.width - 1} or {wanted}"
        raise ValueError(
            f"--given {name}={text}: no such file; {wanted} (modalities: {stack.described()})"
        )

    value = rows_in(path, modality)
    if n is None:
        return value
    if len(value) not in (1, n):
        raise ValueError(f"--given {name}={text} has {len(value)} rows; one is needed, or --n {n}")
    return value.expand(n, *value.shape[1:])


def rows_in(path: Path, modality: Modality) -> Tensor:
    """Values of a modality from a file; images in all forms that `read_images` takes."""
    if modality.kind == "pixels" and path.suffix != ".npy":
        value, _ = read_images(path)
    else:
        value = _as_rows(read_modality(path), modality)

    if value.ndim == 2 and value.shape[1] != modality.width:
        raise ValueError(
            f"{path} has rows of width {value.shape[1]}; the modality is {modality!r}"
        )
    return value


def _as_rows(array: np.ndarray, modality: Modality) -> Tensor:
    """Class indices, (n,), or numbers, (n, width); a single row of numbers may be (width,)."""
    if array.ndim > 1:
        return torch.from_numpy(array.reshape(len(array), -1).astype(np.float32))

    takes_classes = modality.kind in ("onehot", "latent")
    if takes_classes and array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    return torch.from_numpy(array[None].astype(np.float32))


def check_names(stack: JointStack) -> None:
    """Raise a ValueError unless a .npz of answers can hold each modality under its name."""
    for name in stack.names:
        if name in RESERVED:
            raise ValueError(
                f"modality {name!r}: this name is taken in files of answers; accepted: any but "
                f"{', '.join(RESERVED)} (or call gendae.complete, gendae.generate)"
            )


def written(found: Values, out: Path) -> Path:
    """A .npz with an array for each modality, and `converged` and `residual`."""
    arrays = {name: value.float().numpy() for name, value in found.values.items()}
    last = torch.zeros(0)
    if found.completion.rounds:
        last = found.completion.residuals[-1:].flatten()

    return write_npz(
        out,
        **arrays,
        converged=found.completion.converged.cpu().numpy(),
        residual=last.cpu().numpy(),
    )


def settled(found: Values) -> str:
    """How the completion went, in words."""
    made = found.completion
    if made.rounds == 0:
        return "no rounds"

    words = (
        f"{made.rounds} rounds, mean change {made.residuals[0].mean():.2g} in the first and "
        f"{made.residuals[-1].mean():.2g} in the last"
    )
    done = int(made.converged.sum())
    if done:
        words += f"; {done:,} of {len(made.converged):,} settled"
    return words


def completer_of(
    stack: JointStack, mode: str | None, rounds: int | None, begin: str | None = None
) -> Completer | None:
    """A completer by name with the model's own noise; without options, the model's own if any."""
    own = stack.settings.get("completer")
    if mode is None and rounds is None and begin is None:
        return own

    base = own if isinstance(own, Completer) else Completer()
    annealing = base.annealing
    if mode is not None:
        checks.one_of("--mode", mode, MODES)
        annealing = MODES[mode]().annealing
    if rounds is None:
        rounds = base.rounds

    return Completer(
        rounds,
        annealing,
        base.corruption,
        begin or base.begin,
        base.level,
        base.use_prior,
        base.tolerance,
    )


def sample(
    model: str,
    given: list[str],
    n: int = 100,
    seed: int = 0,
    out: str = "samples.npz",
    device: str = "cpu",
    rounds: int = ROUNDS,
) -> list[str]:
    """n samples of all modalities given some of them.

    A clamped chain draws them. It starts from those samples of the prior that fit.
    """
    path = Path(out)
    checks.one_of("suffix of --out", path.suffix, (".npz",))
    checks.whole("--n", n, 1)
    texts = not_written_over(path, assignments(given))

    stack = load_joint(model, device)
    check_names(stack)

    values = {name: value_of(stack, name, text, n) for name, text in texts.items()}
    completer = completer_of(stack, "mcmc", rounds, "prior")
    samples = complete(stack, values, completer=completer, seed=seed)

    return [f"{n} samples given {', '.join(given)}: {written(samples, path)}", settled(samples)]


def unconditional(
    stack: JointStack, n: int, sampler: str | None, seed: int, out: Path
) -> list[str]:
    """n samples of all modalities, as arrays in a .npz; or only their images, as a PNG grid."""
    checks.one_of("suffix of --out", out.suffix, (".npz", ".png"))
    if out.suffix == ".npz":
        check_names(stack)

    x = generate(stack, n, sampler, seed)
    if out.suffix == ".npz":
        arrays = {name: value.float().numpy() for name, value in stack.separate(x).items()}
        return [f"{n} samples of {', '.join(arrays)}: {write_npz(out, **arrays)}"]

    images, shape = images_of(stack, x)
    if shape is None:
        raise ValueError(
            f"--out {out}: none of the modalities ({', '.join(stack.names)}) is an image; use .npz"
        )
    return [f"{n} samples: {plots.save(plots.gallery(images, shape), out)}"]


def completion(
    model: str,
    given: list[str],
    mask: str | None = None,
    mode: str | None = None,
    rounds: int | None = None,
    n: int = 1,
    seed: int = 0,
    out: str = "completed.npz",
    device: str = "cpu",
) -> list[str]:
    """The missing modalities and elements of each given row, into a .npz."""
    path = Path(out)
    checks.one_of("suffix of --out", path.suffix, (".npz",))
    texts = not_written_over(path, assignments(given))

    stack = load_joint(model, device)
    check_names(stack)

    values = {name: value_of(stack, name, text) for name, text in texts.items()}
    length = max(len(value) for value in values.values())
    for name, value in values.items():
        if len(value) == 1:
            values[name] = value.expand(length, *value.shape[1:])

    masks = None if mask is None else masks_of(stack, mask, values, seed)
    completed = complete(stack, values, masks, n, completer_of(stack, mode, rounds), seed)

    rows = len(completed.completion.converged)
    return [f"{rows:,} completed rows: {written(completed, path)}", settled(completed)]


def masks_of(
    stack: JointStack, mask: str, given: dict[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """A named mask for each given modality that is an image."""
    known = stack.facts.get("shapes", {})
    shapes = {name: known[name] for name in given if name in known}
    if not shapes:
        raise ValueError(
            f"--mask {mask}: none of the given modalities ({', '.join(given)}) is an image"
        )

    checks.one_of("--mask", mask, MASKS)
    return {name: named_mask(mask, tuple(shape), seed) for name, shape in shapes.items()}
