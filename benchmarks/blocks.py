"""Blocks that own a band of noise each, beside their controls, on the 8 x 8 digits.

    python -m benchmarks.blocks [images labels] [--seeds 0 1 2] [--json docs/results/blocks.json]
    python -m benchmarks.blocks labels --only "two blocks" --mnist --epochs 15
    python -m benchmarks.blocks convolutions --epochs 2 --seeds 0

Images: a generative model of x. LL is the Parzen score of 1,000 samples in nats, its bandwidth
chosen on validation images; FID is in pixels; both against test images. Labels: a classifier,
whose errors are on test images. Convolutions: the classifier of configs/mnist-blocks-conv.yaml.
The controls have the same networks:

    at random           only the last layer of each block learns
    back-propagation    one loss, through the chain of all blocks

`--valid` scores validation images, by which hyper-parameters were chosen.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import EMAWeightAveraging

import gendae
from benchmarks.stability import trainer_of
from gendae.metrics.parzen import parzen_score
from gendae.metrics.quality import PixelFeatures, frechet_distance
from gendae.models.blocks import bands_of
from gendae.models.classifier import error_of
from gendae.priors.denoiser import denoised
from gendae.rules.moment import Moment
from gendae.training.configurations import build, read_config

SAMPLES = 1000
EPOCHS = {"images": 80, "labels": 30, "convolutions": 12}
SAMPLER = gendae.DescentSampler(gendae.HeunDescent(18, stop=0.1))
#: Noise on x in the training of classifiers.
MASK = 0.25
CONVOLUTIONS = "mnist-blocks-conv"


# -- images --------------------------------------------------------------------------------------


def generative(blocks, width=128, layers=2):
    return gendae.denoising_blocks(64, blocks, network=gendae.LevelMLP(width, layers))


class LastLayers(gendae.DenoisingBlocksRule):
    """All but the last layer of each block stays as it was drawn."""

    def __init__(self, stack: gendae.Stack, **options):
        super().__init__(stack, **options)
        for pair in self.stack.pairs:
            pair.g.network.requires_grad_(False)
            pair.g.network.leave.requires_grad_(True)


class WholeChain(gendae.DenoisingBlocksRule):
    """The loss of what all blocks below a level come to, by back-propagation through them.

    D(z; s) is now that of the chain: z goes down band by band, and is x at its end.
    """

    def losses(self, batch, moment=Moment()):
        (x, *_) = batch
        bands = bands_of("stack", self.stack)
        owner = int(torch.randint(len(bands), (), generator=moment.draws))

        band = bands[owner]
        sigma = band.levels.draw(len(x), moment.draws, band.shares).to(x)[:, None]
        noise = torch.randn(x.shape, generator=moment.draws)
        end = through(bands[: owner + 1], x + sigma * noise, sigma)

        v = band.spread**2
        weight = (v + sigma**2) / (v * sigma**2)
        return {f"denoise_g_{owner + 1}": (weight * (end - x) ** 2).mean()}


def through(bands, z, sigma):
    """x from z of level s, (batch, 1), through all bands below."""
    for band in reversed(bands):
        x = denoised(band.network, z, sigma, band.variances(z))
        z = x + (band.low / sigma) * (z - x)
        sigma = torch.full_like(sigma, band.low)

    return z


def samples_of(rule, seed):
    """Of the blocks; or by the descent of the chain as one denoiser."""
    if not isinstance(rule, WholeChain):
        return gendae.generate(rule.stack, SAMPLES, SAMPLER, seed=seed)

    bands = bands_of("stack", rule.stack)

    def denoise(z, level):
        owner = sum(level >= band.high for band in bands[:-1])
        return through(bands[: owner + 1], z, torch.full((len(z), 1), level))

    generator = torch.Generator().manual_seed(seed)
    codes = rule.stack.prior.sample(SAMPLES, generator)
    descent = gendae.HeunDescent(18, bands[-1].high, SAMPLER.descent.stop)

    return descent(denoise, codes, generator)


def scores_of_images(rule, data, held_out, seed):
    x = samples_of(rule, seed)
    valid = data.split("valid").x
    against = data.split(held_out).x
    features = PixelFeatures()

    return {
        "LL": parzen_score(x, against, valid)["ll"],
        "FID": frechet_distance(features.features(against), features.features(x)),
    }


RATES = gendae.Rates(f=2e-3, g=2e-3, decline="cosine")
ALONE = partial(gendae.DenoisingBlocksRule, rates=RATES)
IMAGES: dict[str, Callable] = {
    "three blocks, each alone": lambda data: ALONE(generative(3)),
    "in turn": lambda data: ALONE(generative(3), schedule="in turn"),
    "one block": lambda data: ALONE(generative(1)),
    "one block, as many weights": lambda data: ALONE(generative(1, 244)),
    "three blocks at random, their last layers learn": lambda data: LastLayers(
        generative(3), rates=RATES
    ),
    "three blocks, back-propagation through the chain": lambda data: WholeChain(
        generative(3), rates=RATES
    ),
}


# -- labels --------------------------------------------------------------------------------------


def classifier(data, blocks, **options):
    width = data.split("train").x.shape[1]
    sizes = [64, 200, 100] if width == 64 else [784, 500, 250]
    return gendae.denoising_classifier(sizes, blocks=blocks, **options)


class OutputAlone(gendae.DenoisingLabelsRule):
    """Encoders of x stay as they were drawn, and all of each block but its last layer."""

    def __init__(self, stack: gendae.Classifier, **options):
        super().__init__(stack, **options)
        for pair in self.stack.pairs:
            pair.f.requires_grad_(False)
            pair.f.band.network.leave.requires_grad_(True)


OPTIONS = {"rates": gendae.Rates(f=1e-3, decline="cosine")}


def noisy():
    return {**OPTIONS, "input_corruption": gendae.MaskingNoise(MASK)}


def labels_by(rule, blocks=2, **options):
    return lambda data: rule(classifier(data, blocks, **options), **noisy())


LABELS: dict[str, Callable] = {
    "two blocks": labels_by(gendae.DenoisingLabelsRule),
    "one block": labels_by(gendae.DenoisingLabelsRule, 1),
    "four blocks": labels_by(gendae.DenoisingLabelsRule, 4),
    "two blocks, 8 guesses": labels_by(gendae.DenoisingLabelsRule, guesses=8),
    "two blocks at random, their last layers learn": labels_by(OutputAlone),
    "two blocks, back-propagation through the chain": labels_by(gendae.BackpropRule),
}


def scores_of_labels(rule, data, held_out, seed):
    x, y, _ = data.split(held_out)
    answer = rule.stack.log_probability(x)
    first = first_answer(rule.stack, x)

    return {
        "error %": 100 * float(error_of(answer, y)),
        "of the first layer alone %": 100 * float(error_of(first, y)),
        "nats": float(torch.nn.functional.nll_loss(answer, y)),
    }


@torch.no_grad()
def first_answer(stack, x):
    """D of the highest level, from the mean of noise: what x says by the first layer alone."""
    block = stack.pairs[0].f
    nothing = x.new_zeros(len(x), block.band.features)
    return block.band.denoise(nothing, block.band.high, block.encoder(x))


# -- labels by convolutions ----------------------------------------------------------------------


def convolutional(cls):
    """The network and the rates of the configuration, by a rule."""
    config = read_config(CONVOLUTIONS)
    config["model"]["class_path"] = f"{cls.__module__}.{cls.__qualname__}"
    rule, _ = build(config, [])

    return rule


BY_CONVOLUTIONS: dict[str, Callable] = {
    "two blocks": lambda data: convolutional(gendae.DenoisingLabelsRule),
    "two blocks at random, their last layers learn": lambda data: convolutional(OutputAlone),
    "two blocks, back-propagation": lambda data: convolutional(gendae.BackpropRule),
}


# -- tables --------------------------------------------------------------------------------------

GROUPS = {
    "images": (IMAGES, scores_of_images, 0.99),
    "labels": (LABELS, scores_of_labels, 0.99),
    "convolutions": (BY_CONVOLUTIONS, scores_of_labels, 0.999),
}


def trained(make, data, epochs, seed, average):
    seed_everything(seed, verbose=False)
    rule = make(data)
    trainer_of(epochs, [EMAWeightAveraging(decay=average)]).fit(rule, data)

    return rule.eval()


def data_for(group, mnist):
    if group == "convolutions":
        return build(read_config(CONVOLUTIONS), [])[1]

    return gendae.MNIST() if mnist else gendae.Digits(batch_size=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", default=["images", "labels"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="rows, by their beginnings")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--mnist", action="store_true")
    parser.add_argument("--valid", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    held_out = "valid" if options.valid else "test"
    table = {}
    for group in options.groups:
        rows, scores, average = GROUPS[group]
        data = data_for(group, options.mnist)
        epochs = options.epochs or EPOCHS[group]
        for name, make in rows.items():
            if options.only and not name.startswith(tuple(options.only)):
                continue

            runs = []
            for seed in options.seeds:
                rule = trained(make, data, epochs, seed, average)
                runs.append(scores(rule, data, held_out, seed))
            table[f"{group}: {name}"] = runs
            print(f"| {group}: {name} | {told(runs)} |", flush=True)

    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def told(runs):
    """Means and standard deviations over seeds."""
    cells = []
    for name in runs[0]:
        values = [run[name] for run in runs]
        spread = stdev(values) if len(values) > 1 else 0.0
        cells.append(f"{name} {mean(values):.2f} +- {spread:.2f}")

    return " | ".join(cells)


if __name__ == "__main__":
    main()
