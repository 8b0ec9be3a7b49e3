"""Two-dimensional toys: vector field, density and samples of every prior; denoising and the score.

    python -m benchmarks.toys [--out docs/toys.png] [--n 4000] [--epochs 300]
    python -m benchmarks.toys --score [--out docs/score.png] [--seeds 3] [--steps 10000]

--score measures how well denoising gives the score: a denoising pair is trained on 25 Gaussians
(deviation 0.15) under Gaussian noise of sigma = 0.1. On test points corrupted by that noise,
(reconstruction - input) / sigma^2 is compared with the true score there (Bengio 2014, 2.2.4):
mean cosine, and the slope of the estimate against the truth (1: the factor is right).
"""

import argparse
import math
import time

import torch

from gendae import plots
from gendae.data.toys import DISTRIBUTIONS, Toys2D
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair
from gendae.plots import Figure
from gendae.priors.autoencoder import AutoencoderPrior, Learning, Walk
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.manifold import ManifoldParzenPrior
from gendae.priors.parzen import ParzenPrior
from gendae.sampling.samplers import seeded

NOISE = 0.15
SIGMA = 0.1
GAIN = 5.0


def priors(epochs):
    """Priors to draw, by title."""
    return {
        "Gaussian": GaussianPrior("full", variance_scale=1.0),
        "Parzen": ParzenPrior(),
        "Manifold Parzen": ManifoldParzenPrior(components=1),
        "denoising auto-encoder": AutoencoderPrior(
            hidden=[64],
            code=64,
            sigma=0.1,
            learning=Learning(epochs, lr=0.01, batch_size=200),
            walk=Walk(steps=50, residual=1.0),
        ),
    }


@torch.no_grad()
def steepen(prior):
    """Larger initial weights of the encoder: the field turns within a tenth of the range."""
    prior.prepare(2)
    for weight in prior.f.parameters():
        weight.mul_(GAIN)


def draw_priors(n, epochs):
    """One panel for each distribution (rows) and prior (columns)."""
    titles = list(priors(epochs))
    figure = Figure(
        figsize=(3 * len(titles), 3 * len(DISTRIBUTIONS)), dpi=100, layout="constrained"
    )
    axes = figure.subplots(len(DISTRIBUTIONS), len(titles), squeeze=False)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)

    for row, kind in zip(axes, DISTRIBUTIONS, strict=True):
        data = Toys2D(kind, n=n)
        for ax, (title, prior) in zip(row, priors(epochs).items(), strict=True):
            print(f"{kind:10} {title:24} {draw_prior(ax, prior, data)}", flush=True)

        row[0].set_ylabel(kind, fontsize=12)

    return figure


def draw_prior(ax, prior, data):
    """Fits a prior to the points and draws it; how long that took, and how well it fits."""
    x = data.split("train").x
    start = time.perf_counter()
    if isinstance(prior, AutoencoderPrior):
        steepen(prior)

    prior.fit(x)
    samples = prior.sample(400, seeded(0))
    log_density = prior.log_prob if prior.has_density else None
    plots.draw_field(ax, prior.reconstruct, x[:1500], samples, log_density)

    line = f"{time.perf_counter() - start:5.1f} s"
    if prior.has_density:
        line += f"   log p(test) {prior.log_prob(data.split('test').x).mean():.3f} nats"

    return line


def train(data, steps, seed, lr=0.01, batch=500):
    """A pair that removes noise of level SIGMA from points, trained by gradients in the pair."""
    torch.manual_seed(seed)
    pair = Pair(MLP(2, [64], 64, "tanh", "tanh", gain=GAIN), MLP(64, [64], 2, "linear", "tanh"))
    optimizer = torch.optim.Adam(pair.parameters(), lr=lr)
    x = data.split("train").x

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        clean = x[torch.randint(len(x), (batch,))]
        noisy = torch.add(clean, torch.randn_like(clean), alpha=SIGMA)

        optimizer.zero_grad()
        pair.observation.energy(clean, pair.g(pair.f(noisy))).mean().backward()
        optimizer.step()

    return pair


def agreement(pair, data):
    """Mean cosine with the true score, with that of the corrupted density, and the slope."""
    clean = data.split("test").x
    noisy = torch.add(clean, torch.randn_like(clean), alpha=SIGMA)
    with torch.no_grad():
        estimate = (pair.g(pair.f(noisy)) - noisy) / SIGMA**2

    corrupted = Toys2D("gaussians", noise=math.hypot(NOISE, SIGMA))
    smooth = corrupted.score(noisy)
    cosine = torch.cosine_similarity(estimate, data.score(noisy)).mean().item()
    smooth_cosine = torch.cosine_similarity(estimate, smooth).mean().item()
    slope = ((estimate * smooth).sum() / smooth.square().sum()).item()
    return cosine, smooth_cosine, slope


def draw_score(pair, data):
    """The estimated field beside the true one, in the middle of the grid."""
    figure = Figure(figsize=(10, 5.4), dpi=100, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    panels = {
        "(reconstruction $-$ input) / $\\sigma^2$": lambda h: (
            h + (pair.g(pair.f(h)) - h) / SIGMA**2
        ),
        "true score, $\\partial\\, \\log p(x) / \\partial x$": lambda h: h + data.score(h),
    }

    x = data.split("train").x
    x = x[(x.abs() < 1.4).all(1)][:2000]
    for ax, (title, field) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        plots.draw_field(ax, field, x, log_density=data.log_prob, cells=31)
        ax.set_title(title)

    return figure


def score(seeds, steps, out):
    for seed in range(seeds):
        data = Toys2D("gaussians", n=50_000, noise=NOISE, seed=seed)
        start = time.perf_counter()
        pair = train(data, steps, seed)
        cosine, smooth, slope = agreement(pair, data)
        print(
            f"seed {seed}: cosine {cosine:.4f} with the score of the data's density, "
            f"{smooth:.4f} with that of the corrupted one, slope {slope:.3f}, "
            f"{time.perf_counter() - start:.1f} s",
            flush=True,
        )
        if seed == 0:
            print(plots.save(draw_score(pair, data), out))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--out")
    args = parser.parse_args()

    if args.score:
        score(args.seeds, args.steps, args.out or "docs/score.png")
        return

    torch.manual_seed(0)
    figure = draw_priors(args.n, args.epochs)
    print(plots.save(figure, args.out or "docs/toys.png"))


if __name__ == "__main__":
    main()
