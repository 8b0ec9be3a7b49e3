"""Contracts of noise, laws, layers and priors."""

import torch

from gendae import conditionals, corruption, layers, optimized
from gendae.invertible import RANGES, InvertibleAffine, InvertiblePair, inverse_activation
from gendae.modalities import EachModality, Heads, Identity, Laws, Masked, Slices, side_by_side
from gendae.priors import (
    AutoencoderPrior,
    FactorialPrior,
    GaussianPrior,
    LinearAutoencoderPrior,
    ParzenPrior,
    parzen_log_prob,
)
from gendae.priors.core import floored
from gendae.priors.factorial import (
    CONTINUOUS,
    draw,
    expected_energy,
    location_and_scale,
    log_density,
    slope,
)
from gendae.priors.templates import choose, local_directions
from tests.contracts import (
    Case,
    bits,
    image_with_label,
    mask,
    onehot,
    real,
    shares,
    signs,
    small,
    unit,
)

OF_BATCH = {
    "independence": "the level is a statistic of the batch",
    "one": "one example has no spread",
}


def noise_cases():
    yield Case(
        "corruption.normal_like",
        lambda m, h, g: corruption.normal_like(h, g),
        (real(5),),
        random=True,
    )
    yield Case(
        "corruption.uniform_like",
        lambda m, h, g: corruption.uniform_like(h, g),
        (real(5),),
        random=True,
    )
    kinds = {
        "GaussianNoise": (corruption.GaussianNoise(0.5, decay=0.5), real(5), {}),
        "SpikeNoise": (corruption.SpikeNoise(3), unit(5), {}),
        "RelativeNoise": (corruption.RelativeNoise(0.5), real(5), OF_BATCH),
        "FlipNoise": (corruption.FlipNoise(0.5, "binary"), bits(5), {}),
        "NeighbourNoise": (corruption.NeighbourNoise(0.5), real(5), OF_BATCH),
    }
    for name, (noise, rows, skips) in kinds.items():
        yield Case(
            f"corruption.{name}",
            lambda m, h, g: m(h, 0.5, g),
            (rows,),
            lambda n=noise: n,
            random=True,
            skips=skips,
        )
    yield Case(
        "modalities.EachModality",
        lambda m, h, g: m(h, 0.0, g),
        (real(5),),
        random=True,
        model=lambda: EachModality([corruption.GaussianNoise(0.5), None], [3, 2]),
    )


def laws():
    """Each law with values h and a mean that it may have."""
    yield "Gaussian", lambda: conditionals.Gaussian(0.7), real(5), real(5)
    yield (
        "LearnedGaussian",
        lambda: conditionals.LearnedGaussian(5, given=4, hidden=[3]),
        real(5),
        real(5),
    )
    yield "Bernoulli", conditionals.Bernoulli, bits(5), unit(5)
    yield (
        "Discrete",
        lambda: conditionals.Discrete("sign", stochastic=True),
        signs(5),
        lambda g: unit(5)(g) * 2 - 1,
    )
    yield "Categorical", conditionals.Categorical, onehot(5), shares(5)
    yield "Identity", Identity, real(5), real(5)
    yield (
        "Laws",
        lambda: Laws([conditionals.Gaussian(0.7), conditionals.Categorical()], [2, 3]),
        lambda g: torch.cat([real(2)(g), onehot(3)(g)], 1),
        lambda g: torch.cat([real(2)(g), shares(3)(g)], 1),
    )


def law_cases():
    yield Case(
        "conditionals.cross_entropy",
        lambda m, p, t: conditionals.cross_entropy(p, t),
        (unit(5), unit(5)),
    )
    for name, make, h, mean in laws():
        home = f"{'modalities' if name in ('Identity', 'Laws') else 'conditionals'}.{name}"
        yield Case(f"{home}.energy", lambda m, h, mean: m.energy(h, mean), (h, mean), make)
        yield Case(
            f"{home}.log_prob",
            lambda m, h, mean, x: m.log_prob(h, mean, x),
            (h, mean, real(4)),
            make,
        )
        yield Case(f"{home}.entropy", lambda m, mean, x: m.entropy(mean, x), (mean, real(4)), make)
        yield Case(
            f"{home}.variance", lambda m, mean, x: m.variance(mean, x), (mean, real(4)), make
        )
        noisy = name != "Identity"
        yield Case(
            f"{home}.sample",
            lambda m, mean, x, g=None: m.sample(mean, g, x),
            (mean, real(4)),
            make,
            random=noisy,
        )
        noisy = name == "Discrete"
        yield Case(
            f"{home}.transmit",
            lambda m, mean, g=None: m.transmit(mean, g),
            (mean,),
            make,
            random=noisy,
        )
        if name != "Laws":
            yield Case(
                f"{home}.distribution",
                lambda m, mean, x: m.distribution(mean, x),
                (mean, real(4)),
                make,
            )


def layer_cases():
    forward = lambda m, h: m(h)
    for s in layers.ACTIVATIONS:
        yield Case(
            "layers.Affine", forward, (real(4),), lambda s=s: layers.Affine(4, 3, s), variant=s
        )
        yield Case(
            "layers.Affine.difference",
            lambda m, h, d: m.difference(h, d),
            (real(4), small(4)),
            lambda s=s: layers.Affine(4, 3, s),
            variant=s,
        )
    yield Case(
        "layers.Affine",
        forward,
        (real(4),),
        lambda: layers.Affine(4, 3, receives="bits"),
        variant="bits",
    )
    yield Case(
        "layers.Affine.preactivation",
        lambda m, h: m.preactivation(h),
        (real(4),),
        lambda: layers.Affine(4, 3),
    )
    yield Case("layers.MLP", forward, (real(4),), lambda: layers.MLP(4, [5, 6], 3, "tanh"))
    yield Case("layers.Transpose", lambda m, h: m.g(h), (real(3),), lambda: layers.TiedPair(4, 3))
    yield Case(
        "layers.Transpose.difference",
        lambda m, h, d: m.g.difference(h, d),
        (real(3), small(3)),
        lambda: layers.TiedPair(4, 3),
    )
    pair = lambda: layers.Pair(layers.Affine(4, 3, "tanh"), layers.Affine(3, 4))
    drawn = lambda: layers.Pair(
        layers.Affine(4, 3, "sigmoid"),
        layers.Affine(3, 4),
        recognition=conditionals.Discrete("binary", stochastic=True),
    )
    yield Case(
        "layers.Pair.encode",
        lambda m, x, g: m.encode(x, g),
        (real(4),),
        drawn,
        random=True,
        variant="drawn",
    )
    yield Case(
        "layers.Pair.decode",
        lambda m, h, g: m.decode(h, g),
        (real(3),),
        lambda: layers.Pair(
            layers.Affine(4, 3),
            layers.Affine(3, 4, "tanh"),
            conditionals.Discrete("sign", stochastic=True),
        ),
        random=True,
        variant="drawn",
    )
    for name, rows in {"encode": real(4), "decode": real(3), "q": real(4), "p": real(3)}.items():
        yield Case(f"layers.Pair.{name}", lambda m, h, n=name: getattr(m, n)(h), (rows,), pair)
    yield Case(
        "layers.TiedPair.encode",
        lambda m, h: m.decode(m.encode(h)),
        (unit(4),),
        lambda: layers.TiedPair(4, 3),
    )
    yield Case(
        "optimized.OptimizingPair.encode",
        lambda m, h: m.encode(h),
        (real(4),),
        tolerance=1e-2,
        model=lambda: optimized.OptimizingPair(
            layers.Affine(4, 3, "tanh"), layers.Affine(3, 4), steps=5
        ),
    )
    yield Case(
        "optimized.optimize_code",
        lambda m, x, h: optimized.optimize_code(m, x, h, steps=5),
        (real(4), unit(3)),
        pair,
        tolerance=1e-2,
    )
    for form in ("cholesky", "svd"):
        make = lambda form=form: InvertibleAffine(4, form)
        yield Case("invertible.InvertibleAffine", forward, (real(4),), make, variant=form)
        inside = lambda g: unit(4)(g) - 0.5
        yield Case(
            "invertible.InvertibleAffine.inverse",
            lambda m, h: m.inverse(h),
            (inside,),
            make,
            finite=(0,),
            variant=form,
        )
        yield Case(
            "invertible.InvertibleAffine.invert",
            lambda m, h: m.invert(h),
            (real(4),),
            make,
            tolerance=1e-2,
            variant=form,
            skips={
                "float64": "values out of range are moved to its end, which depends on the type"
            },
        )
        yield Case(
            "invertible.Inverse",
            lambda m, h: m.g(m.f(h)),
            (unit(4),),
            lambda f=form: InvertiblePair(4, f),
            variant=form,
        )
        yield Case(
            "invertible.InvertiblePair.encode",
            lambda m, h: m.encode(h),
            (unit(4),),
            lambda f=form: InvertiblePair(4, f),
            variant=form,
        )
    for s in RANGES:
        yield Case(
            "invertible.inverse_activation",
            lambda m, h, s=s: inverse_activation(h, s),
            (lambda g: 0.1 + 0.8 * unit(4)(g),),
            variant=s,
        )


def modality_cases():
    forward = lambda m, h: m(h)
    yield Case(
        "modalities.Slices",
        forward,
        (real(6),),
        lambda: Slices([layers.Affine(4, 3), None], [4, 2]),
    )
    make = lambda: Masked(layers.Affine(4 + 2 + 2, 3), [4, 2])
    yield Case("modalities.Masked", forward, (real(6),), make)
    yield Case(
        "modalities.Masked",
        lambda m, h, there: m(h, there),
        (real(6), mask(2)),
        make,
        variant="masked",
    )
    yield Case(
        "modalities.Heads",
        forward,
        (real(3),),
        lambda: Heads(layers.Affine(3, 6), ["tanh", "softmax"], [4, 2]),
    )
    yield Case(
        "modalities.side_by_side",
        lambda m, h: m.decode(m.encode(h)),
        (image_with_label,),
        lambda: side_by_side(
            [layers.Pair(layers.Affine(8, 4), layers.Affine(4, 8)), None], [8, 3]
        ),
    )


def priors():
    """Each prior with codes that it may have."""
    yield "gaussian.GaussianPrior", "diagonal", lambda: GaussianPrior(), real
    yield "gaussian.GaussianPrior", "full", lambda: GaussianPrior("full"), real
    yield "gaussian.GaussianPrior", "identity", lambda: GaussianPrior("identity", 1.0), real
    yield "linear.LinearAutoencoderPrior", "", lambda: LinearAutoencoderPrior(1.0), real
    for law in ("gaussian", "laplace", "logistic"):
        yield "factorial.FactorialPrior", law, lambda law=law: FactorialPrior(law), real
    yield (
        "factorial.FactorialPrior",
        "bernoulli",
        lambda: FactorialPrior("bernoulli", "probability"),
        unit,
    )
    yield "factorial.FactorialPrior", "sign", lambda: FactorialPrior("sign"), signs
    yield "factorial.FactorialPrior", "categorical", lambda: FactorialPrior("categorical"), onehot
    yield "parzen.ParzenPrior", "", lambda: ParzenPrior(0.5), real
    yield "parzen.ParzenPrior", "chosen", lambda: ParzenPrior(), real
    yield (
        "parzen.ParzenPrior",
        "manifold",
        lambda: ParzenPrior(0.5, local="manifold", neighbours=4, components=2),
        real,
    )
    yield (
        "autoencoder.AutoencoderPrior",
        "",
        lambda: AutoencoderPrior([6], 5, epochs=1, batch_size=20, steps=2),
        real,
    )


def fitted(make, codes):
    prior = make()
    prior.prepare(4)
    return prior.fit(codes(4, 60)(torch.Generator().manual_seed(2)))


def prior_cases():
    """What a prior does with codes; `fit` looks at the law it gives."""
    probes = real(4, 3)(torch.Generator().manual_seed(3))
    of_order = {"order": "what is stored, or learned, depends on the order of the codes"}
    for home, variant, make, codes in priors():
        model = lambda make=make, codes=codes: fitted(make, codes)
        known = {"model": model, "variant": variant, "tolerance": 1e-3}
        home, dense = f"priors.{home}", "Autoencoder" not in home or "Linear" in home
        yield Case(f"{home}.reconstruct", lambda m, h: m.reconstruct(h), (codes(4),), **known)
        if dense:
            yield Case(f"{home}.log_prob", lambda m, h: m.log_prob(h), (codes(4),), **known)
            yield Case(f"{home}.score", lambda m, h: m.score(h), (codes(4),), **known)
            yield Case(
                f"{home}.cross_entropy",
                lambda m, h, mean, v: m.cross_entropy(h, mean, v),
                (codes(4), codes(4), unit(4)),
                **known,
            )
        else:
            yield Case(
                f"{home}.chain",
                lambda m, h, g: m.chain(h, 2, g).transpose(0, 1),
                (codes(4),),
                random=True,
                **known,
            )
        skips = (
            {}
            if home.split(".")[-1] not in ("ParzenPrior", "AutoencoderPrior")
            or variant == ""
            and dense
            else of_order
        )
        law = (
            (lambda m, h, p=probes: m.fit(h).reconstruct(p.to(h)))
            if codes is real
            else (lambda m, h: m.fit(h).location)
        )
        yield Case(
            f"{home}.fit",
            law,
            (codes(4, 60),),
            lambda make=make: make(),
            "reduce",
            finite=(0,),
            variant=variant,
            tolerance=1e-2,
            skips=skips,
        )


def prior_function_cases():
    for law in CONTINUOUS:
        yield Case(
            "priors.factorial.log_density",
            lambda m, z, a=law: log_density(a, z),
            (real(4),),
            variant=law,
        )
        yield Case(
            "priors.factorial.slope", lambda m, z, a=law: slope(a, z), (real(4),), variant=law
        )
        yield Case(
            "priors.factorial.draw",
            lambda m, z, g, a=law: draw(a, z, g),
            (real(4),),
            random=True,
            variant=law,
        )
        yield Case(
            "priors.factorial.location_and_scale",
            lambda m, h, a=law: location_and_scale(a, h),
            (real(4, 7),),
            kind="reduce",
            variant=law,
            skips={"empty": "a part of `fit`, which refuses fewer than two codes"},
        )
    for law in ("gaussian", "laplace"):
        yield Case(
            "priors.factorial.expected_energy",
            lambda m, z, v, a=law: expected_energy(a, z, v),
            (real(4), unit(4)),
            variant=law,
        )
    yield Case(
        "priors.core.floored",
        lambda m, v: floored(v.var(0), v.dtype),
        (real(4),),
        kind="reduce",
        skips={"empty": "a part of `fit`, which refuses fewer than two codes", "one": "as empty"},
    )
    yield Case(
        "priors.templates.choose",
        lambda m, c: choose(c, 3, "kmeans", torch.Generator().manual_seed(0)),
        (real(4),),
        kind="reduce",
        tolerance=1e-3,
        skips={"order": "the first codes are taken: `fit` has shuffled them"},
    )
    skips = {
        "empty": "a part of `fit`, which refuses as many codes as neighbours",
        "one": "as empty",
        "float64": "the sign of a direction is arbitrary",
        "strides": "the sign of a direction is arbitrary",
    }
    yield Case(
        "priors.templates.local_directions",
        lambda m, c: local_directions(c, 4, 2)[1].sum(),
        (real(4, 20),),
        kind="reduce",
        skips=skips,
    )
    centres = lambda: torch.randn(9, 4)
    yield Case(
        "priors.parzen.parzen_log_prob",
        lambda m, x: parzen_log_prob(x, m, 0.5),
        (real(4),),
        centres,
        finite=(0,),
        skips={"dtype": "float64 whatever comes in, as its docstring says"},
    )
    yield Case(
        "priors.parzen.parzen_log_prob",
        lambda m, x: parzen_log_prob(x, m, [0.5, 1.0]).T,
        (real(4),),
        centres,
        finite=(0,),
        variant="several",
        skips={"dtype": "float64 whatever comes in, as its docstring says"},
    )
    yield Case(
        "priors.parzen.parzen_log_prob",
        lambda m, s: parzen_log_prob(m, s, 0.5),
        (real(4),),
        centres,
        "reduce",
        finite=(0,),
        variant="centres",
        skips={"dtype": "float64 whatever comes in, as its docstring says"},
    )


CASES = [
    *noise_cases(),
    *law_cases(),
    *layer_cases(),
    *modality_cases(),
    *prior_cases(),
    *prior_function_cases(),
]
