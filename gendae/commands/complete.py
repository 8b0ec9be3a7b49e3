"""`gendae complete`, and what it shares with `gendae sample --given`: values by NAME=VALUE."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.commands.common import (
    DESCENT,
    Table,
    color_of,
    completer_of,
    only_generative,
    shapes_of,
    some_given,
    usable,
)
from gendae.commands.sections import adjusted, is_of, refuse, with_synonym
from gendae.commands.sequences import complete_sequences, reads_sequences
from gendae.completion import modalities
from gendae.completion.annealed import AnnealedInpainter
from gendae.completion.completer import Completer
from gendae.completion.inpainting import MASKS, Inpainter, inpainter_of, named_mask
from gendae.completion.modalities import Values
from gendae.data.files import channels_first, check_pairing, image_files, read_modality, write_npz
from gendae.data.sources import pixels_of, read_images
from gendae.models.joint import JointStack, channels_of
from gendae.models.modalities import Modality
from gendae.models.stack import Stack
from gendae.registry import build, describe
from gendae.storage import model_file

MODES = {"map": Completer.map, "mcmc": Completer.mcmc, "annealed": Completer.annealed}
#: What no array of a modality can be called in a .npz of answers: the arrays beside it, and
#: arguments of the functions that write it.
RESERVED = ("path", "file", "args", "kwds", "converged", "residual")


def complete(
    model: str,
    *,
    given: list[str],
    mask: str | None = None,
    mode: str | None = None,
    rounds: int | None = None,
    n: int = 1,
    seed: int = 0,
    out: str = "completed.npz",
    device: str = "cpu",
    color: str | None = None,
    **options: str,
) -> Table:
    """What is missing of a joint model's modalities, given some of them or parts of them.

    Of a model of sequences, which has no modalities, steps are completed given others: those that
    array `observed`, (n, steps), marks beside x in x=FILE.npz.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        given: NAME=VALUE, modalities with a file of values or a class: top=FILE.npy label=3;
            sequences as x=FILE.npz.
        mask: the part of given images that is given: left, right, top, bottom or random; of
            sequences top is the first half of the steps.
        mode: map, likely values; mcmc, samples; annealed, from one to the other; descent, samples
            by the levels of a DenoisingPrior; by default the model's own.
        rounds: most rounds of encoding and decoding.
        n: answers for each row.
        seed: the same seed gives the same result.
        out: FILE.npz: an array for each modality.
        device: cpu, cuda, cuda:0, mps.
        color: of coloured images, grey: the luma, rgb: all channels; by default as in training.
        options: --completer.OPTION, arguments of the completer, such as --completer.begin prior or
            --completer.tolerance 0; --completer.help lists them. Of sequences --inpainter.OPTION.
    """
    path = Path(out)
    checks.one_of("suffix of --out", path.suffix, (".npz",))
    texts = assignments(given)
    check_order(texts)

    loaded = model_file.load(model, device)
    if reads_sequences(loaded):
        refuse("completer", options, "sequences are completed by an Inpainter: --inpainter.OPTION")
        file = sequences_given(texts, mode)
        inpainter = inpainter_for(only_generative(loaded, model), rounds, options)
        return complete_sequences(loaded, file, mask, n, seed, path, inpainter)

    refuse("inpainter", options, "a joint model is completed by a Completer: --completer.OPTION")
    stack = joint(loaded, model)
    check_names(stack)

    values = {name: value_of(stack, name, text, color) for name, text in texts.items()}
    values = repeated(values)

    masks = None if mask is None else masks_of(stack, mask, values, seed)
    options = with_synonym("rounds", rounds, "completer.rounds", options)
    completer = chosen_completer(stack, mode, options)
    completed = modalities.complete(stack, values, masks, n, completer, seed)

    rows = len(completed.completion.converged)
    lines = [f"{rows:,} completed rows: {written(completed, path)}", settled(completed)]
    lines += [_pixels_given(stack, name, mask) for name, mask in (masks or {}).items()]
    return lines


def _pixels_given(stack: JointStack, name: str, observed: Tensor) -> str:
    """How many pixels of a modality a mask gives, with all of their channels."""
    channels = channels_of(stack, name)
    given, pixels = int(observed.sum()) // channels, len(observed) // channels

    return f"{given} of {pixels} pixels of {name} were given"


def load_joint(model: str | Path, device: str = "cpu") -> JointStack:
    """A trained model of several modalities.

    Raises:
        FileNotFoundError, CheckpointError: see `persistence.load`.
        ValueError: if the model has no modalities.
    """
    return joint(model_file.load(model, device), model)


def joint(stack: Stack, model: str | Path) -> JointStack:
    """The stack, if it has modalities; `model` names it in the message."""
    if not isinstance(stack, JointStack):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{model} is a {type(stack).__name__} of one kind of data; a JointStack of named "
            "modalities is needed, which JointTargetPropRule trains"
        )
    return stack


def inpainter_for(stack: Stack, rounds: int | None, options: Mapping[str, str]) -> Inpainter:
    """The stack's inpainter, with other arguments."""
    options = with_synonym("rounds", rounds, "inpainter.rounds", options)

    return adjusted("inpainter", inpainter_of(stack), Inpainter, options)


def sequences_given(given: dict[str, str], mode: str | None) -> Path:
    """The file of the sequences, which a model of them calls x, and no more.

    Raises:
        ValueError: for other names, and a mode, which a completion of sequences has not.
    """
    if list(given) != ["x"]:
        raise ValueError(
            f"--given {' '.join(given)}: the model is one of sequences; x=FILE.npz is needed"
        )
    if mode is not None:
        raise ValueError(f"--mode {mode} is of a joint model; leave it out for sequences")

    return checks.path("--given x", given["x"])


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


def check_order(given: dict[str, str]) -> None:
    """Refuse to pair the files of a folder, if they have two orders, with the rows of a file."""
    paths = [checks.path("--given", text) for text in given.values()]
    for folder in filter(Path.is_dir, paths):
        for file in filter(Path.is_file, paths):
            check_pairing(image_files(folder), file)


def value_of(
    stack: JointStack, name: str, text: str, color: str | None = None, n: int | None = None
) -> Tensor:
    """The given value of one modality, from a class index or a file of values.

    It has the rows of the file, or one; n of them if n is told. What becomes of colour:
    `color_of`.

    Raises:
        FileNotFoundError, ValueError: for text that is neither, and values of another width.
    """
    stack.index(name)
    modality = stack.modalities[name]
    if modality.kind in ("onehot", "latent") and re.fullmatch(r"-?[0-9]{1,18}", text):
        checks.labels(f"--given {name}", torch.tensor([int(text)]), 1, modality.width)
        return torch.full((n or 1,), int(text))

    path = checks.path(f"--given {name}", text)
    if not path.exists():
        wanted = f"a file of {modality.kind} values of width {modality.width} is needed"
        if modality.kind == "onehot":
            wanted = f"a class 0 .. {modality.width - 1} or {wanted}"
        raise ValueError(
            f"--given {name}={text}: no such file; {wanted} (modalities: {stack.described()})"
        )

    value = rows_in(path, modality, color_of(stack, color, name))
    if n is None:
        return value
    if len(value) not in (1, n):
        raise ValueError(f"--given {name}={text} has {len(value)} rows; one is needed, or --n {n}")
    return value.expand(n, *value.shape[1:])


def repeated(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of modalities, of which single rows are as many as those of the others."""
    length = max(len(value) for value in values.values())

    return {
        name: value.expand(length, *value.shape[1:]) if len(value) == 1 else value
        for name, value in values.items()
    }


def rows_in(path: Path, modality: Modality, color: str | None = None) -> Tensor:
    """Values of a modality from a file; images in all forms that `read_images` takes."""
    if modality.kind == "pixels":
        value = _pixels_in(path, modality, color)
    else:
        value = _as_rows(channels_first(read_modality(path)), modality)

    if value.ndim == 2 and value.shape[1] != modality.width:
        raise ValueError(
            f"{path} has rows of width {value.shape[1]}; the modality is {modality!r}"
        )
    return value


def _pixels_in(path: Path, modality: Modality, color: str | None) -> Tensor:
    """Images; of a .npy with numbers as the model takes them also rows of NaN, which are missing.

    Bytes that are only 0 and 1 are these, as `Arrays` reads them.
    """
    if path.suffix != ".npy":
        value, _ = read_images(path, color)
        return value

    array = read_modality(path)
    if array.ndim == 1:
        array = array[None]

    levels = array.dtype == np.uint8 and array.max() > 1
    if levels or array[0].size != modality.width:
        value, _ = pixels_of(str(path), array, color)
        return value

    return _as_rows(channels_first(array), modality)


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
    usable("the answers", *found.values.values())
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


def chosen_completer(
    stack: JointStack, mode: str | None, options: Mapping[str, str]
) -> Completer | Inpainter | None:
    """What the model is completed with, with another annealing and other arguments.

    A model that has an `Inpainter` keeps it, unless a mode is named.

    Args:
        stack: the model.
        mode: a name of `MODES`, if any.
        options: values by name, those of the section `completer`.
    """
    own = completer_of(stack) or stack.settings.inpainter
    if mode is None and not any(is_of(name, "completer") for name in options):
        return own

    if mode == DESCENT:
        return adjusted("completer", AnnealedInpainter(), Inpainter, options)
    if isinstance(own, Inpainter) and mode is None:
        return adjusted("completer", own, Inpainter, options)

    base = own if isinstance(own, Completer) else Completer()
    if mode is not None:
        accepted = (*MODES, DESCENT)
        annealing = MODES[checks.one_of("--mode", mode, accepted)]().annealing
        base = build({**describe(base), "annealing": annealing})

    return adjusted("completer", base, Completer, options)


def masks_of(
    stack: JointStack, mask: str, given: dict[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """A named mask for each given modality that is an image."""
    shapes = {name: shape for name, shape in shapes_of(stack).items() if name in given}
    if not shapes:
        raise ValueError(
            f"--mask {mask}: none of the given modalities ({', '.join(given)}) is an image"
        )

    checks.one_of("--mask", mask, MASKS)
    named = {name: named_mask(mask, shape, seed) for name, shape in shapes.items()}
    return {name: some_given(mask, observed) for name, observed in named.items()}
