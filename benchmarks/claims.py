"""Claims of Bengio et al. 2015 and of Lee 2018, like for like on shipped models: no training.

    python -m benchmarks.claims                          every claim: docs/results/claims.json
    python -m benchmarks.claims eq-12 figure-4           these; the others in the file stay
    python -m benchmarks.claims --n 1000 --images 1000 --out /tmp/claims.json     a short look

Each claim is a function, with its source, what is claimed and the published number beside what was
measured. The model of 2015 is mnist-variational-em, its seed 2; test images, of which nothing is
chosen: bandwidths come from validation images. `figure-4` draws docs/figure-4.png too.

What the claims need trained, and no shipped model has; for each row NAME and each of seeds 0, 1, 2

    gendae fit OPTIONS --seed_everything SEED --trainer.default_root_dir runs/claims/NAME

with these OPTIONS; then `python -m benchmarks.classifiers NAME=runs/claims/NAME ..`.

Lee 3.3.1, no noise on x: 1.94 % by DTP, 1.86 % by back-propagation; ReLU 3.15 % by DTP:

    dtp-clean       --config configs/mnist-dtp-tanh.yaml --model.input_corruption null
    bp-clean        --config configs/mnist-bp-tanh.yaml --model.input_corruption null
    relu-clean      --config configs/mnist-dtp-relu.yaml --model.input_corruption null

Lee 3.3.3, M = 1 draw in training, noise of 0.3 on x as in the original: 1.54 %, and 1.71 % by
straight-through; in 1,000 epochs, to which --trainer.max_epochs 300 is nearer than the 60 here:

    dtp-one-draw    --config configs/mnist-dtp-binary.yaml --model.samples 1
                    --model.input_corruption.sigma 0.3
    st-one-draw     --config configs/mnist-st-binary.yaml --model.samples 1
                    --model.input_corruption.sigma 0.3

Lee 3.3.4, controls of the fine-tuned auto-encoder (1.35 %, "as good as .. trained by
backpropagation"): the same network without pre-training, and one whose auto-encoder had the same
noise and epochs, but learned by back-propagation inside its pair (0001 is that of SEED):

    not-pretrained  --config configs/mnist-finetuned.yaml --model.stack gendae.deep_classifier
                    --model.stack.sizes [784,1000] --model.stack.activation sigmoid
    bp-dae          --config configs/mnist-backstep.yaml --model gendae.TargetPropRule
                    --model.loop gendae.PairLoops
    bp-pretrained   --config configs/mnist-finetuned.yaml
                    --model.stack.model runs/claims/bp-dae/0001/checkpoints/last.ckpt

2015, section 8, with the noise as printed, which stays, three spikes and the paper's own top; its
scores are those of `python -m benchmarks.mnist runs/claims/em-printed/*`:

    em-printed      --config configs/mnist-variational-em.yaml
                    --model.stack.prior.covariance diagonal --model.stack.prior.variance_scale 4
                    --model.corruption '[
                    {class_path: gendae.GaussianNoise, init_args: {sigma: 0.5}},
                    {class_path: gendae.GaussianNoise, init_args: {sigma: 0.3}},
                    {class_path: gendae.SpikeNoise, init_args: {draws: 3}}]'
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

import gendae
from benchmarks.mnist import LANGEVIN, QUIET
from gendae import (
    AncestralSampler,
    GaussianNoise,
    GaussianPrior,
    GenerateSampler,
    GradientInference,
    Inpainter,
    JointChainSampler,
    LatentChainSampler,
    TargetPropInference,
    generate,
    plots,
)
from gendae.metrics.features import load_feature_classifier
from gendae.metrics.parzen import parzen_score
from gendae.metrics.quality import frechet_distance, in_batches
from gendae.metrics.traces import log_joint_trace
from gendae.models.classifier import error_of
from gendae.models.noise import default_corruption
from gendae.plots import Figure
from gendae.rules import credit
from gendae.sampling.samplers import seeded
from gendae.storage.atomic import write_json

MODEL = "mnist-variational-em"
BATCH = 1000


class Bench:
    """The data, and how much of them."""

    def __init__(self, n: int = 10_000, images: int = 10_000, seed: int = 0) -> None:
        self.n = n
        self.images = images
        self.seed = seed
        self.data = gendae.MNIST()
        self.train = self.data.split("train").x
        self.valid = self.data.split("valid").x
        self.test = self.data.split("test").x[:images]

    @cached_property
    def real(self):
        """Features of the test images."""
        return in_batches(load_feature_classifier(), self.test)[0]

    def scores(self, x):
        """Parzen log-likelihoods of samples by every protocol, and their FID."""
        fake = in_batches(load_feature_classifier(), x)[0]
        fid = frechet_distance(self.real, fake)

        return {**parzen_score(x, self.test, self.valid), "fid": fid}


@dataclass(frozen=True)
class Claim:
    """What somebody says, where, with which numbers, and how that is measured."""

    source: str
    says: str
    published: object
    measure: Callable[[Bench], object]


CLAIMS: dict[str, Claim] = {}


def claim(name, source, says, published=None):
    """Enter a function as the measure of a claim."""

    def enter(measure):
        CLAIMS[name] = Claim(source, says, published, measure)
        return measure

    return enter


def summary(values):
    """Mean, the middle 90 %, and the share above 0, over images."""
    low, high = torch.quantile(values, torch.tensor([0.05, 0.95], dtype=values.dtype)).tolist()

    return {
        "mean": values.mean().item(),
        "5 %": low,
        "95 %": high,
        "positive": (values > 0).double().mean().item(),
    }


# -- 2015: tops, and chains from them ------------------------------------------------------------


@torch.no_grad()
def codes_of(stack, x, inference=None):
    """Top-level codes, feed-forward or inferred."""
    inference = inference or TargetPropInference(steps=0)
    return torch.cat([inference(stack, batch)[-1] for batch in x.split(BATCH)])


def tops(stack, bench):
    """The shipped top, which validation images chose, and the paper's."""
    paper = GaussianPrior("diagonal", 4.0).fit(codes_of(stack, bench.train))

    return {f"{stack.prior.covariance} x {stack.prior.variance_scale:g}": stack.prior} | {
        "diagonal x 4 (the paper's)": paper
    }


@claim(
    "recipe",
    "Bengio et al. 2015, section 8; Algorithm 2, GENERATE",
    "GENERATE reaches 236 nats, sampling of p(x | h) p(h) 126, both under a window of 0.2",
    {"GENERATE": 236.0, "ancestral": 126.0, "sigma": 0.2},
)
def recipe(bench):
    """The printed top and ours under both samplers: each score has both bandwidths."""
    stack = gendae.load(MODEL)
    priors = tops(stack, bench)
    inferred = codes_of(stack, bench.train, TargetPropInference())
    priors["diagonal x 4 of inferred codes"] = GaussianPrior("diagonal", 4.0).fit(inferred)

    rows = []
    for top, prior in priors.items():
        stack.prior = prior
        for name, sampler in {
            "GENERATE": GenerateSampler(),
            "ancestral": AncestralSampler(),
        }.items():
            x = generate(stack, bench.n, sampler, bench.seed)
            rows.append({"top": top, "sampler": name, **bench.scores(x)})
            show(rows[-1])

    rows.append({"sampler": "training images", **bench.scores(bench.train[: bench.n])})
    return rows


ROUNDS = (1, 3, 5, 10, 20)


def chains(stack):
    """Samplers that differ in what a round is; at round 0 all are ancestral sampling."""
    noise = default_corruption(stack)
    quiet = [GaussianNoise(0.0) for _ in noise]

    return {
        "GENERATE: INFERENCE with alpha 0.3": GenerateSampler(),
        "5.2: the same, and N(0, 0.1^2) on h_1": LatentChainSampler(),
        "5.2 as in training: alpha 0.001 and training's noise on h_1": LatentChainSampler(
            inference=TargetPropInference(), corruption=noise[1]
        ),
        "5.1: training's noise on h_2": JointChainSampler(),
        "5.1: training's noise on all": JointChainSampler(corruption=noise),
        "5.1: no noise": JointChainSampler(corruption=quiet),
    }


@torch.no_grad()
def after_rounds(stack, sampler, n, seed):
    """{round: samples, (n, 784)}, one chain for each sample."""
    generator = seeded(seed)
    samples = {rounds: [] for rounds in ROUNDS}

    for codes in stack.prior.sample(n, generator).split(BATCH):
        h = sampler.start(stack, codes, generator)
        for rounds in range(1, max(ROUNDS) + 1):
            h = sampler.step(stack, h, generator)
            if rounds in samples:
                samples[rounds].append(h[0])

    return {rounds: torch.cat(x) for rounds, x in samples.items()}


@claim(
    "chains",
    "Bengio et al. 2015, section 5.1 (Eq. 9 to 11), 5.2 and 9",
    "iterating the Markov chain yields better samples than the directed model",
    {"GENERATE, 3 rounds": 236.0, "0 rounds": 126.0},
)
def iterated(bench):
    """Scores before, and after 1 .. 20 rounds of each chain, under both tops."""
    stack = gendae.load(MODEL)

    rows = []
    for top, prior in tops(stack, bench).items():
        stack.prior = prior
        x = generate(stack, bench.n, "ancestral", bench.seed)  # round 0 of every chain
        rows.append({"top": top, "chain": "ancestral", "rounds": 0, **bench.scores(x)})
        show(rows[-1])

        for name, sampler in chains(stack).items():
            for rounds, x in after_rounds(stack, sampler, bench.n, bench.seed).items():
                rows.append({"top": top, "chain": name, "rounds": rounds, **bench.scores(x)})
                show(rows[-1])

    return rows


# -- 2015: Eq. 12 and Figure 4 -------------------------------------------------------------------


def own_gradients(stack, h):
    """d log p(h_{l-1} | h_l) / dh_l for l = 1 .. L, by autograd."""
    gradients = []
    for pair, low, high in zip(stack.pairs, h, h[1:], strict=False):
        high = high.detach().requires_grad_()
        log_p = pair.observation.log_prob(low, pair.g(high)).sum()
        gradients.append(torch.autograd.grad(log_p, high)[0])

    return gradients


def joint_gradients(stack, h):
    """d log p(x, h) / dh_l for l = 1 .. L, without a prior, by autograd."""
    free = [layer.detach().requires_grad_() for layer in h[1:]]
    log_p = stack.log_joint((h[0], *free), prior=False).sum()

    return torch.autograd.grad(log_p, free)


@torch.no_grad()
def differences(stack, h):
    """f_l(h_{l-1}) - f_l(g_l(h_l)) for l = 1 .. L: Eq. 12 up to its scale."""
    return [
        pair.f(low) - pair.f(pair.g(high))
        for pair, low, high in zip(stack.pairs, h, h[1:], strict=False)
    ]


@torch.no_grad()
def from_above(stack, h):
    """g_{l+1}(h_{l+1}) - h_l for l = 1 .. L-1: the gradient of log p(h_l | h_{l+1}), exactly."""
    levels = zip(stack.pairs[1:], h[1:], h[2:], strict=False)
    return [pair.g(high) - low for pair, low, high in levels]


def compared(stack, h, alpha=0.1, delta=0.1):
    """Per image: cosines of estimates with exact gradients, and the scale of Eq. 12.

    Below the top, log p(x, h) has a second term, whose gradient needs no estimate: `from above`
    is what that one is worth alone, and INFERENCE's move has both.
    """
    own = own_gradients(stack, h)
    joint = joint_gradients(stack, h)
    estimates = differences(stack, h)
    above = from_above(stack, h)
    cosine = torch.cosine_similarity

    values = {}
    for level, difference in enumerate(estimates, 1):
        key = f"h_{level}: "
        gradient = own[level - 1]
        values[key + "difference, d log p(h_{l-1} | h_l)"] = cosine(difference, gradient)
        values[key + "length of the difference / of that gradient"] = difference.norm(
            dim=1
        ) / gradient.norm(dim=1)

        if level < stack.depth:
            whole = joint[level - 1]
            move = delta * difference + alpha * above[level - 1]
            values[key + "difference, d log p(x, h)"] = cosine(difference, whole)
            values[key + "from above, d log p(x, h)"] = cosine(above[level - 1], whole)
            values[key + "INFERENCE's move, d log p(x, h)"] = cosine(move, whole)

    return values


def cosines(stack, x, sigma, seed):
    """Summaries of `compared` over images, at feed-forward h and noise of sigma on all h_l."""
    generator = seeded(seed)
    parts = []
    for batch in x.double().split(BATCH):
        with torch.no_grad():
            h = stack.feedforward(batch)
        noise = [
            torch.randn(layer.shape, generator=generator, dtype=layer.dtype) for layer in h[1:]
        ]
        moved = [layer + sigma * e for layer, e in zip(h[1:], noise, strict=True)]
        parts.append(compared(stack, (batch, *moved)))

    return {name: summary(torch.cat([part[name] for part in parts])) for name in parts[0]}


@claim(
    "eq-12",
    "Bengio et al. 2015, section 6, Eq. 12",
    "(f(x) - f(g(h))) / sigma_h^2 estimates d log p(x | h) / dh, up to a scaling constant",
)
def estimated_gradient(bench):
    """Cosines on the trained network, with and without noise on h, and on an untrained one."""
    torch.manual_seed(bench.seed)
    networks = {
        "trained": gendae.load(MODEL),
        "untrained": gendae.deep_autoencoder([784, 1000, 100]),
    }

    rows = {}
    for name, stack in networks.items():
        for sigma in (0.0, 0.3):
            key = f"{name}, N(0, {sigma:g}^2) on h"
            rows[key] = cosines(stack.double(), bench.test, sigma, bench.seed)
            show({key: {k: round(v["mean"], 3) for k, v in rows[key].items()}})

    return rows


FIGURE = Path("docs/figure-4.png")
STEPS = 60
SHOWN = 20  # steps of the paper's figure

#: Curves of Figure 4: inference, colour, style.
CURVES = {
    "targetprop, α 0.001": (TargetPropInference(alpha=0.001), "#fcae91", "-"),
    "targetprop, α 0.01": (TargetPropInference(alpha=0.01), "#fb6a4a", "-"),
    "targetprop, α 0.1": (TargetPropInference(alpha=0.1), "#cb181d", "-"),
    "targetprop, α 0.3": (TargetPropInference(alpha=0.3), "#67000d", "-"),
    "targetprop, α 0.1, δ 0.05": (TargetPropInference(delta=0.05, alpha=0.1), "#cb181d", ":"),
    "targetprop, α 0.1, δ 0.2": (TargetPropInference(delta=0.2, alpha=0.1), "#cb181d", "-."),
    "gradient, δ 0.01": (GradientInference(delta=0.01), "#9ecae1", "--"),
    "gradient, δ 0.02": (GradientInference(delta=0.02), "#4292c6", "--"),
    "gradient, δ 0.05": (GradientInference(delta=0.05), "#08519c", "--"),
    "gradient, δ 0.1": (GradientInference(delta=0.1), "#08306b", "--"),
}


def ascent(trace):
    """Of a trace (steps + 1, images): the mean, and in how many images and steps it rises."""
    mean = trace.double().mean(1)
    rises = trace.diff(dim=0) > 0
    falls = [step for step, change in enumerate(mean.diff().tolist(), 1) if change < 0]

    return {
        "mean": mean.tolist(),
        "se of the gain in 20 steps": (trace[SHOWN] - trace[0]).std().item()
        / len(trace[0]) ** 0.5,
        "gain in 20 steps": (mean[SHOWN] - mean[0]).item(),
        "gain in 60 steps": (mean[-1] - mean[0]).item(),
        "images higher after 20 steps": (trace[SHOWN] > trace[0]).double().mean().item(),
        "images that rise in all 20 steps": rises[:SHOWN].all(0).double().mean().item(),
        "first step at which the mean falls": falls[0] if falls else None,
    }


@claim(
    "figure-4",
    "Bengio et al. 2015, section 8, Figure 4",
    "targetprop updates, instead of gradient updates, smoothly increase log p(x, h) in 20 steps",
)
def figure_4(bench):
    """log p(x, h) against the step by targetprop and by the exact gradient: 1,000 images."""
    stack = gendae.load(MODEL)
    x = bench.test[:1000]

    traces = {}
    for name, (inference, _, _) in CURVES.items():
        traces[name] = log_joint_trace(stack, x, inference, steps=STEPS).double()
    plots.save(draw(traces), FIGURE)

    rows = {name: ascent(trace) for name, trace in traces.items()}
    for name, row in rows.items():
        show({name: {key: value for key, value in row.items() if key != "mean"}})
    return rows


def draw(traces):
    """The paper's 20 steps, and three times as many."""
    whole = Figure(figsize=(12, 4), layout="constrained")
    for axes, steps in zip(whole.subplots(1, 2), (SHOWN, STEPS), strict=True):
        for name, trace in traces.items():
            _, colour, style = CURVES[name]
            axes.plot(trace.mean(1)[: steps + 1].numpy(), style, color=colour, label=name)

        start = next(iter(traces.values()))[0].mean().item()
        axes.set(xlabel="inference step", ylabel="log p(x, h) without the prior  [nats]")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=start - 0.3)
        axes.grid(alpha=0.3)

    handles, labels = whole.axes[0].get_legend_handles_labels()
    whole.legend(handles, labels, loc="outside right upper")

    return whole


# -- 2015: Figure 5 ------------------------------------------------------------------------------

INPAINTED = 300
NEIGHBOURS = 5


def random_halves(n, pixels, seed):
    """Masks (n, pixels), each True in its own half of the pixels, drawn by seed."""
    order = torch.rand(n, pixels, generator=seeded(seed)).argsort(1)
    return order < pixels // 2


def nearest(x, mask, examples, k=NEIGHBOURS):
    """Mean of the k examples that are nearest on the observed pixels of each image."""
    seen = mask.float()
    squares = seen @ examples.square().T - 2 * (seen * x) @ examples.T
    found = squares.topk(k, largest=False).indices

    return examples[found].mean(1)


def local_means(x, mask, mean, shape):
    """Mean of the observed ones of the 8 pixels around; the mean image where there are none."""
    kernel = torch.ones(1, 1, 3, 3)
    seen = mask.float().view(-1, 1, *shape)
    total = torch.conv2d(seen * x.view(-1, 1, *shape), kernel, padding=1)
    count = torch.conv2d(seen, kernel, padding=1)

    return torch.where(count > 0, total / count.clamp(min=1), mean.view(1, 1, *shape)).flatten(1)


def linear(x, mask, train, noise=1e-2):
    """E[missing | observed] of a Gaussian with the mean and covariance of the training images."""
    train = train.double()
    mean = train.mean(0)
    covariance = torch.cov(train.T)

    filled = x.double().clone()
    for image, seen in zip(filled, mask, strict=True):
        here = covariance[seen][:, seen] + noise * torch.eye(int(seen.sum()), dtype=mean.dtype)
        weights = torch.linalg.solve(here, image[seen] - mean[seen])
        image[~seen] = mean[~seen] + covariance[~seen][:, seen] @ weights

    return filled.float()


#: Figure 5's protocol with INFERENCE as printed, with GENERATE's coupling, and as docs/results.md
#: has it; and the mean of noisy chains.
INPAINTERS = {
    "one chain, INFERENCE as printed: delta 0.1, alpha 0.001": Inpainter(
        20, TargetPropInference(), chains=1
    ),
    "one chain, delta 0.1, alpha 0.3": Inpainter(20, TargetPropInference(alpha=0.3), chains=1),
    "one chain, delta 0.3, alpha 0.3": QUIET,
    "mean of 32 Langevin chains": LANGEVIN,
    "mean of 16 chains from draws of the prior (default)": Inpainter(),
}


@claim(
    "figure-5",
    "Bengio et al. 2015, section 8, Figure 5",
    "inference fills in missing values: 20 rounds, half of the pixels drawn at random",
)
def figure_5(bench):
    """Squared error on missing pixels, relative to that of the mean image."""
    stack = gendae.load(MODEL)
    x = bench.test[:INPAINTED]
    mask = random_halves(len(x), x.shape[1], bench.seed)
    mean = bench.train.mean(0)

    completed = {
        "5 nearest of 50,000": nearest(x, mask, bench.train),
        "5 nearest of 20,000": nearest(x, mask, bench.train[:20_000]),
        "mean of the observed pixels around": local_means(x, mask, mean, bench.data.shape),
        "linear regression on the observed pixels": linear(x, mask, bench.train),
    }
    for name, inpainter in INPAINTERS.items():
        completed[name] = gendae.inpaint(stack, x, mask, inpainter, seed=bench.seed)

    of_mean = (mean - x)[~mask].square().mean()
    rows = {
        name: ((y - x)[~mask].square().mean() / of_mean).item() for name, y in completed.items()
    }
    show(rows)
    return {"images": len(x), "mean image, squared error of a pixel": of_mean.item(), **rows}


# -- the thesis ----------------------------------------------------------------------------------

#: Shipped classifier -> published test error in %.
THESIS = {
    "mnist-dtp-tanh": 1.94,
    "mnist-bp-tanh": 1.86,
    "mnist-dtp-relu": 3.15,
    "mnist-dtp-binary": 1.54,
    "mnist-st-binary": 1.71,
    "mnist-finetuned": 1.35,
    "mnist-dtp-sign": None,
    "mnist-st-sign": None,
    "mnist-fixed-sign": None,
    "mnist-tp-tanh": None,
}


@claim("thesis-errors", "Lee 2018, sections 3.3.1 to 3.3.4, Table 3.1", "test errors in %", THESIS)
def thesis_errors(bench):
    """Test errors of the shipped classifiers, seed 0 of each row; recipes differ, see the docs."""
    y = bench.data.split("test").y[: bench.images]

    rows = {}
    for name in THESIS:
        torch.manual_seed(bench.seed)
        p = gendae.load(name).predict(bench.test)
        rows[name] = round(100 * error_of(p, y).item(), 2)

    show(rows)
    return rows


@claim(
    "thesis-targets",
    "Lee 2018, section 3.2, Eq. 3.3 and 3.6, Theorems 1 and 2",
    "targets lower the loss, and the next layer's distance to its own target; updates are within "
    "90 degrees of back-propagation's",
)
def thesis_targets(bench):
    """Cosine with back-propagation, shares of examples of Eq. 3.3 and 3.6, errors of inverses."""
    x, y, _ = bench.data.split("test")

    rows = {}
    for name in ("mnist-dtp-tanh", "mnist-dtp-relu"):
        rule = gendae.DifferenceTargetPropRule(gendae.load(name))
        rows[name] = credit.by_layer(rule, x[:2000], y[:2000])
        show({name: rows[name]})

    return rows


# -- the file ------------------------------------------------------------------------------------


def show(row):
    """A line of what was measured, so far."""
    short = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
    print(short, flush=True)


def measured(name, bench):
    """The entry of a claim."""
    entry = CLAIMS[name]
    start = time.process_time()
    result = entry.measure(bench)

    return {
        "source": entry.source,
        "claim": entry.says,
        "published": entry.published,
        "measured": result,
        "samples": bench.n,
        "test_images": len(bench.test),
        "seed": bench.seed,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=", ".join(CLAIMS))
    parser.add_argument("--n", type=int, default=10_000, help="samples of each chain")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/claims.json"))
    args = parser.parse_args()
    unknown = set(args.claims) - set(CLAIMS)
    if unknown:
        parser.error(f"claims={sorted(unknown)}; accepted: {', '.join(CLAIMS)}")

    bench = Bench(args.n, args.images, args.seed)
    for name in args.claims or CLAIMS:
        print(f"-- {name}", flush=True)
        entry = measured(name, bench)
        found = json.loads(args.out.read_text()) if args.out.exists() else {}
        write_json(args.out, {**found, name: entry})


if __name__ == "__main__":
    main()
