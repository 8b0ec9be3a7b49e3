"""Samples given a label, from a prior that was fitted given labels: are they of that class?

    gendae prior mnist-kl-parzen ConditionalDenoisingPrior --out given-0.safetensors
    python -m benchmarks.given_labels given-0.safetensors --json docs/results/given-labels.json

As many samples of each class, at several guidances; the class is the one that the shipped
classifier sees. Codes of validation images, decoded, are what a perfect prior gets. LL is the
Parzen score on test images, its bandwidth chosen on validation images; FID is against test
images. `--frozen` fits, beside each model's own prior, one whose network is frozen at random but
for its last layer.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.denoising import RandomFeatures
from gendae import ConditionalDenoisingPrior, load
from gendae.commands.data import data_of
from gendae.metrics.features import load_feature_classifier
from gendae.metrics.parzen import parzen_score
from gendae.metrics.quality import Quality
from gendae.sampling.samplers import AncestralSampler, generate

GUIDANCES = (0.0, 0.25, 0.5, 1.0)
CLASSES = 10


@torch.no_grad()
def agreement(network, images, labels):
    """Share of images that the network sees in their class, and the lowest of any class."""
    seen = torch.cat([network(part).argmax(1) for part in images.split(500)])
    right = (seen == labels).double()
    of_classes = torch.stack([right[labels == c].mean() for c in range(CLASSES)])

    return {"agreed": right.mean().item(), "worst": of_classes.min().item()}


def given_labels(stack, n, guidance, seed):
    """n samples, as many of each class, and the classes."""
    labels = torch.arange(CLASSES).repeat_interleave(n // CLASSES)
    samples = []
    for c in range(CLASSES):
        law = stack.under(stack.prior.given(c, guidance))
        samples.append(generate(law, n // CLASSES, AncestralSampler(), seed=1000 * seed + c))

    return torch.cat(samples), labels


@torch.no_grad()
def decoded(stack, split):
    """Images of a split through the code, and their classes."""
    rows = [stack.reconstruct(part) for part in split.x.split(1000)]
    return torch.cat(rows), split.y.long()


def rows_of(name, stack, data, judge, args, seed):
    """One row for each guidance."""
    network = judge.network
    for guidance in args.guidances:
        x, labels = given_labels(stack, args.n, guidance, seed)
        row = {"prior": name, "seed": seed, "guidance": guidance, **agreement(network, x, labels)}
        if not args.quick:
            shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
            row["fid"] = judge(x)["fid"]
            row["ll"] = parzen_score(shuffled, data.split("test").x, data.split("valid").x)["ll"]
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--guidances", type=float, nargs="+", default=GUIDANCES)
    parser.add_argument("--quick", action="store_true", help="agreement alone")
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    table = []
    judge = None
    for seed, file in enumerate(args.models):
        stack = load(file)
        data = data_of(stack)
        train, valid, test = (data.split(name) for name in ("train", "valid", "test"))
        judge = judge or Quality(train.x, test.x, load_feature_classifier())
        made = [
            {"prior": "ceiling", "seed": seed, **agreement(judge.network, *decoded(stack, valid))}
        ]

        made += rows_of("own", stack, data, judge, args, seed)
        if args.frozen:
            with torch.no_grad():
                codes = torch.cat([stack.encode(part)[-1] for part in train.x.split(1000)])
            prior = ConditionalDenoisingPrior(network=RandomFeatures()).fit(codes, train.y)
            made += rows_of("frozen", stack.under(prior), data, judge, args, seed)

        table += made
        for row in made:
            print(file, " ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        if args.json:
            args.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
