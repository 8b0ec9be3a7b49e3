"""A training step of the variational auto-encoder: gendae's KLRule against pythae's VAE.

    pip install pythae && python -m benchmarks.pythae_vae [--repeats 100] [--json FILE]

784-512-latent MLPs on both sides, batches of 100, Adam(W); pythae's own `VAE.forward`, loss and
backward pass, without its trainer, so that both sides are a step and nothing else. In turns in
one run.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.floor import MatrixProducts, interleaved
from benchmarks.vae import network
from gendae import KLRule


def ours(latent):
    stack = network(latent)
    rule = KLRule(stack)
    optimizer = rule.configure_optimizers()

    def step(x):
        optimizer.zero_grad(set_to_none=True)
        sum(rule.losses((x,)).values()).backward()
        optimizer.step()

    return step, sum(p.numel() for p in stack.parameters())


def theirs(latent):
    from pythae.models import VAE, VAEConfig

    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=latent, reconstruction_loss="bce"))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.0, fused=True)

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

    torch.manual_seed(0)
    x = torch.rand(100, 784)
    calls = {}
    row = {}
    for name, make in (("gendae", ours), ("pythae", theirs)):
        step, row[f"{name}_parameters"] = make(args.latent)
        with MatrixProducts() as products:
            step(x)
        calls |= {name: lambda step=step: step(x), f"{name}_floor": products.replay}

    row |= {f"{name}_ms": 1e3 * s for name, s in interleaved(calls, args.repeats).items()}
    row["gendae_over_pythae"] = row["gendae_ms"] / row["pythae_ms"]
    print(", ".join(f"{k} {v:.4g}" for k, v in row.items()))

    if args.json:
        args.json.write_text(json.dumps([row], indent=1) + "\n")


if __name__ == "__main__":
    main()
