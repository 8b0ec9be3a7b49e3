"""Enter a model of checkpoints/ into checkpoints/manifest.json, with its test metrics.

python -m benchmarks.ship checkpoints/NAME.safetensors --config configs/NAME.yaml
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch

from gendae import complete, generate, load
from gendae.commands.data import data_of
from gendae.completion.completer import Completer
from gendae.metrics.features import CLASSIFIERS, load_feature_classifier
from gendae.metrics.parzen import parzen_score
from gendae.metrics.quality import Quality
from gendae.metrics.report import feature_network, measures
from gendae.models.classifier import Classifier, error_of
from gendae.models.joint import JointStack
from gendae.sampling.samplers import AncestralSampler

#: key of a measure -> its name in the manifest
MEASURES = {
    "ll": "parzen_ll",
    "se": "parzen_se",
    "sigma": "sigma",
    "ancestral_ll": "ancestral_ll",
    "fid": "fid",
    "kid": "kid",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "copying": "copying",
    "copying_pixels": "copying_pixels",
    "copying_codes": "copying_codes",
    "confidence": "confidence",
}


def describe_prior(prior):
    name = type(prior).__name__
    if hasattr(prior, "covariance"):
        return f"{name}, {prior.covariance}, variances x {prior.variance_scale:g}"
    if hasattr(prior, "choice"):
        return f"{name}, {prior.choice}, {len(prior.codes)} codes"
    return name


def samples(stack, data, n):
    """Measures of n samples."""
    train, valid, test = (data.split(name).x for name in ("train", "valid", "test"))
    quality = Quality(train, test, feature_network(data)[0])
    result = measures(stack, train, valid, test, n, judge=quality)
    if type(stack.settings.sampler) is not AncestralSampler:
        ancestral = generate(stack, n, "ancestral", 0)
        result["ancestral_ll"] = parzen_score(ancestral, test, valid)["ll"]

    metrics = {}
    for key, name in MEASURES.items():
        if result.get(key) is not None:
            metrics[name] = round(result[key], 4)

    return metrics | {"n": n}


def errors(classifier, data, n):
    """Fractions of wrong labels."""
    rates = {}
    for name, split in (("validation", "valid"), ("test", "test")):
        x, y, _ = data.split(split)
        rates[f"{name}_error"] = round(error_of(classifier.predict(x), y).item(), 4)

    return rates


def joint_errors(stack, data, n):
    """Fractions of wrong labels by one pass, and agreement of samples of a class with their class.

    A classifier of the data, shipped with gendae, judges the samples.
    """
    metrics = {}
    for split, name in (("valid", "validation"), ("test", "test")):
        values = stack.separate(data.split(split).x)
        p = stack.predict({"image": values["image"]}, "label")
        metrics[f"{name}_error"] = round(error_of(p, values["label"].argmax(1)).item(), 4)

    classes = torch.arange(10).repeat_interleave(100)
    completer = Completer.mcmc(5, begin="prior")
    x = complete(stack, {"label": classes}, completer=completer, seed=0).values["image"]
    network = load_feature_classifier(CLASSIFIERS[data.identity.name])
    predicted = network(x).argmax(1)
    metrics["agreement"] = (predicted == classes).float().mean().item()
    return metrics


def metrics_of(stack, n):
    measured = samples
    if isinstance(stack, Classifier):
        measured = errors
    elif isinstance(stack, JointStack):
        measured = joint_errors

    return measured(stack, data_of(stack), n)


def enter(entry, manifest):
    """Put an entry into the manifest, in the place of one with the same name."""
    entries = json.loads(manifest.read_text()) if manifest.exists() else []
    others = [e for e in entries if e["name"] != entry["name"]]
    entries = sorted([*others, entry], key=lambda e: e["name"])
    manifest.write_text(json.dumps(entries, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--config", required=True)
    parser.add_argument("--n", type=int, default=10_000)
    args = parser.parse_args()

    path = Path(args.file)
    stack = load(path)
    metrics = metrics_of(stack, args.n)
    prior = None if isinstance(stack, Classifier) else describe_prior(stack.prior)
    entry = {
        "name": path.stem,
        "file": path.name,
        "rule": stack.facts["rule"],
        "prior": prior,
        "dataset": stack.facts["dataset"]["type"],
        "config": args.config,
        "seed": stack.facts["seed"],
        "command": stack.facts["command"],
        "metrics": metrics,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }

    enter(entry, path.parent / "manifest.json")
    print(json.dumps(entry, indent=2))


if __name__ == "__main__":
    main()
