"""The Parzen score and GENERATE against their own products, and the score against other libraries.

    python -m benchmarks.scores [--n 10000] [--sklearn 200] [--json FILE]

Training images stand for samples. The score is compared with scikit-learn and NumPy.
scikit-learn's KernelDensity is wrong at its defaults in high dimensions; one leaf for all points
makes it exact. It is timed on fewer test images (its time is proportional to them) and scaled up.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity

from benchmarks.floor import MatrixProducts, interleaved
from gendae import MNIST, generate, load, parzen_log_prob
from gendae.training.memory import keep_freed_memory

SIGMA = 0.2


def seconds(call):
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def with_numpy(x, samples):
    """Squared distances by one product in float64, and logsumexp over samples.

    500 test images are taken at a time.
    """
    parts = []
    for block in np.array_split(x.astype(np.float64), max(1, len(x) // 500)):
        squares = (block**2).sum(1)[:, None] - 2 * block @ samples.T + (samples**2).sum(1)
        parts.append(logsumexp(-squares / (2 * SIGMA**2), axis=1))

    d = x.shape[1]
    return np.concatenate(parts) - np.log(len(samples)) - d * np.log(SIGMA * np.sqrt(2 * np.pi))


def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def parzen(data, n, subset):
    samples, x = (data.split(name).x[:n] for name in ("train", "test"))
    with MatrixProducts() as products:
        ours = parzen_log_prob(x, samples, SIGMA)

    before = peak_kib()
    calls = {"ours": lambda: parzen_log_prob(x, samples, SIGMA), "floor": products.replay}
    times = interleaved(calls, 3, quantile=0)
    grown = (peak_kib() - before) / 1024

    numpy, numpy_seconds = seconds(lambda: with_numpy(x.numpy(), samples.double().numpy()))
    tree = KernelDensity(bandwidth=SIGMA, leaf_size=n).fit(samples.double().numpy())
    exact, tree_seconds = seconds(lambda: tree.score_samples(x[:subset].double().numpy()))
    tree_seconds *= n / subset

    differences = [
        float(np.abs(ours.numpy() - numpy).max()),
        float(np.abs(ours.numpy()[:subset] - exact).max()),
    ]
    return {
        "what": f"Parzen {n} x {n} x {x.shape[1]}",
        "seconds": times["ours"],
        "floor": times["floor"],
        "ratio": times["ours"] / times["floor"],
        "numpy": numpy_seconds,
        "sklearn_exact": tree_seconds,
        "times_faster_than_sklearn": tree_seconds / times["ours"],
        "largest_difference": max(differences),
        "ll": ours.mean().item(),
        "peak_memory_growth_mib": grown,
    }


def generating(name, n):
    stack = load(name)
    share = 1000
    with MatrixProducts() as products:
        generate(stack, share, seed=0)

    calls = {"ours": lambda: generate(stack, share, seed=0), "floor": products.replay}
    times = interleaved(calls, 7, quantile=0)
    return {
        "what": f"GENERATE, {share} of {n} samples of {name}",
        "seconds": times["ours"],
        "floor": times["floor"],
        "ratio": times["ours"] / times["floor"],
        "seconds_for_all": times["ours"] * n / share,
    }


def cell(key, value):
    if isinstance(value, float):
        return f"{key} {value:.4g}"

    return str(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--sklearn", type=int, default=200, help="test images for scikit-learn")
    parser.add_argument("--model", default="mnist-variational-em")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    keep_freed_memory()  # as the commands do
    rows = [generating(args.model, args.n), parzen(MNIST(), args.n, args.sklearn)]
    for row in rows:
        print(", ".join(cell(k, v) for k, v in row.items()))

    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
