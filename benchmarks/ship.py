"""Enter a model of checkpoints/ into checkpoints/manifest.json, with its test metrics.

python benchmarks/ship.py checkpoints/mnist-variational-em.safetensors --config configs/mnist-variational-em.yaml
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch

from gendae import complete, generate, load
from gendae.commands.common import data_of
from gendae.commands.predict import error_rate
from gendae.completion.completer import Completer
from gendae.metrics.features import load_feature_classifier
from gendae.metrics.parzen import parzen_score
from gendae.metrics.quality import Quality
from gendae.metrics.report import feature_network
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.sampling.samplers import AncestralSampler

MEASURES = {"ll": "parzen_ll", "se": "parzen_se"} | {
    k: k
    for k in (
        "sigma",
        "ancestral_ll",
        "fid",
        "kid",
        "precision",
        "recall",
        "density",
        "coverage",
        "copying",
        "copying_pixels",
        "confidence",
    )
}


def describe_prior(prior):
    name = type(prior).__name__
    if hasattr(prior, "covariance"):
        return f"{name}, {prior.covariance}, variances x {prior.variance_scale:g}"
    return (
        f"{name}, {prior.choice}, {len(prior.codes)} codes" if hasattr(prior, "choice") else name
    )


def samples(stack, data, n):
    """Measures of n samples."""
    train, valid, test = (data.split(name).x for name in ("train", "valid", "test"))
    x = generate(stack, n, seed=0)
    result = {**parzen_score(x, test, valid), **Quality(train, test, feature_network(data)[0])(x)}
    if type(stack.settings.sampler) is not AncestralSampler:
        result["ancestral_ll"] = parzen_score(generate(stack, n, "ancestral", 0), test, valid)[
            "ll"
        ]
    return {
        name: round(result[k], 4) for k, name in MEASURES.items() if result.get(k) is not None
    } | {"n": n}


def errors(classifier, data, n):
    """Fractions of wrong labels."""
    return {
        f"{name}_error": round(error_rate(classifier.predict(x), y), 4)
        for name, (x, y) in (("validation", data.split("valid")), ("test", data.split("test")))
    }


def joint_errors(stack, data, n):
    """Fractions of wrong labels by one pass, and agreement of class-conditional samples with a classifier of real digits."""
    found = {}
    for split, name in (("valid", "validation"), ("test", "test")):
        values = stack.separate(data.split(split).x)
        p = stack.predict({"image": values["image"]}, "label")
        found[f"{name}_error"] = round(error_rate(p, values["label"].argmax(1)), 4)
    classes = torch.arange(10).repeat_interleave(100)
    x = complete(
        stack, {"label": classes}, completer=Completer.mcmc(5, begin="prior"), seed=0
    ).values["image"]
    found["agreement"] = (load_feature_classifier()(x).argmax(1) == classes).float().mean().item()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--config", required=True)
    parser.add_argument("--n", type=int, default=10_000)
    args = parser.parse_args()
    path = Path(args.file)
    stack = load(path)
    measured = (
        errors
        if isinstance(stack, Classifier)
        else joint_errors
        if isinstance(stack, JointStack)
        else samples
    )
    metrics = measured(stack, data_of(stack), args.n)
    entry = {
        "name": path.stem,
        "file": path.name,
        "rule": stack.facts["rule"],
        "prior": None if isinstance(stack, Classifier) else describe_prior(stack.prior),
        "dataset": stack.facts["dataset"]["type"],
        "config": args.config,
        "seed": stack.facts["seed"],
        "command": stack.facts["command"],
        "metrics": metrics,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    manifest = path.parent / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.exists() else []
    entries = sorted(
        [e for e in entries if e["name"] != path.stem] + [entry], key=lambda e: e["name"]
    )
    manifest.write_text(json.dumps(entries, indent=2) + "\n")
    print(json.dumps(entry, indent=2))


if __name__ == "__main__":
    main()
