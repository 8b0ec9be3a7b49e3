"""Algorithm 1 with one MLP pair against a plain VAE: same network, weights, data and steps.

    python -m benchmarks.vae --epochs 3 --seeds 0 1 2

Both start from the same weights. The VAE is written out here in plain PyTorch, without anything
of gendae's rules, and draws other noise. Both are scored by the importance-weighted bound on the
first 1,000 test images with 1,000 samples each.
"""

import argparse
import copy

import torch
import torch.nn.functional as F

from gendae import MNIST, GaussianPrior, KLRule, deep_autoencoder, importance_weighted_bound
from gendae.data.loader import TensorLoader
from gendae.rules.rates import Rates

LR = 1e-3


def network(latent=10):
    return deep_autoencoder(
        [784, latent],
        ["linear"],
        observation="bernoulli",
        hidden_f=[512],
        hidden_g=[512],
        noise=0.5,
        noise_of_x=True,
        prior=GaussianPrior("identity", 1.0),
    )


def batches(data, epochs, seed):
    loader = TensorLoader(data.split("train"), 100, shuffle=True, seed=seed)
    for _ in range(epochs):
        for x, _, _ in loader:
            yield x


def plain_vae(stack, stream):
    pair = stack.pairs[0]
    law = pair.recognition
    optimizer = torch.optim.Adam(stack.parameters(), LR)
    for x in stream:
        mu = pair.f(x)
        log_sigma = law.log_sigma + law.of_input(x)
        h = mu + log_sigma.exp() * torch.randn_like(mu)

        reconstruction = F.binary_cross_entropy(pair.g(h), x, reduction="none").sum(1)
        kl = -0.5 * (1 + 2 * log_sigma - mu**2 - (2 * log_sigma).exp()).sum(1)

        optimizer.zero_grad()
        (reconstruction + kl).mean().backward()
        optimizer.step()


def algorithm_1(stack, stream):
    rule = KLRule(stack, rates=Rates(f=LR, g=LR))
    optimizer = rule.configure_optimizers()
    for x in stream:
        optimizer.zero_grad()
        sum(rule.losses((x,)).values()).backward()
        optimizer.step()


def bounds_of(data, x, epochs, seed):
    """Bounds of Algorithm 1 and of the plain VAE after training from the same weights."""
    torch.manual_seed(seed)
    ours = network()
    theirs = copy.deepcopy(ours)

    bounds = []
    for train, stack, noise in ((algorithm_1, ours, 1), (plain_vae, theirs, 2)):
        torch.manual_seed(1000 * noise + seed)
        train(stack, batches(data, epochs, seed))
        generator = torch.Generator().manual_seed(0)
        bounds.append(importance_weighted_bound(stack, x, generator=generator).mean().item())

    return bounds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()

    data = MNIST()
    x = data.split("test").x[:1000]

    differences = []
    for seed in args.seeds:
        ours, theirs = bounds_of(data, x, args.epochs, seed)
        differences.append(ours - theirs)
        print(
            f"seed {seed}: Algorithm 1 {ours:.2f}, plain VAE {theirs:.2f}, difference "
            f"{differences[-1]:+.2f} nats",
            flush=True,
        )

    mean = torch.tensor(differences).mean()
    print(f"mean difference {mean:+.2f} nats over {len(differences)} seeds")


if __name__ == "__main__":
    main()
