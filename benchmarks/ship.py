"""Enter a model of checkpoints/ into checkpoints/manifest.json, with its test metrics.

    python benchmarks/ship.py checkpoints/mnist-variational-em.safetensors --config configs/mnist-variational-em.yaml
"""

import argparse
import hashlib
import json
from pathlib import Path

from gendae import load
from gendae.commands import data_of, evaluation

MEASURES = ("parzen_ll", "parzen_se", "sigma", "ancestral_ll", "fid", "kid", "precision", "recall", "density",
            "coverage", "copying", "copying_pixels", "confidence", "iw_bound")


def describe_prior(prior):
    name = type(prior).__name__
    if hasattr(prior, "covariance"):
        return f"{name}, {prior.covariance}, variances x {prior.variance_scale:g}"
    return f"{name}, {prior.choice}, {len(prior.codes)} codes" if hasattr(prior, "choice") else name


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--config", required=True)
    parser.add_argument("--n", type=int, default=10_000)
    args = parser.parse_args()
    path = Path(args.file)
    stack = load(path)
    result = evaluation(stack, data_of(stack), args.n)
    entry = {
        "name": path.stem, "file": path.name, "rule": stack.facts["rule"],
        "prior": describe_prior(stack.prior),
        "dataset": stack.facts["dataset"]["type"], "config": args.config, "seed": stack.facts["seed"],
        "command": stack.facts["command"],
        "metrics": {k: round(result[k], 4) for k in MEASURES if result.get(k) is not None} | {"n": args.n},
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    manifest = path.parent / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.exists() else []
    entries = sorted([e for e in entries if e["name"] != path.stem] + [entry], key=lambda e: e["name"])
    manifest.write_text(json.dumps(entries, indent=2) + "\n")
    print(json.dumps(entry, indent=2))


if __name__ == "__main__":
    main()
