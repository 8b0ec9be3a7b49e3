"""A model's scores beside those of real images and k-means centroids, as data and as lines."""

from collections.abc import Callable
from typing import Any

from torch import Generator, Tensor, nn

from gendae.data.base import Data
from gendae.data.images import MNIST
from gendae.metrics import bounds, parzen, quality, traces
from gendae.metrics.features import load_feature_classifier
from gendae.models.stack import Stack
from gendae.sampling.samplers import AncestralSampler, Sampler, generate

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


def feature_network(data: Data) -> tuple[nn.Module, str]:
    """The network whose features measure quality, also in words.

    It is the shipped classifier for MNIST. All other data are measured on pixels, those in the
    format of MNIST's files too.
    """
    identity = data.identity if isinstance(data, MNIST) else None
    if identity is None or identity.name != "MNIST":
        return quality.PixelFeatures(), "pixels"

    network = load_feature_classifier("mnist-classifier")
    words = (
        f"{network.width} hidden units of mnist-classifier, a convolutional network of "
        f"{100 * network.facts['test_error']:.2f} % test error"
    )

    return network, words


def evaluation(
    stack: Stack,
    data: Data,
    n: int,
    seed: int = 0,
    sigma_x: float | None = None,
    sampler: Sampler | None = None,
    begin: Callable[[str], None] = quality.untold,
) -> dict[str, Any]:
    """All scores of a model: of its samples, its density and its reconstructions.

    These are Parzen scores, sample quality, a bound on log p(x), log p(x, h) for each inference
    step, and reconstruction errors for each layer. Every row is scored on the test images: the
    model, its ancestral samples where the prior is drawn without a chain, training images,
    held-out (validation) images and k-means centroids. `begin` is called with the name of each of
    the `steps` as it begins.
    """
    train = data.split("train").x.to(stack.device)
    valid = data.split("valid").x.to(stack.device)
    test = data.split("test").x.to(stack.device)

    begin("samples of the model")
    samples = {"model": generate(stack, n, sampler, seed).to(stack.device)}
    if stack.prior.analytic:
        begin("ancestral samples")
        samples["ancestral"] = generate(stack, n, AncestralSampler(), seed=seed).to(stack.device)
    begin("k-means centroids")
    centroids = parzen.kmeans_centroids(train, max(1, min(n, len(train) // 2)), seed)

    rows = parzen_rows(samples, centroids, train, valid, test, begin)
    begin("log p(x, h) and reconstructions")
    own = rows["model"]
    ancestral = rows.get("ancestral", {"ll": None})
    result = {
        "parzen_ll": own["ll"],
        "parzen_se": own["se"],
        "sigma": own["sigma"],
        "ancestral_ll": ancestral["ll"],
        "n": n,
        "seed": seed,
        "parzen": rows,
        "log_joint": joint_trace(stack, test),
        "reconstruction": traces.reconstruction_errors(stack, test.split(1000)),
    }
    result |= quality_rows(samples, centroids, data, seed, begin)
    begin("bound on log p(x)")
    result |= bound(stack, test[:BOUND_IMAGES], sigma_x, seed)

    return result


def steps(stack: Stack) -> int:
    """How many steps an evaluation has, where there are enough images for all measures."""
    sets = 2 if stack.prior.analytic else 1
    beside = 4 + 3  # whose Parzen score, and whose quality is measured
    return 3 * sets + beside + len(("centroids", "log p(x, h)", "training images", "bound"))


def joint_trace(stack: Stack, x: Tensor) -> list[float] | None:
    """log p(x, h) for each inference step; None for discrete units, which cannot be moved."""
    if stack.hard_levels or stack.pairs[0].observation.hard:
        return None

    return traces.log_joint_trace(stack, x).mean(1).tolist()


def parzen_rows(
    samples: dict[str, Tensor],
    centroids: Tensor,
    train: Tensor,
    valid: Tensor,
    test: Tensor,
    begin: Callable[[str], None] = quality.untold,
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
        begin(f"Parzen score: {name}")
        rows[name] = {"n": len(x), **parzen.parzen_score(x, test, chosen_on[name])}

    return rows


def quality_rows(
    samples: dict[str, Tensor],
    centroids: Tensor,
    data: Data,
    seed: int = 0,
    begin: Callable[[str], None] = quality.untold,
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
    report = quality.quality_report(
        samples, train, valid, test, network, centroids.cpu(), seed, begin
    )

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
