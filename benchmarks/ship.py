"""Enter a model into checkpoints/manifest.json, with its test metrics and its card.

    gendae fit --config configs/NAME.yaml
    gendae export RUN --which last --half --out checkpoints/NAME.safetensors
    python -m benchmarks.ship checkpoints/NAME.safetensors --config configs/NAME.yaml \\
        --which last --threads 1

`--threads` says that it was trained here, by the libraries that are installed, on so many threads;
of a model that was trained elsewhere, `--elsewhere "one NVIDIA H200"` says where. The cards and
their pictures, docs/zoo.md and checkpoints/README.md, are written anew (`benchmarks.zoo`).
"""

import argparse
import hashlib
import json
import shlex
from pathlib import Path
from statistics import fmean

import torch
import yaml

from benchmarks import patches, zoo
from gendae import complete, generate, load
from gendae.commands.data import data_of
from gendae.commands.info import layers_in_words
from gendae.completion.completer import Completer
from gendae.metrics.features import CLASSIFIERS, load_feature_classifier
from gendae.metrics.parzen import parzen_score
from gendae.metrics.quality import Quality
from gendae.metrics.report import feature_network, measures
from gendae.models.classifier import Classifier, error_of
from gendae.models.filling import FillingBand
from gendae.models.joint import JointStack
from gendae.sampling.samplers import AncestralSampler
from gendae.storage import model_file
from gendae.storage.shipped import manifest
from gendae.training import scores

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
#: Options of a training that change nothing of the model, or have an entry of their own.
ASIDE = (
    "--config",
    "--seed_everything",
    "--trainer.default_root_dir",
    "--trainer.enable_progress_bar",
    "--trainer.enable_model_summary",
    "--trainer.num_sanity_val_steps",
)
#: Epochs of a training whose configuration names none.
EPOCHS = 20


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


def fidelities(stack, data, n):
    """PSNR of missing pixels of 500 test images, as `benchmarks.patches` has it."""
    fill = patches.mean_of_draws(stack, draws=4)
    metrics = {}
    for mask in ("random", "left"):
        runs = patches.scores(fill, data, mask, 500, (0, 1, 2))
        metrics[f"psnr_{mask}"] = round(fmean(run["PSNR"] for run in runs), 2)

    return metrics


#: How a model is measured, by its kind.
MEASURED = {
    "classifier": errors,
    "joint model": joint_errors,
    "filling model": fidelities,
    "generative model": samples,
}


def family(stack):
    """What a model is, in a word or two."""
    if isinstance(stack, Classifier):
        return "classifier"
    if isinstance(stack, JointStack):
        return "joint model"

    fills = isinstance(stack.pairs[0].g, FillingBand)
    return "filling model" if fills else "generative model"


def source_of(dataset):
    """The data set that others are made of."""
    return source_of(dataset["source"]) if "source" in dataset else dataset


def options_of(command):
    """Options of a training that say what is trained, a word each."""
    words = []
    for word in shlex.split(command)[2:]:
        is_pair = word.startswith("--") and "=" in word
        words += word.split("=", 1) if is_pair else [word]

    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in ASIDE for word in pair]


def minutes_of(facts, config, options):
    """What all epochs of the training take, of which the model may be an earlier one."""
    trainer = yaml.safe_load(Path(config).read_text()).get("trainer", {})
    planned = trainer.get("max_epochs", EPOCHS)
    if "--trainer.max_epochs" in options:
        planned = int(options[options.index("--trainer.max_epochs") + 1])

    return round(facts["seconds"] * planned / facts["epochs"] / 60, 1)


def is_half(path):
    """Whether weights are stored in half precision."""
    _, tensors = model_file.read_checked(path, model_file.FORMAT)
    return any(value.dtype == torch.float16 for value in tensors.values())


def export_of(stack, path, which):
    """Options of the `gendae export` that made a file."""
    words = ["--which", which]
    if is_half(path):
        words.append("--half")
    if "prior_scores" in stack.facts:
        words.append("--choose-prior")

    return " ".join(words)


def made(args):
    """Where a model was trained: here, or elsewhere."""
    if args.elsewhere is not None:
        return {"where": args.elsewhere}

    return scores.place() | {"threads": args.threads}


def picture_of(stack):
    """What a card shows of a model."""
    kind = family(stack)
    return {"classifier": "answers", "filling model": "fillings"}.get(kind, "samples")


def enter(entry):
    """Put an entry into the manifest, in the place of one with the same name."""
    others = [e for e in manifest() if e["name"] != entry["name"]]
    zoo.write_manifest(sorted([*others, entry], key=lambda e: e["name"]))


def entry_of(path, stack, args):
    """What the manifest says of a model."""
    facts = stack.facts
    data = data_of(stack)
    options = args.options.split() if args.options else options_of(facts["command"])
    which = args.which or ("best" if isinstance(stack, Classifier) else "last")

    return {
        "name": path.stem,
        "file": path.name,
        "kind": family(stack),
        "rule": facts["rule"],
        "prior": None if isinstance(stack, Classifier) else describe_prior(stack.prior),
        "layers": layers_in_words(stack),
        "dataset": source_of(facts["dataset"])["type"],
        "classes": facts.get("classes"),
        "config": args.config,
        "options": options,
        "seed": facts["seed"],
        "command": facts["command"],
        "export": export_of(stack, path, which),
        "minutes": args.minutes or minutes_of(facts, args.config, options),
        "metrics": MEASURED[family(stack)](stack, data, args.n),
        "test": len(data.split("test").x),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "made": made(args),
        "picture": args.picture or picture_of(stack),
        "note": args.note,
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--config", required=True)
    parser.add_argument("--n", type=int, default=10_000, help="samples of a generative model")
    parser.add_argument("--which", choices=("best", "last"), help="checkpoint that was exported")
    parser.add_argument("--options", help="of training it again, where not those of its command")
    parser.add_argument("--minutes", type=float, help="of all epochs, where the model lacks them")
    parser.add_argument("--picture", choices=zoo.PICTURES, help="of the card")
    parser.add_argument("--note", default="", help="what else is to be known, in words")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--threads", type=int, help="by which it was trained on this machine")
    place.add_argument("--elsewhere", help="where it was trained, in words")
    return parser.parse_args()


def main():
    args = arguments()
    path = Path(args.file)
    entry = entry_of(path, load(path), args)

    enter(entry)
    print(json.dumps(entry, indent=2))
    zoo.write()


if __name__ == "__main__":
    main()
