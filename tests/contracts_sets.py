"""Contracts of what compares sets: diagnostics, scores, bounds, neighbours, quality; and of credit and features."""

import torch

from gendae import bounds, credit, diagnostics, metrics, neighbours, quality
from gendae.features import FeatureClassifier
from gendae.rules import BackpropRule, DifferenceTargetPropRule
from tests.contracts import Case, chains, index, line, real, unit
from tests.contracts_models import classifier, stack

WIDE = {"dtype": "float64 whatever comes in, as its docstring says"}


def in_time(x):
    """(chains, steps, features) as (steps, chains, features)."""
    return x.transpose(0, 1)


def diagnostic_cases():
    rows = (chains(7, 2),)
    for name in (
        "autocorrelation",
        "autocorrelation_time",
        "effective_sample_size",
        "chain_report",
    ):
        yield Case(
            f"diagnostics.{name}",
            lambda m, x, name=name: getattr(diagnostics, name)(in_time(x)),
            rows,
            kind="reduce",
            finite=(0,),
        )
    labels = lambda g: torch.randint(3, (6, 7), generator=g)
    yield Case(
        "diagnostics.class_switches",
        lambda m, y: diagnostics.class_switches(y.T),
        (labels,),
        kind="reduce",
    )
    yield Case(
        "diagnostics.chain_report",
        lambda m, x, y: diagnostics.chain_report(in_time(x), y.T),
        (*rows, labels),
        kind="reduce",
        variant="labels",
        skips={"empty": "chains and labels belong together"},
    )
    yield Case(
        "diagnostics.nearest_neighbour_sigma",
        lambda m, h: diagnostics.nearest_neighbour_sigma(
            h, generator=torch.Generator().manual_seed(0)
        ),
        (real(4),),
        kind="reduce",
        finite=(0,),
    )
    yield Case(
        "diagnostics.signal_dimensions",
        lambda m, h: diagnostics.signal_dimensions(torch.full((4,), 0.5), h),
        (real(4),),
        kind="reduce",
        finite=(0,),
    )


def likelihood(samples, x):
    metric = metrics.ParzenLogLikelihood(samples, sigma=0.3)
    metric.update(x)
    return metric.compute(), metric.standard_error


def score_cases():
    two = (unit(4, 12), unit(4, 10))
    shuffled = {"order": "k-means starts from rows drawn by position"}
    yield Case(
        "metrics.choose_sigma",
        lambda m, v, s: metrics.choose_sigma(v, s, "goodfellow"),
        two,
        kind="reduce",
        finite=(0, 1),
    )
    yield Case(
        "metrics.ParzenLogLikelihood",
        lambda m, s, x: likelihood(s, x),
        two,
        kind="reduce",
        finite=(1,),
    )
    yield Case(
        "metrics.parzen_score",
        lambda m, s, t: metrics.parzen_score(s, t, t),
        two,
        kind="reduce",
        finite=(0, 1),
    )
    yield Case(
        "metrics.kmeans_centroids",
        lambda m, x: metrics.kmeans_centroids(x, 3),
        (unit(4, 12),),
        kind="reduce",
        finite=(0,),
        skips=shuffled,
    )
    yield Case(
        "metrics.parzen_report",
        lambda m, s, t: metrics.parzen_report({"s": s}, t, t, t),
        two,
        kind="reduce",
        finite=(0, 1),
        skips=shuffled,
    )
    yield Case(
        "metrics.choose_prior",
        lambda m, t, v: metrics.choose_prior(m, t, v, 20, [1.0]),
        (unit(8, 12), unit(8, 10)),
        stack,
        "reduce",
        tolerance=1e-2,
    )
    yield Case(
        "metrics.log_joint_trace",
        lambda m, x: metrics.log_joint_trace(m, x, steps=2).T,
        (unit(8),),
        stack,
        tolerance=1e-3,
    )
    yield Case(
        "metrics.reconstruction_errors",
        lambda m, x: metrics.reconstruction_errors(m, [x]),
        (unit(8),),
        stack,
        "reduce",
    )
    yield Case(
        "bounds.importance_weighted_bound",
        lambda m, x, g: bounds.importance_weighted_bound(m, x, 5, 0.5, g),
        (unit(8),),
        stack,
        random=True,
        tolerance=1e-3,
        skips=WIDE,
    )
    yield Case(
        "bounds.draw_q",
        lambda m, x, g: [t.unflatten(0, (-1, 3)) for t in flat_q(bounds.draw_q(m, x, 3, g))],
        (unit(8),),
        stack,
        random=True,
    )
    yield Case(
        "bounds.with_sigma_x",
        lambda m, x: bounds.with_sigma_x(m, 0.5).log_joint(m.encode(x)),
        (unit(8),),
        stack,
        tolerance=1e-3,
    )


def flat_q(found):
    return [*found[0], found[1]]


def neighbour_cases():
    two = (real(4, 12), real(4, 10))
    prdc = neighbours.precision_recall_density_coverage
    yield Case(
        "neighbours.precision_recall_density_coverage",
        lambda m, a, b: prdc(a, b, 3),
        two,
        kind="reduce",
        finite=(0, 1),
    )
    yield Case(
        "neighbours.checked",
        lambda m, x: neighbours.checked("x", x, 4, 0),
        (real(4),),
        finite=(0,),
    )
    yield Case(
        "neighbours.blocks",
        lambda m, a: torch.cat([d for _, d in neighbours.blocks(a, m.double())]),
        (real(4),),
        lambda: torch.randn(5, 4),
        skips={"empty": "no block at all"} | WIDE,
    )
    yield Case(
        "neighbours.neighbour_radii",
        lambda m, x: neighbours.neighbour_radii(x.double(), 2).sort().values,
        (real(4),),
        kind="reduce",
        skips={"one": "its callers ask for more rows than neighbours", "empty": "as one"},
    )
    yield Case(
        "neighbours.rank_z",
        lambda m, a, b: neighbours.rank_z(a, b),
        (line(), line(9)),
        kind="reduce",
    )
    three = (real(4, 60), real(4, 40), real(4, 30))
    yield Case(
        "neighbours.data_copying",
        lambda m, *sets: neighbours.data_copying(*sets, cells=1),
        three,
        kind="reduce",
        finite=(0, 1, 2),
        skips={"one": "NaN where there are too few generated rows, as the docstring says"},
    )
    yield Case(
        "neighbours.DataCopying",
        lambda m, *sets: neighbours.DataCopying(sets[0], sets[1], 2)(sets[2], sets[1]),
        three,
        kind="reduce",
        finite=(0, 1, 2),
        skips={"order": "k-means starts from rows drawn by position"},
    )


def quality_cases():
    two, three = (unit(4, 12), unit(4, 10)), (unit(4, 30), unit(4, 60), unit(4, 40))
    yield Case(
        "quality.frechet_distance",
        lambda m, a, b: quality.frechet_distance(a, b),
        two,
        kind="reduce",
        finite=(0, 1),
    )
    yield Case(
        "quality.kernel_distance",
        lambda m, a, b: quality.kernel_distance(a, b, 3),
        two,
        kind="reduce",
        finite=(0, 1),
        skips={"order": "random subsets are drawn by position"},
    )
    pixels = quality.PixelFeatures
    yield Case("quality.PixelFeatures", lambda m, x: m(x), (unit(4),), pixels)
    digits = lambda: FeatureClassifier((8, 8), (2, 3), 5)
    yield Case(
        "quality.in_batches",
        lambda m, x: quality.in_batches(m, x),
        (unit(64),),
        digits,
        tolerance=1e-3,
    )
    random = {"order": "KID's random subsets are drawn by position"}
    yield Case(
        "quality.sample_quality",
        lambda m, *sets: quality.sample_quality(*sets, m),
        three,
        pixels,
        "reduce",
        finite=(0, 1, 2),
        skips=random,
        tolerance=1e-3,
    )
    yield Case(
        "quality.Quality",
        lambda m, *sets: quality.Quality(*sets[1:], m)(sets[0]),
        three,
        pixels,
        "reduce",
        finite=(0, 1, 2),
        skips=random,
        tolerance=1e-3,
    )
    yield Case(
        "quality.Quality.copying_of_halves",
        lambda m, a, b: quality.Quality(a, b, m).copying_of_halves(),
        (unit(4, 60), unit(4, 50)),
        pixels,
        "reduce",
        skips={"order": "every second row is half of them"},
    )
    yield Case(
        "quality.quality_report",
        lambda m, s, t, v: quality.quality_report({"s": s}, t, v, t, m),
        three,
        pixels,
        "reduce",
        skips=random,
        finite=(0, 1, 2),
        tolerance=1e-3,
    )
    for name in ("features", "forward"):
        yield Case(
            f"features.FeatureClassifier.{name}",
            lambda m, x, n=name: getattr(m, n)(x),
            (unit(64),),
            digits,
            tolerance=1e-3,
        )
    yield Case(
        "features.FeatureClassifier.normalise",
        lambda m, x: m.normalise(x),
        (unit(64),),
        digits,
        "reduce",
        tolerance=1e-3,
    )


def credit_cases():
    pairs = {
        "backprop": lambda: BackpropRule(classifier()),
        "dtp": lambda: DifferenceTargetPropRule(classifier()),
        "drawn": lambda: DifferenceTargetPropRule(classifier(stochastic=True), samples=3),
    }
    rows = (unit(8), index(3))
    drawn = {"order": "draws differ from row to row"}
    for name, rule in pairs.items():
        skips = drawn if name == "drawn" else {}
        yield Case(
            "credit.angles",
            lambda m, x, y: credit.angles(m, x, y),
            rows,
            rule,
            "reduce",
            variant=name,
            tolerance=1e-2,
            skips=skips,
            together=True,
        )
        if name != "backprop":
            yield Case(
                "credit.target_improvement",
                lambda m, x, y: credit.target_improvement(m, x, y),
                rows,
                rule,
                "reduce",
                variant=name,
                tolerance=1e-2,
                skips=skips,
                together=True,
            )
            yield Case(
                "credit.by_layer",
                lambda m, x, y: credit.by_layer(m, x, y),
                rows,
                rule,
                "reduce",
                variant=name,
                tolerance=1e-2,
                skips=skips,
                together=True,
            )
    yield Case(
        "credit.inverse_error",
        lambda m, x: credit.inverse_error(m, x),
        (unit(8),),
        classifier,
        "reduce",
    )
    yield Case(
        "credit.theorem_2_eigenvalue",
        lambda m, x: credit.theorem_2_eigenvalue(m, x),
        (unit(8),),
        classifier,
        "reduce",
    )


CASES = [
    *diagnostic_cases(),
    *score_cases(),
    *neighbour_cases(),
    *quality_cases(),
    *credit_cases(),
]
