"""`gendae evaluate`."""

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from gendae import checks
from gendae.commands.common import Table, load_generative
from gendae.commands.data import data_of
from gendae.commands.progress import bar_of_steps
from gendae.commands.sections import adjusted
from gendae.data.base import Data
from gendae.data.binarised import Binarised
from gendae.metrics.latents import HIDDEN, Latents
from gendae.metrics.report import (
    CEILING,
    NEIGHBOURS,
    Annealing,
    annealed_rows,
    evaluation,
    images_to_anneal,
    steps,
)
from gendae.models.stack import Stack
from gendae.sampling.samplers import Sampler, sampler_named
from gendae.storage.atomic import write_json

#: What the columns of the tables say, in the order of the columns.
COLUMNS = {
    "n": "how many samples, or images, stand in for the model.",
    "LL [nats]": "mean log-density of test images around them (Parzen score): higher is better.",
    "+-": "its standard error over test images.",
    "sigma": "the width around each of them, chosen on validation images.",
    "10-point grid": "the same score with sigma from ten values, as many papers report it.",
    "sigma 0.2": "the same score at sigma 0.2, for comparisons at one width.",
    "FID": "distance of means and covariances of features to those of test images: 0 is best.",
    "KID": "another distance of these features, without bias in few samples: 0 is best.",
    "precision": "share of samples within the spread of test images: low means bad samples.",
    "recall": "share of test images within the spread of samples: low means too little variety.",
    "density": "how many test images' neighbourhoods a sample lies in: about 1 is right.",
    "coverage": "share of test images with a sample nearby: low means that kinds are missing.",
    "copying": "below 0, samples lie nearer to training images than test images do: copies, or "
    "smooth.",
    "(pixels)": "the same, measured on pixels instead of features.",
    "authentic": "share of samples farther from the nearest training image than this is from its "
    "own neighbour: far below that of held-out images means copies.",
    "(codes)": "the same of codes, samples of the prior: here below 0 means copies.",
    "confid.": "how sure the classifier, whose features are used, is of the samples' classes.",
}
#: Measures of quality that are remarked upon below half of what held-out images have.
SHARES = {
    "precision": "most samples look like no test image",
    "recall": "samples vary far less than test images do",
    "coverage": "most test images have no sample nearby",
}
#: Copying so far below that of decoded held-out codes is remarked upon: it is a z-score.
COPIES = -3.0


def evaluate(
    model: str,
    n: int = 10_000,
    data: str | None = None,
    root: str | None = None,
    seed: int = 0,
    json: str | None = None,
    device: str = "cpu",
    sigma_x: float | None = None,
    sampler: str | None = None,
    color: str | None = None,
    annealed: int = 0,
    chains: int | None = None,
    temperatures: int | None = None,
    hidden: str | None = None,
    bits: int | None = None,
    **options: str,
) -> Table:
    """Parzen score, sample quality and a bound on log p(x), beside real images.

    Bandwidths are chosen on validation images, scores are taken on test images.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        n: how many samples.
        data: your images, split into train, valid and test; by default the model's data set.
        root: folder of the model's data set.
        seed: the same seed gives the same result.
        json: FILE.json that the result is written to as well.
        device: cpu, cuda, cuda:0, mps.
        sigma_x: standard deviation of p(x | h) in the bound and in annealing; by default the
            model's own law.
        sampler: of the model's samples: generate, ancestral, chain, joint or level; by default
            the model's own.
        color: of coloured images, grey: the luma, rgb: all channels; by default as in training.
        annealed: of how many test images, drawn by the seed, log p(x) is estimated by annealed
            importance sampling, and on how many images of the model its gap; none by default,
            since it takes long.
        chains: of each of these images; 16 by default.
        temperatures: from p(h) to p(h | x); 2000 by default.
        hidden: drawn, the default: all levels are latent; means: h_L alone, decoded by means, in
            the bound and in annealing.
        bits: the seed of bits that are drawn once from the images for annealing; by default the
            images as they are.
        options: --sampler.OPTION, arguments of the sampler, such as --sampler.rounds 20, which
            --sampler.help lists.
    """
    checks.whole("--n", n, 1)
    if sigma_x is not None:
        checks.at_least("--sigma-x", sigma_x, 0.0, strict=True)

    annealing = _annealing(annealed, chains, temperatures, hidden, bits)
    stack = load_generative(model, device)
    chosen = adjusted("sampler", sampler_named(stack, sampler), Sampler, options)
    images = data_of(stack, data, root, color)
    x = _annealed_images(stack, images, annealing, sigma_x, seed)
    with bar_of_steps(steps(stack) + annealing.steps) as begin:
        result = evaluation(stack, images, n, seed, sigma_x, chosen, begin, annealing.hidden)
        if x is not None:
            result |= annealed_rows(stack, x, annealing, sigma_x, seed, begin)

    if json:
        write_json(Path(json), result)
    return [*evaluation_table(result), *remarks(result)]


def _annealing(
    images: int,
    chains: int | None,
    temperatures: int | None,
    hidden: str | None,
    bits: int | None,
) -> Annealing:
    """What --annealed and the options beside it ask for, checked before anything is computed."""
    options = {"chains": chains, "temperatures": temperatures, "hidden": hidden, "bits": bits}
    given = {name: value for name, value in options.items() if value is not None}
    annealing = Annealing(checks.whole("--annealed", images, 0), **given)
    checks.whole("--chains", annealing.chains, 1)
    checks.whole("--temperatures", annealing.temperatures, 1, checks.REPEATS)
    checks.one_of("--hidden", annealing.hidden, HIDDEN)
    if bits is not None:
        checks.whole("--bits", bits, 0)

    of_annealing = [name for name in given if name != "hidden"]
    if of_annealing and not images:
        raise ValueError(f"--{of_annealing[0]} is of annealing; --annealed IMAGES is needed too")
    return annealing


def _annealed_images(
    stack: Stack, data: Data, annealing: Annealing, sigma_x: float | None, seed: int
) -> Tensor | None:
    """Test images that are annealed, drawn by the seed; None if none are asked for.

    Raises:
        NoDensityError: for a model without a density, and images that it gives none.
    """
    if not annealing.images:
        return None

    tested = data if annealing.bits is None else Binarised(data, annealing.bits)
    x = tested.split("test").x
    drawn = images_to_anneal(x, annealing.images, seed)
    return Latents(stack, sigma_x, annealing.hidden).check(drawn)


def evaluation_table(result: dict[str, Any]) -> list[str]:
    """The evaluation as lines for a terminal."""
    lines = [
        *_parzen_table(result),
        "",
        *quality_table(result),
        "",
        *_ceiling_line(result),
        _density_line(result),
        _bound_line(result),
        *_annealed_line(result),
    ]

    trace = result["log_joint"]
    if trace is not None:
        lines.append(
            f"log p(x, h) without the prior, inference step 0 to {len(trace) - 1} (alpha 0.1): "
            f"{trace[0]:.2f} to {trace[-1]:.2f} nats"
        )

    errors = ", ".join(f"{error:.2f}" for error in result["reconstruction"])
    lines.append(f"squared reconstruction error per image, through layers 1 .. L: {errors}")

    return [*lines, *_fidelity_line(result)]


def remarks(result: dict[str, Any]) -> list[str]:
    """What is bad about a model, a line for each: it would go under among the numbers.

    Example:
        >>> held_out = {"precision": 0.9, "recall": 0.9, "coverage": 0.9}
        >>> ceiling = {"copying": -5.9, "copying_codes": -0.5}
        >>> model = {**held_out, **ceiling, "recall": 0.01, "copying": -6.6}
        >>> sets = {"model": model, "held-out images": held_out, "decoded held-out codes": ceiling}
        >>> remarks({"quality": sets})
        ['low recall, 0.010 (held-out images 0.900): samples vary far less than test images do']
        >>> model["copying_codes"] = -13.1
        >>> remarks({"quality": sets})[1:]
        ['copying of codes -13.10 (decoded held-out codes -0.50): samples are near copies']
    """
    if not result["quality"]:
        return []

    own = result["quality"]["model"]
    real = result["quality"]["held-out images"]
    lines = [
        f"low {name}, {own[name]:.3f} (held-out images {real[name]:.3f}): {meaning}"
        for name, meaning in SHARES.items()
        if own[name] < 0.5 * real[name]
    ]
    best = result["quality"][CEILING]
    for name, words in (("copying", "copying"), ("copying_codes", "copying of codes")):
        if own[name] - best[name] < COPIES:
            beside = f"({CEILING} {best[name]:.2f})"
            lines.append(f"{words} {own[name]:.2f} {beside}: samples are near copies")

    return lines


def explained() -> list[str]:
    """The columns of the tables, and the lines below them, a sentence each."""
    columns = [f"  {name:<15}{meaning}" for name, meaning in COLUMNS.items()]

    codes = [
        f"{CEILING}: what a perfect prior reaches with this decoder; validation images",
        "  are encoded and decoded, and cannot be copies: the model is judged beside this row.",
        "log p(h) ..: density of codes under the prior; a gap from training to test codes is what",
        "  the prior remembers.",
    ]

    densities = [
        "log p(x) >= ..: a bound on the density of test images under the model itself; it may be",
        "  far below 0 where training does not fit the width of p(x | h), as here it does not.",
        "annealed log p(x): an estimate from below that no encoder can spoil; the gap says what",
        "  it may miss, on images of the model itself.",
        "log p(x, h) ..: what inference climbs, without the prior's term: it should go up.",
    ]

    reconstructions = [
        "squared reconstruction error: through more layers it grows; the last is through all.",
        "PSNR, SSIM: how near reconstructions come to their images; higher is better, SSIM 1 is",
        "  equal.",
    ]

    return [*columns, *codes, *densities, *reconstructions]


def _parzen_table(result: dict[str, Any]) -> list[str]:
    """Parzen scores as lines for a terminal."""
    header = (
        f"{'samples':<24}{'n':>7}{'LL [nats]':>12}{'+-':>6}{'sigma':>8}"
        f"{'10-point grid':>18}{'sigma 0.2':>11}"
    )

    lines = [header]
    for name, row in result["parzen"].items():
        lines.append(
            f"{name:<24}{row['n']:>7}{row['ll']:>12.2f}{row['se']:>6.2f}{row['sigma']:>8.4f}"
            f"{row['ll_goodfellow']:>10.2f} @{row['sigma_goodfellow']:.4f}"
            f"{row['ll_at_0.2']:>11.2f}"
        )

    return lines


def _ceiling_line(result: dict[str, Any]) -> list[str]:
    """The model beside the best that its decoder allows; nothing where quality is not known."""
    if not result["quality"]:
        return []

    pairs = {"LL": ("ll", ".2f"), "FID": ("fid", ".3f"), "copying": ("copying", ".2f")}
    pairs["of codes"] = ("copying_codes", ".2f")
    pairs["authentic"] = ("authentic", ".3f")
    rows = [{**result["parzen"][name], **result["quality"][name]} for name in ("model", CEILING)]
    own, best = rows

    words = ", ".join(
        f"{name} {own[key]:{form}} / {best[key]:{form}}" for name, (key, form) in pairs.items()
    )
    return [f"the model / {CEILING}: {words}"]


def _density_line(result: dict[str, Any]) -> str:
    """log p(h) of codes in words, or why there is none."""
    if result["log_prob"] is None:
        return f"no log p(h): {result['log_prob_missing']}"

    words = ", ".join(
        f"{row['mean']:.2f} +- {row['se']:.2f} of {row['n']} {name}"
        for name, row in result["log_prob"].items()
    )
    return f"log p(h) in nats: {words}"


def _bound_line(result: dict[str, Any]) -> str:
    """The bound on log p(x) in words, or why there is none."""
    if result["iw_bound"] is None:
        return f"no bound on log p(x): {result['iw_bound_missing']}"

    return (
        f"log p(x) >= {result['iw_bound']:.2f} +- {result['iw_bound_se']:.2f} nats: "
        f"{result['iw_bound_images']} test images, {result['iw_bound_samples']} importance "
        f"samples, {result['iw_bound_law']}"
    )


def _annealed_line(result: dict[str, Any]) -> list[str]:
    """The annealed estimate and its gap in words, or why there is none; nothing if not asked."""
    if "annealed" not in result:
        return []
    if result["annealed"] is None:
        return [f"no annealed log p(x): {result['annealed_missing']}"]

    images = f"{result['annealed_images']} test images drawn by seed {result['annealed_seed']}"
    if result["annealed_bits"] is not None:
        images += f" as bits of seed {result['annealed_bits']}"
    chains = f"{result['annealed_chains']} chains ({result['annealed_effective']:.1f} effective)"
    own = (
        f"annealed log p(x) {_with_error(result, 'annealed')} nats, from "
        f"below: {images}, {chains}, {result['annealed_temperatures']} temperatures, "
        f"{result['annealed_seconds']:.0f} s, {result['annealed_law']}"
    )
    gap = (
        "its gap to the estimate from above, on images of the model: "
        f"{_with_error(result, 'annealed_gap')} nats"
    )
    return [own, gap]


def _with_error(result: dict[str, Any], name: str) -> str:
    """A mean over images with its standard error, which one image does not have."""
    error = result[f"{name}_se"]
    if math.isnan(error):
        return f"{result[name]:.2f} (of one image: no standard error)"
    return f"{result[name]:.2f} +- {error:.2f}"


def _fidelity_line(result: dict[str, Any]) -> list[str]:
    """PSNR and SSIM of reconstructions; nothing for data that are no images."""
    of_levels = result["reconstruction_fidelity"]
    if of_levels is None:
        return []

    psnr = " ".join(f"{value:.1f}" for value in of_levels["psnr"])
    line = f"PSNR [dB] of these reconstructions: {psnr}"
    if of_levels["ssim"] is not None:
        line += "; SSIM: " + " ".join(f"{value:.3f}" for value in of_levels["ssim"])

    return [line]


def quality_table(result: dict[str, Any]) -> list[str]:
    """Sample quality as lines for a terminal."""
    if not result["quality"]:
        needed = f"more than {NEIGHBOURS} samples, validation and test images"
        return [f"sample quality: {needed} are needed"]

    header = (
        f"{'against test images':<24}{'FID':>9}{'KID':>9}{'precision':>11}{'recall':>8}"
        f"{'density':>9}{'coverage':>10}{'copying':>9}{'(pixels)':>10}{'(codes)':>9}"
        f"{'authentic':>11}{'confid.':>9}"
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
    of_codes = "-"
    if row["copying_codes"] is not None:
        of_codes = f"{row['copying_codes']:.2f}"

    return (
        f"{name:<24}{row['fid']:>9.3f}{row['kid']:>9.4f}{row['precision']:>11.3f}"
        f"{row['recall']:>8.3f}{row['density']:>9.3f}{row['coverage']:>10.3f}"
        f"{row['copying']:>9.2f}{row['copying_pixels']:>10.2f}{of_codes:>9}"
        f"{row['authentic']:>11.3f}{confidence:>9}"
    )
