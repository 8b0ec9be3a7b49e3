"""Commands that look inside a model: `gendae chain`, `spectrum`, `filters`, `info`."""

import json
from pathlib import Path

import torch
from torch import Tensor

from gendae import checks, plots, registry
from gendae.commands.common import Table, data_of, load_generative, shape_of
from gendae.data.files import image_shape
from gendae.metrics import chains
from gendae.metrics.features import load_feature_classifier
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.models.stack import Stack
from gendae.sampling.level import LevelSampler, chain_states
from gendae.sampling.samplers import sampler_named, seeded
from gendae.storage import model_file


def chain(
    model: str,
    sampler: str = "level",
    level: int | None = None,
    steps: int = 100,
    n: int = 100,
    seed: int = 0,
    out: str = "chain.png",
    device: str = "cpu",
) -> Table:
    """How well a Markov chain mixes, printed and drawn.

    One picture shows states, a row for each chain, the other their autocorrelation.
    """
    checks.whole("--n", n, 1)
    checks.whole("--steps", steps, 1)
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))

    stack = load_generative(model, device)
    chosen = sampler_named(stack, sampler)
    if level is not None:
        chosen = LevelSampler(level)
    states = torch.stack([x.cpu() for x in chain_states(stack, chosen, n, steps, seeded(seed))])
    labels = _digit_labels(stack, states)

    shown = states[:20, :10].transpose(0, 1)
    tiles = plots.tile(shown.flatten(0, 1), shape_of(stack), shown.shape[1])
    written = plots.save(plots.picture(tiles), out)

    rho = chains.autocorrelation(states)
    curve = Path(out).with_name(f"{Path(out).stem}-autocorrelation.png")
    curve_written = plots.save(plots.autocorrelation({sampler: rho}), curve)

    report = chains.chain_report(states, labels)
    return [
        *chains.report_lines(report),
        f"written: {written}",
        f"written: {curve_written}",
    ]


def _digit_labels(stack: Stack, states: Tensor) -> Tensor | None:
    """The digits that states of a model of MNIST show; None for other models."""
    dataset = (stack.facts.get("dataset") or {}).get("type")
    if dataset != "MNIST":
        return None

    network = load_feature_classifier()
    return torch.stack([network(x.clamp(0.0, 1.0)).argmax(1) for x in states])


@torch.no_grad()
def spectrum(
    model: str, root: str | None = None, out: str = "spectrum.png", device: str = "cpu"
) -> Table:
    """Noise of each top-level dimension, and how many of them carry signal (2014, 7.4)."""
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))

    stack = load_generative(model, device)
    x = data_of(stack, root=root).split("valid").x.to(stack.device)
    law = stack.pairs[-1].recognition
    below = stack.encode(x)[-2]
    mean = stack.pairs[-1].f(below)
    variance = law.variance(mean, below)
    if not law.learnable or variance is None:
        raise ValueError(
            f"{model}: the top's noise is {type(law).__name__}; a spectrum needs learned noise, "
            "recognition=LearnedGaussian (KLRule with noise)"
        )

    sigma = variance.mean(0).sqrt()
    signal = chains.signal_dimensions(sigma, mean)
    path = plots.save(plots.spectrum(signal.sigma, signal.count), out)

    shares = " ".join(f"{share:.3f}" for share in signal.sigma.tolist())
    total = f"{signal.information.sum():.1f} nats in all"
    return [
        f"noise as a share of each dimension's deviation: {shares}",
        f"signal dimensions: {signal.count} of {len(signal.sigma)}, {total}",
        f"written: {path}",
    ]


@torch.no_grad()
def filters(
    model: str, n: int = 100, level: int = 1, seed: int = 0, out: str = "filters.png"
) -> Table:
    """Incoming weights of n random units of layer l as images (thesis, Figure 3.4).

    Each image has its own scale.
    """
    checks.whole("--n", n, 1)
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))

    stack = model_file.load(model)
    if not 1 <= level <= stack.depth:
        raise ValueError(f"--level {level} is not in 1 .. {stack.depth}")

    f = stack.pairs[level - 1].f
    weight = getattr(f, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(
            f"{model}: f_{level} is {type(f).__name__}, which has no weight matrix to show; "
            "filters need an affine layer"
        )

    chosen = weight[torch.randperm(len(weight), generator=seeded(seed))[:n]]
    shape = shape_of(stack) if level == 1 else image_shape(weight.shape[1])
    written = plots.save(plots.filters(chosen, shape), out)
    return [f"{len(chosen)} of {len(weight)} units of h_{level}: {written}"]


def info(model: str) -> Table:
    """What a model file holds."""
    path = model_file.locate(model)
    stack = model_file.load(path)
    lines = [
        f"file        {path} ({path.stat().st_size / 1e6:.1f} MB)",
        f"layers      {_layers_in_words(stack)}",
        f"parameters  {sum(p.numel() for p in stack.parameters()):,}",
    ]

    if isinstance(stack, Classifier):
        lines += discrete_lines(stack)
    else:
        lines.append(f"prior       {stack.prior!r}")

    for name, value in registry.describe(stack.settings).items():
        lines.append(f"{name:<11} {json.dumps(value)}")
    for name, value in stack.facts.items():
        lines.append(f"{name:<11} {value if isinstance(value, str) else json.dumps(value)}")
    return lines


def _layers_in_words(stack: Stack) -> str:
    """Sizes and activations of all layers, from x upwards."""
    layers = [f"{pair.f.out_features} {pair.f.activation}" for pair in stack.pairs]
    words = " - ".join([str(stack.sizes[0]), *layers])
    if isinstance(stack, Classifier):
        words += f" - {stack.classes} classes"
    if isinstance(stack, JointStack):
        words += f" (level {stack.level} holds the codes of {stack.described()})"
    return words


def discrete_lines(stack: Classifier) -> Table:
    """The levels whose units send bits or draws, if there are any."""
    kinds = []
    for level in stack.discrete_levels:
        law = stack.pairs[level - 1].recognition
        kinds.append(f"h_{level} {'drawn' if law.hard and law.drawn else 'as bits'}")

    if not kinds:
        return []
    return [f"discrete    {', '.join(kinds)}"]
