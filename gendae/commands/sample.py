"""`gendae sample`."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.commands.common import (
    Table,
    has_several_modalities,
    only_generative,
    shape_of,
    usable,
)
from gendae.commands.complete import (
    assignments,
    check_names,
    check_order,
    chosen_completer,
    load_joint,
    settled,
    value_of,
    written,
)
from gendae.commands.sections import adjusted, is_of, refuse, with_synonym
from gendae.commands.sequences import reads_sequences, write_sequences
from gendae.completion import modalities
from gendae.data.files import write_npz
from gendae.data.films import FILMS, is_film, kept_frames, write_film
from gendae.data.mosaic import enlarged, tile, write_png
from gendae.models.joint import JointStack, images_of, kind_of
from gendae.models.labelled import LabelledStack
from gendae.models.stack import Stack
from gendae.sampling.samplers import Sampler, generate, sampler_named, sampling_steps
from gendae.storage import model_file
from gendae.storage.atomic import write_whole

#: The chain with --given: its start already is a sample that fits, and long chains drift
#: (docs/results.md).
GIVEN = {"completer.rounds": "5", "completer.begin": "prior"}


def sample(
    model: str,
    n: int = 100,
    sampler: str | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "cpu",
    given: list[str] | None = None,
    guidance: float | None = None,
    rounds: int | None = None,
    **options: str,
) -> Table:
    """Draw samples into a PNG grid, a .npz or a .npy.

    Samples of a joint model may be drawn given some of its modalities: a clamped chain draws them.
    It starts from those samples of the prior that fit. Of a model whose top has a label, they may
    be drawn given the label: --given label=3 stands for --sampler labelled --sampler.label 3. A
    prior that was fitted on codes given a label or a modality draws such samples itself.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        n: how many samples.
        sampler: generate, ancestral, chain, joint, level, labelled or descent; by default the
            model's own.
        seed: the same seed gives the same result.
        out: samples.png, or another .png, .npz or .npy, of sequences (n, steps, channels); given
            modalities a .npz, an array for each; .gif, .webp or .mp4: a film of the sampler's
            steps.
        device: cpu, cuda, cuda:0, mps.
        given: NAME=VALUE, of a joint model: sample all modalities given some, such as label=3 or
            image=FILE.npy; of a model whose top or prior has a label, label=CLASS.
        guidance: with --given of a conditional prior: 0 for samples of its law, more for likelier
            ones of less spread; by default the prior's own.
        rounds: with --given, of the chain; 5 by default, for long chains drift.
        options: --sampler.OPTION, arguments of the sampler, such as --sampler.rounds 20 or
            --sampler.inference.alpha 0.1, which --sampler.help lists; with --given
            --completer.OPTION, those of the clamped chain.
    """
    chained = rounds is not None or any(is_of(name, "completer") for name in options)
    law = None
    if given is not None and not chained:
        law = law_given(model_file.load(model, device), given, n, guidance)
    if guidance is not None and law is None:
        raise ValueError(
            f"--guidance {guidance:g} is of a prior that draws samples given a label or a "
            "modality, such as ConditionalDenoisingPrior, by --given NAME=VALUE without a chain"
        )

    if given is not None and law is None:
        label = label_given(model, given, sampler)
        if label is None:
            path = Path(out or "samples.npz")
            return _sample_by_chain(model, given, n, seed, path, device, rounds, options)
        sampler = "labelled"
        options = {"sampler.label": label, **options}

    if rounds is not None:
        raise ValueError(
            f"--rounds {rounds} is of a clamped chain, which --given NAME=VALUE asks for; that of "
            "a sampler is --sampler.rounds"
        )
    refuse("completer", options, "a clamped chain is run where --given NAME=VALUE asks for it")
    return _sample(model, law, n, sampler, seed, out, device, options)


def _sample(
    model: str,
    law: "Law | None",
    n: int,
    sampler: str | None,
    seed: int,
    out: str | None,
    device: str,
    options: Mapping[str, str],
) -> Table:
    """n samples of a model, or of a law given something, by a sampler."""
    several = law is not None and has_several_modalities(law.stack)
    path = Path(out or ("samples.npz" if several else "samples.png"))
    checks.one_of("suffix of --out", path.suffix, (".png", ".npz", ".npy", *FILMS))

    law = law or Law(model_file.load(model, device), {})
    stack = law.stack
    several = has_several_modalities(stack)
    if not several:
        only_generative(stack, model)

    chosen = adjusted("sampler", sampler_named(stack, sampler), Sampler, options)
    if is_film(path):
        return _film(stack, n, chosen, seed, path)
    if several:
        return _sample_all(stack, n, chosen, seed, path, law.values)
    return _sample_one(stack, n, chosen, seed, path)


def _sample_one(stack: Stack, n: int, sampler: Sampler, seed: int, out: Path) -> list[str]:
    """n samples of a model of one kind of data."""
    x = generate(stack, n, sampler, seed)
    usable("the samples", x)
    if reads_sequences(stack):
        return [f"{n} samples: {write_sequences(stack, x, out)}"]
    return [f"{n} samples: {write_samples(x, out, kind_of(stack), shape_of(stack))}"]


def label_given(model: str, given: list[str] | None, sampler: str | None) -> str | None:
    """The label that is asked of a model whose top has one; None if none is, or of another."""
    if given is None:
        return None
    if sampler is not None:
        raise ValueError(
            f"--sampler {sampler} and --given exclude each other: a clamped chain is what is run"
        )
    if not isinstance(model_file.load(model), LabelledStack):
        return None

    values = assignments(given)
    if list(values) != ["label"]:
        raise ValueError(
            f"--given {' '.join(given)}: {model} is a LabelledStack; accepted: label=CLASS"
        )
    return values["label"]


class Law(NamedTuple):
    """A stack whose prior is the law given c, and c's values by the name of its modality."""

    stack: Stack
    values: dict[str, Tensor]


def law_given(stack: Stack, given: list[str], n: int, guidance: float | None) -> Law | None:
    """The stack under its prior given what is asked; None if the prior is of no such condition.

    Raises:
        ValueError: for an unknown class, values of another width, and other numbers of rows.
    """
    texts = assignments(given)
    condition = stack.prior.condition
    if condition is None or list(texts) != [condition.name]:
        return None

    name = condition.name
    text = texts[name]
    if isinstance(stack, JointStack):
        rows = value_of(stack, name, text)
        if len(rows) not in (1, n):
            raise ValueError(
                f"--given {name}={text} has {len(rows)} rows; one is needed, or --n {n}"
            )
        x, _ = stack.join({name: rows})
        values = {name: stack.separate(x)[name].cpu().expand(n, -1)}
        c = stack.condition(name, x, None)
    else:
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise ValueError(
                f"--given {name}={text}: a class 0 .. {condition.width - 1} is needed"
            )
        values = {}
        c = torch.tensor([int(text)])

    return Law(stack.under(stack.prior.given(c, guidance)), values)


def _sample_by_chain(
    model: str,
    given: list[str],
    n: int,
    seed: int,
    out: Path,
    device: str,
    rounds: int | None,
    options: Mapping[str, str],
) -> Table:
    """n samples of all modalities given some of them, into a .npz."""
    refuse("sampler", options, "with --given a clamped chain is run; use --completer.OPTION")
    options = GIVEN | with_synonym("rounds", rounds, "completer.rounds", options)
    checks.one_of("suffix of --out", out.suffix, (".npz",))
    checks.whole("--n", n, 1)
    texts = assignments(given)
    check_order(texts)

    stack = load_joint(model, device)
    check_names(stack)

    checks.fits("--n", n, n * stack.sizes[0])
    values = {name: value_of(stack, name, text, n=n) for name, text in texts.items()}
    completer = chosen_completer(stack, "mcmc", options)
    samples = modalities.complete(stack, values, completer=completer, seed=seed)
    samples = with_means(stack, samples, values)

    return [f"{n} samples given {', '.join(given)}: {written(samples, out)}", settled(samples)]


def with_means(
    stack: JointStack, samples: modalities.Values, given: Mapping[str, Tensor]
) -> modalities.Values:
    """The samples, with means of P(x | h) where x was not given, as other samplers give them.

    Chains that clamped x itself have no code to decode, and stay as they are.
    """
    codes = samples.completion.h
    if codes.shape[1] != stack.sizes[stack.level]:
        return samples

    x = stack.x_of(codes.to(stack.device)).detach().cpu()
    means = stack.separate(x)
    missing = {name: value for name, value in means.items() if name not in given}
    return samples._replace(values=samples.values | missing)


def _sample_all(
    stack: JointStack,
    n: int,
    sampler: Sampler,
    seed: int,
    out: Path,
    given: Mapping[str, Tensor],
) -> list[str]:
    """n samples of all modalities, as arrays in a .npz; or only their images, as a PNG grid.

    Given values stay as they are.
    """
    checks.one_of("suffix of --out", out.suffix, (".npz", ".png"))
    if out.suffix == ".npz":
        check_names(stack)

    x = stack.replace(generate(stack, n, sampler, seed), 0, given)
    usable("the samples", x)
    if out.suffix == ".npz":
        arrays = {name: value.float().numpy() for name, value in stack.separate(x).items()}
        return [f"{n} samples of {', '.join(arrays)}: {write_npz(out, **arrays)}"]

    images, shape = images_of(stack, x)
    if shape is None:
        raise ValueError(
            f"--out {out}: none of the modalities ({', '.join(stack.names)}) is an image; use .npz"
        )
    return [f"{n} samples: {write_png(tile(images, shape), out)}"]


def _film(stack: Stack, n: int, sampler: Sampler, seed: int, out: Path) -> list[str]:
    """A film of the sampler's transitions: its samples are the last frame."""
    if kind_of(stack) != "image":
        raise ValueError(f"--out {out}: films are of images; this model gives {kind_of(stack)}")

    states = sampling_steps(stack, n, sampler, seed)
    usable("the samples", states)

    return [f"{n} samples in {len(states) - 1} steps: {write_states(stack, states, out)}"]


def write_states(stack: Stack, states: Tensor, out: Path) -> Path:
    """A film of images, (steps, n, pixels), in a grid."""
    frames = []
    for x in states[kept_frames(len(states))]:
        images, shape = images_of(stack, x)
        frames.append(enlarged(tile(images, shape or shape_of(stack))))

    return write_film(frames, out)


def write_samples(x: Tensor, out: Path, kind: str, shape: tuple[int, ...]) -> Path:
    """Samples as a PNG grid, .npz (array `samples`) or .npy, by suffix."""
    checks.one_of("suffix of --out", out.suffix, (".png", ".npz", ".npy"))
    if out.suffix == ".png":
        return _write_picture(x, out, kind, shape)

    if kind == "image":
        x = x.clamp(0.0, 1.0)
    array = x.float().numpy()
    if out.suffix == ".npz":
        return write_npz(out, samples=array)

    content = io.BytesIO()
    np.save(content, array)
    return write_whole(out, content.getvalue())


def _write_picture(x: Tensor, out: Path, kind: str, shape: tuple[int, ...]) -> Path:
    """Samples as a picture; only a plot waits for matplotlib."""
    if kind == "image":
        return write_png(tile(x, shape), out)

    from gendae import plots

    return plots.save(plots.gallery(x, kind, shape), out)
