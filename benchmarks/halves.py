"""Missing halves: the class of the whole kept as a calibrated guess keeps it, and a right spread.

    python -m benchmarks.halves mnist-kl-parzen --epochs 100
    python -m benchmarks.halves mnist-kl-parzen --prior kl.pt --split test --samples 10

A `DenoisingPrior` is fitted on the codes of a stack (or read: --prior), and halves of images are
filled in through it, by today's inpainter and by chains. Kept: how often the shipped classifier
sees the label in the image with its half filled in. Whoever draws from P(class | half) is right as
often as sum p^2 says, of a classifier of halves trained here, its temperature chosen on the second
half of the validation images; whoever always says the likeliest class is right more often. The
rest: see benchmarks/calibration.py.
"""

import argparse
from functools import partial

import torch
from torch import nn

from benchmarks.calibration import measured, table
from gendae import load
from gendae.commands.common import shape_of
from gendae.commands.data import data_of
from gendae.completion.annealed import AnnealedInpainter
from gendae.completion.completer import Completer
from gendae.completion.inpainting import Inpainter, inpaint, named_mask
from gendae.metrics.report import feature_network
from gendae.priors.denoising import DenoisingPrior
from gendae.priors.fitting import AveragedLearning
from gendae.sampling.samplers import seeded

TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5)


def guess_of_half(train, valid, mask, x, epochs=6):
    """p(class | half) of images x, calibrated."""
    torch.manual_seed(0)
    width = 256
    net = nn.Sequential(
        nn.Dropout(0.1),
        nn.Linear(int(mask.sum()), width),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(width, 10),
    )
    halves = train.x[:, mask]
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-4)
    updates = epochs * -(-len(halves) // 250)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=updates)
    for _ in range(epochs):
        for rows in torch.randperm(len(halves)).split(250):
            loss = nn.functional.cross_entropy(net(halves[rows]), train.y[rows].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    net.eval()
    held_out = valid[len(valid.x) // 2 :]
    with torch.no_grad():
        logits = net(held_out.x[:, mask])
        losses = [nn.functional.cross_entropy(logits / t, held_out.y.long()) for t in TEMPERATURES]
        best = TEMPERATURES[int(torch.stack(losses).argmin())]
        return (net(x[:, mask]) / best).softmax(1)


def chain(completer, stack, x, mask, samples):
    repeated = x.repeat_interleave(samples, 0)
    parts = [completer(stack, part, mask, None, seeded(0)).h for part in repeated.split(1000)]
    return torch.cat(parts).view(len(x), samples, -1)


def inpainter(kind, stack, x, mask, samples):
    filled = inpaint(stack, x.repeat_interleave(samples, 0), mask, kind, seed=0)
    return filled.view(len(x), samples, -1)


METHODS = {
    "Inpainter(), mean of 16": partial(inpainter, Inpainter()),
    "Inpainter(chains=1)": partial(inpainter, Inpainter(chains=1)),
    "Completer.mcmc(20)": partial(chain, Completer.mcmc(20, level=0, begin="noise")),
    "Completer.annealed(20)": partial(chain, Completer.annealed(20, level=0, begin="noise")),
    "AnnealedInpainter()": partial(inpainter, AnnealedInpainter()),
    "AnnealedInpainter(pool=40000)": partial(inpainter, AnnealedInpainter(pool=40_000)),
    "AnnealedInpainter(guide=gradient)": partial(inpainter, AnnealedInpainter(guide="gradient")),
}


def classes(network, images):
    """The class that the network sees in each, (n, samples)."""
    labels = [network(part).argmax(1) for part in images.flatten(0, 1).split(500)]
    return torch.cat(labels).view(images.shape[:2])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--split", default="valid", choices=["valid", "test"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--halves", nargs="*", default=["left", "top"])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--epochs", type=int, default=100, help="of the prior's training")
    parser.add_argument("--seed", type=int, default=0, help="of the prior's training")
    parser.add_argument("--prior", help="state dict of a DenoisingPrior, in the place of training")
    args = parser.parse_args()

    stack = load(args.model)
    data = data_of(stack)
    train, valid = data.split("train"), data.split("valid")
    images = data.split(args.split)[: args.images]
    x, y = images.x, images.y.long()

    prior = DenoisingPrior(learning=AveragedLearning(args.epochs, seed=args.seed))
    if args.prior:
        prior.load_state_dict(torch.load(args.prior))
    else:
        codes = torch.cat([stack.encode(part)[-1].detach() for part in train.x.split(1000)])
        prior.fit(codes)
    stack = stack.under(prior)

    network, _ = feature_network(data)
    for half in args.halves:
        mask = named_mask(half, shape_of(stack))
        p = guess_of_half(train, valid, mask, x)
        right = (p.argmax(1) == y).float().mean().item()
        print(f"{half}: sum p^2 {p.square().sum(1).mean().item():.3f}, likeliest {right:.3f}")

        varies = (train.x.std(0) > 0.1)[~mask]
        for name in args.methods:
            with torch.no_grad():
                filled = METHODS[name](stack, x, mask, args.samples)
                kept = (classes(network, filled) == y[:, None]).float().mean().item()
            missing = filled[..., ~mask]
            row = measured(lambda rows, s=missing: s[rows], x[:, ~mask], varies)
            print(f"{half}: kept {kept:.3f}  {table({name: row})}", flush=True)


if __name__ == "__main__":
    main()
