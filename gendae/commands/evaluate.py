"""`gendae evaluate`."""

from pathlib import Path
from typing import Any

from gendae import checks
from gendae.commands.common import Table, load_generative
from gendae.commands.data import data_of
from gendae.commands.progress import bar_of_steps
from gendae.commands.sections import adjusted
from gendae.metrics.report import NEIGHBOURS, evaluation, steps
from gendae.sampling.samplers import Sampler, sampler_named
from gendae.storage.atomic import write_json


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
        sigma_x: standard deviation of p(x | h) in the bound; by default the model's own law.
        sampler: of the model's samples: generate, ancestral, chain, joint or level; by default
            the model's own.
        color: grey: of coloured images the luma is taken; by default as in the model's training.
        options: --sampler.OPTION, arguments of the sampler, such as --sampler.rounds 20, which
            --sampler.help lists.
    """
    checks.whole("--n", n, 1)
    if sigma_x is not None:
        checks.at_least("--sigma-x", sigma_x, 0.0, strict=True)

    stack = load_generative(model, device)
    chosen = adjusted("sampler", sampler_named(stack, sampler), Sampler, options)
    images = data_of(stack, data, root, color)
    with bar_of_steps(steps(stack)) as begin:
        result = evaluation(stack, images, n, seed, sigma_x, chosen, begin)

    if json:
        write_json(Path(json), result)
    return evaluation_table(result)


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
