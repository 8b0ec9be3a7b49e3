"""What the commands of `gendae` do, as plain functions: they return what the command line prints."""

import io
import json
from pathlib import Path

import torch
from torch import Tensor

import gendae.shards
import gendae.toys  # noqa: F401 - both register data sets that models may name
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
        ValueError: if the file says nothing of a data set.
    """
    if file is not None:
        data: ImageData = Images(file, shape=stack.facts.get("shape"))
    else:
        spec = stack.facts.get("dataset")
        if spec is None:
            raise ValueError(
                "the model does not say what it was trained on; name images with --data"
            )
        data = build(located(spec, root))
    try:
        x = data.split("test").x
    except FileNotFoundError as error:
        if file is not None:
            raise
        raise FileNotFoundError(f"{error}; or name your own images with --data") from None
    checks.width(file or "the data set", x, stack.sizes[0])
    return data


def located(spec: dict, root: str | None) -> dict:
    """A described data set that looks for MNIST in a folder, if one is named."""
    if root and spec["type"] == "MNIST":
        return {**spec, "root": root}
    return {**spec, "source": located(spec["source"], root)} if "source" in spec else spec


def shape_of(stack: Stack) -> tuple[int, int]:
    """Height and width of the model's images."""
    shape = next(iter(stack.facts.get("shapes", {}).values()), stack.facts.get("shape"))
    return image_shape(stack.sizes[0], shape)


def load_generative(model: str, device: str = "cpu") -> Stack:
    """A trained model that images can be drawn from.

    Raises:
        ValueError: for a classifier, whose layers were trained for labels, and a model of several modalities.
    """
    stack = persistence.load(model, device)
    if isinstance(stack, JointStack) and len(stack.names) > 1:
        raise ValueError(
            f"{model} has several modalities ({stack.described()}); use `gendae sample`, `gendae complete` and "
            "`gendae predict`"
        )
    if isinstance(stack, Classifier):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{model} is a classifier trained for labels, not a model of images; use `gendae predict` for labels of "
            "images and `gendae test` for its test error"
        )
    return stack


def write_samples(x: Tensor, out: Path, shape: tuple[int, int]) -> Path:
    """Samples as a PNG grid, .npz (array `samples`) or .npy, by suffix."""
    import numpy as np

    checks.one_of("suffix of --out", out.suffix, (".png", ".npz", ".npy"))
    if out.suffix == ".png":
        return plots.save(plots.gallery(x, shape), out)
    array = (x if tuple(shape) == plots.POINTS else x.clamp(0.0, 1.0)).float().numpy()
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
    """Draw samples from a trained model into a file; of a joint model, given some of its modalities."""
    out = ("samples.png" if given is None else "samples.npz") if out is None else out
    path = Path(out)
    if given is not None:
        if sampler is not None:
            raise ValueError(
                f"--sampler {sampler} and --given exclude each other: a clamped chain is what is run"
            )
        return querying.sample(
            model, given, n, seed, out, device, querying.ROUNDS if rounds is None else rounds
        )
    if rounds is not None:
        raise ValueError(
            f"--rounds {rounds} is of a clamped chain, which --given NAME=VALUE asks for"
        )
    checks.one_of("suffix of --out", path.suffix, (".png", ".npz", ".npy"))
    stack = persistence.load(model, device)
    if isinstance(stack, JointStack) and len(stack.names) > 1:
        return querying.unconditional(stack, n, sampler, seed, path)
    stack = load_generative(model, device)
    x = generate(stack, n, sampler, seed)
    return [f"{n} samples: {write_samples(x, path, shape_of(stack))}"]


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
    checks.at_least("--n", n, 1)
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))
    stack = load_generative(model, device)
    shape = shape_of(stack)
    observed = observed_pixels(mask, shape, seed)
    x = read_images(data)[0] if data else data_of(stack, root=root).split("test").x
    x = checks.width(data or "the data set", x, stack.sizes[0])[:n]
    filled = inpaint(stack, x, observed, seed=seed)
    written = plots.save(plots.inpainting(x, observed, filled, shape), out)
    what = f"the {mask} half is given" if mask in MASKS else f"white pixels of {mask} are given"
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
    checks.at_least("--n", n, 1)
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
    """How well a Markov chain mixes: printed, and drawn as states (one row for a chain) or autocorrelation."""
    checks.at_least("--n", n, 1)
    checks.at_least("--steps", steps, 1)
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))
    stack = load_generative(model, device)
    own = sampler_named(stack, sampler)
    if level is not None:
        own = LevelSampler(level)
    states = torch.stack([x.cpu() for x in chain_states(stack, own, n, steps, seeded(seed))])
    labels = None
    dataset = (stack.facts.get("dataset") or {}).get("type")
    if dataset == "MNIST":
        network = load_feature_classifier()
        labels = torch.stack([network(x.clamp(0.0, 1.0)).argmax(1) for x in states])
    shown = states[:20, :10].transpose(0, 1)
    written = [
        plots.save(
            plots.picture(plots.tile(shown.flatten(0, 1), shape_of(stack), shown.shape[1])), out
        )
    ]
    curve = Path(out).with_name(f"{Path(out).stem}-autocorrelation.png")
    rho = diagnostics.autocorrelation(states)
    written.append(plots.save(plots.autocorrelation({sampler: rho}), curve))
    return [
        *diagnostics.report_lines(diagnostics.chain_report(states, labels)),
        *(f"written: {path}" for path in written),
    ]


@torch.no_grad()
def spectrum(
    model: str, root: str | None = None, out: str = "spectrum.png", device: str = "cpu"
) -> Table:
    """Noise of each top-level dimension, and the number of signal dimensions it suggests (2014, 7.4)."""
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))
    stack = load_generative(model, device)
    law, x = (
        stack.pairs[-1].recognition,
        data_of(stack, root=root).split("valid").x.to(stack.device),
    )
    if not isinstance(law, LearnedGaussian):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{model}: the top's noise is {type(law).__name__}; a spectrum needs learned noise, "
            "recognition=LearnedGaussian (KLRule with noise)"
        )
    below = stack.encode(x)[-2]
    mean = stack.pairs[-1].f(below)
    sigma = law.variance(mean, below).mean(0).sqrt()
    found = diagnostics.signal_dimensions(sigma, mean)
    path = plots.save(plots.spectrum(found.sigma, found.count), out)
    shares = " ".join(f"{s:.3f}" for s in found.sigma.tolist())
    total = f"{found.information.sum():.1f} nats in all"
    return [
        f"noise as a share of each dimension's deviation: {shares}",
        f"signal dimensions: {found.count} of {len(found.sigma)}, {total}",
        f"written: {path}",
    ]


@torch.no_grad()
def filters(
    model: str, n: int = 100, level: int = 1, seed: int = 0, out: str = "filters.png"
) -> Table:
    """Incoming weights of n random units of layer l as images, each on its own scale (thesis, Figure 3.4)."""
    checks.at_least("--n", n, 1)
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))
    stack = persistence.load(model)
    if not 1 <= level <= stack.depth:
        raise ValueError(f"--level {level} is not in 1 .. {stack.depth}")
    f = stack.pairs[level - 1].f
    weight = getattr(f, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(
            f"{model}: f_{level} is {type(f).__name__}, which has no weight matrix to show; filters need "
            "an affine layer"
        )
    chosen = weight[torch.randperm(len(weight), generator=seeded(seed))[:n]]
    shape = shape_of(stack) if level == 1 else image_shape(weight.shape[1])
    return [
        f"{len(chosen)} of {len(weight)} units of h_{level}: {plots.save(plots.filters(chosen, shape), out)}"
    ]


def info(model: str) -> Table:
    """What a model file holds."""
    path = persistence.locate(model)
    stack = persistence.load(path)
    layers = " - ".join(
        [str(stack.sizes[0])] + [f"{p.f.out_features} {p.f.activation}" for p in stack.pairs]
    )
    if isinstance(stack, Classifier):
        layers += f" - {stack.classes} classes"
    if isinstance(stack, JointStack):
        layers += f" (level {stack.level} holds the codes of {stack.described()})"
    lines = [
        f"file        {path} ({path.stat().st_size / 1e6:.1f} MB)",
        f"layers      {layers}",
        f"parameters  {sum(p.numel() for p in stack.parameters()):,}",
        *(
            discrete_lines(stack)
            if isinstance(stack, Classifier)
            else [f"prior       {stack.prior!r}"]
        ),
    ]
    for name, value in persistence.describe(stack.settings).items():
        lines.append(f"{name:<11} {json.dumps(value)}")
    for name, value in stack.facts.items():
        lines.append(f"{name:<11} {value if isinstance(value, str) else json.dumps(value)}")
    return lines


def discrete_lines(stack: Classifier) -> Table:
    """The levels whose units send bits or draws, if there are any."""
    laws = {level: stack.pairs[level - 1].recognition for level in stack.discrete_levels}
    kinds = [
        f"h_{level} {'drawn' if isinstance(law, Discrete) and law.stochastic else 'as bits'}"
        for level, law in laws.items()
    ]
    return [f"discrete    {', '.join(kinds)}"] if kinds else []


def checkpoint_of(run: str | Path, which: str = "best") -> Path:
    """The best or last checkpoint of a run folder, or the checkpoint file itself."""
    run = Path(run)
    if run.is_file():
        return run
    path = run / "checkpoints" / f"{checks.one_of('--which', which, ('best', 'last'))}.ckpt"
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
    if choose_prior and isinstance(stack, Classifier):
        raise ValueError(
            f"--choose-prior: {run} is a classifier, which has no prior; export it without"
        )
    if choose_prior and isinstance(stack, JointStack):
        raise ValueError(
            f"--choose-prior: {run} is a joint model, whose samples have no score of their own; export it without"
        )
    if choose_prior and not isinstance(stack.prior, GaussianPrior):
        raise ValueError(
            f"--choose-prior chooses among Gaussian tops, and {run} has a "
            f"{type(stack.prior).__name__}: export it without"
        )
    if choose_prior:
        data = data_of(stack, root=root)
        scores = metrics.choose_prior(stack, data.split("train").x, data.split("valid").x, n)
        stack.facts["prior_scores"] = scores
        lines += [
            f"{name:<24}{ll:>10.2f} nats on validation images" for name, ll in scores.items()
        ]
    if not isinstance(stack, Classifier):
        lines.append(f"{stack.prior!r}")
    return [*lines, f"exported: {persistence.save(stack, out, half)}"]


def quickstart(out: str = "quickstart", seed: int = 0) -> Table:
    """Train on the embedded digits, then sample, inpaint and evaluate: all of it in one folder."""
    from gendae import fit

    folder = Path(out)
    config = next(c for c in config_folders() if c.is_dir()) / "digits-variational-em.yaml"
    run = fit.main(
        [
            "fit",
            "--config",
            str(config),
            "--seed_everything",
            str(seed),
            "--trainer.default_root_dir",
            str(folder / "runs"),
            "--trainer.enable_model_summary",
            "false",
        ]
    )
    stack = persistence.load(checkpoint_of(run, "last"))
    data = data_of(stack)
    if isinstance(stack.prior, GaussianPrior):
        metrics.choose_prior(stack, data.split("train").x, data.split("valid").x, n=1000)
    x = data.split("test").x
    result = evaluation(stack, data, n=1000)
    stack.facts["metrics"] = {"parzen_ll": result["parzen_ll"], "sigma": result["sigma"]}
    observed = torch.cat([named_mask(m, data.shape).expand(5, -1) for m in MASKS[:4]])
    written = [
        persistence.save(stack, folder / "model.safetensors"),
        plots.save(
            plots.image_grid(generate(stack, 100, seed=seed), data.shape), folder / "samples.png"
        ),
        plots.save(
            plots.inpainting(
                x[:20], observed, inpaint(stack, x[:20], observed, seed=seed), data.shape
            ),
            folder / "inpainting.png",
        ),
        plots.save(plots.trace(metrics.log_joint_trace(stack, x)), folder / "inference.png"),
        write_json(folder / "metrics.json", result),
    ]
    return [*evaluation_table(result), *(f"written: {path}" for path in written)]


def config_folders() -> list[Path]:
    """Where the configurations that come with gendae lie: installed, or in a source checkout."""
    package = Path(__file__).parent
    return [package / "configs", package.parent / "configs"]
