"""Sigmoid belief nets of binary MNIST by wake-sleep, its reweighted form, and the other rules.

    python -m benchmarks.wake_sleep --rules ws rws --epochs 3 --seeds 0 1 2

The same net, weights at the start, images and updates. Pixels are drawn once, as bits, by their
grey values. Scored by the importance-weighted bound on the last training images, which no rule
has seen.
"""

import argparse
import time
from pathlib import Path

import torch

import gendae
from gendae import plots
from gendae.data.loader import Split, TensorLoader

RULES = {
    "ws": gendae.WakeSleepRule,
    "rws": gendae.ReweightedWakeSleepRule,
    "rws, wake": lambda stack, **o: gendae.ReweightedWakeSleepRule(stack, sleep=0.0, **o),
    "rws, sleep": lambda stack, **o: gendae.ReweightedWakeSleepRule(stack, sleep=1.0, **o),
    "kl": lambda stack, **o: gendae.KLRule(stack, alpha=1.0, **o),
    "tp": lambda stack, **o: gendae.TargetPropRule(stack, gendae.DifferenceLoop(start=500), **o),
}

#: Images whose bound is the score, and draws of q for each.
SCORED = 500
DRAWS = 100


def network(sizes):
    """A sigmoid belief net under independent bits."""
    return gendae.deep_autoencoder(
        [784, *sizes],
        observation="bernoulli",
        units="binary",
        stochastic=True,
        prior=gendae.FactorialPrior("bernoulli", flat=False),
    )


def bits(x, seed=0):
    """Pixels drawn by their grey values, once."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(x.shape, generator=generator) < x).to(x)


def train(rule, x, epochs, batch, seed):
    """Updates as a Trainer makes them, with a fit of the prior at the end of each epoch."""
    loader = TensorLoader(Split(x), batch, shuffle=True, seed=seed)
    optimizer = rule.configure_optimizers()
    generator = torch.Generator().manual_seed(seed)
    done = 0
    for _ in range(epochs):
        for rows in loader:
            progress = done / (epochs * len(loader))
            moment = gendae.Moment(progress, generator, done)
            if rule.prior_in_losses is not None:
                rule.prior_fit.follow(rule, rows, rule.prior_in_losses, moment)

            rule.begin_update(optimizer, moment)
            optimizer.zero_grad()
            sum(rule.losses(rows, moment).values()).backward()
            optimizer.step()
            done += 1

        rule.fit_prior([(part,) for part in x.split(1000)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=["ws", "rws", "kl", "tp"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[200, 200])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, help="folder for pictures of samples")
    args = parser.parse_args()

    grey = gendae.MNIST().split("train").x
    x = bits(grey[: args.images])
    held_out = bits(grey[-SCORED:], seed=1)

    for name in args.rules:
        for seed in args.seeds:
            torch.manual_seed(seed)
            stack = network(args.sizes)
            rule = RULES[name](stack, rates=gendae.Rates(f=args.lr, g=args.lr))

            start = time.perf_counter()
            train(rule, x, args.epochs, args.batch, seed)
            seconds = time.perf_counter() - start

            generator = torch.Generator().manual_seed(0)
            bound = gendae.importance_weighted_bound(
                stack, held_out, k=DRAWS, generator=generator
            ).mean()
            if args.out is not None:
                x_hat = gendae.generate(stack, 64, seed=0)
                plots.save(plots.image_grid(x_hat, (28, 28)), args.out / f"{name}-{seed}.png")

            print(f"{name}, seed {seed}: {bound:.2f} nats, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
