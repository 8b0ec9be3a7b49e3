"""A training step of the variational auto-encoder: gendae's KLRule against pythae's VAE.

    pip install pythae && python -m benchmarks.pythae_vae [--repeats 100] [--json FILE]

The same network on both sides, 784-512-latent and back, mean and log variance of the code both
read from the hidden layer; batches of 100, AdamW. pythae's own `VAE.forward`, loss and backward
pass, without its trainer, so that both sides are a step and nothing else. In turns in one run.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.floor import MatrixProducts, interleaved
from gendae import Affine, Bernoulli, GaussianPrior, KLRule, LearnedGaussian, Pair, Stack
from gendae.laws import Gaussian
from gendae.rules.rates import Rates
from gendae.training.memory import keep_freed_memory

LR = 1e-3


def network(latent):
    """pythae's: h_1 is deterministic, and the top's noise depends on h_1."""
    hidden = Pair(
        Affine(784, 512, "relu"),
        Affine(512, 784, "sigmoid"),
        observation=Bernoulli(),
        recognition=Gaussian(stochastic=False),
    )
    code = Pair(
        Affine(512, latent),
        Affine(latent, 512, "relu"),
        recognition=LearnedGaussian(latent, given=512),
    )

    return Stack(hidden, code, prior=GaussianPrior("identity", 1.0))


def ours(latent):
    stack = network(latent)
    rule = KLRule(stack, alpha=1.0, intermediate=False, rates=Rates(f=LR, g=LR))
    optimizer = rule.configure_optimizers()

    def step(x):
        optimizer.zero_grad(set_to_none=True)
        rule.total_loss((x,)).backward()
        optimizer.step()

    return step, sum(p.numel() for p in stack.parameters())


def theirs(latent):
    from pythae.models import VAE, VAEConfig

    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=latent, reconstruction_loss="bce"))
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.0, fused=True)

    def step(x):
        optimizer.zero_grad(set_to_none=True)
        model({"data": x.view(-1, 1, 28, 28)}).loss.backward()
        optimizer.step()

    return step, sum(p.numel() for p in model.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    keep_freed_memory()  # as `gendae fit` does
    torch.manual_seed(0)
    x = torch.rand(100, 784)
    calls = {}
    row = {}
    for name, make in (("gendae", ours), ("pythae", theirs)):
        step, row[f"{name}_parameters"] = make(args.latent)
        with MatrixProducts() as products:
            step(x)
        calls |= {name: lambda step=step: step(x), f"{name}_floor": products.replay}

    row |= {f"{name}_ms": 1e3 * s for name, s in interleaved(calls, args.repeats, burst=5).items()}
    row["gendae_over_pythae"] = row["gendae_ms"] / row["pythae_ms"]
    print(", ".join(f"{k} {v:.4g}" for k, v in row.items()))

    if args.json:
        args.json.write_text(json.dumps([row], indent=1) + "\n")


if __name__ == "__main__":
    main()
