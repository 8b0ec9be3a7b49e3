"""The commands of `gendae` as plain functions: they return what the command line prints."""

import io
import json
from pathlib import Path

import torch
from torch import Tensor

from gendae import checks, diagnostics, metrics, persistence, plots, querying
from gendae.classifier import Classifier
from gendae.conditionals import Discrete, LearnedGaussian
from gendae.data import ImageData, Images
from gendae.evaluation import evaluation, evaluation_table, write_json
from gendae.features import load_feature_classifier
from gendae.files import image_shape, read_image, read_images, write_npz
from gendae.inpainting import MASKS, inpaint, named_mask
from gendae.joint import JointStack
from gendae.levels import LevelSampler, chain_states
from gendae.priors import GaussianPrior
from gendae.sampling import generate, sampler_named, seeded
from gendae.spec import build
from gendae.stack import Stack
from gendae.writing import write_whole

Table = list[str]


def data_of(stack: Stack, file: str | None = None, root: str | None = None) -> ImageData:
    """The user's file as a data set, or the data set that the model was trained on.

    Raises:
        FileNotFoundError: if the model's data set is not on this machine; says to name --data.
        ValueError: if the model's file names no data set.
    """
    if file is None:
        data = _training_data(stack, root)
    else:
        data = Images(file, shape=stack.facts.get("shape"))

    checks.width(file or "the data set", data.split("test").x, stack.sizes[0])
    return data


def _training_data(stack: Stack, root: str | None) -> ImageData:
    """The data set that the model was trained on, read."""
    spec = stack.facts.get("dataset")
    if spec is None:
        raise ValueError("the model does not say what it was trained on; name images with --data")

    data = build(located(spec, root))
    try:
        data.split("test")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; or name your own images with --data") from None
    return data


def located(spec: dict, root: str | None) -> dict:
    """A described data set that looks for MNIST in a folder, if one is named."""
    if root and spec["type"] == "MNIST":
        return {**spec, "root": root}
    if "source" in spec:
        return {**spec, "source": located(spec["source"], root)}
    return spec


def shape_of(stack: Stack) -> tuple[int, int]:
    """Height and width of the model's images."""
    shapes = stack.facts.get("shapes", {})
    shape = next(iter(shapes.values()), stack.facts.get("shape"))
    return image_shape(stack.sizes[0], shape)


def load_generative(model: str, device: str = "cpu") -> Stack:
    """A trained model that images can be drawn from; see `only_generative`."""
    return only_generative(persistence.load(model, device), model)


def only_generative(stack: Stack, model: str) -> Stack:
    """The stack, if images can be drawn from it.

    Args:
        stack: a trained model.
        model: where it was loaded from, for the message.

    Raises:
        ValueError: for a classifier, whose layers were trained for labels, and a model of several
            modalities.
    """
    if _has_several_modalities(stack):
        raise ValueError(
            f"{model} has several modalities ({stack.described()}); use `gendae sample`, "
            "`gendae complete` and `gendae predict`"
        )
    if isinstance(stack, Classifier):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{model} is a classifier trained for labels, not a model of images; "
            "use `gendae predict` for labels of images and `gendae test` for its test error"
        )
    return stack


def _has_several_modalities(stack: Stack) -> bool:
    return isinstance(stack, JointStack) and len(stack.names) > 1


def write_samples(x: Tensor, out: Path, shape: tuple[int, int]) -> Path:
    """Samples as a PNG grid, .npz (array `samples`) or .npy, by suffix."""
    import numpy as np

    checks.one_of("suffix of --out", out.suffix, (".png", ".npz", ".npy"))
    if out.suffix == ".png":
        return plots.save(plots.gallery(x, shape), out)

    if tuple(shape) != plots.POINTS:
        x = x.clamp(0.0, 1.0)
    array = x.float().numpy()
    if out.suffix == ".npz":
        return write_npz(out, samples=array)

    content = io.BytesIO()
    np.save(content, array)
    return write_whole(out, content.getvalue())


def sample(
    model: str,
    n: int = 100,
    sampler: str | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "cpu",
    given: list[str] | None = None,
    rounds: int | None = None,
) -> Table:
    """Draw samples from a trained model into a file.

    Samples of a joint model may be drawn given some of its modalities.
    """
    if given is not None:
        return _sample_given(model, given, n, sampler, seed, out, device, rounds)

    if rounds is not None:
        raise ValueError(
            f"--rounds {rounds} is of a clamped chain, which --given NAME=VALUE asks for"
        )
    path = Path("samples.png" if out is None else out)
    checks.one_of("suffix of --out", path.suffix, (".png", ".npz", ".npy"))

    stack = persistence.load(model, device)
    if _has_several_modalities(stack):
        return querying.unconditional(stack, n, sampler, seed, path)

    x = generate(only_generative(stack, model), n, sampler, seed)
    return [f"{n} samples: {write_samples(x, path, shape_of(stack))}"]


def _sample_given(
    model: str,
    given: list[str],
    n: int,
    sampler: str | None,
    seed: int,
    out: str | None,
    device: str,
    rounds: int | None,
) -> Table:
    if sampler is not None:
        raise ValueError(
            f"--sampler {sampler} and --given exclude each other: a clamped chain is what is run"
        )

    if out is None:
        out = "samples.npz"
    if rounds is None:
        rounds = querying.ROUNDS
    return querying.sample(model, given, n, seed, out, device, rounds)


def observed_pixels(mask: str, shape: tuple[int, int], seed: int = 0) -> Tensor:
    """A named mask, or an image file of the model's size: white is given, black is filled in."""
    if mask in MASKS:
        return named_mask(mask, shape, seed)

    path = Path(mask)
    if not path.is_file():
        raise ValueError(
            f"--mask {mask!r} is unknown: neither a file nor one of {', '.join(MASKS)}"
        )

    image = torch.from_numpy(read_image(path).copy())
    if tuple(image.shape) != tuple(shape):
        raise ValueError(
            f"--mask {mask}: {tuple(image.shape)} pixels; the model's images have {shape}"
        )
    return image.flatten() >= 0.5


def inpainting(
    model: str,
    mask: str = "left",
    data: str | None = None,
    root: str | None = None,
    n: int = 10,
    seed: int = 0,
    out: str = "inpainting.png",
    device: str = "cpu",
) -> Table:
    """Fill in the pixels that a mask hides, into a picture: original, masked, filled."""
    checks.whole("--n", n, 1)
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))

    stack = load_generative(model, device)
    shape = shape_of(stack)
    observed = observed_pixels(mask, shape, seed)
    if data:
        x, _ = read_images(data)
    else:
        x = data_of(stack, root=root).split("test").x
    x = checks.width(data or "the data set", x, stack.sizes[0])[:n]

    filled = inpaint(stack, x, observed, seed=seed)
    written = plots.save(plots.inpainting(x, observed, filled, shape), out)

    what = f"white pixels of {mask} are given"
    if mask in MASKS:
        what = f"the {mask} half is given"
    return [f"{len(x)} images, {what}, the rest filled in: {written}"]


def evaluate(
    model: str,
    n: int = 10_000,
    data: str | None = None,
    root: str | None = None,
    seed: int = 0,
    json_file: str | None = None,
    device: str = "cpu",
    sigma_x: float | None = None,
) -> Table:
    """Score a model beside its baselines on test images; sigma is chosen on validation images."""
    checks.whole("--n", n, 1)
    if sigma_x is not None:
        checks.at_least("--sigma-x", sigma_x, 0.0, strict=True)

    stack = load_generative(model, device)
    result = evaluation(stack, data_of(stack, data, root), n, seed, sigma_x)
    if json_file:
        write_json(Path(json_file), result)
    return evaluation_table(result)


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

    rho = diagnostics.autocorrelation(states)
    curve = Path(out).with_name(f"{Path(out).stem}-autocorrelation.png")
    curve_written = plots.save(plots.autocorrelation({sampler: rho}), curve)

    report = diagnostics.chain_report(states, labels)
    return [
        *diagnostics.report_lines(report),
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
    if not isinstance(law, LearnedGaussian):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{model}: the top's noise is {type(law).__name__}; a spectrum needs learned noise, "
            "recognition=LearnedGaussian (KLRule with noise)"
        )

    below = stack.encode(x)[-2]
    mean = stack.pairs[-1].f(below)
    sigma = law.variance(mean, below).mean(0).sqrt()
    signal = diagnostics.signal_dimensions(sigma, mean)
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

    stack = persistence.load(model)
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
    path = persistence.locate(model)
    stack = persistence.load(path)
    lines = [
        f"file        {path} ({path.stat().st_size / 1e6:.1f} MB)",
        f"layers      {_layers_in_words(stack)}",
        f"parameters  {sum(p.numel() for p in stack.parameters()):,}",
    ]

    if isinstance(stack, Classifier):
        lines += discrete_lines(stack)
    else:
        lines.append(f"prior       {stack.prior!r}")

    for name, value in persistence.describe(stack.settings).items():
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
        drawn = isinstance(law, Discrete) and law.stochastic
        kinds.append(f"h_{level} {'drawn' if drawn else 'as bits'}")

    if not kinds:
        return []
    return [f"discrete    {', '.join(kinds)}"]


def checkpoint_of(run: str | Path, which: str = "best") -> Path:
    """The best or last checkpoint of a run folder, or the checkpoint file itself."""
    run = Path(run)
    if run.is_file():
        return run

    checks.one_of("--which", which, ("best", "last"))
    path = run / "checkpoints" / f"{which}.ckpt"
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint of a run at {run}: looked for {path}")
    return path


def export(
    run: str,
    out: str,
    which: str = "best",
    choose_prior: bool = False,
    half: bool = False,
    root: str | None = None,
    n: int = 3000,
) -> Table:
    """Make a model to ship from a run; its Gaussian top may be chosen on validation data first."""
    if Path(out).suffix != ".safetensors":
        raise ValueError(f"--out {out}: a model is exported as .safetensors")
    if Path(out).exists():
        raise FileExistsError(f"--out {out} exists already; name another file")

    stack = persistence.load(checkpoint_of(run, which))
    lines = []
    if choose_prior:
        lines += _choose_prior(stack, run, root, n)
    if not isinstance(stack, Classifier):
        lines.append(f"{stack.prior!r}")
    return [*lines, f"exported: {persistence.save(stack, out, half)}"]


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
    scores = metrics.choose_prior(stack, data.split("train").x, data.split("valid").x, n)
    stack.facts["prior_scores"] = scores
    return [
        f"{name:<24}{score:>10.2f} nats on validation images" for name, score in scores.items()
    ]


def quickstart(out: str = "quickstart", seed: int = 0) -> Table:
    """Train on the embedded digits, then sample, inpaint and evaluate: all of it in one folder."""
    folder = Path(out)
    stack = persistence.load(checkpoint_of(_train_digits(folder / "runs", seed), "last"))
    data = data_of(stack)
    if isinstance(stack.prior, GaussianPrior):
        metrics.choose_prior(stack, data.split("train").x, data.split("valid").x, n=1000)

    result = evaluation(stack, data, n=1000)
    stack.facts["metrics"] = {"parzen_ll": result["parzen_ll"], "sigma": result["sigma"]}
    written = [persistence.save(stack, folder / "model.safetensors")]

    samples = plots.image_grid(generate(stack, 100, seed=seed), data.shape)
    written.append(plots.save(samples, folder / "samples.png"))

    x = data.split("test").x
    observed = torch.cat([named_mask(m, data.shape).expand(5, -1) for m in MASKS[:4]])
    filled = inpaint(stack, x[:20], observed, seed=seed)
    inpainted = plots.inpainting(x[:20], observed, filled, data.shape)
    written.append(plots.save(inpainted, folder / "inpainting.png"))

    trace = plots.trace(metrics.log_joint_trace(stack, x))
    written.append(plots.save(trace, folder / "inference.png"))
    written.append(write_json(folder / "metrics.json", result))
    return [*evaluation_table(result), *(f"written: {path}" for path in written)]


def _train_digits(root: Path, seed: int) -> Path:
    """Train the model of the quick start; the folder of its run."""
    from gendae import fit

    folder = next(folder for folder in config_folders() if folder.is_dir())
    options = {
        "--config": folder / "digits-variational-em.yaml",
        "--seed_everything": seed,
        "--trainer.default_root_dir": root,
        "--trainer.enable_model_summary": "false",
    }

    arguments = ["fit"]
    for option, value in options.items():
        arguments += [option, str(value)]
    return fit.main(arguments)


def config_folders() -> list[Path]:
    """Where gendae's configurations lie: installed, or in a source checkout."""
    package = Path(__file__).parent
    return [package / "configs", package.parent / "configs"]
