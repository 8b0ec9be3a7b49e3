"""Joint models on MNIST: labels, generation by class, completion of halves, ascent, and Eq. 19.

    python -m benchmarks.joint label runs/joint-label/* --json docs/results/joint-label.json
    python -m benchmarks.joint errors NAME=FOLDER .. --json docs/results/joint-semi.json
    python -m benchmarks.joint halves MODEL --json docs/results/joint-halves.json --pictures docs
    python -m benchmarks.joint ascent MODEL --json docs/results/joint-ascent.json --pictures docs
    python -m benchmarks.joint hybrid missing=FOLDER gradient=FOLDER joint=FOLDER --pictures docs

`hybrid` measures what the weights of Eq. 19 do, for rows missing, inferred, gradient and joint.
`label` and `halves` answer question 12: one pass, ascent, or a chain that draws.

A MODEL is anything that gendae.load reads, or a run folder (its best checkpoint). Models of
version 0.1 do not know the noise of their training, without which their chains are too narrow:
--config FILE.yaml measures the widths of draws under the corruption of that configuration. Test
images are looked at once for each model; what has to be chosen (numbers of neighbours, for
instance) is chosen on validation images.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

import torch
import yaml
from sklearn.neighbors import KNeighborsRegressor

from gendae import complete, load, plots
from gendae.commands.common import checkpoint_of
from gendae.commands.data import data_of
from gendae.completion.annealing import Annealing
from gendae.completion.completer import Completer
from gendae.completion.modalities import log_conditional
from gendae.data.images import MNIST
from gendae.metrics.features import load_feature_classifier
from gendae.metrics.neighbours import precision_recall_density_coverage
from gendae.models.classifier import error_of
from gendae.models.joint import JointStack
from gendae.models.noise import noise_of_all_but_labels
from gendae.priors.autoencoder import AutoencoderPrior, Learning
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import ParzenPrior
from gendae.registry import build, upgraded

ONE_PASS = "missingness input, one pass"


def model_at(path, config=None):
    """A model, with the widths of its draws measured under a configuration's noise."""
    if Path(path).is_dir():
        path = checkpoint_of(path)

    stack = load(path)
    if config is not None:
        x = data_of(stack).split("train").x[:5000]
        stack.fit_residuals(x, corruption_in(config, stack), adds_up=True)

    return stack


def corruption_in(config, stack):
    """What a configuration of JointTargetPropRule trains under."""
    arguments = yaml.safe_load(Path(config).read_text())["model"]["init_args"]
    if "corruption" not in arguments:
        return noise_of_all_but_labels(stack)

    return build(described(arguments["corruption"]))


def described(content):
    """A configuration's class_path and init_args as the description of an object."""
    if isinstance(content, list):
        return [described(item) for item in content]
    if not isinstance(content, dict):
        return content

    name = content["class_path"].removeprefix("gendae.")
    options = content.get("init_args", {})
    return {"type": name, **{key: described(value) for key, value in options.items()}}


def parts(stack, split):
    """Values of each modality in a split."""
    return stack.separate(data_of(stack).split(split).x)


def label_error(stack, split):
    """Error rate of labels by one pass from the image."""
    values = parts(stack, split)
    p = stack.predict({"image": values["image"]}, "label")
    return error_of(p, values["label"].argmax(1)).item()


def spread(values):
    """mean +- sd in percent."""
    sd = stdev(values) if len(values) > 1 else 0.0
    return f"{100 * mean(values):.2f} +- {100 * sd:.2f} % ({len(values)})"


# -- image and label ------------------------------------------------------------------------------


def label(paths, config=None, n=1000):
    """Error rates by one pass and by chains, and how well samples of a class show that class.

    A classifier of real digits judges the samples.
    """
    network = load_feature_classifier()
    results = []
    for path in paths:
        stack = model_at(path, config)
        row = {"model": str(path), "seed": stack.facts["seed"]}
        for split in ("valid", "test"):
            row[f"{split}_error"] = label_error(stack, split)

        test = parts(stack, "test")
        row |= by_chains(stack, test)
        for name, completer in completers_of_images(stack).items():
            row[name] = class_conditional(stack, completer, network, test["image"], n)

        results.append(row)
        print(json.dumps(row))

    for key in ("valid_error", "test_error"):
        print(key, spread([row[key] for row in results]))

    return results


def completers_of_images(stack):
    return {
        "prior, no rounds": Completer(0, begin="prior"),
        "prior, 5 rounds": chain(stack, "prior", 5),
        "prior, 50 rounds": chain(stack, "prior"),
        "mask, 50 rounds": chain(stack, "mask"),
    }


def chain(stack, begin, rounds=50):
    corruption = stack.settings.completer.corruption
    return Completer.mcmc(rounds, begin=begin, corruption=corruption)


def class_conditional(stack, completer, network, real, n):
    """Measures of n images that were completed from labels, as many of each class."""
    classes = torch.arange(10).repeat_interleave(n // 10)
    completion = complete(stack, {"label": classes}, completer=completer, seed=0)
    samples = completion.values["image"].clamp(0, 1)

    agrees = (network(samples).softmax(1).argmax(1) == classes).float()
    features = network.features(samples)
    quality = precision_recall_density_coverage(network.features(real), features, 5)
    return {
        "agreement": agrees.mean().item(),
        "least": agrees.view(10, -1).mean(1).min().item(),
        "spread": samples.view(10, n // 10, -1).std(1).mean().item(),
        "precision": quality.precision,
        "recall": quality.recall,
    }


def by_chains(stack, values, chains=8):
    """Error rates of labels inferred by rounds of encoding and decoding, not by one pass.

    This is question 12 of Bengio 2014, section 9.
    """
    x = values["image"]
    y = values["label"].argmax(1)
    error_rates = {}
    for name, completer, n in (
        ("MAP", Completer.map(50), 1),
        (f"mean of {chains} chains of 20", Completer.mcmc(20), chains),
    ):
        p = complete(stack, {"image": x}, n=n, completer=completer, seed=0).values["label"]
        error_rates[name] = error_of(p.view(len(x), n, -1).mean(1), y).item()

    return {"inferred": error_rates}


def errors(rows):
    """Test errors of groups of runs."""
    groups = {}
    for row in rows:
        name, folder = row.split("=")
        runs = sorted(p for p in Path(folder).iterdir() if (p / "checkpoints/best.ckpt").is_file())
        group = {"valid": [], "test": [], "runs": []}
        for run in runs:
            stack = model_at(run)
            for split in ("valid", "test"):
                group[split].append(label_error(stack, split))

            group["runs"].append(
                {
                    "seed": stack.facts["seed"],
                    "label_seed": upgraded(stack.facts["dataset"])["labelled"]["seed"],
                    "command": stack.facts["command"],
                }
            )

        groups[name] = group
        print(
            f"{name}: validation {spread(group['valid'])}, test {spread(group['test'])}",
            flush=True,
        )

    return groups


# -- halves ---------------------------------------------------------------------------------------


def nearest(train_in, train_out, valid_in, valid_out, test_in):
    """Predictions of k-nearest neighbours, k chosen on validation images."""
    scores = {}
    for k in (1, 3, 5, 8, 12, 16, 24, 32, 48):
        model = KNeighborsRegressor(k, algorithm="brute").fit(train_in, train_out)
        squares = (model.predict(valid_in[:2000]) - valid_out[:2000].numpy()) ** 2
        scores[k] = float(squares.mean())

    best = min(scores, key=scores.get)
    model = KNeighborsRegressor(best, algorithm="brute").fit(train_in, train_out)
    return torch.from_numpy(model.predict(test_in)).float(), best


def halves(path, pictures, given="bottom", wanted="top", config=None, n=2000, chains=16):
    """Squared error per pixel of one modality given another, spread and precision of samples.

    Whether that spread is right: benchmarks/calibration.py.
    """
    stack = model_at(path, config)
    test = parts(stack, "test")
    methods = completions(stack, test, given, wanted)
    samples = complete(
        stack, {given: test[given][:n]}, n=chains, completer=sampling(stack), seed=0
    ).values[wanted]
    samples = samples.view(n, chains, -1)

    result = {
        "given": given,
        "wanted": wanted,
        "rows": squared_errors(methods, samples, test[wanted]),
        "spread": samples.std(1).mean().item(),
    }
    if {given, wanted} == {"top", "bottom"}:
        result |= on_manifold(stack, test, methods, samples, given, wanted)

    if pictures:
        out = Path(pictures) / f"{wanted}-given-{given}.png"
        draw(stack, test, methods, samples, given, wanted, out)

    print(json.dumps(result, indent=1))
    return result


def completions(stack, test, given, wanted):
    """Values of the wanted modality by each method that gives one."""
    train = parts(stack, "train")
    valid = parts(stack, "valid")
    predicted, k = nearest(train[given], train[wanted], valid[given], valid[wanted], test[given])
    methods = {
        "training mean": train[wanted].mean(0).expand_as(test[wanted]),
        f"{k} nearest neighbours": predicted,
        ONE_PASS: stack.predict({given: test[given]}, wanted),
    }

    completers = {
        "MAP": Completer.map(50),
        "annealed": Completer.annealed(50),
        "MCMC, one sample": sampling(stack),
        "MCMC, 50 rounds": Completer.mcmc(50),
    }
    for name, completer in completers.items():
        completion = complete(stack, {given: test[given]}, completer=completer, seed=0)
        methods[name] = completion.values[wanted]

    return methods


def sampling(stack):
    """The model's own completer if it ends in draws; 20 rounds at temperature 1 otherwise."""
    own = stack.settings.completer
    if own is not None and own.annealing.end > 0.0:
        return own

    return Completer.mcmc(20)


def squared_errors(methods, samples, truth):
    """Mean squared error of each method, and of some on the images that have samples."""
    n, chains, _ = samples.shape
    neighbours = next(name for name in methods if name.endswith("nearest neighbours"))

    def mse(value):
        return {"mse": (value - truth[: len(value)]).square().mean().item()}

    rows = {name: mse(value) for name, value in methods.items()}
    rows[f"MCMC, mean of {chains} (first {n})"] = mse(samples.mean(1))
    rows["neighbours, the same images"] = mse(methods[neighbours][:n])
    rows["missingness, the same images"] = mse(methods[ONE_PASS][:n])
    return rows


def whole(stack, values):
    """Top and bottom half as an image."""
    return torch.cat([values["top"], values["bottom"]], 1).clamp(0, 1)


def on_manifold(stack, test, methods, samples, given, wanted):
    """Precision and class agreement of images made of a given half and a completed one."""
    network = load_feature_classifier()
    real = network.features(whole(stack, test))
    y = MNIST().split("test").y
    n = len(samples)
    candidates = {
        "real images": test[wanted][:n],
        "MCMC, one sample": samples[:, 0],
        "MCMC, mean": samples.mean(1),
        "one pass": methods[ONE_PASS][:n],
        "MAP": methods["MAP"][:n],
    }

    measures = {}
    for name, value in candidates.items():
        images = whole(stack, {given: test[given][:n], wanted: value})
        quality = precision_recall_density_coverage(real, network.features(images), 5)
        measures[name] = {
            "precision": quality.precision,
            "recall": quality.recall,
            "class kept": (network(images).argmax(1) == y[:n]).float().mean().item(),
        }

    return {"manifold": measures}


def draw(stack, test, methods, samples, given, wanted, out, rows=10):
    """Given, true, one pass, MAP and five samples, one row for an example; halves put together."""
    are_halves = {given, wanted} == {"top", "bottom"}

    def image(value):
        if are_halves:
            return whole(stack, {given: test[given][:rows], wanted: value})
        return value.clamp(0, 1)

    first = test[given][:rows]
    if are_halves:
        first = image(torch.full_like(test[wanted][:rows], 0.5))

    columns = [
        first,
        image(test[wanted][:rows]),
        *(image(methods[name][:rows]) for name in (ONE_PASS, "MAP")),
        *(image(samples[:rows, i]) for i in range(5)),
    ]
    grid = torch.stack(columns, 1).flatten(0, 1)
    print("written:", plots.save(plots.image_grid(grid, (28, 28), len(columns)), out))


# -- ascent ---------------------------------------------------------------------------------------


def typeset(unit):
    """What is measured, with its symbols as in print."""
    symbols = {
        "log p(h_missing | h_observed)": r"$\log\,p(h_{missing}\,|\,h_{observed})$",
        "|r(h) - h|": "$|r(h) - h|$",
    }
    for plain, printed in symbols.items():
        unit = unit.replace(plain, printed)

    return unit


def ascent(path, pictures, given="bottom", n=500, rounds=100):
    """log p(h_missing | h_observed) along MAP and annealed runs, for tops over the joint codes.

    A top without a density is measured by |r(h) - h| of the missing half instead.
    """
    stack = model_at(path)
    codes = {split: codes_of(stack, split) for split in ("train", "test")}
    is_given = torch.tensor([[name == given for name in stack.names]])
    observed = stack.spread(is_given, stack.level)[0]
    h = codes["test"][:n]
    tops = {
        "Gaussian": GaussianPrior("full", 1.0),
        "Parzen": ParzenPrior(choice="kmeans", capacity=5000),
        "auto-encoder": AutoencoderPrior([500], code=100, learning=Learning(epochs=10)),
    }

    result = {}
    curves = {}
    for name, prior in tops.items():
        joint = JointStack(stack.modalities, [], prior)
        joint.prior.fit(codes["train"])
        unit, runs = ascents(joint, h, observed, rounds)
        curves[name, unit] = runs
        for kind, values in runs.items():
            result[f"{name}, {kind}"] = {"measure": unit, **changes(values.mean(1))}
            print(name, kind, result[f"{name}, {kind}"], flush=True)

        if prior.has_density:
            higher = runs["annealed"][-1] > runs["MAP"][-1]
            result[f"{name}, annealed ends higher"] = higher.float().mean().item()

    if pictures:
        panels = {
            (name, typeset(unit)): {k: values.double() for k, values in runs.items()}
            for (name, unit), runs in curves.items()
        }
        out = Path(pictures) / "ascent.png"
        print("written:", plots.save(plots.bands(panels, "round"), out))

    return result


def codes_of(stack, split):
    blocks = data_of(stack).split(split).x.split(1000)
    return torch.cat([stack.lower(x)[-1] for x in blocks])


def ascents(joint, h, observed, rounds):
    """What is measured, and its values along the runs of both completers: rounds x examples."""
    prior = joint.prior
    start = prior.sample(len(h), torch.Generator().manual_seed(0))
    start = torch.where(observed, h, start)

    runs = {}
    for kind, completer in {
        "MAP": Fixed(rounds, start),
        "annealed": Fixed(rounds, start, 1.0, 0.25),
    }.items():
        generator = torch.Generator().manual_seed(1)
        states = list(completer.trajectory(joint, h, observed, None, generator))
        if prior.has_density:
            values = [log_conditional(prior, state, observed) for state in states]
        else:
            values = [step_length(prior, state, observed) for state in states]
        runs[kind] = torch.stack(values)

    if prior.has_density:
        return "log p(h_missing | h_observed)  [nats]", runs
    return "|r(h) - h| of the missing half", runs


def step_length(prior, state, observed):
    step = (prior.reconstruct(state) - state)[:, ~observed]
    return step.square().sum(1).sqrt()


def changes(average):
    """How an average over examples goes along the rounds."""
    return {
        "start": average[0].item(),
        "end": average[-1].item(),
        "rises at every step": bool((average.diff() >= 0).all()),
        "least change": average.diff().min().item(),
        "largest change": average.diff().max().item(),
        "rounds": len(average) - 1,
    }


class Fixed(Completer):
    """A completer that starts where it is told."""

    def __init__(self, rounds, begin_at, start=0.0, settle=0.0):
        annealing = Annealing(start, 0.0, settle)
        super().__init__(rounds, annealing, tolerance=0.0, begin="prior")
        self.begin_at = begin_at

    def first(self, *_):
        return self.begin_at


# -- hybrid targets -------------------------------------------------------------------------------


def hybrid(rows, pictures):
    """Test error against joint_weight (Eq. 19)."""
    ways = {}
    for row in rows:
        name, folder = row.split("=")
        ways[name] = errors_by_weight(folder)
        print(name, {w: spread(e) for w, e in ways[name].items()}, flush=True)

    shared = ways.pop("joint", {})  # runs at joint_weight 1, where all ways are the same
    ways = {name: points | shared for name, points in ways.items()}

    if pictures:
        curves = {}
        for name, points in ways.items():
            percent = [[100 * e for e in error_rates] for error_rates in points.values()]
            curves[name] = (list(points), percent)

        figure = plots.against(curves, "weight of the joint loss", "test error  [%]")
        print("written:", plots.save(figure, Path(pictures) / "hybrid.png"))

    return ways


def errors_by_weight(folder):
    """Test errors of the runs in a folder, grouped by their joint_weight, from low to high."""
    points = {}
    for run in sorted(Path(folder).iterdir()):
        stack = model_at(run)
        # runs of version 0.1 say --model.joint_weight
        weight = float(stack.facts["command"].split("joint_weight ")[1].split()[0])
        points.setdefault(weight, []).append(label_error(stack, "test"))

    return dict(sorted(points.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["label", "errors", "halves", "ascent", "hybrid"])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--given", default="bottom")
    parser.add_argument("--wanted", default="top")
    parser.add_argument("--pictures", help="folder for figures")
    parser.add_argument("--config", help="measure widths under the noise of this configuration")
    parser.add_argument("--json")
    args = parser.parse_args()

    first = args.models[0]
    calls = {
        "label": lambda: label(args.models, args.config),
        "errors": lambda: errors(args.models),
        "halves": lambda: halves(first, args.pictures, args.given, args.wanted, args.config),
        "ascent": lambda: ascent(first, args.pictures, args.given),
        "hybrid": lambda: hybrid(args.models, args.pictures),
    }
    result = calls[args.what]()

    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
