"""Contracts of stacks, classifiers and joint models, of targets, inference, sampling and completion."""

from functools import partial

import torch

from gendae import clamping, completion, joint, models, targets
from gendae.clamping import Completer
from gendae.classifier import label_loss, mean_log_probability
from gendae.corruption import GaussianNoise
from gendae.inference import GradientInference, TargetPropInference, fill, targetprop_gradient
from gendae.inpainting import Inpainter, inpaint
from gendae.layers import Affine, Pair
from gendae.levels import LevelSampler, chain_states
from gendae.modalities import Modality
from gendae.priors import GaussianPrior
from gendae.sampling import (
    AncestralSampler,
    GenerateSampler,
    JointChainSampler,
    LatentChainSampler,
    generate,
)
from tests.contracts import (
    Case,
    bits,
    image_with_label,
    index,
    mask,
    onehot,
    real,
    shares,
    small,
    unit,
)
from tests.contracts_layers import fitted, priors


def stack(**options):
    """A stack of two pairs with a fitted prior and measured residuals."""
    made = models.deep_autoencoder([8, 6, 4], **options)
    x = torch.rand(30, 8)
    made.prior.fit(made.encode(x)[-1].detach())
    made.fit_residuals(x)
    return made


def joint_stack(**options):
    made = models.joint_autoencoder(
        {"image": {"sizes": [8, 4]}, "label": {"sizes": [3], "kind": "onehot"}}, [5], **options
    )
    x = torch.cat([torch.rand(30, 8), torch.eye(3).repeat(10, 1)], 1)
    made.prior.fit(made.encode(x)[-1].detach())
    made.fit_residuals(x)
    return made


def classifier(**options):
    return models.deep_classifier([8, 6, 6], classes=3, **options)


STACKS = {
    "": stack,
    "mlp": partial(stack, hidden_f=[5], hidden_g=[5]),
    "signs": partial(stack, units="sign"),
    "noise": partial(stack, noise=0.3, noise_of_x=True),
    "full": partial(stack, prior=GaussianPrior("full")),
}


def stack_cases():
    for name, make in STACKS.items():
        yield Case("stack.Stack.encode", lambda m, x: m.encode(x), (unit(8),), make, variant=name)
        yield Case("stack.Stack.decode", lambda m, h: m.decode(h), (unit(4),), make, variant=name)
        yield Case(
            "stack.Stack.reconstruct",
            lambda m, x: m.reconstruct(x, 1),
            (unit(8),),
            make,
            variant=name,
        )
        yield (
            Case(
                "stack.Stack.sample_q",
                lambda m, x, g: m.sample_q(x, g),
                (unit(8),),
                make,
                variant=name,
                random=name != "signs",
            )
            if name != "signs"
            else Case(
                "stack.Stack.sample_q", lambda m, x: m.sample_q(x), (unit(8),), make, variant=name
            )
        )
        yield Case(
            "stack.Stack.fit_residuals",
            lambda m, x: m.fit_residuals(x),
            (unit(8),),
            make,
            "reduce",
            variant=name,
        )
    for name in ("", "noise", "full"):
        rows = (unit(8), real(6), unit(4))
        yield Case(
            "stack.Stack.log_joint",
            lambda m, *h: m.log_joint(h),
            rows,
            STACKS[name],
            variant=name,
            tolerance=1e-3,
        )
        yield Case("stack.Stack.log_q", lambda m, *h: m.log_q(h), rows, STACKS[name], variant=name)
    yield Case("models.deep_autoencoder", lambda m, x: m.reconstruct(x), (unit(8),), stack)
    yield Case(
        "models.stack_of",
        lambda m, x: m.reconstruct(x),
        (unit(8),),
        lambda: models.stack_of([Pair(Affine(8, 4), Affine(4, 8))]),
    )


def classifier_cases():
    yield Case("models.deep_classifier", lambda m, x: m(x)[0], (unit(8),), classifier)
    kinds = {
        "": classifier,
        "bits": partial(classifier, bits=[1]),
        "drawn": partial(classifier, stochastic=True),
    }
    for name, make in kinds.items():
        yield Case(
            "classifier.Classifier",
            lambda m, x, g: m(x, 1, g)[0],
            (unit(8),),
            make,
            variant=name,
            random=True,
            skips={} if name == "drawn" else {"random": "no unit is drawn"},
        )
        yield Case(
            "classifier.Classifier.log_probability",
            lambda m, x, g: m.log_probability(x, 3, g),
            (unit(8),),
            make,
            variant=name,
            random=True,
            skips={} if name == "drawn" else {"random": "no unit is drawn"},
        )
        yield Case(
            "classifier.Classifier.predict",
            lambda m, x: m.predict(x),
            (unit(8),),
            make,
            variant=name,
        )
    logits = lambda g: torch.randn(6, 2, 3, generator=g)
    yield Case(
        "classifier.mean_log_probability",
        lambda m, a: mean_log_probability(a.transpose(0, 1)),
        (logits,),
    )
    yield Case(
        "classifier.label_loss",
        lambda m, a, y: label_loss(a.transpose(0, 1), y),
        (logits, index(3)),
        kind="reduce",
        skips={"empty": "the mean over no example; rules and callers look at their batches"},
    )


def joint_cases():
    x = (image_with_label,)
    yield Case("models.joint_autoencoder", lambda m, x: m.encode(x), x, joint_stack)
    for name in ("lower", "loop", "climb", "feedforward"):
        rows = x if name in ("lower", "feedforward") else (real(7),)
        yield Case(
            f"joint.JointStack.{name}", lambda m, h, n=name: getattr(m, n)(h), rows, joint_stack
        )
        if name != "lower":
            yield Case(
                f"joint.JointStack.{name}",
                lambda m, h, there, n=name: getattr(m, n)(h, there),
                (*rows, mask(2)),
                joint_stack,
                variant="masked",
            )
    yield Case("joint.JointStack.down", lambda m, h: m.down(h), (real(7),), joint_stack)
    yield Case(
        "joint.JointStack.spread", lambda m, there: m.spread(there, 1), (mask(2),), joint_stack
    )
    yield Case("joint.JointStack.separate", lambda m, h: m.separate(h, 1), (real(7),), joint_stack)
    yield Case(
        "joint.JointStack.join",
        lambda m, a, y: m.join({"image": a, "label": y}),
        (unit(8), index(3)),
        joint_stack,
        finite=(0,),
    )
    yield Case(
        "joint.JointStack.predict",
        lambda m, a: m.predict({"image": a}, "label"),
        (unit(8),),
        joint_stack,
        finite=(0,),
    )
    yield Case(
        "joint.JointStack.prediction_errors",
        lambda m, x, there: m.prediction_errors(x, there),
        (*x, mask(2)),
        joint_stack,
        "reduce",
        together=True,
    )
    yield Case("joint.present", lambda m, v: joint.present(v), (real(4),))
    yield Case("joint.present", lambda m, v: joint.present(v - 1), (index(3),), variant="labels")
    kinds = {
        "real": real(4),
        "pixels": unit(4),
        "binary": bits(4),
        "onehot": onehot(4),
        "latent": shares(4),
    }
    for kind, rows in kinds.items():
        yield Case(
            "modalities.Modality.values",
            lambda m, v: m.values("v", v),
            (rows,),
            lambda k=kind: Modality(4, k),
            variant=kind,
            finite=(0,),
        )


def target_cases():
    yield Case(
        "targets.first_displacement",
        lambda m, h, y: targets.first_displacement(m, h, y, 0.1),
        (real(6), index(3)),
        classifier,
    )
    yield Case(
        "targets.change",
        lambda m, h, d: targets.change(m, h, d),
        (real(4), small(4)),
        lambda: Affine(4, 3, "tanh"),
    )
    pair = lambda: Pair(Affine(4, 3, "tanh"), Affine(3, 4, "tanh"))
    for difference in (True, False):
        yield Case(
            "targets.displacement",
            lambda m, b, h, d, c=difference: targets.displacement(m, b, h, d, c),
            (real(4), real(3), small(3)),
            pair,
            variant=f"difference={difference}",
        )
        yield Case(
            "targets.displacements",
            lambda m, *h, c=difference: targets.displacements(m.pairs, h[:-1], h[-1], c),
            (unit(8), real(6), real(6), small(6)),
            classifier,
            variant=f"difference={difference}",
        )
    yield Case(
        "targets.iterated",
        lambda m, x, y: targets.iterated(m, m.encode(x), y, 0.1, 3, 0.5),
        (unit(8), index(3)),
        classifier,
        tolerance=1e-3,
    )
    for kind in targets.DISCRIMINANT:
        yield Case(
            "targets.hybrid",
            lambda m, h, there, k=kind: targets.hybrid(m, h, there, [1], 0.5, None, k),
            (real(7), mask(2)),
            joint_stack,
            variant=kind,
        )
    yield Case(
        "targets.output_score",
        lambda m, h, there, seen: targets.output_score(m, h, there, seen, [1]),
        (real(7), mask(2), mask(2)),
        joint_stack,
    )


def inference_cases():
    yield Case(
        "inference.targetprop_gradient",
        lambda m, x, h: targetprop_gradient(m.f, m.g, x, h),
        (real(4), real(3)),
        lambda: Pair(Affine(4, 3), Affine(3, 4)),
    )
    yield Case(
        "inference.fill", lambda m, x, seen, new: fill(x, seen, new), (real(4), mask(4), real(4))
    )
    methods = {
        "TargetPropInference": TargetPropInference(3),
        "GradientInference": GradientInference(3),
        "GradientInference[q]": GradientInference(3, q_weight=0.1, every_q=True, use_prior=True),
    }
    for name, method in methods.items():
        home, variant = f"inference.{name.split('[')[0]}", name.partition("[")[2].rstrip("]")
        yield Case(
            home,
            lambda m, x, i=method: i(m, x),
            (unit(8),),
            stack,
            variant=f"{variant}",
            tolerance=1e-3,
        )
        yield Case(
            home,
            lambda m, x, seen, i=method: i(m, x, seen),
            (unit(8), mask(8)),
            stack,
            variant=f"{variant} masked",
            tolerance=1e-3,
        )
    noisy = TargetPropInference(3, temperature=0.1)
    yield Case(
        "inference.TargetPropInference",
        lambda m, x, g: noisy(m, x, generator=g),
        (unit(8),),
        stack,
        random=True,
        variant="Langevin",
    )


def clamping_cases():
    seen, chain = (unit(8), mask(8)), {"random": True, "tolerance": 1e-3}
    for level, rows in enumerate((unit(8), real(6), unit(4))):
        yield Case(
            "clamping.around",
            lambda m, h, i=level: clamping.around(m, i, h, True),
            (rows,),
            stack,
            variant=f"{level}",
        )
    yield Case(
        "clamping.change",
        lambda m, a, b, seen: clamping.change(a, b, seen),
        (real(4), real(4), mask(4)),
    )
    yield Case(
        "clamping.whole",
        lambda m, h: clamping.whole(m).log_prob(h),
        (real(4),),
        lambda: fitted(priors_of["parzen"], real),
    )
    yield Case(
        "clamping.draw",
        lambda m, h, g: clamping.draw(m, 1, h, 1.0, g),
        (lambda g: torch.cat([real(4)(g), shares(3)(g)], 1),),
        joint_stack,
        random=True,
    )
    pool = torch.linspace(0.0, 1.0, 72).view(9, 8)
    yield Case(
        "clamping.agreement",
        lambda m, h, s: clamping.agreement(m, 0, h, s, pool.to(h)),
        (unit(8), bits(8)),
        stack,
        tolerance=1e-3,
    )
    yield Case(
        "clamping.from_prior",
        lambda m, h, s, g: clamping.from_prior(m, 0, h, s, g),
        seen,
        stack,
        **chain,
    )
    kinds = {
        "map": Completer.map(3, tolerance=0.0),
        "mcmc": Completer.mcmc(3),
        "annealed": Completer.annealed(4),
        "prior": Completer.mcmc(2, begin="prior"),
        "given noise": Completer.mcmc(2, corruption=GaussianNoise(0.2)),
    }
    for name, found in kinds.items():
        yield Case(
            "clamping.Completer",
            lambda m, h, s, g, c=found: c(m, h, s, None, g).h,
            seen,
            stack,
            variant=name,
            **chain,
        )
        if name != "prior":
            yield Case(
                "clamping.Completer",
                lambda m, h, there, g, c=found: c(m, h, m.spread(there, 1), there, g).h,
                (real(7), mask(2)),
                joint_stack,
                variant=f"joint {name}",
                **(
                    chain
                    | (
                        {"skips": {"random": "MAP from the mask draws nothing"}}
                        if name == "map"
                        else {}
                    )
                ),
            )
    small_one = Inpainter(2, chains=2)
    yield Case(
        "inpainting.Inpainter",
        lambda m, h, s, g: small_one(m, h, s, None, g).h,
        seen,
        stack,
        **chain,
    )
    yield Case(
        "inpainting.Inpainter",
        lambda m, h, s, g: Inpainter.encode_decode(2, 2)(m, h, s, None, g).h,
        seen,
        stack,
        variant="encode_decode",
        **chain,
    )
    yield Case(
        "inpainting.inpaint",
        lambda m, h, s: inpaint(m, h, s, small_one, seed=0),
        seen,
        stack,
        finite=(0,),
        tolerance=1e-3,
    )


def completion_cases():
    some = Completer.annealed(3)
    yield Case(
        "completion.complete",
        lambda m, a: completion.complete(m, {"image": a}, completer=some, seed=0).values,
        (unit(8),),
        joint_stack,
        finite=(0,),
        tolerance=1e-3,
    )
    yield Case(
        "completion.complete",
        lambda m, a, s: (
            completion.complete(m, {"image": a}, {"image": s}, 2, some, 0)
            .values["image"]
            .unflatten(0, (-1, 2))
        ),
        (unit(8), mask(8)),
        joint_stack,
        finite=(0,),
        tolerance=1e-3,
        variant="masked, two answers",
    )
    yield Case(
        "completion.hide",
        lambda m, a, s: completion.hide(m, "image", a, s),
        (unit(8), mask(8)),
        joint_stack,
    )
    yield Case(
        "completion.clamp",
        lambda m, a, s: completion.clamp(m, {"image": a}, {"image": s}),
        (unit(8), mask(8)),
        joint_stack,
    )
    for name in ("parzen", "gaussian"):
        yield Case(
            "completion.log_conditional",
            lambda m, h: completion.log_conditional(m, h, torch.arange(4) < 2),
            (real(4),),
            lambda n=name: fitted(priors_of[n], real),
            variant=name,
            tolerance=1e-3,
        )


priors_of = {
    "parzen": next(make for name, _, make, _ in priors() if "Parzen" in name),
    "gaussian": lambda: GaussianPrior("full"),
}
CASES = [
    *stack_cases(),
    *classifier_cases(),
    *joint_cases(),
    *target_cases(),
    *inference_cases(),
    *clamping_cases(),
    *completion_cases(),
]


def draw_cases():
    """What is called with a number of draws, instead of rows, and a generator."""
    for home, variant, make, codes in priors():
        yield Case(
            f"priors.{home}.sample",
            lambda m, n, g: m.sample(n, g),
            variant=variant,
            model=lambda make=make, codes=codes: fitted(make, codes),
        )
    samplers = {
        "sampling.AncestralSampler": AncestralSampler(),
        "sampling.GenerateSampler": GenerateSampler(2),
        "sampling.LatentChainSampler": LatentChainSampler(2),
        "sampling.JointChainSampler": JointChainSampler(2),
        "levels.LevelSampler": LevelSampler(1, 2, residual=1.0),
    }
    for name, sampler in samplers.items():
        yield Case(name, lambda m, n, g, s=sampler: s(m, n, g), model=stack)
        if "Joint" not in name:
            yield Case(
                name,
                lambda m, n, g, s=sampler: s(m, n, g),
                model=joint_stack,
                variant="joint stack",
            )
    yield Case(
        "sampling.AncestralSampler",
        lambda m, n, g: AncestralSampler(1.0)(m, n, g),
        model=stack,
        variant="noise",
    )
    yield Case(
        "sampling.generate", lambda m, n, g: generate(m, n, seed=g.initial_seed()), model=stack
    )
    yield Case(
        "levels.chain_states",
        lambda m, n, g: list(chain_states(m, LevelSampler(1), n, 2, g)),
        model=stack,
    )


DRAWS = list(draw_cases())
