"""`gendae chain`."""

from pathlib import Path

import torch
from torch import Tensor

from gendae import checks, plots
from gendae.commands.common import Table, dataset_of, load_generative, shape_of, usable
from gendae.commands.sample import write_states
from gendae.commands.sections import adjusted, with_synonym
from gendae.data.films import FILMS, is_film
from gendae.data.mosaic import tile, write_png
from gendae.metrics import chains
from gendae.metrics.features import CLASSIFIERS, load_feature_classifier
from gendae.models.stack import Stack
from gendae.sampling.level import chain_states
from gendae.sampling.samplers import Sampler, sampler_named, seeded


def chain(
    model: str,
    sampler: str = "level",
    level: int | None = None,
    steps: int = 100,
    n: int = 100,
    seed: int = 0,
    out: str = "chain.png",
    device: str = "cpu",
    **options: str,
) -> Table:
    """How well a Markov chain mixes: autocorrelation, effective samples, class switches.

    One picture shows states, a row for each of ten chains, the other their autocorrelation. A
    film shows all chains.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        sampler: level, generate, chain or joint.
        level: with --sampler level, l of the chain over h_l; by default the top, the prior's own.
        steps: transitions.
        n: how many chains.
        seed: the same seed gives the same result.
        out: FILE.png, or a film, .gif, .webp or .mp4; the autocorrelation is drawn beside it.
        device: cpu, cuda, cuda:0, mps.
        options: --sampler.OPTION, arguments of the sampler, such as --sampler.residual 1 or
            --sampler.corruption.sigma 0.2; --sampler.help lists them.
    """
    checks.whole("--n", n, 1)
    checks.whole("--steps", steps, 1, checks.REPEATS)
    checks.one_of("suffix of --out", Path(out).suffix, (".png", *FILMS))

    if level is not None and sampler != "level":
        raise ValueError(f"--level {level} is of --sampler level, not of --sampler {sampler}")
    if "sampler.rounds" in options:
        raise ValueError("--sampler.rounds: a chain has as many transitions as --steps says")
    options = with_synonym("level", level, "sampler.level", options)

    stack = load_generative(model, device)
    checks.fits("--steps", steps, (steps + 1) * n * stack.sizes[0])
    chosen = adjusted("sampler", sampler_named(stack, sampler), Sampler, options)
    states = torch.stack([x.cpu() for x in chain_states(stack, chosen, n, steps, seeded(seed))])
    usable("the states", states)
    labels = _labels(stack, states)

    if is_film(Path(out)):
        written = write_states(stack, states, Path(out))
    else:
        shown = states[:20, :10].transpose(0, 1)
        tiles = tile(shown.flatten(0, 1), shape_of(stack), shown.shape[1])
        written = write_png(tiles, out)

    rho = chains.autocorrelation(states)
    curve = Path(out).with_name(f"{Path(out).stem}-autocorrelation.png")
    curve_written = plots.save(plots.autocorrelation({f"sampler {sampler}": rho}), curve)

    report = chains.chain_report(states, labels)
    return [
        *chains.report_lines(report),
        f"written: {written}",
        f"written: {curve_written}",
    ]


def _labels(stack: Stack, states: Tensor) -> Tensor | None:
    """The classes that states show; None where no classifier of the model's data is shipped."""
    name = CLASSIFIERS.get(dataset_of(stack) or "")
    if name is None:
        return None

    network = load_feature_classifier(name)
    return torch.stack([network(x.clamp(0.0, 1.0)).argmax(1) for x in states])
