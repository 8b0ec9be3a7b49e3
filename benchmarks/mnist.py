"""The numbers of the 2015 paper on MNIST, from runs of configs/mnist-variational-em.yaml.

    python -m benchmarks.mnist RUN [RUN ..] [--n 10000] [--json FILE] [--pictures DIR]

The runs are those of `gendae fit`. For each run (one training seed) the Gaussian top is chosen on
validation images. Then, once on the test images: Parzen scores of GENERATE and of ancestral
sampling from the same prior, and of both with the paper's own top (diagonal, variances x 4),
log p(x, h) over 20 inference steps, inpainting of each half against the mean image and 5 nearest
neighbours, and the classes of 1,000 samples according to a classifier of real digits.
"""

import argparse
import json
from pathlib import Path

import torch
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.fills import nearest_fill
from gendae import (
    AncestralSampler,
    GaussianPrior,
    Inpainter,
    TargetPropInference,
    generate,
    inpaint,
    load,
    named_mask,
    plots,
)
from gendae.commands.common import checkpoint_of
from gendae.commands.data import data_of
from gendae.metrics.parzen import choose_prior, parzen_report, parzen_score
from gendae.metrics.traces import log_joint_trace
from gendae.storage.atomic import write_json

HALVES = ("left", "right", "top", "bottom")
NEIGHBOUR_IMAGES = 20_000
#: The paper's protocol, and the default of version 0.2.
QUIET = Inpainter(20, TargetPropInference(15, 0.3, 0.3), chains=1)
LANGEVIN = Inpainter(10, TargetPropInference(15, 0.4, 0.2, temperature=0.05), chains=32)


def parzen_scores(stack, data, n, baselines):
    """Scores under the chosen prior and the paper's, by both samplers."""
    train, valid, test = (data.split(name).x for name in ("train", "valid", "test"))
    codes = torch.cat([stack.encode(x)[-1] for x in train.split(5000)])
    chosen = stack.prior

    samples = {}
    for name, prior in (
        ("", chosen),
        (" (diagonal x 4)", GaussianPrior("diagonal", 4.0).fit(codes)),
    ):
        stack.prior = prior
        samples[f"GENERATE{name}"] = generate(stack, n, seed=0)
        samples[f"ancestral{name}"] = generate(stack, n, AncestralSampler(), seed=0)

    stack.prior = chosen
    if baselines:
        return parzen_report(samples, train, valid, test)

    return {name: {"n": n, **parzen_score(x, test, valid)} for name, x in samples.items()}


def inpainting_errors(stack, data, images):
    """Mean squared error on the missing half, as a fraction of the training mean's."""
    train = data.split("train").x
    x = data.split("test").x[:images]
    mean = train.mean(0)
    examples = train[:NEIGHBOUR_IMAGES]

    rows = {}
    for half in HALVES:
        given = named_mask(half, data.shape)
        missing = ~given

        def ratio(y, missing=missing):
            error = (y[:, missing] - x[:, missing]).square().mean()
            error_of_mean = (mean[missing] - x[:, missing]).square().mean()
            return (error / error_of_mean).item()

        rows[f"{half} given"] = {
            "model": ratio(inpaint(stack, x, given, Inpainter(), seed=0)),
            "one quiet chain": ratio(inpaint(stack, x, given, QUIET, seed=0)),
            "5 nearest neighbours": ratio(nearest_fill(x, given, examples)),
        }

    methods = rows["left given"]
    rows["average"] = {k: sum(r[k] for r in rows.values()) / len(HALVES) for k in methods}
    return rows


def class_shares(samples, data):
    """Fraction of samples in each class, by 3 nearest neighbours among real digits."""
    x, y, _ = data.split("train")
    classifier = KNeighborsClassifier(3).fit(
        x[:NEIGHBOUR_IMAGES].numpy(), y[:NEIGHBOUR_IMAGES].numpy()
    )

    labels = torch.from_numpy(classifier.predict(samples.numpy()))
    return (labels.bincount(minlength=10) / len(labels)).tolist()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=500, help="test images to inpaint")
    parser.add_argument("--json")
    parser.add_argument("--pictures")
    return parser.parse_args()


def row_of(run, stack, data, args, baselines):
    """All numbers of one run."""
    train, valid, test = (data.split(name).x for name in ("train", "valid", "test"))
    candidates = choose_prior(stack, train, valid, n=min(args.n, 3000))
    trace = log_joint_trace(stack, test)
    alphas = {}
    for alpha in (0.001, 0.01, 0.1, 0.3):
        of_alpha = log_joint_trace(stack, test[:1000], TargetPropInference(alpha=alpha))
        alphas[f"alpha {alpha:g}"] = of_alpha.mean(1).tolist()

    row = {
        "run": run,
        "seed": stack.facts["seed"],
        "epochs": stack.facts["epochs"],
        "prior": f"{stack.prior.covariance} x {stack.prior.variance_scale:g}",
        "candidates": candidates,
        "parzen": parzen_scores(stack, data, args.n, baselines),
        "log_joint": trace.mean(1).tolist(),
        "log_joint_1000": alphas,
        "inpainting": inpainting_errors(stack, data, args.images),
        "classes": class_shares(generate(stack, 1000, seed=1), data),
    }
    return row, trace


def draw(stack, data, trace, folder):
    """Samples, halves completed, and log p(x, h) along inference."""
    samples = generate(stack, 100, seed=0)
    plots.save(plots.image_grid(samples, data.shape), folder / "samples.png")

    x = data.split("test").x[:20]
    given = torch.cat([named_mask(m, data.shape).expand(5, -1) for m in HALVES])
    completed = inpaint(stack, x, given, seed=0)
    plots.save(plots.inpainting(x, given, completed, data.shape), folder / "inpainting.png")

    plots.save(plots.trace(trace), folder / "inference.png")


def print_scores(results):
    """Mean and deviation of the Parzen scores over the runs."""
    for name in results[0]["parzen"]:
        lls = torch.tensor([r["parzen"][name]["ll"] for r in results if name in r["parzen"]])
        spread = lls.std().item() if len(lls) > 1 else 0.0
        print(
            f"{name:<28}{lls.mean():>9.2f} +- {spread:.2f} nats (mean and sd of {len(lls)} seeds)"
        )


def main():
    args = arguments()
    results = []
    for run in args.runs:
        stack = load(checkpoint_of(run) if Path(run).is_dir() else run)
        data = data_of(stack)
        first = not results
        row, trace = row_of(run, stack, data, args, baselines=first)
        results.append(row)

        shown = {k: v for k, v in row.items() if k != "candidates"}
        print(json.dumps(shown, indent=1), flush=True)
        if args.pictures and first:
            draw(stack, data, trace, Path(args.pictures))

    print_scores(results)
    if args.json:
        write_json(Path(args.json), {"results": results})


if __name__ == "__main__":
    main()
