"""A model's scores beside those of real images and k-means centroids, as data and as lines."""

import json
import math
from pathlib import Path
from typing import Any

from torch import Generator, Tensor, nn

from gendae import bounds, metrics, quality
from gendae.conditionals import Discrete
from gendae.data import MNIST, ImageData
from gendae.features import load_feature_classifier
from gendae.sampling import AncestralSampler, generate
from gendae.stack import Stack
from gendae.writing import write_whole

#: Test images and importance samples of the bound: 20 s on one core for the paper's stack.
BOUND_IMAGES = 1000
BOUND_SAMPLES = 1000
NEIGHBOURS = 5
#: Measures of quality at the top level of the result.
QUALITY = (
    "fid",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "copying",
    "copying_pixels",
    "confidence",
    "classes",
)


def feature_network(data: ImageData) -> tuple[nn.Module, str]:
    """The network whose features measure quality, also in words.

    It is the shipped classifier for MNIST. All other data are measured on pixels.
    """
    if not isinstance(data, MNIST):
        return quality.PixelFeatures(), "pixels"

    network = load_feature_classifier("mnist-classifier")
    words = (
        f"{network.width} hidden units of mnist-classifier, a convolutional network of "
        f"{100 * network.facts['test_error']:.2f} % test error"
    )

    return network, words


def evaluation(
    stack: Stack, data: ImageData, n: int, seed: int = 0, sigma_x: float | None = None
) -> dict[str, Any]:
    """All scores of a model: of its samples, its density and its reconstructions.

    These are Parzen scores, sample quality, a bound on log p(x), log p(x, h) for each inference
    step, and reconstruction errors for each layer. Every row is scored on the test images: the
    model, its ancestral samples where the prior is drawn without a chain, training images,
    held-out (validation) images and k-means centroids.
    """
    train = data.split("train").x.to(stack.device)
    valid = data.split("valid").x.to(stack.device)
    test = data.split("test").x.to(stack.device)

    samples = {"model": generate(stack, n, seed=seed).to(stack.device)}
    if stack.prior.analytic:
        samples["ancestral"] = generate(stack, n, AncestralSampler(), seed=seed).to(stack.device)
    centroids = metrics.kmeans_centroids(train, max(1, min(n, len(train) // 2)), seed)

    parzen = parzen_rows(samples, centroids, train, valid, test)
    own = parzen["model"]
    ancestral = parzen.get("ancestral", {"ll": None})
    result = {
        "parzen_ll": own["ll"],
        "parzen_se": own["se"],
        "sigma": own["sigma"],
        "ancestral_ll": ancestral["ll"],
        "n": n,
        "seed": seed,
        "parzen": parzen,
        "log_joint": joint_trace(stack, test),
        "reconstruction": metrics.reconstruction_errors(stack, test.split(1000)),
    }
    result |= quality_rows(samples, centroids, data, seed)
    result |= bound(stack, test[:BOUND_IMAGES], sigma_x, seed)

    return result


def joint_trace(stack: Stack, x: Tensor) -> list[float] | None:
    """log p(x, h) for each inference step; None for discrete units, which cannot be moved."""
    for pair in stack.pairs:
        if isinstance(pair.observation, Discrete) or isinstance(pair.recognition, Discrete):
            return None

    return metrics.log_joint_trace(stack, x).mean(1).tolist()


def parzen_rows(
    samples: dict[str, Tensor], centroids: Tensor, train: Tensor, valid: Tensor, test: Tensor
) -> dict[str, dict[str, float]]:
    """Parzen scores by name.

    sigma is chosen on validation images, but for validation images themselves on training images.
    """
    n = max(len(x) for x in samples.values())

    sets = {
        **samples,
        "training images": train[:n],
        "held-out images": valid[:n],
        "k-means centroids": centroids,
        "mean image": train.mean(0, keepdim=True),
    }
    chosen_on = dict.fromkeys(sets, valid)
    chosen_on["held-out images"] = train

    rows = {}
    for name, x in sets.items():
        rows[name] = {"n": len(x), **metrics.parzen_score(x, test, chosen_on[name])}

    return rows


def quality_rows(
    samples: dict[str, Tensor], centroids: Tensor, data: ImageData, seed: int = 0
) -> dict[str, Any]:
    """Sample quality of all rows, that of the model also at the top level.

    `copying_of_halves` is the copying of one half of the test images against the other.
    """
    train = data.split("train").x
    valid = data.split("valid").x
    test = data.split("test").x
    network, features = feature_network(data)

    smallest = min(len(x) for x in (*samples.values(), centroids, valid, test))
    if smallest <= NEIGHBOURS:
        return {"features": features, "quality": {}, **dict.fromkeys(QUALITY)}

    samples = {name: x.cpu() for name, x in samples.items()}
    report = quality.quality_report(samples, train, valid, test, network, centroids.cpu(), seed)

    return {
        "features": features,
        "quality": report,
        "copying_of_halves": report["held-out images"]["copying_of_halves"],
        **{key: report["model"][key] for key in QUALITY},
    }


def bound(stack: Stack, x: Tensor, sigma_x: float | None = None, seed: int = 0) -> dict[str, Any]:
    """The importance-weighted bound, or why there is none."""
    law = "the model's own p(x | h)"
    if sigma_x is not None:
        law = f"N(x; g_1(h_1), {sigma_x:g}^2)"

    generator = Generator().manual_seed(seed)
    try:
        log_p = bounds.importance_weighted_bound(stack, x, BOUND_SAMPLES, sigma_x, generator)
    except bounds.NoDensityError as error:
        return {"iw_bound": None, "iw_bound_missing": str(error)}

    return {
        "iw_bound": log_p.mean().item(),
        "iw_bound_se": (log_p.std(correction=0) / len(x) ** 0.5).item(),
        "iw_bound_images": len(x),
        "iw_bound_samples": BOUND_SAMPLES,
        "iw_bound_law": law,
    }


def evaluation_table(result: dict[str, Any]) -> list[str]:
    """The evaluation as lines for a terminal."""
    lines = [*_parzen_table(result), "", *quality_table(result), "", _bound_line(result)]

    trace = result["log_joint"]
    if trace is not None:
        lines.append(
            f"log p(x, h) without the prior, inference step 0 to {len(trace) - 1} (alpha 0.1): "
            f"{trace[0]:.2f} to {trace[-1]:.2f} nats"
        )

    errors = ", ".join(f"{error:.2f}" for error in result["reconstruction"])
    lines.append(f"squared reconstruction error per image, through layers 1 .. L: {errors}")

    return lines


def _parzen_table(result: dict[str, Any]) -> list[str]:
    """Parzen scores as lines for a terminal."""
    header = (
        f"{'samples':<20}{'n':>7}{'LL [nats]':>12}{'+-':>6}{'sigma':>8}"
        f"{'10-point grid':>18}{'sigma 0.2':>11}"
    )

    lines = [header]
    for name, row in result["parzen"].items():
        lines.append(
            f"{name:<20}{row['n']:>7}{row['ll']:>12.2f}{row['se']:>6.2f}{row['sigma']:>8.4f}"
            f"{row['ll_goodfellow']:>10.2f} @{row['sigma_goodfellow']:.4f}"
            f"{row['ll_at_0.2']:>11.2f}"
        )

    return lines


def _bound_line(result: dict[str, Any]) -> str:
    """The bound on log p(x) in words, or why there is none."""
    if result["iw_bound"] is None:
        return f"no bound on log p(x): {result['iw_bound_missing']}"

    return (
        f"log p(x) >= {result['iw_bound']:.2f} +- {result['iw_bound_se']:.2f} nats: "
        f"{result['iw_bound_images']} test images, {result['iw_bound_samples']} importance "
        f"samples, {result['iw_bound_law']}"
    )


def quality_table(result: dict[str, Any]) -> list[str]:
    """Sample quality as lines for a terminal."""
    if not result["quality"]:
        needed = f"more than {NEIGHBOURS} samples, validation and test images"
        return [f"sample quality: {needed} are needed"]

    header = (
        f"{'against test images':<20}{'FID':>9}{'KID':>9}{'precision':>11}{'recall':>8}"
        f"{'density':>9}{'coverage':>10}{'copying':>9}{'(pixels)':>10}{'confid.':>9}"
    )
    lines = [header, *(_quality_line(name, row) for name, row in result["quality"].items())]

    lines.append(
        f"features: {result['features']}; copying: z < 0 is nearer to training images than test "
        f"images are; one half of these against the other: {result['copying_of_halves']:.2f}"
    )
    if result["classes"] is not None:
        shares = " ".join(f"{100 * share:.1f}" for share in result["classes"])
        last = len(result["classes"]) - 1
        lines.append(f"classes 0 .. {last} of the model's samples, %: {shares}")

    return lines


def _quality_line(name: str, row: dict[str, Any]) -> str:
    confidence = "-"
    if row["confidence"] is not None:
        confidence = f"{row['confidence']:.3f}"

    return (
        f"{name:<20}{row['fid']:>9.3f}{row['kid']:>9.4f}{row['precision']:>11.3f}"
        f"{row['recall']:>8.3f}{row['density']:>9.3f}{row['coverage']:>10.3f}"
        f"{row['copying']:>9.2f}{row['copying_pixels']:>10.2f}{confidence:>9}"
    )


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Plain data as indented JSON; NaN and infinity become null."""
    text = json.dumps(_without_nan(content), indent=2) + "\n"

    return write_whole(path, text.encode())


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - any plain data
    """The same data, with None for numbers that JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None

    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}

    if isinstance(value, list):
        return [_without_nan(item) for item in value]

    return value
