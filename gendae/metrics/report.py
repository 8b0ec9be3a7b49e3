"""A model's scores beside those of its decoder's best, real images and k-means centroids."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from gendae.data.base import Data
from gendae.metrics import annealed, bounds, fidelity, parzen, quality, traces
from gendae.metrics.codes import (
    Codes,
    codes_of,
    copying_of_codes,
    decoded,
    log_prob_of_codes,
)
from gendae.metrics.features import CLASSIFIERS, load_feature_classifier
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.sampling.samplers import AncestralSampler, Sampler, generate

#: Test images and importance samples of the bound: 20 s on one core for the paper's stack.
BOUND_IMAGES = 1000
BOUND_SAMPLES = 1000
#: Test images of which PSNR and SSIM are taken.
COMPARED = 1000
NEIGHBOURS = 5
#: The row of the best that this decoder allows: codes of validation images, which are no copies.
CEILING = "decoded held-out codes"
#: Rows of validation images, whose bandwidth is chosen on others.
VALIDATION = ("held-out images", CEILING)
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
    "authentic",
    "copying_codes",
    "confidence",
    "classes",
)


def feature_network(data: Data) -> tuple[nn.Module, str]:
    """The network whose features measure quality, also in words.

    It is the shipped classifier of these data, which are known by their SHA-256 and not by the
    class that reads them. Where none comes with gendae, also for coloured images, quality is
    measured on pixels.
    """
    name = None
    if data.kind == "image" and data.identity is not None:
        name = CLASSIFIERS.get(data.identity.name)
    if name is None:
        return quality.PixelFeatures(), "pixels"

    network = load_feature_classifier(name)
    words = (
        f"{network.width} hidden units of {name}, a convolutional network of "
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
    hidden: str = "drawn",
) -> dict[str, Any]:
    """All scores of a model: of its samples, its density and its reconstructions.

    These are Parzen scores, sample quality, log p(h_L) of codes, a bound on log p(x), log p(x, h)
    for each inference step, and reconstruction errors for each layer. Every row is scored on the
    test images: the model, its ancestral samples where the prior is drawn without a chain, the
    decoded codes of held-out (validation) images, training images, held-out images and k-means
    centroids. `begin` is called with the name of each of the `steps` as it begins. The bound is
    that of `hidden` levels, see `importance_weighted_bound`.
    """
    train = data.split("train").x.to(stack.device)
    valid = data.split("valid").x.to(stack.device)
    test = data.split("test").x.to(stack.device)

    begin("codes")
    codes = codes_of(stack, train, valid, test)
    samples = drawn(stack, n, sampler, seed, begin)
    samples[CEILING] = decoded(stack, codes.valid[:n])
    begin("k-means centroids")
    centroids = parzen.kmeans_centroids(train, max(1, min(n, len(train) // 2)), seed)

    sets = {**samples, **baselines(train, valid, centroids, n)}
    rows = parzen_rows(sets, train, valid, test, begin)
    begin("log p(x, h) and reconstructions")
    own = rows["model"]
    result = {
        "parzen_ll": own["ll"],
        "parzen_se": own["se"],
        "sigma": own["sigma"],
        "ancestral_ll": rows.get("ancestral", {"ll": None})["ll"],
        "n": n,
        "seed": seed,
        "parzen": rows,
        "log_joint": joint_trace(stack, test),
        **reconstructions(stack, data, test),
    }
    result |= quality_rows(stack.prior, codes, samples, centroids, data, seed, begin)
    begin("log p(h)")
    result |= log_prob_of_codes(stack.prior, codes)
    begin("bound on log p(x)")
    result |= bound(stack, test[:BOUND_IMAGES], sigma_x, seed, hidden)

    return result


def drawn(
    stack: Stack, n: int, sampler: Sampler | None, seed: int, begin: Callable[[str], None]
) -> dict[str, Tensor]:
    """Samples of the model, and ancestral ones where the prior is drawn without a chain."""
    begin("samples of the model")
    samples = {"model": generate(stack, n, sampler, seed).to(stack.device)}
    if stack.prior.analytic:
        begin("ancestral samples")
        samples["ancestral"] = generate(stack, n, AncestralSampler(), seed=seed).to(stack.device)

    return samples


def baselines(train: Tensor, valid: Tensor, centroids: Tensor, n: int) -> dict[str, Tensor]:
    """Real images, at most n of each split, their centroids and their mean."""
    return {
        "training images": train[:n],
        "held-out images": valid[:n],
        "k-means centroids": centroids,
        "mean image": train.mean(0, keepdim=True),
    }


def steps(stack: Stack) -> int:
    """How many steps an evaluation has, where there are enough images for all measures."""
    sets = 2 if stack.prior.analytic else 1
    beside = 5 + 4  # whose Parzen score, and whose quality is measured
    once = ("codes", "centroids", "log p(x, h)", "training images", "copying", "log p(h)", "bound")
    return 3 * sets + beside + len(once)


def reconstructions(stack: Stack, data: Data, x: Tensor) -> dict[str, Any]:
    """Squared errors of x through each layer; of images PSNR and SSIM too, None of other data."""
    measured = None
    if data.kind == "image":
        measured = fidelity.reconstruction_fidelity(stack, x[:COMPARED], data.shape)

    errors = traces.reconstruction_errors(stack, x.split(1000))
    return {"reconstruction": errors, "reconstruction_fidelity": measured}


def joint_trace(stack: Stack, x: Tensor) -> list[float] | None:
    """log p(x, h) for each inference step; None for discrete units, which cannot be moved."""
    if stack.hard_levels or stack.pairs[0].observation.hard:
        return None

    return traces.log_joint_trace(stack, x).mean(1).tolist()


def measures(
    stack: Stack,
    train: Tensor,
    valid: Tensor,
    test: Tensor,
    n: int = 10_000,
    seed: int = 0,
    judge: quality.Quality | None = None,
    density_codes: int | None = None,
) -> dict[str, Any]:
    """The measures of `evaluation` that compare priors of one stack, without its baselines.

    Args:
        stack: with a fitted prior.
        train, valid, test: images, (n, pixels).
        n: how many samples.
        seed: the same seed gives the same result.
        judge: `Quality` of these training and test images, which can serve many stacks; on pixels
            if None.
        density_codes: of how many codes log p(h_L) is taken, see `log_prob_of_codes`.

    Returns:
        The Parzen score and the quality of the model's samples by the names of `evaluation`
        (`ll`, `fid`, `copying_codes`, ..), `log_prob` of its codes, and as `ceiling` the scores
        and the quality of decoded held-out codes.

    Example:
        >>> import torch
        >>> from gendae.models.architectures import deep_autoencoder
        >>> stack = deep_autoencoder([8, 4])
        >>> x = torch.rand(300, 8, generator=torch.Generator().manual_seed(0))
        >>> _ = stack.prior.fit(stack.encode(x[:200])[-1])
        >>> row = measures(stack, x[:200], x[200:250], x[250:], n=50)
        >>> row["n"], row["ceiling"]["n"], row["log_prob"]["test codes"]["n"]
        (50, 50, 50)
    """
    judge = judge or quality.Quality(train, test, quality.PixelFeatures(), seed=seed)
    codes = codes_of(stack, train, valid, test)
    sets = {"model": generate(stack, n, seed=seed), CEILING: decoded(stack, codes.valid[:n]).cpu()}

    rows = parzen_rows(sets, train, valid, test)
    copying = copying_of_codes(stack.prior, codes, n, seed)
    for (name, x), of_codes in zip(sets.items(), copying, strict=True):
        rows[name] |= {**judge(x), "copying_codes": of_codes}

    density = log_prob_of_codes(stack.prior, codes, density_codes)
    return {**rows["model"], **density, "ceiling": rows[CEILING]}


def parzen_rows(
    sets: dict[str, Tensor],
    train: Tensor,
    valid: Tensor,
    test: Tensor,
    begin: Callable[[str], None] = quality.untold,
) -> dict[str, dict[str, Any]]:
    """Parzen scores by name.

    sigma is chosen on validation images, but on training images for validation images themselves
    and what is decoded from their codes.
    """
    rows = {}
    for name, x in sets.items():
        begin(f"Parzen score: {name}")
        chosen_on = train if name in VALIDATION else valid
        rows[name] = {"n": len(x), **parzen.parzen_score(x, test, chosen_on)}

    return rows


def quality_rows(
    prior: Prior,
    codes: Codes,
    samples: dict[str, Tensor],
    centroids: Tensor,
    data: Data,
    seed: int = 0,
    begin: Callable[[str], None] = quality.untold,
) -> dict[str, Any]:
    """Sample quality of all rows, that of the model also at the top level.

    `copying_codes` is that of the prior's samples, of which the model's and the ancestral ones are
    decoded, and of held-out codes. `copying_of_halves` is the copying of one half of the test
    images against the other.
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
    begin("copying of codes")
    of_prior, of_held_out = copying_of_codes(prior, codes, len(samples["model"]), seed)
    for name, row in report.items():
        row["copying_codes"] = of_prior if name in samples else None
    report[CEILING]["copying_codes"] = of_held_out

    return {
        "features": features,
        "quality": report,
        "copying_of_halves": report["held-out images"]["copying_of_halves"],
        **{key: report["model"][key] for key in QUALITY},
    }


def bound(
    stack: Stack,
    x: Tensor,
    sigma_x: float | None = None,
    seed: int = 0,
    hidden: str = "drawn",
) -> dict[str, Any]:
    """The importance-weighted bound, or why there is none."""
    law = "the model's own p(x | h)"
    if sigma_x is not None:
        law = f"N(x; g_1(h_1), {sigma_x:g}^2)"
    if hidden == "means":
        law += ", of h_L alone, whose means are decoded"

    generator = Generator().manual_seed(seed)
    try:
        log_p = bounds.importance_weighted_bound(
            stack, x, BOUND_SAMPLES, sigma_x, generator, hidden=hidden
        )
    except bounds.NoDensityError as error:
        return {"iw_bound": None, "iw_bound_missing": str(error)}

    return {
        "iw_bound": log_p.mean().item(),
        "iw_bound_se": (log_p.std(correction=0) / len(x) ** 0.5).item(),
        "iw_bound_images": len(x),
        "iw_bound_samples": BOUND_SAMPLES,
        "iw_bound_law": law,
    }


#: Parts in which what annealing has done is told, for the test images and for the model's own.
TOLD = 20


class Annealing(NamedTuple):
    """How much annealed importance sampling an evaluation does.

    Attributes:
        images: of the test set; none where it is 0.
        chains, temperatures, hidden: see `gendae.annealed_log_prob`.
        bits: the seed of test images that are bits, see `gendae.Binarised`; None of others.
        drawn: images that the model draws for the gap; as many as of the test set where None.
    """

    images: int = 0
    chains: int = 16
    temperatures: int = 2000
    hidden: str = "drawn"
    bits: int | None = None
    drawn: int | None = None

    @property
    def steps(self) -> int:
        """How many steps are told."""
        return 2 * TOLD if self.images else 0


def images_to_anneal(x: Tensor, n: int, seed: int = 0) -> Tensor:
    """n of the images x, drawn by the seed: the first ones of a set may be easier than others.

    Example:
        >>> len(images_to_anneal(torch.rand(9, 4), 3)), len(images_to_anneal(torch.rand(2, 4), 3))
        (3, 2)
    """
    order = torch.randperm(len(x), generator=Generator().manual_seed(seed))
    return x[order[:n]]


def annealed_rows(
    stack: Stack,
    x: Tensor,
    annealing: Annealing,
    sigma_x: float | None = None,
    seed: int = 0,
    begin: Callable[[str], None] = quality.untold,
) -> dict[str, Any]:
    """log p(x) of test images x by annealed importance sampling, or why there is none.

    Beside it stands the gap between both of its sides on images that the model draws.
    """
    draws = Generator().manual_seed(seed)
    options: dict[str, Any] = {"sigma_x": sigma_x, "hidden": annealing.hidden, "generator": draws}
    counts = (annealing.chains, annealing.temperatures)
    drawn = annealing.drawn or len(x)

    started = time.perf_counter()
    try:
        own = annealed.annealed_log_prob(
            stack, x, *counts, **options, told=in_parts("annealed log p(x)", begin)
        )
        both = annealed.annealed_gap(
            stack, drawn, *counts, **options, told=in_parts("its gap on model data", begin)
        )
    except bounds.NoDensityError as error:
        return {"annealed": None, "annealed_missing": str(error)}

    return {
        "annealed": own.mean,
        "annealed_se": own.se,
        "annealed_images": len(x),
        "annealed_seed": seed,
        "annealed_chains": annealing.chains,
        "annealed_temperatures": annealing.temperatures,
        "annealed_law": own.law,
        "annealed_bits": annealing.bits,
        "annealed_acceptance": own.acceptance,
        "annealed_effective": own.effective,
        "annealed_gap": both.mean,
        "annealed_gap_se": both.se,
        "annealed_gap_images": drawn,
        "annealed_seconds": time.perf_counter() - started,
    }


def in_parts(name: str, begin: Callable[[str], None]) -> Callable[[float], None]:
    """A function that takes the share done, and begins each twentieth of it by this name.

    Example:
        >>> told = in_parts("work", print)
        >>> told(0.01), told(0.02), told(0.06)
        work: 0 %
        work: 5 %
        (None, None, None)
    """
    begun = 0

    def told(share: float) -> None:
        nonlocal begun
        while begun < TOLD and share * TOLD > begun:
            begin(f"{name}: {100 * begun // TOLD} %")
            begun += 1

    return told
